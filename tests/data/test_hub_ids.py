from __future__ import annotations

import pytest

from orchestrator.data.reading.file_sets import HubId, parse_hub_id


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("owner/name", HubId("owner/name")),
        ("owner/name:test", HubId("owner/name", None, "test")),
        ("owner/name/config:train", HubId("owner/name", "config", "train")),
        ("sentence-transformers/all-nli/pair-score:dev", HubId("sentence-transformers/all-nli", "pair-score", "dev")),
        ("owner/name.v2:train[:1000]", HubId("owner/name.v2", None, "train[:1000]")),
        ("owner/name:train[10%:20%]", HubId("owner/name", None, "train[10%:20%]")),
    ],
)
def test_a_data_set_is_told_from_its_name_and_written_back(text, found):
    assert parse_hub_id(text) == found
    assert str(found) == text


@pytest.mark.parametrize(
    "text",
    [
        *("name", "name:train", "", "owner/", "/name", "owner/name:", "owner/name/config", "a/b/c/d:train"),
        *("data/train.jsonl", "data/train.CSV", "data/a/train.parquet", "./data/train", "../data/train", "/data/train"),
        *(
            "C:\\data\\train",
            "owner/na me",
            "https://hub/owner/name",
            "owner/name:train:test",
            "owner/name\n",
            "~/name",
        ),
    ],
)
def test_a_path_or_nonsense_is_no_data_set(text):
    assert parse_hub_id(text) is None
