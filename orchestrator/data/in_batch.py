"""How many of a batch's other documents would be answers too, where a loss takes them for wrong ones.

`infonce` takes every document of the batch's other rows as a negative of a row's query. Where few positives serve many
rows, as with labels of a classification, or where a query stands in many rows, a good part of these negatives answers
the query. Neither ms-swift's sampler nor its mask for fake negatives keeps them out: the mask leaves out what scores
above the positive, and the positive itself scores as high as it does (swift/loss/embedding.py, 4.6.0).
"""

from __future__ import annotations

from array import array
from struct import Struct

from orchestrator.data.digests import DigestMap, DigestSet, digest, document_key, query_key
from orchestrator.data.ledger import Findings
from orchestrator.data.reasons import problem_of
from orchestrator.data.rows.records import RankingGroup, Record, ScoredPair
from orchestrator.errors import Problem

_PAIR = Struct("<QQ")  # as long as a digest
# decisions/0029
REFUSED_SHARE = 0.05
WARNED_SHARE = 0.005


class InBatchNegatives:
    """Counts the documents of all training rows; some 100 bytes a document and 150 a row."""

    def __init__(self) -> None:
        self._documents, self._queries = DigestMap(), DigestMap()
        self._met = array("Q")  # of each document, how often it stands in a row
        self._rows = array("Q")  # of each query, in how many rows it stands
        self._pairs_seen = DigestSet()
        self._pairs = array("Q")  # a query's number, its positive's number, and so on: each pair once
        self._without_negatives = 0

    def add(self, record: Record) -> None:
        """Count one row: its query, its one positive, its negatives."""
        if isinstance(record, RankingGroup):
            query, positive, negatives = record.query, record.positives[0], record.negatives
        elif isinstance(record, ScoredPair):
            query, positive, negatives = record.text1, record.text2, ()
        else:
            return
        self._without_negatives += not negatives
        number = self._count(self._queries, self._rows, digest((query_key(query),)))
        answer = self._count(self._documents, self._met, digest((document_key(positive),)))
        for text in negatives:
            self._count(self._documents, self._met, digest((document_key(text),)))
        if self._pairs_seen.add(_PAIR.pack(number, answer)):
            self._pairs.extend((number, answer))

    @staticmethod
    def _count(numbers: DigestMap, counts: array[int], key: bytes) -> int:
        number = numbers.put(key, len(counts))
        if number == len(counts):
            counts.append(0)
        counts[number] += 1
        return number

    @property
    def share(self) -> float:
        """The expected share, among the documents of a row's batch that are not its own, of those that answer it.

        Every row is as likely in a batch as any other. Of two rows, each document of the one answers the query of the
        other where some row has it as a positive of that query.
        """
        rows, documents = sum(self._rows), sum(self._met)
        if rows < 2:  # noqa: PLR2004 - a batch of one
            return 0.0
        pairs = zip(self._pairs[::2], self._pairs[1::2], strict=True)
        answers = sum(self._rows[query] * self._met[document] for query, document in pairs)
        return (answers - rows) / (documents * (rows - 1))  # without each row's own positive, and its own documents

    def finish(self, findings: Findings) -> list[Problem]:
        """Return the problem of data whose share is too large; warn of one that is not small."""
        share = self.share
        if share < WARNED_SHARE:
            return []
        positives = len({*self._pairs[1::2]})
        what = (
            f"{share:.1%} of the negatives that infonce takes from a row's batch answer its query: "
            f"{sum(self._rows)} rows have {positives} different positives and {len(self._rows)} different queries"
        )
        if share < REFUSED_SHARE:
            findings.warn("some-false-negatives", what)
            return []
        hint = "labels of a classification: pairs with labels 1 and 0, and loss: contrastive"
        if self._without_negatives:
            hint += "; or give every row negatives (orch data mine), and loss: {type: infonce, use_batch: false}"
        else:
            hint = f"loss: {{type: infonce, use_batch: false}} learns from each row's own negatives; {hint}"
        return [problem_of("false-negatives", what, hint=hint)]
