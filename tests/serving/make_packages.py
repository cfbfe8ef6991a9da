"""Write packaged-like folders of one tiny model with the answers of ms-swift's own engine: `make_packages.py MODEL OUT`."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch
from swift.infer_engine import InferRequest, RequestConfig, TransformersEngine

PROMPT = "Instruct: Find it\nQuery:"
TEXTS = ("what is a beacon", "北京在哪里？", " Rust guarantees memory safety\n without GC. ")
KINDS = {
    "embedding": ("embedding", "qwen3_emb", "embedding"),
    "generative": ("qwen3-native", "qwen3_reranker", "generative_reranker"),
    "chat": ("chat", "qwen3", "causal_lm"),
}


def ask(engine, *contents, system=None, **config):
    roles = ("user", "assistant")
    messages = [{"role": role, "content": text} for role, text in zip(roles, contents, strict=False)]
    messages = [{"role": "system", "content": system}, *messages] if system else messages
    return messages, engine.infer([InferRequest(messages=messages)], RequestConfig(**config))[0]


def probe(kind, engine):
    if kind == "embedding":
        for role, text in zip(("query", "document", "document"), TEXTS, strict=True):
            answer = ask(engine, (PROMPT if role == "query" else "") + text)[1]
            yield {"text": text, "kind": role, "vector": answer.data[0].embedding}
    elif kind == "generative":
        for document in TEXTS[1:]:
            answer = ask(engine, TEXTS[0], document, system="Find it")[1]
            yield {"query": TEXTS[0], "document": document, "score": answer.choices[0].message.content[0]}
    else:
        for text in TEXTS:
            messages, answer = ask(engine, text, max_tokens=12, temperature=0)
            yield {"messages": messages, "answer": answer.choices[0].message.content}


def main(model: Path, out: Path) -> None:
    for kind, (scorer, template, task) in KINDS.items():
        folder = out / kind
        shutil.copytree(model, folder)
        engine = TransformersEngine(
            str(folder), model_type=template, template_type=template, torch_dtype=torch.float32,
            task_type=None if task == "causal_lm" else task, reranker_use_activation=False,
        )  # fmt: skip
        spec = {
            "version": 1, "scorer": scorer, "dtype": "float32", "trust_remote_code": False, "tool": "swift",
            "model_type": template, "template": template, "task_type": task, "query_prompt": PROMPT,
            "document_prompt": "", "instruction": "Find it", "max_new_tokens": 12, "probes": list(probe(kind, engine)),
        }  # fmt: skip
        (folder / "scoring.json").write_text(json.dumps(spec), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
