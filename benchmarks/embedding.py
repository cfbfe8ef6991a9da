"""Training a real embedding model with Orch's worker, beside the same training written by hand with the library.

    python benchmarks/embedding.py             # all; parts: steps, memory

`steps`: mnrl on all-MiniLM-L6-v2, both sides at once and step by step in turn, so that whatever else the machine does
meets both alike. Every step's loss must be equal to 1e-6; compared are the CPU time of each step with the same step of
the other side, and that of all else (start, save). `memory`: one step of cached_mnrl with 512 rows against one with 32,
and against mnrl, of which every row is in memory at once. One thread, for threads that wait burn CPU time too.
"""

from __future__ import annotations

import json
import runpy
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import record
from losses import find_model, load_judged, write_lines

ROOT = Path(__file__).resolve().parent.parent
WORKERS = ROOT / "orchestrator" / "workers"
ENV = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
STEPS, BATCH, PAIRS = 12, 8, 4
SIDES = ("native", "orch")
LARGE, SMALL, MINI = 512, 32, 32
CLOSE = 1e-6


def write_settings(folder: Path, loss: dict[str, Any], batch: int, steps: int) -> Path:
    """Write the rows and train.json of the worker, which the other side reads too."""
    pairs = [(query, documents[0]) for query, documents, _ in load_judged("demo.train")]
    again = -(-batch * steps // len(pairs))
    rows = [
        {"query": f"{query} {number or ''}".strip(), "positive": f"{text} {number or ''}".strip(), "negatives": []}
        for number in range(again)
        for query, text in pairs
    ]
    arguments = {
        "output_dir": str(folder / "output"), "learning_rate": 2e-5, "per_device_train_batch_size": batch,
        "max_steps": steps, "warmup_steps": 0.1, "logging_steps": 1, "save_strategy": "steps", "save_steps": steps,
        "save_only_model": True, "use_cpu": True, "seed": 42, "batch_sampler": "no_duplicates",
    }  # fmt: skip
    settings = {
        "version": 1, "model": str(find_model()), "family": "encoder", "trust_remote_code": False, "loss": loss,
        "form": "embedding-groups", "train": str(write_lines(folder / "train.jsonl", rows)), "validation": None,
        "embedding": {"max_length": 128, "pooling": "mean", "normalize": True}, "stable_ratio": None,
        "early_stopping": None, "deterministic": False, "arguments": arguments,
    }  # fmt: skip
    path = folder / "train.json"
    path.write_text(json.dumps(settings), encoding="utf-8")
    return path


def train_by_hand(settings: dict[str, Any]) -> None:
    """Train as the library's documentation does it."""
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer import losses

    model = SentenceTransformer(settings["model"], device="cpu")
    model.max_seq_length = settings["embedding"]["max_length"]
    rows = [json.loads(line) for line in Path(settings["train"]).read_text(encoding="utf-8").splitlines()]
    data = Dataset.from_dict({key: [row[key] for row in rows] for key in ("query", "positive")})
    if settings["loss"]["type"] == "mnrl":
        loss = losses.MultipleNegativesRankingLoss(model)
    else:
        loss = losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=settings["loss"]["mini_batch_size"])
    arguments = SentenceTransformerTrainingArguments(**settings["arguments"], report_to="none", disable_tqdm=True)
    trainer = SentenceTransformerTrainer(model=model, args=arguments, train_dataset=data, loss=loss)
    trainer.train()
    model.save_pretrained(str(Path(settings["train"]).parent / "model"))


@dataclass(frozen=True)
class Turn:
    """A file that names whose step it is; without one there is nobody to wait for."""

    side: str
    file: Path

    def take(self) -> None:
        while self.file.exists() and self.file.read_text() not in {self.side, "anybody"}:
            time.sleep(0.002)

    def give(self, to: str = "") -> None:
        if self.file.exists() and self.file.read_text() != "anybody":
            part = self.file.with_name(f"{self.side}.part")
            part.write_text(to or next(side for side in SIDES if side != self.side))
            part.rename(self.file)


