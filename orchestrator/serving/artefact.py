"""What is served: a packaged folder, what its scoring.json says, and the Python that can load it."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import PreflightError, RunFolderError, Where
from orchestrator.launch import find_run, load_plan

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orchestrator.rundir import RunDir

# scorer → what a client asks the server for
KINDS = {
    "embedding": "embedding",
    "chat": "chat",
    "flag-llm-reranker": "reranker",
    "cross-encoder": "reranker",
    "qwen3-native": "reranker",
    "qwen3-score-head": "reranker",
    "formatted-head": "reranker",
    "reward-model": "reranker",
}
WORKERS = Path(__file__).resolve().parent.parent / "workers"
_GENERIC_NAMES = ("model", "output")


@dataclass(frozen=True)
class Artefact:
    """A packaged model: `spec` is its scoring.json; `python` runs the backend, and `workers` is Orch's folder there.

    `env` are the variables that its run's own stages get.
    """

    folder: Path
    name: str
    spec: dict[str, Any]
    python: str
    workers: str = str(WORKERS)
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def scorer(self) -> str:
        """How it is scored."""
        return str(self.spec["scorer"])

    @property
    def kind(self) -> str:
        """What it answers: embedding, reranker or chat."""
        return KINDS[self.scorer]

    @property
    def dtype(self) -> str:
        """The precision that it was measured in."""
        return str(self.spec.get("dtype") or "auto")

    @property
    def trusts_remote_code(self) -> bool:
        """Whether its recipe allowed code from the model's own folder."""
        return bool(self.spec.get("trust_remote_code"))


def find_artefact(name: str, runs: Path, python: str | None = None) -> Artefact:
    """Return the artefact that `name` means: a packaged folder, or a run (a folder, a name under `runs`, `last`).

    Raises RunFolderError when there is none.
    """
    folder = Path(name)
    if (folder / "scoring.json").is_file():
        folder = folder.resolve()
        label = folder.parent.name if folder.name in _GENERIC_NAMES else folder.name
        return load_artefact(folder, label or "model", python or sys.executable)
    if folder.is_dir() and not (folder / "plan.json").exists():
        hint = "name a run, or the folder that its package stage wrote (RUN/model)"
        raise RunFolderError(f"{folder} is neither a run nor a packaged model: it has no scoring.json", hint=hint)
    return _find_in_run(find_run(name, runs), python)


def _find_in_run(run: RunDir, python: str | None) -> Artefact:
    plan = load_plan(run)
    package = plan.stage("package")
    if package is None:
        hint = "its recipe says merge: false; merge a checkpoint with: orch merge " + run.root.name
        raise RunFolderError(f"{run.root.name} packages no model", hint=hint)
    if not (run.model / "scoring.json").is_file():
        raise RunFolderError(f"{run.root.name} has no packaged model yet", hint=f"finish it: orch resume {run.root}")
    found = load_artefact(run.model, plan.name, python or package.command.argv[0])
    return replace(found, env=dict(package.command.env))


def load_artefact(folder: Path, name: str, python: str) -> Artefact:
    """Return a packaged folder as an artefact. Raises RunFolderError when its scoring.json names no known scorer."""
    path = folder / "scoring.json"
    try:
        spec = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        hint = "package the model again"
        raise RunFolderError(f"scoring.json cannot be read: {error}", hint=hint, where=Where(str(path))) from None
    scorer = spec.get("scorer") if isinstance(spec, dict) else None
    if not isinstance(scorer, str) or scorer not in KINDS:
        hint = f"known are {', '.join(KINDS)}"
        raise RunFolderError(f"a {scorer!r} model cannot be served", hint=hint, where=Where(str(path)))
    return Artefact(folder, name, spec, python)


def require_trusted_code(artefact: Artefact) -> None:
    """Raise PreflightError for a folder that brings code, which a server would run, where its recipe trusts none."""
    if not artefact.trusts_remote_code and (found := find_remote_code(artefact.folder)):
        raise PreflightError(
            f"{artefact.folder} brings code of its own ({found}), and its recipe did not trust it",
            hint="read the code; then train and package with model: {…, trust_remote_code: true}",
        )


def find_remote_code(folder: Path) -> str | None:
    """Return what makes a server run code from the model's folder, or None: ms-swift always trusts such code."""
    if file := next(folder.rglob("*.py"), None):
        return str(file.relative_to(folder))
    for path in sorted(folder.rglob("*config.json")):
        try:
            config = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(config, dict) and config.get("auto_map"):
            return f"auto_map in {path.relative_to(folder)}"
    return None
