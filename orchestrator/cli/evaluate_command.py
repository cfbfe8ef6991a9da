"""The command evaluate: any models measured on any data, without a recipe."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from orchestrator.backends.scorers import FORMATS
from orchestrator.cli.options import (
    allow_pickle_option,
    as_json,
    expand_files,
    family_option,
    hardware_option,
    ignore_option,
    map_option,
    max_dropped_option,
    max_label_option,
    min_label_option,
    pick,
    require_label_range,
    resolve_hardware,
    scores_as_labels_option,
    trust_code_option,
)
from orchestrator.cli.output import print_json
from orchestrator.machine.places import find_orch_cache, find_python
from orchestrator.machine.terminal import say


@click.command("evaluate")
@click.option(
    "--model", "models", multiple=True, required=True, metavar="PATH_OR_ID",
    help="A folder, a run, a hub id or a Python package; may be repeated: the first is the one compared with.",
)  # fmt: skip
@click.option(
    "--data", "files", multiple=True, required=True, type=click.Path(path_type=Path), callback=expand_files,
    help="Evaluation rows.",
)  # fmt: skip
@click.option("--format", type=click.Choice(list(FORMATS)), help="How models score that do not say it.")
@family_option
@click.option("--max-length", type=click.IntRange(8), help="Longest input in tokens (512).")
@click.option("--instruction", help="The task sentence of models that take one.")
@click.option("--batch-size", type=click.IntRange(1), help="Pairs (texts) scored at once: 8 for an LLM, else 32.")
@min_label_option
@max_label_option
@scores_as_labels_option
@click.option("--corpus", is_flag=True, help="Every query searches all documents of the data (embedding models).")
@click.option("--metrics", help="Names with commas between, such as ndcg@10,mrr@10; the first is the headline.")
@map_option
@ignore_option
@max_dropped_option
@click.option("--limit", type=click.IntRange(1), help="Measure on the first rows only.")
@trust_code_option
@allow_pickle_option
@click.option("--python", help="The Python that runs the models (default: this one).")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="A fresh folder that keeps data and scores.")
@hardware_option
@as_json
def evaluate_command(
    models: tuple[str, ...],
    files: tuple[Path, ...],
    columns: dict[str, str],
    metrics: str | None,
    python: str | None,
    output: Path | None,
    hardware: str,
    as_json: bool,
    **options: Any,
) -> None:
    """Measure models on data: ranking groups, labelled documents, pairs of texts. No recipe, no training.

    A packaged model is scored as its scoring.json says, any other in its authors' way or by --format. Exit codes:
    3 the data, 4 a model, 6 the scoring.
    """
    from orchestrator.data.prepare_eval import EvalRequest
    from orchestrator.serving.chosen_models import Reading
    from orchestrator.serving.evaluate_model import SEED, Request, evaluate, find_problems, sniff_data

    require_label_range(options["min_label"], options["max_label"])
    kind = sniff_data(files, columns)
    if kind == "group" and (options["scores_as_labels"] or options["max_label"] is not None):
        kind = "labelled"  # only these have labels
    request = Request(
        models,
        EvalRequest(files, kind, columns, seed=SEED, **pick(options, EvalRequest)),
        Reading(**pick(options, Reading)),
        _find_python(python),
        resolve_hardware(hardware, smoke=False),
        tuple(name.strip() for name in metrics.split(",")) if metrics is not None else (),
        find_orch_cache() / "scores",
    )
    if problems := find_problems(request):
        raise click.UsageError("; ".join(f"{item.message} ({item.hint})" for item in problems))
    result = evaluate(request, output.absolute() if output else None, _tell)
    if as_json:
        print_json("evaluate", result)
        return
    for line in format_lines(result):
        say(line)
    if output:
        say(f"kept:  {output}")


def format_lines(result: Mapping[str, Any]) -> list[str]:
    """Return the means of every model, each model's comparison with the first, and what to beware of."""
    from orchestrator.evaluation.measures import display_name
    from orchestrator.evaluation.metrics import describe_cut
    from orchestrator.report.wording import figure, interval, measured_on, p_value, signed

    lines = [measured_on(result)]
    for system in result["systems"]:
        means = "  ".join(f"{display_name(name)} {figure(system['means'][name])}" for name in result["metrics"])
        lines.append(f"  {means}  {system['label']}")
    lines += [
        f"{row['system']} against {row['baseline']}: {row['verdict']}, {display_name(row['metric'])} "
        f"{signed(row['difference'])} {interval(row['low'], row['high'])}, {p_value(row['p'])}"
        for row in result["comparisons"]
        if row["metric"] == result["headline"]["metric"]
    ]
    lines += [f"caution: {gap}" for gap in result["gaps"]]
    lines += [
        f"caution: {system['id']} gives everything the same score" for system in result["systems"] if system["constant"]
    ]
    lines += [
        f"caution: {system['id']}: {cut}"
        for system in result["systems"]
        if (cut := describe_cut(system.get("scoring") or {}))
    ]
    if without := result["eval"].get("queries_without_relevant"):
        lines.append(f"caution: {without} of {result['eval']['units']} queries have no relevant document: they count 0")
    return lines


def _find_python(python: str | None) -> str:
    """Return the absolute path of the interpreter. Raises UsageError where there is none."""
    found = find_python(Path(), python) if python is not None else sys.executable
    if found is None:
        raise click.UsageError(f"--python: no such interpreter: {python}")
    return found


def _tell(text: str) -> None:
    say(f"orch: {text}", err=True)
