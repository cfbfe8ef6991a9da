"""A run made once more: its plan in a fresh folder, what has changed since, and in the end the comparison of both."""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import RunFolderError, Where
from orchestrator.evaluation.measures import NO_DIFFERENCE, TUNED, display_name
from orchestrator.evaluation.metrics import scoring_stages
from orchestrator.machine.files import ABSENT, hash_path, read_regular, write_json
from orchestrator.machine.hardware import CPU, find_hardware
from orchestrator.machine.json_files import find_object
from orchestrator.machine.rundir import RunDir
from orchestrator.recipe.plan import Plan, plan_from_json
from orchestrator.report.compare_runs import compare_runs
from orchestrator.report.record import load_training_log
from orchestrator.run.folder import load_plan, understood, write_run
from orchestrator.run.provenance import Asked, build_provenance

REPRODUCES = "reproduces"  # the key of provenance.json that says which run this one repeats
REPRODUCTION_VERSION = 1
IDENTICAL = "identical"
WITHIN_NOISE = "no measurable difference"
DIFFERENT = "different"
_MIN_PROVENANCE = 2  # the first version that hashes the inputs
_HASH_SHOWN, _TEXT_SHOWN = 12, 40  # characters


@dataclass(frozen=True)
class Difference:
    """One thing that was `then` and is `now`; an input's difference makes a reproduction meaningless."""

    what: str
    then: str
    now: str
    is_input: bool = False

    def __str__(self) -> str:
        return f"{self.what}: {self.then} then, {self.now} now"


@dataclass(frozen=True)
class Rerun:
    """A run that is about to be made once more: `plan` is its own, in the new folder."""

    first: RunDir
    plan: Plan
    provenance: dict[str, Any]
    differences: tuple[Difference, ...]

    def write(self) -> RunDir:
        """Write the new run folder, up to its plan. Raises RunFolderError when it cannot be written."""
        with understood(self.first.recipe_yaml):
            text = read_regular(self.first.recipe_yaml).decode("utf-8")
        repeated = {"run": str(self.first.root), "differences": [asdict(item) for item in self.differences]}
        return write_run(self.plan, text, {**self.provenance, REPRODUCES: repeated})


@dataclass(frozen=True)
class Finding:
    """One thing that both runs made. `same`: it is equal, bit for bit; `words` say how far apart it is where not."""

    what: str
    same: bool
    words: str


@dataclass(frozen=True)
class Reproduction:
    """The result of running a run once more, as reproduction.json has it.

    `outcome` is identical (every finding is), no measurable difference (the paired comparison of the tuned models sees
    none on any metric), or different; all but the last are `reproduced`.
    """

    version: int
    first: str
    second: str
    outcome: str
    reproduced: bool
    findings: tuple[Finding, ...]


def begin_rerun(first: RunDir, plan: Plan, folder: Path | None, runs: Path, *, may_run: bool = True) -> Rerun:
    """Return the rerun of a finished run, in `folder` or a fresh one under `runs`. Raises RunFolderError.

    Without `may_run` no interpreter of the plan is started.
    """
    with understood(first.provenance_json):
        then = require_provenance(first, find_object(first.provenance_json))
        asked = Asked(Path(then["recipe"]), tuple(then["asked"]["set"]), then["asked"]["hardware"])
    if not first.report_json.is_file():
        message = f"{first.root.name} is not finished: there is nothing to compare with"
        raise RunFolderError(message, hint=f"finish it first: orch resume {first.root}")
    name = f"{plan.name}-again-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    moved = move_plan(plan, folder or runs.resolve() / name)
    cpu = plan.smoke or asked.hardware == "cpu"
    now = build_provenance(moved, CPU if cpu else find_hardware(), asked, may_run=may_run)
    with understood(first.provenance_json):
        return Rerun(first, moved, now, tuple(find_differences(then, now)))


def is_rerun(run: RunDir) -> bool:
    """Tell whether a run was made to repeat another one."""
    return REPRODUCES in (find_object(run.provenance_json) or {})


def finish_rerun(second: RunDir) -> Reproduction:
    """Compare a finished rerun with the run that it repeats, and keep the answer in its reproduction.json.

    Raises RunFolderError where that run has gone, or has no result.
    """
    with understood(second.provenance_json):
        repeated = (find_object(second.provenance_json) or {})[REPRODUCES]
        first, differences = RunDir(Path(repeated["run"])), repeated["differences"]
    with understood(first.metrics_json):
        result = compare_reproduction(first, second, load_plan(second))
    write_json(second.reproduction_json, {**asdict(result), "differences": differences})
    return result


