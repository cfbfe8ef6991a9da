"""The sides of the data (train, eval, validation): which one a query belongs to, and what two of them share.

A query's side depends on the seed and the query only: not on the other rows, not on their order. All rows of one query
go together.
"""

from __future__ import annotations

import json
import math
from array import array
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from orchestrator.data.digests import NORMALISED, DigestSet, digest, document_key, loose_key, query_key
from orchestrator.data.earlier_rows import EarlierRows, Merger
from orchestrator.data.fit import LossFit
from orchestrator.data.ledger import Findings, SideLedger
from orchestrator.data.reasons import problem_of
from orchestrator.data.rows.records import Chat, Kind, LabelledGroup, RankingGroup, Record, ScoredPair, is_relevant
from orchestrator.data.stats import SideStatistics, TokenStatistics
from orchestrator.data.tokens import LengthRule, Measured, MeasuringQueue, TextCounter
from orchestrator.errors import DataError, Problem, Where

_RANGE = 1 << 64
SALTS = {"eval": "", "validation": "validation "}  # of the sides that are split off, in this order


def hash_query(query: str, seed: int, *, salt: str = "") -> int:
    """Return a query's place in 0 … 2**64 - 1; texts that `loose_key` makes equal share it.

    Draws of another salt are independent: those for validation say nothing of those for eval.
    """
    data = f"{salt}{seed}\n{loose_key(query)}".encode()
    return int.from_bytes(blake2b(data, digest_size=8).digest(), "big")


def find_threshold(eval_ratio: float) -> int:
    """Return a ratio's threshold: queries drawn below it go to eval. Raises DataError unless 0 < eval_ratio < 1."""
    if not (math.isfinite(eval_ratio) and 0 < eval_ratio < 1):
        raise DataError(f"eval_ratio is {eval_ratio}", hint="give a number between 0 and 1, such as 0.1")
    return int(eval_ratio * _RANGE)


class SplitDraw:
    """Parts queries by their draws: those below `threshold` go to another side."""

    def __init__(self, threshold: int, seed: int, salt: str = "") -> None:
        self.threshold = threshold
        self._seed = seed
        self._salt = salt
        self._low, self._high = _RANGE, -1  # of the draws so far

    def takes(self, query: str) -> bool:
        """Draw a query, and return whether it goes to the other side."""
        place = hash_query(query, self._seed, salt=self._salt)
        self._low, self._high = min(self._low, place), max(self._high, place)
        return place < self.threshold

    @property
    def has_one_query(self) -> bool:
        """Whether all queries so far, and there were some, are the same."""
        return self._low == self._high

    @property
    def adjusted(self) -> int | None:
        """The nearest threshold that gives both sides a query, None where this one does or none can."""
        if self._low >= self._high or self._low < self.threshold <= self._high:
            return None
        return self._low + 1 if self._low >= self.threshold else self._high


Sink = Callable[[Record], None]


@dataclass
class AllOrNone:
    """Which rows of a side have something that all or none must have: the first row with it, the first without."""

    with_it: tuple[str, int] | None = None
    without: tuple[str, int] | None = None

    def note(self, path: str, line: int, *, has: bool) -> None:
        """Look at one row."""
        if has:
            self.with_it = self.with_it or (path, line)
        else:
            self.without = self.without or (path, line)

    def problem(self, code: str, what: str) -> list[Problem]:
        """Return that some rows have it and some do not."""
        if not (self.with_it and self.without):
            return []
        path, line = self.without
        message = f"this row has no {what}, and {self.with_it[0]}:{self.with_it[1]} has"
        return [problem_of(code, message, where=Where(path, line))]


_ASK = (
    "if the scores are labels, say data.scores_as_labels: true (--scores-as-labels); "
    "if they are a teacher's, false (--no-scores-as-labels)"
)


