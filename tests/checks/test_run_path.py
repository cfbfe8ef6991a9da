"""A run folder that a trainer's library would read as a pattern is refused, and only for trainers that have it."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from orchestrator.checks.machine import check_run_path
from tests.shipped import build_shipped_job

MARKS = ("*", "?", "[", "$", "::")


def check(recipe, path):
    job = replace(build_shipped_job(recipe), run_dir=Path(path))
    return [problem.message for problem in check_run_path(job, None)]


@pytest.mark.parametrize("mark", MARKS)
@pytest.mark.parametrize("recipe", ["qwen3_reranker", "qwen3_sft_lora"])
def test_a_folder_with_a_mark_of_patterns_is_refused_where_datasets_reads_the_rows(recipe, mark):
    (message,) = check(recipe, f"/runs/a{mark}b")
    assert mark in message


@pytest.mark.parametrize("mark", MARKS)
def test_sentence_transformers_may_train_in_any_folder(mark):
    assert check("bge_pointwise", f"/runs/a{mark}b") == []


@pytest.mark.parametrize("path", ["/runs/我的 实验 (1)/a-b_c.d", "/runs/a:b,c;d&e'f#g%h@i+j=k~l!"])
@pytest.mark.parametrize("recipe", ["qwen3_reranker", "qwen3_sft_lora", "bge_pointwise"])
def test_other_characters_are_nobodys_pattern(recipe, path):
    assert check(recipe, path) == []
