"""The configuration files that make sentence-transformers (and vLLM) load a folder as an embedding model.

Written as the folder of Qwen3-Embedding has them, in the names of before sentence-transformers 6: version 6 reads these
too, older ones and vLLM (`get_pooling_config` in vllm/transformers_utils/config.py) read no others.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.workers.environment import read_versions
from orchestrator.workers.folders import write_json
from orchestrator.workers.tokenizer_files import read_json

if TYPE_CHECKING:
    from orchestrator.workers.embedding.spec import EmbeddingSpec

MODULES = (("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Normalize", "Normalize"))
# in this order: older vLLM takes the first that is true, and include_prompt is always
POOLING_KEYS = {
    "cls": "pooling_mode_cls_token",
    "mean": "pooling_mode_mean_tokens",
    "max": "pooling_mode_max_tokens",
    "mean_sqrt_len_tokens": "pooling_mode_mean_sqrt_len_tokens",
    "weightedmean": "pooling_mode_weightedmean_tokens",
    "lasttoken": "pooling_mode_lasttoken",
}


@dataclass(frozen=True)
class OwnModules:
    """What a folder's modules.json says: its pooling, and modules that are none of `MODULES`."""

    pooling: str | None = None
    others: tuple[str, ...] = ()


def read_own_modules(folder: Path) -> OwnModules:
    """Return what the folder says of itself; nothing for one without modules.json."""
    path = folder / "modules.json"
    if not path.is_file():
        return OwnModules()
    modules: list[dict[str, str]] = json.loads(path.read_text(encoding="utf-8"))
    kinds = {module["type"].rsplit(".", 1)[-1]: module["path"] for module in modules}
    others = tuple(kind for kind in kinds if kind not in {name for _, name in MODULES})
    config = read_json(folder / kinds["Pooling"] / "config.json") if "Pooling" in kinds else {}
    pooling = config.get("pooling_mode") or next((name for name, key in POOLING_KEYS.items() if config.get(key)), None)
    return OwnModules(pooling if isinstance(pooling, str) else None, others)


def write_embedding_files(folder: Path, spec: EmbeddingSpec) -> None:
    """Make the folder give normalised vectors with the spec's pooling, prompts and length."""
    listed: list[dict[str, Any]] = [
        {"idx": index, "name": str(index), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for index, (path, kind) in enumerate(MODULES)
    ]
    write_json(folder / "modules.json", listed)
    dims = read_json(folder / "config.json")["hidden_size"]
    modes = {key: name == spec.pooling for name, key in POOLING_KEYS.items()}
    write_json(
        folder / "1_Pooling" / "config.json", {"word_embedding_dimension": dims, **modes, "include_prompt": True}
    )
    # it has no settings, but a folder that modules.json names is there
    write_json(folder / "2_Normalize" / "config.json", {})
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": spec.max_length, "do_lower_case": False})
    versions = read_versions()
    names = (("sentence_transformers", "sentence-transformers"), ("transformers",) * 2, ("pytorch", "torch"))
    write_json(
        folder / "config_sentence_transformers.json",
        {
            "__version__": {name: versions.get(package) for name, package in names},
            "prompts": {"query": spec.query_prompt, "document": spec.document_prompt},
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
    )
