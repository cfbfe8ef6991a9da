"""Workers without their start: a process that has imported the libraries forks for each worker that a test's run asks.

The stages' command lines, their environments, folders, outputs and exit codes are the run's own; only the seconds of
`import torch` are gone. Every backend also has runs without it (tests/e2e), for the wiring of a real start.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.traps.native import UNSET

HERE = Path(__file__).parent
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",  # torch must not start threads before a fork
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


@contextmanager
def start_warm(folder: Path, name: str) -> Iterator[dict[str, str]]:
    """Yield the variables that lead workers of this Python to warm processes in `folder`, and start one there.

    `plain` has FlagEmbedding and sentence-transformers. `swift` has ms-swift, which patches the libraries, and answers
    what would import it too.
    """
    argv = [sys.executable, str(HERE / "server.py"), name, str(folder / name)]
    env = {key: value for key, value in os.environ.items() if key not in UNSET} | _ENVIRONMENT
    path = os.pathsep.join(filter(None, (str(HERE / "site"), os.environ.get("PYTHONPATH"))))
    with (folder / f"{name}.log").open("w") as log:
        server = subprocess.Popen(argv, stdout=log, stderr=log, stdin=subprocess.PIPE, env=env)
    while not (folder / name).exists():
        assert server.poll() is None, (folder / f"{name}.log").read_text()
        time.sleep(0.01)
    try:
        yield {"PYTHONPATH": path, "ORCH_TEST_WARM": str(folder), "ORCH_TEST_WARM_PYTHON": sys.executable}
    finally:
        server.communicate()  # its standard input ends, and so does it
