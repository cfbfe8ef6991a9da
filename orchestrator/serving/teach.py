"""What a model does to training rows before a training: it scores their documents, or finds them harder ones."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from orchestrator.backends.scorers import find_format
from orchestrator.checks.model_files import find_oddities
from orchestrator.data import mining
from orchestrator.data.request import RowFiles
from orchestrator.data.teacher import PAIRS_NAME, Counts, join_scores, write_pairs
from orchestrator.data.writers import FileSet, format_json, require_new_rows
from orchestrator.errors import DataError, PreflightError
from orchestrator.machine.files import write_json
from orchestrator.machine.hardware import find_hardware
from orchestrator.machine.json_files import load_object
from orchestrator.machine.places import find_orch_cache
from orchestrator.report.wording import list_cautions
from orchestrator.serving import chosen_models
from orchestrator.serving.worker import Words

LEDGER_VERSION = 1


@dataclass(frozen=True)
class Scored:
    """What scoring gave: the rows, what the worker says of the scores and of itself, and what is odd in the model."""

    counts: Counts
    scoring: dict[str, Any]  # the worker's scoring.json
    cautions: tuple[str, ...]


def score_files(
    rows: RowFiles,
    teacher: str,
    reading: chosen_models.Reading,
    out: Path,
    *,
    device: str | None = None,
    force: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> Scored:
    """Write the rows to the new file `out` with a teacher's score a document; a stop costs little, for scores are kept.

    Raises DataError for rows that cannot be scored, PreflightError for a model that cannot score, and what
    `run_on_models` raises.
    """
    require_new_rows([out], rows.files, force=force)
    chosen = _choose(teacher, "teacher", reading)
    chosen_models.require_chosen_load([chosen])
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        work = Path(folder)
        write_pairs(rows, work)
        write_json(work / "scoring.json", chosen.spec)
        options = {
            "model": chosen.model.location, "scoring": work / "scoring.json", "pairs": work / PAIRS_NAME,
            "out": work / "out", "cache": find_orch_cache() / "teacher", "device": device,
        }  # fmt: skip
        kept = "give the same command again and it continues: the scores so far are kept"
        words = Words("score_pairs has failed", f"score_pairs was stopped; {kept}")
        chosen_models.run_on_models("score_pairs", options, [chosen], words, on_progress=on_progress)
        counts = join_scores(rows, work / "out" / "scores.jsonl", out)
        cautions = tuple(odd.message for odd in find_oddities(chosen.model))
        return Scored(counts, load_object(work / "out" / "scoring.json"), cautions)


@dataclass(frozen=True)
class MiningSettings:
    """The settings of sentence-transformers' mine_hard_negatives, under its own names; None is no limit."""

    num_negatives: int = 5
    range_min: int = 10
    range_max: int = 100
    max_score: float | None = None
    min_score: float | None = None
    absolute_margin: float | None = None
    relative_margin: float | None = None
    sampling_strategy: str = "top"
    batch_size: int = 32
    seed: int = 42


@dataclass(frozen=True)
class MiningPlan:
    """What to mine, with which models; `query_prompt` and `document_prompt` None are the embedder's own.

    `reading` is that of both models, but that `family` and `pooling` are the embedder's. `corpus_files` hold more
    documents.
    """

    rows: RowFiles
    embedder: str
    reading: chosen_models.Reading
    cross_encoder: str | None = None
    settings: MiningSettings = field(default_factory=MiningSettings)
    query_prompt: str | None = None
    document_prompt: str | None = None
    keep_negatives: bool = False
    corpus_files: tuple[Path, ...] = ()
    device: str | None = None


@dataclass(frozen=True)
class Mined:
    """What mining gave, the files that were written, and what is worth knowing about the result."""

    given: mining.MiningInput
    made: mining.MiningOutput
    excluded: dict[str, int]
    ledger: Path
    lineage: Path
    warnings: tuple[str, ...]


def mine_files(plan: MiningPlan, out: Path, *, force: bool = False) -> Mined:
    """Write {"query", "pos", "neg"} rows to the new file `out`, its lineage and its ledger beside it.

    Raises DataError for rows that cannot be used, a corpus that is smaller than what is skipped, or when nothing is
    found; PreflightError for a model that cannot search; and what `run_on_models` raises.
    """
    ledger, lineage = out.with_suffix(".ledger.json"), out.with_suffix(".lineage.jsonl")
    require_new_rows([out, ledger, lineage], [*plan.rows.files, *plan.corpus_files], force=force)
    chosen = _choose_miners(plan)
    chosen_models.require_chosen_load(chosen)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        work = Path(folder)
        given = mining.gather_for_mining(plan.rows, work, plan.corpus_files)
        if given.documents - 1 <= plan.settings.range_min:  # one at least is the query's own positive
            raise DataError(
                f"the corpus has {given.documents} documents, and the {plan.settings.range_min} nearest of each query "
                "(its positives not counted) are skipped: none is left",
                hint="add documents with --corpus, or lower --range-min",
            )
        words = Words("mine has failed", "mine was stopped; nothing was left behind")
        chosen_models.run_on_models("mine", _build_options(plan, chosen, work), chosen, words)
        facts = load_object(work / "mining.json")
        with FileSet() as files:
            streams = {path: files.open(path) for path in (ledger, lineage, out)}
            rows, wanted = (streams[out], streams[lineage]), plan.settings.num_negatives
            made = mining.write_mined_rows(work, rows, wanted=wanted, keep_negatives=plan.keep_negatives)
            if not made.mined:
                hint = "lower --range-min, or loosen the margins and scores"
                raise DataError("no negative was found for any query", hint=hint)
            streams[ledger].write(format_json(_build_ledger(plan, given, made, facts)))
            files.commit()
    odd = [odd.message for item in chosen for odd in find_oddities(item.model)]
    warnings = (*_warn(plan, given, made), *odd, *list_cautions(facts))
    return Mined(given, made, facts["excluded"], ledger, lineage, warnings)


