"""Runs a sweep: each trial a run like any other, with what is equal before the training shared by content.

The settings come from a list, or one by one from Optuna, which may have a training stopped.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from orchestrator.checks import require_runnable
from orchestrator.errors import (
    InterruptedRunError,
    OrchError,
    PreflightError,
    RecipeError,
    RunFolderError,
    TakenAwayError,
    Where,
)
from orchestrator.evaluation.measures import CHAT, GROUP, RETRIEVAL, default_metrics, require_metric
from orchestrator.logs.events import Event, Listener, Message
from orchestrator.machine import process
from orchestrator.machine.files import hash_path
from orchestrator.machine.hardware import Hardware
from orchestrator.machine.json_files import find_object
from orchestrator.machine.process import Child
from orchestrator.machine.rundir import RunDir
from orchestrator.plan.cluster import Engine, Repeated, render_job
from orchestrator.plan.jobs import build_job
from orchestrator.plan.load import LoadedRecipe, load_recipe
from orchestrator.plan.pipeline import build_plan
from orchestrator.plan.sweep import (
    MOST_TRAININGS,
    SEED,
    Choices,
    Range,
    Setting,
    build_grid,
    draw_settings,
    read_choices,
    require_bounded,
    split_override,
    write_override,
)
from orchestrator.recipe.plan import Plan
from orchestrator.recipe.schema import Cluster
from orchestrator.run.again import AGAIN, judge
from orchestrator.run.failures import GO_ON, explain_stop
from orchestrator.run.folder import create_run, load_own_plan, require_same_recipe
from orchestrator.run.launching import Residents, find_imports
from orchestrator.run.loop import run_plan
from orchestrator.run.provenance import Asked
from orchestrator.run.resume import TRAIN
from orchestrator.run.slurm import SLURM, find_job, submit
from orchestrator.run.state import find_state, held_lock, touch_heartbeat
from orchestrator.run.stopping import Interrupts, counted_interrupts
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
    trial_dir,
    write_sweep,
)

_CACHE = "HF_DATASETS_CACHE"
_VISIBLE = "CUDA_VISIBLE_DEVICES"
_SHARED = ("auto", "cpu")
_POLL_S = 0.2
_ENDING = (InterruptedRunError, TakenAwayError, RunFolderError, PreflightError)  # what no other trial would do better


@dataclass(frozen=True)
class Request:
    """How every trial of a sweep is run: `orch run RECIPE --set FIXED … --set KEY=VALUE … -o SWEEP/trials/NNN`."""

    recipe: Path
    fixed: tuple[str, ...]
    hardware: Hardware
    asked_hardware: str
    smoke: bool = False
    own_cache: bool = False  # the recipe names a cache of data sets
    here: bool = True  # on this machine

    def overrides(self, folder: Path, sweep: Sweep, trial: Trial) -> tuple[str, ...]:
        """Return the `--set` of a trial.

        The cache of data sets is the sweep's: trials with one environment share their residents.
        """
        own = [write_override(key, value) for key, value in trial.set.items()]
        own += [f"train.seed={trial.seed}"] if sweep.seeds > 1 else []
        own += [] if self.own_cache else [write_override(f"launch.env.{_CACHE}", str(folder / "cache"))]
        return (*self.fixed, *own)

    def plan(self, folder: Path, sweep: Sweep, trial: Trial) -> Plan:
        """Return the plan of a trial. Raises OrchError where it cannot be run."""
        loaded = load_recipe(self.recipe, self.overrides(folder, sweep, trial))
        job = build_job(loaded, folder / trial.run, self.hardware, smoke=self.smoke)
        plan = build_plan(job)
        require_runnable(job, plan, this_machine=self.here, asks_hub=self.here)
        return plan

    def line(self, folder: Path, sweep: Sweep, trial: Trial) -> Repeated:
        """Return the line that a user types for a trial, and that another process repeats."""
        own = self.overrides(folder, sweep, trial)
        return Repeated(self.recipe, folder / trial.run, own, self.smoke, self.asked_hardware)

    def require_same(self, folder: Path, sweep: Sweep, trial: Trial) -> None:
        """Raise RunFolderError where a trial's run folder holds another run."""
        require_same_recipe(
            trial_dir(folder, trial), self.recipe, self.overrides(folder, sweep, trial), smoke=self.smoke
        )


