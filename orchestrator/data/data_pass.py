"""The one pass over all sides: rows are read, checked, compared with earlier ones and kept, and all is counted."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from orchestrator.data import tokens
from orchestrator.data.earlier_rows import Merger
from orchestrator.data.fit import InBatchNegatives, LossFit, explain_unmeasurable
from orchestrator.data.ledger import BadRows, Findings, InputFile, Ledger, PassResult
from orchestrator.data.reading.json_rows import Row
from orchestrator.data.reading.packed import AUTO
from orchestrator.data.reading.readers import Source, require_readable, show_path
from orchestrator.data.reasons import REASONS, Fault, RepeatedProblems, problem_of, refuse
from orchestrator.data.request import Request
from orchestrator.data.rows.checks import Accepted, check_row
from orchestrator.data.rows.records import Chat, LabelledGroup, Record, ScoredPair
from orchestrator.data.rows.texts import build_fault, quote
from orchestrator.data.rows.unread import note_unread
from orchestrator.data.sides import (
    KEEP_OVERLAP,
    SALTS,
    AllOrNone,
    LabelSources,
    Overlap,
    RankableRows,
    Side,
    Sink,
    SplitDraw,
    find_threshold,
)
from orchestrator.errors import Problem, Where

STATS_VERSION = 1
_PROGRESS_EVERY_S = 1.0
_SPOOL_BYTES = 16 << 20
_OFFSET_BITS = 48  # of where a row stands; the bits above are the number of its file
_OFFSETS = (1 << _OFFSET_BITS) - 1


def run_data_pass(
    request: Request,
    *,
    thresholds: dict[str, int] | None = None,
    on_train: Sink | None = None,
    on_eval: Sink | None = None,
    on_validation: Sink | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> PassResult:
    """Read every file of the request once and hand each kept record on, eval files first.

    `thresholds` of the sides that are split off stand in for the request's ratios, where an earlier pass returned them
    as `adjusted`. `on_progress` is told (bytes read, bytes in all), about once a second. Raises DataError when a file
    cannot be read at all; bad rows are counted, not raised.
    """
    return _Pass(request, thresholds, (on_train, on_eval, on_validation), on_progress).run()


class _Pass:
    """State of one pass."""

    def __init__(
        self,
        request: Request,
        thresholds: dict[str, int] | None,
        sinks: tuple[Sink | None, Sink | None, Sink | None],
        on_progress: Callable[[int, int], None] | None,
    ) -> None:
        self.request = request
        ratios = {"eval": request.eval_ratio, "validation": request.validation_ratio}
        if thresholds is None:
            thresholds = {name: find_threshold(ratio) for name, ratio in ratios.items() if ratio is not None}
        self.draws = {name: SplitDraw(most, request.seed, SALTS[name]) for name, most in thresholds.items()}
        self.has_eval = bool(request.eval_files) or "eval" in self.draws
        self.findings = Findings()
        self.bad = BadRows()
        kind = request.rules.kind
        self.fit = fit = LossFit(request.requirements, takes_scores=request.takes_scores)
        self.train = Side("train", kind, request.limit_train, sinks[0], fit)
        self.eval = Side("eval", kind, request.limit_eval, sinks[1], None)
        self.rankable = RankableRows()
        self.validation = Side("validation", kind, request.limit_validation, sinks[2], fit)
        self.in_batch = InBatchNegatives(fit.loss) if fit.loss and fit.takes_batch else None
        self.eval_rules = replace(request.rules, needs_scores=False)  # the teacher scores training files only
        budget = request.budget
        limit = budget if isinstance(budget, tokens.TokenLimit) and budget.truncation == "drop" else None
        self.most_tokens = limit and limit.max_tokens
        self.samples = AllOrNone()
        self.sources: list[Source] = []  # those that were opened so far
        self.unread = RepeatedProblems()
        self.unseen_columns = set(request.rules.columns.values())
        self.label_sources = {"train": LabelSources(), "eval": LabelSources()}  # by the files, not by the split
        self.overlap = Overlap(self.findings, is_allowed=request.allow_overlap)
        self.on_progress = on_progress
        self.bytes_done = self.bytes_total = 0
        self.next_report = 0.0

    @property
    def sides(self) -> list[Side]:
        sides = [self.train] if self.request.train_files else []
        sides += [self.eval] if self.has_eval else []
        return [*sides, self.validation] if "validation" in self.draws else sides

    def run(self) -> PassResult:
        request = self.request
        files = (*request.eval_files, *request.train_files)
        self.bytes_total = sum(require_readable(path) for path in files)
        on_eval = {path.resolve() for path in request.eval_files}
        if same := next((path for path in request.train_files if path.resolve() in on_eval), None):
            raise refuse("same-file", "this file is given for training and for evaluation", same)
        self._load_tokenizer()
        for path in request.seen:
            self.overlap.note_file(path)
        with contextlib.ExitStack() as spools:
            for side in self.sides if request.rules.kind == "labelled" else ():
                if side is self.eval or request.merges:
                    spool = tempfile.SpooledTemporaryFile(_SPOOL_BYTES, dir=request.spool_folder)  # noqa: SIM115
                    side.merger, side.ledger.merged = Merger(spools.enter_context(spool)), 0
            for shown, record in self._records(request.eval_files, self.eval):
                self._keep_or_merge(self.eval, shown, record)
            for shown, record in self._records(request.train_files, self.train):
                self._choose_side(shown, record)
            for side in self.sides:
                for shown, group, rows in side.merger.groups() if side.merger else ():
                    side.ledger.merged = (side.ledger.merged or 0) + rows - 1
                    self._keep_if_learnable(side, shown, group)
                self._keep_counted(side, side.queue.flush())
        if self.on_progress:
            self.on_progress(self.bytes_done, self.bytes_total)
        return self._finish()

    def _load_tokenizer(self) -> None:
        path = self.request.tokenizer
        if path is None and not self.request.estimates:
            return
        try:
            counter = tokens.TextCounter(tokens.load_tokenizer(path)) if path else tokens.EstimatedCounter()
        except tokens.TokenizerUnusableError as error:
            self.findings.warn("tokens-not-counted", f"what will be cut is not known: {error}")
            if not self.request.estimates:
                return
            path, counter = None, tokens.EstimatedCounter()
        rule = tokens.build_rule(self.request.rules.kind, self.request.budget, counter)
        for side in (self.train, self.eval, self.validation):
            side.count_tokens(counter, rule, path)

    def _records(self, paths: Sequence[Path], side: Side) -> Iterator[tuple[str, Record]]:
        """Yield the good rows of a side's files that are no duplicates; count the others."""
        for path in paths:
            shown = show_path(path)
            source = Source(path, on_bytes=self._report, encoding=self.request.rules.encoding)
            self.sources.append(source)
            for row in islice(source.rows(), self.request.first_rows):
                side.ledger.rows_in += 1
                if record := self._read_row(shown, row, source, side):
                    yield shown, record
            side.ledger.files += [
                InputFile(show_path(one.path), one.sha256, one.rows_in) for one in (source, *source.text_files)
            ]
            texts = source.text_files if self.request.corpus and (side is self.eval or "eval" in self.draws) else ()
            for one in texts[:1]:  # the corpus; behind it the queries
                message = f"{one.name} has {one.rows_in} documents: those that no row names are not searched"
                self.findings.warn("corpus-in-part", message, example=shown)
            if self.request.rules.encoding == AUTO and source.encoding:
                message = f"{source.name} is not UTF-8: it was read as {source.encoding}"
                self.findings.warn("encoding-guessed", message, example=shown)
            if source.has_other_form:
                form = "a JSON list" if source.holds_list else "JSON Lines"
                message = f"{source.name} holds {form} although its name says otherwise; it was read as such"
                self.findings.warn("other-form", message, example=shown)

    def _check(self, row: Row, source: Source, side: Side) -> Accepted | Fault:
        rules = self.eval_rules if side is self.eval else self.request.rules
        is_text = source.is_text_table
        return row.fault or check_row(row.value, source=source.name, line=row.line, rules=rules, numeric_text=is_text)

    def _read_row(self, path: str, row: Row, source: Source, side: Side) -> Record | None:
        """Return the record of a row, None where it is bad, says nothing new, or has nothing to learn."""
        if self.unseen_columns and isinstance(row.value, dict):
            self.unseen_columns.difference_update(row.value)
        checked = self._check(row, source, side)
        if isinstance(checked, Fault):
            self._drop_bad(side, path, row.line, checked)
            return None
        if self.request.rules.kind == "labelled":
            self.label_sources[side.name].note(checked.row, path, row.line)
        if checked.unread:
            note_unread(self.unread, checked.unread, path, row.line)
        if checked.unknown_keys:
            self.findings.warn_unknown_keys(checked.unknown_keys, f"{path}:{row.line}")
        record = self._find_new(checked, side, row)
        if isinstance(record, Fault):
            self._drop_bad(side, path, row.line, record)
            return None
        dropped = None if record else ("duplicate", _DUPLICATE[self.request.rules.kind])
        if record and not checked.has_distinct_documents:
            self._warn_row(checked, record, f"{path}:{row.line}")
            if isinstance(record, Chat) and not record.learns:
                dropped = ("nothing-to-learn", "no answer of the conversation is to be learnt")
        if dropped:
            self.findings.drop(side.ledger, path, row.line, *dropped)
            return None
        self.samples.note(path, row.line, has=checked.is_sample)
        return record

    def _find_new(self, checked: Accepted, side: Side, row: Row) -> Record | Fault | None:
        """Return a row's record, of a labelled one what is new in it; None where an earlier row has said it all."""
        record = checked.record
        position = None
        if row.offset is not None and (checked.has_distinct_documents or isinstance(record, ScoredPair)):
            position = (len(self.sources) << _OFFSET_BITS) + row.offset  # never 0: sources count from 1
        return side.earlier.take(record, position, partial(self._reread, side))

    def _reread(self, side: Side, position: int) -> Record | None:
        """Return the record of an earlier row, None where its file has changed meanwhile."""
        source = self.sources[(position >> _OFFSET_BITS) - 1]
        row = source.reread(position & _OFFSETS)
        checked = self._check(row, source, side) if row else None
        return checked.record if isinstance(checked, Accepted) else None

    def _drop_bad(self, side: Side, path: str, line: int, fault: Fault) -> None:
        self.findings.drop(side.ledger, path, line, fault.code, fault.message)
        self.bad.add(fault, path, line)

    def _warn_row(self, checked: Accepted, record: Record, place: str) -> None:
        """Warn of what a row says twice, and of what of it is not learnt."""
        known = 0 if record is checked.record else len(checked.record.texts) - len(record.texts)
        counts = {"prompts-not-measured": int(self.request.corpus and record.prompt is not None), **checked.warnings}
        counts["duplicate-document"] = counts.get("duplicate-document", 0) + known
        for code, count in counts.items():
            if count:
                self.findings.warn(code, REASONS[code].says, count=count, example=place)

    def _choose_side(self, path: str, record: Record) -> None:
        if (self.request.eval_files or self.request.seen) and self.overlap.drops_leak(self.train.ledger, path, record):
            return
        side = self.train
        if "eval" in self.draws and self.draws["eval"].takes(record.split_text):
            side = self.eval
            self.train.ledger.moved_to_eval += 1
        elif "validation" in self.draws and self.draws["validation"].takes(record.split_text):
            side = self.validation
            self.train.ledger.moved_to_validation += 1
        side.ledger.rows_in += side is not self.train
        self._keep_or_merge(side, path, record)

    def _keep_or_merge(self, side: Side, path: str, record: Record) -> None:
        """Keep a record, now or when all rows of its query are there."""
        if side is self.eval:
            self.overlap.note_eval(record)
        if side.merger and isinstance(record, LabelledGroup):
            side.merger.add(path, record)
        else:
            self._keep_if_learnable(side, path, record)

    def _keep_if_learnable(self, side: Side, path: str, record: Record) -> None:
        """Keep a record, at once or when its tokens are counted, unless the trainer could not use it."""
        if side.fit:
            if left_out := side.fit.find_useless(record):
                code, _ = left_out
                self.findings.drop(side.ledger, path, record.line, *left_out)
                side.statistics.leave_out(code)
                self.findings.warn(
                    code, f"queries left out: {{n}}; {REASONS[code].what}", example=f"{path}:{record.line}"
                )
                return
            if fault := side.fit.find_fault(record):
                self._drop_bad(side, path, record.line, fault)
                return
            record = side.fit.draw(path, record, self.findings)
        elif useless := explain_unmeasurable(record, corpus=self.request.corpus):
            self.findings.warn("nothing-to-rank", useless, example=f"{path}:{record.line}")
        self._keep_counted(side, side.queue.put(path, record))

    def _keep_counted(self, side: Side, measured: Iterable[tokens.Measurement]) -> None:
        for path, record, lengths in measured:
            if side is self.train:
                self.fit.note_labels(record)
                if self.in_batch:
                    self.in_batch.add(record)
            if side.fit and lengths and self.most_tokens and any(lengths.cut.values()):
                parts = ", ".join(f"{n} {part}" for part, n in lengths.cut.items() if n)
                message = f"more than {self.most_tokens} tokens: {parts} ({lengths.tokens_cut} tokens beyond)"
                self._drop_bad(side, path, record.line, build_fault("too-long", message))
            elif side.keep(path, record, lengths, self.findings):
                if side is self.eval:
                    self.overlap.note_kept_eval(record)
                elif side is self.validation:
                    self.rankable.note(record)
                elif side is self.train and self.has_eval:
                    self.overlap.note_kept_train(record, is_split="eval" in self.draws)
                if side.fit:
                    side.fit.note(path, record, self.findings)

    def _report(self, size: int) -> None:
        self.bytes_done += size
        now = time.monotonic()
        if self.on_progress and now >= self.next_report:
            if self.next_report:
                self.on_progress(self.bytes_done, self.bytes_total)
            self.next_report = now + _PROGRESS_EVERY_S

    def _finish(self) -> PassResult:
        refusals: list[Problem] = []
        for side in self.sides:
            refusals += side.prompts.problem("prompt-on-some-rows-only", "prompt")
        if self.request.takes_scores:
            refusals += self.train.scores.problem("scores-on-some-rows-only", "teacher scores")
        if self.unseen_columns:
            names = ", ".join(quote(name) for name in sorted(self.unseen_columns))
            hint = "correct data.columns (--map NEW=OLD)"
            refusals.append(problem_of("unknown-column", f"no row has {names}", hint=hint))
        refusals += self.unread.problems()
        refusals += self._find_unclear_scores()
        refusals += self.fit.problems()
        refusals += self.in_batch.finish(self.findings) if self.in_batch else []
        refusals += self._find_samples()
        if self.request.ranks_validation and self.validation.ledger.kept and self.request.first_rows is None:
            refusals += self.rankable.problem()
        self.overlap.warn_shared()
        stats: dict[str, Any] = {"version": STATS_VERSION, "kind": self.request.rules.kind}
        for side in self.sides:
            side.ledger.close()
            stats[side.name] = side.statistics.to_json()
        self._warn_cut()
        sides = {side.name: side.ledger for side in self.sides}
        ledger = Ledger(sides, tuple(self.findings.dropped_rows), self.findings.warnings())
        refusals += self._find_empty_side(ledger)
        return PassResult(ledger, stats, tuple(refusals), tuple(self.bad.sum_up()), self._adjust())

    def _find_samples(self) -> list[Problem]:
        """Return that rows of `orch data sample` stand among real ones; warn when every row is one."""
        real, sample = self.samples.without, self.samples.with_it
        if sample and not real:
            self.findings.warn("samples-only", "every row was written by orch data sample; nothing real is measured")
        if not (sample and real):
            return []
        message = f"this row was written by orch data sample, and {real[0]}:{real[1]} was not"
        return [problem_of("samples-mixed-in", message, where=Where(*sample))]

    def _find_unclear_scores(self) -> list[Problem]:
        """Return that scores may be labels, unless somebody has said what they are, or the training learns them."""
        rules = self.request.rules
        if rules.kind != "labelled" or rules.scores_as_labels is not None:
            return []
        taught = self.request.requirements.target == "teacher"
        return [
            problem
            for side, sources in self.label_sources.items()
            if not (taught and side == "train")
            for problem in sources.problem(ranged=rules.label_range != (0, 1), needs_negatives=not self.request.corpus)
        ]

    def _adjust(self) -> dict[str, int] | None:
        """Return the thresholds of another pass, or None; for validation only where that for eval is right."""
        for name, draw in self.draws.items():
            if draw.adjusted is not None:
                return {other: one.threshold for other, one in self.draws.items()} | {name: draw.adjusted}
        return None

    def _find_empty_side(self, ledger: Ledger) -> list[Problem]:
        for name, found in reversed(ledger.sides.items()):
            if found.kept:
                continue
            draw = self.draws.get("validation" if name == "validation" else "eval")
            if draw and draw.has_one_query:
                why = "no validation can be split off" if name == "validation" else "they cannot be split"
                return [problem_of("too-few-queries", f"all usable rows have one query, so that {why}")]
            why = ", ".join(f"{code} {count}" for code, count in found.dropped.items())
            message = f"no {name} row is left of {found.rows_in}" + (f" ({why})" if why else "")
            hint = KEEP_OVERLAP if "query-also-in-eval" in found.dropped else None
            return [problem_of("no-rows-kept", message, hint=hint)]
        return []

    def _warn_cut(self) -> None:
        counted = [(side.name, side.statistics.tokens) for side in self.sides]
        cut = [(name, found) for name, found in counted if found and found.cut.total()]
        if cut:
            split = isinstance(self.request.budget, tokens.TokenLimit) and self.request.budget.truncation == "split"
            message = (
                f"texts are longer than the lengths allow and will be {'split' if split else 'cut'}: "
                + "; ".join(f"{name} {found.describe_cut()}" for name, found in cut)
            )
            self.findings.warn("texts-cut", message, count=sum(found.cut.total() for _, found in cut))


_DUPLICATE = {
    "group": "an earlier row has the same query, positives and negatives",
    "pair": "an earlier row has the same texts and score",
    "chat": "an earlier row has the same messages",
    "class": "an earlier row has the same text and class",
    "labelled": "earlier rows of the query have the same documents and labels",
}
