"""What a model is by its name, its config and its files: families.yaml, ms-swift's list of models, heads that score.

ms-swift's list names over a thousand models. An LLM with a head that scores is told by its architecture, and what
trained it tells what it reads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal

import msgspec

from orchestrator.backends.arguments import read_snapshot
from orchestrator.machine.files import read_regular
from orchestrator.machine.json_files import find_object, load_json
from orchestrator.machine.tables import load_table

Kind = Literal["llm", "multimodal", "embedding", "reranker", "encoder", "reward", "decision"]

_ENCODERS = re.compile(r"Bert|Roberta|Electra|Deberta")
# How an LLM with a head may be asked, by the person who knows how it was trained.
SCORE_HEAD_FORMATS = ("qwen3-score-head", "reward-model")
CLASSIFIER = "ForSequenceClassification"
# Families of transformers' causal models (5.19), and of those that bring their own code, that have such a head too.
_LLMS = re.compile(
    r"Arcee|AXK|Baichuan|BioGpt|Bitnet|BitNet|Bloom|ChatGLM|Cohere|CTRL|Deepseek|DiffLlama|Doge|Ernie4|Exaone|Falcon|"
    r"Gemma|Glm|GLM|Gpt|GPT|Granite|Helium|HunYuan|InternLM|Jamba|JetMoe|Lfm|Llama|Mamba|MiMo|MiniCPM|MiniMax|"
    r"Ministral|Mistral|Mixtral|ModernBertDecoder|Mpt|MPT|Nemotron|Olmo|OLMo|OpenAIGPT|OPT|Orion|Persimmon|Phi|Qwen|"
    r"SeedOss|Skywork|SmolLM|StableLm|Starcoder|Yi|Zamba"
)
_BERT_LIKE = re.compile(r"Bert|BERT|Roberta|Electra|Deberta")
# A causal model's output over the vocabulary; every other `For…` is a head of another kind.
_SPEAKS = re.compile(r"LM\b|LMHead|Generation|ImageTextToText|MultimodalLM")
_PAIR_ROLES = re.compile(r"""['"](query|document)['"]""")
POOLINGS = ("cls", "mean", "lasttoken", "max", "mean_sqrt_len_tokens", "weightedmean")


