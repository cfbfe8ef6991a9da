"""Sends a run's packaged model to a hub, once it is judged: what is measured, no other file, and the verdict with it.

A worker does it in the backend's Python, which has the hub's client: one commit, so that nobody loads half a model.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.backends.models import HUBS
from orchestrator.errors import GateMissedError, PreflightError, Problem, RunFolderError, StageFailedError
from orchestrator.machine.files import open_regular, write_text
from orchestrator.machine.json_files import parse_json
from orchestrator.machine.places import PACKAGE, WORKERS, find_home, is_offline
from orchestrator.machine.rundir import RunDir
from orchestrator.machine.secrets import describe_secret
from orchestrator.recipe.plan import Command, Plan
from orchestrator.report.publish import build_model_index
from orchestrator.run.folder import find_run, load_own_plan, load_run_object
from orchestrator.run.resume import stage_digest
from orchestrator.run.state import load_result
from orchestrator.serving.artefact import find_artefact
from orchestrator.serving.worker import Words, run_worker

_TARGET = re.compile(r"(hf|ms):(?://)?([\w.-]+/[\w.-]+)", re.ASCII)
_CARD, _SPEC = "README.md", "scoring.json"
# What a package may hold, with folders of sentence-transformers' modules (1_Pooling); all else stays here.
_SENT = re.compile(
    r"(?:\d+_\w+/)?(?:[\w.-]+\.safetensors|[\w.-]+\.json|[\w.-]+\.jinja|\w+\.model|(?:vocab|merges|spiece)\.txt|\w+\.py)"
)
_TEXT = (".json", ".jinja", ".md", ".txt", ".py")
_MOST_TEXT = 32 << 20  # bytes of a file that is searched for secrets and paths; tokenizer.json has about ten
_BARS = (("HF_HUB_DISABLE_PROGRESS_BARS", "0"), ("TQDM_DISABLE", ""))  # signs of life of an upload of hours


@dataclass(frozen=True)
class Target:
    """Where a model is pushed to: `hub` is hf or ms; `revision` a branch, None for the hub's own."""

    hub: str
    id: str
    revision: str | None = None
    private: bool = False


@dataclass(frozen=True)
class Parcel:
    """What is pushed of a run: its files by their names in the package, and the card with the verdict in its head."""

    run: RunDir
    python: str
    files: dict[str, Path]
    card: str
    headline: str

    def describe(self) -> list[dict[str, Any]]:
        """Return name and size in bytes of every file, the card's with the verdict."""
        sizes = {name: path.stat().st_size for name, path in self.files.items()} | {_CARD: len(self.card.encode())}
        return [{"name": name, "bytes": size} for name, size in sorted(sizes.items())]


def parse_target(text: str, revision: str | None, *, private: bool) -> Target:
    """Return where hf:owner/name or ms:owner/name is. Raises PreflightError for any other text."""
    found = _TARGET.fullmatch(text)
    if found is None:
        raise PreflightError(f"{text} names no repository of a hub", hint="say hf:owner/name or ms:owner/name")
    return Target(found[1], found[2], revision, private)


def build_parcel(name: str, runs: Path, target: Target, *, even_if_worse: bool, trust_run: bool = False) -> Parcel:
    """Return what is pushed of the run that `name` means.

    Raises RunFolderError for a run that is not judged, or whose package is no longer what was measured, GateMissedError
    for a model that its own run found worse, PreflightError for a package that holds a secret or a path of this
    machine.
    """
    run = find_run(name, runs)
    plan = load_own_plan(run, trust_run=trust_run)
    artefact = find_artefact(str(run.root), runs, trust_run=trust_run)
    report = require_judged(run, plan)
    files = require_as_measured(run, artefact.spec)
    if not even_if_worse and (faults := list(find_faults(plan, report))):
        hint = "push a better one; or say --even-if-worse, and the card says it too"
        raise GateMissedError(f"{run.root.name} is not pushed: {'; '.join(faults)}", hint=hint)
    card = (run.model / _CARD).read_text(encoding="utf-8")
    if target.hub == "hf":  # whose ids every library loads; MODEL_PATH of workers/package.py
        card = card.replace("path/to/this/folder", target.id)
    metrics = load_run_object(run.metrics_json)
    card = build_model_index(card, target.id.partition("/")[2], plan, metrics)
    _refuse_private(run, plan, files, card)
    return Parcel(run, artefact.python, files, card, str(report["headline"]))


