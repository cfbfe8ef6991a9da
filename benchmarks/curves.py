"""How CPU time and memory grow: rows of the data pass, evaluated pairs, documents that are searched, runs in `runs/`.

    python benchmarks/curves.py [rows] [pairs] [documents] [runs] [board] [--most 1000000] [--faiss DIR]

All, or those named, in powers of ten up to `--most`; what was measured is kept in benchmarks/growth.json. Every
point is a process of its own over generated data in a folder that is removed. `--faiss DIR`, where DIR holds an
unpacked faiss-cpu, searches the same vectors by its exact and its approximate index too, and prints how they compare.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import record

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from orchestrator.report.publish import write_report  # noqa: E402  (the repository's root is no package of the environment)
from tests.board import conftest as boards  # noqa: E402
from tests.report import conftest as folders  # noqa: E402

ORCH = str(Path(sys.executable).with_name("orch"))
DOCUMENTS = 10  # of a query
DIMENSIONS = 384
QUERIES = 256
# CPU time a unit of work may grow by from one power of ten to the next; more is said
LINEAR = 1.5
SMALL_S = 1.0  # below this the start of Python decides

SEARCH = f"""
import sys, time
import numpy as np
from orchestrator.workers.embedding.score import DEPTH, find_nearest
draw = np.random.default_rng(7)
def unit(count):
    found = np.empty((count, {DIMENSIONS}), dtype=np.float32)
    for start in range(0, count, 10_000):  # the vectors are in memory once
        part = draw.standard_normal((min(10_000, count - start), {DIMENSIONS}), dtype=np.float32)
        found[start : start + 10_000] = part / np.linalg.norm(part, axis=1, keepdims=True)
    return found
documents, queries = unit(int(sys.argv[1])), unit({QUERIES})
begin = time.process_time()
found = [positions for positions, _ in find_nearest(queries, documents, DEPTH)]
took = time.process_time() - begin
assert len(found) == {QUERIES}
"""
FAISS = """
import faiss, json
faiss.omp_set_num_threads(2)
result = {"orch": took}
for name, index in (
    ("flat", faiss.IndexFlatIP(documents.shape[1])),
    ("hnsw", faiss.IndexHNSWFlat(documents.shape[1], 32, faiss.METRIC_INNER_PRODUCT)),
):
    if name == "hnsw" and len(documents) > 100_000:
        continue
    begin = time.process_time()
    index.add(documents)
    result[name + "_build"] = time.process_time() - begin
    begin = time.process_time()
    if name == "hnsw":
        index.hnsw.efSearch = 2 * DEPTH
    _, near = index.search(queries, DEPTH)
    result[name] = time.process_time() - begin
    same = [len(set(a.tolist()) & set(b.tolist())) / len(a) for a, b in zip(found, near)]
    result[name + "_same"] = sum(same) / len(same)
