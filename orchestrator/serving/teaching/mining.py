"""What `orch data mine` does: an embedding model finds documents that are near each query and do not answer it."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.checks.model_files import find_oddities
from orchestrator.data.mining import (
    CORPUS_NAME,
    QUERIES_NAME,
    MiningInput,
    MiningOutput,
    MiningRows,
    gather_for_mining,
    write_mined_rows,
)
from orchestrator.data.writing.writers import FileSet, format_json
from orchestrator.errors import DataError
from orchestrator.evaluation.metrics import describe_cut
from orchestrator.serving.teaching.foreground import run_worker
from orchestrator.serving.teaching.model_choice import (
    Chosen,
    ModelChoice,
    build_embedder,
    build_spec,
    require_chosen_load,
)
from orchestrator.serving.teaching.work_files import build_flags, load_json, require_fresh, write_json

LEDGER_VERSION = 1


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
    """What to mine, with which models; `query_prompt` and `document_prompt` None are the embedder's own."""

    rows: MiningRows
    embedder: ModelChoice
    cross_encoder: ModelChoice | None = None
    settings: MiningSettings = field(default_factory=MiningSettings)
    query_prompt: str | None = None
    document_prompt: str | None = None
    keep_negatives: bool = False
    device: str | None = None


@dataclass(frozen=True)
class Mined:
    """What mining gave, the files that were written, and what is worth knowing about the result."""

    given: MiningInput
    made: MiningOutput
    excluded: dict[str, int]
    ledger: Path
    lineage: Path
    warnings: tuple[str, ...]


def mine_files(plan: MiningPlan, out: Path, *, force: bool = False) -> Mined:
    """Write {"query", "pos", "neg"} rows to the new file `out`, its lineage and its ledger beside it.

    Raises DataError for rows that cannot be used, a corpus that is smaller than what is passed over, or when nothing is
    found; PreflightError for a model that cannot search; and what `run_worker` raises.
    """
    ledger, lineage = out.with_suffix(".ledger.json"), out.with_suffix(".lineage.jsonl")
    require_fresh([out, ledger, lineage], [*plan.rows.files, *plan.rows.corpus_files], force=force)
    embedder, cross_encoder = _choose_models(plan)
    chosen = [embedder, cross_encoder] if cross_encoder else [embedder]
    require_chosen_load(chosen)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        work = Path(folder)
        given = gather_for_mining(plan.rows, work)
        _require_documents(given, plan.settings)
        paths: dict[str, object] = {
            "--queries": work / QUERIES_NAME,
            "--corpus": work / CORPUS_NAME,
            "--settings": write_json(work / "settings.json", asdict(plan.settings)),
            "--out": work,
            "--device": plan.device,
        }
        paths |= _describe_models(plan, embedder, cross_encoder, work)
        env = {name: value for item in chosen for name, value in item.choice.permissions.env.items()}
        run_worker("mine", build_flags(paths), offline=all(item.model.is_local for item in chosen), env=env)
        facts = load_json(work / "mining.json")
        with FileSet() as files:
            streams = {path: files.open(path) for path in (ledger, lineage, out)}
            made = write_mined_rows(
                work,
                (streams[out], streams[lineage]),
                wanted=plan.settings.num_negatives,
                keep_negatives=plan.keep_negatives,
            )
            if not made.negatives:
                raise DataError(
                    "no negative was found for any query", hint="lower --range-min, or loosen the margins and scores"
                )
            streams[ledger].write(format_json(_build_ledger(plan, given, made, facts)))
            files.commit()
    cut = describe_cut(facts)
    odd = [odd.message for item in chosen for odd in find_oddities(item.model)]
    warnings = (*_warn(plan, given, made), *odd, *([cut] if cut else []))
    return Mined(given, made, facts["excluded"], ledger, lineage, warnings)


def _choose_models(plan: MiningPlan) -> tuple[Chosen, Chosen | None]:
    """Return the embedder and the cross-encoder, if there is one. Raises PreflightError for one that cannot be used."""
    reranker = build_spec(plan.cross_encoder, "cross-encoder") if plan.cross_encoder else None
    return build_embedder(plan.embedder), reranker


def _describe_models(plan: MiningPlan, embedder: Chosen, cross_encoder: Chosen | None, work: Path) -> dict[str, object]:
    """Return the worker's arguments on its models; their specs are written into `work`."""
    prompts = {"query_prompt": plan.query_prompt, "document_prompt": plan.document_prompt}
    spec = embedder.spec | {key: prompt for key, prompt in prompts.items() if prompt is not None}
    found: dict[str, object] = {
        "--model": embedder.model.location,
        "--scoring": write_json(work / "scoring.json", spec),
    }
    if cross_encoder is not None:
        found |= {
            "--cross-encoder": cross_encoder.model.location,
            "--cross-encoder-scoring": write_json(work / "cross-encoder-scoring.json", cross_encoder.spec),
        }
    return found


def _require_documents(given: MiningInput, settings: MiningSettings) -> None:
    """Raise DataError where the documents that are passed over are all there are."""
    if given.documents - 1 <= settings.range_min:  # one at least is the query's own positive
        raise DataError(
            f"the corpus has {given.documents} documents, and the {settings.range_min} nearest of each query (its "
            "positives not counted) are passed over: none is left",
            hint="add documents with --corpus, or lower --range-min",
        )


def _warn(plan: MiningPlan, given: MiningInput, made: MiningOutput) -> tuple[str, ...]:
    found = []
    if given.documents <= plan.settings.range_max:
        found.append(
            f"the corpus has {given.documents} documents, fewer than --range-max {plan.settings.range_max}: every "
            "document is a candidate, however far it is"
        )
    if made.with_too_few:
        found.append(f"{made.with_too_few} queries have fewer than {plan.settings.num_negatives} negatives")
    if made.with_none:
        what = "keep their own" if plan.keep_negatives else "are left out"
        found.append(f"{made.with_none} queries have no mined negative, and {what}")
    if given.without_positive:
        found.append(f"{given.without_positive} queries have no positive, and are left out")
    return tuple(found)


def _build_ledger(plan: MiningPlan, given: MiningInput, made: MiningOutput, facts: dict[str, Any]) -> dict[str, Any]:
    return {
        "version": LEDGER_VERSION,
        "settings": {**asdict(plan.settings), "keep_negatives": plan.keep_negatives},
        "labels": {"min": plan.rows.min_label, "max": plan.rows.max_label},
        "columns": dict(plan.rows.columns),
        "models": facts["models"],
        "scored_by": "cross-encoder" if plan.cross_encoder else "embedder",
        "ranked_by": "embedder",
        "device": facts["device"],
        "versions": facts["versions"],
        "inputs": list(given.inputs),
        "counts": {
            "rows": given.rows,
            "dropped": given.dropped,
            "documents": given.documents,
            "queries": given.queries,
            "queries_without_positive": given.without_positive,
            "rows_written": made.rows,
            "mined": made.negatives,
            "queries_with_too_few": made.with_too_few,
            "queries_with_none": made.with_none,
            "positives_removed": made.positives_removed,
            # the library counts what an earlier limit has excluded for min_score once more
            "candidates_excluded": facts["excluded"],
        },
    }
