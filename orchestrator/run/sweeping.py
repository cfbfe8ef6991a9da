"""Runs a planned sweep in its folder: what is there is taken up, and each trial is a run like any other.

Trials run one after the other, several at once as processes of their own, or as jobs of an engine.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from orchestrator.checks import require_runnable
from orchestrator.errors import InterruptedRunError, OrchError, PreflightError, RunFolderError, TakenAwayError
from orchestrator.logs.events import Event, Listener
from orchestrator.machine import process
from orchestrator.machine.hardware import Hardware
from orchestrator.machine.process import Child
from orchestrator.machine.rundir import RunDir
from orchestrator.plan.cluster import Engine, Repeated, render_job
from orchestrator.plan.jobs import build_job
from orchestrator.plan.load import load_recipe
from orchestrator.plan.pipeline import build_plan
from orchestrator.plan.sweep import CACHE, VISIBLE, Planned, write_override
from orchestrator.recipe.plan import Plan
from orchestrator.recipe.schema import Cluster
from orchestrator.run.failures import AGAIN, GO_ON, explain_stop, judge
from orchestrator.run.folder import create_run, load_own_plan, require_same_recipe
from orchestrator.run.launching import Residents, find_imports
from orchestrator.run.loop import run_plan
from orchestrator.run.provenance import Asked
from orchestrator.run.slurm import SLURM, find_job, submit
from orchestrator.run.state import find_state, held_lock, touch_heartbeat
from orchestrator.run.stopping import Interrupts, counted_interrupts
from orchestrator.run.study import STORAGE, Study
from orchestrator.run.sweep import (
    DONE,
    FAILED,
    PRUNED,
    RUNNING,
    STOPPED,
    Sweep,
    Trial,
    find_others,
    is_over,
    is_sweep,
    load_sweep,
    record_result,
    trial_dir,
    write_sweep,
)

LOGS = "logs"  # of trials that run as processes of their own
_POLL_S = 0.2
_ENDING = (InterruptedRunError, TakenAwayError, RunFolderError, PreflightError)  # what no other trial would do better
_IDENTITY = ("recipe_sha256", "set", "seeds", "random", "optuna", "smoke", "hardware")


@dataclass
class Trials:
    """A sweep's trials in its folder: each is `orch run RECIPE --set FIXED … --set KEY=VALUE … -o SWEEP/trials/NNN`."""

    planned: Planned
    folder: Path
    sweep: Sweep

    @classmethod
    def take_up(cls, planned: Planned, folder: Path) -> Self:
        """Return the trials of a folder as their run folders have them; new ones for a folder without.

        Raises RunFolderError where the folder holds another sweep, or something else; OrchError where no trial can use
        a value of a new one. Nothing is written.
        """
        if is_sweep(folder):
            sweep = load_sweep(folder)
            if {key: sweep.asked.get(key) for key in _IDENTITY} != {key: planned.asked[key] for key in _IDENTITY}:
                hint = (
                    "say the recipe, --set, --seeds, --random and --optuna that it was begun with, or another folder: "
                    "-o"
                )
                raise RunFolderError(f"{folder} holds another sweep, or its recipe has changed since", hint=hint)
            sweep.asked = dict(planned.asked)
        else:
            own = {"trials", "lock", "cache", LOGS, STORAGE}
            if folder.exists() and not own.issuperset(path.name for path in folder.iterdir()):
                raise RunFolderError(f"{folder} is not empty, and holds no sweep", hint="name a fresh folder with -o")
            sweep = Sweep(str(planned.recipe), list(planned.parameters), planned.seeds, [], dict(planned.asked))
        trials = cls(planned, folder, sweep)
        new = planned.settings[len(sweep.settings()) :]  # all of them, or those that a larger --max-trials allows
        for setting in new:
            sweep.add(setting, planned.first_seed)
        trials.refuse_useless(len(sweep.settings()) - len(new))
        for trial in sweep.trials:  # finished by itself, or just when the sweep was killed
            state = find_state(trials.run(trial))
            if trial.state != DONE and state and state.status == "done":
                trials.require_same(trial)
                trial.state, trial.note = DONE, None
                record_result(folder, sweep, trial)
        return trials

    def run(self, trial: Trial) -> RunDir:
        """Return the run folder of a trial."""
        return trial_dir(self.folder, trial)

    def overrides(self, trial: Trial) -> tuple[str, ...]:
        """Return the `--set` of a trial.

        The cache of data sets is the sweep's: trials with one environment share their residents.
        """
        own = [write_override(key, value) for key, value in trial.set.items()]
        own += [f"train.seed={trial.seed}"] if self.sweep.seeds > 1 else []
        own += [] if self.planned.own_cache else [write_override(f"launch.env.{CACHE}", str(self.folder / "cache"))]
        return (*self.planned.fixed, *own)

    def plan(self, trial: Trial) -> Plan:
        """Return the plan of a trial. Raises OrchError where it cannot be run."""
        asked = self.planned
        loaded = load_recipe(asked.recipe, self.overrides(trial))
        job = build_job(loaded, self.run(trial).root, asked.hardware, smoke=asked.smoke)
        plan = build_plan(job)
        require_runnable(job, plan, this_machine=asked.here, asks_hub=asked.here)
        return plan

    def line(self, trial: Trial) -> Repeated:
        """Return the line that a user types for a trial, and that another process repeats."""
        asked = self.planned
        return Repeated(asked.recipe, self.run(trial).root, self.overrides(trial), asked.smoke, asked.asked["hardware"])

    def require_same(self, trial: Trial) -> None:
        """Raise RunFolderError where a trial's run folder holds another run."""
        asked = self.planned
        require_same_recipe(self.run(trial), asked.recipe, self.overrides(trial), smoke=asked.smoke)

    def refuse_useless(self, known: int) -> None:
        """Plan the first trial of each setting behind the known ones. One that cannot be run has failed.

        Raises OrchError where no trial can use a value.
        """
        errors: dict[int, OrchError] = {}
        settings = self.sweep.settings()
        for place, trials in enumerate(settings[known:], known):
            try:
                self.plan(trials[0])
            except OrchError as error:
                errors[place] = error
                for trial in trials:
                    trial.state, trial.note = FAILED, error.problems[0].message
        if errors and not self.sweep.parameters:
            raise errors[0]
        for key in self.sweep.parameters:
            for trial in self.sweep.trials:
                tried = [other for other in self.sweep.trials if other.set[key] == trial.set[key]]
                if all(other.setting in errors for other in tried):
                    raise _explain_useless(key, trial, errors, len(settings))

    def open(self, trial: Trial, *, trust_run: bool) -> Plan:
        """Return the plan of a trial whose run folder is there, made where it was not."""
        run, asked = self.run(trial), self.planned
        if run.plan_json.exists():
            self.require_same(trial)
            return load_own_plan(run, trust_run=trust_run)
        self.clear(trial)
        plan = self.plan(trial)
        create_run(plan, Asked(asked.recipe, self.overrides(trial), asked.asked["hardware"]), asked.hardware)
        return plan

    def clear(self, trial: Trial) -> None:
        """Remove a run folder that was being written when an earlier sweep was killed."""
        if not self.run(trial).plan_json.exists():
            shutil.rmtree(self.run(trial).root, ignore_errors=True)

    def mark(self, trial: Trial, state: str, note: str | None = None) -> None:
        """Write down what has become of a trial."""
        trial.state, trial.note = state, note
        self.write()

    def write(self) -> None:
        """Write sweep.json."""
        write_sweep(self.folder, self.sweep)


