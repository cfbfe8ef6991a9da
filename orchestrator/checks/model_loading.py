"""Whether models can be loaded: by the files, the hub, and last the Python that is to load them, asked once a folder.

That Python says whether config and tokenizer load, and whether the weights fill the architecture that they are wanted
for: names and shapes are compared, and no weight is read. A run asks this of its own models, a command of those that
it names.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from orchestrator.backends.models import BaseModel, find_model, learn_from_config
from orchestrator.backends.protocol import Job
from orchestrator.checks.hub import find_hub_problems
from orchestrator.checks.model_files import find_folder_problems, find_uses, list_models
from orchestrator.errors import PreflightError, Problem
from orchestrator.machine.files import write_json
from orchestrator.machine.packages import find_versions
from orchestrator.machine.places import WORKERS, find_orch_cache
from orchestrator.machine.process import Completed, run
from orchestrator.recipe.plan import Plan
from orchestrator.recipe.schema import ModelRef

ALLOW_PICKLE = "ORCH_ALLOW_PICKLE"  # workers/environment.py reads it
_LOADING_TIMEOUT_S = 300.0  # the imports alone take a minute on a slow disk
_TENSORS_TIMEOUT_S = 600.0  # a model of many layers takes a minute, and PyTorch's imports take another on a slow disk
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".gguf", ".onnx", ".h5", ".msgpack")
_DECIDING = ("transformers", "tokenizers", "python")
_TENSORS_VERSION = 2  # of what the worker judges: an answer of another one is asked for again
_NEEDS_CODE = "contains custom code"  # resolve_trust_remote_code of transformers/dynamic_module_utils.py (4.57, 5.19)
_ELSEWHERE = "name a folder, or set HF_ENDPOINT to a mirror such as https://hf-mirror.com"


class Loader(msgspec.Struct, frozen=True):
    """The Python that is to load models: its libraries, its variables, Orch's workers, and where answers are kept.

    `cache_dir` is empty where they are not.
    """

    python: str
    workers: str
    versions: Mapping[str, str]
    env: Mapping[str, str]
    cache_dir: str

    def ask(self, worker: str, model: BaseModel, *more: str, timeout_s: float) -> Completed:
        """Return what a worker says of the model's folder, with its code where the user trusts it."""
        code = ("--trust-remote-code",) if model.trust_remote_code else ()
        argv = (self.python, self.workers, worker, "--model", str(model.folder), *code, *more)
        return run(argv, timeout_s, env={**os.environ, **self.env})

    def find_kept(self, model: BaseModel, *parts: Any, packages: Sequence[str], weights: bool) -> Path | None:
        """Return the file of an answer, named by all that decides it: the folder's files as they are, and versions."""
        if not self.cache_dir or model.folder is None:
            return None
        files = sorted(path for path in model.folder.iterdir() if path.is_file())
        stats = [
            (path.name, path.stat().st_size, path.stat().st_mtime_ns)
            for path in files
            if weights or path.suffix not in _WEIGHTS
        ]
        versions = [self.versions.get(name) for name in packages]
        key = json.dumps([*parts, str(model.folder), stats, versions, self.python, model.trust_remote_code])
        return Path(self.cache_dir) / "models" / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"


class Permissions(msgspec.Struct, frozen=True):
    """What a user lets a model do, and the words that would let it."""

    allow_pickle: bool = False
    allow: str = "give --allow-pickle"
    trust: str = "give --trust-remote-code"

    @property
    def pickles(self) -> bool:
        """Whether pickled weights may be loaded: the environment may say it for every command."""
        return self.allow_pickle or os.environ.get(ALLOW_PICKLE) == "1"

    @property
    def env(self) -> dict[str, str]:
        """The variables that tell a worker so."""
        return {ALLOW_PICKLE: "1"} if self.pickles else {}


class NamedModel(msgspec.Struct, frozen=True):
    """A model that a command is about to load, in `python` with `env`.

    `use` is what it is wanted for (`scorers.find_use`), None where nobody knows. `find_misfit` says what is wrong with
    a model whose config.json is not here before a hub shows it.
    """

    model: BaseModel
    python: str
    env: Mapping[str, str] = {}
    permissions: Permissions = msgspec.field(default_factory=Permissions)
    use: str | None = None
    find_misfit: Callable[[BaseModel], Problem | None] = lambda _: None

    @property
    def variables(self) -> dict[str, str]:
        """What its Python is started with."""
        return {**self.permissions.env, **self.env}


def check_model_loading(job: Job, plan: Plan) -> Iterator[Problem]:  # noqa: ARG001
    """Yield what the backend's libraries say of a config or a tokenizer that does not load."""
    for key, model, _ in list_models(job):
        trust = f"say {key}: {{path: …, trust_remote_code: true}}"
        yield from _find_loading_problems(model, _find_loader(job, model), trust=trust)


def check_model_tensors(job: Job, plan: Plan) -> Iterator[Problem]:
    """Yield which tensors the models of a plan lack, and what to do about it."""
    for key, model, _ in list_models(job):
        yield from _find_tensor_problems(model, _find_loader(job, model), find_uses(plan, key))


def require_loadable(named: Sequence[NamedModel]) -> None:
    """Raise PreflightError with everything that keeps the models from being loaded.

    Files are looked at, and a hub is asked; the Python that is to load the models is asked last, once a folder.
    """
    problems = [problem for item in named for problem in _find_problems(item)]
    problems = problems or [problem for item in named for problem in _ask_python(item)]
    if problems:
        raise PreflightError.from_problems(list(dict.fromkeys(problems)))


