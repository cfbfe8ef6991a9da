"""The backend's Python is asked once whether a folder's weights fill what it is wanted for."""

from __future__ import annotations

import json
import sys

import pytest
from msgspec.structs import replace

from orchestrator.checks.model_files import find_uses
from orchestrator.checks.model_loading import check_model_tensors
from orchestrator.errors import Problem

PYTHON = """\
#!{python}
import json, pathlib, sys
here = pathlib.Path(__file__).parent
with (here / "calls.jsonl").open("a") as stream:
    stream.write(json.dumps(sys.argv[1:]) + "\\n")
answer = json.loads((here / "answer.json").read_text())
sys.stdout.write(answer.get("out", ""))
sys.stderr.write(answer.get("err", ""))
sys.exit(answer["code"])
"""
WHOLE = json.dumps({"verdicts": [{"use": "words", "faults": [], "new": [], "why_not": ""}]})
BROKEN = json.dumps({"verdicts": [{"use": "words", "faults": [{"message": "3 lack", "hint": "strip"}], "new": []}]})


@pytest.fixture
def problems(folder, plan_for, tmp_path):
    """Return what is said of the folder by a Python that answers so, and what it was asked."""

    def problems(**answer):
        python = tmp_path / "python"
        python.write_text(PYTHON.format(python=sys.executable))
        python.chmod(0o755)
        (tmp_path / "answer.json").write_text(json.dumps(answer))
        job, plan = plan_for(folder.model())
        job = replace(job, backend_python=str(python), cache_dir=str(tmp_path / "cache"))
        found = list(check_model_tensors(job, plan))
        asked = tmp_path / "calls.jsonl"
        return found, [json.loads(line) for line in asked.read_text().splitlines()] if asked.exists() else []

    return problems


def test_a_whole_folder_is_asked_about_once_and_again_when_its_weights_change(problems, folder):
    assert problems(code=0, out=WHOLE)[0] == []
    found, calls = problems(code=0, out=WHOLE)
    assert (found, len(calls)) == ([], 1)
    assert calls[0][1:3] == ["inspect_tensors", "--model"]
    assert calls[0][-2:] == ["--use", "words"]
    folder.weights({"model.embed_tokens.weight": (40, 8)})
    assert len(problems(code=0, out=WHOLE)[1]) == 2


def test_what_is_missing_is_passed_on_and_not_kept(problems):
    for calls in (1, 2):
        found, asked = problems(code=0, out=f"a banner\n{BROKEN}\n")
        assert found == [Problem("3 lack", "strip")]
        assert len(asked) == calls


def test_a_python_that_cannot_look_says_why(problems):
    ((found,), _) = problems(code=1, err="inspect_tensors: no module named torch\n")
    assert "no module named torch" in found.message


@pytest.mark.parametrize(
    ("recipe", "model", "uses"),
    [
        ("qwen3_reranker", {}, {"words"}),
        ("bge_reranker", {"family": "encoder", "native": "cross-encoder"}, {"new-head"}),
        ("bge_reranker", {"family": "encoder", "native": "bi-encoder"}, {"new-head", "vectors"}),
        ("qwen3_embedding_lora", {"native": None}, {"vectors"}),
        ("qwen3_sft_lora", {"native": None}, {"words"}),
    ],
)
def test_a_base_is_wanted_for_what_measures_it_and_what_it_becomes(folder, plan_for, recipe, model, uses):
    _, plan = plan_for(folder.model(**model), recipe=recipe)
    assert find_uses(plan, "model") == uses
