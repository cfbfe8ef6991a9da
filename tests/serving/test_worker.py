"""Workers outside runs: their end is explained and never a traceback, and silence has an end."""

from __future__ import annotations

import ast
import re
import sys
import time
from pathlib import Path

import pytest

import orchestrator
from orchestrator.errors import PreflightError, StageFailedError, StalledError
from orchestrator.logs.diagnose import diagnose, load_rules, read_tail
from orchestrator.recipe.plan import Command
from orchestrator.serving.worker import STALL_TIMEOUT_S, Words, find_stall_timeout, run_worker

WORDS = Words("it cannot be scored", "it was stopped")
CAPTURED = Path(__file__).parent.parent / "logs" / "captured"
# trainings and their launchers alone say these; no command without a recipe starts one
OF_TRAININGS = {
    "shared-memory-full", "row-too-long", "unknown-argument", "deepspeed-mismatch", "strategies-differ",
    "evaluation-without-rows", "no-target-modules", "nothing-to-train", "bitsandbytes-missing", "tracker-missing",
    "tracker-login", "build-failed", "flash-attention-missing", "resume-needs-deepspeed", "unclear-model-type",
    "type-mismatch", "tensors-on-two-devices", "no-rows-left", "too-few-rows", "rows-without-negatives",
    "rows-without-positives", "missing-column", "missing-eval-loss", "damaged-dataset-cache", "unreadable-rows",
    "not-finite", "port-in-use", "rendezvous-settings", "rendezvous-timeout", "collective-timeout",
    "unused-parameters", "parameter-ready-twice", "nccl-error", "kernel-too-large", "worker-died", "peer-gone",
}  # fmt: skip


@pytest.fixture(autouse=True)
def logs(tmp_path, monkeypatch):
    """Keep the logs of what fails in a folder of the test's own."""
    (tmp_path / "logs").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "logs"))
    return tmp_path / "logs"


def run(code, cwd):
    return run_worker(Command((sys.executable, "-c", code), cwd=str(cwd)), WORDS)


def fail(code, cwd, error=StageFailedError):
    with pytest.raises(error) as caught:
        run(code, cwd)
    return caught.value.problems[0]


def test_what_it_writes_to_its_standard_output_is_the_result(tmp_path):
    assert run("import sys; print('{}'); print('loading', file=sys.stderr)", tmp_path) == "{}\n"


def test_a_known_failure_is_explained_with_its_line_and_what_to_do(tmp_path, logs):
    log = CAPTURED / "failed.adapter-mismatch.vocabulary.log"
    problem = fail(f"import sys; sys.stderr.write(open({str(log)!r}).read()); sys.exit(1)", tmp_path)
    assert problem.message.startswith("it cannot be scored (exit code 1): the adapter does not fit its base model")
    assert "enlarged" in problem.hint
    assert problem.name == "adapter-mismatch"
    assert problem.where.path.startswith(str(logs))
    assert "size mismatch for" in Path(problem.where.path).read_text().splitlines()[problem.where.line - 1]


@pytest.mark.parametrize("log", sorted(CAPTURED.glob("failed.*.log")), ids=lambda log: log.name[7:-4])
def test_no_end_is_a_traceback(log):
    found = diagnose(read_tail(log), 1, in_run=False)
    for said in (found.cause, found.remedy, found.evidence or ""):
        assert "Traceback" not in said
        assert 'File "' not in said


def test_a_worker_that_refuses_its_model_ends_with_the_code_of_a_preflights_refusal(tmp_path):
    # what workers/__main__.py makes of an UnfitModelError
    said = "score: hub/model lacks embeddings.weight; take the whole model"
    problem = fail(f"import sys; print({said!r}, file=sys.stderr); sys.exit(4)", tmp_path, PreflightError)
    assert problem.message == "it cannot be scored: hub/model lacks embeddings.weight; take the whole model"


def test_an_unknown_exception_is_named_and_the_whole_log_is_kept(tmp_path):
    problem = fail("raise ZeroDivisionError('the moon is full')", tmp_path)
    assert "ZeroDivisionError: the moon is full" in problem.message
    assert "Traceback" not in f"{problem.message} {problem.hint}"
    assert problem.hint == f"its whole log: {problem.where.path}"
    assert "Traceback" in Path(problem.where.path).read_text()


def test_every_problem_that_a_worker_names_is_said_in_its_own_words(tmp_path):
    problem = fail("import sys; sys.exit(sys.stderr.write('merge: no head\\nmerge: no body\\n') * 0 + 1)", tmp_path)
    assert problem.message == "it cannot be scored: no head\n  no body"
    assert problem.hint is None


def test_a_secret_of_the_environment_is_not_kept_in_the_log(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_API_KEY", "correct-horse-battery")
    problem = fail("raise RuntimeError('correct-horse-battery')", tmp_path)
    assert "correct-horse-battery" not in Path(problem.where.path).read_text()


def test_silence_is_ended(tmp_path, monkeypatch):
    monkeypatch.setenv("ORCH_STALL_TIMEOUT_S", "1")
    begin = time.monotonic()
    problem = fail("import time; print('loading', flush=True); time.sleep(600)", tmp_path, StalledError)
    assert time.monotonic() - begin < 60
    assert "neither said nor written anything for 1 s" in problem.message
    assert "loading" in problem.message
    assert "ORCH_STALL_TIMEOUT_S" in problem.hint


def test_who_goes_on_saying_something_is_not_ended(tmp_path, monkeypatch):
    monkeypatch.setenv("ORCH_STALL_TIMEOUT_S", "1")
    assert run("import time\nfor _ in range(8): print('x', flush=True); time.sleep(0.3)", tmp_path) == "x\n" * 8


@pytest.mark.parametrize(("said", "limit"), [(None, STALL_TIMEOUT_S), ("", STALL_TIMEOUT_S), ("0", None), ("2.5", 2.5)])
def test_how_long_silence_may_be(said, limit):
    assert find_stall_timeout({} if said is None else {"ORCH_STALL_TIMEOUT_S": said}) == limit


@pytest.mark.parametrize("said", ["an hour", "-1", "inf", "nan", "1e999"])
def test_what_is_no_number_of_seconds_is_refused(said):
    with pytest.raises(PreflightError, match="no number of seconds"):
        find_stall_timeout({"ORCH_STALL_TIMEOUT_S": said})


def test_no_remedy_of_a_command_speaks_of_a_recipe_or_a_run():
    rules = load_rules()
    assert {rule.name for rule in rules} >= OF_TRAININGS
    for rule in rules:
        if rule.name not in OF_TRAININGS:
            remedy = rule.outside_run or rule.remedy
            for said in (remedy.en, remedy.zh):
                assert not re.search(r"resume|recipe|launch\.|`model:|恢复|配方", said), rule.name


def test_every_worker_outside_a_run_is_started_by_this_door():
    root = Path(orchestrator.__file__).parent
    users = {
        str(path.relative_to(root))
        for path in root.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.module == "orchestrator.serving.worker"
        and "started" in [alias.name for alias in node.names]
    }  # fmt: skip
    assert users == {"serving/check.py"}
