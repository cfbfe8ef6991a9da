"""A launch record → files that people read, and the stage's process; locks of killed compilations go first."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from orchestrator.errors import StageFailedError
from orchestrator.machine.files import try_lock, write_text
from orchestrator.machine.process import Child, Launch, Processes
from orchestrator.machine.rundir import RunDir, StageDir
from orchestrator.machine.secrets import rename_hub_token
from orchestrator.recipe.plan import Plan, Stage
from orchestrator.run.folder import seal
from orchestrator.run.state import LaunchRecord, is_of_folder, redact

VARIABLE = "TORCH_EXTENSIONS_DIR"
# Where torch and DeepSpeed build (torch/utils/cpp_extension.py): EXTENSION, or PYTHON_AND_CUDA/EXTENSION.
_PLACES = ("*/lock", "*/*/lock")
_BUILD = "build.ninja"


def clear_stale_build_locks(env: dict[str, str], processes: Processes) -> list[str]:
    """Remove the locks of builds in the folder that `env` names, unless a live process works with that folder.

    torch/utils/file_baton.py marks a build with a file named `lock` that nobody owns: whoever is killed while PyTorch
    or DeepSpeed compiles an extension leaves it, and the next process polls for its removal without end.
    Only a folder that the plan itself names is touched: in it nobody but Orch's stages builds. Other files are called
    `lock` too: only an empty one beside a build's own file goes, and none that somebody holds. Returns a sentence for
    each lock that was removed.
    """
    folder = env.get(VARIABLE)
    if not folder:
        return []
    locks = list(_find_build_locks(Path(folder)))
    if not locks or processes.find_with_env(f"{VARIABLE}={folder}"):
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
            if try_lock(descriptor) and os.fstat(descriptor).st_size == 0:
                path.unlink()
                return True
        finally:
            os.close(descriptor)
    return False


def write_plan(plan: Plan, run_dir: RunDir) -> None:
    """Write the plan and its rendered files where they are missing or differ."""
    texts = {file.path: file.text for file in plan.files} | {run_dir.plan_json.name: plan.to_json()}
    for name, text in texts.items():
        path = run_dir.root / name
        if not path.is_file() or path.read_bytes() != text.encode():
            if path == run_dir.plan_json:
                seal(run_dir, text)
            write_text(path, text)


def write_script(plan: Plan, stage: Stage, run_dir: RunDir, record: LaunchRecord) -> None:
    """Write command.sh as launched, unless the plan has rendered one."""
    if plan.file(f"{stage.folder}/command.sh"):
        return
    public = set(redact(record.env))
    exports = [
        f"export {name}={shlex.quote(value)}" if (name, value) in public else f"# {name} comes from your environment"
        for name, value in record.env
    ]
    lines = ["#!/bin/sh", f"cd {shlex.quote(record.cwd)} || exit", *exports, f"exec {shlex.join(record.argv)}"]
    write_text(run_dir.stage(stage.name).command_sh, "\n".join(lines) + "\n")


def build_environment(stage: Stage) -> dict[str, str]:
    """Return what a stage's process finds: the environment of Orch, and the stage's own."""
    return rename_hub_token({**os.environ, **dict(stage.command.env)})


def spawn_stage(
    stage: Stage,
    record: LaunchRecord,
    folder: StageDir,
    processes: Processes,
    fork: Callable[[Launch], Child | None] | None = None,
) -> Child:
    """Start the stage's process, by `fork` where that can.

    Raises OSError when its logs cannot be opened, StageFailedError when it cannot run.
    """
    paths = (Path(record.cwd), folder.stdout_log, folder.stderr_log, folder.exit_code)
    cwd, stdout, stderr, exit_code = (path.absolute() for path in paths)
    launch = Launch(record.argv, build_environment(stage), cwd, stdout, stderr, exit_code, record.token)
    try:
        return (fork and fork(launch)) or processes.spawn(launch)
    except OSError as error:
        if is_of_folder(error):
            raise
        raise StageFailedError(f"{stage.name} cannot be started: {error}", hint="see its command.sh") from error