def _explain_useless(key: str, trial: Trial, errors: Mapping[int, OrchError], settings: int) -> OrchError:
    """Return the error of a value that no trial can use; the recipe's own, where that is what is wrong."""
    error = errors[trial.setting]
    said = {str(found.problems) for found in errors.values()}
    if len(said) == 1 and len(errors) == settings > 1:
        return error
    text = f"no trial can use {write_override(key, trial.set[key])} (trial {trial.number}): "
    return type(error).from_problems([replace(problem, message=text + problem.message) for problem in error.problems])


@dataclass
class Runner:
    """Runs the trials of a sweep that are not over, so that any moment may be the last."""

    trials: Trials
    listen: Callable[[Plan, RunDir], AbstractContextManager[Listener]]
    tell: Callable[[str], None]
    warm: bool = True
    trust_run: bool = False
    study: Study | None = None

    def __post_init__(self) -> None:
        self.planned, self.folder, self.sweep = self.trials.planned, self.trials.folder, self.trials.sweep

    def run(self) -> None:
        """Run them one by one.

        Raises RunFolderError where another sweep does so, or a disk is full; and what ends a run from outside.
        """
        with held_lock(RunDir(self.folder)), counted_interrupts() as interrupts, ExitStack() as stack:
            self.trials.write()
            if self.planned.optuna:
                self.study = Study(self.folder, self.planned)
            residents: Residents | None = None
            for trial in self._find_coming(interrupts):
                try:
                    plan = self.trials.open(trial, trust_run=self.trust_run)
                except OrchError as error:  # what the machine lacks now is not the trial's, if it was planned before
                    if isinstance(error, RunFolderError) or (isinstance(error, PreflightError) and not self.study):
                        raise
                    self._end(trial, FAILED, error)
                    continue
                if self.warm and (residents is None or residents.imports != find_imports(plan)):
                    residents = stack.enter_context(Residents(find_imports(plan), stay_in=self.folder / "trials"))
                self._run(trial, plan, interrupts, residents)

    def run_beside(self, shares: list[dict[str, str]]) -> None:
        """Run as many trials at once as there are `shares` (`share_gpus`), each as a process with its own one."""
        running: dict[Child, tuple[Trial, dict[str, str], float]] = {}
        ending: OrchError | None = None
        told = 0
        with held_lock(RunDir(self.folder)), counted_interrupts() as interrupts:
            self.trials.write()
            coming = self._find_coming(interrupts)
            while True:
                try:
                    while shares and not ending and (trial := next(coming, None)):
                        share = shares.pop()
                        running[self._start(trial, share)] = trial, share, time.monotonic()
                except (InterruptedRunError, TakenAwayError) as error:  # those that run are waited for
                    ending = error
                if not running:
                    break
                time.sleep(_POLL_S)
                touch_heartbeat(RunDir(self.folder))
                for child, (trial, share, began) in list(running.items()):
                    if (code := process.reap(child)) is not None:
                        del running[child]
                        shares.append(share)
                        self.sweep.seconds += time.monotonic() - began
                        ending = self._take_in(trial, code) or ending
                    elif told < interrupts.count:
                        process.signal_group(child, signal.SIGTERM if interrupts.taken else signal.SIGINT)
                told = interrupts.count
            if ending:
                raise ending

    def hand_in(self, engine: Engine, cluster: Cluster) -> None:
        """Hand in a job for each trial that is neither over nor in the queue; note those whose job has failed."""
        is_new = not self.folder.exists()
        with held_lock(RunDir(self.folder)):
            self.trials.write()
            for trial in [trial for trial in self.sweep.trials if not is_over(trial)]:
                run = self.trials.run(trial)
                if (failed := find_job_end(run)) is None:
                    if self.planned.budget.find_end(trial.number, self.sweep.seconds):
                        break
                    name, line = f"{self.folder.name}-{trial.number:03d}", self.trials.line(trial)
                    job = render_job(engine, name, cluster, line, again=AGAIN)
                    try:
                        job_id = submit(run, job)
                    except PreflightError:
                        if is_new and trial is self.sweep.trials[0]:  # nothing of a sweep that never was
                            shutil.rmtree(self.folder)
                        raise
                    self.tell(f"trial {trial.number}: {SLURM} {job_id}")
                self.trials.mark(trial, FAILED if failed else RUNNING, failed or None)

    def _find_coming(self, interrupts: Interrupts) -> Iterator[Trial]:
        """Yield the trials that are not over, as far as the budget goes; with a study, also those that it asks for.

        Raises InterruptedRunError or TakenAwayError for a stop that comes while there are some.
        """
        coming = [trial for trial in self.sweep.trials if not is_over(trial)]
        while True:
            for trial in coming:
                if interrupts.count:
                    raise explain_stop(interrupts, RunDir(self.folder), trial.run)
                if why := self.planned.budget.find_end(trial.number, self.sweep.seconds):
                    self.tell(f"the budget of {why} is used up")
                    return
                yield trial
            if self.study is None or (setting := self.study.ask(self.sweep)) is None:
                return
            self.sweep.add(setting, self.planned.first_seed)
            self.trials.write()
            coming = [trial for trial in self.sweep.settings()[-1] if not is_over(trial)]

    def _run(self, trial: Trial, plan: Plan, interrupts: Interrupts, residents: Residents | None) -> None:
        run, began = self.trials.run(trial), time.monotonic()
        self.trials.mark(trial, RUNNING)
        pruner = self.study.follow(self.sweep, trial, interrupts) if self.study else None
        self.tell(f"trial {trial.number}: {describe_trial(trial)}")
        with self.listen(plan, run) as listener:

            def hear(event: Event) -> None:
                listener(event)
                touch_heartbeat(RunDir(self.folder))
                if pruner:
                    pruner(event)

            try:
                run_plan(
                    plan, run, listener=hear, interrupts=interrupts, residents=residents,
                    reusable_runs=find_others(run, trust_run=self.trust_run),
                )  # fmt: skip
                self.sweep.seconds += time.monotonic() - began
                self._end(trial, DONE)
            except OrchError as error:
                self.sweep.seconds += time.monotonic() - began
                if pruner and pruner.why:
                    interrupts.count -= 1  # its own: the user's counts on
                    self._end(trial, PRUNED, why=pruner.why)
                    return
                found = judge(error, run)
                if isinstance(found, InterruptedRunError | TakenAwayError | RunFolderError):
                    self.trials.mark(trial, STOPPED)
                    if not isinstance(found, RunFolderError):
                        found = type(found)(f"{trial.run}: {found.problems[0].message}", hint=GO_ON.fill(self.folder))
                    raise found from error
                self._end(trial, FAILED, found)

    def _start(self, trial: Trial, share: Mapping[str, str]) -> Child:
        """Start a trial as a process of its own, with its share of the GPUs."""
        logs = self.folder / LOGS
        self.trials.clear(trial)
        self.trials.mark(trial, RUNNING)
        words = (*self.trials.line(trial).words(), "--json", "--warm" if self.warm else "--no-warm")
        on = f" on {' '.join(f'{key}={value}' for key, value in share.items())}" if share else ""
        self.tell(f"trial {trial.number} begins{on}: {describe_trial(trial)}")
        logs.mkdir(exist_ok=True)
        out, err, code = (logs / f"{trial.number:03d}.{end}" for end in ("out", "log", "code"))
        err.unlink(missing_ok=True)
        env = {**os.environ, **share}
        return process.spawn(process.Launch(words, env, Path.cwd(), out, err, code, secrets.token_hex(8)))

    def _take_in(self, trial: Trial, code: int) -> OrchError | None:
        """Record how a trial's process has ended; return what ends the sweep."""
        run = self.trials.run(trial)
        state = find_state(run)
        if state and state.status == "done":
            self._end(trial, DONE)
            self.tell(f"trial {trial.number} is done: {self.sweep.metric} {trial.metric}")
            return None
        log = (self.folder / LOGS / f"{trial.number:03d}.log").read_text(encoding="utf-8", errors="replace")
        said = filter(str.strip, log.split("\n"))
        why = (state and state.message) or next(said, f"exit code {code}")
        kind = next((one for one in _ENDING if one.exit_code == code), None)
        if kind and (kind is not PreflightError or not run.plan_json.exists()):
            self.trials.mark(trial, STOPPED)
            return kind(f"{trial.run}: {why}", hint=GO_ON.fill(self.folder))
        self._end(trial, FAILED, why=why)
        return None

    def _end(self, trial: Trial, state: str, error: OrchError | None = None, *, why: str = "") -> None:
        """Record a trial's end, and `why`; the further trainings of a pruned setting end with it."""
        trial.state = state
        if state == DONE:
            record_result(self.folder, self.sweep, trial)
        else:
            why = error.problems[0].message.splitlines()[0] if error else why
            ended = [one for one in self.sweep.settings()[trial.setting] if state == PRUNED and not is_over(one)]
            for one in (trial, *ended):
                one.state, one.note = state, why
            self.tell(f"trial {trial.number} {state}, and the sweep goes on: {why}")
        if self.study:
            self.study.tell(self.sweep, trial.setting)
        self.trials.write()


def share_gpus(hardware: Hardware, count: int) -> list[dict[str, str]]:
    """Return the environment of each of `count` trials at once. Raises PreflightError where GPUs are too few for it."""
    if hardware.kind == "cpu":
        return [{} for _ in range(count)]
    visible = os.environ.get(VISIBLE)
    gpus = visible.split(",") if visible else [str(number) for number in range(hardware.count)]
    if not (each := len(gpus) // count):
        hint = f"say --parallel {len(gpus)}"
        raise PreflightError(f"{count} trials at once have {len(gpus)} GPUs to share", hint=hint)
    return [{VISIBLE: ",".join(gpus[place * each : (place + 1) * each])} for place in range(count)]


def find_job_end(run: RunDir) -> str | None:
    """Return why a trial's job has failed for good; "" while it waits or runs, None where one is to be handed in."""
    state, job = find_state(run), find_job(run)
    if job and not job.is_over:
        return ""
    return state.message or state.status if job and state and state.status == "failed" else None


def describe_trial(trial: Trial) -> str:
    """Return the setting of a trial and its seed, as `--set` writes them."""
    return " ".join([*(write_override(key, value) for key, value in trial.set.items()), f"seed {trial.seed}"])