@dataclass(frozen=True)
class Budget:
    """How much a sweep may do; None: all of it."""

    trials: int | None = None
    hours: float | None = None

    def find_end(self, sweep: Sweep, trial: Trial) -> str | None:
        """Return why a trial does not begin any more."""
        if self.trials is not None and trial.number >= self.trials:
            return f"{self.trials} trials"
        return f"{self.hours:g} hours" if self.hours is not None and sweep.seconds >= self.hours * 3600 else None


@dataclass(frozen=True)
class Planned:
    """A sweep as it was asked for. With `optuna` the settings are not known yet, but how many there will be."""

    name: str
    request: Request
    parameters: Mapping[str, Choices]
    settings: tuple[Setting, ...]
    seeds: int
    first_seed: int
    budget: Budget
    optuna: int | None
    higher_is_better: bool
    asked: Mapping[str, Any]


def plan_sweep(recipe: Path, asked: Mapping[str, Any], hardware: Hardware, *, here: bool = True) -> Planned:
    """Return what `orch sweep RECIPE` means, `here` or on the machines of an engine.

    `asked` has its options: `set` (texts KEY=A,B), `smoke`, `hardware`, and those that stand in `sweep:` of the recipe
    too, None where they were not given. Raises RecipeError for what cannot be swept.
    """
    split = [(text, *split_override(text)) for text in asked["set"]]
    swept = {
        key: values
        for _, key, values in split
        if len(values) > 1 or (values and isinstance(read_choices(key, values), Range))
    }
    fixed = tuple(text for text, key, _ in split if key not in swept)
    loaded = load_recipe(recipe, fixed)
    search, named = loaded.recipe.sweep, {key for _, key, _ in split}
    given = {key: one if isinstance(one, list) else [one] for key, one in search.set.items() if key not in named}
    parameters = {key: read_choices(key, values) for key, values in {**given, **swept}.items()}
    way = {} if asked["random"] or asked["optuna"] else {"random": search.random, "optuna": search.optuna}
    option = {**asked, **{key: value for key, value in way.items() if value}}
    option |= {key: asked[key] or getattr(search, key) for key in ("seeds", "max_trials", "max_hours")}
    seeds, most = int(option["seeds"]), option["max_trials"]
    if option["random"] and option["optuna"]:
        raise RecipeError("--random and --optuna are two ways to search", hint="keep one of them")
    if option["optuna"] and (not here or (asked.get("parallel") or 1) > 1):
        hint = "say --random N, whose settings are known before the first one ends"
        raise RecipeError("Optuna chooses each setting by how the ones before it came out", hint=hint)
    if not parameters and seeds == 1:
        hint = "give a key several values: --set train.learning_rate=1e-5,2e-5; or several trainings: --seeds 3"
        raise RecipeError("there is nothing to sweep over", hint=hint, where=Where(str(recipe)))
    if seeds > 1 and "train.seed" in parameters:
        raise RecipeError("train.seed is what --seeds sets", hint="say only one of them")
    _refuse_other_rows(loaded, parameters)
    if (asked.get("parallel") or 1) > 1 and (_VISIBLE in loaded.recipe.launch.env or asked["hardware"] not in _SHARED):
        hint = f"leave --hardware and launch.env.{_VISIBLE} out; {_VISIBLE} in the shell says which GPUs they share"
        raise RecipeError("trials at once share the GPUs of this machine, and these are named for each", hint=hint)
    settings: tuple[Setting, ...] = ()
    if option["random"]:
        settings = tuple(draw_settings(parameters, option["random"]))
    elif not option["optuna"]:
        require_bounded(parameters, seeds, most)
        settings = tuple(islice(build_grid(parameters), max(MOST_TRAININGS, most or 0)))
    metrics = loaded.recipe.evaluate.metrics or default_metrics(_KINDS[loaded.recipe.task])
    return Planned(
        name=loaded.recipe.name,
        request=Request(
            recipe, fixed, hardware, asked["hardware"], asked["smoke"], _CACHE in loaded.recipe.launch.env, here
        ),
        parameters=parameters,
        settings=settings,
        seeds=seeds,
        first_seed=int(loaded.recipe.train.get("seed", SEED)),
        budget=Budget(most, option["max_hours"]),
        optuna=option["optuna"],
        higher_is_better=require_metric(metrics[0]).higher_is_better,
        asked={**asked, "recipe_sha256": hash_path(recipe)},
    )