def find_loadable(location: str, *, trust_remote_code: bool) -> BaseModel:
    """Return the model of a folder or a hub id, of which nothing is asked but that it loads.

    Raises PreflightError where there is none.
    """
    ref = ModelRef(path=location, trust_remote_code=trust_remote_code)
    return find_model(ref, Path.cwd(), otherwise="decoder")  # the family decides how it is scored, and nothing here


def _find_problems(named: NamedModel) -> Iterator[Problem]:
    model, permissions = named.model, named.permissions
    if model.folder is not None:
        pickles, uses = permissions.pickles, filter(None, [named.use])
        yield from find_folder_problems(model, allow=permissions.allow, allow_pickle=pickles, uses=list(uses))
        return

    def find_misfits(config: dict[str, Any]) -> Iterator[Problem]:
        seen = learn_from_config(model, config)
        # whether it loads without its code, nobody can try before it is here
        if seen.brings_code and not seen.trust_remote_code:
            hint = f"read that code, then {permissions.trust}; or download it (hf download {model.location}), and it is"
            yield Problem(f"{model.location} brings Python code along", f"{hint} tried without that code")
        if problem := named.find_misfit(seen):
            yield problem

    allow = None if permissions.pickles else permissions.allow
    yield from find_hub_problems(model, find_misfits, env=named.variables, otherwise=_ELSEWHERE, allow=allow)


def _ask_python(named: NamedModel) -> list[Problem]:
    if named.model.folder is None:
        return []
    env = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", **named.variables}
    loader = Loader(named.python, str(WORKERS), find_versions(named.python), env, str(find_orch_cache()))
    found = _find_loading_problems(named.model, loader, trust=named.permissions.trust)
    return found or _find_tensor_problems(named.model, loader, filter(None, [named.use]))


def _find_loader(job: Job, model: BaseModel) -> Loader:
    return Loader(job.backend_python, job.workers, job.versions, job.environment(model), job.cache_dir)


def _find_loading_problems(model: BaseModel, loader: Loader, *, trust: str) -> list[Problem]:
    """Return why the folder does not load; [] where it does, or did when nothing of what decides it was different.

    `trust` is how its user would let the code run that the folder brings along.
    """
    kept = loader.find_kept(model, packages=_DECIDING, weights=False)
    if kept is not None and kept.is_file():
        return []
    done = None
    if not model.trust_remote_code:
        done = loader.ask("inspect_model", model, "--without-torch", timeout_s=_LOADING_TIMEOUT_S)
        if _NEEDS_CODE in done.stderr:
            hint = f"read that code, then {trust}; or take a model without code"
            return [Problem(f"{model.folder} brings Python code along, and does not load without it", hint)]
    if done is None or done.exit_code != 0:  # a config or a tokenizer that does need PyTorch gets it
        done = loader.ask("inspect_model", model, timeout_s=_LOADING_TIMEOUT_S)
    if done.exit_code == 0 and (found := _parse_answer(done.stdout)) is not None:
        _keep(kept, model, found)
        return []
    if done.exit_code is None:
        message = f"{model.folder} did not load within {_LOADING_TIMEOUT_S:.0f} s"
        return [Problem(message, "is its disk slow, or not there?")]
    installed = ", ".join(f"{name} {loader.versions[name]}" for name in _DECIDING if name in loader.versions)
    hint = f"{loader.python} has {installed}: download the model again, or install the version that it asks for"
    return [Problem(_find_last_word(done, "inspect_model"), hint)]


def _find_tensor_problems(model: BaseModel, loader: Loader, uses: Iterable[str]) -> list[Problem]:
    """Return what is missing from a folder's weights for what it is wanted for; a clean answer is kept."""
    wanted = sorted(set(uses))
    if model.folder is None or not wanted:
        return []
    packages = (*_DECIDING, "torch", "accelerate")
    kept = loader.find_kept(model, _TENSORS_VERSION, wanted, packages=packages, weights=True)
    if kept is not None and kept.is_file():
        return []
    done = loader.ask("inspect_tensors", model, "--use", *wanted, timeout_s=_TENSORS_TIMEOUT_S)
    if done.exit_code is None:
        message = f"{model.folder} was not looked through within {_TENSORS_TIMEOUT_S:.0f} s"
        return [Problem(message, "is its disk slow?")]
    found = _parse_answer(done.stdout)
    if done.exit_code != 0 or found is None:
        reason = _find_last_word(done, "inspect_tensors")
        return [Problem(f"{model.folder}: its weights cannot be looked at in {loader.python}: {reason}")]
    verdicts = found.get("verdicts") or []
    problems = [Problem(fault["message"], fault["hint"]) for verdict in verdicts for fault in verdict["faults"]]
    if not problems and all(not verdict.get("why_not") for verdict in verdicts):
        _keep(kept, model, found)
    return list(dict.fromkeys(problems))


def _keep(kept: Path | None, model: BaseModel, answer: dict[str, Any]) -> None:
    if kept is not None:
        with suppress(OSError):  # a cache that cannot be written is one that is not there
            write_json(kept, {"model": str(model.folder), **answer})


def _parse_answer(text: str) -> dict[str, Any] | None:
    """Return what the worker printed; None for anything else. What a site's own start-up prints stands before it."""
    try:
        found = json.loads(text.strip().rpartition("\n")[2])
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _find_last_word(done: Completed, worker: str) -> str:
    lines = [line for line in done.stderr.splitlines() if line.strip()] or ["it says nothing"]
    return lines[-1].removeprefix(f"{worker}: ")
