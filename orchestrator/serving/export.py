"""Exports a packaged model, or any other, to another form, and says by the same evaluation set what that cost."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.backends.scorers import find_export_problem
from orchestrator.checks.machine import find_lacking_exporter
from orchestrator.data.prepare_eval import prepare_eval
from orchestrator.data.request import RowFiles
from orchestrator.data.rows.checks import RowRules
from orchestrator.data.writers import CORPUS, EVAL
from orchestrator.errors import DataError, PreflightError, Problem
from orchestrator.evaluation.eval_sets import EvalSet, load_eval
from orchestrator.evaluation.measures import RETRIEVAL, TUNED, check_metrics, default_metrics
from orchestrator.evaluation.metrics import load_scored
from orchestrator.machine.files import write_json
from orchestrator.machine.hardware import CPU, Hardware
from orchestrator.machine.rundir import RunDir
from orchestrator.recipe.plan import Plan
from orchestrator.report.publish import finish_export
from orchestrator.run.folder import find_run, is_own_run, load_own_plan
from orchestrator.serving import chosen_models
from orchestrator.serving.evaluate_model import SEED, fresh_output, sniff_data
from orchestrator.serving.worker import Words


@dataclass(frozen=True)
class Request:
    """What is exported, to which form, and what it is measured on.

    `model` is a run, a packaged folder, or any model that `orch evaluate` takes, which needs `data`. `python` None is
    the run's own, else this one; it has the exporter's packages. `gate` is held against the source.
    """

    model: str
    form: str
    runs: Path
    reading: chosen_models.Reading
    data: tuple[Path, ...] = ()
    metrics: tuple[str, ...] = ()
    gate: Mapping[str, str] = field(default_factory=dict)
    python: str | None = None
    hardware: Hardware = CPU


@dataclass(frozen=True)
class Source:
    """The model that is exported, and its run where it is a run's."""

    chosen: chosen_models.ChosenModel
    folder: Path
    run: RunDir | None
    plan: Plan | None


def find_source(asked: Request) -> Source:
    """Return the model that is meant. Raises PreflightError and RunFolderError for one that is not here, whole."""
    named = asked.model
    if not Path(named).exists() and (named == "last" or any(asked.runs.glob(f"{named}*/plan.json"))):
        named = str(find_run(named, asked.runs).root)
    model = chosen_models.find_model(named, asked.reading)
    if model.folder is None:
        raise PreflightError(f"{model.name} is not on this machine", hint=f"fetch it first: hf download {model.name}")
    precision = asked.hardware.precision
    chosen = chosen_models.choose_model(model, "source", asked.reading, precision=precision, vectors=True)
    run = RunDir(model.folder.resolve().parent)
    if not (run.plan_json.is_file() and run.model == model.folder.resolve()):
        return Source(chosen, model.folder, None, None)
    return Source(chosen, model.folder, run, load_own_plan(run, trust_run=True))  # only read


def find_problems(asked: Request, source: Source, python: str) -> list[Problem]:
    """Return all that keeps the model from being exported, before anything is loaded."""
    scorer = source.chosen.spec["scorer"]
    if problem := find_export_problem(asked.form, scorer, source.chosen.model.family):
        return [problem]
    problems = [problem] if (problem := find_lacking_exporter(asked.form, python)) else []
    if source.run is None and not asked.data:
        problems.append(Problem("nothing to measure the export on", hint="give evaluation rows: --data FILE"))
    return problems


def export_model(asked: Request, out: Path, tell: Callable[[str], None]) -> dict[str, Any]:
    """Write the export to `out`, which appears whole and measured or not at all; return its export.json.

    Raises PreflightError (the model, its form, a package), DataError, StageFailedError (the exporter), RunFolderError
    (a folder that exists). A missed gate is not an error here: `gate` says it.
    """
    source = find_source(asked)
    package = source.plan.stage("package") if source.plan and source.run and is_own_run(source.run) else None
    python = asked.python or (package.command.argv[0] if package else sys.executable)
    if problems := find_problems(asked, source, python):
        raise PreflightError.from_problems(problems)
    chosen_models.require_absent(out)
    chosen_models.require_chosen_load([source.chosen], python)
    with fresh_output(out, written="model") as folder:
        evaluation, kept, rows, corpus = _find_eval(asked, source, folder)
        said = (source.plan.recipe.get("evaluate") or {}).get("metrics") if source.plan else None
        names = asked.metrics or tuple(said or ()) or default_metrics(evaluation.kind)
        if problems := check_metrics([*names, *asked.gate], evaluation.kind):
            raise PreflightError.from_problems(problems)
        write_json(folder / "spec.json", source.chosen.spec)
        tell(f"exporting {source.folder} to {asked.form}, and scoring both")
        options = {
            "model": source.folder, "scoring": folder / "spec.json", "form": asked.form, "data": rows, "corpus": corpus,
            "out": folder / "model", "scores": folder / "scores",
        }  # fmt: skip
        words = Words(f"the export to {asked.form} has failed", "the export was stopped; nothing was left behind")
        chosen_models.run_on_models(
            "export", options, [source.chosen], words, python=python, on_cpu=asked.hardware.kind == "cpu",
            on_progress=lambda done, total: tell(f"scoring: {done}/{total}"),
        )  # fmt: skip
        return finish_export(folder / "model", folder / "scores", evaluation, kept, metrics=names, gate=asked.gate)


def _find_eval(
    asked: Request, source: Source, folder: Path
) -> tuple[EvalSet, Mapping[str, Any] | None, Path, Path | None]:
    """Return the evaluation set, the scores that the run kept of the source, and the files of rows and corpus.

    The given data is prepared in `folder`. Raises DataError where there is nothing to measure on.
    """
    if asked.data:
        embeds = source.chosen.compares_vectors
        kind = sniff_data(asked.data, {})
        prepare_eval(RowFiles(asked.data, RowRules(kind)), folder, corpus=embeds and kind != "pair", seed=SEED)
        rows, kept, evaluation = folder / EVAL, None, load_eval(folder / EVAL)
    elif source.run is not None and source.plan is not None:
        scored = load_scored(source.run, source.plan)
        rows, kept, evaluation = source.run.eval_jsonl, scored.scores.get(TUNED), scored.evaluation
    else:
        raise DataError("no row is left to measure on", hint="give evaluation rows: --data FILE")
    if evaluation is None:
        raise DataError(f"{rows} holds no row to measure on", hint="give evaluation rows: --data FILE")
    return evaluation, kept, rows, rows.with_name(CORPUS) if evaluation.kind == RETRIEVAL else None
