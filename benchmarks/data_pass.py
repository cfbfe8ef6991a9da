"""What the data pass costs, an older commit and this one side by side: CPU seconds, memory, and that the bytes agree.

    python benchmarks/data_pass.py [--old COMMIT | --old-tree DIR] [--rows N] [--documents N] [--chinese SHARE]

Each writes the training rows and the eval set of the same generated file (`prepare --form flagembedding`).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OLD = "5521144"  # the last commit before the pass was made anew
COMPARED = ("train.jsonl", "eval.jsonl", "stats.json", "ledger.json")
WORDS_PER_TEXT = 72


def write_rows(path: Path, rows: int, documents: int, chinese: float) -> None:
    rng = random.Random(7)  # noqa: S311 - not for secrets
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(5000)]
    han = [chr(rng.randint(0x4E00, 0x9FA5)) for _ in range(3000)]

    def text() -> str:
        if rng.random() < chinese:
            return "".join(rng.choices(han, k=2 * WORDS_PER_TEXT)) + "。"
        return " ".join(rng.choices(words, k=WORDS_PER_TEXT)).capitalize() + "."

    with path.open("w", encoding="utf-8") as stream:
        for number in range(rows):
            query = f"{' '.join(rng.choices(words, k=8))} {number}?"
            row = {"query": query, "pos": [text()], "neg": [text() for _ in range(documents - 1)]}
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def measure(tree: Path, source: Path, out: Path) -> tuple[float, float]:
    """Return CPU seconds and peak memory in MB of one prepare stage, run in `tree`."""
    argv = [sys.executable, "-m", "orchestrator.data.prepare", "--train", str(source), "--eval-ratio", "0.01"]
    argv += ["--form", "flagembedding", "--out", str(out)]
    child = subprocess.Popen(argv, cwd=tree, env=os.environ | {"PYTHONPATH": str(tree)}, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"the pass of {tree} failed")
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def hash_outputs(out: Path) -> list[str]:
    return [hashlib.sha256((out / name).read_bytes()).hexdigest() for name in COMPARED]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--old", default=OLD)
    parser.add_argument("--old-tree", type=Path)
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--documents", type=int, default=8)
    parser.add_argument("--chinese", type=float, default=0.0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        old = given.old_tree
        if old is None:
            old = folder / "old"
            subprocess.run(["git", "worktree", "add", "-q", "--detach", str(old), given.old], cwd=ROOT, check=True)
        try:
            source = folder / "rows.jsonl"
            write_rows(source, given.rows, given.documents, given.chinese)
            print(f"{given.rows} rows x {given.documents} documents, {source.stat().st_size / 1e6:.0f} MB")
            found = {}
            for label, tree in (("old", old), ("new", ROOT)):
                cpu, memory = measure(tree, source, folder / label / "out")
                found[label] = cpu
                print(f"{label}: {cpu:.1f} s of CPU, {memory:.0f} MB at most")
            agree = hash_outputs(folder / "old/out") == hash_outputs(folder / "new/out")
            print(f"ratio: {found['old'] / found['new']:.1f}; {'the same bytes' if agree else 'OTHER BYTES'}")
        finally:
            if given.old_tree is None:
                subprocess.run(["git", "worktree", "remove", "--force", str(old)], cwd=ROOT, check=True)
    if not agree:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
