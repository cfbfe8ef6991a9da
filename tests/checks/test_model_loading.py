"""The backend's Python is asked once whether a folder's config and tokenizer load, and again when they change."""

from __future__ import annotations

import json
import os
import sys

import pytest
from msgspec.structs import replace

from orchestrator import checks as preflight
from orchestrator.checks.model_loading import check_model_loading
from orchestrator.errors import PreflightError, Problem

# Stands in for the backend's Python: it notes how it was started, and answers as the file beside it says.
PYTHON = """\
#!{python}
import json, os, sys, pathlib
here = pathlib.Path(__file__).parent
with (here / "calls.jsonl").open("a") as stream:
    stream.write(json.dumps({{"argv": sys.argv[1:], "offline": os.environ.get("HF_HUB_OFFLINE")}}) + "\\n")
answer = json.loads((here / "answer.json").read_text())
if "--without-torch" in sys.argv:
    answer = answer.get("without_torch", answer)
sys.stdout.write(answer.get("out", ""))
sys.stderr.write(answer.get("err", ""))
sys.exit(answer["code"])
"""
LOADS = {"code": 0, "out": '{"config": "Qwen3Config"}\n'}
FAILS = {"code": 1, "err": "a warning\ninspect_model: /m: its tokenizer does not load: no such class\n"}


@pytest.fixture
def python(tmp_path):
    path = tmp_path / "python"
    path.write_text(PYTHON.format(python=sys.executable))
    path.chmod(0o755)
    return path


@pytest.fixture
def answer(python):
    def answer(**content):
        (python.parent / "answer.json").write_text(json.dumps(content))

    return answer


@pytest.fixture
def calls(python):
    def calls():
        path = python.parent / "calls.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    return calls


@pytest.fixture
def problems(folder, plan_for, python, tmp_path):
    def problems(model=None, **changes):
        job, plan = plan_for(model or folder.model())
        job = replace(job, backend_python=str(python), cache_dir=str(tmp_path / "cache"))
        return list(check_model_loading(replace(job, **changes), plan))

    return problems


def test_what_a_site_s_start_up_prints_is_no_part_of_the_answer(problems, answer):
    answer(code=0, out="Loading module cuda/12.8\n" + LOADS["out"])
    assert problems() == []


def test_a_folder_that_loads_is_asked_about_once(problems, answer, calls):
    answer(**LOADS)
    assert problems() == []
    assert problems() == []
    (call,) = calls()
    assert call["argv"][1:3] == ["inspect_model", "--model"]
    assert call["argv"][-1] == "--without-torch"
    assert call["offline"] == "1"


def test_a_file_that_has_changed_is_asked_about_again(problems, answer, calls, folder):
    answer(**LOADS)
    problems()
    os.utime(folder.path / "config.json", ns=(1, 1))
    problems()
    folder.write("special_tokens_map.json", "{}")
    problems()
    assert len(calls()) == 3


def test_weights_do_not_decide_whether_a_config_loads(problems, answer, calls, folder):
    answer(**LOADS)
    problems()
    os.utime(folder.path / "model.safetensors", ns=(1, 1))
    problems()
    assert len(calls()) == 1


def test_another_version_is_asked_again(problems, answer, calls, plan_for, folder):
    answer(**LOADS)
    problems()
    versions = plan_for(folder.model())[0].versions
    problems(versions=versions | {"transformers": "5.20.0"})
    assert len(calls()) == 2


def test_a_folder_that_does_not_load_is_refused_with_the_librarys_reason_every_time(problems, answer, calls):
    answer(**FAILS)
    (problem,) = problems()
    assert problem.message == "/m: its tokenizer does not load: no such class"
    assert "transformers 5.19.0" in problem.hint
    assert len(problems()) == 1
    assert ["--without-torch" in call["argv"] for call in calls()] == [True, False, True, False]


def test_a_tokenizer_that_needs_torch_gets_it(problems, answer, calls):
    answer(**LOADS, without_torch=FAILS)
    assert problems() == []
    assert len(calls()) == 2


def test_code_of_the_folder_runs_only_when_it_is_trusted_and_then_with_torch(problems, answer, calls, folder):
    answer(**LOADS)
    problems(replace(folder.model(), trust_remote_code=True))
    (call,) = calls()
    assert call["argv"][-1] == "--trust-remote-code"


def test_an_answer_that_is_none_is_no_success(problems, answer):
    answer(code=0, out="Segmentation fault")
    (problem,) = problems()
    assert problem.message == "it says nothing"


def test_a_cache_that_cannot_be_written_costs_time_only(problems, answer, calls, tmp_path):
    answer(**LOADS)
    (tmp_path / "file").write_text("")
    assert problems(cache_dir=str(tmp_path / "file")) == []
    assert problems(cache_dir="") == []
    assert len(calls()) == 2


def test_a_smoke_run_and_a_model_of_a_hub_are_not_asked_about(problems, calls, folder):
    assert problems(smoke=True) == []
    assert problems(replace(folder.model(), folder=None)) == []
    assert calls() == []


def test_nothing_is_loaded_where_the_files_are_refused_already(monkeypatch, plan_for, folder):
    def no_files(job, plan):
        yield Problem("no tokenizer")

    def load(job, plan):
        yield Problem("does not load")

    monkeypatch.setattr(preflight, "CHECKS", (preflight.Check(load, "ask"), preflight.Check(no_files)))
    with pytest.raises(PreflightError, match="no tokenizer") as caught:
        preflight.require_runnable(*plan_for(folder.model()))
    assert len(caught.value.problems) == 1
    monkeypatch.setattr(preflight, "CHECKS", (preflight.Check(load, "ask"),))
    with pytest.raises(PreflightError, match="does not load"):
        preflight.require_runnable(*plan_for(folder.model()))
