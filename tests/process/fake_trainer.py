"""Behaves like a Hugging Face trainer, without one: checkpoints, loss dicts, bars, and resuming.

    fake_trainer.py --output_dir DIR [--steps N] [--step_s S] [--save_s S] [--grab_mb N] [--workers 0|1]
                    [--resume_from_checkpoint DIR]

With --workers 1 the training runs in a child in a session of its own, as under torchrun. A checkpoint is written in
--save_s seconds, its weights first and trainer_state.json last. Without optimizer.pt or rng_state.pth it goes on in
silence, with other losses, and weights that are cut off are an exception: as with the real ones.

It waits while there is a file `pause.saved-N` beside DIR, once checkpoint N is whole, or `pause.saving-N`, half-way
through it: what a test does to a moment of the training then finds it there, however slow the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import struct
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class State:
    weight: float = 0.0
    moments: int = 0
    draws: int = 0
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def step(self) -> int:
        return len(self.history)

    def go_on(self) -> float:
        """Take one step; the loss is 1/step as long as nothing was lost."""
        step = self.step + 1
        loss = 1 / step + (self.step - self.moments) + 10 * (self.step - self.draws)
        self.weight += loss
        self.moments, self.draws = self.moments + 1, self.draws + 1
        self.history.append({"step": step, "loss": loss})
        return loss


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--step_s", type=float, default=0.1)
    parser.add_argument("--save_s", type=float, default=0.0)
    parser.add_argument("--grab_mb", type=int, default=0)
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
    state = State()
    if args.resume_from_checkpoint:
        state = load(args.resume_from_checkpoint)
        say(f"resumed at {state.step}")
    (args.output_dir).mkdir(parents=True, exist_ok=True)
    (args.output_dir / "worker.pid").write_text(str(os.getpid()))
    held = []
    while state.step < args.steps:
        time.sleep(args.step_s)
        loss = state.go_on()
        step = state.step
        bar = f"\r {100 * step // args.steps}%|███       | {step}/{args.steps} [00:01<00:02,  2.50it/s]"
        sys.stderr.write(bar)
        sys.stderr.flush()
        say({"loss": f"{loss:.4g}", "learning_rate": "2e-05", "epoch": f"{step / args.steps:.4g}"})
        if step % 2 == 0:
            save(args.output_dir / f"checkpoint-{step}", state, args)
            pause(args.output_dir, f"saved-{step}")
            held.append(b"x" * (args.grab_mb << 20))
    say({"train_runtime": "0.5", "train_loss": "0.1", "epoch": "1"})
    write_safetensors(args.output_dir / "adapter_model.safetensors", state.weight)


def pause(output: Path, moment: str) -> None:
    while (output.parent / f"pause.{moment}").exists():
        time.sleep(0.02)


def say(line: object) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def save(folder: Path, state: State, args: argparse.Namespace) -> None:
    folder.mkdir(exist_ok=True)
    write_safetensors(folder / "adapter_model.safetensors", state.weight)
    time.sleep(args.save_s / 2)
    pause(folder.parent, f"saving-{state.step}")
    write_archive(folder / "optimizer.pt", state.moments)
    write_archive(folder / "scheduler.pt", state.step)
    write_archive(folder / "rng_state.pth", state.draws)
    time.sleep(args.save_s / 2)
    content = {"global_step": state.step, "max_steps": args.steps, "log_history": state.history}
    (folder / "trainer_state.json").write_text(json.dumps(content))


def load(folder: Path) -> State:
    history = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    moments, draws = read_archive(folder / "optimizer.pt"), read_archive(folder / "rng_state.pth")
    return State(read_safetensors(folder / "adapter_model.safetensors"), moments, draws, history)


def write_archive(path: Path, value: int) -> None:
    """Write a number as torch.save does: an archive of files."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", json.dumps(value))


def read_archive(path: Path) -> int:
    if not path.exists():
        return 0
    with zipfile.ZipFile(path) as archive:
        return int(json.loads(archive.read("archive/data.pkl")))


HEADER = json.dumps({"weight": {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}}).encode()


def write_safetensors(path: Path, value: float) -> None:
    path.write_bytes(struct.pack("<Q", len(HEADER)) + HEADER + struct.pack("<d", value))


def read_safetensors(path: Path) -> float:
    return float(struct.unpack_from("<d", path.read_bytes(), 8 + len(HEADER))[0])


if __name__ == "__main__":
    sys.exit(main())
