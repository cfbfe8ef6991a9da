"""Locks that a killed compilation leaves, on which every later run would wait for ever without a word.

torch/utils/file_baton.py marks a build with a file named `lock` that nobody owns: whoever is killed while PyTorch or
DeepSpeed compiles an extension leaves it, and the next process polls for its removal without end.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from orchestrator.machine.process import Processes

VARIABLE = "TORCH_EXTENSIONS_DIR"
# Where torch and DeepSpeed build (torch/utils/cpp_extension.py): EXTENSION, or PYTHON_AND_CUDA/EXTENSION.
_PLACES = ("*/lock", "*/*/lock")
_BUILD = "build.ninja"


def clear_stale_build_locks(env: dict[str, str], processes: Processes) -> list[str]:
    """Remove the locks of builds in the folder that `env` names, unless a live process works with that folder.

    Only a folder that the plan itself names is touched: in it nobody but Orch's stages builds. Other files are called
    `lock` too: only an empty one beside a build's own file goes, and none that somebody holds. Returns a sentence for
    each lock that was removed.
    """
    folder = env.get(VARIABLE)
    if not folder:
        return []
    locks = list(_find_build_locks(Path(folder)))
    if not locks or processes.find_carriers(f"{VARIABLE}={folder}"):
        return []
    return [f"removed the lock that a killed compilation left: {path}" for path in locks if _remove_unheld(path)]


def _find_build_locks(folder: Path) -> Iterator[Path]:
    root = folder.resolve()
    for pattern in _PLACES:
        for path in sorted(folder.glob(pattern)):
            is_inside = root in path.parent.resolve().parents  # a link may lead anywhere
            if is_inside and path.is_file() and not path.is_symlink() and (path.parent / _BUILD).is_file():
                yield path


def _remove_unheld(path: Path) -> bool:
    """Remove an empty file that no process has locked; tell whether that was done."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_size == 0:
                path.unlink()
                return True
        finally:
            os.close(descriptor)
    return False
