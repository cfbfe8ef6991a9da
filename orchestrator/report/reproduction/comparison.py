"""Two runs of one plan, step by step: prepared data, losses, weights, scores, measures."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import RunFolderError
from orchestrator.evaluation.measures import display_name
from orchestrator.evaluation.metrics import TUNED, scoring_stages
from orchestrator.evaluation.paired import NO_DIFFERENCE
from orchestrator.machine.files import ABSENT, hash_path
from orchestrator.machine.rundir import RunDir
from orchestrator.recipe.plan import Plan
from orchestrator.report.compare_runs import compare_runs
from orchestrator.report.training_log import load_training_log

REPRODUCTION_VERSION = 1
IDENTICAL = "identical"
WITHIN_NOISE = "no measurable difference"
DIFFERENT = "different"


@dataclass(frozen=True)
class Finding:
    """One thing that both runs made. `same`: it is equal, bit for bit; `words` say how far apart it is where not."""

    what: str
    same: bool
    words: str


@dataclass(frozen=True)
class Reproduction:
    """What came of running a run once more.

    `outcome` is identical (every finding is), no measurable difference (the paired comparison of the tuned models sees
    none on any metric), or different.
    """

    first: str
    second: str
    findings: tuple[Finding, ...]
    outcome: str

    @property
    def is_reproduced(self) -> bool:
        """Whether the same came out, to the bit or as far as the evaluation set can tell."""
        return self.outcome != DIFFERENT

    def to_json(self) -> dict[str, Any]:
        """Return {"version", "first", "second", "outcome", "reproduced", "findings": [{"what", "same", "words"}]}."""
        return {
            "version": REPRODUCTION_VERSION,
            "first": self.first,
            "second": self.second,
            "outcome": self.outcome,
            "reproduced": self.is_reproduced,
            "findings": [asdict(finding) for finding in self.findings],
        }


def compare_reproduction(first: RunDir, second: RunDir, plan: Plan) -> Reproduction:
    """Compare two finished runs of one plan. Raises RunFolderError where there is nothing to compare."""
    findings = [
        *_hashed(first, second, plan),
        *_losses(first, second, plan),
    ]
    measured, all_alike = _measures(first, second)
    findings += measured
    if not findings:
        raise RunFolderError(f"{first.root} has no result to compare with", hint="finish it first: orch resume RUN")
    if all(finding.same for finding in findings):
        outcome = IDENTICAL
    else:
        outcome = WITHIN_NOISE if measured and all_alike else DIFFERENT
    return Reproduction(str(first.root), str(second.root), tuple(findings), outcome)


def _hashed(first: RunDir, second: RunDir, plan: Plan) -> Iterator[Finding]:
    """Yield the files whose bytes say it: prepared rows, weights, scores. A folder counts with its weights."""
    pairs: list[tuple[str, list[Path], list[Path]]] = [
        ("training rows", [first.train_jsonl], [second.train_jsonl]),
        ("evaluation rows", [first.eval_jsonl], [second.eval_jsonl]),
        ("packaged weights", _list_weights(first), _list_weights(second)),
    ]
    tuned = scoring_stages(plan).get(TUNED)
    if tuned:
        scores = [run.stage(tuned.name).output / "scores.jsonl" for run in (first, second)]
        pairs.append(("scores of the tuned model", [scores[0]], [scores[1]]))
    for what, ours, theirs in pairs:
        before, after = ([hash_path(path) for path in paths] for paths in (ours, theirs))
        if set(before) - {ABSENT}:
            yield Finding(what, before == after, "the same bytes" if before == after else "other bytes")


def _list_weights(run: RunDir) -> list[Path]:
    return sorted(run.model.glob("*.safetensors"))


def _losses(first: RunDir, second: RunDir, plan: Plan) -> Iterator[Finding]:
    """Yield how far the logged training losses are apart, step by step."""
    before, after = (
        {point.step: point.loss for point in load_training_log(run, plan).points} for run in (first, second)
    )
    if not before:
        return
    if before == after:
        yield Finding("training losses", same=True, words=f"the same at all {len(before)} logged steps")
        return
    gaps = {
        step: abs(loss - other)
        for step, loss in before.items()
        if loss is not None and (other := after.get(step)) is not None
    }
    apart = [step for step in before if before[step] != after.get(step)]
    words = f"apart from step {min(apart)} on" if apart else f"{len(after)} logged steps instead of {len(before)}"
    if gaps:
        worst = max(gaps, key=gaps.__getitem__)
        words += f", at most {gaps[worst]:.3g} (step {worst})"
    yield Finding("training losses", same=False, words=words)


def _measures(first: RunDir, second: RunDir) -> tuple[list[Finding], bool]:
    """Return the tuned models' measures, and whether the paired comparison sees no difference in any of them."""
    if not (first.metrics_json.is_file() and second.metrics_json.is_file()):
        return [], False
    compared = compare_runs(first, second)
    findings = [
        Finding(
            display_name(name),
            one.before == one.after and one.ties == one.units,
            f"{one.before:.4f} then, {one.after:.4f} now: {one.verdict if one.before != one.after else 'the same'}",
        )
        for name, one in compared.comparisons.items()
    ]
    return findings, all(one.verdict == NO_DIFFERENCE for one in compared.comparisons.values())
