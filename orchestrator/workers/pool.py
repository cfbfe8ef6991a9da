"""Share the batches of one reader among several devices, a process each; the same batches, so the same bytes.

The process that shares loads no model and touches no GPU. A batch whose process ends is read by another one.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from typing import Any

from orchestrator.workers.batches import Batch, Read, Reader
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.reranker.scoring import Spec, choose_device, load_reader

DEVICE = "cpu, cuda or cuda:N; several parted by commas share the work (default: every GPU, or the CPU)"
BYTES_A_DEVICE = 1 << 18  # of text, about four batches: with less, another process costs more than it does
_VISIBLE = "CUDA_VISIBLE_DEVICES"


def choose_devices(wanted: str | None, *paths: Path | None) -> list[str]:
    """Return the wanted devices (commas part them), else every GPU that the texts in `paths` give work to, or the CPU.

    Raises WorkerError for a device that is not there.
    """
    import torch

    if wanted is not None:
        return list(map(choose_device, wanted.split(",")))
    size = sum(path.stat().st_size for path in paths if path is not None and path.is_file())
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    return [f"cuda:{number}" for number in range(min(count, 1 + size // BYTES_A_DEVICE))] or ["cpu"]


def open_reader(model: str, spec: Spec, devices: Sequence[str]) -> Reader:
    """Return the reader of a spec over a model on one device, or shared by several."""
    if len(devices) == 1:
        return load_reader(model, spec, devices[0])
    pool = Pool([Child(device, len(devices)) for device in devices])
    for child in pool.children:  # all at once: each loads the model
        child.pipe.send((model, spec, child.own_device))
    longest, batch_size = pool.greet()
    pool.facts["devices"] = list(devices)
    kind = devices[0].partition(":")[0]
    return Reader(pool.count, pool.refuse, longest, batch_size, kind, pool.facts, share=pool.share)


class Child:
    """The process of one device, and the pipe to it; it ends with that, however its parent ends."""

    def __init__(self, device: str, processes: int) -> None:
        """Start the process."""
        self.device, self.own_device = device, device
        env = dict(os.environ)
        kind, _, number = device.partition(":")
        if kind == "cuda":  # it sees its own GPU alone: no library takes memory on another
            visible = [name for name in env.get(_VISIBLE, "").split(",") if name]
            env[_VISIBLE] = visible[int(number)] if visible else number
            self.own_device = "cuda:0"
        else:
            env.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
        self.pipe, there = Pipe()
        command = [sys.executable, str(Path(__file__).resolve().parent), "share"]
        self.process = subprocess.Popen(command, env=env, stdin=there.fileno())
        there.close()

    def receive(self) -> tuple[Any, dict[str, Any]]:
        """Return the answer to what was sent, and the facts so far.

        Raises WorkerError as the process does, EOFError where it ended.
        """
        answer, facts = self.pipe.recv()
        if isinstance(answer, WorkerError):
            raise answer
        return answer, facts


@dataclass
class Pool:
    """The processes that read, and what is known of them."""

    children: list[Child]
    facts: dict[str, Any] = field(default_factory=dict)

    def greet(self) -> tuple[int, int]:
        """Wait until every process has loaded; return the longest item in tokens and the batch size."""
        answers = []
        for child in list(self.children):
            try:
                answers.append(self.take(child, child.receive()))
            except (EOFError, OSError):
                self.lose(child)
        longest, batch_size = answers[0]
        return longest, batch_size

    def count(self, items: Sequence[Any]) -> list[int]:
        """Return the tokens of each item, by the first process that lives."""
        while True:
            child = self.children[0]
            try:
                child.pipe.send(("count", list(items)))
                return list(self.take(child, child.receive()))
            except (EOFError, OSError):
                self.lose(child)

    def refuse(self, batch: Sequence[Any]) -> list[Any]:
        """Read nothing here."""
        raise NotImplementedError

    def take(self, child: Child, received: tuple[Any, dict[str, Any]]) -> Any:
        """Return a process's answer, and remember its facts: all of the first, and what the others warn of."""
        answer, facts = received
        cautions = dict.fromkeys([*self.facts.get("cautions", ()), *facts.pop("cautions", ())])
        if child is self.children[0]:
            self.facts.update(facts)
        if cautions:
            self.facts["cautions"] = list(cautions)
        return answer

    def lose(self, child: Child) -> None:
        """Go on without a process that ended. Raises WorkerError when it was the last."""
        code = child.process.wait()
        self.children.remove(child)
        said = f"the process on {child.device} ended with {code} while it scored"
        if not self.children:
            raise WorkerError(f"{said}, and no other is left; what was scored is kept where a cache is given")
        self.facts["cautions"] = [*self.facts.get("cautions", ()), f"{said}: the others have done its rest"]
        sys.stderr.write(f"{said}: the others do its rest\n")

    def share(self, batches: Sequence[Batch]) -> Read:
        """Yield the number of each batch and what it gives, as they are done."""
        left = deque(enumerate(batches))
        busy: dict[Any, tuple[Child, int, Batch]] = {}
        read: tuple[int, list[Any]] | None = None
        while True:
            for child in self.children:  # first, so that none waits while what was read is used
                if left and child.pipe not in busy:
                    number, batch = left.popleft()
                    busy[child.pipe] = child, number, batch
                    with contextlib.suppress(OSError):  # it has ended, which is what is received of it
                        child.pipe.send(("read", batch))
            if read is not None:
                yield read
            if not busy:
                return
            child, number, batch = busy.pop(wait(list(busy))[0])
            try:
                read = number, self.take(child, child.receive())
            except (EOFError, OSError):
                read = None
                left.append((number, batch))
                self.lose(child)


def main(argv: list[str]) -> int:
    """Load what the first request names, and answer the requests that follow, until their pipe is closed."""
    parser = argparse.ArgumentParser(prog="workers share", description=__doc__, allow_abbrev=False)
    parser.parse_args(argv)
    # what libraries print goes to standard error, and Ctrl-C ends the parent, which closes the pipe
    parent = Connection(os.dup(0))
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        reader = load_reader(*parent.recv())
        answer: Any = (reader.longest, reader.batch_size)
        while True:
            parent.send((answer, dict(reader.facts)))
            name, items = parent.recv()
            answer = reader.read(items) if name == "read" else reader.count(items)
    except WorkerError as error:
        parent.send((error, {}))
        return error.exit_code
    except (EOFError, ConnectionError):
        return 0
