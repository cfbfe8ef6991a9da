"""A stage that writes down what it is as a process, and then ends as it is told to: `show_itself.py FILE [HOW]`."""

from __future__ import annotations

import faulthandler
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np


def main() -> int:
    file = Path(sys.argv[1])
    file.parent.mkdir(parents=True, exist_ok=True)
    shown = Path("/proc/self/environ").read_text(errors="surrogateescape").split("\0")
    mask = os.umask(0)
    os.umask(mask)
    facts = {
        "argv": sys.argv,
        "orig_argv": sys.orig_argv,
        "path": sys.path,
        "main": [__name__, __file__],
        "cmdline": Path("/proc/self/cmdline").read_text().rstrip("\0").split("\0"),
        "environ": sorted(os.environ.items()),
        "shown": sorted(entry for entry in shown if entry),
        "cwd": os.getcwd(),  # noqa: PTH109
        "mask": mask,
        "is_in_group_of_parent": os.getpgrp() == os.getppid() == os.getsid(0),
        "signals": [str(signal.getsignal(number)) for number in range(1, 32)],
        "mask_of_signals": [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, [])],
        "descriptors": sorted(int(name) for name in os.listdir("/proc/self/fd"))[:-1],  # noqa: PTH208
        "stdin": sys.stdin.read(),
        "faulthandler": faulthandler.is_enabled(),
        "unbuffered": [sys.stdout.write_through, sys.stdout.line_buffering, sys.stderr.line_buffering],
    }
    drawn = [random.random(), float(np.random.random())]  # noqa: NPY002, S311
    file.write_text(json.dumps({"facts": facts, "drawn": drawn, "parent": os.getppid()}))
    how = sys.argv[2] if len(sys.argv) > 2 else "0"
    if how == "raise":
        raise ValueError(how)
    if how == "interrupt":
        signal.raise_signal(signal.SIGINT)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    while how == "wait" and not (file.parent.parent / "go").exists():
        time.sleep(0.02)
    return int(how) if how.isdigit() else 0


if __name__ == "__main__":
    sys.exit(main())
