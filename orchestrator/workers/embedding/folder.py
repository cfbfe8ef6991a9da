"""What stands around an embedding model's weights: the end token that it is read from, pooling, prompts and lengths."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.workers.engines import sentence_transformers
from orchestrator.workers.engines.transformers import load_tokenizer
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.folders import read_objects, write_json
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


# in this order: older vLLM takes the first that is true, and include_prompt is always
POOLING_KEYS = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}
MODULES = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))


def read_own_modules(folder: Path) -> tuple[str | None, list[str]]:
    """Return what the folder's modules.json says, if there is one: its pooling, and modules that are not `MODULES`."""
    path = folder / "modules.json"
    modules = read_objects(path, "the list of modules") if path.is_file() else []
    kinds = {str(module["type"]).rsplit(".", 1)[-1]: module["path"] for module in modules}
    others = [kind for kind in kinds if kind not in {name for _, name in MODULES}]
    config = read_json(folder / kinds["Pooling"] / "config.json") if "Pooling" in kinds else {}
    pooling = config.get("pooling_mode") or next((name for name, key in POOLING_KEYS.items() if config.get(key)), None)
    return pooling if isinstance(pooling, str) else None, others


def settle(spec: EmbeddingSpec, base: str, base_folder: Path, config: Mapping[str, Any]) -> EmbeddingSpec:
    """Return the spec with the pooling and the length that the packaged folder will have.

    Raises WorkerError for a base whose modules do more than pool and normalise: swift does not save what they do.
    """
    longest, dims = config.get("max_position_embeddings"), config.get("hidden_size")
    pooling, others = read_own_modules(base_folder)
    if isinstance(longest, int) and 0 < longest < spec.max_length:
        spec = replace(spec, max_length=longest)
    wrong = [dim for dim in (*spec.mrl_dims, spec.truncate_dim or 1) if isinstance(dims, int) and dim > dims]
    if wrong:
        raise WorkerError(f"the scoring spec asks for {wrong[0]} dimensions, but the model's vectors have {dims}")
    if others:
        raise WorkerError(f"{base} has the module {others[0]}, which cannot be packaged")
    if spec.pooling is None and pooling is None:
        raise WorkerError(f"neither the scoring spec nor {base} says how the model pools")
    return replace(spec, pooling=spec.pooling or pooling)


def write_modules(folder: Path, spec: EmbeddingSpec) -> None:
    """Make the folder give normalised vectors with the spec's pooling, prompts and length.

    Written as the folder of Qwen3-Embedding has it, in the names of before sentence-transformers 6: version 6 reads
    these too, older ones and vLLM (`get_pooling_config` in vllm/transformers_utils/config.py) read no others.
    """
    modes = {key: name == spec.pooling for name, key in POOLING_KEYS.items()}
    dims = read_json(folder / "config.json")["hidden_size"]
    settings: dict[str, dict[str, Any]] = {
        "1_Pooling/config.json": {"word_embedding_dimension": dims, **modes, "include_prompt": True},
        # it has no settings, but a folder that modules.json names is there
        "2_Normalize/config.json": {},
        "sentence_bert_config.json": {"max_seq_length": spec.max_length, "do_lower_case": False},
    }
    for name, value in settings.items():
        write_json(folder / name, value)
    sentence_transformers.write_modules(
        folder,
        [(path, f"sentence_transformers.models.{kind}") for path, kind in MODULES],
        prompts={"query": spec.query_prompt, "document": spec.document_prompt},
        similarity_fn_name="cosine",
    )
