"""Options that several commands share."""

from __future__ import annotations

import glob
from collections.abc import Callable
from dataclasses import fields
from functools import reduce
from pathlib import Path
from typing import Any

import click

from orchestrator.machine.hardware import Hardware

PATH = click.Path(path_type=Path)
COUNT = click.IntRange(1)


def join(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return what gives a command several options, in this order."""
    return lambda command: reduce(lambda given, option: option(given), reversed(options), command)


recipe = click.argument("recipe", type=PATH)
overrides = click.option(
    "--set", "overrides", multiple=True, metavar="A.B=VALUE", help="Override one value of the recipe; may be repeated."
)
smoke = click.option("--smoke", is_flag=True, help="The same pipeline on a tiny model: no GPU, no download, minutes.")
hardware = click.option(
    "--hardware", default="auto", show_default=True, metavar="auto|cpu|gpu[:N][:40g][:fp16]",
    help="Plan for this hardware.",
)  # fmt: skip
plan = join(overrides, smoke, hardware)
job = join(
    click.option("--to", "engine", metavar="ENGINE", help="The engine that shall run it, such as slurm."),
    click.option("--cluster", "profile", metavar="NAME", help="A profile in ~/.config/orch/clusters.yaml."),
)


def complete_runs(context: click.Context, _: click.Parameter, start: str) -> list[Any]:
    """Return the runs and tags whose names begin so, for the shell; folders where there are none."""
    from click.shell_completion import CompletionItem

    runs = Path(context.params.get("runs") or "runs")
    names = sorted(path.parent.name for path in runs.glob(f"{glob.escape(start)}*/plan.json"))
    names += sorted(path.stem for path in runs.glob(f"tags/{glob.escape(start)}*.json"))
    return [CompletionItem(name) for name in names] or [CompletionItem(start, type="dir")]


run = click.argument("run", default="last", shell_complete=complete_runs)
runs = click.option(
    "--runs", type=PATH, default=Path("runs"), show_default=True, envvar="ORCH_RUNS", help="The folder of all runs."
)
trust_run = click.option(
    "--trust-run", is_flag=True, help="Run what a run folder says that you have not made: its programs get your rights."
)
trusted_run = join(trust_run, runs)
trust_code = click.option(
    "--trust-remote-code", is_flag=True, help="Run Python code that the model's folder brings along."
)
allow_pickle = click.option("--allow-pickle", is_flag=True, help="Load pickled weights, which may run code too.")
loading = join(trust_code, allow_pickle)  # what a model may do
family = click.option(
    "--family", type=click.Choice(["encoder", "decoder"]),
    help="What a model is, where neither its config nor its name tells.",
)  # fmt: skip
pooling = click.option(
    "--pooling", type=click.Choice(["cls", "mean", "lasttoken"]),
    help="How an embedding model makes one vector of a text, where neither its files nor its name tell.",
)  # fmt: skip
min_label = click.option("--min-label", type=float, help="The label that becomes 0, if it is not 0.")
max_label = click.option("--max-label", type=float, help="The label that becomes 1, such as 2 for 0, 1, 2.")
scores_as_labels = click.option(
    "--scores-as-labels/--no-scores-as-labels", default=None, help="What the rows' scores are: labels, or a teacher's."
)
labels = join(min_label, max_label, scores_as_labels)  # what labels mean
max_dropped = click.option(
    "--max-dropped", type=click.IntRange(0), default=0, show_default=True, help="Bad rows that are allowed."
)


def _require_encoding(_context: click.Context, _option: click.Parameter, name: str | None) -> str | None:
    from orchestrator.recipe.schema import require_encoding

    try:
        require_encoding(name)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    return name


def expand_files(_context: click.Context, _option: click.Parameter, paths: tuple[Path, ...]) -> tuple[Path, ...]:
    """Return data files, with those of each folder and of each quoted pattern in its place. Raises DataError."""
    from orchestrator.data.reading.file_sets import expand_paths
    from orchestrator.errors import DataError, Problem

    found = expand_paths(paths)
    if isinstance(found, Problem):
        raise DataError.from_problems([found])
    return found


def parse_pairs(_context: click.Context, option: click.Parameter, texts: tuple[str, ...]) -> dict[str, str]:
    """Return {left: right} of texts such as NEW=OLD. Raises BadParameter for other texts, or a left one twice."""
    found: dict[str, str] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not (key and equals and value):
            raise click.BadParameter(f"{text} is not {option.metavar}")
        if key in found:
            raise click.BadParameter(f"{key!r} is given twice")
        found[key] = value
    return found


data_files = click.argument("files", nargs=-1, required=True, type=PATH, callback=expand_files)
columns = click.option(
    "--map", "columns", multiple=True, metavar="NEW=OLD", callback=parse_pairs,
    help="Read the column OLD as NEW; may be repeated.",
)  # fmt: skip
ignore = click.option("--ignore", multiple=True, metavar="KEY", help="A key whose text is not needed; may be repeated.")
encoding = click.option(
    "--encoding", callback=_require_encoding, metavar="NAME",
    help="Of text that is not UTF-8, such as gb18030; auto goes by how each file begins.",
)  # fmt: skip
rows = join(columns, ignore, encoding)  # how rows are read
new_rows = click.option("-o", "--output", type=PATH, required=True, help="The new .jsonl file.")


def resolve_hardware(text: str, *, smoke: bool) -> Hardware:
    """Return the hardware to plan for; a smoke run always takes the CPU, so that it is the same everywhere."""
    from orchestrator.machine.hardware import CPU, find_hardware, parse_hardware

    if smoke:
        return CPU
    return find_hardware() if text == "auto" else parse_hardware(text)


def pick(options: dict[str, Any], record: type) -> dict[str, Any]:
    """Return those of a command's options that are fields of `record`, a dataclass."""
    return {field.name: options[field.name] for field in fields(record) if field.name in options}


def python(text: str, *, is_usage: bool = False) -> Callable[[Any], Any]:
    """Return the option --python, which gives an interpreter's absolute path, as a job names it.

    One that is not there is a PreflightError, or with `is_usage` a UsageError.
    """

    def find(_context: click.Context, _option: click.Parameter, python: str | None) -> str | None:
        from orchestrator.errors import PreflightError
        from orchestrator.machine.places import find_python

        found = find_python(Path(), python) if python is not None else None
        if python is not None and found is None:
            message = f"--python: no such interpreter: {python}"
            hint = "name the python of the backend's environment"
            raise click.UsageError(message) if is_usage else PreflightError(message, hint=hint)
        return found

    return click.option("--python", callback=find, help=text)


def require_label_range(min_label: float | None, max_label: float | None) -> None:
    """Raise BadParameter for a range of labels that cannot be scaled to [0, 1]."""
    if max_label is None and min_label is not None:
        raise click.BadParameter("labels are scaled from it to --max-label, which is missing", param_hint="--min-label")
    if max_label is not None and max_label <= (min_label or 0):
        raise click.BadParameter("it must lie above --min-label", param_hint="--max-label")
