"""What a run was made with: versions, hardware, platform, hashes, and the state of the recipe's git repository.

A repository's config names commands that git runs for a mere `status` (core.fsmonitor, filters, includes of other
files), and a bare repository among ordinary files brings one along through a clone. So Orch finds the repository and
its commit itself, and has git compare under a configuration of Orch's own.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from orchestrator import __version__
from orchestrator.machine.files import find_text, hash_path
from orchestrator.machine.hardware import Hardware, find_memory
from orchestrator.machine.packages import find_packages
from orchestrator.machine.places import PACKAGE
from orchestrator.machine.process import run
from orchestrator.recipe.plan import Plan

PROVENANCE_VERSION = 2


@dataclass(frozen=True)
class Asked:
    """The command line that a run was asked for with: `orch reproduce` and readers of a report need it."""

    recipe: Path
    overrides: tuple[str, ...] = ()
    hardware: str = "auto"


def build_provenance(plan: Plan, hardware: Hardware, asked: Asked, *, may_run: bool = True) -> dict[str, Any]:
    """Return the content of provenance.json. Environment variables are named, never copied: they may hold secrets.

    Without `may_run` no interpreter of the plan is started.
    `inputs` has the hash of everything that the plan's stages read from outside the run folder: data, models.
    """
    from orchestrator.backends.render import find_templates

    recipe = asked.recipe.resolve()
    memory = find_memory().get("MemTotal")
    # in a checkout the version alone says little
    sources = [(str(path.relative_to(PACKAGE)), hash_path(path)) for path in sorted(PACKAGE.rglob("*.py"))]
    cpu = re.search(r"^model name\s*:(.*)", find_text(Path("/proc/cpuinfo")) or "", re.MULTILINE)  # on Linux
    return {
        "version": PROVENANCE_VERSION,
        "orch": __version__,
        "orch_sha256": hashlib.sha256(json.dumps(sources).encode()).hexdigest(),
        "templates_sha256": hash_path(find_templates()),
        "plan_sha256": plan.digest(),
        "recipe": str(recipe),
        "recipe_sha256": hash_path(recipe),
        "asked": {"smoke": plan.smoke, "hardware": asked.hardware, "set": list(asked.overrides)},
        "inputs": hash_inputs(plan),
        "versions": plan.versions,
        "environments": {python: find_packages(python, may_run=may_run) for python in find_interpreters(plan)},
        "platform": platform.platform(),
        "cpu": {"name": cpu and cpu[1].strip(), "count": os.cpu_count(), "memory_mib": memory and memory // 1024**2},
        "hardware": {
            "kind": hardware.kind,
            "count": hardware.count,
            "names": list(hardware.names),
            "memory_mib": list(hardware.memory_mib),
            "precision": hardware.precision,
        },
        "git": find_git_state(recipe.parent),
    }


def hash_inputs(plan: Plan) -> dict[str, str]:
    """Return path → hash of what the stages read from outside the run folder; "absent" for what is not there."""
    paths = sorted({path for stage in plan.stages for path in stage.inputs if Path(path).is_absolute()})
    outside = [path for path in paths if Path(plan.run_dir) not in Path(path).parents]
    return {path: hash_path(Path(path)) for path in outside}


def find_interpreters(plan: Plan) -> list[str]:
    """Return the Python of each stage, every one once: Orch's, and the backend's where it has its own."""
    return sorted({stage.command.argv[0] for stage in plan.stages})


_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")  # SHA-1 or SHA-256
_REF = re.compile(r"ref: (refs/\S+)")
_SHA256 = "[core]\nrepositoryformatversion = 1\n[extensions]\nobjectformat = sha256\n"
_SHA1 = "[core]\nrepositoryformatversion = 0\n"
_TIMEOUT_S = 10.0


class _Repository(NamedTuple):
    """A work tree, its git folder, and the folder that all work trees of the repository share."""

    tree: Path
    folder: Path
    common: Path


def find_git_state(folder: Path) -> dict[str, Any] | None:
    """Return the commit of the work tree that holds `folder`, and whether tracked files were changed; None outside.

    `changed` is None where git is not installed or cannot tell. A file that a filter of the repository rewrites (such
    as git-lfs) may count as changed: no filter runs.
    """
    repository = _find_repository(folder.resolve())
    commit = _read_commit(repository) if repository else None
    if repository is None or commit is None:
        return None
    return {"commit": commit, "changed": _is_changed(repository, commit)}


def _find_repository(folder: Path) -> _Repository | None:
    """Return the nearest repository that has a `.git` of its own; a bare one among other files is none."""
    for tree in (folder, *folder.parents):
        marker = tree / ".git"
        own = marker
        if (text := find_text(marker)) is not None:  # a linked work tree, or a submodule
            own = tree / text.removeprefix("gitdir:").strip()
        if (own / "HEAD").is_file():
            return _Repository(tree, own, own / (find_text(own / "commondir") or ".").strip())
    return None


def _read_commit(repository: _Repository) -> str | None:
    text = (find_text(repository.folder / "HEAD") or "").strip()
    if named := _REF.fullmatch(text):
        loose = (find_text(folder / named[1]) for folder in (repository.folder, repository.common))
        lines = (find_text(repository.common / "packed-refs") or "").splitlines()
        packed = (row[0] for line in lines if (row := line.split(" ", 1))[1:] == [named[1]])
        text = next((found.strip() for found in loose if found is not None), None) or next(packed, "")
    return text if _COMMIT.fullmatch(text) else None


def _is_changed(repository: _Repository, commit: str) -> bool | None:
    """Compare work tree, index and commit by a git folder of Orch's own, which lends only index and objects."""
    index = repository.folder / "index"
    if not index.is_file():
        return None
    with tempfile.TemporaryDirectory(prefix="orch-git-") as name:
        own = Path(name)
        (own / "refs").mkdir()
        (own / "HEAD").write_text(commit + "\n", encoding="ascii")
        (own / "config").write_text(_SHA1 if len(commit) == len("0" * 40) else _SHA256, encoding="ascii")
        env = {
            "PATH": os.environ.get("PATH", os.defpath),
            "LC_ALL": "C",
            "HOME": name,
            "XDG_CONFIG_HOME": name,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_ATTR_NOSYSTEM": "1",
            "GIT_DIR": name,
            "GIT_WORK_TREE": str(repository.tree),
            "GIT_INDEX_FILE": str(index.absolute()),
            "GIT_OBJECT_DIRECTORY": str((repository.common / "objects").absolute()),
            "GIT_OPTIONAL_LOCKS": "0",  # the index is another's: it is not refreshed
            "GIT_NO_REPLACE_OBJECTS": "1",
            "GIT_NO_LAZY_FETCH": "1",
            "GIT_ALLOW_PROTOCOL": "",
        }
        # a submodule has a configuration of its own, which git would read
        argv = ("git", "status", "--porcelain", "--untracked-files=no", "--ignore-submodules=all")
        done = run(argv, _TIMEOUT_S, env=env)
    return bool(done.stdout.strip()) if done.exit_code == 0 else None
