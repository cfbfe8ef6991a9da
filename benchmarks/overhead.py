"""What Orch costs: start-up, the train stage against the same native command by hand, memory, a million rows.

`python benchmarks/overhead.py [startup] [train] [rows]` measures all, or what is named. Shared machines are noisy: CPU
time is quoted where wall time cannot be trusted, and times are compared in pairs, in one run.
"""

from __future__ import annotations

import json
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
ORCH = str(BIN / "orch")


def timed(argv: list[str], **options: Any) -> tuple[float, float]:
    """Return wall and CPU seconds of one process and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    begin = time.monotonic()
    subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **options)
    wall = time.monotonic() - begin
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)


def startup() -> None:
    """Measure the commands that people wait for, beside the CPU seconds that they may take on a quiet core."""
    recipe = str(ROOT / "recipes" / "qwen3_reranker.yaml")
    print("\n## Start-up (median of 9, seconds)\n\n| command | wall | CPU | at most |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        _write_runs(Path(folder), 1000)
        cases = {
            "python -c pass": ([sys.executable, "-c", "pass"], ""),
            "orch --help": ([ORCH, "--help"], "0.10"),
            "orch check": ([ORCH, "check", recipe], "0.30"),
            "orch render": ([ORCH, "render", recipe], "0.35"),
            "orch ls (1,000 runs)": ([ORCH, "ls", "--runs", folder], "0.40"),
        }
        subprocess.run(cases["orch check"][0], check=True, capture_output=True)  # what is imported is compiled once
        for name, (argv, most) in cases.items():
            runs = [timed(argv) for _ in range(9)]
            wall, cpu = (statistics.median(column) for column in zip(*runs, strict=True))
            print(f"| `{name}` | {wall:.2f} | {cpu:.2f} | {most} |")


def _write_runs(folder: Path, count: int) -> None:
    for number in range(count):
        run = folder / f"run-{number:04d}-20260101-000000-abcd"
        run.mkdir()
        state = {"status": "done", "started": 1.7e9 + number, "stage": "09-report", "exit_code": 0, "version": 1}
        report = {
            "verdict": "better",
            "headline": "+0.1 nDCG@10",
            "metrics": {f"ndcg@{k}": 0.01 * k for k in range(60)},
        }
        for name, content in (("plan", {}), ("state", state), ("report", report)):
            (run / f"{name}.json").write_text(json.dumps(content))


def train() -> None:
    """Run one native command by hand and through `orch run`, in turn (who begins alternates), and compare in pairs."""
    ratios, peaks = [], []
    for number in range(4):
        with tempfile.TemporaryDirectory() as folder:
            steps = [lambda: _train_by_hand(Path(folder) / "hand"), lambda: _train_supervised(Path(folder) / "run")]
            results = [step() for step in (steps if number % 2 else steps[::-1])]
        (by_hand, _), (supervised, peak) = results if number % 2 else results[::-1]
        ratios.append(supervised / by_hand)
        peaks.append(peak)
        print(f"pair {number + 1}: supervised {supervised:.1f} s, by hand {by_hand:.1f} s", file=sys.stderr, flush=True)
    print("\n## The train stage, supervised against by hand\n")
    print(
        f"ratio of wall times, 4 pairs: median {statistics.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}"
    )
    print(f"supervisor's peak memory: {max(peaks):.0f} MiB")


def _demo(command: str, run: Path) -> list[str]:
    overrides = ["train.max_steps=20", "evaluate.baselines=[]", "gate={}", "train.save_strategy=no"]
    flags = [word for item in overrides for word in ("--set", item)]
    return [ORCH, command, str(ROOT / "recipes" / "demo_reranker.yaml"), *flags, "-o", str(run)]


def _load_stages(run: Path) -> dict[str, dict[str, Any]]:
    return {stage["kind"]: stage for stage in json.loads((run / "plan.json").read_text())["stages"]}


def _train_by_hand(run: Path) -> tuple[float, float]:
    subprocess.run(_demo("render", run), check=True, stdout=subprocess.DEVNULL)
    stages = _load_stages(run)
    for kind in ("prepare", "train"):
        command = stages[kind]["command"]
        wall, _ = timed(command["argv"], env={**os.environ, **dict(command["env"])}, cwd=run)
    return wall, 0.0


def _train_supervised(run: Path) -> tuple[float, float]:
    peak = _run_and_watch(_demo("run", run))
    result = run / "stages" / _load_stages(run)["train"]["name"] / "result.json"
    return json.loads(result.read_text())["seconds"], peak


def _run_and_watch(argv: list[str]) -> float:
    """Run Orch and return its own peak resident memory in MiB, children not counted."""
    peak = 0.0
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
            except OSError:
                break
            found = re.search(r"VmHWM:\s+(\d+) kB", status)
            peak = max(peak, int(found[1]) / 1024 if found else 0.0)
            time.sleep(0.2)
    assert process.returncode == 0, "the run failed"
    return peak


def rows() -> None:
    print("\n## Rows checked and converted\n\n| rows | file | CPU | peak memory |\n|---|---|---|---|")
    for count in (10_000, 100_000, 1_000_000):
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "rows.jsonl"
            with source.open("w") as stream:
                for number in range(count):
                    texts = [f"passage {number} {index} " + "about billing and storage " * 6 for index in range(4)]
                    row = {"query": f"query {number}", "pos": texts[:1], "neg": texts[1:]}
                    stream.write(json.dumps(row) + "\n")
            argv = [sys.executable, "-m", "orchestrator.data.prepare", "--train", str(source), "--eval-ratio", "0.01"]
            probe = "import resource,subprocess,sys; subprocess.run(sys.argv[1:], check=True, stdout=-3, stderr=-3); "
            probe += "u=resource.getrusage(resource.RUSAGE_CHILDREN); print(u.ru_maxrss/1024, u.ru_utime+u.ru_stime)"
            command = [
                sys.executable,
                "-c",
                probe,
                *argv,
                "--form",
                "flagembedding",
                "--out",
                str(Path(folder) / "out"),
            ]
            peak, cpu = map(float, subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())
            print(f"| {count:,} | {source.stat().st_size / 1e6:,.0f} MB | {cpu:.1f} s | {peak:.0f} MiB |", flush=True)


def main() -> None:
    wanted = sys.argv[1:] or ["startup", "train", "rows"]
    for name in wanted:
        {"startup": startup, "train": train, "rows": rows}[name]()


if __name__ == "__main__":
    main()
