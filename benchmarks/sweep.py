"""What a sweep of eight smoke trials costs beside eight runs by hand, in CPU seconds of all processes.

`python benchmarks/sweep.py [REPEATS]` measures, in turn, one run, and sweeps of one and of three trials: the third and
the second cost what a further trial costs.
"""

from __future__ import annotations

import resource
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ORCH = Path(sys.executable).parent / "orch"
RECIPE = ROOT / "recipes" / "minilm_embedding.yaml"
WORK = ROOT / "runs" / "sweep-benchmark"
TRIALS = 8
SWEPT = ("--set", "train.learning_rate=1e-4,1e-3", "--set", "loss=mnrl,cached_mnrl", "--seeds", "2")


def measure(*words: str) -> float:
    """Return the CPU seconds of an `orch` command, with its stages and their residents."""
    shutil.rmtree(WORK, ignore_errors=True)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        (ORCH, words[0], RECIPE, "--smoke", "-o", WORK, *words[1:]), check=True, cwd=ROOT, capture_output=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(repeats: int) -> None:
    found = [
        (measure("run"), *(measure("sweep", *SWEPT, "--max-trials", str(count)) for count in (1, 3)))
        for _ in range(repeats)
    ]
    run, one, three = (statistics.median(column) for column in zip(*found, strict=True))
    further = (three - one) / 2
    share = (one + (TRIALS - 1) * further) / (TRIALS * run)
    print(f"a run {run:.1f} s, the first trial {one:.1f} s, a further one {further:.1f} s of CPU")
    print(f"{TRIALS} trials take {share:.2f} of {TRIALS} runs")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
