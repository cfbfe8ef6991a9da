"""Parses a recipe's gates ("> baseline + 0.02") and decides whether a run passes them."""

from __future__ import annotations

import operator
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.errors import Problem
from orchestrator.evaluation.measures import Metric, parse_metric

if TYPE_CHECKING:
    from collections.abc import Mapping

_GRAMMAR = "an operator (>, >=), then a number, or baseline, or baseline + a number, as in '>= baseline + 0.02'"
_NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_RULE = re.compile(
    rf"\s*(?P<operator>>=?)\s*(?:(?P<baseline>baseline)(?:\s*(?P<sign>[+-])\s*(?P<offset>{_NUMBER}))?|(?P<number>{_NUMBER}))\s*"
)
_OPERATORS = {">": operator.gt, ">=": operator.ge}


@dataclass(frozen=True)
class Rule:
    """The tuned model's mean of `metric` must be `operator` `offset`, counted from the baseline's if `baseline`."""

    metric: Metric
    operator: str
    baseline: bool
    offset: float
    text: str


@dataclass(frozen=True)
class Decision:
    """Whether one rule holds, and the sentence that says so."""

    rule: Rule
    passed: bool
    sentence: str


def parse_rule(metric_name: str, text: object) -> Rule | Problem:
    """Return one gate of the recipe, or what is wrong with it. Imports nothing heavy.

    A rule is an operator (`>` or `>=`), then `baseline`, `baseline` ± a number, or a number.
    """
    metric = parse_metric(metric_name)
    if isinstance(metric, Problem):
        return metric
    if isinstance(text, int | float) and not isinstance(text, bool):
        return Problem(f"the gate {text} has no operator", hint=f"write '> {text}'")
    found = _RULE.fullmatch(text) if isinstance(text, str) else None
    if found is None or not isinstance(text, str):
        return Problem(f"{text!r} is not a gate", hint=f"write {_GRAMMAR}")
    offset = float(found["number"] or found["offset"] or 0)
    offset = -offset if found["sign"] == "-" else offset
    if not found["baseline"] and offset > 1:
        return Problem(f"{text!r} can never be passed: {metric.display} is at most 1", hint="measures run from 0 to 1")
    return Rule(metric, found["operator"], bool(found["baseline"]), offset, " ".join(text.split()))


def parse_gate(gate: Mapping[str, object]) -> tuple[tuple[Rule, ...], tuple[Problem, ...]]:
    """Return the rules of a recipe's `gate`, and every problem in it."""
    parsed = [parse_rule(metric, text) for metric, text in gate.items()]
    rules = tuple(item for item in parsed if isinstance(item, Rule))
    return rules, tuple(item for item in parsed if isinstance(item, Problem))


def decide(rule: Rule, tuned: float | None, baseline: float | None) -> Decision:
    """Hold one rule against the means; a rule whose means are missing is missed, since nothing shows that it holds."""
    name = rule.metric.display
    if tuned is None:
        return Decision(rule, passed=False, sentence=f"{name} {rule.text}: the tuned model was not measured")
    if rule.baseline and baseline is None:
        return Decision(rule, passed=False, sentence=f"{name} {rule.text}: no baseline was measured")
    threshold = rule.offset + (baseline or 0.0 if rule.baseline else 0.0)
    # 12 digits: 0.1 + 0.2 must count as 0.3.
    passed = bool(_OPERATORS[rule.operator](round(tuned, 12), round(threshold, 12)))
    source = f" ({rule.text.removeprefix(rule.operator).strip()})" if rule.baseline else ""
    relation = rule.operator if passed else f"is not {rule.operator}"
    return Decision(rule, passed=passed, sentence=f"{name} {tuned:.4f} {relation} {threshold:.4f}{source}")
