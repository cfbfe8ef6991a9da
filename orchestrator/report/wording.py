"""Puts numbers and the verdict into words: one spelling for the page, the terminal, the model card and report.json."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from orchestrator.evaluation.compare import BETTER, NO_DIFFERENCE, WORSE
from orchestrator.evaluation.measures import display_name

if TYPE_CHECKING:
    from collections.abc import Mapping

_P_FLOOR = 0.001
_MINUTE_S, _HOUR_S = 60, 3600


def counted(number: int, noun: str) -> str:
    """Return `1 query`, `60 queries`, `1,204 rows`."""
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{number:,} {noun if number == 1 else plural}"


def signed(value: float) -> str:
    """Return a difference with its sign and three decimals; what rounds to zero has no sign."""
    text = f"{value:+.3f}"
    return text[1:] if float(text) == 0 else text


def interval(low: float | None, high: float | None) -> str:
    """Return `[+0.394, +0.531]`, or that there is none."""
    return "[no interval]" if low is None or high is None else f"[{signed(low)}, {signed(high)}]"


def p_value(p: float) -> str:
    """Return `p < 0.001` or `p = 0.012`."""
    return f"p < {_P_FLOOR}" if p < _P_FLOOR else f"p = {p:.3f}"


def duration(seconds: float) -> str:
    """Return `2.4 s`, `6 min 53 s` or `3 h 07 min`."""
    if seconds < _MINUTE_S:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < _HOUR_S:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def plain(value: object) -> str:
    """Return a JSON value as a reader wants it: short floats, lists and objects with commas, yes and no."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {plain(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value)
    return "" if value is None else str(value)


def headline_comparison(metrics: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the comparison that the verdict rests on; None where nothing was compared."""
    return next(iter(metrics["comparisons"]), None)


def tuned_system(metrics: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the tuned system's entry of metrics.json; None where it was not scored."""
    return next((system for system in metrics["systems"] if system["role"] == "tuned"), None)


def headline_parts(metrics: Mapping[str, Any]) -> tuple[str, str]:
    """Return the verdict as a statement and its evidence; together, with a colon, they are the headline sentence."""
    metric = metrics["headline"]["metric"]
    name = display_name(metric)
    comparison = headline_comparison(metrics)
    if comparison is None:
        tuned = tuned_system(metrics)
        if tuned is None:
            return "Nothing was compared", " ".join(metrics["gaps"]) or "no model was scored."
        queries = counted(metrics["eval"]["queries"], "query")
        return f"{name} is {tuned['means'][metric]:.3f} on {queries}", "not compared, since no baseline was measured"
    before, after = f"{comparison['before']:.3f}", f"{comparison['after']:.3f}"
    statement = {
        BETTER: f"{name} rose from {before} to {after}",
        WORSE: f"{name} fell from {before} to {after}",
        NO_DIFFERENCE: f"{name} shows no measurable difference, {before} before and {after} after",
    }[comparison["verdict"]]
    evidence = (
        f"{signed(comparison['difference'])} {interval(comparison['low'], comparison['high'])}, "
        f"{p_value(comparison['p'])}, {counted(comparison['queries'], 'query')}"
    )
    return statement, evidence


def headline(metrics: Mapping[str, Any]) -> str:
    """Return the verdict as one sentence, as in `nDCG@10 rose from 0.412 to 0.873: +0.461 [+0.394, +0.531], …`."""
    statement, evidence = headline_parts(metrics)
    return f"{statement}: {evidence}"


def best_systems(metrics: Mapping[str, Any]) -> dict[str, set[str]]:
    """Return for each metric the ids of the systems whose printed mean is the highest."""
    best = {}
    for metric in metrics["metrics"]:
        printed = {system["id"]: f"{system['means'][metric]:.3f}" for system in metrics["systems"]}
        best[metric] = {name for name, value in printed.items() if value == max(printed.values())}
    return best
