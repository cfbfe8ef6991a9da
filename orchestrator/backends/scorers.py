"""How any model is scored as it is: by its own scoring.json, or as its authors use it; never with an untrained head."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from orchestrator.backends.embeddings import Embedding, read_own
from orchestrator.backends.known_models import (
    SCORE_HEAD_FORMATS,
    has_other_head,
    list_score_head_formats,
    refuse_layerwise,
)
from orchestrator.backends.models import BaseModel
from orchestrator.errors import Problem, Where
from orchestrator.machine.json_files import load_json
from orchestrator.machine.places import WORKERS

SPEC_VERSION = 1
# Qwen3-Reranker's and Qwen3-Embedding's own default: https://huggingface.co/Qwen/Qwen3-Reranker-0.6B
QWEN3_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
QWEN3_PROMPT_TOKENS = 128  # its chat template counts against max_length; FlagEmbedding's prompt comes on top
BI_ENCODER_TOKENS = 512  # it reads query and document apart, each up to its own length
DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
# FlagLLMReranker computes the logits of every position over the whole vocabulary: 5 GB for 8 × 1024 tokens of Qwen3.
BATCH_SIZES = {"decoder": 8, "encoder": 32}
BATCH_SIZES_BY_SCORER = {"embedding": 32, "chat": 4}

# Each way of scoring: its kind, what it wants a model for, whether its models are packaged and ms-swift serves them, as
# which task; whether the folder's chat template is its prompt; what it says of a model, where a user may name it; and
# how a base (as it is, or as one trains it) is called in reports.
SCORERS: dict[str, dict[str, Any]] = load_json(WORKERS / "scorers.json")
# Each form that a model is exported to, and the ways that forms are of: what takes it, what it needs, how it is loaded.
EXPORTS, EXPORT_WAYS = (load_json(WORKERS / "exports.json")[key] for key in ("forms", "ways"))
FORMATS = {name: row["as"] for name, row in SCORERS.items() if "as" in row}
# What a packaged folder may say: it is scored by these, whether a user can name them or not.
_PACKAGED = (*FORMATS, "formatted-head")
# What a model is wanted for: its output over the vocabulary, the scores of its own head or of one that is new on
# purpose, or its vectors.
WORDS, SCORES, NEW_HEAD, VECTORS = "words", "scores", "new-head", "vectors"
AS_VECTORS = "say how its authors do it: --format embedding --pooling mean (or cls, or lasttoken)"
_NEED_HEAD = "ForSequenceClassification"


def find_use(scorer: str) -> str:
    """Return what a way of scoring wants a model for, in the words of workers/whole_weights.py."""
    return str(SCORERS.get(scorer, {}).get("use", SCORES))


def build_scoring(
    model: BaseModel,
    *,
    dtype: str,
    name: str,
    label: str | None = None,
    max_length: int = 512,
    instruction: str | None = None,
    batch_size: int | None = None,
    format: str | None = None,  # noqa: A002  the word that users write
    pooling: str | None = None,
    vectors: bool = False,
) -> dict[str, Any] | Problem:
    """Return the scoring spec of a model, or why there is none.

    A packaged folder is scored by its own scoring.json, dtype and lengths included; only `name`, `label` and a given
    `batch_size` replace what it says. Any other model is scored by `format`, else in its authors' way (`model.native`).
    With `vectors` texts are compared (a retrieval, or pairs), which a bi-encoder does as `embedding`. `pooling` is for
    an embedding model of which neither its files nor its name tell it.

    `max_length` counts the tokens of query and document together, or of each where a model reads them apart; what
    Qwen3-Reranker's prompt takes comes on top. `instruction` is the task sentence where a prompt has a place for one,
    and elsewhere stands in front of the query, as it is. `dtype` is torch's name (`float32`).
    """
    if format is not None and format not in FORMATS:
        return Problem(f"unknown format {format!r}", hint=f"known are {', '.join(FORMATS)}")
    if (own := load_own_spec(model)) is not None:
        return own if isinstance(own, Problem) else _rename(model, own, (name, label), batch_size, format)
    chosen = format or find_format(model)
    if chosen is None and vectors and isinstance(read_own(model), Embedding):
        chosen = "embedding"
    if chosen is None and model.score_head:
        message = f"{model.describe_head()}, and none of its files says in which format the head was trained"
        return Problem(message, hint=f"say how it is scored: {_list_fitting(model)}")
    if chosen is None:
        message = f"{model.name} has no head that scores pairs, and no way of scoring that its name or config tells"
        return Problem(message, hint=_list_ways(model))
    if vectors and chosen == "bi-encoder":
        chosen = "embedding"
    if problem := _find_any_misfit(model, chosen):
        return problem if problem.hint else replace(problem, hint=_list_ways(model))
    embedding = _find_embedding(model, chosen, pooling)
    if isinstance(embedding, Problem):
        return embedding
    return {
        "version": SPEC_VERSION,
        "name": name,
        "label": label or f"{name} {FORMATS[chosen]}",
        "dtype": dtype,
        "trust_remote_code": model.trust_remote_code,
        "batch_size": batch_size or default_batch_size(chosen, model.family),
        "scorer": chosen,
        **_describe_format(model, chosen, max_length, instruction, embedding),
    }


def default_batch_size(scorer: str, family: str) -> int:
    """Return how many pairs (texts, conversations) are scored at once where nobody says it."""
    return BATCH_SIZES_BY_SCORER.get(scorer, BATCH_SIZES[family])


def find_format(model: BaseModel) -> str | None:
    """Return a model's own way of scoring; None where its name and config do not tell it."""
    if model.native is not None:
        return model.native
    if model.folder is not None and any(model.folder.glob("*_Pooling")):
        return "bi-encoder"
    return "cross-encoder" if _has_head(model) and not model.score_head else None


