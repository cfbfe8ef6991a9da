"""Commands on models: evaluate and export any; predict, serve, push and merge what a run has made."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from orchestrator.backends.scorers import EXPORTS, FORMATS
from orchestrator.cli import options as option
from orchestrator.cli.output import Result, prints, tell
from orchestrator.errors import GateMissedError, StageFailedError
from orchestrator.machine.places import find_orch_cache
from orchestrator.machine.terminal import hand_on, print_data, say, say_lines

if TYPE_CHECKING:
    from orchestrator.serving.artefact import Artefact

_DTYPES = ("auto", "bfloat16", "float16", "float32")


@click.command("evaluate")
@click.option(
    "--model", "models", multiple=True, required=True, metavar="PATH_OR_ID",
    help="A folder, a run, a hub id or a Python package; may be repeated: the first is the one compared with.",
)  # fmt: skip
@click.option(
    "--data", "files", multiple=True, required=True, type=option.PATH, callback=option.expand_files,
    help="Evaluation rows.",
)  # fmt: skip
@click.option("--format", type=click.Choice(list(FORMATS)), help="How models score that do not say it.")
@option.pooling
@option.family
@click.option("--max-length", type=click.IntRange(8), help="Longest input in tokens (512).")
@click.option("--instruction", help="The task sentence of models that take one.")
@click.option("--batch-size", type=option.COUNT, help="Pairs (texts) scored at once: 8 for an LLM, else 32.")
@option.labels
@click.option("--corpus", is_flag=True, help="Every query searches all documents of the data (embedding models).")
@click.option("--metrics", help="Names with commas between, such as ndcg@10,mrr@10; the first is the headline.")
@option.rows
@option.max_dropped
@click.option("--limit", type=option.COUNT, help="Measure on the first rows only.")
@option.loading
@option.python("The Python that runs the models (default: this one).", is_usage=True)
@click.option("-o", "--output", type=option.PATH, help="A fresh folder that keeps data and scores.")
@click.option("--power", is_flag=True, help="Say which difference this data can show at all.")
@option.hardware
@prints("evaluate")
def evaluate_command(
    models: tuple[str, ...], files: tuple[Path, ...], metrics: str | None, output: Path | None, power: bool,
    **options: Any,
) -> Result:  # fmt: skip
    """Measure models on data: ranking groups, labelled documents, pairs of texts, texts with classes. No recipe.

    A packaged model is scored as its scoring.json says, any other in its authors' way or by --format. Exit codes:
    3 the data, 4 a model, 6 the scoring.
    """
    from orchestrator.data.request import RowFiles
    from orchestrator.data.rows.checks import RowRules
    from orchestrator.report.wording import describe_power
    from orchestrator.serving.chosen_models import Reading
    from orchestrator.serving.evaluate_model import Request, evaluate, find_problems, sniff_data

    option.require_label_range(options["min_label"], options["max_label"])
    kind = sniff_data(files, options["columns"], options["encoding"])
    if kind == "group" and (options["scores_as_labels"] or options["max_label"] is not None):
        kind = "labelled"  # only these have labels
    request = Request(
        models,
        RowFiles(files, RowRules(kind, **option.pick(options, RowRules)), **option.pick(options, RowFiles)),
        Reading(**option.pick(options, Reading)),
        options["python"] or sys.executable,
        option.resolve_hardware(options["hardware"], smoke=False),
        tuple(name.strip() for name in metrics.split(",")) if metrics is not None else (),
        find_orch_cache() / "scores",
        options["corpus"],
    )
    if problems := find_problems(request):
        raise click.UsageError("; ".join(f"{item.message} ({item.hint})" for item in problems))
    result = evaluate(request, output.absolute() if output else None, tell)
    lines = list(format_evaluation(result))
    if power and result["power"] is None:
        lines.append("power: the headline metric is no mean of at least two rows")
    elif power:
        lines.append(describe_power(result["power"], result["unit"]))
    if output:
        lines.append(f"kept:  {output}")
    return Result(result, lines)


def format_evaluation(result: Mapping[str, Any]) -> Iterator[str]:
    """Yield the means of every model, each model's comparison with the first, and what to beware of."""
    from orchestrator.evaluation.measures import display_name
    from orchestrator.report.wording import change, list_cautions, list_means, measured_on, p_value

    yield measured_on(result)
    yield from list_means(result["systems"], result["metrics"])
    for row in result["comparisons"]:
        if row["metric"] == result["headline"]["metric"]:
            words = f"{row['verdict']}, {display_name(row['metric'])} {change(row)}, {p_value(row['p'])}"
            yield f"{row['system']} against {row['baseline']}: {words}"
    for missing in result["gaps"]:
        yield f"caution: {missing}"
    for system in result["systems"]:
        if system["constant"]:
            yield f"caution: {system['id']} gives everything the same score"
    for system in result["systems"]:
        for caution in list_cautions(system.get("scoring") or {}):
            yield f"caution: {system['id']}: {caution}"
    if without := result["eval"].get("queries_without_relevant"):
        yield f"caution: {without} of {result['eval']['units']} queries have no relevant document: they count 0"


