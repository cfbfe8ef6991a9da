"""What the benchmarks share: a child's CPU time and peak memory, two sides in turn, and the JSON that they are kept in.

The shape of benchmarks/{step,verdict,scoring,stages,embedding}.json stands in benchmarks/README.md; table.py prints
them, and writes them into docs/performance.md.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
PACKAGES = (
    "torch", "transformers", "peft", "accelerate", "FlagEmbedding", "ms-swift", "sentence-transformers", "numpy",
)  # fmt: skip
# A process is counted with the memory of the one that started it (Linux keeps the peak over exec), so a small one does.
_LAUNCHER = """
import json, os, sys, time
begin = time.monotonic()
pid = os.fork()
if not pid:
    os.execvpe(sys.argv[2], sys.argv[2:], os.environ)
_, status, used = os.wait4(pid, 0)
found = {"wall_s": time.monotonic() - begin, "cpu_s": used.ru_utime + used.ru_stime, "peak_mb": used.ru_maxrss / 1024}
with open(sys.argv[1], "w") as stream:
    json.dump(found, stream)
sys.exit(os.waitstatus_to_exitcode(status) and 1)
"""


@dataclass(frozen=True)
class Cost:
    """What one command took with all its children; `peak_mb` is the largest of its processes, not their sum."""

    wall_s: float
    cpu_s: float
    peak_mb: float


@dataclass(frozen=True)
class Row:
    """One line of the table: Orch's number over the native one is the ratio; `equal` says what was the same.

    `equal` is a short text ("loss to 7 digits"), False where the results differ, None where nothing is compared.
    """

    what: str
    native: float
    orch: float
    unit: str
    ratio: float
    equal: str | bool | None


def measure(
    argv: Sequence[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None, shown: bool = False
) -> Cost:
    """Run one command and return what it took; what it says is printed where that is to be `shown`.

    Raises SystemExit, with the end of what the command said, where it fails.
    """
    with tempfile.NamedTemporaryFile("r", suffix=".json") as kept, tempfile.TemporaryFile("w+") as said:
        command = [sys.executable, "-I", "-S", "-c", _LAUNCHER, kept.name, *argv]
        every = {**os.environ, **(env or {})}
        done = subprocess.run(command, cwd=cwd, env=every, stdout=said, stderr=subprocess.STDOUT, check=False)
        if done.returncode:
            said.seek(0)
            raise SystemExit(f"{' '.join(argv)} failed:\n{said.read()[-4000:]}")
        if shown:
            said.seek(0)
            print(said.read(), end="")
        return Cost(**json.load(kept))


def alternate(native: Callable[[], Cost], orch: Callable[[], Cost], times: int = 3) -> tuple[list[Cost], list[Cost]]:
    """Run both sides `times` times in turn; who begins alternates. Returns what each took, in order."""
    found: tuple[list[Cost], list[Cost]] = ([], [])
    for number in range(times):
        for index, side in list(enumerate((native, orch)))[:: -1 if number % 2 else 1]:
            found[index].append(side())
    return found


def compare(
    what: str, native: Sequence[float], orch: Sequence[float], unit: str, *, equal: str | bool | None = None
) -> Row:
    """Return the medians of both sides as a row. In a unit that ends in /s more is better, in each other less."""
    ours, theirs = statistics.median(orch), statistics.median(native)
    return Row(what, theirs, ours, unit, ours / theirs, equal)


def compare_costs(
    what: str, sides: tuple[Sequence[Cost], Sequence[Cost]], *, equal: str | bool | None = None, wall: bool = False
) -> list[Row]:
    """Return the rows of both sides' CPU time and peak memory, and of their wall time where it is asked for."""
    units = [("CPU s", "cpu_s"), ("MB at most", "peak_mb"), *([("wall s", "wall_s")] if wall else [])]
    return [
        compare(what, *([getattr(cost, name) for cost in side] for side in sides), unit, equal=equal)
        for unit, name in units
    ]


def write(name: str, rows: Sequence[Row] | Sequence[dict[str, Any]], command: str) -> Path:
    """Keep rows in benchmarks/NAME.json ; of earlier runs those stay that measured something else."""
    path = FOLDER / f"{name}.json"
    rows = [row if isinstance(row, dict) else asdict(row) for row in rows]
    kept = {(row["what"], row.get("size"), row.get("unit")): row for row in (*load(name).get("rows", ()), *rows)}
    content = {
        "rows": list(kept.values()),
        "machine": describe_machine(),
        "versions": list_versions(),
        "command": command,
    }
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def load(name: str) -> dict[str, Any]:
    """Return what benchmarks/NAME.json keeps; nothing where it was not written yet."""
    path = FOLDER / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def describe_machine() -> dict[str, Any]:
    """Return the processor, its cores that this process may use, and the memory in GB."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory / 1e9),
    }


def list_versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