def _choose(named: str, label: str, reading: chosen_models.Reading) -> chosen_models.ChosenModel:
    model = chosen_models.find_model(named, reading)
    return chosen_models.choose_model(model, label, reading, precision=find_hardware().precision)


def _choose_miners(plan: MiningPlan) -> list[chosen_models.ChosenModel]:
    """Return the embedder, and the cross-encoder if there is one. Raises PreflightError for one that cannot be used."""
    others: list[chosen_models.ChosenModel] = []
    if plan.cross_encoder:
        reading = replace(plan.reading, family=None, pooling=None)
        others = [_choose(plan.cross_encoder, "cross-encoder", reading)]
    model = chosen_models.find_model(plan.embedder, plan.reading)
    is_packaged = model.folder is not None and (model.folder / "scoring.json").is_file()
    if not is_packaged and find_format(model) not in {None, "bi-encoder"}:
        hint = "name an embedding model; a reranker goes with --cross-encoder"
        raise PreflightError(f"{model.name} scores pairs and makes no vectors to search with", hint=hint)
    reading = replace(plan.reading, format="embedding")
    chosen = chosen_models.choose_model(model, "embedder", reading, precision=find_hardware().precision)
    if suffix := chosen.spec.get("query_suffix"):
        message = f"{model.name} has {suffix!r} behind its queries, which sentence-transformers cannot put there"
        raise PreflightError(message, hint="mine with another embedding model, such as BAAI/bge-m3")
    return [chosen, *others]


def _build_options(plan: MiningPlan, chosen: list[chosen_models.ChosenModel], work: Path) -> dict[str, object]:
    """Return the worker's options; its settings and the models' specs are written into `work`."""
    embedder, *rerankers = chosen
    prompts = {"query_prompt": plan.query_prompt, "document_prompt": plan.document_prompt}
    spec = embedder.spec | {key: prompt for key, prompt in prompts.items() if prompt is not None}
    contents = {"settings": asdict(plan.settings), "scoring": spec}
    options: dict[str, object] = {
        "queries": work / mining.QUERIES_NAME,
        "corpus": work / mining.CORPUS_NAME,
        "out": work,
        "device": plan.device,
        "model": embedder.model.location,
    }
    if rerankers:
        contents["cross-encoder-scoring"] = rerankers[0].spec
        options["cross-encoder"] = rerankers[0].model.location
    for name, content in contents.items():
        write_json(work / f"{name}.json", content)
        options[name] = work / f"{name}.json"
    return options


def _warn(plan: MiningPlan, given: mining.MiningInput, made: mining.MiningOutput) -> tuple[str, ...]:
    found = []
    if given.documents <= plan.settings.range_max:
        found.append(
            f"the corpus has {given.documents} documents, fewer than --range-max {plan.settings.range_max}: every "
            "document is a candidate, however far it is"
        )
    if made.queries_with_too_few:
        found.append(f"{made.queries_with_too_few} queries have fewer than {plan.settings.num_negatives} negatives")
    if made.queries_with_none:
        what = "keep their own" if plan.keep_negatives else "are left out"
        found.append(f"{made.queries_with_none} queries have no mined negative, and {what}")
    if given.queries_without_positive:
        found.append(f"{given.queries_without_positive} queries have no positive, and are left out")
    return tuple(found)


def _build_ledger(
    plan: MiningPlan, given: mining.MiningInput, made: mining.MiningOutput, facts: dict[str, Any]
) -> dict[str, Any]:
    counts = {name: value for name, value in asdict(given).items() if name != "inputs"}
    return {
        "version": LEDGER_VERSION,
        "settings": {**asdict(plan.settings), "keep_negatives": plan.keep_negatives},
        "labels": dict(zip(("min", "max"), plan.rows.rules.label_range, strict=True)),
        "columns": dict(plan.rows.rules.columns),
        "models": facts["models"],
        "scored_by": "cross-encoder" if plan.cross_encoder else "embedder",
        "ranked_by": "embedder",
        "device": facts["device"],
        "versions": facts["versions"],
        "inputs": list(given.inputs),
        # the library counts what an earlier limit has excluded for min_score once more
        "counts": {**counts, **asdict(made), "candidates_excluded": facts["excluded"]},
    }