@click.command("predict")
@option.run
@click.option("-q", "--query", "queries", multiple=True, help="A query; may be repeated.")
@click.option("-d", "--document", "documents", multiple=True, help="A document; may be repeated.")
@click.option("-p", "--prompt", "prompts", multiple=True, help="What an LLM is asked; may be repeated.")
@click.option("--vectors", is_flag=True, help="An embedding model's vectors instead of similarities.")
@option.trust_code
@option.trusted_run
@prints("predict")
def predict_command(
    run: str, runs: Path, vectors: bool, queries: tuple[str, ...], documents: tuple[str, ...],
    prompts: tuple[str, ...], **trust: Any
) -> Result:  # fmt: skip
    """Ask RUN's packaged model: scores of a reranker, similarities of an embedding model, answers of an LLM.

    Without options, rows are read from stdin as JSON Lines: {"query": …, "document": …} for a reranker, {"query": …}
    and {"document": …} for an embedding model, {"prompt": …} for an LLM.
    """
    from orchestrator.serving import artefact as packaged

    artefact = packaged.find_artefact(run, runs, **trust)
    kind = artefact.kind
    if vectors and kind != "embedding":
        raise click.UsageError("--vectors is for embedding models")
    if queries or documents or prompts:
        rows = _build_rows(kind, queries, documents, prompts, vectors=vectors)
    else:
        rows = packaged.read_rows(kind, sys.stdin)
    packaged.require_trusted_code(artefact, is_run_anyway=False)
    packaged.require_artefact_loads(artefact)
    answers = packaged.ask_model(artefact, rows, vectors=vectors, tell=lambda text: say(f"caution: {text}", err=True))
    if kind != "chat" and queries and not vectors:
        order = {query: place for place, query in enumerate(dict.fromkeys(queries))}
        answers.sort(key=lambda row: (order[row["query"]], -float(row["score"])))
    return Result(answers, lambda: show_answers(kind, rows, answers, vectors=vectors))


def _build_rows(
    kind: str, queries: tuple[str, ...], documents: tuple[str, ...], prompts: tuple[str, ...], *, vectors: bool
) -> list[dict[str, Any]]:
    """Return what the options ask. Raises UsageError for those that the kind of model does not take."""
    if kind == "chat":
        if queries or documents or not prompts:
            raise click.UsageError("an LLM is asked with --prompt")
        return [{"prompt": prompt} for prompt in prompts]
    if prompts:
        raise click.UsageError("--prompt is for LLMs; give --query and --document")
    if not vectors and not documents:
        raise click.UsageError("give at least one --document")
    if not vectors and not queries:
        raise click.UsageError("give at least one --query")
    if kind == "embedding":
        return [*({"query": text} for text in queries), *({"document": text} for text in documents)]
    return [{"query": query, "document": document} for query in queries for document in documents]


def show_answers(kind: str, rows: list[dict[str, Any]], answers: list[dict[str, Any]], *, vectors: bool) -> None:
    """Print answers as data: a line of JSON a vector, an answer a prompt, a score a document under its query."""
    if vectors:
        for answer in answers:
            print_data(answer, indent=None)
    elif kind == "chat":
        for row, answer in zip(rows, answers, strict=True):
            if len(rows) > 1:
                hand_on(row.get("prompt") or row["messages"][-1]["content"], bold=True)
            hand_on(answer["answer"])
    else:
        several = len({row["query"] for row in answers}) > 1
        for query, found in groupby(answers, key=lambda row: row["query"]):
            if several:
                hand_on(query, bold=True)
            for row in found:
                hand_on(f"{float(row['score']):10.4f}  {row['document']}")


