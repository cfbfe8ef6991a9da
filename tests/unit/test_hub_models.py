"""A hub is asked for the model's config before any long work, and what it shows not to fit is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from orchestrator.backends import BACKENDS
from orchestrator.backends.models import BaseModel
from orchestrator.checks.hub import check_hub
from orchestrator.checks.machine import check_packages
from orchestrator.machine.hardware import Hardware
from tests.jobs import build_imagined_job

GPU = Hardware("cuda", 1, bf16=True)
QWEN = {"architectures": ["Qwen3ForCausalLM"], "hidden_size": 1024}


DISTILLED = """\
name: toy
task: reranker
backend: sentence-transformers
model: BAAI/bge-reranker-base
data: {train: train.jsonl, eval: eval.jsonl}
loss: margin_mse
teacher: TEACHER
"""


@pytest.fixture
def serve(start_hub, monkeypatch):
    """Be a hub that answers with this code and body."""

    def serve(code: int, body: str):
        monkeypatch.setenv("HF_ENDPOINT", start_hub(lambda _method, _path: (code, body.encode())))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)

    return serve


@pytest.fixture
def ask(serve):
    """Ask such a hub for the model of the full embedding recipe."""

    def ask(code: int, body: str):
        serve(code, body)
        name = "Qwen/Qwen3-Embedding-0.6B"
        model = BaseModel(name, name, None, "decoder", None)
        return list(check_hub(build_imagined_job("qwen3_embedding_full", model, GPU), None))

    return ask


@pytest.fixture
def ask_teacher(serve, build_toy_job):
    """Ask such a hub for a teacher."""

    def ask_teacher(code: int, body: str, teacher: str = "{path: owner/name, family: encoder, native: cross-encoder}"):
        serve(code, body)
        job = build_toy_job(DISTILLED.replace("TEACHER", teacher))
        return list(check_hub(replace(job, model=replace(job.model, folder=Path())), None))

    return ask_teacher


def test_a_model_that_fits_is_let_through(ask):
    assert ask(200, json.dumps(QWEN)) == []


def test_a_page_in_front_of_the_hub_is_no_verdict_on_the_model(ask):
    assert ask(200, "<html>sign in</html>") == []
    assert ask(200, "[]") == []


def test_a_model_whose_vectors_are_too_short_is_refused_before_it_is_downloaded(ask):
    (problem,) = ask(200, json.dumps({**QWEN, "hidden_size": 512}))
    assert "1024 numbers" in problem.message
    assert "512" in problem.hint


def test_a_model_that_brings_code_is_refused_before_it_is_downloaded(ask):
    (problem,) = ask(200, json.dumps({**QWEN, "auto_map": {"AutoModel": "mine.Model"}}))
    assert "Python code" in problem.message


@pytest.mark.parametrize(
    ("code", "says"),
    [
        (404, "is not on the hub"),
        (401, "gated or private"),
        (403, "gated or private"),
        (429, "at the moment (429)"),
        (503, "at the moment (503)"),
    ],
)
def test_what_the_hub_says_of_a_model_that_it_does_not_give_is_passed_on(ask, code, says):
    (problem,) = ask(code, "")
    assert says in problem.message


def test_an_endpoint_that_is_no_address_is_said(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:none")
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    name = "Qwen/Qwen3-Embedding-0.6B"
    model = BaseModel(name, name, None, "decoder", None)
    found = list(check_hub(build_imagined_job("qwen3_embedding_full", model, GPU), None))
    assert "http://127.0.0.1:none cannot be reached" in found[0].message


def test_a_teacher_with_a_head_is_let_through(ask_teacher):
    assert ask_teacher(200, json.dumps({"architectures": ["BertForSequenceClassification"]})) == []


def test_a_teacher_without_a_head_is_refused_before_it_is_downloaded(ask_teacher):
    (problem,) = ask_teacher(200, json.dumps({"architectures": ["BertModel"]}))
    assert "no trained head" in problem.message


def test_a_teacher_that_brings_code_is_refused_before_it_is_downloaded(ask_teacher):
    config = {"architectures": ["MineForSequenceClassification"], "auto_map": {"AutoModel": "mine.Model"}}
    (problem,) = ask_teacher(200, json.dumps(config))
    assert "the teacher owner/name brings Python code" in problem.message


def test_a_teacher_that_is_not_on_the_hub_is_said(ask_teacher):
    (problem,) = ask_teacher(404, "")
    assert "owner/name is not on the hub" in problem.message


def test_a_teacher_that_is_here_or_tiny_is_not_asked_for(monkeypatch, build_toy_job, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    job = build_toy_job(DISTILLED.replace("TEACHER", "Qwen/Qwen3-Reranker-4B"))
    job = replace(job, model=replace(job.model, folder=tmp_path))
    (problem,) = check_hub(job, None)
    assert "give a folder as teacher" in problem.hint
    assert list(check_hub(replace(job, teacher=replace(job.teacher, folder=tmp_path)), None)) == []
    assert list(check_hub(replace(job, smoke=True), None)) == []


@pytest.mark.parametrize("name", ["accelerate", "datasets", "sentence-transformers"])
def test_a_package_that_the_trainer_lacks_is_named_with_its_command(build_toy_job, name):
    job = build_toy_job(DISTILLED.replace("TEACHER", "Qwen/Qwen3-Reranker-4B"))
    there = dict.fromkeys(BACKENDS["sentence-transformers"].distributions, "1")
    assert list(check_packages(replace(job, versions=there), None)) == []
    (problem,) = check_packages(replace(job, versions={key: "1" for key in there if key != name}), None)
    assert f"{name} missing" in problem.message
    assert f"-m pip install {name}\n" in problem.hint
    assert "'orch-finetune[sentence-transformers]'" in problem.hint


def test_a_teacher_that_flagembedding_scores_needs_flagembedding(build_toy_job):
    job = build_toy_job(DISTILLED.replace("TEACHER", "BAAI/bge-reranker-v2-gemma"))
    there = dict.fromkeys(BACKENDS["sentence-transformers"].distributions, "1")
    (problem,) = check_packages(replace(job, versions=there), None)
    assert problem.message.startswith("the teacher is scored with FlagEmbedding")
    assert problem.hint.endswith("-m pip install FlagEmbedding")
    assert list(check_packages(replace(job, versions=there | {"FlagEmbedding": "1.4.2"}), None)) == []
