"""Commands on data files: check, split, convert and sample."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args

import click

from orchestrator.cli import options as option
from orchestrator.cli.output import Result, prints
from orchestrator.machine.terminal import say, say_lines
from orchestrator.recipe.registry import TOOLS

Form = Literal["jsonl", "pointwise", "hits", "ranking"]
KINDS = ("group", "labelled", "pair", "class", "chat")
FORMS = ("csv", "tsv", "parquet", "json", "jsonl", "sharegpt", "alpaca", "swift3", "lists", "passages")
RANKING_OPTIONS = ("relevant_from", "labels_as_scores", "drop_queries_without_both")
RESHAPING_OPTIONS = (*RANKING_OPTIONS, "scores_as_labels", "drop_keys", "drop_scores", "min_label", "max_label")
MODEL_COMMANDS = ("score", "mine")  # in teacher_commands.py
TASKS = ("reranker", "embedding", "pairs", "classes", "sft")


class _DataGroup(click.Group):
    """A group that imports the commands which start a model when they are used: the others stay fast."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *MODEL_COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in MODEL_COMMANDS:
            return super().get_command(ctx, cmd_name)
        from orchestrator.cli import teacher_commands

        command: click.Command = getattr(teacher_commands, f"data_{cmd_name}_command")
        return command


@click.group("data", cls=_DataGroup)
def data_command() -> None:
    """Check, split and convert data files, and write samples."""


@data_command.command("check")
@option.data_files
@click.option(
    "--eval",
    "eval_paths",
    multiple=True,
    type=option.PATH,
    callback=option.expand_files,
    help="Look for its queries in FILES.",
)
@click.option("--allow-overlap", is_flag=True, help="Keep rows whose query is in --eval, as data.overlap: keep does.")
@option.max_dropped
@click.option("--tokenizer", type=option.PATH, help="A model folder or tokenizer.json: count what is cut.")
@click.option("--query-max-len", type=option.COUNT, default=512, show_default=True)
@click.option("--passage-max-len", type=option.COUNT, default=512, show_default=True)
@click.option("--kind", type=click.Choice(KINDS), help="What the rows must be; default: what the first one is.")
@click.option("--backend", type=click.Choice(list(TOOLS)), help="Who trains on them, instead of their kind.")
@option.labels
@option.rows
@prints("data check")
def data_check_command(
    files: tuple[Path, ...], query_max_len: int, passage_max_len: int, as_json: bool, **options: Any
) -> Result:
    """Check FILES as training data: bad rows, duplicates, leaks, lengths. Exit code 3 when they must not be used."""
    from orchestrator.data.check import check_files, describe_report
    from orchestrator.data.tokens import LengthBudget
    from orchestrator.errors import DataError

    option.require_label_range(options["min_label"], options["max_label"])
    backend = options.pop("backend")
    if options["kind"] and backend:
        raise click.BadParameter("it says the kind of the rows already", param_hint="--backend")
    budget = LengthBudget(query_max_len, passage_max_len) if options["tokenizer"] else None
    if backend:
        from orchestrator.backends import BACKENDS

        options |= {"kind": BACKENDS[backend].kind, "needs_negatives": BACKENDS[backend].needs_negatives}
    report = check_files(files, budget=budget, **options)
    if report.problems and not as_json:
        raise DataError.from_problems(list(report.problems))
    code = DataError.exit_code if report.problems else 0
    return Result(report.to_json(), lambda: say(describe_report(report)), code)


@data_command.command("split")
@click.argument("file", type=option.PATH)
@click.option("--eval-ratio", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.1, show_default=True)
@click.option("-o", "--output", type=option.PATH, default=Path(), help="Folder for the two files.")
@click.option("--seed", type=int, default=42, show_default=True)
@option.columns
@option.encoding
@prints("data split")
def data_split_command(
    file: Path, eval_ratio: float, output: Path, seed: int, columns: dict[str, str], encoding: str | None
) -> Result:
    """Split FILE by query into NAME.train and NAME.eval: no query is on both sides, rows stay as they are."""
    from orchestrator.data.reading.file_sets import COMPRESSED
    from orchestrator.data.split import split_file

    plain = file.with_suffix("") if file.suffix.lower() in COMPRESSED else file  # what is written is not compressed
    stem = plain.stem.removesuffix(".train")
    if stem != plain.stem and output.resolve() == file.resolve().parent:
        stem = plain.stem  # or the new train file would be the old one
    train, held_out = (output / f"{stem}.{side}{plain.suffix}" for side in ("train", "eval"))
    report = split_file(file, train, held_out, eval_ratio, seed, columns=columns, encoding=encoding)
    sides = {"train": report.train_rows, "eval": report.eval_rows}
    lines = [f"{train}: {report.train_rows} rows, {report.train_queries} queries"]
    lines.append(f"{held_out}: {report.eval_rows} rows, {report.eval_queries} queries")
    warnings = [report.warning] if report.warning else []

    def show() -> None:
        say_lines((f"warning: {warning}" for warning in warnings), err=True)
        say_lines(lines)

    return Result({"train": str(train), "eval": str(held_out), "rows": sides, "warnings": warnings}, show)


