"""One bad input: the files that it needs, the command that meets it, and what the message must say."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.machine.rundir import RunDir
from orchestrator.run.folder import seal


@dataclass(frozen=True)
class Special:
    """Something in a folder that is no regular file: `kind` is link (to `target`), fifo, folder or locked."""

    kind: str
    target: str = ""

    def create(self, path: Path) -> None:
        """Put it at `path`."""
        if self.kind == "link":
            path.symlink_to(self.target)
        elif self.kind == "fifo":
            os.mkfifo(path)
        elif self.kind == "folder":
            path.mkdir()
        else:
            path.write_text("name: toy\n", encoding="utf-8")
            path.chmod(0)


FOLDER = Special("folder")
FIFO = Special("fifo")
LOCKED = Special("locked")


def link(target: str) -> Special:
    """Return a symbolic link to `target`."""
    return Special("link", target)


ROW = '{"query": "which bird", "pos": ["a falcon"], "neg": ["a car", "a tree"]}\n'
ROWS = "".join(ROW.replace("which", f"{number}. which") for number in range(8))
RECIPE = """\
name: toy
task: reranker
backend: flagembedding
model: ./model
data:
  train: train.jsonl
  eval: eval.jsonl
train:
  learning_rate: 1e-4
"""


def build_safetensors(tensors: Mapping[str, tuple[int, ...]]) -> bytes:
    """Return a safetensors file of zeros, in float32: eight bytes of header size, the header, the numbers."""
    header, end = {}, 0
    for name, shape in tensors.items():
        size = 4
        for length in shape:
            size *= length
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(end)


MODEL = {
    "model/config.json": json.dumps(
        {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "hidden_size": 8, "vocab_size": 4}
    ),
    "model/model.safetensors": build_safetensors(
        {
            "model.embed_tokens.weight": (4, 8),
            **{f"model.layers.0.self_attn.{name}_proj.weight": (8, 8) for name in "qkvo"},
            **{f"model.layers.0.mlp.{name}_proj.weight": (8, 8) for name in ("gate", "up", "down")},
        }
    ),
    "model/tokenizer.json": '{"version": "1.0", "model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": []}}',
}
GOOD: Mapping[str, str | bytes | Special] = {
    "recipe.yaml": RECIPE,
    "train.jsonl": ROWS,
    "eval.jsonl": ROWS.replace("which", "what"),
    **MODEL,
}


@dataclass(frozen=True)
class BadInput:
    """What a user did (`story`), the command, its exit code, and what its message must hold.

    `where` is the file, with its line where there is one; `says` names the mistake and `remedy` the way out. `files`
    are written over those of a good recipe; a None leaves one out.
    """

    id: str
    story: str
    argv: tuple[str, ...]
    exit_code: int
    where: str
    says: str
    remedy: str
    files: Mapping[str, str | bytes | Special | None] = field(default_factory=dict)
    needs_user: bool = False  # the superuser may read what is locked

    def write(self, folder: Path) -> None:
        """Write the case's files into `folder`."""
        for name, content in {**GOOD, **self.files}.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, Special):
                content.create(path)
            elif isinstance(content, bytes):
                path.write_bytes(content)
            elif content is not None:
                path.write_text(content, encoding="utf-8")
                if path.name == "plan.json" and f"{Path(name).parent}/plan.seal" not in self.files:
                    seal(RunDir(path.parent), content)

    def find_faults(self, exit_code: int, output: str) -> list[str]:
        """Return what is wrong with the command's answer; nothing when the input was refused as it should be."""
        found = []
        if exit_code != self.exit_code:
            found.append(f"exit code {exit_code}, not {self.exit_code}")
        found += [f"it says {bad!r}" for bad in ("Traceback", "a bug in Orch") if bad in output]
        found += ["it holds a control character"] * any(ord(letter) < 32 and letter not in "\n\t" for letter in output)
        found += [
            f"it does not {verb} {text!r}"
            for verb, text in (("name", self.where), ("say", self.says), ("advise", self.remedy))
            if text not in output
        ]
        if not any(mark in output for mark in ("    → ", "Try 'orch")):
            found.append("it has no remedy")
        return found


def edited(old: str, new: str) -> dict[str, str]:
    """Return the good recipe with one thing in it replaced."""
    if old not in RECIPE:
        raise ValueError(f"the recipe has no {old!r}")
    return {"recipe.yaml": RECIPE.replace(old, new)}
