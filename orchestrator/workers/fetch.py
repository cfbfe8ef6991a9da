"""Write one split of a data set on the Hugging Face Hub as JSON Lines."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import math
import os
import re
import sys
from pathlib import Path
from typing import Any

from orchestrator.workers.environment import Progress
from orchestrator.workers.failure import WorkerError, first_line
from orchestrator.workers.folders import open_fresh

HUB_TIMEOUT_S = 10.0  # for the one question that is asked before anything is loaded
BATCH_ROWS = 1000
MEDIA = ("Audio", "Image", "Nifti", "Pdf", "Video")  # features of the datasets library that hold no text
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
WAY_OUT = (
    "set HF_ENDPOINT to a mirror that can be reached; or download the data where the hub can be reached, "
    "and name the .jsonl, .csv or .parquet file in the recipe"
)
HINTS = (
    (r"(?=.*onfig).*(missing|not found)", " (in a recipe: owner/name/CONFIG:split)"),
    ("nknown split", " (in a recipe: owner/name:SPLIT; a subset is no split: owner/name/SUBSET:SPLIT)"),
    (
        "scripts are no longer supported",
        " (its loading code would have to run here: download its data and name the file in the recipe)",
    ),
)


def is_offline() -> bool:
    """Whether the user has forbidden hub calls; the libraries then use what an earlier fetch left in their cache."""
    return any(os.environ.get(name, "").upper() in {"1", "ON", "YES", "TRUE"} for name in OFFLINE)


def require_data_set(name: str, revision: str | None) -> None:
    """Ask the hub for the data set once, because load_dataset asks six times before it gives up. Raises WorkerError."""
    from huggingface_hub import HfApi, errors

    known = (  # a gated repository is one that is not found, for the library
        (errors.HFValidationError, "this is no folder and no name of a data set: {error}"),
        (errors.GatedRepoError, "the data set is gated: accept its conditions on the hub, then set HF_TOKEN"),
        (errors.RevisionNotFoundError, f"the data set has no revision {revision}"),
        (
            errors.RepositoryNotFoundError,
            "the hub has no such data set; check its spelling, and set HF_TOKEN if it is private",
        ),
    )
    try:
        HfApi().dataset_info(name, revision=revision, timeout=HUB_TIMEOUT_S)
    except Exception as error:  # the hub library's HTTP client, and so its errors, change between versions
        hub = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
        unknown = f"the hub {hub} cannot be reached ({{error}}): {WAY_OUT}"
        words = next((words for kind, words in known if isinstance(error, kind)), unknown)
        raise WorkerError(f"{name}: " + words.replace("{error}", first_line(error))) from error


def load_split(name: str, config: str | None, split: str, revision: str | None) -> Any:
    """Return one split of a data set on the hub or in a folder, without its pictures and sounds. Raises WorkerError."""
    is_folder = Path(name).is_dir()
    if not is_folder and not is_offline():
        require_data_set(name, revision)
    import datasets

    datasets.disable_progress_bars()
    try:
        rows = datasets.load_dataset(name, config, split=split, revision=revision)
    except Exception as error:
        if isinstance(error, ConnectionError) and is_offline():
            raise WorkerError(
                f"{name}: it is not in the cache, and the environment forbids to ask the hub (HF_HUB_OFFLINE): "
                "fetch it once without that, or name a file in the recipe"
            ) from error
        if isinstance(error, ConnectionError):
            raise WorkerError(f"{name}: the hub cannot be reached ({first_line(error)}): {WAY_OUT}") from error
        hint = next((hint for pattern, hint in HINTS if re.search(pattern, str(error), re.DOTALL)), "")
        raise WorkerError(f"{name}: split {split} cannot be loaded: {first_line(error)}{hint}") from error
    media = [column for column, feature in rows.features.items() if type(feature).__name__ in MEDIA]
    if media:
        sys.stdout.write(f"left out, as they hold no text: {', '.join(media)}\n")
        rows = rows.remove_columns(media)
    return rows


def to_json(value: Any) -> Any:
    """Return a value as JSON has it; absent ones (None, NaN) leave their key out. Raises ValueError for other bytes."""
    if isinstance(value, dict):
        found = {key: to_json(part) for key, part in value.items()}
        return {key: part for key, part in found.items() if part is not None}
    if isinstance(value, list | tuple):
        return [to_json(part) for part in value]
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, bytes):
        return value.decode()
    return value.isoformat() if isinstance(value, dt.date | dt.time) else value


def write_rows(rows: Any, out: Path) -> None:
    """Write every row to `out`, which appears when it is complete. Raises WorkerError when a row is no JSON."""
    progress = Progress(len(rows))
    with open_fresh(out) as stream:
        for start in range(0, len(rows), BATCH_ROWS):
            batch = rows.select(range(start, min(start + BATCH_ROWS, len(rows)))).to_list()
            for number, row in enumerate(batch, start + 1):
                stream.write(format_row(row, number) + "\n")
            progress.advance(len(batch))


def format_row(row: dict[str, Any], number: int) -> str:
    """Return one line of JSON. Raises WorkerError, with the row's number, when a value is none."""
    try:
        return json.dumps(to_json(row), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise WorkerError(f"row {number} holds a value that JSON has not: {first_line(error)}") from error


def main(argv: list[str]) -> int:
    """Fetch one split of one data set."""
    parser = argparse.ArgumentParser(prog="workers fetch", description=__doc__, allow_abbrev=False)
    parser.add_argument("--id", required=True, help="owner/name on the hub, or a folder that load_dataset reads")
    parser.add_argument("--config", help="the data set's subset, where it has several")
    parser.add_argument("--split", default="train")
    parser.add_argument("--revision", help="a branch, tag or commit; default: the newest")
    parser.add_argument("--out", type=Path, required=True, help="the .jsonl file to write")
    options = parser.parse_args(argv)
    rows = load_split(options.id, options.config, options.split, options.revision)
    if not len(rows):
        raise WorkerError(f"{options.id}: split {options.split} has no rows")
    write_rows(rows, options.out)
    sys.stdout.write(f"{options.id}: {len(rows)} rows of split {options.split} in {options.out}\n")
    return 0
