"""The port that processes of a training meet at, where the user's environment names one."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator

from orchestrator.backends.protocol import Job
from orchestrator.errors import Problem
from orchestrator.recipe.plan import Plan

_VARIABLE = "MASTER_PORT"
_LAUNCHER = "launch"
_PORTS = range(1, 65536)


def check_ports(job: Job, plan: Plan) -> Iterator[Problem]:
    """Yield that MASTER_PORT is no port, or in use.

    Trainings of several processes meet at a free port of their own (`workers launch`) and ignore it. A single process
    that the launcher does not start, as ms-swift's on one GPU, takes it (swift/utils/torch_utils.py).
    """
    value = job.recipe.launch.env.get(_VARIABLE) or os.environ.get(_VARIABLE)
    train = plan.stage("train")
    if not value or train is None or _LAUNCHER in train.command.argv:
        return
    where = "launch.env" if _VARIABLE in job.recipe.launch.env else "your shell"
    remove = f"remove {_VARIABLE} from launch.env" if where == "launch.env" else f"unset {_VARIABLE}"
    if not value.isdigit() or int(value) not in _PORTS:
        yield Problem(f"{_VARIABLE}={value} in {where} is no port", f"{remove}, or give a number from 1 to 65535")
    elif (why := find_port_refusal(int(value))) is not None:
        yield Problem(f"{_VARIABLE}={value} in {where}: {why}", f"{remove}, or name a free port")


def find_port_refusal(port: int) -> str | None:
    """Return why nobody can listen on a port of this machine now; None where one can."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was left a minute ago is free
        try:
            probe.bind(("", port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return "another program listens on that port"
            return f"it cannot be listened on: {error.strerror}"
    return None
