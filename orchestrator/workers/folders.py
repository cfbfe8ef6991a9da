"""Files and folders of a worker: JSON is read by one door, and what is written appears whole or not at all.

A saved tokenizer is made fit to ship here: no truncation or padding left over from training, and the sentinel split.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO, TypeVar

from orchestrator.workers.failure import WorkerError

T = TypeVar("T")
MAX_PROBLEMS = 10


def read_object(path: Path, what: str) -> dict[str, Any]:
    """Return the JSON object in a file; `what` names it. Raises WorkerError where it cannot be read, or is none."""
    found = _read(path, what)
    if not isinstance(found, dict):
        raise WorkerError(f"{path}: not a JSON object, as {what} must be")
    return found


def read_objects(path: Path, what: str) -> list[dict[str, Any]]:
    """Return the JSON list of objects in a file, as `read_object` does the one object."""
    found = _read(path, what)
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise WorkerError(f"{path}: not a JSON list of objects, as {what} must be")
    return found


def _read(path: Path, what: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WorkerError(f"{path}: {what} cannot be read: {error}") from error


def read_rows(path: Path, shape: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield where it stands, and the JSON object, of every line. Raises WorkerError, which says the wanted `shape`."""
    try:
        with path.open(encoding="utf-8") as stream:
            yield from parse_rows(stream, f"{path}:", shape)
    except (OSError, UnicodeDecodeError) as error:
        raise WorkerError(f"{path}: cannot be read: {error}") from error


def parse_rows(lines: Iterable[str], place: str, shape: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield `place` with the line's number, and the JSON object, of every line. Raises WorkerError for any other."""
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            if not isinstance(row, dict):
                raise WorkerError(f"{place}{number}: not {shape}")
            yield f"{place}{number}", row


def parse_all_rows(path: Path, parse: Callable[[Any], T]) -> list[T]:
    """Return what `parse` makes of every line's JSON; it raises ValueError, which says what is wrong.

    Raises WorkerError with the first `MAX_PROBLEMS` bad lines, each with its place, and for a file without any row.
    """
    found: list[T] = []
    problems: list[str] = []
    try:
        with path.open(encoding="utf-8-sig") as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip() and len(problems) < MAX_PROBLEMS:
                    try:
                        found.append(parse(json.loads(line)))
                    except (json.JSONDecodeError, RecursionError) as error:
                        problems.append(f"{path}:{number}: not JSON: {error}")
                    except ValueError as error:
                        problems.append(f"{path}:{number}: {error}")
    except (OSError, UnicodeDecodeError) as error:
        raise WorkerError(f"{path}: the rows cannot be read: {error}") from error
    if problems or not found:
        raise WorkerError(*(problems or [f"{path}: there is no row to learn from"]))
    return found


def refuse_existing(out: Path, *, replace: bool) -> None:
    """Raise WorkerError when `out` exists and is not to be replaced."""
    if not replace and os.path.lexists(out):
        raise WorkerError(f"{out} exists already: choose another or remove it (--replace does)")


@contextlib.contextmanager
def fresh_folder(out: Path) -> Iterator[Path]:
    """Give an empty sibling of `out` that takes its place when the block ends well, and is removed when it does not.

    An `out` that exists stays as it is until the new folder is complete. What a killed attempt left is removed first.
    """
    out = Path(os.path.abspath(out))  # noqa: PTH100  resolve() would follow a link and replace its target
    out.parent.mkdir(parents=True, exist_ok=True)
    for stale in out.parent.glob(f".{out.name}.*.part"):
        shutil.rmtree(stale, ignore_errors=True)
    part = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.", suffix=".part"))
    part.chmod(0o755)
    aside = None
    try:
        yield part
        if out.exists():  # put aside by rename, and removed when the new one is in its place
            aside = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}.", suffix=".part"))
            out.rename(aside / "old")
        part.rename(out)
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def write_text(path: Path, text: str, mode: int = 0o666) -> None:
    """Write `text` (UTF-8, LF) by rename; `mode` as of os.open, for a new file."""
    with open_fresh(path, mode) as stream:
        stream.write(text)


@contextlib.contextmanager
def open_fresh(path: Path, mode: int = 0o666) -> Iterator[TextIO]:
    """Open a text file (UTF-8, LF) that becomes `path` when the block ends well, and is removed when it does not.

    It lies beside `path` under a random name and is on the disk before it is renamed; a link is replaced, not followed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name[:40]}.{secrets.token_hex(8)}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="\n") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def replace_link(link: Path, target: str) -> None:
    """Point `link` to its neighbour `target`, by rename."""
    part = link.with_name(f".{link.name[:40]}.{secrets.token_hex(8)}.part")
    part.symlink_to(target, target_is_directory=True)
    part.replace(link)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON by rename. Raises ValueError for NaN and infinity."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "spiece.model",
    "chat_template.jinja",
)
# This class reads tokenizer.json as it is, while transformers 5 rebuilds a Qwen2Tokenizer's pre-tokenizer from its code
VERBATIM_CLASS = "PreTrainedTokenizerFast"
# what one loading leaves in the next save, and nothing that belongs to a model
LEFTOVERS = ("backend", "is_local", "local_files_only", "chat_template", "max_length", "stride", "truncation_strategy")


def has_tokenizer(folder: Path) -> bool:
    """Tell whether the folder holds a tokenizer."""
    return any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.txt", "vocab.json"))


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the tokenizer's files; truncation and padding, which a trainer leaves in tokenizer.json, become null."""
    for name in FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    core = read_json(target / "tokenizer.json")
    if core.get("truncation") is not None or core.get("padding") is not None:
        write_json(target / "tokenizer.json", {**core, "truncation": None, "padding": None})


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object in the file, or an empty one when there is no file. Raises WorkerError."""
    return read_object(path, "the file") if path.is_file() else {}


def update_settings(folder: Path, **settings: Any) -> None:
    """Set keys of tokenizer_config.json and drop what an earlier loading left in it."""
    path = folder / "tokenizer_config.json"
    kept = {key: value for key, value in read_json(path).items() if key not in LEFTOVERS}
    write_json(path, {**kept, **settings})


def add_sentinel(folder: Path, sentinel: str) -> bool:
    """Make tokenizer.json split at `sentinel` and drop it; tell whether it has a pre-tokenizer to stand before.

    Texts without the sentinel keep their ids.
    """
    path = folder / "tokenizer.json"
    core = read_json(path)
    inner = core.get("pre_tokenizer")
    if inner is None:
        return False
    steps = inner["pretokenizers"] if inner["type"] == "Sequence" else [inner]
    split = {"type": "Split", "pattern": {"String": sentinel}, "behavior": "Removed", "invert": False}
    write_json(path, {**core, "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, *steps]}})
    update_settings(folder, tokenizer_class=VERBATIM_CLASS)
    return True


def set_chat_template(folder: Path, template: str) -> None:
    """Write chat_template.jinja, the only chat template of the folder."""
    write_text(folder / "chat_template.jinja", template)
