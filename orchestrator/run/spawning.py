"""A launch record → the stage's process, with its environment, its logs and the file for its exit code."""

from __future__ import annotations

import os
from pathlib import Path

from orchestrator.errors import StageFailedError
from orchestrator.machine.process import Child, Launch, Processes
from orchestrator.machine.rundir import StageDir
from orchestrator.machine.secrets import rename_hub_token
from orchestrator.recipe.plan import Stage
from orchestrator.run.lock import is_of_folder
from orchestrator.run.state import LaunchRecord


def spawn_stage(stage: Stage, record: LaunchRecord, folder: StageDir, processes: Processes) -> Child:
    """Start the stage's process. Raises OSError when its logs cannot be opened, StageFailedError when it cannot run."""
    env = rename_hub_token({**os.environ, **dict(stage.command.env)})
    paths = (Path(record.cwd), folder.stdout_log, folder.stderr_log, folder.exit_code)
    cwd, stdout, stderr, exit_code = (path.absolute() for path in paths)
    try:
        return processes.spawn(Launch(record.argv, env, cwd, stdout, stderr, exit_code, record.token))
    except OSError as error:
        if is_of_folder(error):
            raise
        raise StageFailedError(f"{stage.name} cannot be started: {error}", hint="see its command.sh") from error
