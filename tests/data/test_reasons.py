"""Every reason, found at the exact line of a file that has it."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from orchestrator.data.check import check_files
from orchestrator.data.data_pass import run_data_pass
from orchestrator.data.forms import TRAIN_FORMS
from orchestrator.data.ledger import build_problems
from orchestrator.data.reasons import REASONS, Fault
from orchestrator.data.request import Request
from orchestrator.data.rows.checks import RowRules, check_row
from orchestrator.data.split import split_file
from orchestrator.errors import DataError
from orchestrator.recipe.losses import list_names

GOOD = '{"query": "q", "pos": ["p"], "neg": ["n"]}'
DOCS = Path(__file__).parents[2] / "docs" / "data-formats.md"


def good(number, **changes):
    row = {"query": f"q{number}", "pos": [f"p{number}"], "neg": [f"n{number}"]}
    return json.dumps(row | changes)


# code → (the file's text, the line of the bad row, a part of the sentence)
BAD_ROWS = {
    "not-json": (f'{GOOD}\n{{"query": "q",\n', 2, "Expecting property name"),
    "not-an-object": (f'{GOOD}\n\n["q", 5]\n', 3, "the row is a list"),
    "duplicate-key": (
        '{"query": "q", "query": "r", "pos": ["p"], "neg": ["n"]}',
        1,
        'the key "query" stands there twice',
    ),
    "missing-key": (
        '\n{"question": "q", "pos": ["p"], "neg": ["n"]}',
        2,
        '"query" is missing, and the row has "question"',
    ),
    "wrong-type": (f'{GOOD}\n{{"query": "r", "pos": "p", "neg": ["n"]}}', 2, '"pos" is a string, not a list'),
    "lone-surrogate": (f'{GOOD}\n{{"query": "\\ud800", "pos": ["p"], "neg": ["n"]}}', 2, "holds \\ud800"),
    "empty-query": (f"{GOOD}\n{good(1, query=' ')}\n", 2, '"query" is empty or white space'),
    "no-positive": (f"{GOOD}\n{good(1, pos=[])}\n", 2, '"pos" is an empty list'),
    "no-negative": (f"{GOOD}\n{good(1, neg=[])}\n", 2, '"neg" is an empty list'),
    "empty-text": (f"{GOOD}\n{good(1, neg=['n', ''])}\n", 2, '"neg"[1] is empty or white space'),
    "scores-length": (f"{good(1, pos_scores=[1, 2], neg_scores=[0])}\n", 1, '"pos_scores" holds 2 and "pos" 1'),
    "scores-not-numbers": (f"\n{good(1, pos_scores=[1], neg_scores=[True])}\n", 2, '"neg_scores"[0] is not a finite'),
    "positive-among-negatives": (f"{GOOD}\n{good(1, neg=['a', 'p1 '])}\n", 2, 'the document "p1 " is a positive and'),
}

# code → (file name, contents, line or None)
REFUSED_FILES = {
    "unknown-ending": ("a.txt", GOOD.encode(), None),
    "empty-file": ("a.jsonl", b"", None),
    "compressed": ("a.jsonl", b"PK\x03\x04" + GOOD.encode(), 1),
    "utf-16": ("a.jsonl", GOOD.encode("utf-16"), 1),
    "bad-utf-8": ("a.jsonl", GOOD.encode() + b'\n"\xe9"\n', 2),
    "nul-byte": ("a.jsonl", GOOD.encode() + b"\n\n\0", 3),
    "broken-list": ("a.json", b"[" + GOOD.encode() + b",\n" + GOOD.encode(), 2),
    "not-readable": ("a" * 300 + ".jsonl", None, None),
    "file-not-found": ("a.jsonl", None, None),
    "not-a-file": (".", None, None),
}

# code → (the file's text, the line pointed at or None, a part of the sentence)
REFUSED_SIDES = {
    "prompt-on-some-rows-only": (f"{good(1, prompt='Judge.')}\n{good(2)}\n", 2, "this row has no prompt, and "),
    "scores-on-some-rows-only": (
        f"{good(1)}\n{good(2)}\n{good(3, pos_scores=[1], neg_scores=[0])}\n",
        1,
        "this row has no teacher scores, and ",
    ),
    "no-rows-kept": (f"{good(1, neg=[])}\n", None, "no train row is left of 1 (no-negative 1)"),
}

DROPPED = {"duplicate", "query-also-in-eval", "over-limit"}
WARNINGS = {
    *("duplicate-positive", "duplicate-negative", "unknown-keys", "document-also-in-eval", "other-form"),
    *("texts-cut", "tokens-not-counted"),
}
# Codes that only some task or some command has → the test file that finds each.
ELSEWHERE = {
    "test_formats.py": {
        *("missing-column", "other-kind", "label-and-negatives", "prompt-not-used", "not-text", "unknown-role"),
        *("broken-turns", "no-answer", "empty-answer"),
    },
    "test_row_forms.py": {"rejected-not-learnt"},
    "test_joins.py": {"id-not-found", "corpus-in-part"},
    "test_loss_marks.py": {"loss-mark", "nothing-to-learn", "answers-not-learnt", "turns-left-out"},
    "test_in_batch.py": {"false-negatives", "some-false-negatives"},
    "test_chat_overlap.py": {"answer-also-in-eval"},
    "test_loss_fit.py": {
        "validation-without-order",
        *("several-positives", "loss-misfit", "score-out-of-range", "few-negatives", "documents-sampled"),
        *("one-label-only", "scores-not-used"),
    },
    "test_prepare_kinds.py": {
        *("too-long", "too-few-validation-rows", "nothing-to-rank", "samples-only", "samples-mixed-in"),
        "prompts-not-measured",
    },
    "test_containers.py": {"row-too-large", "wrapped-rows", "broken-sheet", "encoding-guessed"},
    "test_unread_texts.py": {"text-not-read"},
    "test_scores_as_labels.py": {"scores-or-labels"},
    "test_labelled_rows.py": {
        *("no-documents", "label-not-a-number", "label-out-of-range", "conflicting-labels", "scores-missing"),
    },
    "test_cross_encoder_forms.py": {
        *("not-one-relevant", "one-document", "one-label", "one-side", "duplicate-document", "documents-drawn"),
    },
    "test_tabular.py": {
        *("bad-header", "wrong-separator", "broken-csv", "needs-library", "broken-parquet"),
        "wrong-field-count",
    },
    "test_convert.py": {
        "unknown-column",
        "column-exists",
        "not-convertible",
        "would-be-lost",
        "conflicting-judgements",
    },
    "test_prepare.py": {"input-is-output", "too-few-rows", "rows-left-over"},
}
OTHERS = {"same-file", "output-exists", "too-few-queries"}  # here


def test_every_reason_has_a_test_here_or_where_it_belongs():
    here = set(BAD_ROWS) | set(REFUSED_FILES) | set(REFUSED_SIDES) | DROPPED | WARNINGS | OTHERS
    assert here | set().union(*ELSEWHERE.values()) == set(REASONS)
    outcomes = {code: reason.outcome for code, reason in REASONS.items() if code in here}
    assert {code for code, outcome in outcomes.items() if outcome == "bad"} == set(BAD_ROWS)
    assert {code for code, outcome in outcomes.items() if outcome == "dropped"} == DROPPED
    assert {code for code, outcome in outcomes.items() if outcome == "warning"} == WARNINGS


@pytest.mark.parametrize("name", ELSEWHERE)
def test_a_test_elsewhere_names_its_reasons(name):
    text = (Path(__file__).parent / name).read_text(encoding="utf-8")
    assert not [code for code in ELSEWHERE[name] if code not in text]


@pytest.mark.parametrize("code", BAD_ROWS)
def test_a_bad_row_is_reported_with_its_place_and_a_remedy(files, code):
    text, line, sentence = BAD_ROWS[code]
    path = files.raw("train.jsonl", text)
    report = check_files([path])
    problem = report.problems[0]
    assert (problem.where.path, problem.where.line) == (str(path), line)
    assert problem.message.startswith(f"{code}: ")
    assert sentence in problem.message
    assert problem.hint
    [dropped] = [row for row in report.ledger.dropped_rows if row.line == line]
    assert (dropped.side, dropped.path, dropped.reason) == ("train", str(path), code)
    assert report.ledger.sides["train"].dropped[code] == 1


@pytest.mark.parametrize("code", REFUSED_FILES)
def test_a_file_that_cannot_be_used_is_refused_with_its_place_and_a_remedy(files, code):
    name, data, line = REFUSED_FILES[code]
    path = files.folder / name
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(DataError) as caught:
        check_files([path])
    [problem] = caught.value.problems
    assert problem.message.startswith(f"{code}: ")
    assert (problem.where.path, problem.where.line) == (str(path), line)
    assert problem.hint


@pytest.mark.parametrize("code", REFUSED_SIDES)
def test_a_side_that_cannot_be_used_is_refused(files, code):
    text, line, sentence = REFUSED_SIDES[code]
    path = files.raw("train.jsonl", text)
    problem = check_files([path], max_dropped=9).problems[-1]
    assert problem.message.startswith(f"{code}: {sentence}")
    assert (problem.where.line if problem.where else None) == line
    assert problem.hint


def test_one_file_for_both_sides_is_refused(files):
    path = files.raw("train.jsonl", GOOD)
    with pytest.raises(DataError, match=r"^same-file: "):
        check_files([path], eval_paths=[files.folder / ".." / files.folder.name / "train.jsonl"])


def test_one_query_cannot_be_split(files):
    path = files.raw("train.jsonl", f"{GOOD}\n{good(1, query='Q ')}\n")
    [problem] = build_problems(run_data_pass(Request((path,), eval_ratio=0.5)), 0)
    assert problem.message.startswith("too-few-queries: ")


def test_an_output_that_exists_is_refused(files):
    path, out = files.raw("a.jsonl", GOOD), files.raw("b.jsonl", "")
    with pytest.raises(DataError, match=r"^output-exists: "):
        split_file(path, files.folder / "c.jsonl", out, 0.5)


def dropped_rows(gathered):
    return [(row.side, Path(row.path).name, row.line, row.reason) for row in gathered.ledger.dropped_rows]


def test_a_row_that_was_there_before_is_dropped_without_being_bad(files):
    path = files.raw("train.jsonl", f"{good(1)}\n{good(2)}\n{good(1)}\n{good(1, neg=['x'])}\n")
    gathered = run_data_pass(Request((path,)))
    assert dropped_rows(gathered) == [("train", "train.jsonl", 3, "duplicate")]
    assert not build_problems(gathered, 0)


def test_a_row_with_another_prompt_is_no_duplicate(files):
    path = files.raw("train.jsonl", f"{good(1, prompt='A')}\n{good(1, prompt='B')}\n")
    assert run_data_pass(Request((path,))).ledger.sides["train"].kept == 2


def test_a_training_row_with_a_query_of_the_eval_set_is_dropped_and_warned_about(files):
    train = files.raw("train.jsonl", f"{good(1)}\n{good(2, query=' Q9')}\n")
    evaluation = files.raw("eval.jsonl", good(9))
    gathered = run_data_pass(Request((train,), (evaluation,)))
    assert dropped_rows(gathered) == [("train", "train.jsonl", 2, "query-also-in-eval")]
    [warned] = gathered.ledger.warnings
    assert (warned.code, warned.count, warned.examples) == ("query-also-in-eval", 1, (f"{train}:2",))
    assert not build_problems(gathered, 0)


def test_an_allowed_overlap_is_kept_and_warned_about(files):
    train = files.raw("train.jsonl", f"{good(1)}\n{good(2, query=' Q9')}\n")
    gathered = run_data_pass(Request((train,), (files.raw("eval.jsonl", good(9)),), allow_overlap=True))
    assert gathered.ledger.sides["train"].kept == 2
    assert [warned.code for warned in gathered.ledger.warnings] == ["query-also-in-eval"]


def test_rows_over_the_limit_are_counted(files):
    path = files.raw("train.jsonl", "".join(f"{good(number)}\n" for number in range(5)))
    side = run_data_pass(Request((path,), limit_train=2)).ledger.sides["train"]
    assert (side.kept, side.dropped, side.bad) == (2, {"over-limit": 3}, 0)


def warning(files, text, name="train.jsonl", **options):
    path = files.raw(name, text)
    [warned] = run_data_pass(Request((path,), **options)).ledger.warnings
    return warned


@pytest.mark.parametrize(("key", "code"), [("pos", "duplicate-positive"), ("neg", "duplicate-negative")])
def test_a_document_that_its_row_repeats_is_warned_about(files, key, code):
    warned = warning(files, f"{good(1)}\n{good(2, **{key: ['a', 'b', 'a']})}\n")
    assert (warned.code, warned.count) == (code, 1)
    assert warned.examples == (f"{files.folder / 'train.jsonl'}:2",)


def test_keys_that_are_not_used_are_warned_about(files):
    warned = warning(files, f"{good(1)}\n{good(2, id=1)}\n")
    assert (warned.code, warned.message) == ("unknown-keys", 'keys that are not used (in how many rows): "id" (1)')


def test_a_file_whose_name_says_otherwise_is_warned_about(files):
    warned = warning(files, f"{good(1)}\n", name="train.json")
    assert warned.code == "other-form"
    assert "JSON Lines" in warned.message


def test_a_tokenizer_that_cannot_be_used_is_warned_about(files):
    assert warning(files, good(1), tokenizer=files.folder).code == "tokens-not-counted"


@pytest.mark.parametrize("ratio", [None, 0.5])
def test_a_positive_of_both_sides_is_warned_about(files, ratio):
    train = files.raw("train.jsonl", "".join(f"{good(number, pos=['same'])}\n" for number in range(8)))
    evaluation = () if ratio else (files.raw("eval.jsonl", good(9, pos=["same "])),)
    gathered = run_data_pass(Request((train,), evaluation, eval_ratio=ratio))
    [warned] = gathered.ledger.warnings
    assert (warned.code, warned.count) == ("document-also-in-eval", gathered.ledger.sides["train"].kept)


def test_a_positive_of_both_sides_is_counted_where_its_training_row_is_kept(files):
    rows = [good(number, pos=["same"]) for number in range(4)]
    train = files.raw("train.jsonl", "\n".join([*rows, good(9, pos=["same"], neg=["z"])]))
    gathered = run_data_pass(Request((train,), (files.raw("eval.jsonl", good(9, pos=["same"])),), limit_train=3))
    counts = {found.code: found.count for found in gathered.ledger.warnings}
    assert counts == {"query-also-in-eval": 1, "document-also-in-eval": 3}


def test_texts_that_will_be_cut_are_warned_about(files):
    tokenizers = pytest.importorskip("tokenizers")
    from orchestrator.data.tokens import LengthBudget

    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"?": 0}, unk_token="?"))  # noqa: S106 - no password
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.save(str(files.folder / "tokenizer.json"))
    budget = LengthBudget(4, 8, prompt="")
    warned = warning(files, good(1, neg=["w " * 11]), tokenizer=files.folder, budget=budget)
    assert (warned.code, warned.count) == ("texts-cut", 1)
    assert warned.message.endswith("train 0 queries, 1 documents, 1 tokens in all")


def test_the_documentation_lists_every_reason_as_the_table_has_it():
    text = DOCS.read_text(encoding="utf-8")
    table = re.findall(r"^\| `([a-z0-9-]+)` \| (refused|bad|dropped|warning) \| (.+?) \| (.+?) \|$", text, re.MULTILINE)
    assert table == [(reason.code, reason.outcome, reason.what, reason.remedy) for reason in REASONS.values()]


def test_every_example_row_of_the_documentation_is_of_the_kind_it_stands_under():
    text = DOCS.read_text(encoding="utf-8").partition("## Which loss fits")[0]
    for title, kind, count in (
        *(("Groups", "group", 4), ("Labelled rows", "labelled", 3)),
        *(("Pairs", "pair", 3), ("Conversations", "chat", 5)),
    ):
        section = text.partition(f"### {title}\n")[2].partition("\n### ")[0]
        blocks = re.findall(r"```json\n(.+?)```", section, re.DOTALL)
        rows = [json.loads(row) for block in blocks for row in re.split(r"\n(?=\{)", block.strip())]
        assert len(rows) == count
        rules = RowRules(kind, needs_negatives=False)
        assert not [row for row in rows if isinstance(check_row(row, source="a", line=1, rules=rules), Fault)]


def test_the_documentation_lists_every_loss_and_every_form():
    text = DOCS.read_text(encoding="utf-8")
    assert not [name for name in (*list_names(), *TRAIN_FORMS) if f"`{name}`" not in text]
