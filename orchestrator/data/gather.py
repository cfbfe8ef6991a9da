"""The one pass over both sides: rows are read, checked, told apart and handed on, and everything is counted."""

from __future__ import annotations

import sys
import time
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.data.checks import check_row
from orchestrator.data.digests import DigestSet, digest, document_key, query_key
from orchestrator.data.ledger import Findings, InputFile, Ledger, SideTally
from orchestrator.data.readers import Source, require_readable, show_path
from orchestrator.data.reasons import Fault, problem_of, refuse
from orchestrator.data.sides import DrawRange, cut_for, draw
from orchestrator.data.statistics import SideStatistics
from orchestrator.data.tokens import LengthBudget, TokenCounter, TokenizerUnusableError, load_tokenizer
from orchestrator.data.verdict import PROBLEMS_SHOWN, Gathered
from orchestrator.errors import Problem, Where

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from orchestrator.data.decoding import Row
    from orchestrator.data.groups import RankingGroup

STATS_VERSION = 1
_PROGRESS_EVERY_S = 1.0


@dataclass(frozen=True)
class Request:
    """What to read and how to treat it. At most one of `eval_files` and `eval_ratio` is given."""

    train_files: tuple[Path, ...]
    eval_files: tuple[Path, ...] = ()
    eval_ratio: float | None = None
    seed: int = 42
    allow_overlap: bool = False
    limit_train: int | None = None
    limit_eval: int | None = None
    tokenizer: Path | None = None
    budget: LengthBudget | None = None


