"""Whether the layers that LoRA is to adapt are in the model: held against the names in its weight files.

PEFT adapts those of `target_modules` that match and says nothing of the others (peft/tuners/tuners_utils.py: inject).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Any

from orchestrator.backends.models import load_config
from orchestrator.backends.protocol import Job
from orchestrator.checks.train_values import read_train_values
from orchestrator.errors import Problem
from orchestrator.machine.weights import Shapes, read_weights
from orchestrator.recipe.plan import Plan

_MATRIX_DIMENSIONS = 2
_HEADS = ("lm_head", "score", "v_head")  # tied to the embeddings or new, so that no file needs to hold them
_PREFIXES = ("", "model.", "base_model.", "transformer.")  # what a model's class puts before the names of its files


def check_target_modules(job: Job, plan: Plan) -> Iterator[Problem]:
    """Yield every name and every pattern that matches no layer of a model that is on this machine."""
    values = read_train_values(plan)
    if job.smoke or job.model.folder is None or "target_modules" not in values:
        return
    config = load_config(job.model.folder)
    if "quantization_config" in config or _has_fused_experts(config):
        return  # the names in the files are not those of the loaded model
    shapes = read_weights(job.model.folder).shapes
    if not shapes:
        return
    matrices, modules = list_modules(shapes)
    if "target_regex" in values:
        yield from _check_regex(values["target_regex"], matrices)
    else:
        for name in values["target_modules"].split():
            if name not in job.backend.layer_kinds:
                yield from _check_name("target_modules", name, matrices, modules)
    for name in values.get("modules_to_save", "").split():
        if name not in job.backend.layer_kinds:
            yield from _check_name("modules_to_save", name, modules, modules)


def list_modules(shapes: Shapes) -> tuple[frozenset[str], frozenset[str]]:
    """Return the layers that have a matrix, which LoRA adapts, and all layers, by the names in the weight files."""
    matrices = {name.rpartition(".")[0] for name, shape in shapes.items() if len(shape) >= _MATRIX_DIMENSIONS}
    return frozenset(matrices), frozenset(name.rpartition(".")[0] for name in shapes)


def _check_name(argument: str, name: str, allowed: frozenset[str], modules: frozenset[str]) -> Iterator[Problem]:
    if name.rpartition(".")[2] in _HEADS or _matches(name, allowed):
        return
    if _matches(name, modules):
        message = f"train.{argument}: {name} has no matrix in this model: LoRA cannot adapt it"
        yield Problem(message, f"remove it; layers with one are {_name_layers(allowed)}")
        return
    near = difflib.get_close_matches(name, sorted(_short_names(allowed)), n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    yield Problem(
        f"train.{argument}: {name!r} matches no layer of this model, and would be left out in silence",
        f"{hint}its layers are {_name_layers(allowed)}",
    )


def _check_regex(pattern: str, modules: frozenset[str]) -> Iterator[Problem]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        yield Problem(f"train.target_regex is no regular expression: {error}", f"got {pattern!r}")
        return
    names = [prefix + name for name in modules for prefix in _PREFIXES]
    names += [name.partition(".")[2] for name in modules]
    if not any(compiled.fullmatch(name) for name in names):
        example = min(modules, default="")
        hint = f"it must match a whole name, such as {example}: begin with .*"
        yield Problem(f"train.target_regex {pattern!r} matches no layer of this model", hint)


def _matches(name: str, modules: frozenset[str]) -> bool:
    """Tell whether PEFT finds `name`: as a whole name, or as its last parts."""
    return any(module == name or module.endswith(f".{name}") or name.endswith(f".{module}") for module in modules)


def _short_names(modules: frozenset[str]) -> set[str]:
    return {name.rpartition(".")[2] for name in modules} - {""}


def _name_layers(modules: frozenset[str]) -> str:
    inner = {name for name in modules if re.search(r"\.\d+\.", name)}
    return ", ".join(sorted(_short_names(frozenset(inner)) or _short_names(modules)))


def _has_fused_experts(config: dict[str, Any]) -> bool:
    """Tell whether transformers joins the matrices of experts when it loads them, under names of their own."""
    return any(config.get(name) for name in ("num_experts", "num_local_experts", "n_routed_experts"))
