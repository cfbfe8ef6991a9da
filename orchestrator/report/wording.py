"""Puts numbers and the verdict into words: one spelling for the page, the terminal, the model card and report.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from orchestrator.evaluation.measures import GROUP, PAIR, RETRIEVAL, Metric, display_name, parse_metric
from orchestrator.evaluation.paired import BETTER, NO_DIFFERENCE, WORSE

_P_FLOOR = 0.001
_MINUTE_S, _HOUR_S = 60, 3600
_LARGE, _HUGE = 100, 1_000_000  # from here on one decimal, or three digits, say enough


def counted(number: int, noun: str) -> str:
    """Return `1 query`, `60 queries`, `1,204 rows`."""
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{number:,} {noun if number == 1 else plural}"


def figure(value: float | None) -> str:
    """Return a measured value: three decimals, fewer for the large ones of a perplexity, a dash for none."""
    if value is None:
        return "–"
    return f"{value:.3f}" if abs(value) < _LARGE else f"{value:,.1f}" if abs(value) < _HUGE else f"{value:.3g}"


def signed(value: float) -> str:
    """Return a difference with its sign, as `figure` writes it; what rounds to zero has no sign."""
    text = figure(value)
    if value < 0:
        return text if float(text.replace(",", "")) != 0 else text[1:]
    return text if float(text.replace(",", "")) == 0 else f"+{text}"


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
    """Return the comparison that the verdict rests on; None where the headline metric was not compared."""
    first = next(iter(metrics["comparisons"]), None)
    return first if first is not None and first["metric"] == metrics["headline"]["metric"] else None


def higher_is_better(metric: str) -> bool:
    """Return a metric's direction; what is unknown is better when higher."""
    found = parse_metric(metric)
    return found.higher_is_better if isinstance(found, Metric) else True


def tuned_system(metrics: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the tuned system's entry of metrics.json; None where it was not scored."""
    return next((system for system in metrics["systems"] if system["role"] == "tuned"), None)


def headline_parts(metrics: Mapping[str, Any]) -> tuple[str, str]:
    """Return the verdict as a statement and its evidence; together, with a colon, they are the headline sentence."""
    metric = metrics["headline"]["metric"]
    name = display_name(metric)
    comparison = headline_comparison(metrics)
    if comparison is None:
        return _uncompared(metrics, metric, name)
    before, after = figure(comparison["before"]), figure(comparison["after"])
    up, down = ("rose", "fell") if higher_is_better(metric) else ("fell", "rose")
    statement = {
        BETTER: f"{name} {up} from {before} to {after}",
        WORSE: f"{name} {down} from {before} to {after}",
        NO_DIFFERENCE: f"{name} shows no measurable difference, {before} before and {after} after",
    }[comparison["verdict"]]
    evidence = (
        f"{signed(comparison['difference'])} {interval(comparison['low'], comparison['high'])}, "
        f"{p_value(comparison['p'])}, {counted(comparison['units'], metrics['unit'])}"
    )
    return statement, evidence


def _uncompared(metrics: Mapping[str, Any], metric: str, name: str) -> tuple[str, str]:
    """Return what is to be said where the headline metric was not compared."""
    tuned = tuned_system(metrics)
    if tuned is None:
        return "Nothing was compared", " ".join(metrics["gaps"]) or "no model was scored."
    if tuned["means"][metric] is None:
        return f"{name} was not measured", "no row has what it needs"
    units = counted(metrics["eval"]["units"], metrics["unit"])
    baseline = any(system["role"] == "baseline" for system in metrics["systems"])
    reason = "the baseline has no value" if baseline else "no baseline was measured"
    return f"{name} is {figure(tuned['means'][metric])} on {units}", f"not compared, since {reason}"


def measured_on(metrics: Mapping[str, Any]) -> str:
    """Return what the systems were measured on, as in `60 queries, 10 candidates each`."""
    evaluation = metrics["eval"]
    units = counted(evaluation["units"], metrics["unit"])
    if metrics["kind"] == GROUP:
        return f"{units}, {evaluation['documents'] / evaluation['units']:.3g} candidates each"
    if metrics["kind"] == RETRIEVAL:
        return f"{units}, searching {counted(evaluation['documents'], 'document')}"
    if metrics["kind"] == PAIR:
        return f"{units}, scored from {plain(evaluation['least'])} to {plain(evaluation['most'])}"
    tokens = [system["tokens"] for system in metrics["systems"]]
    return f"{units}, {counted(tokens[-1], 'token')} of answers" if tokens else units


def headline(metrics: Mapping[str, Any]) -> str:
    """Return the verdict as one sentence, as in `nDCG@10 rose from 0.412 to 0.873: +0.461 [+0.394, +0.531], …`."""
    statement, evidence = headline_parts(metrics)
    return f"{statement}: {evidence}"


def best_systems(metrics: Mapping[str, Any]) -> dict[str, set[str]]:
    """Return for each metric the ids of the systems whose printed value is the best one."""
    best = {}
    for metric in metrics["metrics"]:
        values = {system["id"]: system["means"][metric] for system in metrics["systems"]}
        measured = [value for value in values.values() if value is not None]
        first = figure((max if higher_is_better(metric) else min)(measured)) if measured else None
        best[metric] = {name for name, value in values.items() if value is not None and figure(value) == first}
    return best
