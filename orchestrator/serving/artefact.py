"""What is served: a packaged folder, what its scoring.json says, and the Python that can load it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from orchestrator.backends.scorers import find_use
from orchestrator.checks.model_loading import NamedModel, Permissions, find_loadable, require_loadable
from orchestrator.errors import PreflightError, RunFolderError, Where
from orchestrator.machine.files import read_regular
from orchestrator.machine.json_files import MOST_BYTES, load_json
from orchestrator.machine.places import WORKERS
from orchestrator.machine.rundir import RunDir
from orchestrator.recipe.plan import Plan
from orchestrator.run.folder import find_run, is_own_run, load_own_plan

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
_GENERIC_NAMES = ("model", "output")
_TEXTS = ("tool", "model_type", "template", "task_type", "system", "dtype")
_SHOWN = 80  # characters


@dataclass(frozen=True)
class Artefact:
    """A packaged model: `spec` is its scoring.json; `python` runs the backend, and `workers` is Orch's folder there.

    `env` are the variables that its run's own stages get. `trusts_remote_code` says that its user lets the Python code
    run that the folder brings along: the folder itself is never asked.
    """

    folder: Path
    name: str
    spec: dict[str, Any]
    python: str
    workers: str = str(WORKERS)
    env: Mapping[str, str] = field(default_factory=dict)
    trusts_remote_code: bool = False

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


def find_artefact(
    name: str,
    runs: Path,
    python: str | None = None,
    *,
    trust_remote_code: bool = False,
    trust_run: bool = False,
    is_only_read: bool = False,
) -> Artefact:
    """Return the artefact that `name` means: a packaged folder, or a run (a folder, a name under `runs`, `last`).

    `trust_remote_code` is what the user says; the recipe of a run says it too. Raises RunFolderError when there is
    none, and for a run that somebody else made, unless the user trusts it (`trust_run`) or nothing of it is executed
    (`is_only_read`).
    """
    folder = Path(name)
    if (folder / "scoring.json").is_file():
        folder = folder.resolve()
        label = folder.parent.name if folder.name in _GENERIC_NAMES else folder.name
        found = load_artefact(folder, label or "model", python or sys.executable)
        return replace(found, trusts_remote_code=trust_remote_code)
    if folder.is_dir() and not (folder / "plan.json").exists():
        hint = "name a run, or the folder that its package stage wrote (RUN/model)"
        raise RunFolderError(f"{folder} is neither a run nor a packaged model: it has no scoring.json", hint=hint)
    run = find_run(name, runs)
    is_trusted = trust_run or is_own_run(run)
    plan = load_own_plan(run, trust_run=trust_run or is_only_read)
    found = _find_in_run(run, plan, python)
    trusts = trust_remote_code or (is_trusted and says_of_model(plan, "trust_remote_code"))
    return replace(found, trusts_remote_code=trusts)


def _find_in_run(run: RunDir, plan: Plan, python: str | None) -> Artefact:
    package = plan.stage("package")
    if package is None:
        hint = "its recipe says merge: false; merge a checkpoint with: orch merge " + run.root.name
        raise RunFolderError(f"{run.root.name} packages no model", hint=hint)
    if not (run.model / "scoring.json").is_file():
        raise RunFolderError(f"{run.root.name} has no packaged model yet", hint=f"finish it: orch resume {run.root}")
    found = load_artefact(run.model, plan.name, python or package.command.argv[0])
    return replace(found, env=dict(package.command.env))


def says_of_model(plan: Plan, key: str) -> bool:
    """Tell whether the plan's recipe says yes to a key of its model, such as trust_remote_code."""
    model = plan.recipe.get("model")
    return isinstance(model, dict) and model.get(key) is True


def load_artefact(folder: Path, name: str, python: str) -> Artefact:
    """Return a packaged folder as an artefact.

    Raises RunFolderError when its scoring.json names no known scorer, or cannot be read where the folder is a run's;
    PreflightError when that of another folder cannot be read.
    """
    path = folder / "scoring.json"
    hint = "package the model again"
    kind = RunFolderError if (folder.parent / "plan.json").is_file() else PreflightError
    try:
        spec = load_json(path, constants=True)
    except (OSError, ValueError, RecursionError) as error:
        raise kind(f"scoring.json cannot be read: {error}", hint=hint, where=Where(str(path))) from None
    scorer = spec.get("scorer") if isinstance(spec, dict) else None
    if not isinstance(scorer, str) or scorer not in KINDS:
        hint = f"known are {', '.join(KINDS)}"
        raise RunFolderError(f"a {scorer!r} model cannot be served", hint=hint, where=Where(str(path)))
    if key := _find_wrong_type(spec):
        said = f"scoring.json cannot be read: {key} is {str(spec[key])[:_SHOWN]!r}"
        raise kind(said, hint=hint, where=Where(str(path)))
    return Artefact(folder, name, spec, python)


def _find_wrong_type(spec: dict[str, Any]) -> str | None:
    """Return the first key that is to be a word of a server's command and is none."""
    if key := next((key for key in _TEXTS if not isinstance(spec.get(key), str | None)), None):
        return key
    arguments = spec.get("template_args") or {}
    is_plain = isinstance(arguments, dict) and not any(isinstance(value, list | dict) for value in arguments.values())
    return None if is_plain else "template_args"


def require_trusted_code(artefact: Artefact, *, is_run_anyway: bool) -> None:
    """Raise PreflightError for a folder that brings code along which nobody trusts.

    With `is_run_anyway` whatever code it brings would run, as in a server; else only what its scoring.json asks for.
    """
    if artefact.trusts_remote_code or not (is_run_anyway or artefact.spec.get("trust_remote_code")):
        return
    if found := find_remote_code(artefact.folder):
        raise PreflightError(
            f"{artefact.folder} brings Python code of its own ({found}), and only you can trust it",
            hint="read that code; then say --trust-remote-code",
        )


def require_artefact_loads(artefact: Artefact) -> None:
    """Raise PreflightError with everything that keeps a packaged model from being loaded in its Python.

    It is checked as a run checks its own models, before anything starts.
    """
    permissions = Permissions(allow="package its run again, which writes safetensors", trust="say --trust-remote-code")
    model = find_loadable(str(artefact.folder), trust_remote_code=artefact.trusts_remote_code)
    require_loadable([NamedModel(model, artefact.python, artefact.env, permissions, find_use(artefact.scorer))])


def find_remote_code(folder: Path) -> str | None:
    """Return what makes a server run code from the model's folder, or None: ms-swift always trusts such code."""
    if file := next(folder.rglob("*.py"), None):
        return str(file.relative_to(folder))
    for path in sorted(folder.rglob("*config.json")):
        try:
            config = load_json(path, constants=True)
        except (OSError, ValueError):
            if _mentions_code(path):  # transformers may read what is unfit for us
                return f"auto_map in {path.relative_to(folder)}"
            continue
        if isinstance(config, dict) and config.get("auto_map"):
            return f"auto_map in {path.relative_to(folder)}"
    return None


def _mentions_code(path: Path) -> bool:
    try:
        content = read_regular(path, most_bytes=MOST_BYTES)
        return b"auto_map" in content or len(content) == MOST_BYTES
    except OSError:
        return True
