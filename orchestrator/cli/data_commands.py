"""Commands on data files: check and split."""

from __future__ import annotations

from pathlib import Path

import click

from orchestrator.cli.options import as_json
from orchestrator.cli.output import print_json


@click.group("data")
def data_command() -> None:
    """Check and split data files."""


@data_command.command("check")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--eval", "eval_files", multiple=True, type=click.Path(path_type=Path), help="Look for its queries in FILES."
)
@click.option("--max-dropped", type=click.IntRange(0), default=0, show_default=True, help="Bad rows that are allowed.")
@click.option(
    "--tokenizer", type=click.Path(path_type=Path), help="A model folder or tokenizer.json: count what is cut."
)
@click.option("--query-max-len", type=click.IntRange(1), default=512, show_default=True)
@click.option("--passage-max-len", type=click.IntRange(1), default=512, show_default=True)
@as_json
def data_check_command(
    files: tuple[Path, ...],
    eval_files: tuple[Path, ...],
    max_dropped: int,
    tokenizer: Path | None,
    query_max_len: int,
    passage_max_len: int,
    as_json: bool,
) -> None:
    """Check FILES as ranking data: bad rows, duplicates, leaks, lengths. Exit code 3 when they must not be used."""
    from orchestrator.data.check import check_files
    from orchestrator.data.describe import describe_report
    from orchestrator.data.tokens import LengthBudget
    from orchestrator.errors import DataError

    budget = LengthBudget(query_max_len, passage_max_len) if tokenizer else None
    report = check_files(files, eval_paths=eval_files, max_dropped=max_dropped, tokenizer=tokenizer, budget=budget)
    if report.problems and not as_json:
        raise DataError.from_problems(list(report.problems))
    if as_json:
        print_json("data check", report.to_json())
    else:
        click.echo(describe_report(report))
    if report.problems:
        from orchestrator.cli import exit_with

        exit_with(DataError.exit_code)


@data_command.command("split")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--eval-ratio", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.1, show_default=True)
@click.option("-o", "--output", type=click.Path(path_type=Path), default=Path(), help="Folder for the two files.")
@click.option("--seed", type=int, default=42, show_default=True)
@as_json
def data_split_command(file: Path, eval_ratio: float, output: Path, seed: int, as_json: bool) -> None:
    """Split FILE by query into NAME.train and NAME.eval: no query is on both sides, rows stay as they are."""
    from orchestrator.data.split import split_file

    output.mkdir(parents=True, exist_ok=True)
    stem = file.stem.removesuffix(".train")
    if stem != file.stem and output.resolve() == file.resolve().parent:
        stem = file.stem  # or the new train file would be the old one
    train, held_out = (output / f"{stem}.{side}{file.suffix}" for side in ("train", "eval"))
    report = split_file(file, train, held_out, eval_ratio, seed)
    if as_json:
        sides = {"train": report.train_rows, "eval": report.eval_rows}
        print_json("data split", {"train": str(train), "eval": str(held_out), "rows": sides})
        return
    click.echo(f"{train}: {report.train_rows} rows, {report.train_queries} queries")
    click.echo(f"{held_out}: {report.eval_rows} rows, {report.eval_queries} queries")
