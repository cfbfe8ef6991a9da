"""Scores are kept under what decides them: content, not names."""

from __future__ import annotations

import json

import pytest

from orchestrator.workers.score_cache import copy_entry, find_entry, keep_entry

SPEC = {"scorer": "cross-encoder", "max_length": 64, "label": "a", "name": "native"}


@pytest.fixture
def place(tmp_path):
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")
    (model / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "eval.jsonl").write_text("{}\n")
    return tmp_path


def entry(place, **changes):
    return find_entry(place / "cache", str(place / "model"), {**SPEC, **changes}, place / "eval.jsonl", "cpu")


def test_the_label_does_not_count_and_the_format_does(place):
    assert entry(place) == entry(place, label="b", name="other")
    assert entry(place) != entry(place, max_length=65)


def test_other_weights_or_data_are_other_scores(place):
    first = entry(place)
    (place / "model" / "model.safetensors").write_bytes(b"trained")
    second = entry(place)
    (place / "eval.jsonl").write_text("{}\n{}\n")
    assert len({first, second, entry(place)}) == 3


def test_what_was_kept_comes_back_with_the_spec_of_the_run(place):
    out = place / "out"
    out.mkdir()
    (out / "scores.jsonl").write_text('{"qid": "q", "docid": "d", "score": 1.0}\n')
    (out / "scoring.json").write_text(json.dumps({"spec": SPEC, "min": 1.0}))
    kept = entry(place)
    assert not copy_entry(kept, place / "again", SPEC)
    keep_entry(kept, out)
    assert copy_entry(kept, place / "again", {**SPEC, "label": "b"})
    assert (place / "again" / "scores.jsonl").read_text() == (out / "scores.jsonl").read_text()
    facts = json.loads((place / "again" / "scoring.json").read_text())
    assert facts["spec"]["label"] == "b"
    assert facts["from_cache"] == str(kept)


def test_a_model_that_is_not_here_has_no_entry(place, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert find_entry(place / "cache", "nobody/nothing", SPEC, place / "eval.jsonl", "cpu") is None
