"""Behaves like a Hugging Face trainer, without one: checkpoints, loss dicts, bars, and resuming.

    fake_trainer.py --output_dir DIR [--steps N] [--step_s S] [--workers 0|1] [--resume_from_checkpoint DIR]

With --workers 1 the training runs in a child in a session of its own, as under torchrun.
"""

from __future__ import annotations

import argparse
import json
import os
import struct
import subprocess
import sys
import time
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--step_s", type=float, default=0.1)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--resume_from_checkpoint", type=Path)
    args = parser.parse_args()
    if args.workers:
        words = [sys.executable, *sys.argv]
        words[words.index("--workers") + 1] = "0"
        worker = subprocess.Popen(words, start_new_session=True)
        return worker.wait()
    train(args)
    return 0


def train(args: argparse.Namespace) -> None:
    first = 0
    if args.resume_from_checkpoint:
        first = json.loads((args.resume_from_checkpoint / "trainer_state.json").read_text())["global_step"]
        say(f"resumed at {first}")
    (args.output_dir).mkdir(parents=True, exist_ok=True)
    (args.output_dir / "worker.pid").write_text(str(os.getpid()))
    for step in range(first + 1, args.steps + 1):
        time.sleep(args.step_s)
        bar = f"\r {100 * step // args.steps}%|███       | {step}/{args.steps} [00:01<00:02,  2.50it/s]"
        sys.stderr.write(bar)
        sys.stderr.flush()
        loss = {"loss": f"{1 / step:.4g}", "learning_rate": "2e-05", "epoch": f"{step / args.steps:.4g}"}
        say(loss)
        if step % 2 == 0:
            save(args.output_dir / f"checkpoint-{step}", step)
    say({"train_runtime": "0.5", "train_loss": "0.1", "epoch": "1"})
    write_safetensors(args.output_dir / "adapter_model.safetensors", args.steps)


def say(line: object) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def save(folder: Path, step: int) -> None:
    folder.mkdir()
    write_safetensors(folder / "adapter_model.safetensors", step)
    (folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))


def write_safetensors(path: Path, value: float) -> None:
    header = json.dumps({"weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + struct.pack("<f", value))


if __name__ == "__main__":
    sys.exit(main())
