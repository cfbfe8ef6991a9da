from __future__ import annotations

import json

import pytest

from orchestrator.data.check import check_files
from orchestrator.data.sample import LANGUAGES, LARGEST, SAMPLERS, build_samples, write_samples
from orchestrator.errors import DataError

REAL, SAMPLE = {"query": "q", "sample": "yes"}, {"query": "q", "sample": True}


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("task", SAMPLERS)
def test_all_samples_that_there_are_differ_and_are_marked(task, language):
    rows = build_samples(task, LARGEST, language=language)
    assert len({json.dumps(row) for row in rows}) == len(rows) == LARGEST
    assert len({next(iter(row.values())) for row in rows}) == LARGEST
    assert all(row["sample"] is True for row in rows)
    assert not any("{" in text for row in rows for text in row.values() if isinstance(text, str))


def test_the_seed_decides_the_rows():
    assert build_samples("sft", 20) == build_samples("sft", 20) == build_samples("sft", 40)[:20]
    assert build_samples("sft", 20) != build_samples("sft", 20, seed=1)


def test_pairs_have_every_grade_and_equal_questions_nowhere():
    rows = build_samples("pairs", 200)
    assert {row["score"] for row in rows} == {0.0, 0.5, 1.0}
    assert all(row["sentence1"] != row["sentence2"] for row in rows)


def test_texts_with_classes_are_taken_as_such(files):
    path = files.folder / "a.jsonl"
    write_samples(path, build_samples("classes", 200))
    report = check_files([path])
    assert (report.ok, report.stats["kind"], report.stats["train"]["rows"]) == (True, "class", 200)
    assert report.stats["train"]["classes"] > 1


def test_the_wrong_documents_of_a_ranking_row_are_not_the_answer_and_differ():
    for row in build_samples("reranker", 200):
        assert len({*row["neg"], *row["pos"]}) == 6


def test_samples_are_written_to_a_new_file_only(files):
    path = files.folder / "new" / "a.jsonl"
    write_samples(path, build_samples("reranker", 50))
    written = path.read_bytes()
    assert check_files([path]).ledger.sides["train"].kept == 50
    with pytest.raises(DataError, match=r"^output-exists: "):
        write_samples(path, build_samples("reranker", 50))
    assert path.read_bytes() == written


def test_a_name_that_does_not_say_json_lines_is_refused(files):
    with pytest.raises(DataError, match=r"^unknown-ending: "):
        write_samples(files.folder / "a.csv", [])
