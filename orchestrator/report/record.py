"""Gathers what a finished run left in its folder and what it took; what is missing or damaged is left out.

What it took: tokens a second, share of the GPU's peak, and how long each stage waited to begin.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.backends.models import find_model
from orchestrator.backends.protocol import Job
from orchestrator.checks import memory
from orchestrator.checks.cost import count_training, find_gpu, measure_share
from orchestrator.checks.model_size import load_model_size
from orchestrator.checks.settings import is_on, read_train_values
from orchestrator.checks.workload import count_lines, find_passes, read_side
from orchestrator.errors import OrchError
from orchestrator.logs.events import Event, Message, Progress, StageStarted, Step, load_events
from orchestrator.machine import tables
from orchestrator.machine.files import read_regular
from orchestrator.machine.hardware import Hardware
from orchestrator.machine.json_files import find_object, parse_json
from orchestrator.machine.rundir import RunDir
from orchestrator.recipe.plan import Plan, Stage
from orchestrator.recipe.schema import ModelRef, Recipe
from orchestrator.run.resume import list_checkpoint_folders

_CHECKPOINT = re.compile(r"checkpoint-([0-9]{1,18})")
_PROGRESS = re.compile(r"([0-9]{1,18})/[0-9]+")
_SAME_LOSS = 1e-6  # logging.jsonl rounds to 8 digits, its best_metric does not


@dataclass(frozen=True)
class LossPoint:
    """The loss of one logged training step, or on the validation rows after it.

    A value that was not logged, or is not a finite number, is None.
    """

    step: int
    loss: float | None
    learning_rate: float | None = None


@dataclass(frozen=True)
class TrainingLog:
    """Everything that a trainer logged, in the order of its steps. `best_step` is None where none is known.

    `peak_gib` is the memory of a GPU at its most, where the trainer logs it (ms-swift does).
    """

    points: tuple[LossPoint, ...] = ()
    evaluations: tuple[LossPoint, ...] = ()
    best_step: int | None = None
    peak_gib: float | None = None

    @property
    def is_dead(self) -> bool:
        """Whether the last half of the losses is exactly 0: a trainer that hides NaN logs a diverged run so."""
        half = self.points[len(self.points) // 2 :]
        return bool(half) and all(point.loss == 0 for point in half)


@dataclass(frozen=True)
class Timing:
    """How long a stage took; None while it has no result. `start_s`: until it had done its first unit of work."""

    stage: Stage
    seconds: float | None
    start_s: float | None = None


@dataclass(frozen=True)
class Check:
    """One check of the packaged model; `passed` is None where the worker did not say."""

    name: str
    passed: bool | None
    detail: str
    numbers: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RunRecord:
    """Everything that the report shows and metrics.json does not hold. An absent piece is empty or None."""

    run: RunDir
    plan: Plan
    timings: tuple[Timing, ...]
    training: TrainingLog
    ledger: Mapping[str, Any] | None
    stats: Mapping[str, Any] | None
    provenance: Mapping[str, Any] | None
    checks: tuple[Check, ...]
    recipe_text: str | None
    cautions: tuple[str, ...] = ()  # what a stage said while it ran
    cost: Mapping[str, Any] | None = None  # what is known of the training's speed and memory

    @property
    def is_deterministic(self) -> bool:
        """Whether the recipe asked for a training that repeats bit for bit."""
        return self.plan.recipe.get("deterministic") is True


def load_record(run: RunDir, plan: Plan) -> RunRecord:
    """Return what the run left behind, apart from its scores."""
    package = plan.stage("package")
    verification = find_object(run.stage(package.name).output / "verification.json") if package else None
    stats, provenance = find_object(run.stats_json), find_object(run.provenance_json)
    events = list(load_events(run.events_jsonl))
    paces = find_paces(events)
    training, timings = load_training_log(run, plan), list[Timing]()
    cost = recipe_text = None
    for stage in plan.stages:
        seconds = (find_object(run.stage(stage.name).result_json) or {}).get("seconds")
        took = float(seconds) if isinstance(seconds, int | float) else None
        timings.append(Timing(stage, took, paces.get(stage.name, Pace(0)).start_s))
    with suppress(OSError, ValueError):
        recipe_text = read_regular(run.recipe_yaml).decode("utf-8")
    with suppress(OrchError, ValueError, KeyError, TypeError, OSError):  # a damaged piece is left out
        cost = measure_training(run, plan, stats or {}, provenance or {}, paces)
    if training.peak_gib is not None:
        cost = (cost or {}) | {"peak_memory_gib": training.peak_gib}
    said = (event for event in events if isinstance(event, Message) and event.level == "caution")
    return RunRecord(
        run=run,
        plan=plan,
        timings=tuple(timings),
        training=training,
        ledger=_load_ledger(run),
        stats=stats,
        provenance=provenance,
        cost=cost,
        checks=parse_checks(verification or {}),
        recipe_text=recipe_text,
        cautions=tuple(dict.fromkeys(f"{event.stage}: {event.text}" for event in said)),
    )


def _load_ledger(run: RunDir) -> dict[str, Any] | None:
    """Return the run's ledger with the sides and warnings of further training sets and of guards, under their names."""
    if (whole := find_object(run.ledger_json)) is None:
        return None
    sides, warnings = dict(whole.get("sides") or {}), list(whole.get("warnings") or ())
    for what, folder in (("training set", run.train_sources), ("guard", run.guard(""))):
        for path in sorted(folder.glob("*/ledger.json")):
            one, name = find_object(path) or {}, f"{what} {path.parent.name}"
            sides |= {name: side for side in (one.get("sides") or {}).values() if side.get("rows_in")}  # noqa: B035  one
            warnings += [found | {"message": f"{name}: {found['message']}"} for found in one.get("warnings") or ()]
    return whole | {"sides": sides, "warnings": warnings}


