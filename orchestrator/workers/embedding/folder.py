"""What stands around an embedding model's weights: the end token that it is read from, pooling, prompts and lengths."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.workers.embedding.modules import (
    OLD,
    POOLING_KEYS,
    SETTINGS,
    copy_modules,
    read_modules,
    read_pooling,
)
from orchestrator.workers.engines import sentence_transformers
from orchestrator.workers.engines.transformers import load_tokenizer
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.folders import write_json
from orchestrator.workers.specs import EmbeddingSpec
from orchestrator.workers.tokenizer_files import read_json

# what Qwen3-Embedding ends every text with, and swift's template qwen3_emb
END_TOKEN = "<|endoftext|>"  # noqa: S105  a token of text


def build_end_processor(index: int) -> Any:
    """Return the post-processor of https://huggingface.co/Qwen/Qwen3-Embedding-0.6B/blob/main/tokenizer.json.

    A post-processor, because every library that reads tokenizer.json then appends the token, once, and because
    truncation leaves room for what a post-processor adds: a text that is cut keeps its end token.
    """
    from tokenizers import processors

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


def ensure_end_token(tokenizer: Any, origin: str) -> None:
    """Make the loaded tokenizer append the end token unless it does. Raises WorkerError where it cannot."""
    if not appends_end_token(tokenizer, origin):
        tokenizer.backend_tokenizer.post_processor = build_end_processor(require_end_token(tokenizer, origin))


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
    core.post_processor = build_end_processor(require_end_token(tokenizer, str(folder)))
    write_json(path, {**read_json(path), "post_processor": json.loads(core.to_str())["post_processor"]})


MODULES = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))


def find_whole(spec: EmbeddingSpec, *trained: Path | None) -> Path | None:
    """Return which folder of the training is a whole SentenceTransformer; ms-swift saves a transformer alone."""
    if not spec.saves_modules:
        return None
    return next((folder for folder in trained if folder and (folder / "modules.json").is_file()), None)


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
        modes = {key: name == spec.pooling for name, key in POOLING_KEYS.items()}
        dims = read_json(folder / "config.json")["hidden_size"]
        settings: dict[str, dict[str, Any]] = {
            "1_Pooling/config.json": {"word_embedding_dimension": dims, **modes, "include_prompt": True},
            # it has no settings, but a folder that modules.json names is there
            "2_Normalize/config.json": {},
            SETTINGS: {"max_seq_length": spec.max_length, "do_lower_case": False},
        }
        for name, value in settings.items():
            write_json(folder / name, value)
        modules = [(path, OLD + kind) for path, kind in MODULES if spec.normalize or kind != "Normalize"]
    prompts = {"query": spec.query_prompt, "document": spec.document_prompt}
    sentence_transformers.write_modules(folder, modules, prompts=prompts, similarity_fn_name="cosine")
