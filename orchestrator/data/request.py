"""What a pass over the data reads and how it treats it, and the command line of the prepare stage that says so."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from orchestrator.data.fit import LossRequirements
from orchestrator.data.forms import TRAIN_FORMS, RowOptions
from orchestrator.data.rows.checks import RowRules
from orchestrator.data.rows.records import KINDS
from orchestrator.data.rows.shapes import parse_columns, require_kind
from orchestrator.data.tokens import DEFAULT_PROMPT, LengthBudget, TokenLimit
from orchestrator.recipe.losses import MARGINS, find_losses, list_names

T = TypeVar("T")


@dataclass(frozen=True)
class RowFiles:
    """Which rows are scored, mined or measured on, and how they are read; none needs negatives.

    They are the first `limit` of all files together, and `max_dropped` of them may be bad; with `replace` they may have
    teacher scores, which are given anew.
    """

    files: tuple[Path, ...]
    rules: RowRules = field(default_factory=RowRules)
    limit: int | None = None
    max_dropped: int = 0
    replace: bool = False


@dataclass(frozen=True)
class Request:
    """What to read and how to treat it. At most one of `eval_files` and `eval_ratio` is given.

    Without `train_files` there is an eval side only. `merges`: the labelled training rows of a query become one group,
    as those for evaluation always do; what waits for that lies in `spool_folder` (None: where temporary files do).
    `seen` are prepared files of another request, whose queries no training row may have.
    For a look at the data: `first_rows` of each file are read, and tokens estimated where no tokenizer counts them.
    """

    train_files: tuple[Path, ...]
    eval_files: tuple[Path, ...] = ()
    eval_ratio: float | None = None
    seed: int = 42
    allow_overlap: bool = False
    limit_train: int | None = None
    limit_eval: int | None = None
    tokenizer: Path | None = None
    budget: LengthBudget | TokenLimit | None = None
    rules: RowRules = field(default_factory=RowRules)
    requirements: LossRequirements = field(default_factory=LossRequirements)
    validation_ratio: float | None = None
    min_validation: int = 1
    takes_scores: bool = True
    corpus: bool = False
    merges: bool = False
    spool_folder: str | None = None
    seen: tuple[Path, ...] = ()
    first_rows: int | None = None
    estimates: bool = False
    ranks_validation: bool = False

    @property
    def limit_validation(self) -> int | None:
        """The share of the training rows asked for, and at least what the trainer takes at once; None is no limit."""
        if self.limit_train is None or self.validation_ratio is None:
            return None
        return max(self.min_validation, round(self.limit_train * self.validation_ratio), 1)


@dataclass(frozen=True)
class Outputs:
    """Where the prepared data goes, and in which backend's form; "" where nothing is trained on.

    `sources` are the names of a file for the rows of each training file, in the folder of the training sources.
    """

    folder: Path
    form: str = ""
    max_dropped: int = 0
    full_batch_rows: int = 1
    options: RowOptions = field(default_factory=RowOptions)
    sources: tuple[str, ...] = ()


def _number(read: Callable[[str], Any], fits: Callable[[Any], bool], wrong: str) -> Callable[[str], Any]:
    """Return a reader of numbers that fit; `wrong` is said of any other."""

    def parse(text: str) -> Any:
        if not fits(number := read(text)):
            raise argparse.ArgumentTypeError(wrong.format(text))
        return number

    parse.__name__ = read.__name__  # argparse names it where the text is no number at all
    return parse


positive = _number(int, lambda number: number >= 1, "{} is not a positive whole number")
_not_negative = _number(int, lambda number: number >= 0, "{} is negative")
_ratio = _number(float, lambda number: 0 < number < 1, "{} is not between 0 and 1")
_finite = _number(float, math.isfinite, "{} is not a finite number")
# one document of the highest label and one of the lowest
_group_size = _number(int, lambda number: number >= 2, "a group of {} has nothing to compare")  # noqa: PLR2004


def _build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="orchestrator.data.prepare", allow_abbrev=False)
    add = parser.add_argument
    add("--train", dest="train_files", nargs="+", type=Path, required=True, metavar="FILE", help="training rows")
    side = parser.add_mutually_exclusive_group()
    side.add_argument("--eval", dest="eval_files", nargs="+", type=Path, default=[], metavar="FILE", help="eval rows")
    side.add_argument("--eval-ratio", type=_ratio, metavar="R", help="share of the queries to hold out")
    add("--kind", choices=KINDS, default="group", help="what the rows are (default group)")
    add("--form", choices=sorted(TRAIN_FORMS), required=True, help="whose training rows to write")
    add("--allow-overlap", action="store_true", help="keep training rows whose query is in the eval set")
    add("--seen", nargs="+", type=Path, default=[], metavar="FILE", help="prepared rows whose queries none may have")
    add(
        "--full-batch", dest="full_batch_rows", type=positive, default=1, metavar="N",
        help="rows that one step takes on all processes",
    )  # fmt: skip
    add(
        "--by-source", dest="sources", nargs="+", default=[], metavar="NAME",
        help="FlagEmbedding: a file for each of --train, too",
    )  # fmt: skip
    add("--limit-train", type=positive, metavar="N", help="keep the first N training rows")
    add("--validation-ratio", type=_ratio, metavar="R", help="share of the training queries for the trainer's own eval")
    add("--min-validation", type=positive, metavar="N", help="rows that the trainer takes an evaluation batch")
    add("--ranks-validation", action="store_true", help="the best checkpoint has the best order of the validation rows")
    add_shared(parser)
    _add_lengths(parser)
    _add_loss(parser)
    _add_labels(parser)
    return parser


def add_shared(parser: argparse.ArgumentParser) -> None:
    """Add the options of both prepare stages: how rows are read, and where the files go."""
    add_reading(parser)
    add = parser.add_argument
    add("--min-label", type=_finite, metavar="X", help="labelled: the label that becomes 0 (default 0)")
    add("--max-label", type=_finite, metavar="Y", help="labelled: the label that becomes 1 (default 1)")
    add("--scores-as-labels", action=argparse.BooleanOptionalAction, help="labelled: what the scores of a row are")
    add("--out", type=Path, required=True, metavar="DIR", help="folder for the prepared files")
    add("--max-dropped", type=_not_negative, default=0, metavar="N", help="bad rows that may be dropped (default 0)")
    add("--corpus", action="store_true", help="evaluate over a corpus of all eval documents")
    add("--seed", type=int, default=42, help="of the splits and of the documents' order (default 42)")
    add("--limit-eval", dest="limit", type=positive, metavar="N", help="keep the first N eval rows")


def add_reading(parser: argparse.ArgumentParser) -> None:
    """Add the options that every reader of rows has."""
    add = parser.add_argument
    add("--columns", nargs="+", default=[], metavar="NEW=OLD", help="columns to read under new names, in every file")
    add("--ignore", nargs="+", default=[], metavar="KEY", help="keys whose texts are not needed")
    add("--encoding", metavar="NAME", help="of text files that are not UTF-8; auto goes by how each begins")


def read_row_files(parser: argparse.ArgumentParser, given: argparse.Namespace, files: Sequence[Path]) -> RowFiles:
    """Return what a command line says of `files`. Ends with code 2 where --columns are none."""
    try:
        columns = parse_columns(given.columns)
    except ValueError as error:
        parser.error(f"--columns {error}: write NEW=OLD, each name once")
    return _take(RowFiles, given, files=tuple(files), rules=_take(RowRules, given, columns=columns))


def _add_lengths(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--tokenizer", type=Path, metavar="PATH", help="tokenizer.json, or its folder: count tokens")
    add("--query-max-len", type=positive, metavar="N", help="FlagEmbedding: say what will be cut")
    add("--passage-max-len", type=positive, metavar="N")
    add("--query-instruction", default="", metavar="TEXT", help="stands in front of every query")
    add("--passage-instruction", default="", metavar="TEXT", help="stands in front of every document")
    add("--apart", action="store_true", help="FlagEmbedding: each text has its length for itself (embedding models)")
    add("--prompt", default=DEFAULT_PROMPT, metavar="TEXT", help="stands behind every pair (FlagEmbedding's default)")
    add("--max-tokens", type=positive, metavar="N", help="the longest text, pair or conversation")
    add("--answer-prefix", default="", metavar="TEXT", help="swift: what the template puts before each answer")
    add("--truncation", choices=("cut", "drop", "split"), default="cut", help="what becomes of longer ones")


def _add_loss(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--instruction", metavar="TEXT", help="swift: the instruction of every training query")
    add("--loss", choices=sorted(list_names()), help="which the data must fit")
    add(
        "--no-in-batch-negatives", dest="in_batch_negatives", action="store_false",
        help="infonce takes negatives from the row only",
    )  # fmt: skip
    add("--hard-negatives", type=positive, metavar="N", help="negatives of a row that the loss uses")
    add("--translations", action="store_true", help="the texts of a row mean the same: it has no negatives")
    add("--num-labels", type=positive, metavar="N", help="softmax: the classes of pairs, numbered from 0")
    add("--max-positives", type=positive, metavar="N", help="positives of a row that a step takes")
    add("--max-negatives", type=positive, metavar="N", help="negatives for each of them")


def _add_labels(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--target", choices=("label", "teacher"), help="labelled: what is learnt (margin_mse: teacher, others: label)")
    add("--graded", action="store_true", help="listwise_ce: the labels of a query are a distribution")
    add(
        "--train-group-size", dest="group_size", type=_group_size, metavar="N",
        help="labelled: draw N documents of a larger group",
    )  # fmt: skip
    add("--needs-scores", action="store_true", help="a row without teacher scores is bad")


def parse_arguments(argv: Sequence[str] | None) -> tuple[Request, Outputs]:
    """Return what the command line asks for. Exits with code 2 when it makes no sense."""
    parser = _build_parser()
    given = parser.parse_args(argv)
    kind, form = require_kind(given.kind), TRAIN_FORMS[given.form]
    if kind not in form.kinds:
        parser.error(f"--form {given.form} has no place for --kind {kind}")
    check_shared(parser, given)
    if given.sources and len(given.sources) != len(given.train_files):
        parser.error("--by-source takes a name for each file of --train")
    if given.min_validation and given.validation_ratio is None:
        parser.error("--min-validation goes with --validation-ratio")
    rows = read_row_files(parser, given, given.train_files)
    _check_labels(parser, given)
    learns_scores = kind == "labelled" and given.target == "teacher"
    rules = replace(
        rows.rules, needs_negatives=form.needs_negatives, takes_prompt=form.takes_prompt,
        needs_scores=given.needs_scores or learns_scores,
    )  # fmt: skip
    request = _take(
        Request, given, limit_eval=given.limit, budget=_parse_budget(parser, given), rules=rules,
        requirements=_take(LossRequirements, given), min_validation=given.min_validation or 1,
        takes_scores=form.takes_scores or learns_scores, merges=form.merges,
    )  # fmt: skip
    return request, _take(Outputs, given, folder=given.out, options=_take(RowOptions, given))


def _take(kind: type[T], given: argparse.Namespace, **more: Any) -> T:
    """Return a dataclass of what the command line says under the names of its fields, lists as tuples, and `more`."""
    said = {one.name: getattr(given, one.name) for one in fields(kind) if hasattr(given, one.name)}  # type: ignore[arg-type]
    return kind(**{name: tuple(value) if isinstance(value, list) else value for name, value in said.items()} | more)


def _check_labels(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    """Decide on the target. Ends with code 2 where options of labels do not fit the kind, the form or each other."""
    if given.kind != "labelled" and (given.graded or given.target or given.group_size):
        parser.error("--target, --graded and --train-group-size go with --kind labelled")
    given.target = given.target or ("teacher" if given.form == MARGINS else "label")
    if given.scores_as_labels and given.target == "teacher":
        parser.error("--scores-as-labels leaves no scores for --target teacher")
    forms = [one.form for one in find_losses() if one.name == given.loss and "labelled" in one.kinds]
    form = next(iter(forms), None)
    if given.kind == "labelled" and given.loss and given.form not in forms:
        parser.error(f"--loss {given.loss} goes with --form {form}" if form else f"{given.loss} takes no labelled rows")
    if given.loss == "listwise_ce" and given.target == "teacher" and not given.graded:
        parser.error("--loss listwise_ce with --target teacher goes with --graded: scores are a distribution")


def check_shared(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    """End with code 2 where an option of both stages does not fit the kind, or the labels' range is none."""
    if given.corpus and given.kind not in {"group", "labelled", "class"}:
        parser.error("--corpus goes with --kind group, labelled or class")
    if given.kind != "labelled" and (given.min_label, given.max_label) != (None, None):
        parser.error("--min-label and --max-label go with --kind labelled")
    if given.kind != "labelled" and given.scores_as_labels:
        parser.error("--scores-as-labels goes with --kind labelled")
    if given.min_label is not None and given.max_label is None:
        parser.error("--min-label goes with --max-label")
    if given.max_label is not None and given.max_label <= (given.min_label or 0):
        parser.error("--max-label must lie above --min-label")
    if given.max_label is not None and not math.isfinite(given.max_label - (given.min_label or 0)):
        parser.error("--min-label and --max-label lie too far apart")


def _parse_budget(parser: argparse.ArgumentParser, given: argparse.Namespace) -> LengthBudget | TokenLimit | None:
    lengths = (given.query_max_len, given.passage_max_len)
    if lengths.count(None) == 1:
        parser.error("--query-max-len and --passage-max-len go together")
    if None not in lengths and given.max_tokens:
        parser.error("--max-tokens is swift's, --query-max-len and --passage-max-len are FlagEmbedding's")
    if given.max_tokens:
        return _take(TokenLimit, given, prompts=(given.query_instruction, given.passage_instruction))
    return None if None in lengths else _take(LengthBudget, given)
