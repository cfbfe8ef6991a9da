"""A fake hub, workers that ask it with the real clients, and a judged run with a packaged model."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from orchestrator.machine.files import write_json
from orchestrator.machine.rundir import RunDir
from orchestrator.recipe.plan import Command, Plan, Stage
from orchestrator.run.folder import seal
from orchestrator.run.resume import stage_digest
from orchestrator.run.state import StageResult, write_result
from tests.hubs.fake_hub import WRITE, FakeHub, serving
from tests.workers.conftest import WORKERS

Done = subprocess.CompletedProcess[str]
CARD = """---
pipeline_tag: text-ranking
tags:
- reranker
---

# Reranker
"""
METRICS = {
    "headline": {"metric": "ndcg@10"},
    "metrics": ["ndcg@10", "map"],
    "kind": "group",
    "unit": "query",
    "eval": {"units": 60, "documents": 600},
    "comparisons": [
        {"metric": "ndcg@10", "baseline": "native", "difference": 0.25, "low": 0.2, "high": 0.3, "p": 0.0001,
         "verdict": "better"},
        {"metric": "map", "baseline": "native", "difference": 0.1, "low": None, "high": None, "p": 0.5,
         "verdict": "no measurable difference"},
    ],
    "systems": [
        {"id": "native", "role": "baseline", "label": "Base", "means": {"ndcg@10": 0.5, "map": 0.4}},
        {"id": "tuned", "role": "tuned", "label": "Tuned", "means": {"ndcg@10": 0.75, "map": 0.5}},
    ],
}  # fmt: skip


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with serving() as found:
        yield found


@pytest.fixture
def hub_env(hub: FakeHub, tmp_path: Path) -> dict[str, str]:
    """Return an environment in which both clients know this hub alone, with caches and settings of their own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "MODELSCOPE_"))}
    return kept | {
        "HF_ENDPOINT": hub.address, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": WRITE,
        "MODELSCOPE_ENDPOINT": hub.address, "MODELSCOPE_CACHE": str(tmp_path / "ms"),
        "MODELSCOPE_HOME": str(tmp_path / "ms-home"), "MODELSCOPE_API_TOKEN": WRITE,
        "MODELSCOPE_DOWNLOAD_INTRA_CLOUD": "false", "no_proxy": "127.0.0.1",
    }  # fmt: skip


@pytest.fixture
def worker(hub_env: dict[str, str], tmp_path: Path) -> Callable[..., Done]:
    """Run a worker to its end, in that environment with changes; a variable that is None is left out."""

    def run(*words: object, **changes: str | None) -> Done:
        env = {name: value for name, value in {**hub_env, **changes}.items() if value is not None}
        argv = [sys.executable, str(WORKERS), *map(str, words)]
        done = subprocess.run(argv, env=env, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


@pytest.fixture
def judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunDir]:
    """Make a run folder with a packaged model and a verdict; keyword arguments change the report."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    def make(*, smoke: bool = False, name: str = "toy", **report: object) -> RunDir:
        run = RunDir(tmp_path / "runs" / name)
        (run.model / "1_Pooling").mkdir(parents=True)
        files = {"config.json": b"{}", "model.safetensors": b"weights", "1_Pooling/config.json": b"{}"}
        for path, content in files.items():
            (run.model / path).write_bytes(content)
        (run.model / "README.md").write_text(CARD, encoding="utf-8")
        hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        write_json(run.model / "scoring.json", {"version": 1, "scorer": "cross-encoder", "files": hashes})
        model = str(run.model)
        stages = tuple(
            Stage(name, kind, kind, Command(("python", kind), cwd=str(run.root)), inputs=(model,))
            for name, kind in (("01-package", "package"), ("02-evaluate", "evaluate"), ("03-report", "report"))
        )
        rows = ("/data/train.jsonl", "/data/eval.jsonl")
        stages = (Stage("00-prepare", "prepare", "prepare", Command(("python",)), inputs=rows), *stages)
        recipe = {"model": {"path": "org/base"}, "data": {"eval": ["/secret/place/dev.jsonl"]}}
        plan = Plan("toy", str(run.root), "reranker", "sentence-transformers", smoke, recipe, stages, ())
        text = plan.to_json()
        seal(run, text)
        run.plan_json.write_text(text, encoding="utf-8")
        for stage in stages:
            result = StageResult(stage.name, "done", 0, stage_digest(plan, stage), 0.0, 1.0, 1.0, 1)
            write_result(run.stage(stage.name), result)
        whole = {"verdict": "better", "headline": "nDCG@10 rose", "gate": {"passed": None, "rules": []}, "metrics": {}}
        write_json(run.report_json, whole | report)
        write_json(run.metrics_json, METRICS)
        return run

    return make
