"""Write a folder by which a server serves a model that Orch did not package: its files, its prompt, scoring.json.

Weights are links. What is missing is written as a package has it: the chat template that puts query and document into a
reranker's prompt, and the modules of an embedding model that has none. The model itself is left as it is.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from orchestrator.workers.embedding.folder import settle, write_modules
from orchestrator.workers.engines.transformers import load_tokenizer
from orchestrator.workers.eval_files import EXAMPLES
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.folders import fresh_folder, read_json, write_json
from orchestrator.workers.reranker import folder as packaging
from orchestrator.workers.specs import SCORERS, load_raw_spec, parse_embedding_spec, parse_spec

_WEIGHTS = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".h5", ".msgpack"}


def copy_or_link(source: str, target: str) -> str:
    """Link weights, which nothing here changes, and copy all else."""
    if Path(source).suffix in _WEIGHTS:
        Path(target).symlink_to(Path(source).resolve())
        return target
    return str(shutil.copyfile(source, target))


def write_served(model: Path, raw: dict[str, Any], folder: Path) -> None:
    """Fill `folder`. Raises WorkerError for a model whose prompt or modules cannot be written."""
    shutil.copytree(model, folder, copy_function=copy_or_link, ignore=shutil.ignore_patterns(".*"), dirs_exist_ok=True)
    found: dict[str, Any] = {}
    kind = SCORERS[raw["scorer"]]["kind"]
    if kind == "embedding" and not (folder / "modules.json").is_file():
        spec = parse_embedding_spec(raw, "the scoring spec")
        write_modules(folder, settle(spec, str(model), folder, read_json(folder / "config.json"), None), None)
    elif kind == "reranker" and raw["scorer"] != "cross-encoder":
        pairs = parse_spec(raw, "the scoring spec")
        found = packaging.write_format(folder, pairs, model)
        trained = load_tokenizer(model, trust_remote_code=pairs.trust_remote_code)
        flag = pairs.scorer == "flag-llm-reranker"
        if flag and not packaging.write_exact_template(folder, pairs, trained, EXAMPLES):
            raise WorkerError(
                f"{model}: its tokenizer joins tokens across the parts of FlagEmbedding's prompt, so that a server's "
                "chat template only comes near it: load it with FlagEmbedding"
            )
    write_json(folder / "scoring.json", {**raw, **found})


def main(argv: list[str]) -> int:
    """Write the folder `--out`, which appears whole or not at all."""
    parser = argparse.ArgumentParser(prog="workers serve_folder", description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", type=Path, required=True, help="the model's folder")
    parser.add_argument("--scoring", type=Path, required=True, help="the scoring spec, JSON")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(argv)
    with fresh_folder(options.out) as folder:
        write_served(options.model, load_raw_spec(options.scoring), folder)
    return 0