@data_command.command("convert")
@option.data_files
@click.option("--from", "form", type=click.Choice(FORMS), help="What the files hold; default: by their ending.")
@click.option(
    "--to",
    type=click.Choice(get_args(Form)),
    default="jsonl",
    show_default=True,
    help="jsonl keeps each row's form; the others are forms of ranking data.",
)
@click.option("--names", metavar="A,B,C", help="Names of the values of rows that are lists.")
@click.option("--rows", "rows_key", metavar="KEY", help="Of a file that is one object: the list that holds its rows.")
@option.rows
@click.option("--only-mapped", is_flag=True, help="Leave out every column that --map does not name.")
@click.option(
    "--constant", "constants", multiple=True, metavar="KEY=TEXT", callback=option.parse_pairs,
    help="Give every row one more column.",
)  # fmt: skip
@click.option("--keep-reasoning", is_flag=True, help="Write a message's reasoning in front of it, in <think>.")
@click.option("--one-positive", is_flag=True, help="One row for each positive of a row.")
@click.option("--divide-score", type=click.FloatRange(0, min_open=True), help="Divide score or label by this number.")
@option.min_label
@option.max_label
@click.option("--relevant-from", type=float, metavar="L", help="To ranking: labels of L and more make a positive.")
@click.option("--labels-as-scores", is_flag=True, help="To ranking: keep the labels as pos_scores and neg_scores.")
@option.scores_as_labels
@click.option(
    "--drop-queries-without-both", is_flag=True, help="To ranking: leave out what has no positive or no negative."
)
@click.option("--drop-keys", is_flag=True, help="Leave out keys that no form knows.")
@click.option("--drop-scores", is_flag=True, help="Leave out the scores of a teacher.")
@option.max_dropped
@option.new_rows
@prints("data convert")
def data_convert_command(
    files: tuple[Path, ...], to: Form, names: str | None, max_dropped: int, output: Path, **options: Any
) -> Result:
    """Write the rows of FILES as JSON Lines: columns renamed, other tools' rows rewritten, ranking data reshaped.

    \b
    --from sharegpt, alpaca   become {"messages": [...]}
    --from lists              {"query", "documents": [...], "labels": [...]} becomes hits
    --from passages           documents that are {"title", "text"}: {"query", "pos", "neg"}
    --from swift3             become {"query", "pos", "neg"}, with a label {"sentence1", "sentence2", "score"}
    --to pointwise            {"query", "content", "label"}
    --to hits                 {"query", "hits": [{"content", "label"}, ...]}
    --to ranking              {"query", "pos", "neg"}

    --to reads any of its three forms, brings the rows of a query together, and refuses to lose anything: the message
    names the option that allows it.

    Example: orch data convert exam.csv --map instruction=question_text --map output=answer -o exam.jsonl
    """  # noqa: D301 - click looks for the character itself
    from orchestrator.data.convert import Conversion, convert_files

    reshaping = build_reshaping(to, **{name: options.pop(name) for name in RESHAPING_OPTIONS})
    if reshaping and (options["one_positive"] or options["divide_score"] is not None):
        once = options["one_positive"]
        flag, hint = ("--one-positive", "convert twice") if once else ("--divide-score", "use --max-label")
        raise click.BadParameter(f"it does not go together with --to {to}: {hint}", param_hint=flag)
    options |= {name: tuple(options[name].items()) for name in ("columns", "constants")}
    each = tuple(name.strip() for name in names.split(",")) if names else ()
    conversion = Conversion(names=each, reshaping=reshaping, **options)
    report = convert_files(files, output, conversion, max_dropped=max_dropped)
    counts = {"in": report.rows_in, "out": report.rows_out, "dropped": report.dropped}
    data: dict[str, Any] = {"output": str(output), "rows": counts}
    dropped = "".join(f", {count} {code}" for code, count in report.dropped.items())
    text = [f"{output}: {report.rows_in} rows in, {report.rows_out} rows out{dropped}"]
    if found := report.regrouped:
        data["queries"] = {"out": found.queries, "dropped": found.queries_dropped}
        data["documents"] = {"repeated": found.repeated}
        left_out = f", {found.queries_dropped} left out without a positive or a negative" * bool(found.queries_dropped)
        repeated = f"; {found.repeated} repeated documents written once" * bool(found.repeated)
        text.append(f"{found.queries} queries{left_out}{repeated}")
    return Result(data, text)


def build_reshaping(to: Form, **options: Any) -> Any:
    """Return the Reshaping that `--to` and its options ask for, None for rows that keep their form.

    Raises BadParameter where an option has no meaning for the form.
    """
    from orchestrator.data.reshape import Reshaping

    given = [name for name, value in options.items() if value is not None and value is not False]
    if to == "jsonl":
        if given:
            raise click.BadParameter("it needs --to pointwise, hits or ranking", param_hint=_flag_of(given[0]))
        return None
    if to != "ranking" and (for_ranking := [name for name in given if name in RANKING_OPTIONS]):
        hint = _flag_of(for_ranking[0])
        raise click.BadParameter(f"it needs --to ranking, and this is --to {to}", param_hint=hint)
    option.require_label_range(options["min_label"], options["max_label"])
    return Reshaping(to, **options)


def _flag_of(name: str) -> str:
    return "--" + name.replace("_", "-")


@data_command.command("sample")
@click.option("--task", type=click.Choice(TASKS), required=True)
@click.option("--n", "count", type=option.COUNT, default=50, show_default=True, help="How many rows.")
@click.option("--lang", "language", type=click.Choice(["en", "zh"]), default="en", show_default=True)
@click.option("--seed", type=int, default=42, show_default=True)
@option.new_rows
@prints("data sample")
def data_sample_command(task: str, count: int, language: str, seed: int, output: Path) -> Result:
    """Write sample rows for a first try, each marked "sample": true; a run refuses them among real rows."""
    from orchestrator.data.sample import LARGEST, build_samples, write_samples

    if count > LARGEST:
        raise click.BadParameter(f"there are {LARGEST} different sample rows", param_hint="--n")
    write_samples(output, build_samples(task, count, language=language, seed=seed))
    text = f"{output}: {count} sample rows; they show that a run works, and say nothing about your data"
    return Result({"output": str(output), "rows": count, "task": task}, (text,))
