"""Puts the data's ledger and statistics into rows for the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.report import wording

_QUANTILES = "median · 95 % · longest"
_MOVED_TO = ("eval", "validation")
_OWN_PLACE = ("tokens", "labels", "groups", "teacher")  # shown in rows of their own


def build_ledger(ledger: Mapping[str, Any] | None) -> Iterator[dict[str, Any]]:
    """Yield each side's rows in, and where they went."""
    for name, side in ((ledger or {}).get("sides") or {}).items():
        if not side.get("rows_in"):
            continue
        parts = [("kept", side.get("kept", 0))]
        parts += [("merged with rows of their query", side["merged"])] if side.get("merged") else []
        parts += [(f"moved to {to}", side[f"moved_to_{to}"]) for to in _MOVED_TO if side.get(f"moved_to_{to}")]
        parts += [(reason.replace("-", " "), count) for reason, count in (side.get("dropped") or {}).items() if count]
        yield {"name": name, "rows_in": side["rows_in"], "parts": parts, "files": side.get("files") or []}


def build_statistics(stats: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the rows (what, train, eval) of the table of data statistics; what neither side has is left out."""
    train, evaluation = _side_statistics(stats.get("train") or {}), _side_statistics(stats.get("eval") or {})
    names = dict.fromkeys((*train, *evaluation))
    return [(name, train.get(name, "–"), evaluation.get(name, "–")) for name in names]


def _side_statistics(side: Mapping[str, Any]) -> dict[str, str]:
    """Return {name: text} of one side, in the order of stats.json; each kind of data counts what it has."""
    rows: dict[str, str] = {}
    for key, value in side.items():
        if key not in _OWN_PLACE:
            rows.update(_row(key, value))
    rows.update(_labelled_rows(side))
    tokens = side.get("tokens") or {}
    for key, value in tokens.items():
        if isinstance(value, dict) and "p50" in value:
            rows[f"{_named(key)} tokens: {_QUANTILES}"] = _quantiles(value)
    if "tokens_cut" in tokens:
        rows["Tokens cut by the length limits"] = f"{tokens['tokens_cut']:,}"
    return rows


def _labelled_rows(side: Mapping[str, Any]) -> dict[str, str]:
    """Return what labels, groups and teacher scores say."""
    rows: dict[str, str] = {}
    for key, title in (("labels", "Labels"), ("teacher", "Teacher scores")):
        if spread := side.get(key):
            rows[f"{title}: mean (lowest to highest)"] = _spread(spread)
    if groups := side.get("groups"):
        rows["Documents a query: mean (fewest to most)"] = _spread(groups["documents"])
        for key, title in (("one_label", "Queries with one label only"), ("too_small", "Queries with one document")):
            if groups.get(key):
                rows[title] = wording.plain(groups[key])
    return rows


def _spread(spread: Mapping[str, Any]) -> str:
    return f"{wording.plain(spread['mean'])} ({wording.plain(spread['lowest'])} to {wording.plain(spread['highest'])})"


def _row(key: str, value: object) -> dict[str, str]:
    """Return the row of one entry: a count, a spread, quantiles or counts by name; none for anything else."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {_named(key): wording.plain(value)}
    if not isinstance(value, dict) or not value:
        return {}
    if "p50" in value:
        return {f"{_named(key.replace('_chars', '_characters'))}: {_QUANTILES}": _quantiles(value)}
    if {"min", "mean", "max"} <= value.keys():
        least, mean, most = value["min"], value["mean"], value["max"]
        return {_named(key): f"{most}" if least == most else f"{mean:.3g} ({least} to {most})"}
    return {_named(key): wording.plain(value)}


def _named(key: str) -> str:
    return key.replace("_", " ").capitalize()


def _quantiles(spread: Mapping[str, Any]) -> str:
    return " · ".join(wording.plain(spread.get(key, "–")) for key in ("p50", "p95", "max"))