def require_judged(run: RunDir, plan: Plan) -> dict[str, Any]:
    """Return report.json of a run whose evaluation and report are done, and are those of its files as they are now."""
    hint = f"finish it: orch resume {run.root}"
    for stage in (stage for stage in plan.stages if stage.kind in {"evaluate", "report"}):
        result = load_result(run.stage(stage.name))
        if result is None or not run.report_json.is_file():
            raise RunFolderError(f"{run.root.name} is not judged yet: its stage {stage.name} is not done", hint=hint)
        if result.digest != stage_digest(plan, stage):
            message = f"{run.root.name} has changed since its stage {stage.name}: the verdict is of another model"
            raise RunFolderError(message, hint=f"measure it again: orch resume {run.root}")
    report = load_run_object(run.report_json)
    if not {"headline", "verdict", "gate", "metrics"} <= report.keys():
        raise RunFolderError(f"{run.report_json} does not hold a verdict", hint=hint)
    return report


def require_as_measured(run: RunDir, spec: Mapping[str, Any]) -> dict[str, Path]:
    """Return the package's files by name, but the card. Raises RunFolderError for one that is new, gone or changed."""
    hashes = spec.get("files")
    if not isinstance(hashes, dict):
        raise RunFolderError(f"{run.model / _SPEC} has no hashes of its files", hint="package the run again")
    found = {path.relative_to(run.model).as_posix(): path for path in run.model.rglob("*") if path.is_file()}
    known = {_CARD, _SPEC, *hashes}
    changed = sorted(known ^ found.keys())
    changed += [name for name, said in hashes.items() if name in found and _hash(found[name]) != said]
    if changed:
        message = f"{run.model} is no longer what was packaged: {', '.join(changed[:5])}"
        raise RunFolderError(message, hint=f"put it back; or remove the folder, and: orch resume {run.root}")
    if others := sorted(name for name in found if name != _CARD and not _SENT.fullmatch(name)):
        message = f"{run.model} holds what no package has: {', '.join(others[:5])}"
        raise RunFolderError(message, hint="package the run again")
    return {name: path for name, path in found.items() if name != _CARD}


def _hash(path: Path) -> str:
    with open_regular(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]


def find_faults(plan: Plan, report: Mapping[str, Any]) -> Iterator[str]:
    """Yield why a model should not be given to others."""
    if plan.smoke:
        yield "it is a smoke run, whose model is tiny and random"
    if report["verdict"] == "worse":
        yield f"its verdict is worse ({report['headline']})"
    yield from (rule["sentence"] for rule in report["gate"]["rules"] if not rule["passed"])


def _refuse_private(run: RunDir, plan: Plan, files: Mapping[str, Path], card: str) -> None:
    """Raise PreflightError for texts that hold a secret, or a path of this machine."""
    places = {str(run.root), str(find_home()), str(Path.cwd()), str(PACKAGE.parent), plan.run_dir}
    marks = sorted(place for place in places if place.count("/") > 1 or place == "/root")
    problems = []
    for name, path in {**files, _CARD: None}.items():
        if path is not None and (path.suffix not in _TEXT or path.stat().st_size > _MOST_TEXT):
            continue
        text = card if path is None else path.read_text(encoding="utf-8", errors="replace")
        secret = describe_secret(text, os.environ)
        place = next((mark for mark in marks if re.search(rf"{re.escape(mark)}(?![\w-])", text)), None)
        if found := secret or (place and f"a path of this machine ({place})"):
            problems.append(Problem(f"{name} of the package holds {found}", f"remove it from {run.model / name}"))
    if problems:
        raise PreflightError.from_problems(problems)


def push(parcel: Parcel, target: Target) -> dict[str, Any]:
    """Send a parcel, and return {"url", "commit"}. Raises PreflightError without a token, and as `run_worker` does."""
    row = HUBS[target.hub]
    if is_offline(os.environ):
        raise PreflightError("HF_HUB_OFFLINE forbids to ask a hub", hint="unset it, then push")
    if not any(os.environ.get(name, "").strip() for name in row["tokens"]):
        hint = f"set {row['tokens'][0]} in your environment to one that may write to {target.id}"
        raise PreflightError(f"{row['name']} takes nothing without a token", hint=hint)
    with tempfile.TemporaryDirectory(prefix="orch-push-") as place:
        folder = Path(place)
        for name, path in parcel.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).symlink_to(path)
        write_text(folder / _CARD, parcel.card)
        argv = [parcel.python, str(WORKERS), "push", "--hub", target.hub, "--id", target.id]
        argv += ["--folder", str(folder), "--message", f"{parcel.run.root.name}: {parcel.headline}"]
        argv += ["--revision", target.revision] if target.revision else []
        argv += ["--private"] if target.private else []
        words = Words(f"{parcel.run.root.name} is not pushed", f"{parcel.run.root.name} was not pushed to the end")
        said = run_worker(Command(tuple(argv), env=_BARS, cwd=str(folder)), words)
    answer = parse_json(said.splitlines()[-1]) if said.strip() else {}
    if not isinstance(answer, dict) or "url" not in answer:
        raise StageFailedError("the push ended without an answer", hint="repeat it: what has arrived is not sent again")
    return answer
