"""A training step of FlagEmbedding's LLM reranker: as it is, and with Orch's speedups. CPU time, memory, loss.

    python benchmarks/step.py                    # all of it: twelve minutes on an idle core, 12 GB
    python benchmarks/step.py equal --tokens 128 # texts of one length, at Qwen3-0.6B's shape
    python benchmarks/step.py mixed              # lengths of 30 to 512 tokens, a smaller model
    python benchmarks/step.py padding            # what parts of like length and sorted groups leave of the padding

Each side is a fork that has the same random weights and draws the same ids, takes FlagEmbedding's own model class, and
steps with LoRA, gradient checkpointing and AdamW; both run at once, on one thread each. The test before the first step
is apart (`tested_s`). Memory is the peak above what the process holds before: weights and libraries.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from record import Row, compare, write

from orchestrator.workers.train_flagembedding import PASS_COST, change_encode, split_rows

WORDS = 151_669  # of Qwen3's tokenizer
GROUP = 8
_MMAP_THRESHOLD = -3  # M_MMAP_THRESHOLD of malloc.h
# hidden, intermediate, layers, heads, key heads, groups, and the texts' lengths
SHAPES: dict[str, dict[str, Any]] = {
    "equal": {"hidden": 1024, "inner": 3072, "layers": 28, "heads": 16, "keys": 8, "groups": 1, "tokens": 256},
    "mixed": {"hidden": 128, "inner": 384, "layers": 6, "heads": 2, "keys": 1, "groups": 2, "tokens": None},
}


def draw_lengths(rng: Any, count: int) -> Any:
    """Return lengths in tokens: log-normal around 130, from 30 to 512."""
    return np.clip(np.exp(rng.normal(np.log(130), 0.8, count)), 30, 512).astype(int)


def build_model(shape: dict[str, Any]) -> Any:
    """Return FlagEmbedding's model over a random Qwen3 with LoRA."""
    import torch
    from FlagEmbedding.finetune.reranker.decoder_only.base.modeling import CrossDecoderModel
    from peft import LoraConfig, get_peft_model
    from transformers import Qwen3Config, Qwen3ForCausalLM

    class Tokenizer(SimpleNamespace):
        def __call__(self, _text: str, **_: Any) -> dict[str, list[int]]:
            return {"input_ids": [9454]}

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=WORDS, hidden_size=shape["hidden"], intermediate_size=shape["inner"], pad_token_id=0,
        num_hidden_layers=shape["layers"], num_attention_heads=shape["heads"], num_key_value_heads=shape["keys"],
        head_dim=128 if shape["hidden"] == 1024 else 64, tie_word_embeddings=True, use_cache=False,
    )  # fmt: skip
    targets = ["q_proj", "k_proj", "v_proj", "o_proj"]
    base = get_peft_model(
        Qwen3ForCausalLM(config), LoraConfig(r=8, lora_alpha=16, lora_dropout=0, target_modules=targets)
    )
    tokenizer = Tokenizer(padding_side="left", pad_token_id=0)
    model = CrossDecoderModel(base, tokenizer=tokenizer, train_batch_size=shape["groups"])
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.enable_input_require_grads()
    return model.train()


def draw_batch(shape: dict[str, Any], rng: Any) -> dict[str, Any]:
    """Return a batch of random ids, padded on the left to its longest text."""
    import torch

    count = shape["groups"] * GROUP
    lengths = draw_lengths(rng, count) if shape["tokens"] is None else np.full(count, shape["tokens"])
    ids = torch.zeros(count, int(lengths.max()), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        ids[row, -length:] = torch.from_numpy(rng.integers(1, WORDS, length))
        mask[row, -length:] = 1
    return {"input_ids": ids, "attention_mask": mask}


def read_memory(name: str) -> float:
    """Return a line of /proc/self/status in MB."""
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith(name))


def run_side(model: Any, shape: dict[str, Any], names: list[str], steps: int) -> dict[str, Any]:
    """Train so many steps, after the test of Orch's side; return what they took."""
    import torch

    rng = np.random.default_rng(0)
    if names:
        change_encode(type(model), names)
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=1e-4)
    held, begin = read_memory("VmRSS"), time.process_time()
    model.encode({name: value[:2, -32:] for name, value in draw_batch(shape, rng).items()})
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak counts from here on
    tested, begin, losses = time.process_time() - begin, time.process_time(), []
    for _ in range(steps):
        loss = model(pair=draw_batch(shape, rng)).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    used = (time.process_time() - begin) / steps
    return {"cpu_s": used, "peak_mb": read_memory("VmHWM") - held, "losses": losses, "tested_s": tested}


