"""Folders of many runs: one run with a real report, and others that differ from it in settings, measures and losses."""
# ruff: noqa: S311

from __future__ import annotations

import json
import math
import random
import shutil
from pathlib import Path

import pytest

from orchestrator.machine.files import write_json, write_text
from orchestrator.machine.rundir import RunDir
from orchestrator.report.publish import write_report
from orchestrator.run.state import RunState, write_state
from orchestrator.run.sweep import Sweep, Trial, write_sweep
from tests.report.conftest import build_run

NOW = 1_780_000_000.0
MODELS = ("Qwen/Qwen3-Reranker-0.6B", "BAAI/bge-reranker-v2-m3", "jinaai/jina-reranker-v2-base-multilingual")
LOSSES = ("cross-entropy", "listwise", "margin-mse")
RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4)


def copy_run(first: RunDir, root: Path, place: int, **settings: object) -> RunDir:
    """Write a run like `first`, whose settings, measures and losses are its own."""
    draw = random.Random(place)
    rate = settings.get("learning_rate", draw.choice(RATES))
    loss = settings.get("loss", LOSSES[place % 3])
    seed, rank = settings.get("seed", draw.choice((1, 2, 3))), draw.choice((4, 8, 16, 32))
    run = RunDir(root)
    plan = json.loads(first.plan_json.read_text().replace(str(first.root), str(root)))
    plan["recipe"] |= {
        "loss": {"type": loss, "scale": None},
        "model": {"path": MODELS[place % len(MODELS)], "family": None},
        "train": {
            "learning_rate": f"{rate:.0e}",
            "seed": seed,
            "lora_rank": rank,
            "num_train_epochs": draw.choice((1, 2, 3)),
        },
    }
    write_json(run.plan_json, plan)
    report = json.loads(first.report_json.read_text())
    gain = 0.08 - 0.06 * abs(math.log10(rate) + 4.4) + 0.01 * LOSSES.index(loss) + draw.gauss(0, 0.012)
    for row in report["comparisons"]:
        half = draw.uniform(0.02, 0.04)
        row |= {"difference": gain, "after": row["before"] + gain, "low": gain - half, "high": gain + half}
        row["verdict"] = "better" if row["low"] > 0 else "worse" if row["high"] < 0 else "no measurable difference"
    report["verdict"] = report["comparisons"][0]["verdict"]
    report["gate"]["passed"] = report["verdict"] == "better"
    write_json(run.report_json, report)
    write_text(run.report_html, first.report_html.read_text(encoding="utf-8") if place < 5 else "<!doctype html>")
    history, steps = [], 60
    for step in range(1, steps + 1):
        value = 0.3 + 0.9 * math.exp(-step * rate * 2500) + draw.gauss(0, 0.02)
        history.append({"step": step * 10, "loss": value, "learning_rate": rate * (1 - step / steps)})
        if step % 15 == 0:
            history.append({"step": step * 10, "eval_loss": value + 0.08})
    trainer = {"global_step": 10 * steps, "max_steps": 10 * steps, "log_history": history}
    write_json(run.stage("04-train").output / "checkpoint-600" / "trainer_state.json", trainer)
    write_state(run, RunState("done", NOW - 3600 * place, finished=NOW - 3600 * place + draw.uniform(300, 4000)))
    return run


def build_runs(first: RunDir, root: Path, count: int) -> Path:
    """Write `count` runs in a folder: all kinds of states, and a third of them the trials of a sweep."""
    trials = []
    for place in range(count):
        if place % 3 == 0 and count > 3:
            number = len(trials)
            chosen = {"train.learning_rate": RATES[number // 3 % 5], "loss.type": LOSSES[number % 3]}
            folder = root / "grid" / "trials" / f"{number:03d}"
            run = copy_run(
                first, folder, place, learning_rate=chosen["train.learning_rate"], loss=chosen["loss.type"], seed=1
            )
            row = json.loads(run.report_json.read_text())["comparisons"][0]
            ends = (row["low"], row["high"])
            trial = Trial(
                number, f"trials/{number:03d}", chosen, 1, number, "done", row["after"], row["difference"], ends
            )
            trials.append(trial)
            continue
        run = copy_run(first, root / f"qwen3-reranker-20261129-{place:06d}", place)
        if place % 11 == 4:
            run.report_json.unlink()
            run.report_html.unlink()
            message = "04-train: CUDA out of memory"
            write_state(run, RunState("failed", NOW, finished=NOW + 30, stage="04-train", message=message))
        if place % 50 == 7:
            write_text(run.report_json, "{")
    if trials:
        best = max(trials, key=lambda trial: trial.metric)
        choice = {
            "rule": "confirmed", "chosen_from": len(trials), "units": 30, "gate": {"passed": None, "rules": []},
            "winner": {"set": best.set, "trials": [best.number], "before": 0.7, "after": 0.76, "difference": 0.061,
                       "interval": [0.032, 0.09], "p": 0.0004, "verdict": "better"},
            "not_worse": [[trial.number] for trial in trials if trial is not best][:3],
        }  # fmt: skip
        sweep = Sweep(
            "recipes/qwen3_reranker.yaml",
            ["train.learning_rate", "loss.type"],
            1,
            trials,
            metric="ndcg@10",
            choice=choice,
        )
        write_sweep(root / "grid", sweep)
    return root


@pytest.fixture(scope="session")
def reported(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run with its report, as the report stage writes it."""
    run = build_run(tmp_path_factory.mktemp("first") / "one")
    write_report(run)
    return run


@pytest.fixture(scope="session")
def five(reported: RunDir, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five runs, two of them a sweep's, one failed; no test changes them."""
    return build_runs(reported, tmp_path_factory.mktemp("five"), 5)


@pytest.fixture
def runs(five: Path, tmp_path: Path) -> Path:
    """The five runs, to change at will."""
    return Path(shutil.copytree(five, tmp_path / "runs"))
