"""Call a trainer as its user would, without its start: a warm process that forks for each call."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.logs.events import Step
from orchestrator.logs.live import parse_line
from orchestrator.machine.places import WORKERS

SERVER = Path(__file__).with_name("warm_server.py")
LIMIT_S = 60
_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",  # torch must not start threads before a fork
    "CUDA_VISIBLE_DEVICES": "",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TORCH_CPP_LOG_LEVEL": "ERROR",
}
UNSET = frozenset({"TQDM_DISABLE"})  # other tests turn bars off, and ms-swift's evaluation writes to its bar's file


@dataclass(frozen=True)
class Ended:
    """How a call ended, and what it printed and wrote. `output` is the trainer's own folder."""

    code: int | None
    stdout: str
    stderr: str
    output: Path

    @property
    def steps(self) -> list[Step]:
        """Every logged step, as Orch reads the log."""
        return [event for line in self.stdout.splitlines() if isinstance(event := parse_line(line), Step)]

    @property
    def losses(self) -> list[float | None]:
        return [step.loss for step in self.steps]

    def require_success(self) -> Ended:
        assert self.code == 0, f"exit code {self.code}\n{self.stderr[-3000:]}"
        return self


@dataclass
class Native:
    """A warm trainer. `argv` are what every call has, unless the call says otherwise."""

    name: str
    folder: Path
    argv: dict[str, Any] = field(default_factory=dict)
    _calls: int = 0

    def __post_init__(self) -> None:
        with (self.folder / "server.log").open("w") as log:
            self._server = subprocess.Popen(
                [sys.executable, str(SERVER), self.name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**{name: value for name, value in os.environ.items() if name not in UNSET}, **_ENVIRONMENT},
            )

    def _wait_ready(self) -> None:
        if self._calls == 0:
            line = self._server.stdout.readline()
            assert line, (self.folder / "server.log").read_text()[-3000:]
        self._calls += 1

    def call(
        self, module: str, words: list[str], *, env: dict[str, str] | None = None, limit_s: int = LIMIT_S
    ) -> Ended:
        """Run `python -m module words`; after `limit_s` its stack is on stderr, and `code` is None."""
        self._wait_ready()
        place = self.folder / f"call-{self._calls}"
        place.mkdir()
        request = {
            "module": module,
            "argv": [word.replace("OUTPUT", str(place / "output")) for word in words],
            "env": {"HF_DATASETS_CACHE": str(place / "cache"), **(env or {})},
            "cwd": str(place),
            "stdout": str(place / "stdout"),
            "stderr": str(place / "stderr"),
            "limit_s": limit_s,
        }
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        reply = json.loads(self._server.stdout.readline())
        stdout, stderr = ((place / name).read_text(errors="replace") for name in ("stdout", "stderr"))
        return Ended(None if "\nTimeout (" in f"\n{stderr}" else reply.get("code"), stdout, stderr, place / "output")

    def train(self, module: str, *, env: dict[str, str] | None = None, limit_s: int = LIMIT_S, **changes: Any) -> Ended:
        """Train with `argv` and these changes; None leaves an argument out, a list is many words."""
        given = {**self.argv, **changes}
        return self.call(module, spell(given), env=env, limit_s=limit_s)

    def close(self) -> None:
        self._server.stdin.close()
        self._server.wait(timeout=30)
        self._server.stdout.close()


def spell(arguments: dict[str, Any]) -> list[str]:
    """Return the arguments as words of a command line."""
    words = []
    for name, value in arguments.items():
        if value is not None:
            words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return words


def find_number(pattern: str, text: str) -> int:
    """Return the number that the last match of the pattern holds."""
    return int(re.findall(pattern, text)[-1])


def write_rows(path: Path, rows: list[Any]) -> Path:
    """Write one JSON value a line; a string stands as it is."""
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def launch_two(folder: Path, *words: str, env: dict[str, str] | None = None) -> Ended:
    """Run the words in two processes under Orch's launcher, which then looks for the proof that they were one group."""
    folder.mkdir()
    argv = [sys.executable, str(WORKERS), "launch", "--nproc_per_node", "2", "--checkpoints", str(folder / "output")]
    argv += [word.replace("OUTPUT", str(folder / "output")) for word in words]
    env = {**os.environ, **_ENVIRONMENT, "HF_DATASETS_CACHE": str(folder / "cache"), **(env or {})}
    done = subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=300)
    return Ended(done.returncode, done.stdout, done.stderr, folder / "output")