def gather(
    request: Request,
    *,
    cut: int | None = None,
    on_train: Callable[[RankingGroup], None] | None = None,
    on_eval: Callable[[RankingGroup], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Gathered:
    """Read every file of the request once and hand each kept group on, eval files first.

    `cut` stands in for the request's eval_ratio where a first pass returned a `mended_cut`: the ratio had left a side
    without queries. `on_progress` is told (bytes read, bytes in all), about once a second. Raises DataError when a file
    cannot be read at all; bad rows are counted, not raised.
    """
    return _Pass(request, cut, on_train, on_eval, on_progress).run()


class _Some:
    """Which rows of a side have something that all or none must have: the first row with it, the first without."""

    def __init__(self) -> None:
        self.with_it: tuple[str, int] | None = None
        self.without: tuple[str, int] | None = None

    def note(self, path: str, line: int, *, has: bool) -> None:
        if has:
            self.with_it = self.with_it or (path, line)
        else:
            self.without = self.without or (path, line)

    def problem(self, code: str, what: str) -> list[Problem]:
        if not (self.with_it and self.without):
            return []
        path, line = self.without
        message = f"this row has no {what}, and {self.with_it[0]}:{self.with_it[1]} has"
        return [problem_of(code, message, where=Where(path, line))]


class _Side:
    """One side while its rows stream by."""

    def __init__(self, name: str, limit: int | None, sink: Callable[[RankingGroup], None] | None) -> None:
        self.tally = SideTally(name)
        self.limit = limit
        self.sink = sink
        self.seen = DigestSet()
        self.prompts = _Some()
        self.scores = _Some()
        self.tokens: TokenCounter | None = None
        self.statistics = SideStatistics()


class _Pass:
    """State of one pass."""

    def __init__(
        self,
        request: Request,
        cut: int | None,
        on_train: Callable[[RankingGroup], None] | None,
        on_eval: Callable[[RankingGroup], None] | None,
        on_progress: Callable[[int, int], None] | None,
    ) -> None:
        self.request = request
        if cut is None and request.eval_ratio is not None:
            cut = cut_for(request.eval_ratio)
        self.cut = cut
        self.draws = DrawRange()
        self.findings = Findings()
        self.bad_rows: list[Problem] = []
        self.train = _Side("train", request.limit_train, on_train)
        self.eval = _Side("eval", request.limit_eval, on_eval)
        self.eval_queries = DigestSet()
        self.eval_positives = DigestSet()
        # Where one file is split, a train positive may come before its eval twin: it is looked up at the end.
        self.train_positives = array("Q")
        self.on_progress = on_progress
        self.bytes_done = 0
        self.bytes_total = 0
        self.next_report = 0.0

    @property
    def has_eval(self) -> bool:
        return bool(self.request.eval_files) or self.cut is not None

    def run(self) -> Gathered:
        files = (*self.request.eval_files, *self.request.train_files)
        self.bytes_total = sum(require_readable(path) for path in files)
        _refuse_same_file(self.request)
        self._load_tokenizer()
        for path, group in self._groups(self.request.eval_files, self.eval):
            self._take_eval(path, group)
        for path, group in self._groups(self.request.train_files, self.train):
            self._take_train(path, group)
        if self.on_progress:
            self.on_progress(self.bytes_done, self.bytes_total)
        return self._finish()

    def _load_tokenizer(self) -> None:
        path = self.request.tokenizer
        if path is None:
            return
        try:
            tokenizer = load_tokenizer(path)
        except TokenizerUnusableError as error:
            self.findings.warn("tokens-not-counted", f"what will be cut is not known: {error}")
            return
        for side in (self.train, self.eval):
            side.tokens = TokenCounter(tokenizer, path, self.request.budget)
            side.statistics = SideStatistics(side.tokens)

    def _groups(self, paths: Sequence[Path], side: _Side) -> Iterator[tuple[str, RankingGroup]]:
        """Yield the good rows of a side's files that are no duplicates; count the others."""
        for path in paths:
            shown, name = show_path(path), show_path(path.name)
            source = Source(path, on_bytes=self._report)
            for row in source.rows():
                side.tally.rows_in += 1
                if group := self._check(shown, name, row, side):
                    yield shown, group
            side.tally.files.append(InputFile(shown, source.sha256, source.rows_in))
            if source.has_other_form:
                form = "a JSON list" if source.holds_list else "JSON Lines"
                message = f"{name} holds {form} although its name says otherwise; it was read as such"
                self.findings.warn("other-form", message, example=shown)

    def _check(self, path: str, name: str, row: Row, side: _Side) -> RankingGroup | None:
        checked = row.fault or check_row(row.value, source=name, line=row.line)
        if isinstance(checked, Fault):
            self.findings.drop(side.tally, path, row.line, checked.code, checked.message)
            if len(self.bad_rows) < PROBLEMS_SHOWN:
                where = Where(path, row.line)
                self.bad_rows.append(problem_of(checked.code, checked.message, hint=checked.hint, where=where))
            return None
        group = checked.group
        place = f"{path}:{row.line}"
        if checked.unknown_keys:
            self.findings.warn_unknown_keys(checked.unknown_keys, place)
        if not side.seen.add(_row_digest(group)):
            detail = "an earlier row has the same query, positives and negatives"
            self.findings.drop(side.tally, path, row.line, "duplicate", detail)
            return None
        for code, what, count in (
            ("duplicate-positive", "positives", checked.repeated_positives),
            ("duplicate-negative", "negatives", checked.repeated_negatives),
        ):
            if count:
                message = f"{what} that stand twice in their row: {{n}}; each is used once"
                self.findings.warn(code, message, count=count, example=place)
        return group

    def _take_eval(self, path: str, group: RankingGroup) -> None:
        self.eval_queries.add(digest((query_key(group.query),)))
        for text in group.positives:
            self.eval_positives.add(_padded(_document_digest(text)))
        self._keep(path, group, self.eval)

    def _take_train(self, path: str, group: RankingGroup) -> None:
        if self.cut is not None:
            place = draw(group.query, self.request.seed)
            self.draws.add(place)
            if place < self.cut:
                self.train.tally.moved_to_eval += 1
                self.eval.tally.rows_in += 1
                self._take_eval(path, group)
                return
        elif self.request.eval_files and digest((query_key(group.query),)) in self.eval_queries:
            message = "training rows with a query of the eval set: {n}"
            example = f"{path}:{group.line}"
            if not self.request.allow_overlap:
                message += "; dropped, for with them the result would look better than it is"
                self.findings.warn("query-also-in-eval", message, example=example)
                detail = "the query is in the eval set"
                self.findings.drop(self.train.tally, path, group.line, "query-also-in-eval", detail)
                return
            message += "; kept, as allowed: the result will look better than it is"
            self.findings.warn("query-also-in-eval", message, example=example)
        if self.has_eval:
            self.train_positives.extend(map(_document_digest, group.positives))
        self._keep(path, group, self.train)

    def _keep(self, path: str, group: RankingGroup, side: _Side) -> None:
        side.prompts.note(path, group.line, has=group.prompt is not None)
        side.scores.note(path, group.line, has=group.positive_scores is not None)
        if side.limit is not None and side.tally.kept >= side.limit:
            self.findings.drop(side.tally, path, group.line, "over-limit", f"only {side.limit} rows were asked for")
            return
        side.tally.kept += 1
        side.statistics.add(group)
        if side.sink:
            side.sink(group)

    def _report(self, size: int) -> None:
        self.bytes_done += size
        now = time.monotonic()
        if self.on_progress and now >= self.next_report:
            if self.next_report:
                self.on_progress(self.bytes_done, self.bytes_total)
            self.next_report = now + _PROGRESS_EVERY_S

    def _finish(self) -> Gathered:
        sides = [self.train, self.eval] if self.has_eval else [self.train]
        mended_cut = self.draws.mend(self.cut) if self.cut is not None else None
        refusals: list[Problem] = []
        for side in sides:
            refusals += side.prompts.problem("prompt-on-some-rows-only", "prompt")
        refusals += self.train.scores.problem("scores-on-some-rows-only", "teacher scores")
        self._warn_shared_documents()
        stats: dict[str, Any] = {"version": STATS_VERSION}
        for side in sides:
            stats[side.tally.side] = side.statistics.to_json()
        self._warn_cut()
        ledger = Ledger(
            {side.tally.side: side.tally.close() for side in sides},
            tuple(self.findings.dropped_rows),
            self.findings.warnings(),
        )
        refusals += self._find_empty_side(ledger)
        return Gathered(ledger, stats, tuple(refusals), tuple(self.bad_rows), mended_cut)

    def _warn_shared_documents(self) -> None:
        shared = sum(_padded(key) in self.eval_positives for key in self.train_positives)
        if shared:
            message = "training positives that are positives of the eval set too: {n}"
            self.findings.warn("document-also-in-eval", message, count=shared)

    def _find_empty_side(self, ledger: Ledger) -> list[Problem]:
        for name, found in reversed(ledger.sides.items()):
            if found.kept:
                continue
            if self.cut is not None and self.draws.high >= 0:
                return [problem_of("too-few-queries", "all usable rows have one query, so that they cannot be split")]
            why = ", ".join(f"{code} {count}" for code, count in found.dropped.items())
            message = f"no {name} row is left of {found.rows_in}" + (f" ({why})" if why else "")
            return [problem_of("no-rows-kept", message)]
        return []

    def _warn_cut(self) -> None:
        cut = [side for side in (self.train, self.eval) if side.tokens and side.tokens.texts_cut]
        if cut:
            message = "texts are longer than the lengths allow and will be cut: " + "; ".join(
                f"{side.tally.side} {side.tokens.queries_cut} queries, {side.tokens.documents_cut} documents, "
                f"{side.tokens.tokens_cut} tokens in all"
                for side in cut
                if side.tokens
            )
            self.findings.warn("texts-cut", message, count=sum(side.tokens.texts_cut for side in cut if side.tokens))


def _row_digest(group: RankingGroup) -> bytes:
    parts = [group.query, f"{len(group.positives)} {group.prompt is not None}", *group.positives, *group.negatives]
    if group.prompt is not None:
        parts.append(group.prompt)
    return digest(parts)


def _document_digest(text: str) -> int:
    return int.from_bytes(digest((document_key(text),))[:8], sys.byteorder)


def _padded(key: int) -> bytes:
    return key.to_bytes(16, "little")


def _refuse_same_file(request: Request) -> None:
    on_eval = {path.resolve() for path in request.eval_files}
    for path in request.train_files:
        if path.resolve() in on_eval:
            raise refuse("same-file", "this file is given for training and for evaluation", path)
