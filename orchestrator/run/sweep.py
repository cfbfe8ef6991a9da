"""A sweep's folder: sweep.json, its only state, and `trials/NNN/`, which are run folders like any other.

sweep.json is a `Sweep`, written by rename after each change. Its `choice` is null while not all trials are over, and
where nothing can be chosen; else

{"rule": "confirmed" (chosen on half of the rows, compared on the other) | "corrected" (for how many there were),
 "chosen_from": settings, "units": rows that the winner was compared on,
 "winner": {"set", "trials": [number, …], "before", "after", "difference", "interval": [low, high] | null, "p",
            "verdict": "better"|"not shown"|"worse"},
 "not_worse": [[number, …] of each other setting that the rows cannot tell from the winner],
 "gate": {"passed": bool | null, "rules": […]}   as in metrics.json, on the rows that the winner was compared on}
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.errors import RunFolderError, Where
from orchestrator.machine.files import write_json
from orchestrator.machine.json_files import build_record, find_object, load_object
from orchestrator.machine.rundir import RunDir
from orchestrator.run.folder import is_own_run

FORMAT = 1
NAME = "sweep.json"
WAITING, RUNNING, DONE, FAILED, PRUNED, STOPPED = "waiting", "running", "done", "failed", "pruned", "stopped"


@dataclass
class Trial:
    """One training of one setting, and how it ended."""

    number: int
    run: str  # its folder, below the sweep's
    set: dict[str, Any]
    seed: int
    setting: int = 0  # its place among the settings
    state: str = WAITING
    metric: float | None = None  # the tuned model's value of the headline metric
    difference: float | None = None  # from the untouched model
    interval: tuple[float, float] | None = None  # of the difference, 95 %
    note: str | None = None  # why it failed or was pruned


@dataclass
class Sweep:
    """What sweep.json holds."""

    recipe: str
    parameters: list[str]  # keys with several values, as `--set` names them
    seeds: int  # trainings of each setting
    trials: list[Trial]
    asked: dict[str, Any] = field(default_factory=dict)  # the options, and recipe_sha256
    metric: str | None = None  # the headline metric's name
    baseline: float | None = None  # its value of the untouched model
    choice: dict[str, Any] | None = None
    seconds: float = 0.0  # that its trainings have taken so far
    format: int = FORMAT

    def settings(self) -> list[list[Trial]]:
        """Return the trials of each setting."""
        found: dict[int, list[Trial]] = {}
        for trial in self.trials:
            found.setdefault(trial.setting, []).append(trial)
        return list(found.values())

    def add(self, setting: dict[str, Any], first_seed: int) -> None:
        """Add the trials of one more setting."""
        place = len({trial.setting for trial in self.trials})
        for seed in range(first_seed, first_seed + self.seeds):
            number = len(self.trials)
            self.trials.append(Trial(number, f"trials/{number:03d}", dict(setting), seed, place))


def is_sweep(folder: Path) -> bool:
    """Tell whether a folder holds a sweep."""
    return (folder / NAME).is_file()


def load_sweep(folder: Path) -> Sweep:
    """Return the sweep of a folder. Raises RunFolderError where there is none, or none that can be read."""
    path = folder / NAME
    try:
        sweep = build_record(Sweep, load_object(path))
    except FileNotFoundError:
        raise RunFolderError(
            f"{folder} is not a sweep: it has no {NAME}", hint="begin one: orch sweep RECIPE"
        ) from None
    except (OSError, ValueError) as error:
        hint = f"bring it back from a copy; or remove it, and the same `orch sweep -o {folder}` takes up every trial"
        raise RunFolderError(f"{NAME} cannot be read: {error}", hint=hint, where=Where(str(path))) from None
    if sweep.format != FORMAT:
        message = f"{NAME} has format {sweep.format}; this Orch reads {FORMAT}"
        raise RunFolderError(message, hint="use the Orch that wrote it", where=Where(str(path)))
    return sweep


def write_sweep(folder: Path, sweep: Sweep) -> None:
    """Write sweep.json by rename."""
    write_json(folder / NAME, asdict(sweep))


def trial_dir(folder: Path, trial: Trial) -> RunDir:
    """Return the run folder of a trial."""
    return RunDir(folder / trial.run)


def is_over(trial: Trial) -> bool:
    """Tell whether a trial has come to its end, good or bad."""
    return trial.state in {DONE, FAILED, PRUNED}


def record_result(folder: Path, sweep: Sweep, trial: Trial) -> None:
    """Take the headline measure of a finished trial into the sweep."""
    metrics = find_object(trial_dir(folder, trial).metrics_json) or {}
    headline = metrics.get("headline") or {}
    sweep.metric = sweep.metric or headline.get("metric")
    means = {one["role"]: one["means"].get(sweep.metric) for one in reversed(metrics.get("systems", []))}
    trial.metric = means.get("tuned")
    sweep.baseline = means.get("baseline") if sweep.baseline is None else sweep.baseline
    for row in metrics.get("comparisons", []):
        if (row["metric"], row["baseline"]) == (sweep.metric, headline.get("baseline")):
            trial.difference = row["difference"]
            trial.interval = None if row["low"] is None else (row["low"], row["high"])


def find_others(run: RunDir, *, trust_run: bool = False) -> list[RunDir]:
    """Return the run folders that a trial may take finished stages from: its sweep's others, if ours. None of a run."""
    trials = run.root.parent
    if trials.name != "trials" or not is_sweep(trials.parent):
        return []
    others = [RunDir(path) for path in sorted(trials.iterdir()) if path != run.root]
    return [one for one in others if one.plan_json.exists() and (trust_run or is_own_run(one))]
