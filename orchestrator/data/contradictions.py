"""Documents that a query has as relevant and as not: within a row or over all rows of a side, in every form of rows."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b

from orchestrator.data.digests import DIGEST_BYTES, NORMALISED, DigestMap, digest, loose_key
from orchestrator.data.reasons import Fault
from orchestrator.data.rows.groups import RankingGroup
from orchestrator.data.rows.labelled import LabelledGroup
from orchestrator.data.rows.records import Record, ScoredPair
from orchestrator.data.rows.texts import build_fault, quote
from orchestrator.recipe.relevance import is_relevant

_SIDES = ("negative", "positive")
_BITS = (1 << 64) - 1


class KnownSides:
    """Which documents of which queries were met, and on which side; some 60 bytes each.

    Queries and documents are one when `loose_key` makes them so. What is kept of a document is its side, and as much of
    a hash of the exact texts as fits beside it: it tells which rule found a contradiction.
    """

    def __init__(self) -> None:
        self._numbers = DigestMap()

    def take(self, record: Record) -> Fault | None:
        """Note the documents of a record, or return the fault of one that is on the other side too."""
        if isinstance(record, RankingGroup):
            # a document may answer a query under one instruction and not under another
            query = record.query if record.prompt is None else f"{record.query} \0{record.prompt}"
        elif isinstance(record, LabelledGroup):
            query = record.query
        elif isinstance(record, ScoredPair):
            query = record.text1
        else:
            return None
        loose = digest((loose_key(query),))
        row: dict[bytes, int] = {}
        for text, positive in _judged(record):
            key = blake2b(loose_key(text).encode(), digest_size=DIGEST_BYTES, key=loose).digest()
            number = (hash((query, text)) << 1 | positive) & _BITS
            known = row.setdefault(key, number)
            if (known ^ number) & 1:
                code = "conflicting-labels" if isinstance(record, LabelledGroup) else "positive-among-negatives"
                return build_fault(
                    code, f"the document {quote(text)} is a positive and a negative{_name_rule(known, number)}"
                )
            known = self._numbers.put(key, number)
            if (known ^ number) & 1:
                here, there = _SIDES[number & 1], _SIDES[known & 1]
                message = f"the document {quote(text)} is a {here} here, and a {there} in an earlier row of this query"
                return build_fault("conflicting-labels", message + _name_rule(known, number))
        return None


def _judged(record: RankingGroup | LabelledGroup | ScoredPair) -> Iterator[tuple[str, bool]]:
    """Yield each document, and whether it is relevant."""
    if isinstance(record, RankingGroup):
        yield from ((text, True) for text in record.positives)
        yield from ((text, False) for text in record.negatives)
    elif isinstance(record, LabelledGroup):
        yield from zip(record.documents, map(is_relevant, record.labels), strict=True)
    else:
        yield record.text2, is_relevant(record.score)


def _name_rule(known: int, number: int) -> str:
    """Return what to say of the rule by which two mentions of a document are one: nothing where their texts agree."""
    return "" if known == number ^ 1 else f" ({NORMALISED})"
