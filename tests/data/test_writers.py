from __future__ import annotations

import json
from io import BytesIO

from orchestrator.data.forms import build_flagembedding_row
from orchestrator.data.rows.records import RankingGroup
from orchestrator.data.writers import EvalWriter, FileSet, build_eval_row, format_line, remove_files

GROUP = RankingGroup("q", ("p",), ("a", "b", "c", "d", "e"), "eval.jsonl", 12)


def test_flagembedding_reads_query_pos_and_neg():
    assert build_flagembedding_row(GROUP) == {"query": "q", "pos": ("p",), "neg": ("a", "b", "c", "d", "e")}


def test_flagembedding_reads_scores_and_prompt_where_they_are_given():
    group = RankingGroup("q", ("p",), ("n",), "a", 1, (1.0,), (0.0,), "Judge.")
    row = build_flagembedding_row(group)
    assert (row["pos_scores"], row["neg_scores"], row["prompt"]) == ((1.0,), (0.0,), "Judge.")


def test_a_line_is_utf_8_and_has_no_line_break_inside_for_any_reader():
    line = format_line({"query": "é\u2028\u2029\x85\n"})
    assert line == '{"query": "é\\u2028\\u2029\\u0085\\n"}\n'.encode()
    assert len(line.decode().splitlines()) == 1
    assert json.loads(line) == {"query": "é\u2028\u2029\x85\n"}


def test_an_eval_row_has_every_document_with_its_label_once():
    EvalWriter(stream := BytesIO(), 42).add(GROUP)
    row = json.loads(stream.getvalue())
    assert row["qid"] == "q000001"
    assert (row["source"], row["line"]) == ("eval.jsonl", 12)
    assert {(found["text"], found["label"]) for found in row["documents"]} == {("p", 1), *((n, 0) for n in "abcde")}


def test_docids_follow_the_shuffled_order_so_that_neither_carries_the_label():
    groups = [RankingGroup(f"q{number}", ("p",), ("a", "b", "c"), "a", 1) for number in range(40)]
    rows = [build_eval_row(found, number, 42) for number, found in enumerate(groups, 1)]
    places = [[found["label"] for found in row["documents"]].index(1) for row in rows]
    assert set(places) == {0, 1, 2, 3}
    assert [found["docid"] for found in rows[8]["documents"]] == [f"q000009.{place}" for place in range(4)]


def test_the_order_of_documents_depends_on_seed_and_query_only():
    texts = [[found["text"] for found in build_eval_row(GROUP, number, 42)["documents"]] for number in (1, 7)]
    assert texts[0] == texts[1]
    assert texts[0] != [found["text"] for found in build_eval_row(GROUP, 1, 43)["documents"]]


def test_an_eval_row_has_a_prompt_only_where_one_is_given():
    assert "prompt" not in build_eval_row(GROUP, 1, 42)


def test_files_appear_when_they_are_committed(tmp_path):
    with FileSet() as files:
        files.open(tmp_path / "new" / "a").write(b"1")
        files.open(tmp_path / "new" / "b").write(b"2")
        assert not (tmp_path / "new" / "a").exists()
        files.commit()
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a", "b"]


def test_nothing_is_left_of_files_that_are_not_committed(tmp_path):
    with FileSet() as files:
        files.open(tmp_path / "a").write(b"1")
    assert not list(tmp_path.iterdir())


def test_what_an_interrupted_set_left_can_be_removed(tmp_path):
    FileSet().open(tmp_path / "a").close()
    (tmp_path / "a").write_text("old")
    remove_files([tmp_path / "a", tmp_path / "never-there"])
    assert not list(tmp_path.iterdir())
