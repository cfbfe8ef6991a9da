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
        "the file's name ends in something other than .jsonl, .ndjson or .json",
        "convert it to JSON Lines, or rename it if it is JSON Lines already",
    ),
    Reason("empty-file", "refused", "the file holds no rows", "remove the file from the recipe, or fill it"),
    Reason("compressed", "refused", "the file is compressed or in a binary format", "unpack or convert it to .jsonl"),
    Reason("utf-16", "refused", "the file is UTF-16 or UTF-32", "save it as UTF-8"),
    Reason("bad-utf-8", "refused", "a byte sequence is not UTF-8", "save the file as UTF-8"),
    Reason("nul-byte", "refused", "the file holds a NUL byte, so it is damaged or binary", "write the file again"),
    Reason(
        "broken-list", "refused", "a JSON list has a syntax error or does not end", "correct it, or write JSON Lines"
    ),
    Reason("same-file", "refused", "one file is given for both sides", "give another file, or use eval_ratio"),
    Reason("input-is-output", "refused", "a file to read would be overwritten", "choose another output folder"),
    Reason("output-exists", "refused", "a file to write exists already", "remove it, or choose another folder"),
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
    Reason("no-rows-kept", "refused", "no row of a side is left", "see what was dropped, and why"),
    Reason(
        "too-few-rows",
        "refused",
        "fewer training rows are left than one step of the trainer takes",
        "add rows, or lower per_device_train_batch_size or nproc_per_node",
    ),
    Reason("too-few-queries", "refused", "a split needs two different queries", "add queries, or give an eval file"),
    # One row
    Reason("not-json", "bad", "the line is not JSON (NaN and Infinity are not JSON)", "write rows with a JSON library"),
    Reason(
        "not-an-object", "bad", "the row is not a JSON object", 'write {"query": "…", "pos": ["…"], "neg": ["…", "…"]}'
    ),
    Reason("duplicate-key", "bad", "one object names a key twice", "keep one of them"),
    Reason("missing-key", "bad", "query, pos or neg is missing", "add it; near names are pointed out"),
    Reason("wrong-type", "bad", "a value has the wrong type, such as a pos that is a string", "put it in a list"),
    Reason("lone-surrogate", "bad", "a text holds half of a UTF-16 pair, such as \\ud800", "repair the text"),
    Reason("empty-query", "bad", "the query is empty or white space", "fill it, or remove the row"),
    Reason("no-positive", "bad", "pos is an empty list", "add a relevant document, or remove the row"),
    Reason("no-negative", "bad", "neg is an empty list", "add documents that do not answer, or mine hard negatives"),
    Reason("empty-text", "bad", "a document is empty or white space", "fill it, or remove it from the list"),
    Reason("scores-length", "bad", "the teacher scores do not match the documents one to one", "one score a document"),
    Reason("scores-not-numbers", "bad", "a teacher score is not a finite number", "write finite numbers"),
    Reason(
        "positive-among-negatives",
        "bad",
        "one document is positive and negative (same text after NFC and white space)",
        "remove it from one of the lists",
    ),
    # Rows that are dropped without being bad
    Reason("duplicate", "dropped", "an earlier row of the side has the same query, pos, neg and prompt", "none needed"),
    Reason(
        "query-also-in-eval",
        "dropped",
        "the training row's query is also in the eval set (a leak); warned about too",
        "none needed; --allow-overlap keeps such rows",
    ),
    Reason("over-limit", "dropped", "the row comes after --limit-train or --limit-eval", "none needed"),
    # Rows that are kept
    Reason("duplicate-positive", "warning", "a row lists one positive twice; the repeat is left out", "none needed"),
    Reason("duplicate-negative", "warning", "a row lists one negative twice; the repeat is left out", "none needed"),
    Reason("unknown-keys", "warning", "rows have keys that are not used", "remove or rename them"),
    Reason("document-also-in-eval", "warning", "a document is a positive on both sides", "see that this is meant"),
    Reason("other-form", "warning", "a .json holds JSON Lines, or a .jsonl a list; it is read as such", "rename it"),
    Reason("texts-cut", "warning", "texts are longer than the lengths and will be cut", "raise the lengths"),
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
