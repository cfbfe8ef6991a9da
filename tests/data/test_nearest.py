"""A row of no known form is answered with the form that it comes nearest to as a whole, and the advice works."""

from __future__ import annotations

import re
import shlex

import pytest

from orchestrator.data.judged import bring_to_form, open_row, require_judged
from orchestrator.data.reading.json_rows import Row
from orchestrator.data.rows.checks import RowRules, check_row
from orchestrator.data.rows.nearest import find_nearest
from orchestrator.data.rows.records import KINDS
from orchestrator.data.rows.shapes import SHAPES
from orchestrator.data.rows.texts import BadRowError

SAID = "Clean it and keep it dry."

# a row, --kind or none, what the message advises
ROWS = [
    ({"query": "q", "passage": SAID, "label": 1}, None, "--map content=passage"),
    ({"query": "q", "documents": SAID, "relevance": 0}, None, "--map content=documents --map label=relevance"),
    ({"text1": "a", "text2": "b", "label": 0}, "pair", "--map sentence1=text1 --map sentence2=text2 --map score=label"),
    ({"premise": "a", "hypothesis": "b", "label": 1}, "pair", "--map sentence1=premise --map sentence2=hypothesis"),
    ({"指令": "q", "context": SAID, "answer": "a"}, "chat", "--map output=answer --map input=context"),
    ({"question": "q", "pos_doc": SAID, "neg_doc": ["b", "c"]}, None, "--map rejected_response=neg_doc"),
    (
        {"question": "q", "positives": ["a"], "hard-negatives": ["b"]},
        None,
        "--map pos=positives --map neg=hard-negatives",
    ),
    ({"query": "q", "content": SAID, "score": 1}, "labelled", "--map label=score"),
    ({"Query": "q", "Pos": ["a"], "Neg": ["b"]}, None, "--map query=Query --map pos=Pos --map neg=Neg"),
    ({"问题": "q", "正例": ["a"], "负例": ["b"]}, None, "--map 'query=问题' --map 'pos=正例' --map 'neg=负例'"),
    ({"指令": "q", "输入": "", "输出": SAID}, "chat", "--map 'instruction=指令' --map 'output=输出'"),
    ({"句子1": "a", "句子2": "b", "标签": 0}, "pair", "--map 'score=标签'"),
    ({"question1": "a", "question2": "b", "is_duplicate": 0}, "pair", "--map score=is_duplicate"),
    ({"text": "a", "text_pair": "b", "label": 0}, "pair", "--map sentence1=text --map sentence2=text_pair"),
    ({"inputs": "q", "targets": SAID, "task": "x"}, "chat", "--map instruction=inputs --map output=targets"),
    ({"input": "q", "content": SAID, "score": 9}, "chat", "--map instruction=input --map output=content"),
    ({"dialogue": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, "chat", "--map messages=dialogue"),
]


@pytest.mark.parametrize(("row", "kind", "advice"), ROWS, ids=lambda value: value if isinstance(value, str) else "")
def test_what_the_nearest_form_as_a_whole_asks_for_is_all_that_it_takes(files, orch, row, kind, advice):
    path, told = files.lines("rows.jsonl", row, row | {next(iter(row)): "another"}), ("--kind", kind) if kind else ()
    if "dialogue" in row:
        path = files.lines("rows.jsonl", row)
    code, said = orch("data", "check", path, *told)
    assert (code, advice in said) == (3, True), said
    given = shlex.split(re.search(r"(--map .+) \(data\.columns\)", said)[1])
    assert orch("data", "check", path, *told, *given)[0] == 0


def test_a_row_that_is_nearer_to_another_kind_than_the_run_s_says_so():
    found = check_row({"query": "q", "passage": SAID, "label": 1}, source="a", line=1, rules=RowRules("group"))
    assert "so named it is a labelled row, and group rows are wanted" in found.message
    assert "backend: sentence-transformers" in found.hint
    found = check_row({"inputs": "q", "targets": SAID}, source="a", line=1, rules=RowRules("group"))
    assert "so named it is a chat row" in found.message


def test_a_key_of_another_form_is_nobody_s_misspelling():
    found = check_row({"messages": [{"role": "user", "content": "q"}], "label": 1}, source="a", line=1)
    assert "positive_messages" not in found.message + found.hint


@pytest.mark.parametrize(
    ("key", "labels"), [("scores", [1, 0]), ("labels", ["1", "0"]), ("relevance_scores", [True, False])], ids=str
)
def test_documents_and_labels_in_two_lists_are_never_taken_for_positives(files, orch, key, labels):
    path = files.lines("rows.jsonl", {"query": "q", "docs": ["a", "b"], key: labels})
    code, said = orch("data", "check", path)
    assert (code, "orch data convert FILE --from lists -o NEW.jsonl" in said) == (3, True)
    out = files.folder / "new.jsonl"
    assert orch("data", "convert", path, "--from", "lists", "-o", out)[0] == 0
    code, said = orch("data", "check", out)
    assert (code, "labels: 0 to 1" in said) == (0, True)


@pytest.mark.parametrize("row", [{"_id": "1", "text": SAID}, {"query-id": "1", "corpus-id": "2", "score": 1}], ids=str)
def test_a_file_of_beir_is_told_apart(row):
    assert "one of BEIR's files" in check_row(row, source="a", line=1).message


def test_scoring_and_mining_advise_a_form_that_they_read(files):
    row = {"query": "q", "passage": SAID, "label": 1}
    with pytest.raises(BadRowError) as error:
        require_judged(row)
    assert "--map content=passage" in error.value.fault.hint
    assert require_judged(open_row(Row(1, b"", row), {"content": "passage"}, is_table=False).row).texts == (SAID,)


@pytest.mark.parametrize("verb", [require_judged, lambda row: require_judged(bring_to_form(row))])
def test_scoring_and_mining_say_that_a_text_with_a_class_has_no_query(verb):
    with pytest.raises(BadRowError) as error:
        verb({"text": SAID, "label": "a"})
    assert "batch_all_triplet, and orch evaluate: they have no query with documents" in error.value.fault.hint


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "class"])
def test_a_text_with_a_class_says_what_takes_it_where_another_kind_is_wanted(kind):
    fault = check_row({"text": SAID, "label": "a"}, source="a", line=1, rules=RowRules(kind))
    assert "texts with classes are for loss: batch_all_triplet, and orch evaluate" in fault.hint


