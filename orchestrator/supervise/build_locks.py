"""Locks that a killed compilation leaves, on which every later run would wait for ever without a word.

torch/utils/file_baton.py marks a build with a file named `lock` that nobody owns: whoever is killed while PyTorch or
DeepSpeed compiles an extension leaves it, and the next process polls for its removal without end.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestrator.process import Processes

VARIABLE = "TORCH_EXTENSIONS_DIR"


def clear_stale_build_locks(env: dict[str, str], processes: Processes) -> list[str]:
    """Remove the locks in the folder that `env` names, unless a live process works with that folder.

    Only a folder that the plan itself names is touched: in it nobody but Orch's stages builds. Returns a sentence for
    each lock that was removed.
    """
    folder = env.get(VARIABLE)
    if not folder:
        return []
    locks = [path for path in Path(folder).rglob("lock") if path.is_file()]
    if not locks or processes.find_carriers(f"{VARIABLE}={folder}"):
        return []
    for path in locks:
        path.unlink(missing_ok=True)
    return [f"removed the lock that a killed compilation left: {path}" for path in locks]
