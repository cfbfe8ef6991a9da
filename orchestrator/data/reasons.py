"""Every reason for which a file is refused or a row is bad, dropped or warned about: one table.

To add a reason, add its row here and to docs/data-formats.md (a test holds the two together), and raise or count it by
its code; a code that is not in the table is a KeyError.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from orchestrator.errors import DataError, Problem, Where

Outcome = Literal["refused", "bad", "dropped", "warning"]


@dataclass(frozen=True)
class Reason:
    """One kind of finding.

    `outcome`: refused = nothing is prepared; bad = the row is dropped and counts against --max-dropped;
    dropped = the row is dropped and that is no fault; warning = the row is kept.
    """

    code: str
    outcome: Outcome
    what: str
    remedy: str


@dataclass(frozen=True)
class Fault:
    """Why one row is bad: the reason's code, what was found, what to do."""

    code: str
    message: str
    hint: str


_TABLE = (
    # The file as a whole
    Reason("file-not-found", "refused", "the path does not exist", "check the path; it is relative to the recipe"),
    Reason("not-a-file", "refused", "the path is a folder, a pipe or a device", "name the .jsonl or .json file itself"),
    Reason("not-readable", "refused", "the operating system refuses to read the file", "check its permissions"),
    Reason(
        "unknown-ending",
        "refused",
        "the file's name ends in something other than .jsonl, .ndjson, .json, .csv, .tsv, .parquet or .arrow",
        "convert it to JSON Lines, or rename it if it is JSON Lines already",
    ),
    Reason("empty-file", "refused", "the file holds no rows", "remove the file from the recipe, or fill it"),
    Reason(
        "compressed",
        "refused",
        "the file is packed in a way that is not read, or damaged",
        "unpack or convert it to .jsonl",
    ),
    Reason("utf-16", "refused", "the file is UTF-16 or UTF-32", "save it as UTF-8"),
    Reason("bad-utf-8", "refused", "a byte sequence is not UTF-8", "save the file as UTF-8"),
    Reason(
        "row-too-large", "refused", "one row takes more than 64 MiB, or than there is memory", "split it into more rows"
    ),
    Reason(
        "wrapped-rows",
        "refused",
        "the file is one JSON object, and its rows stand in a list under one of its keys",
        "orch data convert FILE --rows KEY -o NEW.jsonl",
    ),
    Reason("nul-byte", "refused", "the file holds a NUL byte, so it is damaged or binary", "write the file again"),
    Reason(
        "broken-list",
        "refused",
        "JSON that spans lines has a syntax error or does not end",
        "write JSON Lines, or correct it",
    ),
    Reason("bad-header", "refused", "the first line of a table does not name its columns", "name each column, once"),
    Reason(
        "wrong-separator",
        "refused",
        "the header of a .csv has no commas, or that of a .tsv no tabs, but another separator",
        "save .csv with commas and .tsv with tabs",
    ),
    Reason(
        "broken-csv",
        "refused",
        "quotes in a .csv or .tsv are not closed, or text follows a closing quote",
        "write tables with a CSV library",
    ),
    Reason("parquet-needs-pyarrow", "refused", "pyarrow, which reads Parquet, is not installed", "pip install pyarrow"),
    Reason("broken-parquet", "refused", "the file is not Parquet, or is damaged", "write the file again"),
    Reason("same-file", "refused", "one file is given for both sides", "give another file, or use eval_ratio"),
    Reason("input-is-output", "refused", "a file to read would be overwritten", "choose another output folder"),
    Reason("output-exists", "refused", "a file to write exists already", "remove it, or choose another folder"),
    Reason(
        "unknown-column", "refused", "a column that is to be renamed is in no row of a file", "name one that is there"
    ),
    Reason(
        "column-exists",
        "refused",
        "a column would get the name of another one of its row",
        "rename or leave out the other one too: --map or --only-mapped",
    ),
    Reason(
        "would-be-lost",
        "refused",
        "orch data convert cannot keep something of a row in the form wanted",
        "the message names the option that leaves it out",
    ),
    Reason(
        "conflicting-judgements",
        "refused",
        "orch data convert finds two labels or two scores for one document of a query",
        "keep one of them",
    ),
    # All rows of one side together
    Reason(
        "scores-on-some-rows-only",
        "refused",
        "only some training rows have teacher scores",
        "give every row pos_scores and neg_scores, or none",
    ),
    Reason(
        "prompt-on-some-rows-only",
        "refused",
        "only some rows of a side have a prompt (FlagEmbedding stops mid-epoch)",
        "give every row a prompt, or none",
    ),
    Reason(
        "text-not-read",
        "refused",
        "a key holds text, or labels or scores of the row's documents, and no reader takes it: it would be left out",
        "rename it (data.columns, --map), or say that it is not needed: data.ignore, --ignore",
    ),
    Reason("no-rows-kept", "refused", "no row of a side is left", "see what was dropped, and why"),
    Reason(
        "too-few-rows",
        "refused",
        "fewer training rows are left than one step of the trainer takes",
        "add rows, or lower per_device_train_batch_size or nproc_per_node",
    ),
    Reason("too-few-queries", "refused", "a split needs two different queries", "add queries, or give an eval file"),
    Reason(
        "samples-mixed-in",
        "refused",
        "rows written by orch data sample stand among real ones",
        'remove the rows with "sample": true, or train on samples only',
    ),
    Reason(
        "too-few-validation-rows",
        "refused",
        "fewer validation rows than one evaluation batch takes (ms-swift then dies of KeyError eval_loss)",
        "lower per_device_eval_batch_size, or raise the validation ratio",
    ),
    Reason(
        "scores-or-labels",
        "refused",
        "no row has a label, scores are all that tells documents apart, and nothing says that they are labels",
        "data.scores_as_labels (--scores-as-labels): true reads them as labels, false as a teacher's",
    ),
    Reason(
        "one-label-only",
        "refused",
        "all training pairs have one label, and a loss that looks at one pair at a time needs two",
        "add documents with another label",
    ),
    Reason("loss-misfit", "refused", "the data has no rows that the loss can learn from", "choose the loss that fits"),
    Reason(
        "false-negatives",
        "refused",
        "one in 20 or more of the negatives that infonce takes from the batch answers the query",
        "loss: {type: infonce, use_batch: false} with negatives on every row, or pairs with labels and contrastive",
    ),
    Reason(
        "score-out-of-range",
        "refused",
        "the loss learns scores between two bounds (cosine_similarity -1 and 1), and some lie outside",
        "orch data convert --divide-score 5 for scores from 0 to 5",
    ),
    # One row
    Reason("not-json", "bad", "the line is not JSON (NaN and Infinity are not JSON)", "write rows with a JSON library"),
    Reason(
        "not-an-object", "bad", "the row is not a JSON object", 'write {"query": "…", "pos": ["…"], "neg": ["…", "…"]}'
    ),
    Reason("duplicate-key", "bad", "one object names a key twice", "keep one of them"),
    Reason("missing-key", "bad", "a key is missing", "add it; near names are pointed out"),
    Reason("missing-column", "bad", "a column that is to be renamed is not in the row", "correct the column map"),
    Reason(
        "other-kind",
        "bad",
        "the row is of another kind (group, pair, chat or labelled) than the task takes",
        "give rows of one kind, or choose the task and loss for this one",
    ),
    Reason(
        "label-and-negatives",
        "bad",
        "the row has negatives and a label other than 1",
        "leave the label out, or make it a pair: one row a text",
    ),
    Reason("wrong-type", "bad", "a value has the wrong type, such as a pos that is a string", "put it in a list"),
    Reason("lone-surrogate", "bad", "a text holds half of a UTF-16 pair, such as \\ud800", "repair the text"),
    Reason("empty-query", "bad", "the query is empty or white space", "fill it, or remove the row"),
    Reason("no-documents", "bad", "hits is an empty list", "add documents, or remove the row"),
    Reason("no-positive", "bad", "pos is an empty list", "add a relevant document, or remove the row"),
    Reason("no-negative", "bad", "neg is an empty list", "add documents that do not answer, or mine hard negatives"),
    Reason("empty-text", "bad", "a document is empty or white space", "fill it, or remove it from the list"),
    Reason(
        "label-not-a-number",
        "bad",
        "a label is not a finite number",
        "write finite numbers, such as 0, 0.5 and 1",
    ),
    Reason(
        "label-out-of-range",
        "bad",
        "a label lies outside 0 to 1, or outside the range that was given",
        "give the range: data.max_label (--max-label), such as 2 for 0, 1, 2, and data.min_label",
    ),
    Reason(
        "conflicting-labels",
        "bad",
        "one document has two labels for one query, or is positive and negative, in one row or in two",
        "keep the right one",
    ),
    Reason(
        "not-one-relevant",
        "bad",
        "listwise_ce takes exactly one relevant document a query, a label of 0.5 or more",
        "loss: {type: listwise_ce, graded: true} learns the labels as a distribution",
    ),
    Reason(
        "several-positives",
        "bad",
        "the row has several positives, and swift trains on the first and ignores the others",
        "orch data convert --one-positive",
    ),
    Reason(
        "prompt-not-used",
        "bad",
        "the row has a prompt or system message, for which the trainer has no place",
        "leave it out, and set one instruction for all queries",
    ),
    Reason("not-text", "bad", "the row has images, tools or messages of tools", "give text only"),
    Reason("unknown-role", "bad", "a message is from nobody known", "system, user (human), assistant (gpt, bot)"),
    Reason(
        "broken-turns",
        "bad",
        "the messages do not alternate between user and assistant, after one system message or none",
        "merge or remove messages",
    ),
    Reason(
        "no-answer", "bad", "the conversation does not end with the assistant", "remove what follows the last answer"
    ),
    Reason(
        "loss-mark",
        "bad",
        "a mark of what is learnt cannot be obeyed: it is neither yes nor no, is on a question, or stands at the row",
        'write "loss": true or false on messages of the assistant; data.ignore (--ignore KEY) reads no such mark',
    ),
    Reason("empty-answer", "bad", "the last answer is empty, so that there is nothing to learn", "fill or remove it"),
    Reason(
        "too-long",
        "bad",
        "a text, or a conversation, has more tokens than the trainer takes, and truncation is drop",
        "shorten it, raise max_length, or let the trainer cut",
    ),
    Reason(
        "scores-missing",
        "bad",
        "the row has no teacher scores, and the training learns from them",
        "give every row scores, or name a teacher, which gives them",
    ),
    Reason("scores-length", "bad", "the teacher scores do not match the documents one to one", "one score a document"),
    Reason("scores-not-numbers", "bad", "a score is not a finite number", "write finite numbers"),
    Reason(
        "positive-among-negatives",
        "bad",
        "one document is positive and negative (the same text but for white space, width, case and what is invisible)",
        "remove it from one of the lists",
    ),
    Reason(
        "wrong-field-count", "bad", "a table's row has more or fewer fields than its header", "quote fields with commas"
    ),
    Reason(
        "not-convertible", "bad", "orch data convert cannot read the row as the form named", "see docs/data-formats.md"
    ),
    # Rows that are dropped without being bad
    Reason("duplicate", "dropped", "an earlier row of the side has the same texts, labels and prompt", "none needed"),
    Reason(
        "query-also-in-eval",
        "dropped",
        "the training row's query is also in the eval set (a leak); warned about too",
        "none needed; data.overlap: keep (--allow-overlap) keeps such rows",
    ),
    Reason(
        "one-document",
        "dropped",
        "a query has one document only: list and margin losses have nothing to compare",
        "mine hard negatives, or choose a pointwise loss",
    ),
    Reason(
        "one-label",
        "dropped",
        "all documents of a query have one label: list and margin losses have nothing to compare",
        "mine hard negatives, or choose a pointwise loss",
    ),
    Reason(
        "one-side",
        "dropped",
        "the documents of a query are all relevant (label 0.5 or more) or all not: there is no margin to learn",
        "add documents of the other side, or choose a list loss",
    ),
    Reason(
        "nothing-to-learn",
        "dropped",
        "every answer of the conversation is marked as not to be learnt",
        "none needed",
    ),
    Reason("over-limit", "dropped", "the row comes after --limit-train or --limit-eval", "none needed"),
    # Rows that are kept
    Reason("duplicate-positive", "warning", "a row lists one positive twice; the repeat is left out", "none needed"),
    Reason("duplicate-negative", "warning", "a row lists one negative twice; the repeat is left out", "none needed"),
    Reason("duplicate-document", "warning", "a query has one document twice; the repeat is left out", "none needed"),
    Reason(
        "answers-not-learnt",
        "warning",
        "answers are marked as not to be learnt: they are read, and have no part in training or measuring",
        "none needed",
    ),
    Reason(
        "turns-left-out",
        "warning",
        "turns follow the last answer of a conversation that is learnt: nothing is learnt from them",
        "none needed",
    ),
    Reason("unknown-keys", "warning", "rows have keys that are not used", "remove or rename them"),
    Reason("document-also-in-eval", "warning", "a document is a positive on both sides", "see that this is meant"),
    Reason(
        "answer-also-in-eval",
        "warning",
        "where one file is split: an earlier answer of a training conversation is one that the eval set asks for",
        "split conversations yourself, or mark such answers as not to be learnt",
    ),
    Reason("other-form", "warning", "a .json holds JSON Lines, or a .jsonl a list; it is read as such", "rename it"),
    Reason(
        "samples-only",
        "warning",
        "every row is one of orch data sample: the result says nothing about real data",
        "give data of your own",
    ),
    Reason("texts-cut", "warning", "texts are longer than the lengths and will be cut", "raise the lengths"),
    Reason(
        "nothing-to-rank",
        "warning",
        "eval queries cannot tell models apart: they have no negative, or one label only",
        "add negatives, or evaluate over a corpus",
    ),
    Reason(
        "some-false-negatives",
        "warning",
        "one in 200 or more of the negatives that infonce takes from the batch answers the query",
        "loss: {type: infonce, use_batch: false} takes each row's own negatives only",
    ),
    Reason("few-negatives", "warning", "rows have fewer negatives than asked for; swift repeats some", "mine more"),
    Reason(
        "documents-sampled",
        "warning",
        "rows have more documents than one step takes; swift draws anew in each epoch",
        "raise MAX_POSITIVE_SAMPLES and MAX_NEGATIVE_SAMPLES",
    ),
    Reason(
        "documents-drawn",
        "warning",
        "queries have more documents than train_group_size: one of the highest label, one of the lowest, others drawn",
        "raise train_group_size",
    ),
    Reason(
        "rows-left-over",
        "warning",
        "training rows are no multiple of a full batch: each epoch leaves others out (drop_last)",
        "none needed; per_device_train_batch_size decides how many",
    ),
    Reason("scores-not-used", "warning", "the trainer takes no teacher scores; they are left out", "none needed"),
    Reason(
        "tokens-not-counted", "warning", "the tokenizer cannot be used", "give a folder with tokenizer.json, or none"
    ),
)

REASONS: dict[str, Reason] = {reason.code: reason for reason in _TABLE}
BAD_CODES = frozenset(reason.code for reason in _TABLE if reason.outcome == "bad")


def problem_of(code: str, message: str, *, hint: str | None = None, where: Where | None = None) -> Problem:
    """Return a problem that opens with its reason's code; `hint` defaults to the table's remedy."""
    return Problem(f"{code}: {message}", hint or REASONS[code].remedy, where)


def refuse(
    code: str,
    message: str,
    path: object,
    *,
    line: int | None = None,
    column: int | None = None,
    hint: str | None = None,
) -> DataError:
    """Return the error for a file that cannot be used at all; lines and columns count from 1."""
    problem = problem_of(code, message, hint=hint, where=Where(str(path), line, column))
    return DataError(problem.message, hint=problem.hint, where=problem.where)