def test_every_form_is_its_own_nearest():
    values = {"messages": [{}], "positive_messages": [[]], "negative_messages": [[]], "pos": ["a"], "hits": [{}]}
    for shape in (shape for shape in SHAPES if shape.needs and not (shape.variant or shape.fits)):
        row = {key: values.get(key, 1 if key in {"label", "score"} else "a") for key in (*shape.needs, *shape.given)}
        nearest = find_nearest(row, shape.kind)
        assert (nearest.missing, nearest.renamed, set(nearest.shape.needs)) == ((), {}, set(shape.needs)), shape


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [{"role": "user", "content": "q"}], "outcome": [{"role": "assistant", "content": "a"}]},
        {"query": "q", "passages": {"passage_text": ["a"], "is_selected": [1, 0]}},
    ],
)
def test_no_renaming_is_advised_that_the_next_answer_would_undo(files, orch, row):
    code, said = orch("data", "check", files.lines("rows.jsonl", row))
    assert (code, "--map" in said) == (3, False)


@pytest.mark.parametrize("sides", [{"pos": "a", "neg": "b"}, {"pos": "a", "neg": ["b"]}], ids=str)
@pytest.mark.parametrize("kind", ["group", "labelled"])
def test_documents_that_are_no_list_of_texts_become_one_by_the_command_in_the_message(files, orch, kind, sides):
    path, out = files.lines("rows.jsonl", {"query": "q"} | sides), files.folder / "new.jsonl"
    code, said = orch("data", "check", path, "--kind", kind)
    assert (code, "orch data convert FILE --from passages -o NEW.jsonl" in said) == (3, True)
    assert orch("data", "convert", path, "--from", "passages", "-o", out)[0] == 0
    assert orch("data", "check", out, "--kind", kind)[0] == 0
