"""Trackers are told of a run by workers/track.py: TensorBoard's own reader gives it back, and none can end a training."""

from __future__ import annotations

import json
import time

import pytest

from tests.track.told import TOLD, list_cautions, make_run, train, work

# A module in the place of W&B's client. `wandb.init` and what it returns are all that the callback and we ask for.
CLIENT = """
import time, types
from wandb.sdk.lib.config_util import ConfigError

class Run(types.SimpleNamespace):
    offline = False
    def log(self, values): {log}
    def finish(self, exit_code): {finish}
    def _label(self, code): pass
    def log_artifact(self, path, name, type): pass

run, config, define_metric = None, {{}}, None
def init(**given):
    global run
    {init}
    run = Run(id=given["id"], config=types.SimpleNamespace(update=lambda *_, **__: None), summary={{}})
    return run
def log(values): run.log(values)
def teardown(): pass
def termwarn(*_, **__): pass
Settings = dict
"""


@pytest.fixture(name="run")
def _run(tmp_path):
    return make_run(tmp_path)


def put_client(folder, init="pass", log="pass", finish="pass"):
    lib = folder / "lib" / "wandb" / "sdk" / "lib"
    lib.mkdir(parents=True)
    for place in (lib.parent, lib):
        (place / "__init__.py").touch()
    (lib / "config_util.py").write_text("class ConfigError(Exception): pass\n")
    (folder / "lib" / "wandb" / "__init__.py").write_text(CLIENT.format(init=init, log=log, finish=finish))
    return {"PYTHONPATH": str(folder / "lib"), "ORCH_TRACK_LIMIT_S": "1"}


def read_events(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run / "track" / "tensorboard"))
    found.Reload()
    return found


def test_tensorboard_has_the_curves_once_and_the_verdict_where_another_tracker_fails_in_the_training(run):
    env = put_client(run.parent, log="raise OSError('the disk is full')")
    trained = train(run, "tensorboard,wandb", "wandb", **env)  # a trainer whose report_to takes one name
    assert trained.returncode == 0, trained.stderr
    assert "trained to the end" in trained.stdout
    [caution] = list_cautions(trained)
    assert caution == "orch-caution wandb hears no more of this run: OSError: the disk is full"
    assert json.loads((run / "track" / "sent.json").read_text()) == {"tensorboard": "track/tensorboard"}
    told = work("track", run, "tensorboard")
    assert told.returncode == 0, told.stderr
    assert "orch-note tensorboard has the verdict of a-run" in told.stdout
    events = read_events(run)
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(1, 0.5), (2, 0.25)]
    assert [(event.step, event.value) for event in events.Scalars("eval/loss")] == [(2, 0.75)]
    assert events.Scalars("difference/ndcg@10")[0].value == TOLD["numbers"]["difference/ndcg@10"]
    said = events.Tensors("orch/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| gate | passed |" in said
    assert f"| package | {'0' * 64} |" in said
    assert "better" in events.Tensors("report.json/text_summary")[0].tensor_proto.string_val[0].decode()


def test_curves_that_were_not_sent_in_the_training_come_with_the_verdict_and_only_once(run):
    for _ in range(2):
        assert work("track", run, "tensorboard").returncode == 0
    losses = [(event.step, event.value) for event in read_events(run).Scalars("train/loss")]
    assert losses == [(1, 0.5), (2, 0.25)]


def test_a_tracker_that_is_not_installed_is_said_with_the_line_that_installs_it(run):
    told = work("track", run, "swanlab")
    assert told.returncode == 0
    assert list_cautions(told)[0].endswith("-m pip install swanlab")
    assert not (run / "track" / "sent.json").exists()


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"init": "time.sleep(60)"}, "TimeoutError: no answer within 1 s; it hears nothing of this run"),
        ({"init": "raise ValueError('api_key\\nrefused')"}, "ValueError: api_key refused; it is written to"),
        ({"finish": "time.sleep(60)"}, "wandb may lack the end: TimeoutError"),
    ],
)
def test_a_tracker_that_hangs_or_refuses_is_a_caution_and_the_stage_ends_well(run, parts, said):
    begun = time.monotonic()
    told = work("track", run, "wandb", **put_client(run.parent, **parts))
    assert told.returncode == 0
    assert any(said in caution for caution in list_cautions(told)), told.stdout
    assert time.monotonic() - begun < 50  # not the minute that it sleeps
    assert not (run / "track" / "sent.json").exists()


def test_what_hangs_at_the_end_of_a_failed_training_does_not_hide_its_exit_code(run):
    (run.parent / "training.py").write_text("import atexit, time, sys\natexit.register(time.sleep, 60)\nsys.exit(3)\n")
    done = train(run, "wandb", **put_client(run.parent))
    assert done.returncode == 3
    assert not (run / "track" / "sent.json").exists()


def test_a_run_has_one_id_and_a_trial_is_named_after_its_sweep(tmp_path, run, capsys, monkeypatch):
    from orchestrator.workers import track

    argv = ["--run", str(run), "--to", "wandb,mlflow", "--project", "shop", "--group", "tries"]
    (first, names), (second, _) = (track.read_options("track", argv) for _ in range(2))
    assert names == ["wandb", "mlflow"]
    assert first == second
    assert first.name == "a-run"
    trial = make_run(tmp_path / "tries" / "trials", "007")
    other, _ = track.read_options("track", ["--run", str(trial), *argv[2:]])
    assert other.name == "tries-007"
    assert other.id != first.id