def fork_side(model: Any, shape: dict[str, Any], names: list[str], steps: int) -> tuple[int, Path]:
    """Run a side in a fork, which has the drawn weights already; return its process and the file of what it took."""
    kept = Path(tempfile.mkstemp(suffix=".json")[1])
    process = os.fork()
    if not process:
        code = 1
        try:
            kept.write_text(json.dumps(run_side(model, shape, names, steps)), encoding="utf-8")
            code = 0
        except BaseException:  # noqa: BLE001  (whatever it is, the fork ends here)
            traceback.print_exc()
        finally:
            os._exit(code)
    return process, kept


def compare_sides(what: str, shape: dict[str, Any], sides: tuple[list[str], ...], steps: int, times: int) -> list[Row]:
    """Return the rows of CPU time and memory; both sides run at once, each on one thread."""
    import torch

    ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, 1 << 16)  # what is freed goes back to the machine, and leaves the peak
    torch.set_num_threads(1)  # two would spin for each other where the machine is busy, and count as work
    model = build_model(shape)
    found: tuple[list[dict[str, Any]], ...] = ([], [])
    for _ in range(times):
        started = [fork_side(model, shape, names, steps) for names in sides]
        for side, (process, kept) in zip(found, started, strict=True):
            if os.waitpid(process, 0)[1]:
                raise SystemExit(f"{what}: a side has failed")
            side.append(json.loads(kept.read_text(encoding="utf-8")))
            kept.unlink()
            print(what, side[-1], file=sys.stderr)
    native, ours = (side[0]["losses"] for side in found)
    away = max(abs(a - b) / abs(a) for a, b in zip(native, ours, strict=True))
    equal = f"loss to {max(away, 1e-7):.0e}" if away < 1e-5 else False
    return [
        compare(f"{what}: {label}", *([one[key] for one in side] for side in found), unit, equal=equal)
        for label, key, unit in (("a step", "cpu_s", "CPU s"), ("above the weights", "peak_mb", "MB at most"))
    ]


def draw_padding(groups: int = 4, batches: int = 1000, window: int = 50) -> None:
    """Print what is left of the padded tokens: by parts of like length, by groups sorted within 50 batches, by both."""
    rng = np.random.default_rng(0)
    lengths = draw_lengths(rng, groups * batches * GROUP).reshape(-1, GROUP)
    order = np.arange(len(lengths))
    for start in range(0, len(order), window * groups):
        part = order[start : start + window * groups]
        order[start : start + window * groups] = part[np.argsort(lengths[part].max(axis=1))]
    drawn, ordered = (rows.reshape(batches, -1) for rows in (lengths, lengths[order]))
    padded = sum(batch.max() * len(batch) for batch in drawn)

    def split(rows: Any) -> float:
        parts = (part for batch in rows for part in split_rows(batch.tolist(), int(batch.max()), PASS_COST))
        return sum(len(members) * tokens for members, tokens in parts) / padded

    whole = lengths.sum() / padded
    sorted_groups = sum(batch.max() * len(batch) for batch in ordered) / padded
    print(f"of the padded tokens: texts alone {whole:.2f}, parts of like length {split(drawn):.2f}, ", end="")
    print(f"sorted groups {sorted_groups:.2f}, both {split(ordered):.2f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=["equal", "mixed", "padding", []])
    parser.add_argument("--tokens", type=int, default=256, help="of each text, in equal")
    parser.add_argument("--times", type=int, default=1, help="of both sides, in turn")
    parser.add_argument("--steps", type=int, default=2)
    options = parser.parse_args()
    parts = options.parts or ["equal", "mixed", "padding"]
    command = f"python benchmarks/step.py --tokens {options.tokens} --steps {options.steps}"
    both = ["last_logits", "trim_padding"]

    def keep(what: str, shape: dict[str, Any], *sides: list[str]) -> None:
        write("step", compare_sides(what, shape, sides, options.steps, options.times), command)

    if "equal" in parts:
        shape = SHAPES["equal"] | {"tokens": options.tokens}
        keep(f"8 x {options.tokens} tokens, Qwen3-0.6B's shape", shape, [], both)
    if "mixed" in parts:
        what = "16 x 30 to 512 tokens, width 128, 6 layers"
        keep(f"{what}, last_logits on both sides", SHAPES["mixed"], both[:1], both)
        keep(what, SHAPES["mixed"], [], both)
    if "padding" in parts:
        draw_padding()


if __name__ == "__main__":
    main()
