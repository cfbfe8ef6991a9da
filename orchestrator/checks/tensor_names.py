"""What the names and shapes in a model's files tell of it without any library.

Names that are wrapped, adapters never merged, no table of embeddings, absent layers and heads, other sizes than
config.json says. All is pure: what config.json says and which tensors there are in, problems out. What only the model's
own class can tell is asked of the backend's Python afterwards (`model_loading`).
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.backends.scorers import NEW_HEAD, SCORES, VECTORS, WORDS
from orchestrator.errors import Problem
from orchestrator.machine.places import WORKERS
from orchestrator.machine.weights import Shapes

# What DistributedDataParallel, torch.compile, FSDP and activation checkpoints put into names (workers/mend_model.py).
_IN_FRONT = ("module", "base_model.model", "_orig_mod", "_fsdp_wrapped_module", "_forward_module")
_ANYWHERE = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "base_layer")
_ADAPTER = re.compile(r"\.(lora_[AB]|lora_embedding_[AB]|lora_magnitude_vector|modules_to_save)(\.|$)")
_TABLE = re.compile(r"emb|wte|shared|word", re.IGNORECASE)
_NO_TABLE = re.compile(r"position|type_emb|segment|relative|rotary|patch|norm|visual|vision", re.IGNORECASE)
_HEAD = re.compile(r"(^|\.)(classifier|score|classification_head|logits_proj)(\.out_proj)?\.weight$")
_CLASSIFIES = "ForSequenceClassification"
_RANDOM = "every library would fill them with random numbers, and say so in a warning only"
_LAYER = re.compile(r"^(.*?\b(?:layers|layer|h|blocks))\.(\d+)\.")
_EMBEDDING = re.compile(r"(^|\.)(embed_tokens|word_embeddings|tok_embeddings|wte|embed_in)\.weight$")
_SCORING_HEAD = re.compile(r"(^|\.)(classifier|score|classification_head|head|sequence_summary)\.")
_ANSWER_HEAD = re.compile(r"(^|\.)(lm_head|embed_out|output)\.")
NAMES = {  # what architectures call their sizes
    "hidden_size": ("hidden_size", "d_model", "dim", "n_embd"),
    "num_hidden_layers": ("num_hidden_layers", "num_layers", "n_layers", "n_layer"),
    "num_attention_heads": ("num_attention_heads", "n_heads", "n_head"),
    "intermediate_size": ("intermediate_size", "hidden_dim", "n_inner", "ffn_dim"),
}
_WIDTHS = ("embedding_size", "input_embedding_size", "word_embed_proj_dim", *NAMES["hidden_size"])
_CONFIG = "take config.json and weights from one and the same model"


def find_shape_problems(
    folder: Path, config: Mapping[str, Any], shapes: Shapes, uses: Collection[str]
) -> Iterator[Problem]:
    """Yield all that names and shapes show to be wrong; `uses` are what the folder is wanted for."""
    yield from find_name_problems(folder, config, shapes, uses)
    yield from _find_other_sizes(folder, config, shapes)
    yield from _find_absent_heads(folder, config, shapes, uses)


def find_name_problems(
    folder: Path, config: Mapping[str, Any], shapes: Shapes, uses: Collection[str] = ()
) -> Iterator[Problem]:
    """Yield what is wrong with the tensors of a folder; `uses` are what it is wanted for (`scorers.find_use`)."""
    if config.get("auto_map"):  # its own code may call its tensors as it likes
        return
    adapters = [name for name in shapes if _ADAPTER.search(name)]
    if adapters:
        message = f"{folder} holds an adapter that was never merged into the weights ({adapters[0]} …)"
        hint = (
            "call merge_and_unload() before save_pretrained() in the program that wrote it\n"
            f"or, with the lora_alpha of its training: {_mend(folder, '--fold-lora', 'ALPHA')}"
        )
        yield Problem(f"{message}: what it has learnt would be left out", hint)
    elif options := _find_wrappers(shapes):
        first = next(name for name in sorted(shapes) if any(option in f".{name}" for option in options[1::2]))
        message = f"{folder}: its tensors have other names than its model's, such as {first}: {_RANDOM}"
        words = ", ".join(f"{name}." for name in options[1::2])
        yield Problem(message, f"strip {words} from the names: {_mend(folder, *options)}")
    elif "quantization_config" not in config and not _has_table(config, shapes):
        message = f"{folder}: its files hold no table of token embeddings: {_RANDOM}"
        yield Problem(message, "take the model from where it is whole, or save it again")
    if {SCORES, NEW_HEAD} & set(uses):
        yield from _find_labels(folder, config, shapes, uses)


def _find_wrappers(shapes: Shapes) -> list[str]:
    """Return the options of `workers mend_model` that take the wrappers out of the names; none where there are none."""
    names, options = list(shapes), []
    for part in _ANYWHERE:
        if any(f".{part}." in name for name in names):
            options += ["--drop", part]
            names = [f".{name}.".replace(f".{part}.", ".").strip(".") for name in names]
    for part in _IN_FRONT * 2:  # module.base_model.model. and base_model.model.module. are both there
        if all(name.startswith(f"{part}.") for name in names):
            options += ["--strip", part]
            names = [name.removeprefix(f"{part}.") for name in names]
    return options


def _has_table(config: Mapping[str, Any], shapes: Shapes) -> bool:
    """Tell whether any tensor may be the table of token embeddings: by its rows, or by its name."""
    rows = read_text_config(config).get("vocab_size")
    tables = {name: shape for name, shape in shapes.items() if len(shape) == 2}  # noqa: PLR2004
    return not tables or any(
        (rows in shape and isinstance(rows, int)) or (_TABLE.search(name) and not _NO_TABLE.search(name))
        for name, shape in tables.items()
    )


def _find_labels(folder: Path, config: Mapping[str, Any], shapes: Shapes, uses: Collection[str]) -> Iterator[Problem]:
    """Yield that a trained head gives several numbers, which no reranker's does."""
    if not any(_CLASSIFIES in name for name in config.get("architectures") or ()):
        return
    heads = [shape[0] for name, shape in shapes.items() if _HEAD.search(name) and len(shape) == 2]  # noqa: PLR2004
    named = config.get("id2label")
    labels = heads[0] if heads else len(named) if isinstance(named, dict) else 1
    if labels == 1:
        return
    ways = []
    if labels == 2:  # noqa: PLR2004  the logit of "relevant" less the other's orders as its probability does
        ways.append(f"make one label of the two, the second less the first: {_mend(folder, '--one-label')}")
    if NEW_HEAD in uses:
        ways.append(f"train a new head on its body: {_mend(folder, '--without-head')}")
    ways.append("name a cross-encoder, whose head has one label")
    message = f"{folder} has a head of {labels} labels, and a reranker's has one: a score"
    yield Problem(message, "\nor ".join(ways))


