"""Parses a recipe's gates ("> baseline + 0.02", "< baseline") and decides whether a run passes them."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import Problem, RecipeError
from orchestrator.evaluation.measures import Metric, parse_metric

_NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_RULE = re.compile(
    rf"\s*(?P<operator>[<>]=?)\s*(?:(?P<baseline>baseline)(?:\s*(?P<sign>[+-])\s*(?P<offset>{_NUMBER}))?|(?P<number>{_NUMBER}))\s*"
)
_OPERATORS = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}
_TURNED = {">": "<", "<": ">", "+": "-", "-": "+"}


@dataclass(frozen=True)
class Rule:
    """The tuned model's value of `metric` must be `operator` `offset`, counted from the baseline's if `baseline`."""

    metric: Metric
    operator: str
    baseline: bool
    offset: float
    text: str


def parse_rule(metric_name: str, text: object) -> Rule | Problem:
    """Return one gate of the recipe, or what is wrong with it. Imports nothing heavy.

    A rule is an operator (`>` or `>=`; `<` or `<=` for metrics that are better when lower), then `baseline`,
    `baseline` ± a number, or a number.
    """
    metric = parse_metric(metric_name)
    if isinstance(metric, Problem):
        return metric
    if isinstance(text, int | float) and not isinstance(text, bool):
        return Problem(f"the gate {text} has no operator", hint=f"write '{_better(metric)} {text}'")
    found = _RULE.fullmatch(text) if isinstance(text, str) else None
    if found is None or not isinstance(text, str):
        return Problem(f"{text!r} is not a gate", hint=f"write {_grammar(metric)}")
    if found["operator"][0] != _better(metric):
        way = "higher" if metric.higher_is_better else "lower"
        message = f"{text!r} is passed by a worse model: {metric.display} is better when {way}"
        return Problem(message, hint=f"write '{_turn(found)}'")
    offset = float(found["number"] or found["offset"] or 0)
    offset = -offset if found["sign"] == "-" else offset
    rule = Rule(metric, found["operator"], bool(found["baseline"]), offset, " ".join(text.split()))
    return _out_of_range(rule) or rule


def _better(metric: Metric) -> str:
    return ">" if metric.higher_is_better else "<"


def _grammar(metric: Metric) -> str:
    better = _better(metric)
    example = ">= baseline + 0.02" if metric.higher_is_better else "<= baseline - 0.02"
    return f"an operator ({better}, {better}=), then a number, or baseline, or baseline ± a number, as in '{example}'"


def _turn(found: re.Match[str]) -> str:
    """Return a gate in the other direction; an offset that asked for more than the baseline still does."""
    side, sign = found["operator"][0], found["sign"]
    asks_for_more = (side, sign) in {(">", "+"), ("<", "-")}
    right = f"{_TURNED[side]}{found['operator'][1:]} {found['baseline'] or found['number']}"
    if sign is None:
        return right
    return f"{right} {_TURNED[sign] if asks_for_more else sign} {found['offset']}"


def _out_of_range(rule: Rule) -> Problem | None:
    """Return a problem for a threshold that no model can reach."""
    metric = rule.metric
    if rule.baseline:
        return None
    message = f"{rule.text!r} can never be passed: {metric.display} is at"
    if metric.higher_is_better and rule.offset > metric.most:
        return Problem(f"{message} most {metric.most:g}", hint=f"measures run from {metric.least:g} to {metric.most:g}")
    reachable = _OPERATORS[rule.operator](metric.least, rule.offset)
    if not metric.higher_is_better and not reachable:
        return Problem(f"{message} least {metric.least:g}", hint="write '< baseline', or a higher number")
    return None


def parse_gate(gate: Mapping[str, object]) -> tuple[tuple[Rule, ...], tuple[Problem, ...]]:
    """Return the rules of a recipe's `gate`, and every problem in it."""
    parsed = [parse_rule(metric, text) for metric, text in gate.items()]
    rules = tuple(item for item in parsed if isinstance(item, Rule))
    return rules, tuple(item for item in parsed if isinstance(item, Problem))


def decide(rule: Rule, tuned: float | None, baseline: float | None) -> tuple[bool, str]:
    """Return whether a rule holds, and the sentence that says so.

    One whose values are missing is missed, since nothing shows that it holds.
    """
    name = rule.metric.display
    if tuned is None:
        return False, f"{name} {rule.text}: the tuned model was not measured"
    if rule.baseline and baseline is None:
        return False, f"{name} {rule.text}: no baseline was measured"
    threshold = rule.offset + (baseline or 0.0 if rule.baseline else 0.0)
    # 12 digits: 0.1 + 0.2 must count as 0.3.
    passed = bool(_OPERATORS[rule.operator](round(tuned, 12), round(threshold, 12)))
    source = f" ({rule.text.removeprefix(rule.operator).strip()})" if rule.baseline else ""
    relation = rule.operator if passed else f"is not {rule.operator}"
    return passed, f"{name} {tuned:.4f} {relation} {threshold:.4f}{source}"


def decide_gate(
    gate: Mapping[str, object],
    tuned: Mapping[str, float | None] | None,
    baseline: Mapping[str, float | None] | None,
    *,
    of: str = "",
) -> dict[str, Any]:
    """Hold a whole gate against the means of both systems, None for one that was not measured.

    {"passed": bool | null (there are no rules), "rules": [{"metric", "rule", "passed", "sentence"}]}; sentences begin
    with `of`, where it is given. Raises RecipeError for rules that cannot be read.
    """
    start = f"{of}: " if of else ""
    rules, problems = parse_gate(gate)
    if problems:
        raise RecipeError.from_problems([Problem(f"{start}gate: {item.message}", item.hint) for item in problems])
    rows: list[dict[str, Any]] = []
    for rule in rules:
        name = rule.metric.name
        passed, sentence = decide(rule, tuned[name] if tuned else None, baseline[name] if baseline else None)
        rows.append({"metric": name, "rule": rule.text, "passed": passed, "sentence": f"{start}{sentence}"})
    return {"passed": all(row["passed"] for row in rows) if rows else None, "rules": rows}