_KINDS = {"reranker": GROUP, "embedding": RETRIEVAL, "sft": CHAT}  # of these the default metrics go one way each


def _refuse_other_rows(loaded: LoadedRecipe, parameters: Iterable[str]) -> None:
    """Raise RecipeError where trials would be measured on different rows: nobody could compare them."""
    data = loaded.recipe.data
    other = [
        key for key in parameters if key.startswith("data.eval") or (data.eval is None and key.startswith("data."))
    ]
    if other:
        message = f"trials with another {other[0]} are measured on other rows, and cannot be compared"
        raise RecipeError(message, hint="name one data.eval for all of them, and sweep over data.train")


def take_up(planned: Planned, folder: Path) -> Sweep:
    """Return the sweep of a folder as its run folders have it; a new one for a folder without.

    Raises RunFolderError where the folder holds another sweep, or something else; OrchError where no trial can use a
    value of a new one. Nothing is written.
    """
    if is_sweep(folder):
        sweep = load_sweep(folder)
        if {key: sweep.asked.get(key) for key in _IDENTITY} != {key: planned.asked[key] for key in _IDENTITY}:
            hint = "say the recipe, --set, --seeds, --random and --optuna that it was begun with, or another folder: -o"
            raise RunFolderError(f"{folder} holds another sweep, or its recipe has changed since", hint=hint)
        sweep.asked = dict(planned.asked)
    else:
        own = {"trials", "lock", "cache", LOGS, STORAGE}
        if folder.exists() and not own.issuperset(path.name for path in folder.iterdir()):
            raise RunFolderError(f"{folder} is not empty, and holds no sweep", hint="name a fresh folder with -o")
        sweep = Sweep(str(planned.request.recipe), list(planned.parameters), planned.seeds, [], dict(planned.asked))
    new = planned.settings[len(sweep.settings()) :]  # all of them, or those that a larger --max-trials allows
    for setting in new:
        sweep.add(setting, planned.first_seed)
    _refuse_useless(planned.request, folder, sweep, len(sweep.settings()) - len(new))
    for trial in sweep.trials:  # finished by itself, or just when the sweep was killed
        state = find_state(trial_dir(folder, trial))
        if trial.state != DONE and state and state.status == "done":
            planned.request.require_same(folder, sweep, trial)
            trial.state, trial.note = DONE, None
            record_result(folder, sweep, trial)
    return sweep


_IDENTITY = ("recipe_sha256", "set", "seeds", "random", "optuna", "smoke", "hardware")


