"""Evaluation sets of scored pairs: how a system's cosines agree with the scores that people gave."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import RunFolderError
from orchestrator.evaluation.correlations import correlation, pair_errors
from orchestrator.evaluation.lines import read_lines
from orchestrator.evaluation.measured import GOLD, Measured
from orchestrator.evaluation.measures import PAIR
from orchestrator.evaluation.rows import require_all, require_finite

Scores = Mapping[str, float]  # {pid: score}


@dataclass(frozen=True)
class Pair:
    """Two texts, and how alike they are (`gold`): any scale, higher is more alike."""

    pid: str
    text1: str
    text2: str
    gold: float


@dataclass(frozen=True)
class PairEval:
    """Pairs in file order."""

    pairs: tuple[Pair, ...]
    kind: str = PAIR

    @property
    def size(self) -> int:
        """How many pairs there are."""
        return len(self.pairs)

    def describe(self) -> dict[str, Any]:
        """Return {"pairs", "distinct_scores": different gold scores, "least", "most"}."""
        gold = [pair.gold for pair in self.pairs]
        return {"pairs": len(gold), "distinct_scores": len(set(gold)), "least": min(gold), "most": max(gold)}

    def load_scores(self, path: Path) -> Scores:
        """Return {pid: score}. Raises RunFolderError for an unknown, repeated or missing pair."""
        known = frozenset(pair.pid for pair in self.pairs)
        scores: dict[str, float] = {}
        for where, row in read_lines(path):
            try:
                pid, score = str(row["pid"]), float(row["score"])
            except (KeyError, TypeError, ValueError) as error:
                raise RunFolderError(f"not a pair's score: {error!r}", where=where) from error
            if pid not in known:
                raise RunFolderError(f"a score for {pid}, which the evaluation set does not hold", where=where)
            if pid in scores:
                raise RunFolderError(f"two scores for {pid}", where=where)
            scores[pid] = score
        require_all(path, scores, [pair.pid for pair in self.pairs], "pair")
        return scores

    def measure(self, scores: Mapping[str, Scores], metrics: Sequence[str], *, seed: int) -> dict[str, Measured]:  # noqa: ARG002
        """Correlate {system id: its scores} with the gold scores.

        A row's value is the pair's error: under spearman the difference of its two ranks as a share of the longest
        possible, under pearson the difference of its standardised scores. A correlation that constant scores leave
        undefined is 0.
        """
        return {name: self._measure(one, metrics) for name, one in scores.items()}

    def _measure(self, scores: Scores, metrics: Sequence[str]) -> Measured:
        import numpy as np

        require_finite(scores)
        gold = np.asarray([pair.gold for pair in self.pairs], dtype=float)
        given = np.asarray([scores[pair.pid] for pair in self.pairs], dtype=float)
        errors = {name: pair_errors(given, gold, ranked=name == "spearman") for name in metrics}
        return Measured(
            ids=tuple(pair.pid for pair in self.pairs),
            columns={
                **{name: tuple(map(float, values)) for name, values in errors.items()},
                "score": tuple(map(float, given)),
                GOLD: tuple(map(float, gold)),
            },
            means={name: correlation(given, gold, ranked=name == "spearman") for name in metrics},
            facts={"constant": bool((given == given[0]).all())},
        )


def load_pair_eval(path: Path) -> PairEval:
    """Return data/eval.jsonl as scored pairs. Raises RunFolderError for a line that is none, or a pid twice."""
    pairs: dict[str, Pair] = {}
    for where, row in read_lines(path):
        try:
            pair = Pair(str(row["pid"]), str(row["text1"]), str(row["text2"]), float(row["score"]))
        except (KeyError, TypeError, ValueError) as error:
            raise RunFolderError(f"not a scored pair: {error!r}", where=where) from error
        if not math.isfinite(pair.gold):
            raise RunFolderError(f"the score of {pair.pid} is {pair.gold}, not a number", where=where)
        if pair.pid in pairs:
            raise RunFolderError(f"the pid {pair.pid} comes twice", where=where)
        pairs[pair.pid] = pair
    return PairEval(tuple(pairs.values()))
