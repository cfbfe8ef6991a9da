"""The model registry that is a folder: packages of runs with what each was made of, and tags that name them."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from orchestrator.errors import GateMissedError, RunFolderError
from orchestrator.machine.files import write_json
from orchestrator.machine.json_files import find_object
from orchestrator.machine.rundir import RunDir
from orchestrator.machine.terminal import align
from orchestrator.run.folder import Tag, find_tag_file, is_run, list_tags, load_plan, load_run_object, understood
from orchestrator.run.runs import list_runs
from orchestrator.run.sweep import is_sweep
from orchestrator.serving.artefact import find_artefact
from orchestrator.serving.push import find_faults, require_as_measured, require_judged

_HASH_SHOWN = 12
_COUNTS = "/tokenizer.json"  # what the rows' tokens are counted with
_HEADS = ("tags", "run", "verdict", "package", "base model", "recipe", "data")


def hash_package(spec: Mapping[str, Any]) -> str:
    """Return one hash of a package: of the names and hashes of its files, as its scoring.json has them."""
    return hashlib.sha256(json.dumps(sorted(spec["files"].items())).encode()).hexdigest()


def list_models(root: Path) -> list[dict[str, Any]]:
    """Return the packaged models of the runs and sweeps in a folder, the newest first, with what each was made of.

    {"run", "path", "tags", "verdict", "headline", "package": its hash, "base": model, "recipe", "recipe_sha256",
     "inputs": {path: hash} of all that the run read, "data": {path: hash} of the rows among it, "orch", "commit"};
    of one that is damaged {"run", "path", "tags", "fault"}.
    """
    tags: dict[Path, list[str]] = {}
    for name, run in list_tags(root).items():
        tags.setdefault(run.root, []).append(name)
    places = [root, *(path / "trials" for path in root.glob("*") if is_sweep(path))]
    runs = sorted((run for place in places for run in list_runs(place)), key=lambda run: -(run.started or 0))
    found = []
    for run in (RunDir(run.path) for run in runs if (run.path / "model" / "scoring.json").is_file()):
        row = {"run": _name(run, root), "path": str(run.root), "tags": tags.get(run.root.resolve(), [])}
        try:
            found.append(row | _read_model(run))
        except RunFolderError as error:
            found.append(row | {"fault": error.problems[0].message})
    return found


def _read_model(run: RunDir) -> dict[str, Any]:
    plan, spec = load_plan(run), load_run_object(run.model / "scoring.json")
    report, made = find_object(run.report_json) or {}, find_object(run.provenance_json) or {}
    rows = plan.stage("prepare")
    with understood(run.model / "scoring.json"):
        package = hash_package(spec)
    with understood(run.provenance_json):
        inputs = dict(made.get("inputs") or {})
        return {
            "verdict": report.get("verdict"), "headline": report.get("headline"), "package": package,
            "base": plan.model_name,
            "recipe": plan.name, "recipe_sha256": made.get("recipe_sha256"), "inputs": inputs,
            "data": {path: inputs[path] for path in rows.inputs if path in inputs and not path.endswith(_COUNTS)}
            if rows else {},
            "orch": made.get("orch"), "commit": (made.get("git") or {}).get("commit"),
        }  # fmt: skip


def format_models(models: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the models as lines of a table; hashes are cut, and several files of rows have one."""
    rows: list[tuple[str, ...]] = [_HEADS]
    for model in models:
        cells = [", ".join(model["tags"]) or "–", model["run"], model.get("fault") or model["verdict"] or "not judged"]
        if "fault" not in model:
            data = sorted(model["data"].values())
            digest = data[0] if len(data) == 1 else hashlib.sha256("".join(data).encode()).hexdigest() if data else "–"
            recipe = f"{model['recipe']} {str(model['recipe_sha256'] or '')[:_HASH_SHOWN]}".rstrip()
            cells += [model["package"][:_HASH_SHOWN], model["base"] or "–", recipe, digest[:_HASH_SHOWN]]
        rows.append(tuple(map(str, cells)))
    return align(rows)  # a damaged model's row ends with its fault


def set_tag(name: str, run: RunDir, root: Path, *, even_if_worse: bool = False) -> tuple[Tag, str | None]:
    """Let a tag name a run; return it, and the run that it named before. To move it is one rename.

    Raises RunFolderError for a name that no tag may have, a run that is not judged or whose package is no longer what
    was measured, GateMissedError for a model that its own run found worse.
    """
    path = find_tag_file(name, root)
    if is_run(RunDir(root / name)):
        raise RunFolderError(f"{name} is the name of a run in {root}", hint="choose another tag")
    plan, artefact = load_plan(run), find_artefact(str(run.root), root, is_only_read=True)
    report = require_judged(run, plan)
    require_as_measured(run, artefact.spec)
    faults = [] if even_if_worse or plan.smoke else list(find_faults(plan, report))
    if faults:
        raise GateMissedError(f"{name} stays: {'; '.join(faults)}", hint="tag a better one, or say --even-if-worse")
    before = list_tags(root).get(name)
    tag = Tag(_name(run, root), hash_package(artefact.spec), time.time())
    write_json(path, asdict(tag))
    return tag, _name(before, root) if before else None


def remove_tag(name: str, root: Path) -> None:
    """Remove a tag; its run stays. Raises RunFolderError where there is none."""
    path = find_tag_file(name, root)
    if not path.is_file():
        raise RunFolderError(f"no tag {name!r} in {root}", hint="list tags with: orch tag --list")
    path.unlink()


def _name(run: RunDir, root: Path) -> str:
    """Return a run's path from the folder of runs, so that both can be moved; the whole path of one elsewhere."""
    folder, base = run.root.resolve(), root.resolve()
    return folder.relative_to(base).as_posix() if folder.is_relative_to(base) else str(folder)