class Embeds(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the authors of an embedding model turn a text into a vector; families.yaml says what each field means."""

    pooling: str
    normalize: bool
    query: str = ""
    document: str = ""
    suffix: str = ""
    optional: bool = False
    instruct: str = ""
    code: bool = False
    modules: bool = False
    source: str


class _Row(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    named: re.Pattern[str] | None = None
    like: re.Pattern[str] | None = None
    classes: re.Pattern[str] | None = None
    family: Literal["encoder", "decoder"] | None = None
    native: str | None = None
    needs: str | None = None
    embeds: Embeds | None = None

    def fits(self, name: str, classes: str) -> bool:
        """Tell whether the row is about a model of this name, or with one of these classes."""
        return bool(
            (self.named and self.named.fullmatch(plain_name(name)))
            or (self.like and self.like.search(name.lower()))
            or (self.classes and self.classes.search(classes))
        )


@cache
def plain_name(name: str) -> str:
    """Return what a hub id's second half, or the folder that was downloaded for it, calls the model.

    Hugging Face's cache names the folder above the snapshots, models--OWNER--NAME; ModelScope's has ___ for a dot.
    """
    *above, last = name.rstrip("/").lower().split("/")
    cached = next((part for part in reversed(above) if part.startswith("models--")), None)
    plain = cached.rpartition("--")[2] if cached else last.replace("___", ".")
    # Meta-Llama-3.1-8B is called Llama-3.1-8B by now
    return plain.removeprefix("meta-") if plain.startswith("meta-llama-3") else plain


def _load() -> tuple[_Row, ...]:
    return load_table(Path(__file__).with_name("families.yaml"), _Row)


def find_family(name: str) -> str | None:
    """Return the family that a name tells."""
    return next((row.family for row in _load() if row.family and row.fits(name, "")), None)


def find_native(name: str) -> str | None:
    """Return how the authors of an LLM of this name score pairs with it."""
    return next((row.native for row in _load() if row.native and row.fits(name, "")), None)


def refuse_layerwise(name: str, architectures: Iterable[str] = ()) -> str | None:
    """Return why a model that scores by layers is neither trained nor scored: its name tells it, or its config's class.

    FlagEmbedding/inference/reranker/model_mapping.py (1.4.2) gives these models other classes than FlagLLMReranker, and
    those do not load with transformers 5 (docs/decisions/0055).
    """
    classes = " ".join(architectures)
    needs = next((row.needs for row in _load() if row.needs and row.fits(name, classes)), None)
    why = "and FlagEmbedding (up to 1.4.2) cannot load it with transformers 5"
    return f"{name} scores by layers of its own choice ({needs}, not FlagLLMReranker), {why}" if needs else None


def find_embeds(name: str) -> Embeds | None:
    """Return how the authors of a model of this very name embed texts with it."""
    return next((row.embeds for row in _load() if row.embeds and row.fits(name, "")), None)


class KnownModel(msgspec.Struct, frozen=True):
    """A type of the list: ms-swift's name of it, what its models are, their architectures, and their ids by prompt.

    `sets` are the numbers of the snapshot's versions that have it, `text` that ms-swift calls it a text model.
    """

    model_type: str
    kind: Kind
    architectures: tuple[str, ...]
    templates: Mapping[str, tuple[str, ...]]
    sets: tuple[int, ...]
    text: bool

    @property
    def family(self) -> str:
        """Return decoder (an LLM) or encoder (BERT-like)."""
        return "encoder" if any(_ENCODERS.search(name) for name in self.architectures) else "decoder"

    def find_template(self, name: str) -> str | None:
        """Return the prompt of the model called `name`, or of the folder that is called like it."""
        plain = plain_name(name)
        return next((one for one, ids in self.templates.items() if plain in map(plain_name, ids)), None)


@cache
def list_known() -> tuple[KnownModel, ...]:
    """Return every type that a version of the snapshot has."""
    return tuple(
        KnownModel(
            item["model_type"],
            _kind_of(item["model_type"], item.get("kind")),
            tuple(item["architectures"]),
            {template: tuple(ids) for template, ids in item["templates"].items()},
            tuple(item["sets"]),
            "kind" not in item,
        )
        for item in read_snapshot("swift_models")["items"]
    )


def find_known(name: str) -> KnownModel | None:
    """Return what the list says of a hub id, or of a folder that is called like one; None for any other name."""
    return _by_name().get(plain_name(name))


def find_kind_of(model_type: str) -> Kind | None:
    """Return what the models of one of ms-swift's types are; None for a type that it does not have."""
    return next((one.kind for one in _tested_first() if one.model_type == model_type), None)


def find_kinds_with(architecture: str) -> set[Kind]:
    """Return what the models are that ms-swift tells by this class."""
    return {one.kind for one in list_known() if architecture in one.architectures}


@cache
def is_llm_architecture(architecture: str) -> bool:
    """Tell whether ms-swift tells an LLM by this class."""
    return "llm" in find_kinds_with(architecture)


def _kind_of(name: str, said: Kind | None) -> Kind:
    """Return what the models of a type are; the list itself says it of those that are no text models."""
    if "reranker" in name and said != "multimodal":
        return "reranker"
    if said is not None:
        return said
    if "_emb" in name or "_gte" in name:
        return "embedding"
    return "encoder" if "bert" in name else "llm"


@cache
def _tested_first() -> tuple[KnownModel, ...]:
    return tuple(sorted(list_known(), key=lambda one: min(one.sets)))


@cache
def _by_name() -> dict[str, KnownModel]:
    found: dict[str, KnownModel] = {}
    for known in _tested_first():
        for name in (plain_name(one) for ids in known.templates.values() for one in ids):
            found.setdefault(name, known)
    return found


def has_score_head(config: dict[str, Any]) -> bool:
    """Tell whether a config.json is that of an LLM with a head that classifies, and of no BERT-like encoder."""
    heads = [name for name in list_architectures(config) if name.endswith(CLASSIFIER)]
    return any(_LLMS.match(name) or _looks_causal(name, config) for name in heads)


def has_other_head(architectures: Iterable[str]) -> bool:
    """Tell whether a model's classes say that it gives something else than words: loaded for words, it loses a head."""
    heads = [name.partition("For")[2] for name in architectures if "For" in name]
    return bool(heads) and not any(_SPEAKS.search(head) for head in heads)


def find_trained_format(folder: Path | None) -> str | None:
    """Return how a head on an LLM was trained to be asked: its files tell, and neither its name nor its class does.

    They are ms-swift's args.json, or a CrossEncoder's own; None where they say no format that we know.
    """
    if folder is None:
        return None
    args = _read(folder / "args.json")
    task_type, template = args.get("task_type"), args.get("template")
    if task_type == "reranker" and (template or args.get("model_type")) == "qwen3_reranker":
        return "qwen3-score-head"
    if task_type == "seq_cls" and args.get("rlhf_type") == "rm":
        return "reward-model"
    return "cross-encoder" if describes_itself(folder) else None


def describes_itself(folder: Path) -> bool:
    """Tell whether sentence-transformers saved the folder as a CrossEncoder, which reads pairs as it was trained."""
    try:
        modules = load_json((folder / "modules.json"), constants=True)
        return any("cross_encoder" in str(module.get("type", "")) for module in modules) or (
            _read(folder / "config_sentence_transformers.json").get("model_type") == "CrossEncoder"
        )
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return False


def list_score_head_formats(folder: Path | None) -> tuple[str, ...]:
    """Return the formats in which a folder's head may be asked; all but its own files' are for a person to choose.

    A chat template that knows no roles `query` and `document` would make a chat of the pair that nobody trained.
    """
    if folder is None:
        return SCORE_HEAD_FORMATS
    template = read_chat_template(folder)
    reads_pairs = template is None or len(set(_PAIR_ROLES.findall(template))) == 2  # noqa: PLR2004
    plain = ("cross-encoder",) if reads_pairs or describes_itself(folder) else ()
    return (*(name for name in SCORE_HEAD_FORMATS if name != "reward-model" or template is not None), *plain)


def read_chat_template(folder: Path) -> str | None:
    """Return the text of a folder's chat template, or None where it has none."""
    try:
        return read_regular(folder / "chat_template.jinja").decode("utf-8")
    except (OSError, ValueError):
        template = _read(folder / "tokenizer_config.json").get("chat_template")
        return json.dumps(template) if isinstance(template, list) else template if isinstance(template, str) else None


def _looks_causal(name: str, config: dict[str, Any]) -> bool:
    """Tell whether a class that nobody knows is an LLM's: those share their keys among queries, BERT-like ones never.

    EuroBert does, and says its kind in its name.
    """
    text = config.get("text_config")
    text = text if isinstance(text, dict) else config
    return "num_key_value_heads" in text and not _BERT_LIKE.search(name)


def list_architectures(config: dict[str, Any]) -> tuple[str, ...]:
    """Return the names of the model's classes; what a hub's config says besides names is none."""
    named = config.get("architectures")
    return tuple(name for name in named if isinstance(name, str)) if isinstance(named, list) else ()


def _read(path: Path) -> dict[str, Any]:
    return find_object(path, constants=True) or {}
