"""What is said of a stage that failed: cause, evidence, rank, remedy and a patch to try, in both languages."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from orchestrator.errors import StageFailedError
from orchestrator.machine.rundir import RunDir
from orchestrator.recipe.plan import Command, Stage
from orchestrator.run.failures import build_failure
from orchestrator.run.state import LaunchRecord
from orchestrator.run.watch import Ending, Limits

CAPTURED = Path(__file__).parents[1] / "logs" / "captured"
RECIPE = {
    "backend": "flagembedding",
    "train": {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 1},
    "loss": None,
}


@pytest.fixture
def explain(tmp_path):
    def explain(log, code=1, **more):
        stage = Stage("03-train", "train", "train", Command(("torchrun",)))
        folder = RunDir(tmp_path).stage(stage.name)
        folder.stderr_log.parent.mkdir(parents=True, exist_ok=True)
        if log:
            shutil.copy(CAPTURED / f"failed.{log}.log", folder.stderr_log)
        record = LaunchRecord(("torchrun",), (), ".", "digest", 1, "token", 0.0)
        ending = Ending("exited", code, **more)
        failure = build_failure(stage, folder, record, ending, missing=(), limits=Limits(), recipe=RECIPE)
        assert isinstance(failure.error, StageFailedError)
        return failure.error.problems[0]

    return explain


def test_the_message_names_the_rank_the_cause_and_the_line(explain):
    problem = explain("shape-mismatch.second-rank")
    first, second = problem.message.splitlines()
    assert first.startswith("03-train ended with exit code 1, rank 1 failed first: two tensors do not fit")
    assert second.startswith("  [rank1]: RuntimeError: mat1 and mat2")
    assert problem.name == "shape-mismatch"
    assert problem.where.line


def test_a_patch_that_may_help_ends_the_remedy(explain):
    hint = explain("host-out-of-memory.torch").hint
    assert hint.splitlines()[-1] == (
        "try: orch run RECIPE --set train.per_device_train_batch_size=2 --set train.gradient_accumulation_steps=2"
    )


def test_without_a_patch_nothing_is_to_be_tried(explain):
    assert "try:" not in explain("permission-denied.folder").hint


def test_a_kernel_kill_is_told_as_one(explain):
    assert "the kernel killed it because memory ran out" in explain("killed.second-rank", oom_kills=1).message


def test_the_same_in_chinese_with_the_same_name_place_and_patch(explain, monkeypatch):
    english = explain("host-out-of-memory.torch")
    monkeypatch.setenv("ORCH_LANG", "zh")
    chinese = explain("host-out-of-memory.torch")
    assert chinese.message.startswith("03-train 异常结束（退出码 1）：主机内存不足\n  RuntimeError: ")
    assert chinese.hint.splitlines()[-1].startswith("可尝试：orch run RECIPE --set train.per_device_train_batch_size=2")
    assert (chinese.name, chinese.where) == (english.name, english.where)
    assert chinese.message.splitlines()[1] == english.message.splitlines()[1]