def move_plan(plan: Plan, folder: Path) -> Plan:
    """Return the plan with every path into its run folder leading into `folder` (absolute).

    It is the plan of that run and not one made anew from its recipe, so that another version of Orch, or a recipe that
    has been edited since, cannot change a flag unseen.
    """
    # The folder is a whole path: /runs/a is not the beginning of /runs/a-2.
    pattern = re.compile(re.escape(plan.run_dir) + r"(?![\w.-])")

    def moved(value: Any) -> Any:
        if isinstance(value, str):
            return pattern.sub(lambda _: str(folder), value)
        if isinstance(value, list):
            return [moved(item) for item in value]
        if isinstance(value, dict):
            return {key: moved(item) for key, item in value.items()}
        return value

    return plan_from_json(json.dumps(moved(json.loads(plan.to_json()))))


def require_provenance(run: RunDir, provenance: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return a run's provenance. Raises RunFolderError for one without the hashes of its inputs."""
    if provenance and int(provenance.get("version", 0)) >= _MIN_PROVENANCE:
        return provenance
    raise RunFolderError(
        "provenance.json is missing, or of an Orch that did not hash the inputs: nobody can tell whether they changed",
        hint="run its recipe anew: orch run RECIPE",
        where=Where(str(run.provenance_json)),
    )


def find_differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Difference]:
    """Yield how two provenance.json differ, inputs first. The recipe does not count: its plan is what is run."""
    for path, old, new in _changed(then["inputs"], now["inputs"]):
        yield Difference(path, (old or "absent")[:_HASH_SHOWN], (new or "absent")[:_HASH_SHOWN], is_input=True)
    before, after = then["environments"], now["environments"]
    for python in sorted({*before, *after}):
        for name, old, new in _changed(before.get(python, {}), after.get(python, {})):
            yield Difference(f"{name} in {python}", old or "absent", new or "absent")
    for key in ("orch", "orch_sha256", "templates_sha256", "platform"):
        if then.get(key) != now.get(key):
            old, new = (str(side.get(key))[:_TEXT_SHOWN] for side in (then, now))
            yield Difference(key.removesuffix("_sha256"), old, new)
    for part in ("hardware", "cpu"):
        for key, old, new in _changed(then.get(part) or {}, now.get(part) or {}):
            yield Difference(f"{part} {key}", _plain(old), _plain(new))


def _changed(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield (key, old, new) of what is not the same in both, None for what is absent."""
    for key in sorted({*then, *now}):
        if then.get(key) != now.get(key):
            yield key, then.get(key), now.get(key)


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def compare_reproduction(first: RunDir, second: RunDir, plan: Plan) -> Reproduction:
    """Compare two finished runs of one plan. Raises RunFolderError where there is nothing to compare."""
    measured, all_alike = _compare_measures(first, second)
    findings = (*_compare_files(first, second, plan), *_compare_losses(first, second, plan), *measured)
    if not findings:
        raise RunFolderError(f"{first.root} has no result to compare with", hint="finish it first: orch resume RUN")
    if all(finding.same for finding in findings):
        outcome = IDENTICAL
    else:
        outcome = WITHIN_NOISE if measured and all_alike else DIFFERENT
    reproduced = outcome != DIFFERENT
    return Reproduction(REPRODUCTION_VERSION, str(first.root), str(second.root), outcome, reproduced, findings)


def _compare_files(first: RunDir, second: RunDir, plan: Plan) -> Iterator[Finding]:
    """Yield the files whose bytes say it: prepared rows, weights, scores. A folder counts with its weights."""
    tuned = scoring_stages(plan).get(TUNED)

    def files(run: RunDir) -> dict[str, list[Path]]:
        return {
            "training rows": [run.train_jsonl],
            "evaluation rows": [run.eval_jsonl],
            "packaged weights": sorted(run.model.glob("*.safetensors")),
            "scores of the tuned model": [run.stage(tuned.name).output / "scores.jsonl"] if tuned else [],
        }

    theirs = files(second)
    for what, paths in files(first).items():
        before, after = ([hash_path(path) for path in side] for side in (paths, theirs[what]))
        if set(before) - {ABSENT}:
            yield Finding(what, before == after, "the same bytes" if before == after else "other bytes")


def _compare_losses(first: RunDir, second: RunDir, plan: Plan) -> Iterator[Finding]:
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


def _compare_measures(first: RunDir, second: RunDir) -> tuple[list[Finding], bool]:
    """Return the tuned models' measures, and whether the paired comparison sees no difference in any of them."""
    if not (first.metrics_json.is_file() and second.metrics_json.is_file()):
        return [], False
    compared = compare_runs(first, second)["comparisons"]
    findings = []
    for row in compared:
        said = row["verdict"] if row["before"] != row["after"] else "the same"
        words = f"{row['before']:.4f} then, {row['after']:.4f} now: {said}"
        same = row["before"] == row["after"] and row["ties"] == row["units"]
        findings.append(Finding(display_name(row["metric"]), same, words))
    return findings, all(row["verdict"] == NO_DIFFERENCE for row in compared)
