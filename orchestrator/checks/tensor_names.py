"""What the names and shapes in a model's files tell of it without any library: wrapped, never merged, without a table.

`find_name_problems` is pure: what config.json says and which tensors there are in, problems out. What only the model's
own class can tell is asked of the backend's Python afterwards (`model_tensors`).
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.backends.scorers import NEW_HEAD, SCORES
from orchestrator.errors import Problem
from orchestrator.machine.places import WORKERS
from orchestrator.machine.weights import Shapes

# What DistributedDataParallel, torch.compile, FSDP and activation checkpoints put into names (workers/weight_names.py).
_IN_FRONT = ("module", "base_model.model", "_orig_mod", "_fsdp_wrapped_module", "_forward_module")
_ANYWHERE = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "base_layer")
_ADAPTER = re.compile(r"\.(lora_[AB]|lora_embedding_[AB]|lora_magnitude_vector|modules_to_save)(\.|$)")
_TABLE = re.compile(r"emb|wte|shared|word", re.IGNORECASE)
_NO_TABLE = re.compile(r"position|type_emb|segment|relative|rotary|patch|norm|visual|vision", re.IGNORECASE)
_HEAD = re.compile(r"(^|\.)(classifier|score|classification_head|logits_proj)(\.out_proj)?\.weight$")
_CLASSIFIES = "ForSequenceClassification"
_RANDOM = "every library would fill them with random numbers, and say so in a warning only"


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
    text = config.get("text_config")
    rows = (text if isinstance(text, dict) else config).get("vocab_size")
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