def _mend(folder: Path, *options: str) -> str:
    """Return the command that writes a mended copy of the folder beside it; any Python runs it."""
    return shlex.join([sys.executable, str(WORKERS), "mend_model", str(folder), "-o", f"{folder}-mended", *options])


def find_embedding(shapes: Shapes) -> tuple[int, int] | None:
    """Return rows and width of the table of token embeddings; None where no tensor, or more than one, is called so."""
    found = {shape for name, shape in shapes.items() if _EMBEDDING.search(name)}
    shape = found.pop() if len(found) == 1 else ()
    return (shape[0], shape[1]) if len(shape) == 2 else None  # noqa: PLR2004


def find_layer_count(config: Mapping[str, Any]) -> int | None:
    """Return how many layers a config asks for; None where it does not say, or shares them."""
    config = read_text_config(config)
    if config.get("is_encoder_decoder") or "num_hidden_groups" in config:  # ALBERT runs one layer many times
        return None
    return read_whole(config, *NAMES["num_hidden_layers"])


def count_layers(shapes: Shapes) -> int:
    """Return how many layers the longest list of layers has."""
    return max((len(numbers) for numbers in _group_layers(shapes).values()), default=0)


def read_text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the part of a config that describes the language model: all of it, or its text_config."""
    text = config.get("text_config")
    return text if isinstance(text, dict) else config


def _find_other_sizes(folder: Path, config: Mapping[str, Any], shapes: Shapes) -> Iterator[Problem]:
    """Yield that layers are absent, and that the embeddings have another size than config.json says."""
    asked, table = find_layer_count(config), find_embedding(shapes)
    name, longest = max(_group_layers(shapes).items(), key=lambda item: len(item[1]), default=("", set[int]()))
    if longest and (absent := sorted(set(range(asked or 0)) - longest)):
        found = f"config.json says {asked} layers, and the files hold {len(longest)} (no {name}.{absent[0]})"
        yield Problem(f"{folder}: {found}: {_RANDOM}", _CONFIG)
    if table is None or "quantization_config" in config:
        return
    width, rows = read_whole(read_text_config(config), *_WIDTHS), read_text_config(config).get("vocab_size")
    if width is not None and table[1] != width:
        message = f"{folder}: config.json says vectors of {width} numbers, and the embeddings have {table[1]}"
        yield Problem(message, _CONFIG)
    if isinstance(rows, int) and table[0] != rows:
        message = f"{folder}: config.json says a vocabulary of {rows}, and the embeddings have {table[0]} rows"
        yield Problem(message, _CONFIG)


def _find_absent_heads(
    folder: Path, config: Mapping[str, Any], shapes: Shapes, uses: Collection[str]
) -> Iterator[Problem]:
    names = " ".join(map(str, config.get("architectures") or ()))
    scores = set(uses) != {VECTORS} and _CLASSIFIES in names
    if scores and not any(_SCORING_HEAD.search(name) for name in shapes):
        message = f"{folder}: config.json names {names}, and the files hold no head that scores: its scores are random"
        yield Problem(message, "take the tuned model's own files, or name the base model in architectures")
    answers = WORDS in uses and config.get("tie_word_embeddings") is False and "ForCausalLM" in names
    if answers and not any(_ANSWER_HEAD.search(name) for name in shapes):
        message = f"{folder}: config.json says tie_word_embeddings: false, and the files hold no lm_head: it is random"
        yield Problem(message, "take the model's own config.json; an embedding model's files have no lm_head to answer")


def _group_layers(shapes: Shapes) -> dict[str, set[int]]:
    """Return the numbers of the layers by what stands before them, such as model.layers."""
    found: dict[str, set[int]] = {}
    for match in filter(None, map(_LAYER.match, shapes)):
        found.setdefault(match[1], set()).add(int(match[2]))
    return found


def read_whole(config: Mapping[str, Any], *names: str) -> int | None:
    """Return the first of the named values that is a whole number above 0."""
    values = (config.get(name) for name in names)
    return next((value for value in values if isinstance(value, int) and value is not True and value > 0), None)
