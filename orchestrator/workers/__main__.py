"""Dispatch `BACKEND_PYTHON /abs/orchestrator/workers NAME …` to the worker of that name.

The backend's Python may not have Orch installed, so a stub package `orchestrator` whose only search path is the folder
above this one stands in for it; and this folder leaves `sys.path`, because its files would shadow other modules.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import sys
import types
from pathlib import Path

WORKERS = (
    "arguments",
    "deploy_with_key",
    "fetch",
    "fresh",
    "inspect_model",
    "launch",
    "inspect_tensors",
    "mend_model",
    "merge",
    "mine",
    "package",
    "predict",
    "score",
    "score_pairs",
    "tiny_model",
    "train_cross_encoder",
    "verify_merge",
)

HERE = Path(__file__).resolve().parent


def adopt_package() -> None:
    """Make `orchestrator.workers` importable from this folder, unless it was started as an installed module."""
    sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != HERE]
    if __package__:  # python -m orchestrator.workers
        return
    stub = types.ModuleType("orchestrator")
    stub.__path__ = [str(HERE.parent)]
    stub.__spec__ = importlib.machinery.ModuleSpec("orchestrator", None, is_package=True)
    stub.__spec__.submodule_search_locations = stub.__path__
    sys.modules["orchestrator"] = stub


def main(argv: list[str]) -> int:
    """Run the worker that `argv[0]` names with the rest of `argv`; return its exit code."""
    if not argv or argv[0] not in WORKERS:
        sys.stderr.write(f"usage: workers NAME …    NAME is one of {', '.join(WORKERS)}\n")
        return 2
    adopt_package()
    if argv[0] != "launch":  # what it starts says all that it has to say
        importlib.import_module("orchestrator.workers.quiet").hush()
    failure = importlib.import_module("orchestrator.workers.failure")
    worker = importlib.import_module(f"orchestrator.workers.{argv[0]}")
    try:
        code: int = worker.main(argv[1:])
    except failure.WorkerError as error:
        sys.stderr.writelines(f"{argv[0]}: {problem}\n" for problem in error.problems)
        return int(error.exit_code)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
