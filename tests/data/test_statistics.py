from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.data.rows.records import RankingGroup
from orchestrator.data.stats import SideStatistics, find_percentiles, find_script


def test_statistics_count_rows_queries_documents_and_lengths():
    statistics = SideStatistics()
    statistics.add(RankingGroup("Where?", ("here",), ("there", "nowhere"), "a.jsonl", 1))
    statistics.add(RankingGroup("where? ", ("在这里", "是"), ("?",), "a.jsonl", 2))
    assert statistics.to_json() == {
        "rows": 2,
        "queries": 1,
        "positives": 3,
        "negatives": 3,
        "positives_per_row": {"min": 1, "mean": 1.5, "max": 2},
        "negatives_per_row": {"min": 1, "mean": 1.5, "max": 2},
        "query_chars": {"min": 6, "p50": 6, "p95": 7, "p99": 7, "max": 7},
        "document_chars": {"min": 1, "p50": 3, "p95": 7, "p99": 7, "max": 7},
        "scripts": {"latin": 5, "han": 2, "none": 1},
    }


def test_statistics_of_nothing_are_zeros():
    assert SideStatistics().to_json()["document_chars"] == {"min": 0, "p50": 0, "p95": 0, "p99": 0, "max": 0}


@given(st.lists(st.integers(0, 50), min_size=1))
def test_a_percentile_is_the_smallest_value_that_reaches_its_share(values):
    found = find_percentiles(Counter(values))
    ordered = sorted(values)
    for share, value in ((50, found["p50"]), (95, found["p95"]), (99, found["p99"])):
        assert value == ordered[-(-share * len(values) // 100) - 1]
    assert (found["min"], found["max"]) == (ordered[0], ordered[-1])


@pytest.mark.parametrize(
    ("text", "script"),
    [
        *[
            ("hello", "latin"),
            ("Größe", "latin"),
            ("世界和平", "han"),
            ("это да", "cyrillic"),
            ("ひらがなカナ漢", "kana"),
        ],
        *[("한국어", "hangul"), ("123 !?", "none"), ("", "none"), ("١٢ ؟", "none"), ("中文 GPT-4 模型说明", "han")],
    ],
)
def test_a_text_has_the_script_of_most_of_its_letters(text, script):
    assert find_script(text) == script
