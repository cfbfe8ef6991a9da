"""Merges a checkpoint of a run, with the run's own merge command, or any LoRA adapter, into a whole model."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from orchestrator.backends.known_models import has_other_head
from orchestrator.backends.models import load_config
from orchestrator.backends.render import render_command
from orchestrator.backends.scorers import NEW_HEAD, VECTORS, WORDS
from orchestrator.checks.model_loading import ALLOW_PICKLE, NamedModel, Permissions, find_loadable, require_loadable
from orchestrator.errors import OrchError, PreflightError, RunFolderError, StageFailedError
from orchestrator.machine.json_files import load_json, load_object
from orchestrator.machine.model_folders import find_nothing_to_merge, name_nearest
from orchestrator.machine.places import WORKERS
from orchestrator.machine.rundir import RunDir
from orchestrator.machine.weights import Damage, describe_damage, read_shapes
from orchestrator.recipe.plan import Command, Plan
from orchestrator.run.folder import find_run, load_own_plan
from orchestrator.run.resume import find_defect, list_checkpoint_folders
from orchestrator.run.state import load_result
from orchestrator.serving.artefact import says_of_model
from orchestrator.serving.chosen_models import require_absent
from orchestrator.serving.worker import Words, run_worker

_LINKS = ("best", "last")  # ms-swift makes both where it has a validation set, else only last-checkpoint
# the arguments of `workers merge` and of `swift export`
_ADAPTER, _OUT = ("--adapters", "--adapter"), ("--out", "--output_dir")
_WORDS = Words("the merge has failed", "the merge was stopped; nothing was left behind")


@dataclass(frozen=True)
class Checkpoint:
    """An adapter of a run; `name` is checkpoint-N, or last for what the trainer wrote at its end."""

    name: str
    adapter: Path


@dataclass(frozen=True)
class MergeOptions:
    """How to merge: `dtype` (auto: the base model's own), and a prompt to try base with adapter and the merge on.

    `base`, `trust_remote_code` and `allow_pickle` are of an adapter folder's base model; a run's recipe says them.
    """

    dtype: str = "auto"
    test_prompt: str | None = None
    base: str | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False


def find_checkpoint(run: RunDir, plan: Plan, wanted: str | None) -> Checkpoint:
    """Return the adapter that `wanted` names: N, best, last; None is what the run itself merges, else last.

    Raises RunFolderError when there is none, it is not whole, or the run trained without LoRA.
    """
    train = plan.stage("train")
    if train is None:
        raise RunFolderError(f"{run.root.name} trains nothing", hint="name another run")
    output = run.stage(train.name).output
    whole = [path for path in list_checkpoint_folders(output) if find_defect(path) is None]
    there = ", ".join(map(str, sorted(int(path.name.removeprefix("checkpoint-")) for path in whole))) or "none yet"
    merge = plan.stage("merge")
    planned = _read_argument(merge.command.argv, _ADAPTER) if merge else None
    name = wanted or (Path(planned).name if planned and Path(planned).name in _LINKS else "last")
    if name in _LINKS and load_result(run.stage(train.name)) is None:
        hint = f"finish it: orch resume {run.root}\nor name one of its checkpoints with --checkpoint N: {there}"
        raise RunFolderError(f"the training of {run.root.name} is not finished", hint=hint)
    folder = _locate(output, name)
    if folder is None or not folder.is_dir():
        what = f"checkpoint {name}" if name.isdigit() else f"{name!r} checkpoint"
        raise RunFolderError(f"{run.root.name} has no {what}", hint=f"there are: {there}")
    if not (folder / "adapter_config.json").is_file():
        if (folder / "config.json").is_file():
            hint = f"load {folder} as it is, or use the packaged model: {run.model}"
            raise RunFolderError(f"{run.root.name} was trained without LoRA: there is nothing to merge", hint=hint)
        raise RunFolderError(f"{folder} holds no adapter_config.json", hint=f"there are: {there}")
    if folder != output and (defect := find_defect(folder)):
        raise RunFolderError(f"{folder.name} of {run.root.name} is not whole: {defect}", hint=f"there are: {there}")
    return Checkpoint("last" if folder == output else folder.name, folder)


def _locate(output: Path, name: str) -> Path | None:
    if name.isdigit():
        return output / f"checkpoint-{name}"
    if name not in _LINKS:
        raise RunFolderError(f"no such checkpoint: {name!r}", hint="--checkpoint takes a step's number, best or last")
    for link in (output / name, output / f"{name}-checkpoint"):  # ms-swift always makes last-checkpoint
        if link.is_symlink():
            return output / link.readlink().name  # the link may be absolute, and the run folder may have moved
    # FlagEmbedding writes what it has at the end into the output folder itself, and keeps no best
    written = any((output / file).is_file() for file in ("adapter_config.json", "config.json"))
    return output if name == "last" and written else None


def build_merge(run: RunDir, plan: Plan, checkpoint: Checkpoint, out: Path, options: MergeOptions) -> Command:
    """Return the plan's own merge command with this checkpoint, or Orch's where the recipe says merge: false."""
    stage = plan.stage("merge")
    if stage is None:
        said = replace(options, base=None, trust_remote_code=says_of_model(plan, "trust_remote_code"))
        return build_quick_merge(find_worker(run, plan), checkpoint.adapter, out, said, cwd=run.root)
    argv = set_argument(stage.command.argv, _ADAPTER, str(checkpoint.adapter))
    argv = set_argument(argv, _OUT, str(out))
    if options.dtype != "auto":
        argv = _with(argv, "--torch_dtype" if is_native(stage.command) else "--dtype", options.dtype)
    if options.test_prompt and not is_native(stage.command):
        argv = _with(argv, "--test-prompt", options.test_prompt)
    return msgspec.structs.replace(stage.command, argv=argv)


def is_native(command: Command) -> bool:
    """Tell whether a merge is the backend's own, which compares nothing; Orch's compares what it has merged."""
    return "--adapters" in command.argv


def build_quick_merge(worker: Worker, adapter: Path, out: Path, options: MergeOptions, *, cwd: Path) -> Command:
    """Return Orch's merge of one adapter folder."""
    return render_command(
        "serve/merge.j2", **worker._asdict(), cwd=str(cwd), adapter=str(adapter), out=str(out), dtype=options.dtype,
        prompt=options.test_prompt, base=options.base, trust_remote_code=options.trust_remote_code,
    )  # fmt: skip


def build_verification(run: RunDir, plan: Plan, checkpoint: Checkpoint, out: Path, prompt: str | None) -> Command:
    """Return the command that compares a merged folder with base and adapter."""
    return render_command(
        "serve/verify_merge.j2", **find_worker(run, plan)._asdict(), cwd=str(run.root), merged=str(out), prompt=prompt,
        adapter=str(checkpoint.adapter), trust_remote_code=says_of_model(plan, "trust_remote_code"),
    )  # fmt: skip


class Worker(NamedTuple):
    """A Python that runs Orch's workers, where these are, and its environment."""

    python: str
    workers: str
    env: dict[str, str]


def find_worker(run: RunDir, plan: Plan) -> Worker:
    """Return the backend's Python with Orch's workers, as a stage of the run has them."""
    for command in (stage.command for stage in plan.stages):
        if len(command.argv) > 1 and Path(command.argv[1]).name == "workers":
            python, workers, *_ = command.argv
            return Worker(python, workers, dict(command.env))
    raise RunFolderError(f"no stage of {run.root.name} runs in the backend's Python", hint="merge its adapter folder")


def require_base(adapter: Path, base: str | None) -> tuple[str, str]:
    """Return an adapter's base model, a folder or a hub id, and what it is wanted for (`scorers.find_use`).

    It is `base`, else the one that its adapter_config.json names.

    Raises RunFolderError for an adapter that cannot be read, PreflightError when there is no such base, or when it is a
    folder that is not on this machine.
    """
    path = adapter / "adapter_config.json"
    try:
        config = load_object(path, constants=True)
    except (OSError, ValueError) as error:
        hint = "name a folder that holds a LoRA adapter"
        raise RunFolderError(f"{path} cannot be read: {error}", hint=hint) from None
    found = base or config.get("base_model_name_or_path")
    if not found or not isinstance(found, str):
        raise PreflightError(f"{path} names no base model", hint="name it with --base")
    if Path(found).is_absolute() and not (Path(found) / "config.json").is_file():
        hint = "copy it there, or name it with --base"
        raise PreflightError(f"the base model of {adapter} is not on this machine: {found}", hint=hint)
    return found, _find_use(adapter, config, Path(found))


def _find_use(adapter: Path, config: dict[str, Any], base: Path) -> str:
    """Return what an adapter wants its base for; the head of one that scores may be the adapter's own."""
    if config.get("task_type") == "SEQ_CLS":
        return NEW_HEAD
    if (base / "config.json").is_file() and has_other_head(load_config(base).get("architectures") or ()):
        return NEW_HEAD  # it is merged with its head, whatever the adapter says of itself
    try:  # ms-swift calls every adapter of an LLM CAUSAL_LM, and says in a file of its own what it was trained as
        trained_as = load_json((adapter / "args.json"), constants=True).get("task_type")
    except (OSError, ValueError, AttributeError, RecursionError):
        trained_as = None
    return WORDS if config.get("task_type") == "CAUSAL_LM" and trained_as != "embedding" else VECTORS


def require_whole_adapter(adapter: Path) -> None:
    """Raise PreflightError for an adapter whose weights are missing, cut off, or pickled."""
    weights = adapter / "adapter_model.safetensors"
    if weights.is_file():
        found = read_shapes(weights)
        if isinstance(found, Damage):
            raise PreflightError.from_problems([describe_damage(weights, found.why)])
    elif (adapter / "adapter_model.bin").is_file():
        message = f"{adapter} has its weights as a pickle only: loading a pickle runs code that it brings along"
        raise PreflightError(message, hint="save the adapter with peft, which writes adapter_model.safetensors")
    else:
        hint = "copy it from where the adapter is whole, or merge another checkpoint"
        raise PreflightError(f"{weights} is not there", hint=hint)


def _read_argument(argv: tuple[str, ...], names: tuple[str, ...]) -> str | None:
    for index, word in enumerate(argv):
        name, equals, value = word.partition("=")
        if name in names:
            return value if equals else next(iter(argv[index + 1 : index + 2]), None)
    return None


def set_argument(argv: tuple[str, ...], names: tuple[str, ...], value: str) -> tuple[str, ...]:
    """Return `argv` with the value of the first of `names` that it holds replaced.

    Raises RunFolderError when it holds none: the command is not the merge that this version of Orch plans.
    """
    for wanted in names:
        for index, word in enumerate(argv):
            if word == wanted and index + 1 < len(argv):
                return (*argv[: index + 1], value, *argv[index + 2 :])
            if word.startswith(f"{wanted}="):
                return (*argv[:index], f"{wanted}={value}", *argv[index + 1 :])
    raise RunFolderError(
        f"the run's merge command has no {' or '.join(names)}", hint="merge its adapter folder instead"
    )


def _with(argv: tuple[str, ...], name: str, value: str) -> tuple[str, ...]:
    known = any(word == name or word.startswith(f"{name}=") for word in argv)
    return set_argument(argv, (name,), value) if known else (*argv, f"{name}={value}")


def merge_adapter(adapter: Path, out: Path, options: MergeOptions) -> dict[str, Any]:
    """Merge an adapter folder into a fresh folder and return what the worker says of it.

    {"out", "dtype", "max_difference", "tolerance", "test": {"adapter", "merged"}, …}. Raises OrchError for an adapter
    that is not whole or whose base model cannot be loaded, and what `run_worker` does.
    """
    require_absent(out)
    permissions, trust = Permissions(options.allow_pickle), options.trust_remote_code
    _require_mergeable(adapter, options.base, sys.executable, permissions, trust=trust)
    worker = Worker(sys.executable, str(WORKERS), permissions.env)
    return _read_summary(run_worker(build_quick_merge(worker, adapter, out, options, cwd=Path.cwd()), _WORDS))


def merge_checkpoint(
    name: str,
    runs: Path,
    wanted: str | None,
    out: Path | None,
    options: MergeOptions,
    *,
    trust_run: bool,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Merge a checkpoint of a run with the run's own command, compare it with base and adapter, and say how it went.

    {"run", "checkpoint", … as `merge_adapter` says}. Raises OrchError as `merge_adapter` and `find_checkpoint` do; a
    merge that is not the model that was trained is removed.
    """
    try:
        run = find_run(name, runs)
    except RunFolderError as error:
        raise _explain_no_run(Path(name).expanduser()) or error from None
    plan = load_own_plan(run, trust_run=trust_run)
    checkpoint = find_checkpoint(run, plan, wanted)
    out = (out or run.root / "merged" / checkpoint.name).absolute()
    require_absent(out)
    permissions = Permissions(
        says_of_model(plan, "allow_pickle"), f"set {ALLOW_PICKLE}=1", "train it with trust_remote_code: true"
    )
    trust = says_of_model(plan, "trust_remote_code")
    _require_mergeable(checkpoint.adapter, None, find_worker(run, plan).python, permissions, trust=trust)
    command = build_merge(run, plan, checkpoint, out, options)
    tell(f"merging {checkpoint.name} of {run.root.name} into {out}")
    said = run_worker(command, _WORDS)
    if is_native(command):
        tell("comparing it with base and adapter")
        try:
            said = run_worker(build_verification(run, plan, checkpoint, out, options.test_prompt), _WORDS)
        except OrchError:
            shutil.rmtree(out)  # a model that is not the one that was trained must not lie about
            raise
    return {"run": str(run.root), "checkpoint": checkpoint.name, **_read_summary(said)}


def _explain_no_run(folder: Path) -> OrchError | None:
    """Return what a name is that is no run: another kind of folder, or a path that is not there; None for a name."""
    if (problem := find_nothing_to_merge(folder)) is not None:
        return PreflightError.from_problems([problem])
    if len(folder.parts) == 1:
        return None
    near = name_nearest(folder)
    hint = f"did you mean {near}?" if near else "name a folder that holds adapter_config.json, or a run: orch ls"
    return PreflightError(f"no such folder: {folder}", hint=hint)


def _require_mergeable(adapter: Path, base: str | None, python: str, permissions: Permissions, *, trust: bool) -> None:
    """Raise OrchError for an adapter that is not whole, or whose base model cannot be loaded in `python`."""
    location, use = require_base(adapter, base)
    require_whole_adapter(adapter)
    model = find_loadable(location, trust_remote_code=trust)
    require_loadable([NamedModel(model, python, permissions=permissions, use=use)])


def _read_summary(text: str) -> dict[str, Any]:
    if found := [line for line in text.splitlines() if line.startswith("{")]:
        return dict(json.loads(found[-1]))
    raise StageFailedError("the merge said nothing about what it made", hint=text[-500:] or None)