@click.command("serve")
@option.run
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(1, 65535), default=8000, show_default=True)
@click.option("--backend", type=click.Choice(["auto", "vllm", "swift"]), default="auto", show_default=True)
@option.python("The Python that has the server (default: the run's own).")
@click.option("--dry-run", is_flag=True, help="Print the server's command; start nothing.")
@click.option("--check", is_flag=True, help="Start it on a free port, compare it with scoring.json, stop it.")
@click.option("--timeout", "timeout_s", type=float, default=600.0, show_default=True, help="Seconds to wait for it.")
@click.option(
    "--serve-args", "more", default="", metavar="FLAGS",
    help='Flags of the server\'s own, such as "--max-model-len 4096": added to its command.',
)  # fmt: skip
@click.option(
    "--show", metavar="ENGINE",
    help="Print how another server serves it, and start nothing: infinity, tei, llama.cpp, sglang, xinference, "
    "docker-compose.",
)  # fmt: skip
@click.option(
    "--format", metavar="FORMAT",
    help="RUN is any model, one that Orch did not package: how it is asked (auto: as its authors do; "
    f"{', '.join(FORMATS)}, chat).",
)  # fmt: skip
@option.pooling
@option.loading
@option.trusted_run
@prints("serve")
def serve_command(
    run: str, runs: Path, python: str | None, show: str | None, as_json: bool, trust_run: bool, **options: Any
) -> Result:
    """Serve RUN's packaged model (or a packaged folder) over HTTP until Ctrl-C, with vLLM or else ms-swift.

    With --format any model is served, and checked against what orch predict would say. An API key is taken from the
    environment variable ORCH_API_KEY. Exit code 6: --check found other numbers.
    """
    from orchestrator.serving import artefact as packaged
    from orchestrator.serving import server
    from orchestrator.serving.chosen_models import Reading

    asked, reading = ServeOptions(**option.pick(options, ServeOptions)), Reading(**option.pick(options, Reading))
    if as_json and not (asked.dry_run or asked.check or show):
        raise click.UsageError("--json goes with --dry-run, --check or --show: a server's log is no JSON")
    if reading.format is None:
        is_only_read = asked.dry_run or bool(show)
        trust = {"trust_remote_code": reading.trust_remote_code, "trust_run": trust_run}
        artefact = packaged.find_artefact(run, runs, python, **trust, is_only_read=is_only_read)
        if show:
            text, note = server.show_engine(show, artefact, server.Address(asked.host, asked.port))
            tell(note)
            return Result({"engine": show, "text": text, "note": note}, lambda: hand_on(text.rstrip("\n")))
        packaged.require_trusted_code(artefact, is_run_anyway=True)
        return _serve(artefact, asked)
    if reading.format not in packaged.SERVED_FORMATS:
        known = ", ".join(packaged.SERVED_FORMATS)
        raise click.BadParameter(f"{reading.format!r} is not one of {known}", param_hint="--format")
    if asked.dry_run or show:
        raise click.UsageError("--dry-run and --show take packaged models: what another lacks is written at its start")
    precision = option.resolve_hardware("auto", smoke=False).precision
    with packaged.opened(
        run, reading, python or sys.executable, precision=precision, with_probes=asked.check, tell=tell
    ) as artefact:
        packaged.require_trusted_code(artefact, is_run_anyway=True)
        return _serve(artefact, asked)


@dataclass(frozen=True)
class ServeOptions:
    """Where and how orch serve serves what it was told to."""

    host: str
    port: int
    backend: str
    dry_run: bool
    check: bool
    timeout_s: float
    more: str