def parse_checks(verification: Mapping[str, Any]) -> tuple[Check, ...]:
    """Return verification.json's checks: a list of {"name", "passed", "detail", numbers…}, or an object of them."""
    raw = verification.get("checks")
    if isinstance(raw, dict):
        named = {name: value if isinstance(value, dict) else {"passed": value} for name, value in raw.items()}
        raw = [{**value, "name": name} for name, value in named.items()]
    found = [item for item in raw if isinstance(item, dict)] if isinstance(raw, list) else []
    titles = tables.load_record(Path(__file__).with_name("check_names.yaml"), dict[str, str]) if found else {}
    return tuple(_parse_check(item, titles) for item in found)


def _parse_check(item: Mapping[str, Any], titles: Mapping[str, str]) -> Check:
    passed = item.get("passed", item.get("ok"))
    name = str(item.get("name", "check"))
    numbers = item.get("numbers")
    known = {"name", "passed", "ok", "detail", "failure", "numbers"}
    rest = {key: value for key, value in item.items() if key not in known and value not in ([], {}, None)}
    return Check(
        name=titles.get(name, name.replace("_", " ")),
        passed=passed if isinstance(passed, bool) else None,
        detail=str(item.get("failure") or item.get("detail") or ""),
        numbers={**rest, **(numbers if isinstance(numbers, dict) else {})},
    )


def load_training_log(run: RunDir, plan: Plan) -> TrainingLog:
    """Return the log of the train stage: ms-swift's own file, else the newest checkpoint's, else the step events."""
    stage = plan.stage("train")
    if stage is None:
        return TrainingLog()
    output = run.stage(stage.name).output
    swift = _json_lines(output / "logging.jsonl")
    log = _parse_log(swift, _swift_best(output, swift))
    if not log.points:  # trainer_state.json is written last, so the newest checkpoint's may be cut
        states = (find_object(path / "trainer_state.json", constants=True) for path in list_checkpoint_folders(output))
        state = next((state for state in states if state and isinstance(state.get("log_history"), list)), {})
        best = _CHECKPOINT.search(str(state.get("best_model_checkpoint") or "").rpartition("/")[2])
        log = _parse_log(state.get("log_history"), int(best[1]) if best else None)
    steps = (event for event in load_events(run.events_jsonl) if isinstance(event, Step))
    return log if log.points else _parse_log(list(map(asdict, steps)), None)


def _parse_log(entries: object, best_step: int | None) -> TrainingLog:
    found = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    points: dict[int, LossPoint] = {}
    evaluations: dict[int, LossPoint] = {}
    for entry in found:
        step = _step(entry)
        if step is None:
            continue
        if entry.get("loss") is not None:
            points[step] = LossPoint(step, parse_number(entry["loss"]), parse_number(entry.get("learning_rate")))
        if entry.get("eval_loss") is not None:
            evaluations[step] = LossPoint(step, parse_number(entry["eval_loss"]))
    logged, validated = (tuple(found[step] for step in sorted(found)) for found in (points, evaluations))
    sizes = [entry.get("memory(GiB)") for entry in found]
    peak = max((size for size in sizes if isinstance(size, int | float)), default=None)
    return TrainingLog(logged, validated, best_step, peak)


def _step(entry: Mapping[str, Any]) -> int | None:
    """Return an entry's step: `step`, or the first number of ms-swift's `global_step/max_steps`, as in `5/9`."""
    step = entry.get("step")
    if isinstance(step, int):
        return step
    found = _PROGRESS.fullmatch(str(entry.get("global_step/max_steps")))
    return int(found[1]) if found else None


def _json_lines(path: Path) -> list[Any]:
    """Return the objects of a log; a line cut by a crash is skipped."""
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        with suppress(ValueError):
            found.append(parse_json(line, constants=True))
    return [entry for entry in found if isinstance(entry, dict)]


