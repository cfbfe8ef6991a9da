"""Model folders whose weights are headers and holes: complete until a test damages them."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path

from orchestrator.backends.models import BaseModel, learn_from_config

ROWS, WIDTH, LAYERS = 40, 8, 2
CONFIG = {
    "model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "hidden_size": WIDTH, "num_hidden_layers": LAYERS,
    "vocab_size": ROWS, "max_position_embeddings": 2048, "tie_word_embeddings": True,
}  # fmt: skip
LFS_POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)


def write_safetensors(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Write a whole file of float32 tensors without weights: after the header comes a hole."""
    header, end = {}, 0
    for name, shape in shapes.items():
        size = 4
        for length in shape:
            size *= length
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    with path.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        stream.truncate(8 + len(text) + end)


def list_decoder(layers: int = LAYERS, rows: int = ROWS, width: int = WIDTH) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a small Qwen3 with tied embeddings, as they are called in its files."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (rows, width), "model.norm.weight": (width,)}
    for number in range(layers):
        layer = f"model.layers.{number}"
        shapes |= {
            f"{layer}.self_attn.{name}.weight": (width, width) for name in ("q_proj", "k_proj", "v_proj", "o_proj")
        }
        shapes |= {f"{layer}.mlp.{name}.weight": (width, width) for name in ("gate_proj", "up_proj", "down_proj")}
        shapes[f"{layer}.input_layernorm.weight"] = (width,)
    return shapes


@dataclass(frozen=True)
class Folder:
    """A model folder that is complete until a test damages it."""

    path: Path

    def config(self, **values) -> Folder:
        """Change config.json; None takes a key out."""
        file = self.path / "config.json"
        content = json.loads(file.read_text()) | values
        file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
        return self

    def weights(self, shapes: dict[str, tuple[int, ...]]) -> Folder:
        write_safetensors(self.path / "model.safetensors", shapes)
        return self

    def shards(self, *parts: dict[str, tuple[int, ...]]) -> Folder:
        """Write the weights as shards with an index, in place of the one file."""
        (self.path / "model.safetensors").unlink(missing_ok=True)
        named = {}
        for number, part in enumerate(parts, start=1):
            name = f"model-{number:05}-of-{len(parts):05}.safetensors"
            write_safetensors(self.path / name, part)
            named |= dict.fromkeys(part, name)
        return self.write("model.safetensors.index.json", json.dumps({"metadata": {}, "weight_map": named}))

    def tokenizer(self, tokens: int = ROWS - 2, added: tuple[int, ...] = (ROWS - 2, ROWS - 1)) -> Folder:
        vocabulary = {f"t{number}": number for number in range(tokens)}
        marks = [{"id": number, "content": f"<|{number}|>", "special": True} for number in added]
        content = {"model": {"type": "BPE", "vocab": vocabulary, "merges": []}, "added_tokens": marks}
        return self.write("tokenizer.json", json.dumps(content))

    def write(self, name: str, text: str) -> Folder:
        (self.path / name).parent.mkdir(parents=True, exist_ok=True)
        (self.path / name).write_text(text)
        return self

    def remove(self, name: str) -> Folder:
        (self.path / name).unlink()
        return self

    def model(self, family: str = "decoder", native: str | None = "qwen3-native") -> BaseModel:
        found = BaseModel(str(self.path), str(self.path), self.path, family, native)
        return learn_from_config(found, json.loads((self.path / "config.json").read_text()))
