"""Sends finished runs to experiment trackers, from any machine that has their folders."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pydantic import ValidationError

from orchestrator.backends.protocol import list_tracking
from orchestrator.errors import PreflightError
from orchestrator.machine.files import write_json
from orchestrator.machine.places import WORKERS
from orchestrator.machine.rundir import RunDir
from orchestrator.machine.secrets import find_secret_values, redact_text
from orchestrator.recipe.plan import Command
from orchestrator.recipe.schema import Track
from orchestrator.report.publish import build_told
from orchestrator.report.record import load_record
from orchestrator.run.folder import is_own_run, load_plan, load_run_object, understood
from orchestrator.serving.worker import Words, run_worker


def send_run(run: RunDir, *, to: str | None, project: str | None, python: Path | None) -> list[str]:
    """Tell trackers (with commas between them, or the recipe's) of a run, and return what they said, a line each.

    `python` has their packages: the Python of a run that this user has made, else Orch's own. Raises RunFolderError for
    a run that is not finished, PreflightError for a tracker that there is not, and what `run_worker` does.
    """
    plan = load_plan(run)
    given = {"to": to.split(",") if to else None, "project": project}
    try:
        track = Track.model_validate((plan.recipe.get("track") or {}) | {key: one for key, one in given.items() if one})
    except ValidationError as error:
        hint = "name trackers, such as --to tensorboard,wandb, and a project of letters, digits, '_', '.' and '-'"
        raise PreflightError(f"{run.root.name}: {error.errors()[0]['msg']}", hint=hint) from error
    report, train = load_run_object(run.report_json), plan.stage("train")
    with understood(run.report_json):
        write_json(run.track_json, build_told(load_record(run, plan), report, report=track.report))
    own = (
        train.command.argv[0] if train and is_own_run(run) and Path(train.command.argv[0]).exists() else sys.executable
    )
    options = list_tracking(track, run.root, plan.name).items()
    argv = [
        str(python or own),
        str(WORKERS),
        "track",
        *(word for key, value in options for word in (f"--{key}", value)),
    ]
    words = Words(f"{run.root.name} is not sent", f"{run.root.name} was not sent to the end")
    said = redact_text(run_worker(Command(tuple(argv)), words), find_secret_values(os.environ))
    found = (line.removeprefix("orch-") for line in said.splitlines() if line.startswith("orch-"))
    return [line.removeprefix("note ").replace("caution ", "caution: ", 1) for line in found]
