"""A finished run is pushed to a hub, and what the hub gives back has the scores that were measured."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.e2e.conftest import orch
from tests.hubs.conftest import hub, hub_env  # noqa: F401  (fixtures)
from tests.workers.conftest import WORKERS

LOAD = """
import json, sys
from sentence_transformers import CrossEncoder
model = CrossEncoder(sys.argv[1])
scores = model.predict([tuple(pair) for pair in json.load(sys.stdin)], batch_size=8)
print(json.dumps([float(score) for score in scores]))
"""
ROWS = 24


@pytest.fixture(name="run")
def _run(cross_encoder_runs):
    return cross_encoder_runs["bert_pointwise"]


def push(run, to, env):
    refused = orch("push", str(run), "--to", to, env=env)
    assert refused.code == 8
    assert "it is a smoke run" in refused.err
    done = orch("push", str(run), "--to", to, "--even-if-worse", "--json", env=env)
    assert done.code == 0, done.err
    return done.data


def load_measured(run):
    """Return the first pairs of texts of a run's evaluation, and the scores that it measured of them."""
    output = next(run.glob("stages/*-evaluate")) / "output"
    measured = [json.loads(line) for line in (output / "scores.jsonl").read_text().splitlines()][:ROWS]
    rows = [json.loads(line) for line in (run / "data" / "eval.jsonl").read_text(encoding="utf-8").split("\n") if line]
    texts = {(row["qid"], one["docid"]): (row["query"], one["text"]) for row in rows for one in row["documents"]}
    return [texts[row["qid"], row["docid"]] for row in measured], [row["score"] for row in measured]


def test_a_model_pushed_to_hugging_face_loads_again_with_the_scores_that_were_measured(hub, hub_env, run):  # noqa: F811
    done = push(run, "hf:me/tuned", hub_env)
    assert done["commit"] == hub.repos["models/me/tuned"].refs["main"]
    pairs, measured = load_measured(run)
    argv = [sys.executable, "-c", LOAD, "me/tuned"]  # as a stranger: its own process asks the hub
    loaded = subprocess.run(argv, input=json.dumps(pairs), env=hub_env, capture_output=True, text=True, check=False)
    assert loaded.returncode == 0, loaded.stderr[-2000:]
    assert json.loads(loaded.stdout.splitlines()[-1]) == pytest.approx(measured, abs=2e-5)


def test_a_model_pushed_to_modelscope_loads_again_with_the_scores_that_were_measured(hub, hub_env, run, tmp_path):  # noqa: F811
    done = push(run, "ms:me/tuned", hub_env)
    assert done["commit"] == hub.repos["models/me/tuned"].refs["master"]
    out = tmp_path / "out" / "model"
    words = ["fetch", "--kind", "model", "--hub", "ms", "--id", "me/tuned", "--out", str(out)]
    subprocess.run([sys.executable, str(WORKERS), *words], env=hub_env, check=True, capture_output=True)
    files = json.loads((out / "scoring.json").read_text())["files"]
    assert "model.safetensors" in files
    assert all((out / name).read_bytes() == (run / "model" / name).read_bytes() for name in ["scoring.json", *files])
    from sentence_transformers import CrossEncoder

    pairs, measured = load_measured(run)
    model = CrossEncoder(str(out), device="cpu", local_files_only=True)
    assert model.predict(pairs, batch_size=8).tolist() == pytest.approx(measured, abs=2e-5)
