"""Write the README of a packaged embedding model: how to load it so that it gives the vectors that were measured."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orchestrator.workers.model_card import MODEL_PATH, code_span

RESULTS_MARK = "<!-- orch:results -->"


if TYPE_CHECKING:
    from orchestrator.workers.embedding.spec import EmbeddingSpec

QUERY = "What is the capital of France?"
DOCUMENTS = ("Paris is the capital and largest city of France.", "Mitochondria are the power plants of the cell.")
POOLS = {
    "lasttoken": ("hidden[:, -1]", "the last token, which is the end token"),
    "cls": ("hidden[:, 0]", "the first token"),
    "mean": (
        '(hidden * batch["attention_mask"].unsqueeze(-1)).sum(1) / batch["attention_mask"].sum(1, keepdim=True)',
        "the mean of all tokens",
    ),
}


@dataclass(frozen=True)
class CardFacts:
    """What the card may say. `distance` is how far, in cosine distance, two libraries were apart on the probes."""

    base: str
    hub_base: bool
    spec: EmbeddingSpec
    dims: int
    distance: float | None


def build_card(facts: CardFacts) -> str:
    """Return the card's text; measured results may be written after `RESULTS_MARK`."""
    front = ["---", "pipeline_tag: sentence-similarity", "library_name: sentence-transformers", "tags:"]
    front += ["- sentence-transformers", "- feature-extraction", "- sentence-similarity"]
    if facts.hub_base:
        front += [f"base_model: {facts.base}"]
    trainer = " with ms-swift" if facts.spec.tool == "swift" else ""
    apart = "" if facts.distance is None else f"; on probes {facts.distance:.1g} apart at most"
    sections = [
        "\n".join([*front, "---"]),
        "# Embedding model",
        (
            f"Fine-tuned from {code_span(facts.base)}{trainer}. It turns a text into a vector of {facts.dims} "
            "numbers of length 1: the dot product of two vectors is their cosine similarity. The base model's licence "
            "applies."
        ),
        f"## Use\n\nAll ways below give the same vectors{apart}.",
        f"### sentence-transformers\n\n```python\n{build_sentence_transformers_snippet(facts.spec)}```",
        f"### transformers\n\n```python\n{build_transformers_snippet(facts.spec)}```",
        f"### vLLM\n\n{build_vllm_snippet(facts.spec)}",
        f"## Format\n\n{describe_format(facts)}",
        RESULTS_MARK,
    ]
    return "\n\n".join(sections) + "\n"


def build_sentence_transformers_snippet(spec: EmbeddingSpec) -> str:
    """Return the code that embeds with sentence-transformers; the prompts are in the folder."""
    options = [f'model_kwargs={{"torch_dtype": "{spec.dtype}"}}']
    if spec.trust_remote_code:
        options += ["trust_remote_code=True"]
    lines = [
        *("from sentence_transformers import SentenceTransformer", ""),
        f'model = SentenceTransformer("{MODEL_PATH}", {", ".join(options)})',
        f"queries = model.encode_query([{json.dumps(QUERY)}])",
        f"documents = model.encode_document({json.dumps(DOCUMENTS)})",
        *("scores = queries @ documents.T", "print(scores)"),
    ]
    return "\n".join(lines) + "\n"


def build_transformers_snippet(spec: EmbeddingSpec) -> str:
    """Return the code that embeds with transformers alone."""
    remote = ", trust_remote_code=True" if spec.trust_remote_code else ""
    lines = [
        *("import torch", "from transformers import AutoModel, AutoTokenizer", ""),
        f'tokenizer = AutoTokenizer.from_pretrained("{MODEL_PATH}"{remote})',
        f'model = AutoModel.from_pretrained("{MODEL_PATH}", torch_dtype="{spec.dtype}"{remote}).eval()',
        f"query, document = {spec.query_prompt!r}, {spec.document_prompt!r}",
        f"texts = [query + {json.dumps(QUERY)}, *(document + text for text in {json.dumps(DOCUMENTS)})]",
        "with torch.inference_mode():",
        f"    options = {{'padding': True, 'truncation': True, 'max_length': {spec.max_length}}}",
        '    batch = tokenizer(texts, **options, return_tensors="pt")',
        "    hidden = model(**batch).last_hidden_state",
        f"    pooled = {POOLS[spec.pooling or 'lasttoken'][0]}",
        "    vectors = torch.nn.functional.normalize(pooled.float(), dim=1)",
        *("scores = (vectors[:1] @ vectors[1:].T).numpy()", "print(scores)"),
    ]
    return "\n".join(lines) + "\n"


def build_vllm_snippet(spec: EmbeddingSpec) -> str:
    """Return the commands that serve the folder and ask it; vLLM puts no prompt in front, so the request holds it."""
    body = {"model": "embedding", "input": [spec.query_prompt + QUERY, spec.document_prompt + DOCUMENTS[0]]}
    quoted = json.dumps(body, ensure_ascii=False).replace("'", "'\\''")
    return (
        "```bash\n"
        f"vllm serve {MODEL_PATH} --runner pooling --served-model-name embedding\n"
        "curl http://localhost:8000/v1/embeddings -H 'Content-Type: application/json' \\\n"
        f"  -d '{quoted}'\n"
        "```\n\n"
        "vLLM reads pooling and normalisation from this folder, but knows no prompts: put them in front yourself."
    )


def describe_format(facts: CardFacts) -> str:
    """Return the input format as a list."""
    spec, pooled = facts.spec, POOLS[facts.spec.pooling or "lasttoken"][1]
    lines = [
        f"query: {code_span(repr(spec.query_prompt + '{query}'))}",
        f"document: {code_span(repr(spec.document_prompt + '{document}'))}",
    ]
    if spec.query_prompt and not spec.document_prompt:
        line = "the instruction stands in front of queries only, with nothing in between; documents stay as they are. "
        lines.append(line + "For another task, say that task in one sentence in the same place")
    lines.append(f"vector: {pooled}, divided by its length")
    if spec.pooling == "lasttoken":
        lines.append("the tokenizer appends `<|endoftext|>` itself, once, also to texts that are cut: add nothing")
    lines.append(f"longest text: {spec.max_length} tokens, prompt and special tokens included; the rest is cut off")
    if spec.mrl_dims:
        dims = ", ".join(map(str, spec.mrl_dims))
        line = f"trained so that the first {dims} numbers of a vector also work (Matryoshka): "
        lines.append(
            line + "`SentenceTransformer(…, truncate_dim=…)` with `normalize_embeddings=True` in `encode_query`"
        )
    if spec.truncate_dim is not None:
        lines.append(f"the results below were measured with the first {spec.truncate_dim} numbers")
    lines.append("`scoring.json` holds all of this for programs, with example vectors and the hash of every file")
    return "\n".join(f"- {line}" for line in lines)
