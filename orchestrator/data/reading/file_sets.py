"""What one name of data stands for: a file, all data files of a folder, those that a pattern matches, a hub's data set.

Files come in natural order (`part-2` before `part-10`), so that they are the same ones in the same order each time.
"""

from __future__ import annotations

import glob
import os
import re
from dataclasses import replace
from pathlib import Path

import msgspec

from orchestrator.errors import Problem, Where

DELIMITERS = {".csv": ",", ".tsv": "\t"}
SHEET = ".xlsx"
PARQUET = ".parquet"
ARROW = (".arrow", ".feather")
ENDINGS = (".jsonl", ".ndjson", ".json", *DELIMITERS, SHEET, PARQUET, *ARROW)
COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
FILE_ENDINGS = (*ENDINGS, *(f"{ending}{packed}" for ending in ENDINGS for packed in COMPRESSED))
_SIDES = (
    re.compile(r"(?:^|[^a-z])(train|training)(?:[^a-z]|$)"),
    re.compile(r"(?:^|[^a-z])(eval|evaluation|test|testing|dev|valid|validation|val)(?:[^a-z]|$)"),
)
# ms-swift's own notation: HF::owner/name:subset#1000
_SWIFT = re.compile(r"(?:(HF|MS)::)?([\w.-]+/[\w.-]+)(?::([\w./-]+))?(?:#(\d+))?", re.ASCII | re.IGNORECASE)

# What datasets.save_to_disk and the hub put beside the data.
_BESIDE_DATA = frozenset({"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"})


def find_ending(path: Path) -> str:
    """Return the ending that tells what rows a file holds: of `rows.jsonl.gz` it is `.jsonl`."""
    suffix = path.suffix.lower()
    return path.with_suffix("").suffix.lower() if suffix in COMPRESSED else suffix


def expand_name(folder: Path, name: str) -> tuple[str, ...] | Problem:
    """Return the names of the files that `name` stands for from `folder`; a data set of a hub stays as it is.

    Returns the problem of a name that stands for none, or for files that cannot be one side of the data.
    """
    try:
        path = folder / Path(name).expanduser()
        if path.is_file():
            return (name,)
        if path.is_dir():
            return _list_folder(name, path)
        if parse_hub_id(name) is not None:
            return (name,)
        if glob.has_magic(name):
            return _match(folder, name)
        what = "not a file" if path.exists() else "no such file"
    except (OSError, RuntimeError, ValueError) as error:  # a name that is too long, the home of nobody
        what = f"no such file ({getattr(error, 'strerror', None) or error})"
    return _explain_missing(folder, name, what)


_TEXT_FILES = ("corpus", "queries")  # of rows that name texts by ids, beside them or, in BEIR's folders, above qrels/


def find_beside(path: Path) -> dict[str, Path]:
    """Return the files that hold the texts of a file of ids, by `corpus` and `queries`; {} where there are none."""
    folder = path.parent.parent if path.parent.name == "qrels" else path.parent
    found = {}
    for name in _TEXT_FILES:
        there = (folder / f"{name}.jsonl{packed}" for packed in ("", *COMPRESSED))
        if (file := next((one for one in there if one.is_file()), None)) and file != path:
            found[name] = file
    return found if "corpus" in found else {}


def list_inputs(files: tuple[str, ...]) -> tuple[str, ...]:
    """Return files with those that hold their texts."""
    beside = (str(path) for file in files for path in find_beside(Path(file)).values())
    return tuple(dict.fromkeys((*files, *beside)))


def _list_folder(name: str, path: Path) -> tuple[str, ...] | Problem:
    children = [child for child in path.iterdir() if not child.name.startswith(".") and child.is_file()]
    if any(child.name == "config.json" for child in children):
        return Problem(f"a model's folder, and no data: {name}", f"paths start from {path.parent}")
    if (path / "qrels").is_dir() and find_beside(path / "qrels" / "any"):
        shown = name.rstrip("/")
        splits = sorted(f"{shown}/qrels/{one.name}" for one in (path / "qrels").iterdir() if _holds_rows(one))
        if len(splits) > 1:
            return Problem(f"a folder of BEIR with several splits: {name}", f"name one of them: {', '.join(splits)}")
        if splits:
            return tuple(splits)
    files = [f"{name.rstrip('/')}/{child.name}" for child in children if _holds_rows(child)]
    if files:
        return _in_order(files, f"the folder {name}", name)
    inner = sorted(child.name for child in path.iterdir() if child.is_dir() and not child.name.startswith("."))
    hint = f"name one of its folders: {', '.join(inner[:5])}" if inner else f"data files end in {', '.join(ENDINGS)}"
    return Problem(f"a folder without data files: {name}", hint)


def _holds_rows(path: Path) -> bool:
    return find_ending(path) in ENDINGS and path.name not in _BESIDE_DATA


