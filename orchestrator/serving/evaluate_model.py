"""Any models measured on any data, without a recipe or a training: read, score, measure on the same rows, compare."""

from __future__ import annotations

import re
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from orchestrator.backends.models import BaseModel
from orchestrator.backends.scorers import load_own_spec
from orchestrator.checks.model_files import find_oddities
from orchestrator.data.check import describe_problem, describe_warnings, guess_kind
from orchestrator.data.prepare_eval import EVAL_KINDS, prepare_eval
from orchestrator.data.reading.readers import sniff_kind
from orchestrator.data.request import RowFiles
from orchestrator.data.rows.records import Kind
from orchestrator.data.rows.shapes import require_kind
from orchestrator.data.writers import CORPUS, EVAL
from orchestrator.errors import DataError, PreflightError, Problem
from orchestrator.evaluation import metrics as run_metrics
from orchestrator.evaluation.eval_sets import describe_eval, load_eval
from orchestrator.evaluation.measures import BASELINE, GROUP, PAIR, check_metrics, default_metrics
from orchestrator.machine.files import write_json
from orchestrator.machine.hardware import CPU, Hardware
from orchestrator.machine.json_files import load_json
from orchestrator.machine.rundir import RunDir
from orchestrator.serving import chosen_models
from orchestrator.serving.worker import Words

T = TypeVar("T")
SEED = 42
MODEL = "model"  # the role of a system that is compared with the first
_GENERIC_NAMES = ("model", "output", "merged")


@dataclass(frozen=True)
class Request:
    """What is asked for, all of it.

    `models` are folders, runs, hub ids or packages; the first is what the others are compared with. With `corpus` every
    query searches all documents of the data. `metrics` empty are those of the data's kind, `python` runs the models,
    and `cache` keeps scores across calls.
    """

    models: tuple[str, ...]
    data: RowFiles
    reading: chosen_models.Reading
    python: str
    hardware: Hardware = CPU
    metrics: tuple[str, ...] = ()
    cache: Path | None = None
    corpus: bool = False
    seed: int = SEED


def sniff_data(files: Sequence[Path], columns: Mapping[str, str], encoding: str | None = None) -> Kind:
    """Return the kind of the rows, one of EVAL_KINDS; what cannot be told is read as groups, which says why.

    Raises DataError for rows that measure something else.
    """
    kind = sniff_kind(files[0], columns, encoding) or guess_kind(files, columns, encoding)
    if kind not in EVAL_KINDS:
        raise DataError(
            f"{files[0]} holds {kind} rows: an LLM's answers are measured by the run that trains it",
            hint="give ranking groups, labelled documents of a query, scored pairs of texts, or texts with classes",
        )
    return require_kind(kind)


def find_problems(request: Request) -> list[Problem]:
    """Return what in the request does not fit the kind of its data."""
    kind = request.data.rules.kind
    problems = check_metrics(request.metrics, PAIR if kind == PAIR else GROUP)
    if kind == PAIR and request.corpus:
        problems.append(Problem("pairs of texts have no corpus to search", hint="leave --corpus out"))
    return problems


def evaluate(request: Request, out: Path | None, tell: Callable[[str], None]) -> dict[str, Any]:
    """Return metrics.json of the models on the data, and keep it with the scores in `out` where that is given.

    It is that of a run (`evaluation.metrics.build_metrics`) with systems of the roles baseline (the first model) and
    model, and a `system` in every comparison. The folder holds eval.jsonl (and corpus.jsonl), ledger.json, stats.json,
    metrics.json and models/NAME/{spec.json,scores.jsonl,scoring.json}; it is there when all is done, or not at all.

    Raises DataError, PreflightError (a model), StageFailedError (scoring), RunFolderError (a folder that exists).
    """
    pairs = request.data.rules.kind == PAIR
    vectors = pairs or request.corpus or request.data.rules.kind == "class"
    candidates = find_candidates(request, vectors=vectors)
    searches = require_one_way(candidates, vectors=vectors) and not pairs
    if request.reading.max_length or request.reading.instruction or request.reading.format:
        for name in (candidate.name for candidate in candidates if candidate.packaged):
            tell(f"{name} is a packaged model: it reads texts as its own scoring.json says")
    if out is not None:
        chosen_models.require_absent(out)
    chosen_models.require_chosen_load(candidates, request.python)
    with fresh_output(out) as folder:
        gathered = prepare_eval(request.data, folder, corpus=searches, seed=SEED)
        for problem in gathered.bad_rows:
            tell(f"dropped: {describe_problem(problem)}")
        for line in describe_warnings(gathered.ledger):
            tell(line)
        for number, candidate in enumerate(candidates, start=1):
            tell(f"scoring {candidate.name} ({number} of {len(candidates)})")
            _score(request, candidate, folder, tell, searches=searches)
        metrics = _measure(request, candidates, folder)
        write_json(RunDir(folder).metrics_json, metrics)
    return metrics


def find_candidates(request: Request, *, vectors: bool) -> list[chosen_models.ChosenModel]:
    """Return the models in the order given; `vectors` says that the data needs embedding models.

    Raises PreflightError with every model that cannot be found, else with every one that cannot be scored.
    """

    def choose(name: str, model: BaseModel) -> chosen_models.ChosenModel:
        reading = request.reading if load_own_spec(model) is None else replace(request.reading, format=None)
        return chosen_models.choose_model(model, name, reading, precision=request.hardware.precision, vectors=vectors)

    models = _collect(lambda name: chosen_models.find_model(name, request.reading), request.models)
    return _collect(choose, _make_unique([_short_name(model.name) for model in models]), models)


