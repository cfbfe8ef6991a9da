"""Tiny embedding models, what training leaves of them, and eval files: built by the tests of embedding models."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.workers.conftest import TOPICS

INSTRUCTION = "Instruct: Find the text that answers the question\nQuery:"
SPEC = {
    "version": 1,
    "scorer": "embedding",
    "name": "trained-format",
    "label": "tuned",
    "dtype": "float32",
    "trust_remote_code": False,
    "batch_size": 4,
    "max_length": 64,
    "query_prompt": INSTRUCTION,
    "document_prompt": "",
    "pooling": "lasttoken",
    "normalize": True,
    "truncate_dim": None,
}
SWIFT = {"tool": "swift", "model_type": "qwen3_emb", "task_type": "embedding", "template": "qwen3_emb"}


@dataclass(frozen=True)
class Trained:
    """What training leaves: base, whole model, adapter (or None), and the spec that fits."""

    base: Path
    model: Path
    adapter: Path | None
    spec: dict[str, object]

    def arguments(self, place: Path, out: Path, **more: object) -> list[str]:
        """Return the argv of `workers package`; `place` holds the eval files."""
        spec = out.parent / f"{out.name}.spec.json"
        spec.write_text(json.dumps(self.spec), encoding="utf-8")
        named = {
            "model": self.model,
            "base": self.base,
            "adapter": self.adapter,
            "scoring": spec,
            "probes": place / "queries.jsonl",
            "corpus": place / "corpus.jsonl",
            "out": out,
            "report": out.parent / f"{out.name}.report.json",
            "device": "cpu",
            **more,
        }
        return [part for name, value in named.items() if value is not None for part in (f"--{name}", str(value))]


def write_lines(path: Path, rows: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def write_eval_files(place: Path) -> None:
    """Write queries.jsonl and corpus.jsonl, whose ids are in no order, and pairs.jsonl."""
    place.mkdir(parents=True, exist_ok=True)
    documents = [*TOPICS.values(), *(f"{text} And {name} again." for name, text in TOPICS.items())]
    ids = {text: f"d{(index * 7) % len(documents):06d}" for index, text in enumerate(documents)}
    queries = [
        {
            "qid": f"q{index:06d}",
            "query": f"tell me of {name}",
            "relevant": [ids[text]],
            "source": "x",
            "line": index + 1,
        }
        for index, (name, text) in enumerate(TOPICS.items())
    ]
    write_lines(place / "queries.jsonl", queries)
    write_lines(place / "corpus.jsonl", [{"docid": docid, "text": text} for text, docid in ids.items()])
    pairs = [
        {"pid": f"p{index:06d}", "text1": name, "text2": text, "score": 0.5, "source": "x", "line": index + 1}
        for index, (name, text) in enumerate(TOPICS.items())
    ]
    write_lines(place / "pairs.jsonl", pairs)


def adapt(base: Path, place: Path) -> Trained:
    """Return a LoRA adapter of the base, merged by the merge worker."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    from orchestrator.workers import merge

    torch.manual_seed(3)
    # no task type, as swift saves an embedding model's adapter, and no tokenizer
    settings = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), settings)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.copy_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(place / "adapter")
    assert merge.main(["--base", str(base), "--adapter", str(place / "adapter"), "--out", str(place / "merged")]) == 0
    return Trained(base, place / "merged", place / "adapter", {**SPEC, **SWIFT})


def tune(base: Path, place: Path, change: float = 0.02) -> Trained:
    """Return a copy of the base in which every weight has moved."""
    import torch
    from transformers import AutoModel, AutoModelForCausalLM

    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    loader = AutoModelForCausalLM if config["architectures"][0].endswith("ForCausalLM") else AutoModel
    model = loader.from_pretrained(base)
    torch.manual_seed(7)
    for parameter in model.parameters():
        parameter.data.add_(change * torch.randn_like(parameter))
    shutil.copytree(base, place / "tuned")
    model.save_pretrained(place / "tuned")
    return Trained(base, place / "tuned", None, dict(SPEC))


def embed_alone(folder: Path, text: str, max_length: int = 64):
    """Return the vector of one text as Qwen3-Embedding defines it, in plain transformers."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    ids = tokenizer(text, add_special_tokens=False)["input_ids"][: max_length - 1]
    ids.append(tokenizer.convert_tokens_to_ids("<|endoftext|>"))
    with torch.inference_mode():
        vector = model(input_ids=torch.tensor([ids])).last_hidden_state[0, -1]
    return (vector / vector.norm()).numpy()
