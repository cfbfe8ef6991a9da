"""What packaging has in common for every kind of model: its request, its copied files, its description, its report."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from orchestrator.workers.environment import read_versions
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.folders import write_json
from orchestrator.workers.kinds import Request
from orchestrator.workers.tokenizer_files import copy_tokenizer, has_tokenizer, read_json
from orchestrator.workers.verification_checks import check_weights, list_failures
from orchestrator.workers.weights import INDEX, WeightScan, hash_file, require_safetensors, scan_weights

NOT_HASHED = ("README.md", "scoring.json")


def copy_model(request: Request, folder: Path, *, trust_remote_code: bool = False) -> None:
    """Copy config, weights (byte for byte) and tokenizer. Raises WorkerError for pickles or parts that are missing."""
    if not (request.model / "config.json").is_file():
        raise WorkerError(
            f"{request.model} holds no config.json: it is not a whole model (an adapter must be merged first)"
        )
    files = require_safetensors(request.model)
    for path in files:
        shutil.copyfile(path, folder / path.name)
    extra = ["config.json", "generation_config.json", INDEX]
    if trust_remote_code:
        extra += [path.name for path in request.model.glob("*.py")]
    for name in extra:
        if (request.model / name).is_file():
            shutil.copyfile(request.model / name, folder / name)
    copy_tokenizer(find_tokenizer(request), folder)


def restore_cache(folder: Path) -> None:
    """Turn a decoder's cache on again: trainers save it off, and generation is needlessly slow without."""
    config = read_json(folder / "config.json")
    if config.get("use_cache") is False:
        write_json(folder / "config.json", {**config, "use_cache": True})


def find_tokenizer(request: Request) -> Path:
    """Return the first folder that holds a tokenizer: the model's, else the adapter's, else the base model's."""
    for folder in (request.model, request.adapter, Path(request.base)):
        if folder is not None and has_tokenizer(folder):
            return folder
    raise WorkerError(f"{request.model} holds no tokenizer")


def scan_copied_weights(request: Request, folder: Path) -> WeightScan:
    """Return what the copied weights are like. Raises WorkerError, and reports, when they are broken."""
    scan = scan_weights(require_safetensors(folder))
    if scan.problems:  # nothing else is worth computing
        checks = [check_weights(scan).to_json()]
        write_json(request.report, {"version": 1, "passed": False, "checks": checks, "weights": scan.to_json()})
        raise WorkerError(*(f"weights: {problem}" for problem in scan.problems))
    return scan


def finish_report(request: Request, report: dict[str, Any]) -> None:
    """Write the report, with versions, where the request wants it. Raises WorkerError with one line a failed check."""
    write_json(request.report, {**report, "versions": read_versions()})
    failures = list_failures(report)
    if failures:
        raise WorkerError(*failures)


def hash_and_describe(folder: Path, described: dict[str, Any]) -> None:
    """Write scoring.json, the last file: `described`, versions, and the hash of every file but itself and the card."""
    files = {
        path.relative_to(folder).as_posix(): hash_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in NOT_HASHED
    }
    write_json(folder / "scoring.json", {**described, "versions": read_versions(), "files": files})
