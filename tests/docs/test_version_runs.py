"""The benchmark of older and newer versions: what is supported was run, and its table says what came of it."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from tests.docs.test_docs import ROOT


@pytest.fixture(scope="module")
def versions():
    spec = importlib.util.spec_from_file_location("versions", ROOT / "benchmarks" / "versions.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["versions"] = module
    spec.loader.exec_module(module)
    return module


def test_the_table_is_that_of_the_results_that_were_kept(versions):
    assert versions.build_table(versions.load_results()) in versions.PAGE.read_text(encoding="utf-8")


def test_a_recipe_was_done_with_every_shipped_set_of_versions(versions):
    assert len(versions.SETS) >= 5
    assert {row.set for row in versions.load_results() if row.outcome == versions.DONE} == set(versions.SETS)


def test_every_kept_result_is_of_a_set_that_has_its_trainer(versions):
    assert [row for row in versions.load_results() if not versions.has_backend(row.set, row.recipe)] == []


def test_what_a_supported_set_cannot_do_is_refused_before_it_starts(versions):
    assert [row for row in versions.load_results() if row.outcome == versions.FAILED] == []


def test_a_run_that_did_not_end_well_is_named_with_its_exit_code_and_what_was_said(versions):
    name, other = list(versions.SETS)[:2]
    outcomes = [
        versions.Outcome(name, "qwen3_reranker", versions.DONE, 0),
        versions.Outcome(name, "bge_reranker", versions.FAILED, 6, "05-train ended"),
        versions.Outcome(other, "qwen3_sft_lora", versions.REFUSED, 2, "no such loss"),
    ]
    lines = versions.build_table(outcomes).splitlines()
    assert "| done | failed, 6 [1] | not run |" in lines[2]
    assert "refused, 2 [2]" in lines[3]
    assert lines[-2:] == ["1. 05-train ended", "2. no such loss"]
    assert "1 done, 1 refused before the start, 1 failed." in lines
