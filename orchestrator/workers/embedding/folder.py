"""What stands around an embedding model's weights: its modules, the end token, pooling, prompts and lengths.

Modules are read and copied, and followed in plain torch where that is possible.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.workers.engines import sentence_transformers
from orchestrator.workers.engines.transformers import load_tokenizer
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.folders import read_json, read_objects, write_json
from orchestrator.workers.specs import EmbeddingSpec

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
_DENSE_ON_VECTORS = [(f"module_{side}_name", "sentence_embedding") for side in ("input", "output")]


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
        said = read_json(place / "config.json")
        if module.kind == "Pooling":
            modes = (read_pooling(source, [module]) or "").split("+")
            dims = said.get("word_embedding_dimension", said.get("embedding_dimension"))
            include = said.get("include_prompt", True)
            write_pooling(target / module.path, modes, dims, include_prompt=include)
        if module.kind == "Dense" and said:
            # of a text's vector, as ever: before sentence-transformers 5 its class ends at the names themselves
            plain = {key: value for key, value in said.items() if (key, value) not in _DENSE_ON_VECTORS}
            write_json(target / module.path / "config.json", plain)
    lowers = bool(read_json(source / SETTINGS).get("do_lower_case"))
    write_json(target / SETTINGS, {"max_seq_length": spec.max_length, "do_lower_case": lowers})
    return [(one.path, OLD + one.kind if one.type.startswith(OWN) else one.type) for one in modules]


def write_pooling(target: Path, modes: Sequence[str | None], dims: int | None, *, include_prompt: bool = True) -> None:
    """Write a pooling in the keys that every version and vLLM read."""
    flags = {key: name in modes for name, key in POOLING_KEYS.items()}
    written = {"word_embedding_dimension": dims, **flags, "include_prompt": include_prompt}
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


# what Qwen3-Embedding ends every text with, and swift's template qwen3_emb
END_TOKEN = "<|endoftext|>"  # noqa: S105  a token of text


def build_end_processor(tokenizer: Any, origin: str) -> Any:
    """Return the post-processor of https://huggingface.co/Qwen/Qwen3-Embedding-0.6B/blob/main/tokenizer.json.

    A post-processor, because every library that reads tokenizer.json then appends the token, once, and because
    truncation leaves room for what a post-processor adds: a text that is cut keeps its end token. Raises WorkerError
    for a tokenizer without that token.
    """
    from tokenizers import processors

    index = require_end_token(tokenizer, origin)
    return processors.Sequence(
        [
            processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False),
            processors.TemplateProcessing(
                single=f"$A {END_TOKEN}",
                pair=f"$A {END_TOKEN} $B:1 {END_TOKEN}:1",
                special_tokens=[(END_TOKEN, index)],
            ),
        ]
    )


def require_end_token(tokenizer: Any, origin: str) -> int:
    """Return the end token's id. Raises WorkerError for a tokenizer without it."""
    index = tokenizer.get_vocab().get(END_TOKEN)
    if index is None:
        raise WorkerError(f"{origin}: its tokenizer has no token {END_TOKEN}, which last-token pooling reads")
    return int(index)


def appends_end_token(tokenizer: Any, origin: str) -> bool:
    """Tell whether the loaded tokenizer ends a text with the end token, exactly once; False when it adds nothing.

    Raises WorkerError for one that puts other tokens around a text: last-token pooling would read one of those.
    """
    plain, whole = (list(tokenizer("a", add_special_tokens=add)["input_ids"]) for add in (False, True))
    if whole == [*plain, require_end_token(tokenizer, origin)]:
        return True
    if whole == plain:
        return False
    added = tokenizer.decode(whole)
    raise WorkerError(f"{origin}: its tokenizer makes {added!r} of 'a'; a text ends with one {END_TOKEN} and no more")


def append_end_token(folder: Path, *, trust_remote_code: bool = False) -> None:
    """Make the folder's tokenizer append the end token unless it does; nothing else in tokenizer.json changes.

    Raises WorkerError for a folder without tokenizer.json or a tokenizer that cannot.
    """
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    if not path.is_file():
        raise WorkerError(f"{folder} holds no tokenizer.json: its tokenizer cannot be made to append {END_TOKEN}")
    tokenizer = load_tokenizer(folder, trust_remote_code=trust_remote_code)
    if appends_end_token(tokenizer, str(folder)):
        return
    core = Tokenizer.from_file(str(path))
    core.post_processor = build_end_processor(tokenizer, str(folder))
    write_json(path, {**read_json(path), "post_processor": json.loads(core.to_str())["post_processor"]})


MODULES = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))


def settle(
    spec: EmbeddingSpec, base: str, base_folder: Path, config: Mapping[str, Any], whole: Path | None
) -> EmbeddingSpec:
    """Return the spec with the pooling, the normalisation and the length that the packaged folder will have.

    Raises WorkerError for a base whose modules do more than pool and normalise, where the training saves no modules.
    """
    longest, dims = config.get("max_position_embeddings"), config.get("hidden_size")
    folder = whole or base_folder
    modules = read_modules(folder)
    kinds, pooling = [module.kind for module in modules], read_pooling(folder, modules)
    if isinstance(longest, int) and 0 < longest < spec.max_length:
        spec = replace(spec, max_length=longest)
    if whole:
        known = pooling if pooling in POOLING_KEYS else None
        return replace(spec, pooling=known, normalize="Normalize" in kinds)
    wrong = [dim for dim in (*spec.mrl_dims, spec.truncate_dim or 1) if isinstance(dims, int) and dim > dims]
    if wrong:
        raise WorkerError(f"the scoring spec asks for {wrong[0]} dimensions, but the model's vectors have {dims}")
    if others := [kind for kind in kinds if kind not in {name for _, name in MODULES}]:
        raise WorkerError(f"{base} has the module {others[0]}, which cannot be packaged")
    if spec.pooling is None and pooling is None:
        raise WorkerError(f"neither the scoring spec nor {base} says how the model pools")
    return replace(spec, pooling=spec.pooling or pooling)


def write_modules(folder: Path, spec: EmbeddingSpec, whole: Path | None) -> None:
    """Make the folder give the trained vectors with its own prompts and length; a `whole` model keeps its modules.

    Written as the folder of Qwen3-Embedding has it.
    """
    if whole is not None:
        modules = copy_modules(whole, folder, spec)
    else:
        write_pooling(folder / "1_Pooling", [spec.pooling], read_json(folder / "config.json")["hidden_size"])
        # it has no settings, but a folder that modules.json names is there
        write_json(folder / "2_Normalize" / "config.json", {})
        write_json(folder / SETTINGS, {"max_seq_length": spec.max_length, "do_lower_case": False})
        modules = [(path, OLD + kind) for path, kind in MODULES if spec.normalize or kind != "Normalize"]
    prompts = {"query": spec.query_prompt, "document": spec.document_prompt}
    sentence_transformers.write_modules(folder, modules, prompts=prompts, similarity_fn_name="cosine")