def _collect(make: Callable[..., T], *given: Sequence[Any]) -> list[T]:
    """Return what is made of each. Raises PreflightError with the problems of all."""
    made: list[T] = []
    problems: list[Problem] = []
    for one in zip(*given, strict=True):
        try:
            made.append(make(*one))
        except PreflightError as error:
            problems += error.problems
    if problems:
        raise PreflightError.from_problems(problems)
    return made


def require_one_way(candidates: list[chosen_models.ChosenModel], *, vectors: bool) -> bool:
    """Return whether every model compares vectors. Raises PreflightError where some do and others cannot.

    With `vectors` (pairs of texts, or a corpus or texts of a class to search for) all must.
    """
    able = [candidate for candidate in candidates if candidate.compares_vectors]
    unable = [candidate for candidate in candidates if not candidate.compares_vectors]
    if unable and vectors:
        raise PreflightError(
            f"{unable[0].name} is scored as {unable[0].spec['scorer']}, which ranks the candidates of a query: it "
            "gives no vectors to search a corpus or to compare pairs of texts with",
            hint="name an embedding model, or give ranking groups without --corpus",
        )
    if able and unable:
        raise PreflightError(
            f"{able[0].name} would search a corpus and {unable[0].name} would rank the candidates of a query: their "
            "numbers cannot be compared",
            hint="evaluate them apart, or rank with both: --format bi-encoder for an embedding model",
        )
    return not unable


def _score(
    request: Request, candidate: chosen_models.ChosenModel, folder: Path, tell: Callable[[str], None], *, searches: bool
) -> None:
    """Write scores.jsonl and scoring.json of one model; `tell` is told how far it is.

    Raises what `run_on_models` does, and PreflightError for a model whose head was never trained.
    """
    out = _scores_of(folder, candidate)
    out.mkdir(parents=True)
    write_json(out / "spec.json", candidate.spec)
    options = {
        "model": candidate.model.location, "scoring": out / "spec.json", "data": folder / EVAL,
        "corpus": folder / CORPUS if searches else None, "out": out, "cache": request.cache,
    }  # fmt: skip
    words = Words(
        f"{candidate.name} cannot be scored",
        "the evaluation was stopped; run it again: models that were scored to the end are in the cache",
    )
    chosen_models.run_on_models(
        "score", options, [candidate], words, python=request.python, on_cpu=request.hardware.kind == "cpu",
        on_progress=lambda done, total: tell(f"scoring {candidate.name}: {done}/{total}"),
    )  # fmt: skip
    # the head was created while the model was loaded: its config was not seen before
    if load_json(out / "scoring.json").get("head") == "new":
        raise PreflightError(
            f"{candidate.name} has no trained head: its scores as {candidate.spec['scorer']} are random",
            hint="name a trained reranker, or another --format",
        )


def _measure(request: Request, candidates: list[chosen_models.ChosenModel], folder: Path) -> dict[str, Any]:
    evaluation = load_eval(folder / EVAL)
    if evaluation is None:
        raise DataError("no row is left to measure on", hint="orch data check says why")
    names = request.metrics or default_metrics(evaluation.kind)
    places = {candidate.name: _scores_of(folder, candidate) for candidate in candidates}
    scores = {name: evaluation.load_scores(place / "scores.jsonl") for name, place in places.items()}
    systems = [
        run_metrics.System(
            name, MODEL if number else BASELINE, None, name,
            run_metrics.load_scoring(places[name] / "scoring.json"), one,
        )
        for number, (name, one) in enumerate(evaluation.measure(scores, names, seed=request.seed).items())
    ]  # fmt: skip
    first, *others = systems
    comparisons = [
        {"system": system.system_id, "baseline": first.system_id, **row}
        for system in others
        for row in run_metrics.compare_measured(first.measured, system.measured, names, request.seed)
    ]
    return {
        "version": run_metrics.METRICS_VERSION,
        "seed": request.seed,
        **run_metrics.describe_kind(evaluation.kind, names),
        "eval": {
            **describe_eval(folder / EVAL, evaluation, folder),
            "files": [str(file) for file in request.data.files],
        },
        "headline": {"metric": names[0], "baseline": first.system_id},
        "systems": [system.describe() for system in systems],
        "rows": run_metrics.build_rows(systems),
        "comparisons": comparisons,
        "verdict": run_metrics.judge(comparisons, names[0], first.system_id),
        "power": run_metrics.describe_power(names[0], [system.measured for system in systems]),
        "gate": {"passed": None, "rules": []},
        "guards": [],
        "gaps": [odd.message for candidate in candidates for odd in find_oddities(candidate.model)],
    }


def _scores_of(folder: Path, candidate: chosen_models.ChosenModel) -> Path:
    return folder / "models" / candidate.name


@contextmanager
def fresh_output(out: Path | None, written: str = "") -> Iterator[Path]:
    """Give a folder to work in; at the end of the block it, or what is `written` in it, becomes `out` by one rename.

    On errors nothing is left.
    """
    parent = Path(tempfile.gettempdir()) if out is None else out.parent
    folder = parent / f".orch-evaluate-{secrets.token_hex(8)}"
    folder.mkdir(parents=True, mode=0o700 if out is None else 0o777)
    try:
        yield folder
        if out is not None:
            (folder / written).rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _short_name(name: str) -> str:
    """Return the last part of a path or hub id that says something, in letters that a file name may have."""
    parts = [part for part in Path(name).parts if re.search(r"\w", part)]
    while len(parts) > 1 and parts[-1] in _GENERIC_NAMES:
        parts.pop()
    return re.sub(r"[^\w.-]+", "-", parts[-1] if parts else "model")


def _make_unique(names: list[str]) -> list[str]:
    """Return the names; those that come again get a number."""
    told: list[str] = []
    for name in names:
        number, unique = 1, name
        while unique in told:
            number, unique = number + 1, f"{name}-{number + 1}"
        told.append(unique)
    return told
