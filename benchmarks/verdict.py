"""A whole run with `speedups: auto` and with `none`, on a model with Qwen3's vocabulary: CPU time, and one verdict.

    python benchmarks/verdict.py [--rows 12] [--folder KEPT]

A random Qwen3 of two layers of 64 with 151,669 words is trained by recipes/qwen3_reranker.yaml, from data to report,
once on each side, with texts of mixed length and without dropout, which would draw other numbers for parts of a batch.
Compared are losses, every score, the package's weights and the metrics with their intervals. Kept in
benchmarks/verdict.json.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import record
from scoring import SIZES, VOCABULARY, build_decoder
from stages import ORCH, hash_results

ROOT = Path(__file__).resolve().parent.parent
TRAIN, EVAL = (ROOT / "datasets_example" / f"reranker.{part}.jsonl" for part in ("train", "eval"))
SHAPE = {"vocab_size": VOCABULARY, **dict(zip(SIZES, (64, 192, 2, 2, 1, 32), strict=True))}
SETTINGS = (
    "train.num_train_epochs=1", "train.per_device_train_batch_size=2",
    "train.query_max_len=64", "train.passage_max_len=192", "train.learning_rate=2e-3", "train.lora_dropout=0",
    "train.logging_steps=1", "deepspeed=null", "gate={}", "launch.nproc_per_node=1",
)  # fmt: skip


def draw_rows(path: Path, count: int, most: int) -> list[str]:
    """Return so many lines of a file, each document followed by up to `most` - 1 others: lengths differ in a row."""
    rng = random.Random(5)  # noqa: S311
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    texts = [text for row in rows for text in row["neg"]]

    def lengthen(text: str) -> str:
        return " ".join([text, *rng.sample(texts, rng.choice((0, 0, 0, rng.randrange(most))))])

    picked = rng.sample(rows, count)
    longer = [
        {**row, "pos": [lengthen(text) for text in row["pos"]], "neg": [lengthen(text) for text in row["neg"]]}
        for row in picked
    ]
    return [json.dumps(row, ensure_ascii=False) for row in longer]


def read_losses(run: Path) -> list[float]:
    states = run.glob("stages/*train/output/checkpoint-*/trainer_state.json")
    last = max(states, key=lambda path: int(path.parent.name.split("-")[1]))
    return [row["loss"] for row in json.loads(last.read_text(encoding="utf-8"))["log_history"] if "loss" in row]


def read_scores(run: Path) -> list[float]:
    lines = [line for path in sorted(run.glob("stages/*/output/scores.jsonl")) for line in path.open(encoding="utf-8")]
    return [json.loads(line)["score"] for line in lines]


def find_largest(one: list[float], other: list[float]) -> float:
    return max(abs(left - right) for left, right in zip(one, other, strict=True))


def read_verdict(run: Path) -> dict[str, Any]:
    """Return what the report says of the metrics, of their differences and of the gate."""
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    return {name: report[name] for name in ("verdict", "headline", "comparisons", "gate")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=12, help="of training; half as many queries are measured")
    parser.add_argument("--folder", type=Path, help="where the runs are kept")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = options.folder or Path(made)
        folder.mkdir(parents=True, exist_ok=True)
        model = build_decoder(SHAPE, folder)
        data = []
        for name, path, count in (("train", TRAIN, options.rows), ("eval", EVAL, options.rows // 2)):
            kept = folder / f"{name}.jsonl"
            kept.write_text("\n".join(draw_rows(path, count, 4)) + "\n", encoding="utf-8")
            data.append(f"data.{name}={kept}")

        def run(side: str) -> record.Cost:
            words = [*SETTINGS, *data, f"model={model}", f"speedups={side}"]
            sets = [part for word in words for part in ("--set", word)]
            recipe = str(ROOT / "recipes" / "qwen3_reranker.yaml")
            cost = record.measure([ORCH, "run", recipe, "-o", str(folder / side), *sets])
            print(f"{side}: {cost}", file=sys.stderr, flush=True)
            return cost

        sides = record.alternate(lambda: run("none"), lambda: run("auto"), 1)
        none, auto = folder / "none", folder / "auto"
        away = find_largest(read_losses(none), read_losses(auto))
        scores = find_largest(read_scores(none), read_scores(auto))
        same = read_verdict(none) == read_verdict(auto)
        whole = hash_results(none) == hash_results(auto)
    said = f"losses to {away:.0e}, scores to {scores:.0e}, {'the same' if whole else 'other'} bytes"
    equal = f"one verdict; {said}" if same else False
    print(said, "one verdict" if same else "two verdicts", file=sys.stderr)
    what = f"a run of {options.rows} rows, 2 layers of 64, 151,669 words"
    record.write("verdict", record.compare_costs(what, sides, equal=equal), "python benchmarks/verdict.py")


if __name__ == "__main__":
    main()