def _match(folder: Path, name: str) -> tuple[str, ...] | Problem:
    pattern = str(folder / Path(name).expanduser())
    found = [path for path in glob.glob(pattern, recursive=True) if Path(path).is_file()]  # noqa: PTH207  ** and ~
    files = [path for path in found if _holds_rows(Path(path))]
    if not files:
        return Problem(f"no data file matches the pattern: {name}", f"paths start from {folder}")
    relative = not (name.startswith("~") or Path(name).is_absolute())
    shown = [os.path.relpath(path, folder) for path in files] if relative else files
    return _in_order(shown, f"the pattern {name}", str(Path(name).parent))


def _in_order(files: list[str], what: str, folder: str) -> tuple[str, ...] | Problem:
    """Return the files in natural order, or why they cannot be read as one."""
    endings = sorted({find_ending(Path(file)) for file in files})
    if len(endings) > 1:
        patterns = " or ".join(str(Path(folder, f"*{ending}")) for ending in endings)
        return Problem(f"{what} holds files of several forms: {', '.join(endings)}", f"name one form: {patterns}")
    names = [Path(file).name.lower() for file in files]
    if all(any(side.search(name) for name in names) for side in _SIDES):
        hint = f"name the files of one side, such as {Path(folder, f'*train*{endings[0]}')}"
        return Problem(f"{what} holds files of both sides, to train on and to evaluate on", hint)
    parts = {file: re.split(r"(\d+)", file) for file in files}
    natural = {file: [(0, int(one), "") if one.isdecimal() else (1, 0, one) for one in parts[file]] for file in files}
    return tuple(sorted(files, key=natural.__getitem__))


def _explain_missing(folder: Path, name: str, what: str) -> Problem:
    parts = [part.strip() for part in name.split(",")]
    if len(parts) > 1 and all(parts):
        return Problem(f"{what}: {_shorten(name)}", f"several files are a list: [{', '.join(map(_shorten, parts))}]")
    swift = _SWIFT.fullmatch(name)
    if swift and (swift[1] or swift[4] or swift[3]) and not name.lower().endswith(ENDINGS):
        subset = f"/{swift[3]}" if swift[3] else ""
        split = f"train[:{swift[4]}]" if swift[4] else "train"
        hint = f"that is ms-swift's notation; for the Hugging Face hub say {swift[2]}{subset}:{split}"
        if (swift[1] or "MS").upper() == "MS":
            hint += f"; for ModelScope, ms://{swift[2]}{subset}:{split}"
        return Problem(f"{what}: {_shorten(name)}", hint)
    return Problem(f"{what}: {_shorten(name)}", f"paths start from {folder}")


def _shorten(text: str) -> str:
    return text if len(text) <= 120 else text[:119] + "…"  # noqa: PLR2004  characters of a name in a message


def expand_paths(paths: tuple[Path, ...]) -> tuple[Path, ...] | Problem:
    """Return the files of a command line, its folders and quoted patterns expanded; what is missing stays as it is."""
    found: list[Path] = []
    for path in paths:
        name = str(path)
        if not (path.is_dir() or (glob.has_magic(name) and not path.exists())):
            found.append(path)
            continue
        files = expand_name(Path(), name)
        if isinstance(files, Problem):
            return replace(files, where=Where(name))
        found += map(Path, files)
    return tuple(found)


_NAME = r"[A-Za-z0-9][\w.-]*"
# A split may be a part of one, as the datasets library slices them: train[:1000], train[10%:20%]
_ID = re.compile(
    rf"(?:(hf|ms)://)?({_NAME}/{_NAME})(?:@([\w.-]+))?(?:/({_NAME}))?(?::(\w[\w.]*(?:\[[\d%:+-]*\])?))?", re.ASCII
)


class HubId(msgspec.Struct, frozen=True):
    """A data set on a hub (hf or ms), and where they are named its config, its split and its revision."""

    id: str
    config: str | None = None
    split: str | None = None
    hub: str = "hf"
    revision: str | None = None

    def __str__(self) -> str:
        """Return the name as recipes write it."""
        config = f"/{self.config}" if self.config else ""
        revision = f"@{self.revision}" if self.revision else ""
        head = "ms://" if self.hub == "ms" else ""
        return f"{head}{self.id}{revision}{config}" + (f":{self.split}" if self.split else "")


def parse_hub_id(text: str) -> HubId | None:
    """Return the data set that `text` names, or None where it names a file or nothing.

    Whether a file of that name exists is for the caller to look up first. A config is only read together with a split:
    `data/raw/rows` is a path.
    """
    found = _ID.fullmatch(text)
    if found is None or text.lower().endswith(FILE_ENDINGS):
        return None
    hub, name, revision, config, split = found.groups()
    if config and not split:
        return None
    return HubId(name, config, split, hub or "hf", revision)