def _swift_best(output: Path, entries: Sequence[Mapping[str, Any]]) -> int | None:
    """Return the step of the best checkpoint that ms-swift's last lines name.

    With --create_checkpoint_symlink it names the link `best`: its target tells, or else the evaluation whose loss is
    `best_metric`. Without evaluations there is no best: swift then names the last checkpoint.
    """
    last = next((entry for entry in reversed(entries) if entry.get("best_model_checkpoint")), None)
    if last is None or not any("eval_loss" in entry for entry in entries):
        return None
    name = str(last["best_model_checkpoint"]).rstrip("/").rpartition("/")[2]
    if found := _CHECKPOINT.fullmatch(name) or _CHECKPOINT.fullmatch((output / name).resolve().name):
        return int(found[1])
    best = parse_number(last.get("best_metric"))
    for entry in entries:
        loss = parse_number(entry.get("eval_loss"))
        if best is not None and loss is not None and math.isclose(loss, best, rel_tol=_SAME_LOSS):
            return _step(entry)
    return None


def parse_number(value: object) -> float | None:
    """Return a logged value as a float: transformers 5 logs strings. None for what is not a finite number."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def describe_log(log: TrainingLog) -> Mapping[str, Any] | None:
    """Return {"step", "first", "last", "evaluation", "best_step"}: None where no training loss was logged.

    `step` is the last step, `first` and `last` are training losses; `evaluation` is None, or the `LossPoint` of the
    best checkpoint, or of the last evaluation where none is known to be the best.
    """
    losses = [point.loss for point in log.points if point.loss is not None]
    if not losses:
        return None
    measured = [point for point in log.evaluations if point.loss is not None]
    best = next((point for point in measured if point.step == log.best_step), None)
    return {
        "step": log.points[-1].step,
        "first": losses[0],
        "last": losses[-1],
        "evaluation": best or next(reversed(measured), None),
        "best_step": log.best_step,
    }


@dataclass
class Pace:
    """When a stage's newest attempt began, did its first and its last unit of work (unix seconds), and how many."""

    began: float
    first: Progress | None = None
    last: Progress | None = None
    epoch: float | None = None

    @property
    def start_s(self) -> float | None:
        """Seconds until the first unit was done: imports, loading of model and data, and that unit."""
        return self.first.t - self.began if self.first else None

    @property
    def units_per_s(self) -> float | None:
        """Units a second after the first report, so without what came before it."""
        if not self.first or not self.last or self.last.t <= self.first.t:
            return None
        return (self.last.done - self.first.done) / (self.last.t - self.first.t) or None


def find_paces(events: Iterable[Event]) -> dict[str, Pace]:
    """Return the pace of each stage that ran, by its name."""
    paces: dict[str, Pace] = {}
    for event in events:
        if isinstance(event, StageStarted):
            paces[event.stage] = Pace(event.t)
        elif isinstance(event, Progress | Step) and (pace := paces.get(event.stage)):
            if isinstance(event, Step):
                pace.epoch = event.epoch or pace.epoch
                event = Progress(event.step or 0, event.max_steps or 0, event.stage, event.t)  # noqa: PLW2901
            if event.done > max(0, pace.last.done if pace.last else 0):
                pace.first, pace.last = pace.first or event, event
    return paces


def measure_training(
    run: RunDir, plan: Plan, stats: Mapping[str, Any], provenance: Mapping[str, Any], paces: Mapping[str, Pace]
) -> dict[str, Any] | None:
    """Return report.json's `cost`: device, tokens a second, FLOPS of a GPU, share of its peak where that is known.

    None where tokens were not counted, or the training was too short for two reports. Raises an error of any kind where
    a piece is damaged.
    """
    train = plan.stage("train")
    pace = paces.get(train.name) if train else None
    lines = count_lines(run.train_jsonl)
    side = read_side(stats.get("train") or {}, lines=lines)
    if not (side and lines and pace and pace.last and pace.epoch and pace.units_per_s):
        return None
    machine = dict(provenance["hardware"])
    hardware = Hardware(machine["kind"], machine.get("count") or 1, names=tuple(machine.get("names") or ()))
    model = find_model(ModelRef.model_validate({"path": str(run.model)}), run.root, otherwise="encoder")
    recipe = Recipe.model_validate(plan.recipe)
    job = Job(recipe, Path(run.root), Path(run.root), model, hardware, dict(plan.versions), "", "", "")
    values = read_train_values(plan)
    texts = None if memory.assumes_documents(job) else memory.count_texts_of_a_row(job, values)
    sequences, tokens = side.count_training(texts)
    rows_per_s = lines * pace.epoch / pace.last.done * pace.units_per_s
    name = next(iter(hardware.names), "")
    found = {"device": name or hardware.kind, "tokens_per_s": tokens * rows_per_s}
    if size := load_model_size(run.model):
        flops = count_training(size, find_passes(job, values, size), tokens, tokens / sequences) * rows_per_s
        half = is_on(values, "bf16") or is_on(values, "fp16")
        found |= measure_share(flops, 1.0, find_gpu(name), half=half, gpus=job.world_size())
    return found
