"""Chooses what the page shows of single rows: a bar for each, and the examples of the evaluation set's kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.evaluation.eval_sets import ChatEval, GroupEval, PairEval, RetrievalEval
from orchestrator.evaluation.measures import require_metric
from orchestrator.evaluation.metrics import TUNED, Scored
from orchestrator.report.chat_examples import build_chat_examples
from orchestrator.report.examples import build_examples
from orchestrator.report.figures import BarsFigure, build_bars_figure
from orchestrator.report.pair_examples import build_pair_examples
from orchestrator.report.wording import counted, headline_comparison


@dataclass(frozen=True)
class Examples:
    """A heading, and rows to read under it."""

    title: str
    items: Sequence[Any]


@dataclass(frozen=True)
class Evidence:
    """The bars of the headline metric and what one row's value is called; the examples by heading, under a note."""

    bars: BarsFigure | None
    row_name: str
    sections: tuple[Examples, ...]
    note: str | None = None


def build_evidence(metrics: Mapping[str, Any], scored: Scored) -> Evidence:
    """Return what the rows of a run show; nothing of what was not compared, but chat answers are there to read."""
    metric = require_metric(metrics["headline"]["metric"])
    comparison = headline_comparison(metrics)
    values = _values(metrics, comparison["baseline"]) if comparison else {}
    names = scored.evaluation.row_texts() if scored.evaluation and values else {}
    bars = [(names[row], *values[row]) for row in names if row in values]
    return Evidence(
        build_bars_figure(bars, higher_is_better=metric.row_higher_is_better),
        metric.row_display,
        tuple(_sections(metrics, scored, comparison, values)),
        _note(metrics),
    )


def _note(metrics: Mapping[str, Any]) -> str | None:
    """Return how many rows the chat examples are chosen from, where not every row has an answer."""
    counts = [system["generations"] for system in metrics["systems"] if "generations" in system]
    if not counts or min(counts) >= metrics["eval"]["units"]:
        return None
    if not min(counts):
        return "No answers were generated: only the losses can be compared."
    return (
        f"Answers were generated for {min(counts):,} of {counted(metrics['eval']['units'], 'row')}; these are of them."
    )


def _values(metrics: Mapping[str, Any], baseline: str) -> dict[str, tuple[float, float]]:
    """Return {row: (before, after)} of the headline metric, without the rows that a side has no value for."""
    metric = metrics["headline"]["metric"]
    pairs = {row["id"]: (row["values"][baseline][metric], row["values"][TUNED][metric]) for row in metrics["rows"]}
    return {row: pair for row, pair in pairs.items() if None not in pair}


def _sections(
    metrics: Mapping[str, Any],
    scored: Scored,
    comparison: Mapping[str, Any] | None,
    values: Mapping[str, tuple[float, float]],
) -> list[Examples]:
    evaluation, unit = scored.evaluation, metrics["unit"]
    baseline = metrics["headline"]["baseline"]
    before, after = scored.scores.get(baseline, {}), scored.scores.get(TUNED, {})
    if isinstance(evaluation, ChatEval):
        improved, worsened, first = build_chat_examples(evaluation.rows, before, after) if after else ((), (), ())
        found = [
            Examples("Most improved", improved),
            Examples("Most worsened", worsened),
            Examples("The first other rows" if improved or worsened else "The first rows", first),
        ]
        return [section for section in found if section.items]
    if comparison is None:
        return []
    better: Sequence[Any] = ()
    worse: Sequence[Any] = ()
    if isinstance(evaluation, PairEval):
        better, worse = build_pair_examples(evaluation.pairs, values, before, after)
    elif isinstance(evaluation, GroupEval | RetrievalEval):
        better, worse = build_examples(evaluation.pool(scored.scores), values, before, after)
    down = "Most worsened" if comparison["losses"] > len(worse) else "All that worsened"
    return [
        Examples("Most improved" if better else f"No {unit} improved", better),
        Examples(down if worse else f"No {unit} worsened", worse),
    ]
