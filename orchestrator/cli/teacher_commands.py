"""Commands that let a model work on training rows: score their documents, and mine hard negatives."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from orchestrator.backends.scorers import FORMATS
from orchestrator.cli import options as option
from orchestrator.cli.output import Result, prints
from orchestrator.machine.terminal import say, say_lines, say_over

_LINE_EVERY_S = 10.0

_force_option = click.option("--force", is_flag=True, help="Replace the output where it exists.")
_device_option = click.option(
    "--device",
    metavar="cpu|cuda|cuda:N,…",
    help="Where the model runs; several, parted by commas, share the work (default: every GPU, or the CPU).",
)


@click.command("score")
@option.data_files
@click.option(
    "--model", required=True, help="The teacher: a folder, a run, a hub id, or an installed package that carries one."
)
@click.option("--format", type=click.Choice(list(FORMATS)), help="How it scores (default: as its authors use it).")
@click.option("--max-length", type=click.IntRange(8), default=512, show_default=True, help="Longest pair in tokens.")
@click.option("--instruction", help="Task sentence, for teachers that take one.")
@click.option("--batch-size", type=option.COUNT, help="Pairs at once (default: 8 for an LLM, 32 for an encoder).")
@option.rows
@click.option("--replace", is_flag=True, help="Rows may have teacher scores already; they get new ones.")
@_device_option
@option.pooling
@option.family
@option.loading
@option.new_rows
@_force_option
@prints("data score")
def data_score_command(
    files: tuple[Path, ...], model: str, device: str | None, output: Path, force: bool, as_json: bool, **options: Any
) -> Result:
    """Write FILES' rows with a teacher's score for every document: pos_scores and neg_scores, or score.

    Stopped, it continues when the same command is given again; pairs that this teacher has scored before are not scored
    again.

    Example: orch data score train.jsonl --model BAAI/bge-reranker-v2-m3 -o train.scored.jsonl
    """
    from orchestrator.data.request import RowFiles
    from orchestrator.data.rows.checks import RowRules
    from orchestrator.report.wording import list_cautions
    from orchestrator.serving.chosen_models import Reading
    from orchestrator.serving.teach import score_files

    _require_each_once(options["columns"])
    rows = RowFiles(files, RowRules(**option.pick(options, RowRules)), **option.pick(options, RowFiles))
    reading = Reading(**option.pick(options, Reading))
    progress = None if as_json else _show_progress("pairs scored")
    done = score_files(rows, model, reading, output, device=device, force=force, on_progress=progress)
    facts = done.scoring
    data = {
        "output": str(output),
        "rows": done.counts.rows,
        "bad": dict(sorted(done.counts.bad.counts.items())),
        "documents": done.counts.documents,
        "scoring": facts,
        "cautions": list(done.cautions),
    }

    def show() -> None:
        from orchestrator.data.check import describe_problem

        for problem in done.counts.bad.sum_up():
            say(f"left as it is: {describe_problem(problem)}", err=True)
        say(
            f"{output}: {done.counts.rows} rows, {done.counts.documents} documents with scores from {facts['min']:.4g} "
            f"to {facts['max']:.4g}{done.counts.describe_bad()}"
        )
        say(f"{facts['scored_now']} pairs scored now, {facts['scored_before']} before")
        for caution in (*done.cautions, *list_cautions(facts)):
            say(f"caution: {caution}", err=True)
        if facts["constant"]:
            say("every pair has the same score: nothing can be learnt from this teacher", err=True)

    return Result(data, show)


@click.command("mine")
@option.data_files
@click.option(
    "--model", required=True, help="The embedding model that searches: a folder, a run, a hub id or a package."
)
@click.option(
    "--corpus", "corpus_files", multiple=True, type=option.PATH,
    help='More documents: rows of {"text"}, or a .txt of lines; may be repeated.',
)  # fmt: skip
@click.option(
    "--cross-encoder", metavar="MODEL", help="A reranker that scores what is found; margins then use its scores."
)
@click.option("--num-negatives", type=option.COUNT, default=5, show_default=True, help="Negatives of a query.")
@click.option("--range-min", type=click.IntRange(0), default=10, show_default=True, help="Nearest to skip.")
@click.option("--range-max", type=option.COUNT, default=100, show_default=True, help="Last rank to look at.")
@click.option("--max-score", type=float, help="Only documents that score no more.")
@click.option("--min-score", type=float, help="Only documents that score no less.")
@click.option("--absolute-margin", type=float, help="Only documents that score this much below every positive.")
@click.option("--relative-margin", type=float, help="The same as a share of the positive's score, such as 0.05.")
@click.option(
    "--sampling",
    "sampling_strategy",
    type=click.Choice(["top", "random"]),
    default="top",
    show_default=True,
    help="Which to take.",
)
@click.option("--keep-negatives", is_flag=True, help="Keep the rows' own negatives, in front of the mined ones.")
@click.option("--query-prompt", help="What stands in front of every query (default: the model's own).")
@click.option("--document-prompt", help="What stands in front of every document (default: the model's own).")
@click.option("--max-length", type=click.IntRange(8), default=512, show_default=True, help="Longest text in tokens.")
@click.option("--batch-size", type=option.COUNT, default=32, show_default=True, help="Texts, or pairs, at once.")
@click.option("--seed", type=int, default=42, show_default=True, help="Of the random sampling.")
@option.labels
@option.max_dropped
@option.rows
@_device_option
@option.pooling
@option.family
@option.loading
@option.new_rows
@_force_option
@prints("data mine")
def data_mine_command(
    files: tuple[Path, ...], model: str, cross_encoder: str | None, output: Path, force: bool, **options: Any
) -> Result:
    """Find hard negatives for FILES' queries among all documents, with sentence-transformers' mine_hard_negatives.

    Writes {"query", "pos", "neg"} rows, beside them what was done (.ledger.json) and each negative's rank and score
    (.lineage.jsonl). A positive of a query is never among its negatives.

    Example: orch data mine train.jsonl --model BAAI/bge-m3 --relative-margin 0.05 -o train.mined.jsonl
    """
    from orchestrator.data.request import RowFiles
    from orchestrator.data.rows.checks import RowRules
    from orchestrator.serving.chosen_models import Reading
    from orchestrator.serving.teach import MiningPlan, MiningSettings, mine_files

    option.require_label_range(options["min_label"], options["max_label"])
    settings = MiningSettings(**option.pick(options, MiningSettings))
    if settings.num_negatives > settings.range_max - settings.range_min:
        between = f"between rank {settings.range_min} and {settings.range_max}"
        message = f"{between} there are fewer than {settings.num_negatives} documents"
        raise click.BadParameter(message, param_hint="--range-max")
    limits = (settings.max_score, settings.min_score, settings.absolute_margin, settings.relative_margin)
    if cross_encoder and limits == (None,) * len(limits):
        message = "its scores count for --max-score, --min-score and the margins only: give at least one of these"
        raise click.BadParameter(message, param_hint="--cross-encoder")
    _require_each_once(options["columns"])
    rows = RowFiles(files, RowRules(**option.pick(options, RowRules)), **option.pick(options, RowFiles))
    reading = Reading(**option.pick(options, Reading))
    plan = MiningPlan(rows, model, reading, cross_encoder, settings, **option.pick(options, MiningPlan))
    done = mine_files(plan, output, force=force)
    given, made = asdict(done.given), asdict(done.made)
    data = {
        "output": str(output),
        "ledger": str(done.ledger),
        "lineage": str(done.lineage),
        **{name: given[name] for name in ("queries", "documents", "dropped")},
        "rows": made["rows_written"],
        **{name: made[name] for name in ("mined", "queries_with_too_few", "queries_with_none")},
        "candidates_excluded": done.excluded,
        "warnings": list(done.warnings),
    }

    def show() -> None:
        say_lines((f"warning: {warning}" for warning in done.warnings), err=True)
        found = f"{done.made.mined} mined negatives of {done.given.documents} documents"
        say(f"{output}: {done.made.rows_written} rows, {found}")
        for name, count in done.excluded.items():
            say(f"--{name.replace('_', '-')} excluded {count} candidates")
        say(f"what was done: {done.ledger}; ranks and scores: {done.lineage}")

    return Result(data, show)


def _require_each_once(columns: dict[str, str]) -> None:
    """Raise BadParameter where one column would get two names."""
    for place, old in enumerate(columns.values()):
        if old in list(columns.values())[:place]:
            raise click.BadParameter(f"{old} would get two names", param_hint="--map")


def _show_progress(what: str) -> Callable[[int, int], None]:
    """Return what prints progress on stderr: one line that changes on a terminal, else one now and then."""
    is_terminal, printed = sys.stderr.isatty(), [time.monotonic()]

    def show(done: int, total: int) -> None:
        if is_terminal:
            say_over(f"{done}/{total} {what} ", last=done >= total)
        elif time.monotonic() - printed[0] >= _LINE_EVERY_S:
            printed[0] = time.monotonic()
            say(f"{done}/{total} {what}", err=True)

    return show
