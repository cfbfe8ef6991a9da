"""What makes a merged folder the whole SentenceTransformer: its modules, prompts and settings, and the same vectors."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

from orchestrator.workers.failure import WorkerError
from orchestrator.workers.merge_trial import TEXTS
from orchestrator.workers.pickles import weight_options
from orchestrator.workers.tokenizer_files import copy_tokenizer, read_json
from orchestrator.workers.verification_checks import MERGE_TOLERANCE, compare
from orchestrator.workers.whole_weights import VECTORS, require_whole

MODULES = "modules.json"
_SETTINGS = ("config_sentence_transformers.json", "sentence_*_config.json")
_ADAPTER = ("adapter_config.json", "adapter_model.safetensors")


def find_modules(adapter: Path, base: str | None) -> Path | None:
    """Return the folder that says which modules follow the transformer: the adapter's, else the base's, or None."""
    if (adapter / MODULES).is_file():
        return adapter
    if base is None:
        return None
    if Path(base).is_dir():
        return Path(base) if (Path(base) / MODULES).is_file() else None
    from huggingface_hub import snapshot_download

    small = [MODULES, *_SETTINGS, "*/config.json", "[0-9]_*/*.safetensors"]
    try:
        found = Path(snapshot_download(base, allow_patterns=small))
    except Exception:  # noqa: BLE001  no hub, no such model: what loads the base says so
        return None
    return found if (found / MODULES).is_file() else None


def copy_modules(source: Path, target: Path) -> None:
    """Copy modules.json, the folders that it names and the prompts. Raises WorkerError for what is not there."""
    modules = json.loads((source / MODULES).read_text(encoding="utf-8"))
    for module in modules:
        named = PurePosixPath(str(module.get("path", "")))
        if named.is_absolute() or ".." in named.parts:
            raise WorkerError(f"{source / MODULES} names {named}, which is outside of its folder")
        if named.parts and (source / named).is_dir():  # Normalize has no files, and hubs keep no empty folders
            shutil.copytree(source / named, target / named, dirs_exist_ok=True)
    shutil.copyfile(source / MODULES, target / MODULES)
    for pattern in _SETTINGS:
        for path in source.glob(pattern):
            shutil.copyfile(path, target / path.name)


def compare_vectors(
    modules: Path, adapter: Path, base: str, merged: Path, dtype: str, *, trust_remote_code: bool
) -> dict[str, Any]:
    """Return how the vectors of the merged folder compare with those of base and adapter under the same modules."""
    with tempfile.TemporaryDirectory(prefix="orch-merge-") as place:
        adapted = Path(place)  # the adapter's own folder names a base, which may be another than the one that was asked
        copy_modules(modules, adapted)
        copy_tokenizer(merged, adapted)
        shutil.copyfile(adapter / _ADAPTER[1], adapted / _ADAPTER[1])
        named = str(Path(base).resolve()) if Path(base).is_dir() else base
        config = {**read_json(adapter / _ADAPTER[0]), "base_model_name_or_path": named}
        (adapted / _ADAPTER[0]).write_text(json.dumps(config), encoding="utf-8")
        expected = _embed(adapted, dtype, trust_remote_code=trust_remote_code)
    found = _embed(merged, dtype, trust_remote_code=trust_remote_code)
    if len(found) != len(expected):
        return {"passed": False, "max_difference": None, "tolerance": None}
    passed, numbers = compare(found, expected, MERGE_TOLERANCE.get(dtype, max(MERGE_TOLERANCE.values())))
    return {"passed": passed, **{key: numbers[key] for key in ("max_difference", "tolerance")}}


def _embed(folder: Path, dtype: str, *, trust_remote_code: bool) -> list[float]:
    """Return the vectors of the texts as queries and as documents, one number after the other."""
    from sentence_transformers import SentenceTransformer

    require_whole(folder, VECTORS, trust_remote_code=trust_remote_code)
    model = SentenceTransformer(
        str(folder),
        device="cpu",
        trust_remote_code=trust_remote_code,
        model_kwargs={"torch_dtype": dtype, **weight_options()},
    )
    options = {"show_progress_bar": False, "convert_to_numpy": True}
    vectors = [*model.encode_query(list(TEXTS), **options), *model.encode_document(list(TEXTS), **options)]
    return [float(value) for vector in vectors for value in vector]
