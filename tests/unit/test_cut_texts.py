"""What share of the texts a model has not read to their end is said alike by commands and by reports."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from orchestrator.checks.settings import find_positions
from orchestrator.cli.model_commands import format_evaluation
from orchestrator.report.publish import _about_systems
from orchestrator.report.wording import list_cautions
from orchestrator.workers.batches import find_longest

PAIRS = {"pairs_counted": 6, "pairs_cut": 1, "reads_tokens": 130}
SAID = "1 of 6 pairs (17 %) are longer than the 130 tokens that it reads, and were cut"


@pytest.mark.parametrize(
    ("scoring", "said"),
    [
        (PAIRS, SAID),
        ({"texts": 1000, "texts_cut": 1, "max_length": 512}, "1 of 1000 texts (less than 1 %) are longer than the 512"),
        ({**PAIRS, "pairs_cut": 0}, None),
        ({"texts": "many", "texts_cut": 1}, None),
        ({}, None),
    ],
)
def test_the_share_is_said_where_something_was_cut(scoring, said):
    found = list_cautions(scoring)
    assert not found if said is None else said in found[0]


def test_what_a_worker_warns_of_is_said_as_well():
    assert list_cautions({**PAIRS, "cautions": ["memory ran out"]}) == ["memory ran out", SAID]
    assert list_cautions({"cautions": "no list"}) == []


def test_a_command_and_a_report_say_the_same():
    system = {"id": "a", "label": "A", "scoring": PAIRS, "means": {}, "constant": False}
    result = {
        "systems": [system], "metrics": [], "comparisons": [], "headline": {"metric": None}, "kind": "group",
        "unit": "query", "eval": {"units": 2, "documents": 6}, "gaps": [],
    }  # fmt: skip
    assert f"caution: a: {SAID}" in format_evaluation(result)
    assert next(_about_systems(result)) == f"A: {SAID}."


@pytest.mark.parametrize(
    "config",
    [
        {"model_type": "bert", "max_position_embeddings": 130, "pad_token_id": 0},
        {"model_type": "xlm-roberta", "max_position_embeddings": 514, "pad_token_id": 1},
        {"model_type": "deberta-v2", "max_position_embeddings": 512, "position_biased_input": False},
        {"model_type": "t5", "max_position_embeddings": 512},
    ],
)
def test_the_worker_knows_the_positions_that_the_core_knows(config):
    assert find_longest(SimpleNamespace(**config)) == find_positions(config)
