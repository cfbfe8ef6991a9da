"""What decides a stage's result, as one hash: its command, its rendered files, and the contents of its inputs.

Inputs are the paths that the stage declares, and every earlier stage's output that its command names (an argument that
is, holds, or lies in that output), so a stage runs again when what it reads has changed.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from orchestrator.machine.content_hash import hash_path
from orchestrator.recipe.plan import Plan, Stage

DIGEST_VERSION = 1


def stage_digest(plan: Plan, stage: Stage) -> str:
    """Return the digest of `stage` with the inputs as they are on disk now."""
    root = Path(plan.run_dir)
    content = {
        "version": DIGEST_VERSION,
        "argv": stage.command.argv,
        "env": sorted(stage.command.env),
        "cwd": stage.command.cwd,
        "files": {path: _text_of(plan, path) for path in sorted(stage.files)},
        "inputs": {path: [hash_path(found) for found in find_output(root, path)] for path in list_inputs(plan, stage)},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def list_inputs(plan: Plan, stage: Stage) -> tuple[str, ...]:
    """Return the declared inputs, and the outputs of earlier stages that the command names."""
    root = Path(plan.run_dir)
    earlier = plan.stages[: plan.stages.index(stage)]
    outputs = [output for before in earlier for output in before.outputs]
    paths = [Path(_path_part(word)) for word in stage.command.argv]
    words = [path for path in paths if path.is_absolute()]
    named = [output for output in outputs if any(_are_nested(word, root / output) for word in words)]
    return tuple(sorted({*stage.inputs, *named}))


def find_output(root: Path, output: str) -> tuple[Path, ...]:
    """Return what there is of an output: the path, or what its last part matches where that is a pattern (`x*`)."""
    path = root / output
    if path.exists() or "*" not in path.name:
        return (path,) if path.exists() else ()
    return tuple(sorted(path.parent.glob(path.name)))


def _path_part(word: str) -> str:
    """Return VALUE of `--flag=VALUE`, else the word itself."""
    flag, separator, value = word.partition("=")
    return value if separator and flag.startswith("-") else word


def _are_nested(one: Path, other: Path) -> bool:
    return one == other or one in other.parents or other in one.parents


def _text_of(plan: Plan, path: str) -> str:
    file = plan.file(path)
    return hashlib.sha256(file.text.encode()).hexdigest() if file else hash_path(Path(plan.run_dir) / path)
