"""Dispatch `BACKEND_PYTHON /abs/orchestrator/workers NAME …` to the worker of that name.

The backend's Python may not have Orch installed, so a stub package `orchestrator` whose only search path is the folder
above this one stands in for it; and this folder leaves `sys.path`, because its files would shadow other modules.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import sys
import types
from collections.abc import Callable
from pathlib import Path

# name → the module that it is in, and its function where that is not `main`
WORKERS = {
    "arguments": "arguments",
    "deploy_with_key": "launch:deploy_with_key",
    "export": "export",
    "fetch": "hubs:fetch",
    "fresh": "export_model",
    "inspect_model": "inspect_model",
    "inspect_tensors": "inspect_model:inspect_tensors",
    "launch": "launch",
    "mend_model": "mend_model",
    "merge": "merge",
    "mine": "mine",
    "package": "package",
    "predict": "score:predict",
    "push": "hubs:push",
    "score": "score",
    "score_pairs": "score_pairs",
    "serve_folder": "serve_folder",
    "share": "pool",
    "tiny_model": "tiny_model",
    "track": "track",
    "track_training": "track:train",
    "train_cross_encoder": "train_cross_encoder",
    "train_embedding": "train_embedding",
    "train_flagembedding": "train_flagembedding",
    "verify_merge": "merge:verify",
}

NATIVE = {"launch", "track_training", "train_flagembedding"}  # start native tools, which say all that they have to say

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


def load_worker(name: str) -> Callable[[list[str]], int]:
    """Return the worker of that name: it takes the words behind its name, and returns its exit code."""
    module, _, function = WORKERS[name].partition(":")
    worker: Callable[[list[str]], int] = getattr(
        importlib.import_module(f"orchestrator.workers.{module}"), function or "main"
    )
    return worker


def main(argv: list[str]) -> int:
    """Run the worker that `argv[0]` names with the rest of `argv`; return its exit code.

    `resident NAME MODULE…` imports the modules as that worker would find them, and is then a worker in each fork.
    """
    if not argv or argv[0] not in {*WORKERS, "resident"}:
        sys.stderr.write(f"usage: workers NAME …    NAME is one of {', '.join(WORKERS)}\n")
        return 2
    adopt_package()
    is_resident = argv[0] == "resident"
    if argv[is_resident] not in {*NATIVE, "-m"}:
        importlib.import_module("orchestrator.workers.environment").suppress_output()
    if is_resident:
        program, *argv = importlib.import_module("orchestrator.workers.resident").main(argv[2:])
        if program != str(HERE):
            importlib.import_module("orchestrator.workers.launch").run_words([program, *argv])
            return 0
    failure = importlib.import_module("orchestrator.workers.failure")
    try:
        return load_worker(argv[0])(argv[1:])
    except failure.WorkerError as error:
        sys.stderr.writelines(f"{argv[0]}: {problem}\n" for problem in error.problems)
        return int(error.exit_code)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
