"""One archive of a run to attach to an issue: what was asked, done, logged and measured, without weights and rows."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
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
            wanted = {path for pattern in taken for path in run.root.glob(pattern)}
            found: dict[str, str | bytes] = {}  # by its path below the run
            for path in _list_files(run.root):
                size = path.stat().st_size
                if path not in wanted:
                    left_out, left_out_bytes = left_out + 1, left_out_bytes + size
                    continue
                name = path.relative_to(run.root).as_posix()
                cut = size > HEAD_BYTES + TAIL_BYTES and path.suffix in {".log", ".jsonl", ".txt"}
                found[name] = _read(path, cut=cut, with_data=with_data)
                entries.append(Entry(f"{run.root.name}/{name}", size, cut))
            for name, content in (found if with_data else _hide_texts(found, run)).items():
                archive.writestr(f"{run.root.name}/{name}", content)
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


def _list_files(root: Path) -> Iterator[Path]:
    """Yield every file; links are not followed, they may lead anywhere."""
    for folder, folders, names in os.walk(root):
        folders.sort()
        paths = (Path(folder) / name for name in sorted(names))
        yield from (path for path in paths if path.is_file() and not path.is_symlink())


def _read(path: Path, *, cut: bool, with_data: bool) -> str | bytes:
    """Return what a file says, or its ends where it is `cut`, without secrets and without the name of the home."""
    if path.suffix in _BINARY:
        return path.read_bytes()
    with path.open("rb") as stream:
        content = stream.read(HEAD_BYTES if cut else -1)
        if cut:
            stream.seek(-TAIL_BYTES, os.SEEK_END)
            content += b"\n[...]\n" + stream.read()
    text = content.decode("utf-8", errors="replace")
    if not with_data:
        hide = next((hide for start, hide in _HIDES.items() if path.name.startswith(start)), hide_rows)
        text = hide(text)
    public, home = redact_text(text, find_secret_values(os.environ)), str(find_home())
    return public if home == "/" else public.replace(f"{home}/", "~/")


def _hide_texts(files: dict[str, str | bytes], run: RunDir) -> dict[str, str | bytes]:
    """Return the files without any text of the prepared data; what the recipe itself says stays."""
    # what is rendered from the recipe was there before any row was read
    rendered = {path.relative_to(run.root).as_posix() for pattern in _RENDERED for path in run.root.glob(pattern)}
    said = "\n".join(str(files[name]) for name in files if name in rendered)
    own = {name: text for name, text in files.items() if isinstance(text, str) and name not in rendered}
    texts = load_row_texts(run.data, list(own.values()), public=said)
    return files | {name: texts.hide(text) for name, text in own.items()}


def _exists(target: Path) -> RunFolderError:
    return RunFolderError(f"{target} exists", hint="name another file with -o")
