"""What training and evaluation have in common: queries that make a result look better than it is, and texts besides."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable

from orchestrator.data.digests import NORMALISED, DigestSet, digest, document_key, loose_key, query_key
from orchestrator.data.ledger import Findings, SideTally
from orchestrator.data.rows.records import Chat, Record

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
        self._queries.add(_loose_digest(record.split_text))
        self._exact_queries.add(_query_digest(record.split_text))
        if isinstance(record, Chat):
            self._eval_questions.add(hash(loose_key(record.split_text)))

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

    def drops_leak(self, tally: SideTally, path: str, record: Record) -> bool:
        """Return whether a training row is dropped because its query is in the eval set; warn in any case."""
        is_chat = isinstance(record, Chat)
        questions = [record.split_text, *(record.earlier_questions if isinstance(record, Chat) else ())]
        found = [text for text in questions if _loose_digest(text) in self._queries]
        if not found:
            return False
        exact = any(_query_digest(text) in self._exact_queries for text in found)
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
            self._findings.drop(tally, path, record.line, "query-also-in-eval", detail)
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


def _query_digest(text: str) -> bytes:
    return digest((query_key(text),))


def _loose_digest(text: str) -> bytes:
    return digest((loose_key(text),))


def _count_shared(hashes: Iterable[int], others: Collection[int]) -> int:
    return sum(one in others for one in hashes)