def load_own_spec(model: BaseModel) -> dict[str, Any] | Problem | None:
    """Return what a packaged folder says of its scoring, None for any other model; a Problem where it is unusable."""
    path = model.folder / "scoring.json" if model.folder else None
    if path is None or not path.is_file():
        return None
    where = Where(str(path))
    try:
        raw = load_json(path, constants=True)
    except (OSError, ValueError) as error:
        return Problem(f"scoring.json cannot be read: {error}", hint="package the model again", where=where)
    scorer = raw.get("scorer") if isinstance(raw, dict) else None
    if scorer not in _PACKAGED:
        return Problem(f"a {scorer!r} model gives no scores here", hint=f"known: {', '.join(_PACKAGED)}", where=where)
    if raw.get("trust_remote_code") and not model.trust_remote_code:
        hint = "read the code; then allow it with trust_remote_code"
        return Problem(f"{model.name} asks to run Python code that its folder brings", hint=hint, where=where)
    return _find_dropped_head(model, scorer, where) or dict(raw)


def _rename(
    model: BaseModel, own: dict[str, Any], names: tuple[str, str | None], batch_size: int | None, wanted: str | None
) -> dict[str, Any] | Problem:
    """Return what a packaged folder says, under this name and label."""
    if wanted is not None and wanted != own["scorer"]:
        message = f"{model.name} is a packaged model, and its scoring.json says {own['scorer']}, not {wanted}"
        return Problem(message, hint="leave the format out")
    size = batch_size or own.get("batch_size") or default_batch_size(own["scorer"], model.family)
    label = names[1] or f"{names[0]}, packaged, in the format of its training"
    return {**own, "name": names[0], "label": label, "batch_size": size}


def _has_head(model: BaseModel) -> bool:
    return any(name.endswith(_NEED_HEAD) for name in model.architectures)


def _find_any_misfit(model: BaseModel, chosen: str) -> Problem | None:
    return _find_dropped_head(model, chosen) or _find_misfit(model, chosen) or _find_head_misfit(model, chosen)


def _list_ways(model: BaseModel) -> str:
    """Return the advice that names the formats which a model can be scored in: none that would be refused next."""
    ways = ", ".join(name for name in FORMATS if not _find_any_misfit(model, name))
    return f"say how it is scored: {ways}" if ways else "name another model"


def _find_misfit(model: BaseModel, chosen: str) -> Problem | None:
    """Return why a model cannot be scored so, as far as its name and files tell."""
    if chosen == "bi-encoder" and model.folder is not None and not any(model.folder.glob("*_Pooling")):
        message = f"{model.name} does not say how it pools its tokens into a vector (it has no modules.json)"
        return Problem(message, hint=AS_VECTORS)
    if why := refuse_layerwise(model.name, model.architectures):
        return Problem(why, hint="choose another model, such as BAAI/bge-reranker-v2-gemma")
    if not model.architectures:
        return None
    if chosen == "cross-encoder" and not _has_head(model):
        message = f"{model.name} has no trained head ({', '.join(model.architectures)}): its scores would be random"
        return Problem(message)
    if chosen in {"qwen3-native", "flag-llm-reranker"} and model.family != "decoder":
        return Problem(f"{model.name} is no LLM, which {chosen} asks for a word")
    return None


