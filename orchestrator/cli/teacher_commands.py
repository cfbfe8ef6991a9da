"""Commands that let a model work on training rows: score their documents, and mine hard negatives."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from orchestrator.backends.scorers import FORMATS
from orchestrator.cli.options import as_json, expand_files, require_label_range
from orchestrator.cli.output import print_json
from orchestrator.machine.terminal import say, say_over

FAMILIES = ("encoder", "decoder")
_LINE_EVERY_S = 10.0

_files_argument = click.argument(
    "files", nargs=-1, required=True, type=click.Path(path_type=Path), callback=expand_files
)
_map_option = click.option(
    "--map", "columns", multiple=True, metavar="NEW=OLD", help="Read the column OLD as NEW; may be repeated."
)
_ignore_option = click.option(
    "--ignore", multiple=True, metavar="KEY", help="A key whose text is not needed; may be repeated."
)
_output_option = click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="The new .jsonl file."
)
_force_option = click.option("--force", is_flag=True, help="Replace the output where it exists.")
_device_option = click.option(
    "--device", metavar="cpu|cuda", help="Where the model runs (default: a GPU if there is one)."
)
_code_option = click.option("--trust-remote-code", is_flag=True, help="Run Python code that the model's folder brings.")
_pickle_option = click.option("--allow-pickle", is_flag=True, help="Load pickled weights, which may run code too.")
_family_option = click.option(
    "--family", type=click.Choice(FAMILIES), help="What the model is, where neither its config nor its name tells."
)


@click.command("score")
@_files_argument
@click.option(
    "--model", required=True, help="The teacher: a folder, a run, a hub id, or an installed package that carries one."
)
@click.option(
    "--format", "form", type=click.Choice(list(FORMATS)), help="How it scores (default: as its authors use it)."
)
@click.option("--max-length", type=click.IntRange(8), default=512, show_default=True, help="Longest pair in tokens.")
@click.option("--instruction", help="Task sentence, for teachers that take one.")
@click.option("--batch-size", type=click.IntRange(1), help="Pairs at once (default: 8 for an LLM, 32 for an encoder).")
@_map_option
@_ignore_option
@click.option("--replace", is_flag=True, help="Rows may have teacher scores already; they get new ones.")
@_device_option
@_family_option
@_code_option
@_pickle_option
@_output_option
@_force_option
@as_json
def data_score_command(
    files: tuple[Path, ...],
    model: str,
    form: str | None,
    max_length: int,
    instruction: str | None,
    batch_size: int | None,
    columns: tuple[str, ...],
    ignore: tuple[str, ...],
    replace: bool,
    device: str | None,
    family: str | None,
    trust_remote_code: bool,
    allow_pickle: bool,
    output: Path,
    force: bool,
    as_json: bool,
) -> None:
    """Write FILES' rows with a teacher's score for every document: pos_scores and neg_scores, or score.

    Stopped, it continues when the same command is given again; pairs that this teacher has scored before are not scored
    again.

    Example: orch data score train.jsonl --model BAAI/bge-reranker-v2-m3 -o train.scored.jsonl
    """
    from orchestrator.data.teacher import Rows
    from orchestrator.evaluation.metrics import describe_cut
    from orchestrator.serving.chosen_models import Reading
    from orchestrator.serving.teach import score_files

    reading = Reading(form, family, max_length, instruction, batch_size, trust_remote_code, allow_pickle)
    rows = Rows(files, _parse_columns(columns), replace=replace, ignore=ignore)
    progress = None if as_json else _show_progress("pairs scored")
    done = score_files(rows, model, reading, output, device=device, force=force, on_progress=progress)
    facts = done.scoring
    if as_json:
        print_json(
            "data score",
            {
                "output": str(output),
                "rows": done.counts.rows,
                "bad": dict(sorted(done.counts.bad.counts.items())),
                "documents": done.counts.documents,
                "scoring": facts,
                "cautions": list(done.cautions),
            },
        )
        return
    _warn_of_bad_rows(done.counts.bad.problems)
    say(
        f"{output}: {done.counts.rows} rows, {done.counts.documents} documents with scores from {facts['min']:.4g} to "
        f"{facts['max']:.4g}{done.counts.describe_bad()}"
    )
    say(f"{facts['scored_now']} pairs scored now, {facts['scored_before']} before")
    for caution in (*done.cautions, describe_cut(facts)):
        if caution:
            say(f"caution: {caution}", err=True)
    if facts["constant"]:
        say("every pair has the same score: nothing can be learnt from this teacher", err=True)


@click.command("mine")
@_files_argument
@click.option(
    "--model", required=True, help="The embedding model that searches: a folder, a run, a hub id or a package."
)
@click.option(
    "--corpus", multiple=True, type=click.Path(path_type=Path),
    help='More documents: rows of {"text"}, or a .txt of lines; may be repeated.',
)  # fmt: skip
@click.option(
    "--cross-encoder", metavar="MODEL", help="A reranker that scores what is found; margins then use its scores."
)
@click.option("--num-negatives", type=click.IntRange(1), default=5, show_default=True, help="Negatives of a query.")
@click.option("--range-min", type=click.IntRange(0), default=10, show_default=True, help="Nearest to pass over.")
@click.option("--range-max", type=click.IntRange(1), default=100, show_default=True, help="Last rank to look at.")
@click.option("--max-score", type=float, help="Only documents that score no more.")
@click.option("--min-score", type=float, help="Only documents that score no less.")
@click.option("--absolute-margin", type=float, help="Only documents that score this much below every positive.")
@click.option("--relative-margin", type=float, help="The same as a share of the positive's score, such as 0.05.")
@click.option(
    "--sampling", type=click.Choice(["top", "random"]), default="top", show_default=True, help="Which to take."
)
@click.option("--keep-negatives", is_flag=True, help="Keep the rows' own negatives, in front of the mined ones.")
@click.option("--query-prompt", help="What stands in front of every query (default: the model's own).")
@click.option("--document-prompt", help="What stands in front of every document (default: the model's own).")
@click.option("--max-length", type=click.IntRange(8), default=512, show_default=True, help="Longest text in tokens.")
@click.option("--batch-size", type=click.IntRange(1), default=32, show_default=True, help="Texts, or pairs, at once.")
@click.option("--seed", type=int, default=42, show_default=True, help="Of the random sampling.")
@click.option("--min-label", type=float, help="Graded labels: what becomes 0 (0); goes with --max-label.")
@click.option("--max-label", type=float, help="Graded labels: what becomes 1; at least half of it is relevant.")
@click.option(
    "--scores-as-labels/--no-scores-as-labels", default=None, help="What the rows' scores are: labels, or a teacher's."
)
@click.option("--max-dropped", type=click.IntRange(0), default=0, show_default=True, help="Bad rows that are allowed.")
@_map_option
@_ignore_option
@_device_option
@_family_option
@_code_option
@_pickle_option
@_output_option
@_force_option
@as_json
def data_mine_command(
    files: tuple[Path, ...],
    model: str,
    corpus: tuple[Path, ...],
    cross_encoder: str | None,
    num_negatives: int,
    range_min: int,
    range_max: int,
    max_score: float | None,
    min_score: float | None,
    absolute_margin: float | None,
    relative_margin: float | None,
    sampling: str,
    keep_negatives: bool,
    query_prompt: str | None,
    document_prompt: str | None,
    max_length: int,
    batch_size: int,
    seed: int,
    min_label: float | None,
    max_label: float | None,
    scores_as_labels: bool | None,
    max_dropped: int,
    columns: tuple[str, ...],
    ignore: tuple[str, ...],
    device: str | None,
    family: str | None,
    trust_remote_code: bool,
    allow_pickle: bool,
    output: Path,
    force: bool,
    as_json: bool,
) -> None:
    """Find hard negatives for FILES' queries among all documents, with sentence-transformers' mine_hard_negatives.

    Writes {"query", "pos", "neg"} rows, beside them what was done (.ledger.json) and each negative's rank and score
    (.lineage.jsonl). A positive of a query is never among its negatives.

    Example: orch data mine train.jsonl --model BAAI/bge-m3 --relative-margin 0.05 -o train.mined.jsonl
    """
    from orchestrator.data.mining import MiningRows
    from orchestrator.serving.chosen_models import Reading
    from orchestrator.serving.teach import MiningPlan, MiningSettings, mine_files

    require_label_range(min_label, max_label)
    if num_negatives > range_max - range_min:
        message = f"between rank {range_min} and {range_max} there are fewer than {num_negatives} documents"
        raise click.BadParameter(message, param_hint="--range-max")
    limits = (max_score, min_score, absolute_margin, relative_margin)
    if cross_encoder and limits == (None,) * len(limits):
        message = "its scores count for --max-score, --min-score and the margins only: give at least one of these"
        raise click.BadParameter(message, param_hint="--cross-encoder")
    plan = MiningPlan(
        rows=MiningRows(
            files,
            corpus,
            _parse_columns(columns),
            min_label or 0.0,
            1.0 if max_label is None else max_label,
            max_dropped,
            scores_as_labels,
            ignore,
        ),
        embedder=model,
        reading=Reading(None, family, max_length, None, batch_size, trust_remote_code, allow_pickle),
        cross_encoder=cross_encoder,
        settings=MiningSettings(
            num_negatives, range_min, range_max, *limits, sampling_strategy=sampling, batch_size=batch_size, seed=seed
        ),
        query_prompt=query_prompt,
        document_prompt=document_prompt,
        keep_negatives=keep_negatives,
        device=device,
    )
    done = mine_files(plan, output, force=force)
    if as_json:
        print_json("data mine", _describe_mined(output, done))
        return
    for warning in done.warnings:
        say(f"warning: {warning}", err=True)
    say(f"{output}: {done.made.rows} rows, {done.made.negatives} mined negatives of {done.given.documents} documents")
    for name, count in done.excluded.items():
        say(f"--{name.replace('_', '-')} excluded {count} candidates")
    say(f"what was done: {done.ledger}; ranks and scores: {done.lineage}")


def _describe_mined(output: Path, done: Any) -> dict[str, Any]:
    return {
        "output": str(output),
        "ledger": str(done.ledger),
        "lineage": str(done.lineage),
        "queries": done.given.queries,
        "documents": done.given.documents,
        "dropped": done.given.dropped,
        "rows": done.made.rows,
        "mined": done.made.negatives,
        "queries_with_too_few": done.made.with_too_few,
        "queries_with_none": done.made.with_none,
        "candidates_excluded": done.excluded,
        "warnings": list(done.warnings),
    }


def _parse_columns(pairs: Sequence[str]) -> dict[str, str]:
    from orchestrator.data.rows.shapes import parse_columns

    try:
        return parse_columns(pairs)
    except ValueError as error:
        raise click.BadParameter(f"{error} is not NEW=OLD with each name once", param_hint="--map") from None


def _warn_of_bad_rows(problems: Sequence[Any]) -> None:
    from orchestrator.data.describe import describe_problem

    for problem in problems:
        say(f"left as it is: {describe_problem(problem)}", err=True)


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