def _serve(artefact: Artefact, options: ServeOptions) -> Result:
    """Show the command of a server, check it, or serve."""
    from orchestrator.backends.render import format_command
    from orchestrator.serving import check as serving
    from orchestrator.serving import server
    from orchestrator.serving.artefact import require_artefact_loads

    dry_run, host = options.dry_run, options.host
    key = os.environ.get(server.KEY_VARIABLE) or None
    versions = server.find_server_versions(artefact.python, may_run=not dry_run)
    chosen = server.choose_backend(options.backend, artefact, versions, dry_run=dry_run)
    is_checked = options.check and not dry_run
    address = server.Address("127.0.0.1", server.find_free_port()) if is_checked else server.Address(host, options.port)
    if not is_checked and host not in server.LOOPBACK and not key:
        tell(f"{host} is reached from other machines and there is no API key: set ORCH_API_KEY, or put a gateway in "
             "front")  # fmt: skip
    # a name that no other server has: what answers on the port must be ours
    name = f"{artefact.name}-{os.getpid()}" if is_checked else artefact.name
    asked = serving.Serving(artefact, chosen, address, name, key, options.timeout_s, tell, options.more)
    command = asked.command
    data: dict[str, Any] = {
        "model": str(artefact.folder), "name": artefact.name, "kind": artefact.kind, "backend": chosen,
        "version": versions.get(chosen), "host": address.host, "port": address.port, "argv": command.argv,
    }  # fmt: skip
    if dry_run:
        return Result({**data, "env": dict(command.env)}, lambda: hand_on(str(format_command(command))))
    tell(f"{chosen} {versions[chosen]} in {artefact.python}")
    require_artefact_loads(artefact)
    if not is_checked:
        if prompts := server.describe_prompts(artefact):
            tell(prompts)
        serving.serve(asked)
        return Result(None)
    checked, seconds = serving.check_serving(asked)

    def show() -> None:
        right = sum(row.passed for row in checked.rows)
        summary = f"{right} of {len(checked.rows)} probes as measured (compared: {checked.scale})"
        say_lines([*serving.format_table(checked), summary])
        if not checked.passed:
            if checked.reason:
                say(f"    {checked.reason}", err=True)
            say("    → serve it as docs/serving.md says, or package the run again", err=True)

    data |= {"seconds_to_start": round(seconds, 1), "check": checked.to_json()}
    return Result(data, show, 0 if checked.passed else StageFailedError.exit_code)


@click.command("push")
@option.run
@click.option("--to", required=True, metavar="HUB:OWNER/NAME", help="hf:… (Hugging Face) or ms:… (ModelScope).")
@click.option("--revision", metavar="BRANCH", help="The branch to write to (default: the hub's own).")
@click.option("--private", is_flag=True, help="Make a new repository private; refuse a public one.")
@click.option("--even-if-worse", is_flag=True, help="Push a model that is worse, or misses its gate.")
@click.option("--dry-run", is_flag=True, help="Print what would be sent, with sizes; ask no hub.")
@option.trusted_run
@prints("push")
def push_command(
    run: str, runs: Path, to: str, revision: str | None, private: bool, dry_run: bool, **allowed: bool
) -> Result:
    """Send RUN's packaged model to a hub: in one commit, with card, scoring.json and the verdict in the card's head.

    The token comes from the environment: HF_TOKEN or MODELSCOPE_API_TOKEN. Exit codes: 8 a model that is worse or
    misses its gate, 9 a run that is not judged or has changed since, 4 what a hub refuses.
    """
    from orchestrator.serving.push import build_parcel, parse_target, push

    target = parse_target(to, revision, private=private)
    parcel = build_parcel(run, runs, target, **allowed)
    files = parcel.describe()
    data = {"run": str(parcel.run.root), "to": to, "files": files, "headline": parcel.headline}
    if dry_run:
        lines = [f"{row['bytes']:>15,}  {row['name']}" for row in files]
        total = sum(row["bytes"] for row in files)
        return Result(data, [*lines, f"{total:>15,}  bytes in {len(files)} files, to {to}"])
    tell(f"pushing {len(files)} files to {to}")
    answer = push(parcel, target)
    return Result({**data, **answer}, [f"pushed: {answer['url']}  (commit {answer['commit']})", parcel.headline])


def _parse_gates(context: click.Context, option: click.Parameter, texts: tuple[str, ...]) -> dict[str, str]:
    """Return {metric: rule} of texts such as "ndcg@10: >= source - 0.005"."""
    from orchestrator.evaluation.measures import SOURCE, parse_gate

    gate = {name.strip(): rule.strip() for name, _, rule in (text.partition(":") for text in texts)}
    if problems := parse_gate(gate, SOURCE)[1]:
        raise click.BadParameter("; ".join(f"{item.message} ({item.hint})" for item in problems), context, option)
    return gate


