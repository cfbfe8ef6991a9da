"""The modules of a SentenceTransformer's folder: read, copied, and followed in plain torch where that is possible."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.workers.failure import WorkerError
from orchestrator.workers.folders import read_objects, write_json
from orchestrator.workers.specs import EmbeddingSpec
from orchestrator.workers.tokenizer_files import read_json

# in this order: older vLLM takes the first that is true, and include_prompt is always
POOLING_KEYS = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
OWN = "sentence_transformers."
# the names of before sentence-transformers 6: version 6 reads these too, older ones and vLLM
# (`get_pooling_config` in vllm/transformers_utils/config.py) read no others
OLD = "sentence_transformers.models."
SETTINGS = "sentence_bert_config.json"


@dataclass(frozen=True)
class Module:
    """One line of modules.json: its folder, and its class by its last name and in full."""

    path: str
    kind: str
    type: str


def read_modules(folder: Path) -> list[Module]:
    """Return the modules of a folder, none where there is no modules.json. Raises WorkerError for damaged ones."""
    path = folder / "modules.json"
    rows = read_objects(path, "the list of modules") if path.is_file() else []
    if any(not isinstance(row.get("type"), str) or not isinstance(row.get("path"), str) for row in rows):
        raise WorkerError(f"{path}: a module has no type or no path")
    return [Module(row["path"], row["type"].rsplit(".", 1)[-1], row["type"]) for row in rows]


def read_pooling(folder: Path, modules: Sequence[Module]) -> str | None:
    """Return how a folder pools, several ways joined by a plus; None where it does not say it."""
    place = next((module.path for module in modules if module.kind == "Pooling"), None)
    config = read_json(folder / place / "config.json") if place is not None else {}
    said = config.get("pooling_mode") or [name for name, key in POOLING_KEYS.items() if config.get(key)]
    return "+".join([said] if isinstance(said, str) else said) or None


def copy_modules(source: Path, target: Path, spec: EmbeddingSpec) -> list[tuple[str, str]]:
    """Copy what stands behind the transformer; return folder and class of every module, as modules.json says them.

    Raises WorkerError for weights that are pickled, and for a transformer in a folder of its own.
    """
    modules = read_modules(source)
    if not modules or modules[0].path or modules[0].kind != "Transformer":
        raise WorkerError(f"{source}: its first module is no Transformer beside modules.json: it cannot be packaged")
    for module in modules[1:]:
        place = source / module.path
        if any(place.glob("*.bin")) and not any(place.glob("*.safetensors")):
            raise WorkerError(f"{place}: its weights are pickled, and loading them runs code of their own")
        (target / module.path).mkdir(parents=True, exist_ok=True)
        for path in (*place.glob("*.json"), *place.glob("*.safetensors")):
            shutil.copyfile(path, target / module.path / path.name)
        if module.kind == "Pooling":
            write_pooling(target / module.path, source / module.path)
    lowers = bool(read_json(source / SETTINGS).get("do_lower_case"))
    write_json(target / SETTINGS, {"max_seq_length": spec.max_length, "do_lower_case": lowers})
    return [(one.path, OLD + one.kind if one.type.startswith(OWN) else one.type) for one in modules]


def write_pooling(target: Path, source: Path) -> None:
    """Write a pooling in the keys that every version and vLLM read."""
    config = read_json(source / "config.json")
    said = config.get("pooling_mode")
    modes = [said] if isinstance(said, str) else said
    flags = {key: name in modes if modes else bool(config.get(key)) for name, key in POOLING_KEYS.items()}
    dims = config.get("word_embedding_dimension", config.get("embedding_dimension"))
    written = {"word_embedding_dimension": dims, **flags, "include_prompt": config.get("include_prompt", True)}
    write_json(target / "config.json", written)


@dataclass(frozen=True)
class Head:
    """What plain torch does with the hidden states of a text: pool, then project, then bring it to length 1."""

    pooling: str
    normalize: bool
    layers: tuple[Any, ...] = ()

    def __call__(self, hidden: Any, mask: Any) -> Any:
        """Return a vector a row of `hidden` [texts, tokens, dimensions]; for lasttoken they are padded on the left."""
        from torch.nn.functional import normalize

        if self.pooling == "lasttoken":
            pooled = hidden[:, -1]
        elif self.pooling == "cls":
            pooled = hidden[:, 0]
        else:
            pooled = (hidden * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
        for layer in self.layers:
            pooled = layer(pooled)
        return normalize(pooled, dim=1) if self.normalize else pooled


FOLLOWED = ("Transformer", "Pooling", "Dense", "Normalize")


def build_head(folder: Path, spec: EmbeddingSpec, device: str) -> Head | None:
    """Return what a folder's modules do; None where plain code cannot follow them; the spec's, where it has none."""
    modules = read_modules(folder)
    if not modules:
        return Head(spec.pooling, spec.normalize) if spec.pooling in {"cls", "mean", "lasttoken"} else None
    kinds, pooling = [module.kind for module in modules], read_pooling(folder, modules)
    order = kinds[:2] == ["Transformer", "Pooling"] and "Normalize" not in kinds[2:-1]
    known = all(one.kind in FOLLOWED and one.type.startswith(OWN) for one in modules)
    if not (known and order and pooling in {"cls", "mean", "lasttoken"}):
        return None
    reads_prompts = read_json(folder / modules[1].path / "config.json").get("include_prompt", True)
    if not reads_prompts or read_json(folder / SETTINGS).get("do_lower_case"):
        return None
    layers = [_load_dense(folder / one.path, device) for one in modules if one.kind == "Dense"]
    if any(layer is None for layer in layers):
        return None
    return Head(str(pooling), kinds[-1] == "Normalize", tuple(layers))


def _load_dense(folder: Path, device: str) -> Any:
    """Return a Dense module as plain torch; None for one with parts that are not a linear layer and its activation."""
    import torch
    from safetensors.torch import load_file

    config, path = read_json(folder / "config.json"), folder / "model.safetensors"
    where, _, name = str(config.get("activation_function")).rpartition(".")
    activation = getattr(torch.nn, name, None) if where.startswith("torch.nn.") else None
    weights = {key: one.float() for key, one in load_file(path, device=device).items()} if path.is_file() else {}
    elsewhere = config.get("module_output_name") not in {None, "sentence_embedding"}
    if activation is None or "linear.weight" not in weights or elsewhere or config.get("use_residual"):
        return None
    weight, bias = weights["linear.weight"], weights.get("linear.bias")
    return lambda pooled: activation()(torch.nn.functional.linear(pooled, weight, bias))
