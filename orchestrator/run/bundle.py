"""One archive of a run to attach to an issue: what was asked, done, logged and measured, without weights and rows."""

from __future__ import annotations

import fnmatch
import json
import os
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from orchestrator.errors import RunFolderError
from orchestrator.logs.row_texts import hide_details, hide_probes, hide_rows, load_row_texts
from orchestrator.machine.files import open_fresh
from orchestrator.machine.places import find_home
from orchestrator.machine.rundir import RunDir
from orchestrator.machine.secrets import find_secret_values, redact_text

BUNDLE_VERSION = 1
HEAD_BYTES = 256 << 10
TAIL_BYTES = 2 << 20
# Patterns of paths relative to the run folder. Whatever matches none of them stays out: a new file of a backend is more
# likely to hold rows or weights than to help.
_TAKEN = (
    "recipe.yaml", "plan.json", "run.sh", "provenance.json", "events.jsonl", "state.json", "report.json",
    "reproduction.json", "loss_curve.png", "files/*",
    "data/ledger.json", "data/ledger.failed.json", "data/stats.json", "data/guard/*/ledger.json",
    "data/train/*/ledger.json", "data/train/*/stats.json",
    "stages/*/command.sh", "stages/*/command.json", "stages/*/result.json", "stages/*/exit_code",
    "stages/*/stdout.log", "stages/*/stderr.log", "stages/*/stacks.txt",
    "stages/*/output/verification.json", "stages/*/output/scoring.json", "stages/*/output/config.json",
    "stages/*/output/logging.jsonl", "stages/*/output/args.json", "stages/*/output/adapter_config.json",
    "stages/*/output/checkpoint-*/trainer_state.json", "stages/*/output/checkpoint-*/adapter_config.json",
    "model/scoring.json", "model/config.json",
)  # fmt: skip
# They quote the user's rows.
_WITH_ROWS = (
    "report.html", "metrics.json", "data/*.jsonl", "data/guard/*/*.jsonl", "data/train/*/*.jsonl",
    "stages/*/output/scores.jsonl", "stages/*/output/rows.jsonl", "stages/*/output/pairs.jsonl", "model/README.md",
)  # fmt: skip
_RENDERED = ("recipe.yaml", "plan.json", "run.sh", "files/*", "stages/*/command.sh")
# What is known of a file that quotes rows, by the beginning of its name; all others are read as logs.
_HIDES = {"verification.": hide_probes, "ledger.": hide_details}
_BINARY = frozenset({".png"})


@dataclass(frozen=True)
class Entry:
    """One file of the archive. `bytes` is its size in the run; `cut` says that its middle was left out."""

    path: str
    bytes: int
    cut: bool = False


@dataclass(frozen=True)
class _File:
    name: str
    content: str | bytes
    size: int
    cut: bool = False


@dataclass(frozen=True)
class Bundle:
    """An archive that was written, what it holds, and how many files and bytes were left out."""

    path: Path
    entries: tuple[Entry, ...]
    left_out: int
    left_out_bytes: int


def write_bundle(run: RunDir, target: Path, *, with_data: bool = False) -> Bundle:
    """Write the archive (zip) of a run to `target`, whole or not at all; secrets of this environment are blotted out.

    Logs and JSON Lines keep their first 256 KiB and last 2 MiB. Without `with_data` no text of the prepared data is in
    it, wherever it may stand: rows that a trainer prints, probes, problems that quote a row.

    Raises RunFolderError when it cannot be written.
    """
    if os.path.lexists(target):
        raise _exists(target)
    if run.data.is_symlink() and not with_data:  # what lies there is not this run's, and may be a whole disk
        raise RunFolderError(f"data is a link to {run.data.readlink()}", hint="put in its place what it leads to")
    taken = _TAKEN + (_WITH_ROWS if with_data else ())
    entries: list[Entry] = []
    left_out = left_out_bytes = 0
    try:
        with open_fresh(target, replace=False) as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
            found = []
            for path, name in _list_files(run.root):
                if any(_matches(name, pattern) for pattern in taken):
                    found.append(_read(name, path, with_data=with_data))
                else:
                    left_out, left_out_bytes = left_out + 1, left_out_bytes + path.stat().st_size
            for file in found if with_data else _hide_texts(found, run):
                archive.writestr(f"{run.root.name}/{file.name}", file.content)
                entries.append(Entry(f"{run.root.name}/{file.name}", file.size, file.cut))
            manifest = {
                "version": BUNDLE_VERSION,
                "run": run.root.name,
                "with_data": with_data,
                "files": [asdict(entry) for entry in entries],
                "left_out": {"files": left_out, "bytes": left_out_bytes},
            }
            archive.writestr(f"{run.root.name}/bundle.json", json.dumps(manifest, indent=2) + "\n")
    except OSError as error:
        if isinstance(error, FileExistsError) and os.path.lexists(target):
            raise _exists(target) from None
        raise RunFolderError(f"{target} cannot be written: {error}", hint="name another file with -o") from error
    return Bundle(target, tuple(entries), left_out, left_out_bytes)


def _matches(name: str, pattern: str) -> bool:
    """Tell whether a relative path fits a pattern part by part: a star does not cross a slash."""
    parts, wanted = name.split("/"), pattern.split("/")
    return len(parts) == len(wanted) and all(map(fnmatch.fnmatchcase, parts, wanted))


def _list_files(root: Path) -> Iterator[tuple[Path, str]]:
    """Yield (path, path relative to the run) of every file; links are not followed, they may lead anywhere."""
    for folder, folders, names in os.walk(root):
        folders.sort()
        for name in sorted(names):
            path = Path(folder) / name
            if path.is_file() and not path.is_symlink():
                yield path, path.relative_to(root).as_posix()


def _read(name: str, path: Path, *, with_data: bool) -> _File:
    size = path.stat().st_size
    if path.suffix in _BINARY:
        return _File(name, path.read_bytes(), size)
    cut = size > HEAD_BYTES + TAIL_BYTES and path.suffix in {".log", ".jsonl", ".txt"}
    with path.open("rb") as stream:
        if cut:
            head = stream.read(HEAD_BYTES)
            stream.seek(-TAIL_BYTES, os.SEEK_END)
            content = head + b"\n[...]\n" + stream.read()
        else:
            content = stream.read()
    text = content.decode("utf-8", errors="replace")
    if not with_data:
        hide = next((hide for start, hide in _HIDES.items() if path.name.startswith(start)), hide_rows)
        text = hide(text)
    return _File(name, _disguise(text), size, cut)


def _hide_texts(files: Sequence[_File], run: RunDir) -> Sequence[_File]:
    """Return the files without any text of the prepared data; what the recipe itself says stays."""
    contents = {file.name: file.content for file in files if isinstance(file.content, str)}
    rendered = "\n".join(content for name, content in contents.items() if _is_rendered(name))
    own = {name: content for name, content in contents.items() if not _is_rendered(name)}
    texts = load_row_texts(run.data, list(own.values()), public=rendered)
    return [replace(file, content=texts.hide(own[file.name])) if file.name in own else file for file in files]


def _is_rendered(name: str) -> bool:
    """Tell whether a file is the recipe or rendered from it: it was there before any row was read."""
    return any(_matches(name, pattern) for pattern in _RENDERED)


def _exists(target: Path) -> RunFolderError:
    return RunFolderError(f"{target} exists", hint="name another file with -o")


def _disguise(text: str) -> str:
    """Return the text without this environment's secrets and without the name of the home folder."""
    public = redact_text(text, find_secret_values(os.environ))
    home = str(find_home())
    return public if home == "/" else public.replace(f"{home}/", "~/")
