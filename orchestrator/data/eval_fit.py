"""Whether an eval query can tell models apart."""

from __future__ import annotations

from orchestrator.data.rows.groups import RankingGroup
from orchestrator.data.rows.labelled import LabelledGroup
from orchestrator.data.rows.records import Record


def explain_unmeasurable(record: Record, *, corpus: bool) -> str | None:
    """Return the warning about a query that all models rank equally well, or None; in it {n} counts the queries."""
    if isinstance(record, RankingGroup) and not record.negatives and not corpus:
        return "eval queries without a negative: {n}; any model ranks them perfectly"
    if not isinstance(record, LabelledGroup):
        return None
    if corpus:
        return None if record.answers else "eval queries without a relevant document: {n}; no model finds any"
    if len(set(record.labels)) == 1:
        return "eval queries whose documents all have one label: {n}; every model ranks them alike"
    return None
