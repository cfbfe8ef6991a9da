"""A finished run is sent to a tracker after the fact, and the tracker's own reader gives back what the run has."""

from __future__ import annotations

import json

import pytest

from tests.e2e.conftest import ENV, orch


def test_a_finished_run_is_sent_with_its_curve_and_its_verdict(cross_encoder_runs, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = cross_encoder_runs["bert_pointwise"]
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    done = orch("track", str(run), "--to", "tensorboard,swanlab", "--json", env=ENV | {"HOME": str(tmp_path)})
    assert done.code == 6, done.err  # swanlab is not installed here
    missing, sent = done.data[str(run)]
    assert missing.startswith("caution: swanlab: No module named 'swanlab'")
    assert sent == f"tensorboard has the verdict of {run.name} (track/tensorboard)"
    events = EventAccumulator(str(run / "track" / "tensorboard"))
    events.Reload()
    [state] = sorted(
        run.glob("stages/*-train/output/checkpoint-*/trainer_state.json"), key=lambda path: path.parent.stat().st_mtime
    )[-1:]
    logged = [
        (row["step"], float(row["loss"])) for row in json.loads(state.read_text())["log_history"] if "loss" in row
    ]
    assert logged
    sent = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert sent == [(step, pytest.approx(loss, rel=1e-5)) for step, loss in logged]
    [first] = [row for row in report["comparisons"] if row["metric"] == report["metrics"]["headline"]][:1]
    for name, key in (("baseline", "before"), ("tuned", "after"), ("difference", "difference"), ("p", "p")):
        assert events.Scalars(f"{name}/{first['metric']}")[0].value == pytest.approx(first[key], rel=1e-5, abs=1e-7)
    assert report["headline"] in events.Tensors("orch/text_summary")[0].tensor_proto.string_val[0].decode()


def test_what_cannot_be_sent_is_one_clear_error(cross_encoder_runs, tmp_path):
    run = cross_encoder_runs["bert_pointwise"]
    for argv, code, said in (
        ([str(run)], 4, "--to tensorboard,wandb"),
        ([str(run), "--to", "comet"], 4, "'tensorboard', 'swanlab'"),
        ([str(run), "--to", "wandb", "--project", "a/b"], 4, "a project of letters"),
        ([str(tmp_path / "none"), "--to", "wandb"], 9, "no run"),
    ):
        done = orch("track", *argv)
        assert done.code == code, done.err
        assert said in done.err