def _refuse_useless(request: Request, folder: Path, sweep: Sweep, known: int) -> None:
    """Plan the first trial of each setting behind the known ones. One that cannot be run has failed.

    Raises OrchError where no trial can use a value.
    """
    errors: dict[int, OrchError] = {}
    for place, trials in enumerate(sweep.settings()[known:], known):
        try:
            request.plan(folder, sweep, trials[0])
        except OrchError as error:
            errors[place] = error
            for trial in trials:
                trial.state, trial.note = FAILED, error.problems[0].message
    if errors and not sweep.parameters:
        raise errors[0]
    for key in sweep.parameters:
        for trial in sweep.trials:
            tried = [other for other in sweep.trials if other.set[key] == trial.set[key]]
            if all(other.setting in errors for other in tried):
                raise _explain_useless(key, trial, errors, len(sweep.settings()))


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
    """Runs what is not over of a sweep, one trial after the other, so that any moment may be the last."""

    planned: Planned
    folder: Path
    sweep: Sweep
    listen: Callable[[Plan, RunDir], AbstractContextManager[Listener]]
    tell: Callable[[str], None]
    warm: bool = True
    trust_run: bool = False
    study: Study | None = None

    def run(self) -> None:
        """Run it. Raises RunFolderError where another does so, or a disk is full; and what ends a run from outside."""
        with held_lock(RunDir(self.folder)), counted_interrupts() as interrupts, ExitStack() as stack:
            write_sweep(self.folder, self.sweep)
            if self.planned.optuna:
                self.study = Study(self.folder, self.planned)
            residents: Residents | None = None
            for trial in self._find_coming(interrupts):
                try:
                    plan = self._prepare(trial)
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
        told, ending = 0, None
        with held_lock(RunDir(self.folder)), counted_interrupts() as interrupts:
            write_sweep(self.folder, self.sweep)
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
            write_sweep(self.folder, self.sweep)
            for trial in [trial for trial in self.sweep.trials if not is_over(trial)]:
                run = trial_dir(self.folder, trial)
                if (failed := find_job_end(run)) is None:
                    if self.planned.budget.find_end(self.sweep, trial):
                        break
                    line = self.planned.request.line(self.folder, self.sweep, trial)
                    job = render_job(engine, f"{self.folder.name}-{trial.number:03d}", cluster, line, again=AGAIN)
                    try:
                        name = submit(run, job)
                    except PreflightError:
                        if is_new and trial is self.sweep.trials[0]:  # nothing of a sweep that never was
                            shutil.rmtree(self.folder)
                        raise
                    self.tell(f"trial {trial.number}: {SLURM} {name}")
                trial.state, trial.note = (FAILED, failed) if failed else (RUNNING, None)
                write_sweep(self.folder, self.sweep)

    def _start(self, trial: Trial, share: Mapping[str, str]) -> Child:
        run, logs = trial_dir(self.folder, trial), self.folder / LOGS
        if not run.plan_json.exists():  # it was being written when an earlier sweep was killed
            shutil.rmtree(run.root, ignore_errors=True)
        trial.state, trial.note = RUNNING, None
        write_sweep(self.folder, self.sweep)
        line = self.planned.request.line(self.folder, self.sweep, trial)
        words = (*line.words(), "--json", "--warm" if self.warm else "--no-warm")
        on = f" on {' '.join(f'{key}={value}' for key, value in share.items())}" if share else ""
        self.tell(f"trial {trial.number} begins{on}: {describe_trial(trial)}")
        logs.mkdir(exist_ok=True)
        out, err, code = (logs / f"{trial.number:03d}.{end}" for end in ("out", "log", "code"))
        err.unlink(missing_ok=True)
        env = {**os.environ, **share}
        return process.spawn(process.Launch(words, env, Path.cwd(), out, err, code, secrets.token_hex(8)))

    def _take_in(self, trial: Trial, code: int) -> OrchError | None:
        """Record how a trial's process has ended; return what ends the sweep."""
        run = trial_dir(self.folder, trial)
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
            trial.state = STOPPED
            write_sweep(self.folder, self.sweep)
            return kind(f"{trial.run}: {why}", hint=self._say_go_on())
        self._end(trial, FAILED, why=why)
        return None

    def _find_coming(self, interrupts: Interrupts) -> Iterator[Trial]:
        """Yield the trials that are not over, as far as the budget goes; with a study, also those that it asks for.

        Raises InterruptedRunError or TakenAwayError for a stop that comes while there are some.
        """
        coming = [trial for trial in self.sweep.trials if not is_over(trial)]
        while True:
            for trial in coming:
                if interrupts.count:
                    raise explain_stop(interrupts, RunDir(self.folder), trial.run)
                if why := self.planned.budget.find_end(self.sweep, trial):
                    self.tell(f"the budget of {why} is used up")
                    return
                yield trial
            if self.study is None or (setting := self.study.ask(self.sweep)) is None:
                return
            self.sweep.add(setting, self.planned.first_seed)
            write_sweep(self.folder, self.sweep)
            coming = [trial for trial in self.sweep.settings()[-1] if not is_over(trial)]

    def _prepare(self, trial: Trial) -> Plan:
        """Return the plan of a trial whose run folder is there."""
        run = trial_dir(self.folder, trial)
        request = self.planned.request
        if run.plan_json.exists():
            request.require_same(self.folder, self.sweep, trial)
            return load_own_plan(run, trust_run=self.trust_run)
        shutil.rmtree(run.root, ignore_errors=True)  # it was being written when an earlier sweep was killed
        plan = request.plan(self.folder, self.sweep, trial)
        asked = Asked(request.recipe, request.overrides(self.folder, self.sweep, trial), request.asked_hardware)
        create_run(plan, asked, request.hardware)
        return plan

    def _run(self, trial: Trial, plan: Plan, interrupts: Interrupts, residents: Residents | None) -> None:
        run, began = trial_dir(self.folder, trial), time.monotonic()
        trial.state, trial.note = RUNNING, None
        write_sweep(self.folder, self.sweep)
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
                    others=find_others(run, trust_run=self.trust_run),
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
                    trial.state = STOPPED
                    write_sweep(self.folder, self.sweep)
                    if not isinstance(found, RunFolderError):
                        found = type(found)(f"{trial.run}: {found.problems[0].message}", hint=self._say_go_on())
                    raise found from error
                self._end(trial, FAILED, found)

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
        write_sweep(self.folder, self.sweep)

    def _say_go_on(self) -> str:
        return GO_ON.fill(self.folder)