class LabelSources:
    """What the rows of one side know of their documents' labels: real labels, sides, or scores beside the sides."""

    def __init__(self) -> None:
        self._labelled = self._has_negatives = False
        self._scored: tuple[str, int] | None = None

    def note(self, row: Mapping[str, Any], path: str, line: int) -> None:
        """Look at one row, with its keys in canonical names."""
        if "pos" not in row:
            self._labelled = True
            return
        self._has_negatives |= bool(row.get("neg"))
        if self._scored is None and row.get("pos_scores") is not None:
            self._scored = (path, line)

    def problem(self, *, ranged: bool, needs_negatives: bool = True) -> list[Problem]:
        """Return that nobody has said whether scores are labels, where only they could be such.

        `ranged`: a range of labels was given; `needs_negatives`: rows of positives alone have nothing to tell apart.
        """
        if self._labelled or self._scored is None:
            return []
        if ranged:
            why = "a range of labels was given, and no row has a label"
        elif needs_negatives and not self._has_negatives:
            why = "every document is a positive"
        else:
            return []
        path, line = self._scored
        message = f'{why}, but rows have "pos_scores": nothing says whether these are labels'
        return [problem_of("scores-or-labels", message, hint=_ASK, where=Where(path, line))]


class Side:
    """One side of the data; `fit` is there where the trainer reads it."""

    def __init__(self, name: str, kind: Kind, limit: int | None, sink: Sink | None, fit: LossFit | None) -> None:
        """Start empty; of the records beyond `limit` none is kept, and the others go to `sink`."""
        self.name = name
        self.ledger = SideLedger(name)
        self.fit = fit
        self.earlier = EarlierRows()
        self.merger: Merger | None = None  # where a query's rows become one group
        self.prompts = AllOrNone()
        self.scores = AllOrNone()
        self.statistics = SideStatistics(kind)
        self._kind = kind
        self._limit = limit
        self._sink = sink
        self.queue = MeasuringQueue()

    def count_tokens(self, counter: TextCounter, rule: LengthRule, path: Path | None) -> None:
        """Count tokens from now on, with the tokenizer of `path`; None: they are estimated."""
        self.queue = MeasuringQueue(counter, rule)
        self.statistics = SideStatistics(self._kind, TokenStatistics(rule, path))

    def keep(self, path: str, record: Record, measured: Measured | None, findings: Findings) -> bool:
        """Keep a record unless enough are kept; return whether it was."""
        if isinstance(record, RankingGroup | LabelledGroup):
            self.prompts.note(path, record.line, has=record.prompt is not None)
            self.scores.note(path, record.line, has=record.scores is not None)
        if self._limit is not None and self.ledger.kept >= self._limit:
            message = f"only {self._limit} rows were asked for"
            findings.drop(self.ledger, path, record.line, "over-limit", message)
            return False
        self.ledger.kept += 1
        self.statistics.add(record, measured)
        if self._sink:
            self._sink(record)
        return True


class RankableRows:
    """Whether an order of the rows that it has seen can be measured, by which the best checkpoint is found.

    A query of a labelled group needs a relevant document and another one, in any of its rows, and pairs need two
    scores; a query with positives searches the documents of all rows.
    """

    def __init__(self) -> None:
        self.known = False
        self._seen: dict[bytes, bool] = {}  # of each query, whether its documents so far are relevant
        self._scores: set[float] = set()

    def note(self, record: Record) -> None:
        """Look at one row that is kept."""
        if isinstance(record, ScoredPair):
            self._scores.add(record.score)
            self.known = self.known or len(self._scores) > 1
        elif isinstance(record, LabelledGroup):
            key = digest((query_key(record.query),))
            kinds = {is_relevant(label) for label in record.labels}
            self.known = self.known or len(kinds | {self._seen.setdefault(key, next(iter(kinds)))}) > 1
        else:
            self.known = True

    def problem(self) -> list[Problem]:
        """Return that there is none to measure."""
        what = "no query has both a relevant and another document, and pairs have one score at most"
        hint = "say train.metric_for_best_model: loss, or set more rows aside: data.validation_ratio"
        return (
            [] if self.known else [problem_of("validation-without-order", f"of the validation rows {what}", hint=hint)]
        )


# What the sides have in common


KEEP_OVERLAP = (
    "give other rows to measure on, or eval_ratio; data.overlap: keep (--allow-overlap) trains on what is measured"
)


