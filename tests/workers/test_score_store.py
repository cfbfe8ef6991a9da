"""Scores are kept under what decides them: content, not names."""

from __future__ import annotations

import hashlib
import json
import os

import pytest

from orchestrator.workers.score_store import copy_entry, find_entry, keep_entry

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


@pytest.mark.parametrize(
    "name",
    ["pytorch_model.bin", "modeling.py", "qwen.tiktoken", "spiece.vocab", "weights.pt", "1_Dense/part.xyz", "linked/part.bin"],
)  # fmt: skip
def test_every_file_that_a_library_may_read_decides(place, name):
    (place / "elsewhere").mkdir()
    (place / "model" / "linked").symlink_to(place / "elsewhere")
    keys = {entry(place)}
    for content in (b"first", b"other"):
        (place / "model" / name).parent.mkdir(exist_ok=True)
        (place / "model" / name).write_bytes(content)
        keys.add(entry(place))
    assert len(keys) == 3


@pytest.mark.parametrize("name", ["README.md", "LICENSE", "notes.md", "figure.png", ".gitattributes", ".git/HEAD"])
def test_what_is_for_people_does_not_count(place, name):
    first = entry(place)
    (place / "model" / name).parent.mkdir(exist_ok=True)
    (place / "model" / name).write_text("for people")
    assert entry(place) == first


def test_links_in_a_circle_end_and_a_pipe_is_not_waited_for(place):
    (place / "model" / "again").symlink_to(place / "model")
    os.mkfifo(place / "model" / "pipe")
    assert entry(place) is not None


def test_the_leave_to_load_pickles_decides(place, monkeypatch):
    first = entry(place)
    monkeypatch.setenv("ORCH_ALLOW_PICKLE", "1")
    assert entry(place) != first


def test_a_model_whose_code_lies_elsewhere_has_no_entry(place):
    (place / "model" / "config.json").write_text('{"auto_map": {"AutoModel": "owner/name--modeling.Model"}}')
    assert entry(place) is None


def asked(rows):
    return [(row["qid"], row["docid"]) for row in rows] == [("q", "d")]


@pytest.fixture
def kept(place):
    out = place / "out"
    out.mkdir()
    (out / "scores.jsonl").write_text('{"qid": "q", "docid": "d", "score": 1.0}\n')
    (out / "scoring.json").write_text(json.dumps({"spec": SPEC, "min": 1.0}))
    where = entry(place)
    assert not copy_entry(where, place / "again", SPEC, asked)
    keep_entry(where, out)
    return where


def test_what_was_kept_comes_back_with_the_spec_of_the_run(place, kept):
    assert copy_entry(kept, place / "again", {**SPEC, "label": "b"}, asked)
    assert (place / "again" / "scores.jsonl").read_text() == (place / "out" / "scores.jsonl").read_text()
    facts = json.loads((place / "again" / "scoring.json").read_text())
    assert facts["spec"]["label"] == "b"
    assert facts["from_cache"] == str(kept)


def change(kept, old, new):
    kept.write_bytes(kept.read_bytes().replace(old, new))


DAMAGES = {
    "nothing in it": lambda kept: kept.write_bytes(b""),
    "facts that are no text": lambda kept: change(kept, b"spec", b"\xff\xfe"),
    "nested facts": lambda kept: kept.write_bytes(b"[" * 100_000),
    "scores that are cut": lambda kept: kept.write_bytes(kept.read_bytes()[:-9]),
    "other scores": lambda kept: change(kept, b'"score": 1.0', b'"score": 2.0'),
    "a sum that is cut": lambda kept: kept.write_bytes(kept.read_bytes()[9:]),
    "a file that is gone": lambda kept: kept.unlink(),
    "a file that others may write": lambda kept: kept.chmod(0o666),
    "a link to another entry": lambda kept: (kept.rename(kept.with_name("x")), kept.symlink_to(kept.with_name("x"))),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_a_damaged_entry_is_one_that_is_not_there_and_is_replaced(place, kept, damage):
    damage(kept)
    assert not copy_entry(kept, place / "again", SPEC, asked)
    assert not (place / "again").exists()
    keep_entry(kept, place / "out")
    assert copy_entry(kept, place / "again", SPEC, asked)
    assert [path.name for path in kept.parent.glob(".*")] == []


@pytest.mark.parametrize("score", ["1e999", "NaN"])
def test_a_kept_score_that_is_not_finite_is_not_taken(place, kept, score):
    lines = kept.read_text().replace("1.0}", f"{score}}}").split("\n", 1)[1]
    kept.write_text(f"{hashlib.sha256(lines.encode()).hexdigest()}\n{lines}")
    assert not copy_entry(kept, place / "again", SPEC, asked)


def test_a_line_break_of_another_alphabet_does_not_end_a_row(place, kept):
    row = json.dumps({"qid": "q", "docid": "d", "score": 1.0, "generation": "one\u2028two"}, ensure_ascii=False)
    (place / "out" / "scores.jsonl").write_text(row + "\n", encoding="utf-8")
    keep_entry(kept, place / "out")
    assert copy_entry(kept, place / "again", SPEC, asked)


def test_nobody_else_may_read_what_is_kept(kept):
    assert kept.stat().st_mode & 0o777 == 0o600


def test_an_entry_of_another_user_is_one_that_is_not_there(place, kept, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: kept.stat().st_uid + 1)
    assert not copy_entry(kept, place / "again", SPEC, asked)


@pytest.mark.parametrize(
    "row", ['{"qid": "q", "docid": "other", "score": 1.0}', '{"qid": "q", "docid": "d", "score": 1e999}', ""]
)
def test_rows_that_are_not_asked_for_or_no_numbers_are_not_taken(place, kept, row):
    (place / "out" / "scores.jsonl").write_text(row + "\n" if row else "")
    keep_entry(kept, place / "out")
    assert not copy_entry(kept, place / "again", SPEC, asked)


def test_a_model_that_is_not_here_has_no_entry(place, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert find_entry(place / "cache", "nobody/nothing", SPEC, place / "eval.jsonl", "cpu") is None