print(json.dumps(result))
"""


def write_rows(path: Path, count: int) -> None:
    with path.open("w", encoding="utf-8") as stream:
        for number in range(count):
            texts = [f"passage {number} {index} " + "about billing and storage " * 6 for index in range(4)]
            stream.write(json.dumps({"query": f"query {number}", "pos": texts[:1], "neg": texts[1:]}) + "\n")


def rows(folder: Path, count: int) -> list[str]:
    write_rows(folder / "rows.jsonl", count)
    words = ["--train", str(folder / "rows.jsonl"), "--eval-ratio", "0.01", "--form", "flagembedding"]
    return [sys.executable, "-m", "orchestrator.data.prepare", *words, "--out", str(folder / "out")]


def pairs(folder: Path, count: int) -> list[str]:
    """Write a finished run of the tests with `count` evaluated pairs, and return the command of its report."""
    run = folders.build_run(folder / "run")

    def build() -> Iterator[dict[str, Any]]:
        for query in range(count // DOCUMENTS):
            qid = f"q{query:06d}"
            documents = [
                {"docid": f"{qid}.{place}", "text": f"document {place} of query {query}", "label": int(place == 0)}
                for place in range(DOCUMENTS)
            ]
            yield {"qid": qid, "query": f"query {query}", "documents": documents}

    groups = list(build())
    folders.write_data(run, groups)
    for number, (name, _, label, stands_out, scoring) in enumerate(folders.SYSTEMS):
        folders.write_scores(run.stage(name).output, groups, stands_out, {**scoring, "label": label}, seed=number)
    return [sys.executable, "-m", "orchestrator.report", str(run.root)]


def documents(_: Path, count: int) -> list[str]:
    return [sys.executable, "-c", SEARCH, str(count)]


def runs(folder: Path, count: int) -> list[str]:
    for number in range(count):
        run = folder / f"run-{number:05d}-20260101-000000-abcd"
        run.mkdir()
        state = {"status": "done", "started": 1.7e9 + number, "stage": "09-report", "exit_code": 0, "version": 1}
        report = {"verdict": "better", "headline": "+0.1 nDCG@10", "metrics": {f"ndcg@{k}": 0.01 for k in range(60)}}
        for name, content in (("plan", {}), ("state", state), ("report", report)):
            (run / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return [ORCH, "ls", "--runs", str(folder)]


def board(folder: Path, count: int) -> list[str]:
    first = folders.build_run(folder / "first")
    write_report(first)
    boards.build_runs(first, folder / "runs", count)
    return [ORCH, "board", str(folder / "runs"), "-o", str(folder / "board.html")]


CURVES: dict[str, tuple[str, Callable[[Path, int], list[str]], int, int]] = {
    "rows": ("rows of 4 documents, checked and converted", rows, 10**3, 10**7),
    "pairs": ("pairs of 3 systems, measured, compared and reported", pairs, 10**2, 10**6),
    "documents": (
        f"documents of {DIMENSIONS} dimensions, searched exactly by {QUERIES} queries",
        documents,
        10**3,
        10**6,
    ),
    "runs": ("runs, listed by orch ls", runs, 10, 10**4),
    "board": ("runs on one page, by orch board", board, 10, 10**3),
}


def list_sizes(least: int, most: int) -> list[int]:
    sizes = [least]
    while sizes[-1] * 10 <= most:
        sizes.append(sizes[-1] * 10)
    return sizes


def find_superlinear(points: list[tuple[int, float]]) -> list[str]:
    """Return where the CPU time of a unit grows, what a process costs before the first unit taken off."""
    found, base = [], points[0][1]
    for (size, cpu), (larger, more) in pairwise(points):
        if cpu - base > SMALL_S and (more - base) / larger > LINEAR * (cpu - base) / size:
            found.append(f"{size:,} to {larger:,}: {(more - base) / (cpu - base):.0f} times the CPU time")
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("curves", nargs="*", choices=[*CURVES, []])
    parser.add_argument("--most", type=int, default=10**6)
    parser.add_argument("--faiss", type=Path)
    given = parser.parse_args()
    for name in given.curves or CURVES:
        what, build, least, most = CURVES[name]
        points = []
        for size in list_sizes(least, min(most, given.most)):
            folder = Path(tempfile.mkdtemp(prefix="orch-curve-"))
            try:
                cost = record.measure(build(folder, size), cwd=ROOT)
                if given.faiss and name == "documents":
                    command = [sys.executable, "-c", SEARCH + FAISS, str(size)]
                    print(record.measure(command, cwd=ROOT, env={"PYTHONPATH": str(given.faiss)}, shown=True))
            finally:
                shutil.rmtree(folder)
            points.append((size, cost.cpu_s))
            row = {"what": what, "size": size, "cpu_s": round(cost.cpu_s, 2), "peak_mb": round(cost.peak_mb)}
            record.write("growth", [row], "python benchmarks/curves.py")
            print(f"{what}: {size:,}: {cost.cpu_s:.2f} s of CPU, {cost.peak_mb:.0f} MB at most", flush=True)
        for line in find_superlinear(points):
            print(f"more than linear: {line}")


if __name__ == "__main__":
    main()