def share_gpus(hardware: Hardware, count: int) -> list[dict[str, str]]:
    """Return the environment of each of `count` trials at once. Raises PreflightError where GPUs are too few for it."""
    if hardware.kind == "cpu":
        return [{} for _ in range(count)]
    visible = os.environ.get(_VISIBLE)
    gpus = visible.split(",") if visible else [str(number) for number in range(hardware.count)]
    if not (each := len(gpus) // count):
        hint = f"say --parallel {len(gpus)}"
        raise PreflightError(f"{count} trials at once have {len(gpus)} GPUs to share", hint=hint)
    return [{_VISIBLE: ",".join(gpus[place * each : (place + 1) * each])} for place in range(count)]


def find_job_end(run: RunDir) -> str | None:
    """Return why a trial's job has failed for good; "" while it waits or runs, None where one is to be handed in."""
    state, job = find_state(run), find_job(run)
    if job and not job.is_over:
        return ""
    return state.message or state.status if job and state and state.status == "failed" else None


def describe_trial(trial: Trial) -> str:
    """Return the setting of a trial and its seed, as `--set` writes them."""
    return " ".join([*(write_override(key, value) for key, value in trial.set.items()), f"seed {trial.seed}"])


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


_EVAL_LOSS = re.compile(r"\beval_loss ([-+]?[0-9]+(?:\.[0-9]*)?(?:e[-+]?[0-9]+)?|nan|inf)")
STORAGE = "optuna.journal"
LOGS = "logs"  # of trials that ran as processes of their own


class Study:
    """Optuna's: it chooses settings by what the earlier ones came to, and prunes trainings by their validation loss.

    Its storage is a journal in the sweep's folder; without it, it is made anew from sweep.json. A setting is worth the
    mean of its trainings' metric; what is better is larger, also for the pruner, which sees the loss with its sign
    turned, after each evaluation of the setting's first training.
    """

    def __init__(self, folder: Path, planned: Planned) -> None:
        """Open the study, or begin it. Raises PreflightError without Optuna, RunFolderError for a damaged storage."""
        try:
            import optuna
            import optuna.storages.journal
        except ImportError:
            hint = "pip install 'orch-finetune[sweep]', or search by --random N"
            raise PreflightError("--optuna needs Optuna, which is not installed", hint=hint) from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna, self._count, self._choices = optuna, planned.optuna or 0, planned.parameters
        self._sign = 1 if planned.higher_is_better else -1
        path = folder / STORAGE
        try:
            storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
            self._study = optuna.create_study(
                study_name="sweep", storage=storage, direction="maximize", load_if_exists=True,
                sampler=optuna.samplers.TPESampler(seed=SEED), pruner=optuna.pruners.MedianPruner(),
            )  # fmt: skip
        except Exception as error:  # whatever its parser stumbles over
            hint = "remove it: it is made anew from sweep.json"
            message = f"Optuna's storage cannot be read: {type(error).__name__}: {error}"
            raise RunFolderError(message, hint=hint, where=Where(str(path))) from error

    def _distribution(self, choices: Choices) -> Any:
        kinds = self._optuna.distributions
        if not isinstance(choices, Range):
            return kinds.CategoricalDistribution([json.dumps(value) for value in choices])
        kind = kinds.IntDistribution if choices.is_whole else kinds.FloatDistribution
        return kind(choices.low, choices.high, log=choices.log)

    def _read(self, params: Mapping[str, Any]) -> Setting:
        return {
            key: params[key] if isinstance(one, Range) else json.loads(params[key])
            for key, one in self._choices.items()
        }

    def ask(self, sweep: Sweep) -> Setting | None:
        """Return the next setting, None after the last one. One that a killed sweep had asked for is taken first."""
        settings = sweep.settings()
        create, state = self._optuna.trial.create_trial, self._optuna.trial.TrialState
        distributions = {key: self._distribution(choices) for key, choices in self._choices.items()}
        for trials in settings[len(self._study.trials) :]:  # its storage was removed
            params = {
                key: trials[0].set[key] if isinstance(one, Range) else json.dumps(trials[0].set[key])
                for key, one in self._choices.items()
            }
            self._study.add_trial(create(state=state.RUNNING, params=params, distributions=distributions))
            self.tell(sweep, trials[0].setting)
        if len(settings) >= self._count:
            return None
        known = self._study.trials
        if len(known) > len(settings):
            return self._read(known[len(settings)].params)
        return self._read(self._study.ask(distributions).params)

    def tell(self, sweep: Sweep, setting: int) -> None:
        """Say what a setting came to, once all of its trainings are over."""
        trials = sweep.settings()[setting]
        if not all(map(is_over, trials)):
            return
        state = self._optuna.trial.TrialState
        values = [trial.metric for trial in trials if trial.state == DONE and trial.metric is not None]
        if values:
            self._study.tell(setting, self._sign * sum(values) / len(values), skip_if_finished=True)
        else:
            pruned = any(trial.state == PRUNED for trial in trials)
            self._study.tell(setting, state=state.PRUNED if pruned else state.FAIL, skip_if_finished=True)

    def follow(self, sweep: Sweep, trial: Trial, interrupts: Interrupts) -> Pruner | None:
        """Return what prunes a training; None for the further ones of a setting."""
        if sweep.settings()[trial.setting][0] is not trial:
            return None
        found = self._study.trials[trial.setting]
        return Pruner(self._optuna.trial.Trial(self._study, found._trial_id), interrupts)  # noqa: SLF001


@dataclass
class Pruner:
    """Hears a training's validation losses, and has the supervisor stop it where they promise nothing.

    It reports to Optuna's `trial`, and stops by counting one of the `interrupts`.
    """

    trial: Any
    interrupts: Interrupts
    count: int = 0
    why: str | None = None

    def __call__(self, event: Event) -> None:
        """Take in one event."""
        if not isinstance(event, Message) or TRAIN not in event.stage or self.why:
            return
        if found := _EVAL_LOSS.search(event.text):
            self.count += 1
            loss = float(found[1])
            self.trial.report(-loss, self.count)
            if self.trial.should_prune():
                self.why = f"validation loss {loss:.4g} after evaluation {self.count}: the median was better"
                self.interrupts.count += 1