def _find_head_misfit(model: BaseModel, chosen: str) -> Problem | None:
    """Return why a format does not fit an LLM with a head, or a model without one; None while its config is unseen."""
    fitting = list_score_head_formats(model.folder)
    if model.score_head and chosen not in fitting:
        pair = chosen == "cross-encoder"
        why = "its chat template knows no query and document" if pair else "it has no chat template"
        message = f"{model.name} is an LLM with a head that scores, and does not fit {chosen}: {why}"
        return Problem(message, hint=f"say how it is scored: {_list_fitting(model)}")
    if chosen in SCORE_HEAD_FORMATS and model.architectures and not model.score_head:
        message = f"{model.name} is no LLM with a head that scores, which {chosen} asks"
        return Problem(message)
    return None


def _find_dropped_head(model: BaseModel, chosen: str, where: Where | None = None) -> Problem | None:
    """Return that a way of scoring would load the model without the head that it was trained with."""
    speaks = find_use(chosen) == WORDS and has_other_head(model.architectures)
    if not speaks and not (chosen in {"embedding", "bi-encoder"} and model.score_head):
        return None
    asked, classes = "for a word" if speaks else "for vectors", ", ".join(model.architectures)
    message = f"{chosen} asks {model.name} {asked}, and its head gives something else ({classes})"
    hint = f"its head would be dropped; say how it is scored: {_list_fitting(model)}"
    if not model.score_head:
        hint = "its head would be dropped; name a model without such a head, or another format"
    return Problem(message, hint=hint, where=where)


def _find_embedding(model: BaseModel, chosen: str, pooling: str | None) -> Embedding | Problem | None:
    """Return how a model embeds, None where it scores pairs; a Problem where nobody says it, or two say it unlike."""
    own = read_own(model) if find_use(chosen) == VECTORS else None
    if isinstance(own, Problem):
        return own
    if pooling and (chosen != "embedding" or (own and own.pooling != pooling)):
        what = f"pools by {own.pooling}" if own else f"is scored {FORMATS[chosen]}"
        return Problem(f"{model.name} {what}, and not by {pooling}", hint="leave --pooling out")
    if own or chosen != "embedding":
        return own
    if pooling is None and model.is_local:
        return Problem(f"nothing says how {model.name} makes one vector of a text", hint=AS_VECTORS)
    return Embedding(pooling or "", normalize=True)  # of a model on the hub its own files will say it


def _list_fitting(model: BaseModel) -> str:
    return ", ".join(f"{name} ({FORMATS[name]})" for name in list_score_head_formats(model.folder))


def _describe_format(
    model: BaseModel, chosen: str, max_length: int, instruction: str | None, own: Embedding | None
) -> dict[str, Any]:
    if chosen in {"qwen3-native", "qwen3-score-head"}:
        return {"max_length": max_length + QWEN3_PROMPT_TOKENS, "instruction": instruction or QWEN3_INSTRUCTION}
    if chosen == "flag-llm-reranker":  # FlagEmbedding/inference/reranker/decoder_only/base.py: its own defaults
        marks = {"query_instruction": "A: ", "passage_instruction": "B: "}
        return {"prompt": instruction, **marks, "max_length": max_length}
    if chosen == "embedding" and own:
        told = own.scoring()
        if instruction:  # in the model's own form; else in Qwen3-Embedding's for an LLM, as it is for an encoder
            form = own.instruct or ("Instruct: {}\nQuery:" if model.family == "decoder" else "{}")
            told["query_prompt"] = form.replace("{}", instruction)
        return {"max_length": max_length, **told, "truncate_dim": None}
    told = own.instructions() if own and chosen == "bi-encoder" else {}
    return {"max_length": max_length, **told, **({"query_instruction": instruction} if instruction else {})}


def find_export_problem(form: str, scorer: str, family: str) -> Problem | None:
    """Return why a model that is scored so has no such form, or nobody can write it here; None where it has it."""
    way = EXPORT_WAYS[EXPORTS[form]["way"]]
    if scorer not in way["takes"] or way["takes"][scorer] not in {None, family}:
        able = {name: row["takes"] for name, row in EXPORT_WAYS.items() if "refused" not in row}
        fitting = [name for name, row in EXPORTS.items() if able.get(row["way"], {}).get(scorer) == family]
        hint = f"it has {', '.join(fitting)}" if fitting else "serve it as it is: orch serve"
        return Problem(f"a {scorer} model ({family}) has no form {form}: {way['else']}", hint=hint)
    return Problem(f"{form}: {way['refused']}", hint=way["hint"]) if "refused" in way else None