class Overlap:
    """The texts of both sides: of each what `loose_key` says, and the exact text, which tells the rule that found it.

    Rows of the eval set come before those that `drops_leak` is asked about. Where one file is split, a train text may
    come before its eval twin: those are looked up at the end.
    """

    def __init__(self, findings: Findings, *, is_allowed: bool) -> None:
        """Look for what both sides have; `is_allowed`: training rows are kept all the same."""
        self._findings = findings
        self._is_allowed = is_allowed
        self._queries, self._exact_queries = DigestSet(), DigestSet()
        # Only their number is told, so that a hash of 64 bits will do.
        self._eval_answers, self._exact_eval_answers, self._eval_questions = set[int](), set[int](), set[int]()
        self._train_answers, self._exact_train_answers, self._train_questions = array("q"), array("q"), array("q")
        self._loose_leaks = 0

    def note_eval(self, record: Record) -> None:
        """Take down the query of a row of the eval set."""
        self._note_query(record.split_text)
        if isinstance(record, Chat):
            self._eval_questions.add(hash(loose_key(record.split_text)))

    def note_file(self, path: Path) -> None:
        """Take down the queries of a prepared file."""
        with path.open(encoding="utf-8") as lines:
            for row in map(json.loads, lines):
                self._note_query(row.get("query", row.get("text1", "")))

    def _note_query(self, text: str) -> None:
        self._queries.add(digest((loose_key(text),)))
        self._exact_queries.add(digest((query_key(text),)))

    def note_kept_eval(self, record: Record) -> None:
        """Take down the answers of a row of the eval set that is kept."""
        for text in record.answers:
            self._eval_answers.add(hash(loose_key(text)))
            self._exact_eval_answers.add(hash(document_key(text)))

    def note_kept_train(self, record: Record, *, is_split: bool) -> None:
        """Take down the answers of a training row that is kept; `is_split`: the eval set is split off its file."""
        for text in record.answers:
            self._train_answers.append(hash(loose_key(text)))
            self._exact_train_answers.append(hash(document_key(text)))
        if is_split and isinstance(record, Chat):  # with an eval file they are leaks
            for text in record.earlier_questions:
                self._train_questions.append(hash(loose_key(text)))

    def drops_leak(self, ledger: SideLedger, path: str, record: Record) -> bool:
        """Return whether a training row is dropped because its query is in the eval set; warn in any case."""
        is_chat = isinstance(record, Chat)
        questions = [record.split_text, *(record.earlier_questions if isinstance(record, Chat) else ())]
        found = [text for text in questions if digest((loose_key(text),)) in self._queries]
        if not found:
            return False
        exact = any(digest((query_key(text),)) in self._exact_queries for text in found)
        self._loose_leaks += not exact
        message = "training rows with a query of the eval set: {n}"
        if is_chat:
            message = "training conversations with an answer that the eval set asks for, after the same turns: {n}"
        if self._loose_leaks:
            message += f", {self._loose_leaks} of them {NORMALISED}"
        what = (
            "kept, as allowed: the result will look better than it is"
            if self._is_allowed
            else "dropped, for with them the result would look better than it is"
        )
        self._findings.warn("query-also-in-eval", f"{message}; {what}", example=f"{path}:{record.line}")
        if not self._is_allowed:
            asked = "what an answer answers" if is_chat else "the query"
            detail = f"{asked} is in the eval set ({'exact' if exact else NORMALISED})"
            self._findings.drop(ledger, path, record.line, "query-also-in-eval", detail)
        return not self._is_allowed

    def warn_shared(self) -> None:
        """Warn of answers, and of earlier questions of conversations, that both sides have."""
        if shared := _count_shared(self._train_answers, self._eval_answers):
            message = "training positives that are positives of the eval set too: {n}"
            if loose := shared - _count_shared(self._exact_train_answers, self._exact_eval_answers):
                message += f", {loose} of them {NORMALISED}"
            self._findings.warn("document-also-in-eval", message, count=shared)
        if shared := _count_shared(self._train_questions, self._eval_questions):
            message = "earlier answers of training conversations that the eval set asks for, after the same turns: {n}"
            self._findings.warn("answer-also-in-eval", message, count=shared)


def _count_shared(hashes: Iterable[int], others: Collection[int]) -> int:
    return sum(one in others for one in hashes)
