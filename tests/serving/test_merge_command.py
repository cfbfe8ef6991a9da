"""`orch merge` on a tiny model: compared with base and adapter, or removed. Native merges: tests/e2e."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.machine.rundir import RunDir
from orchestrator.recipe.plan import Command, Plan, Stage
from orchestrator.run.folder import adopt_run
from tests.workers.conftest import save_adapter

pytestmark = pytest.mark.smoke

WORKERS = Path(__file__).resolve().parents[2] / "orchestrator" / "workers"
ENV = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}


@pytest.fixture(autouse=True)
def alone(monkeypatch, warm_swift):
    for name, value in (warm_swift | ENV).items():
        monkeypatch.setenv(name, value)


def call(*argv: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *map(str, argv)], capture_output=True, text=True, check=False)


def orch(*argv: object) -> subprocess.CompletedProcess[str]:
    return call("-c", "from orchestrator.cli import main; main()", *argv)


@pytest.fixture
def run(tmp_path: Path, tiny_decoder: Path) -> RunDir:
    """A finished LoRA run by ms-swift with the checkpoints 1 and 2, whose plan merges `best`, the first."""
    folder = RunDir(tmp_path / "runs" / "mine")
    output = folder.stage("02-train").output
    arguments = {
        "model": str(tiny_decoder), "model_type": "qwen3", "template": "qwen3", "task_type": "causal_lm", "tuner_type": "lora",
        "swift_version": "4.6.0",
    }  # fmt: skip
    for number, scale in ((1, 0.3), (2, 0.6)):
        adapter = output / f"checkpoint-{number}"
        save_adapter(tiny_decoder, adapter, scale=scale)
        (adapter / "args.json").write_text(json.dumps(arguments), encoding="utf-8")
        (adapter / "trainer_state.json").write_text('{"global_step": 1}', encoding="utf-8")
    (output / "best").symlink_to(output / "checkpoint-1")
    done = {"stage": "02-train", "status": "done", "exit_code": 0, "digest": "", "started": 0, "finished": 0}
    folder.stage("02-train").result_json.write_text(json.dumps({**done, "seconds": 0, "attempts": 1}), encoding="utf-8")
    merge = Command(
        (
            sys.executable, str(WORKERS), "fresh", "--out", str(folder.stage("03-merge").output), "--",
            "swift.cli.export", "--adapters", str(output / "best"), "--merge_lora", "true", "--output_dir", "{fresh}",
        ),
        (),
        str(folder.root),
    )  # fmt: skip
    write_plan(folder, merge)
    return folder


def write_plan(run: RunDir, merge: Command) -> None:
    stages = (
        Stage("01-score", "baseline-native", "s", Command((sys.executable, str(WORKERS), "score"))),
        Stage("02-train", "train", "t", Command(("python", "-m", "swift.cli.sft"))),
        Stage("03-merge", "merge", "m", merge),
    )
    plan = Plan("mine", str(run.root), "sft", "swift", False, {}, stages, ())
    run.plan_json.write_text(plan.to_json(), encoding="utf-8")
    adopt_run(run)


def test_a_merge_that_is_not_base_and_adapter_is_refused_and_removed(run, tiny_decoder, tmp_path):
    script = tmp_path / "copies_the_base.py"
    script.write_text(f"import shutil, sys\nshutil.copytree({str(tiny_decoder)!r}, sys.argv[2])\n", encoding="utf-8")
    write_plan(
        run, Command((sys.executable, str(script), "--out", "x", "--adapters", "output/best"), (), str(run.root))
    )
    done = orch("merge", run.root)
    assert done.returncode == 6
    assert "other numbers than base and adapter" in done.stderr
    assert not (run.root / "merged" / "checkpoint-1").exists()


def test_an_adapter_folder_is_merged_by_itself_in_the_precision_that_is_asked(run, tmp_path):
    adapter = run.stage("02-train").output / "checkpoint-1"
    done = orch("merge", adapter, "-o", tmp_path / "out", "--dtype", "bfloat16")
    assert done.returncode == 0, done.stderr + done.stdout
    assert "bfloat16" in done.stdout
    assert (tmp_path / "out" / "config.json").is_file()