@click.command("export")
@click.argument("model", metavar="RUN|MODEL")
@click.option("--to", "form", required=True, type=click.Choice(list(EXPORTS)), help="The form.")
@click.option("-o", "--output", required=True, type=option.PATH, help="A fresh folder.")
@click.option(
    "--data", multiple=True, type=option.PATH, callback=option.expand_files,
    help="Evaluation rows (default: the run's own).",
)  # fmt: skip
@click.option("--metrics", help="Names with commas between (default: the run's own).")
@click.option(
    "--gate", multiple=True, metavar="METRIC: RULE", callback=_parse_gates,
    help='What the export must hold, such as "ndcg@10: >= source - 0.005"; may be repeated.',
)  # fmt: skip
@click.option("--format", type=click.Choice(list(FORMATS)), help="How a model scores that does not say it.")
@option.python("The Python with the exporter's packages (default: the run's own, else this one).")
@option.loading
@option.hardware
@option.runs
@prints("export")
def export_command(model: str, output: Path, metrics: str | None, hardware: str, **options: Any) -> Result:
    """Write RUN's packaged model (or any other, with --data) in another form, and measure what that cost.

    It is loaded as its user would load it and scored on the same rows as its source. Exit code 8: --gate is missed; the
    export is kept and says so.
    """
    from orchestrator.report.wording import describe_exports
    from orchestrator.serving.chosen_models import Reading
    from orchestrator.serving.export import Request, export_model

    asked = Request(
        model=model,
        reading=Reading(**option.pick(options, Reading)),
        metrics=tuple(name.strip() for name in metrics.split(",")) if metrics else (),
        hardware=option.resolve_hardware(hardware, smoke=False),
        **{name: options[name] for name in ("form", "runs", "data", "gate", "python")},
    )
    found = export_model(asked, output.absolute(), tell)
    heads, row = describe_exports([found])
    lines = [f"{found['form']}: {found['verdict']}"]
    lines += [f"  {head}: {cell}" for head, cell in zip(heads, row, strict=True)]
    lines += [f"gate {'passed' if rule['passed'] else 'MISSED'}: {rule['sentence']}" for rule in found["gate"]["rules"]]
    lines.append(f"kept: {output}")
    return Result(found, lines, GateMissedError.exit_code if found["gate"]["passed"] is False else 0)


@click.command("merge")
@option.run
@click.option("--checkpoint", metavar="N|best|last", help="Which checkpoint (default: what the run itself merges).")
@click.option("-o", "--output", type=option.PATH, help="A fresh folder (default: RUN/merged/NAME).")
@click.option(
    "--dtype", type=click.Choice(_DTYPES), default="auto", show_default=True, help="auto is the base model's own."
)
@click.option("--base", help="The base model of an adapter folder, where its adapter_config.json is out of date.")
@click.option("--trust-remote-code", is_flag=True, help="Run Python code that an adapter's base model brings along.")
@click.option("--allow-pickle", is_flag=True, help="Load pickled weights of an adapter's base, which may run code too.")
@click.option("--test-prompt", metavar="TEXT", help="Try base with adapter and the merged model on it.")
@option.trusted_run
@prints("merge")
def merge_command(
    run: str, checkpoint: str | None, output: Path | None, trust_run: bool, runs: Path, **options: Any
) -> Result:
    """Merge a checkpoint of RUN (or an adapter folder) into a whole model, and compare it with base and adapter."""
    from orchestrator.serving.merge import MergeOptions, merge_adapter, merge_checkpoint

    asked = MergeOptions(**options)
    if (Path(run) / "adapter_config.json").is_file():
        if checkpoint:
            raise click.UsageError("--checkpoint goes with a run; an adapter folder is one checkpoint")
        if output is None:
            raise click.UsageError("an adapter needs -o: the folder for the merged model")
        result = merge_adapter(Path(run).resolve(), output.absolute(), asked)
    else:
        if asked.base:
            raise click.UsageError("--base goes with an adapter folder; a run knows its base model")
        if asked.trust_remote_code or asked.allow_pickle:
            option = "--trust-remote-code" if asked.trust_remote_code else "--allow-pickle"
            raise click.UsageError(f"{option} goes with an adapter folder; a run's recipe says it")
        result = merge_checkpoint(run, runs, checkpoint, output, asked, trust_run=trust_run, tell=tell)
    return Result(result, _merge_lines(result))


def _merge_lines(result: Mapping[str, Any]) -> Iterator[str]:
    yield f"merged: {result['out']}  ({result['dtype']})"
    yield f"as base and adapter: at most {result['max_difference']:.2g} apart, allowed {result['tolerance']:.2g}"
    if test := result.get("test"):
        adapter, merged = (
            answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
            for answer in (test["adapter"], test["merged"])
        )
        yield f"the test prompt, base and adapter: {adapter}"
        yield f"the test prompt, merged:           {merged}"
