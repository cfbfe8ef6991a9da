"""The plan's files and each stage's command.sh in the run folder, as text that people read and run."""

from __future__ import annotations

import shlex

from orchestrator.machine.ownership import seal
from orchestrator.machine.rundir import RunDir, write_text
from orchestrator.recipe.plan import Plan, Stage
from orchestrator.run.state import LaunchRecord, redact


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
