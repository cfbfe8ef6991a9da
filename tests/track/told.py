"""A run folder that trackers are told of, and a training that is nothing but transformers' own callbacks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.workers.conftest import WORKERS

CURVES = [[1, {"train/loss": 0.5, "train/learning_rate": 1e-3}], [2, {"train/loss": 0.25, "eval/loss": 0.75}]]
TOLD = {
    "config": {"task": "reranker", "train.learning_rate": "1e-3"},
    "curves": CURVES,
    "numbers": {"baseline/ndcg@10": 0.5, "tuned/ndcg@10": 0.625, "difference/ndcg@10": 0.125, "p/ndcg@10": 0.01},
    "texts": {"headline": "nDCG@10 is better", "verdict": "better", "gate": "passed", "package": "0" * 64},
    "files": ["report.html", "report.json"],
}
# The same two points, as transformers' Trainer tells its callbacks of them; arguments: the trackers of report_to.
TRAINING = """
import sys
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import get_reporting_integration_callbacks
from transformers.trainer_callback import CallbackHandler

args = TrainingArguments(output_dir=sys.argv[1], report_to=sys.argv[2:], use_cpu=True)
state, control = TrainerState(max_steps=2), TrainerControl()
handler = CallbackHandler(get_reporting_integration_callbacks(args.report_to), None, None, None, None)
control = handler.on_train_begin(args, state, control)
for step, logs in enumerate(({"loss": 0.5, "learning_rate": 1e-3}, {"loss": 0.25}, {"eval_loss": 0.75})):
    state.global_step = min(step + 1, 2)
    control = handler.on_log(args, state, control, logs)
handler.on_train_end(args, state, control)
print("trained to the end")
"""


def make_run(folder: Path, name: str = "a-run") -> Path:
    run = folder / name
    run.mkdir(parents=True)
    (run / "track.json").write_text(json.dumps(TOLD))
    (run / "report.json").write_text('{"verdict": "better"}')
    (run / "report.html").write_text("<p>better</p>")
    (folder / "training.py").write_text(TRAINING)
    return run


def work(worker: str, run: Path, to: str, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run one of the two workers for the trackers `to`, in an environment without their keys."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB", "SWANLAB", "MLFLOW"))}
    home = {"HOME": str(run.parent), "TRACKIO_DIR": str(run.parent / "trackio"), "ORCH_TRACK_LIMIT_S": "20"}
    argv = [
        sys.executable,
        str(WORKERS),
        worker,
        "--run",
        str(run),
        "--to",
        to,
        "--project",
        "shop",
        "--group",
        "tries",
    ]
    return subprocess.run(
        [*argv, *words], env=clean | home | env, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )


def train(run: Path, to: str, *report_to: str, **env: str) -> subprocess.CompletedProcess[str]:
    words = (str(run.parent / "training.py"), str(run.parent / "output"), *(report_to or to.split(",")))
    return work("track_training", run, to, *words, **env)


def list_cautions(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stdout.splitlines() if line.startswith("orch-caution")]
