"""Picks the pairs whose place changed most against the gold scores, with both systems' scores and ranks."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.evaluation.eval_rows import Pair
from orchestrator.report.examples import MOST_EXAMPLES, clipped, most_changed


@dataclass(frozen=True)
class Place:
    """A score, and its rank among all pairs: 1 is the most alike, equal scores share the best rank of theirs."""

    score: float
    rank: int


@dataclass(frozen=True)
class PairExample:
    """One pair's change. The values are its errors, lower is better."""

    pid: str
    text1: str
    text2: str
    before_value: float
    after_value: float
    gold: Place
    before: Place
    after: Place
    pairs: int

    @property
    def difference(self) -> float:
        """How much the error changed."""
        return self.after_value - self.before_value


def build_pair_examples(
    pairs: Sequence[Pair],
    values: Mapping[str, tuple[float, float]],
    before: Mapping[str, float],
    after: Mapping[str, float],
) -> tuple[tuple[PairExample, ...], tuple[PairExample, ...]]:
    """Return (most improved, most worsened), at most 5 each; `values` is {pid: (error before, error after)}."""
    by_pid = {pair.pid: pair for pair in pairs if pair.pid in values}
    gold, first, second = _places({pair.pid: pair.gold for pair in pairs}), _places(before), _places(after)
    improved, worsened = most_changed(values, higher_is_better=False, most=MOST_EXAMPLES)

    def example(pid: str) -> PairExample:
        pair = by_pid[pid]
        return PairExample(
            pid=pid,
            text1=clipped(pair.text1),
            text2=clipped(pair.text2),
            before_value=values[pid][0],
            after_value=values[pid][1],
            gold=gold[pid],
            before=first[pid],
            after=second[pid],
            pairs=len(pairs),
        )

    return tuple(map(example, improved)), tuple(map(example, worsened))


def _places(scores: Mapping[str, float]) -> dict[str, Place]:
    ascending = sorted(scores.values())
    return {pid: Place(score, len(ascending) - bisect_right(ascending, score) + 1) for pid, score in scores.items()}