def run_side(side: str, config: Path, out: Path) -> None:
    """Train, and write the loss and the CPU seconds of each step, its loading, logging and saving included."""
    from transformers import Trainer

    turn = Turn(side, config.parent.parent / "turn")
    steps: list[float] = []
    losses: list[float] = []
    began: list[float] = []
    step, loop = Trainer.training_step, Trainer._inner_training_loop  # noqa: SLF001  where the library's loop begins

    def end_step() -> None:
        if began:
            steps.append(time.process_time() - began.pop())

    def watched_step(*args: Any, **options: Any) -> Any:
        end_step()
        turn.give()
        turn.take()
        began.append(time.process_time())
        loss = step(*args, **options)
        losses.append(float(loss))
        return loss

    def watched_loop(*args: Any, **options: Any) -> Any:
        found = loop(*args, **options)
        end_step()
        turn.give("anybody")
        return found

    Trainer.training_step, Trainer._inner_training_loop = watched_step, watched_loop  # noqa: SLF001
    if side == "native":
        train_by_hand(json.loads(config.read_text(encoding="utf-8")))
    else:
        sys.argv = [str(WORKERS), "train_embedding", "--config", str(config)]
        try:
            runpy.run_path(str(WORKERS), run_name="__main__")
        except SystemExit as ended:
            if ended.code:
                raise
    out.write_text(json.dumps({"steps": steps, "losses": losses}), encoding="utf-8")


def measure(
    side: str, loss: dict[str, Any], batch: int, steps: int, folder: Path
) -> tuple[record.Cost, dict[str, list[float]]]:
    own = folder / side
    own.mkdir()
    config, out = write_settings(own, loss, batch, steps), own / "out.json"
    cost = record.measure([sys.executable, __file__, "--side", side, str(config), str(out)], env=ENV)
    print(f"{side}: {loss['type']}, batch {batch}, {steps} steps: {cost}", file=sys.stderr, flush=True)
    return cost, json.loads(out.read_text(encoding="utf-8"))


def measure_in_turn(first: str) -> list[tuple[record.Cost, dict[str, list[float]]]]:
    """Train on both sides at once, a step of each in turn; return what the native side and Orch's took."""
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(len(SIDES)) as pool:
        (Path(name) / "turn").write_text(first)
        begun = [pool.submit(measure, side, {"type": "mnrl"}, BATCH, STEPS, Path(name)) for side in SIDES]
        return [one.result() for one in begun]


def compare_steps() -> list[record.Row]:
    pairs = [measure_in_turn(SIDES[number % 2]) for number in range(PAIRS)]
    losses = [pair[side][1]["losses"] for pair in pairs for side in (0, 1)]
    apart = max(abs(one - first) for run in losses for one, first in zip(run, losses[0], strict=True))
    # the same step is taken in every pair, and what disturbs it only adds
    native, orch = (
        [min(one) for one in zip(*(pair[side][1]["steps"] for pair in pairs), strict=True)] for side in (0, 1)
    )
    ratio = statistics.median(ours / theirs for theirs, ours in zip(native, orch, strict=True))
    rest = [[pair[side][0].cpu_s - sum(pair[side][1]["steps"]) for pair in pairs] for side in (0, 1)]
    peaks = [[pair[side][0].peak_mb for pair in pairs] for side in (0, 1)]
    print(f"losses differ by {apart:g} at most; step by step {ratio:.4f}", file=sys.stderr)
    what = f"MiniLM, mnrl, batch {BATCH}"
    equal = f"{STEPS} losses to {CLOSE:g}" if apart <= CLOSE else False
    return [
        record.Row(f"{what}: a step", statistics.median(native), statistics.median(orch), "CPU s", ratio, equal),
        record.compare(f"{what}: all but the steps", *rest, "CPU s"),
        record.compare(f"{what}: memory", *peaks, "MB at most"),
    ]


def compare_memory() -> list[record.Row]:
    cached = {"type": "cached_mnrl", "mini_batch_size": MINI}
    cases = {"mnrl": ({"type": "mnrl"}, SMALL), "small": (cached, SMALL), "large": (cached, LARGE)}
    rows, peaks = {}, {}
    for name, (loss, batch) in cases.items():
        with tempfile.TemporaryDirectory() as folder:
            (native, theirs), (orch, ours) = (measure(side, loss, batch, 1, Path(folder)) for side in SIDES)
        peaks[name] = (native.peak_mb, orch.peak_mb)
        equal = f"loss to {CLOSE:g}" if abs(theirs["losses"][0] - ours["losses"][0]) <= CLOSE else False
        what = f"MiniLM, {loss['type']}, batch {batch}"
        rows[name] = record.compare(what, [native.peak_mb], [orch.peak_mb], "MB at most", equal=equal)
    found = list(rows.values())
    for name, (loss, batch) in list(cases.items())[:2]:
        shares = [[large / small] for large, small in zip(peaks["large"], peaks[name], strict=True)]
        what = f"MiniLM, memory of cached_mnrl, batch {LARGE} / {loss['type']}, batch {batch}"
        found.append(record.compare(what, *shares, "times"))
    return found


def main() -> None:
    parts = {"steps": compare_steps, "memory": compare_memory}
    for name in sys.argv[1:] or parts:
        record.write("embedding", parts[name](), "python benchmarks/embedding.py")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--side"]:
        run_side(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
    else:
        main()
