"""Read a scoring spec: everything that decides how one model scores a (query, document) pair."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from orchestrator.workers.failure import WorkerError

SCORERS = (
    "flag-llm-reranker",
    "qwen3-native",
    "qwen3-score-head",
    "formatted-head",
    "reward-model",
    "cross-encoder",
    "bi-encoder",
)
FORMAT_KEYS = ("query_format", "document_format", "seq", "special_token")
DTYPES = ("float32", "bfloat16", "float16")
# FlagEmbedding/inference/reranker/decoder_only/base.py and abc/finetune/reranker/AbsDataset.py, the same in both
DEFAULT_PROMPT = (
    "Given a query A and a passage B, determine whether the passage contains an answer to the query by providing a "
    "prediction of either 'Yes' or 'No'."
)
# https://huggingface.co/Qwen/Qwen3-Reranker-0.6B#transformers-usage
DEFAULT_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"


@dataclass(frozen=True)
class ScoringSpec:
    """How pairs are scored; lengths are in tokens; `prompt` None is FlagEmbedding's own, an instruction None left out.

    `max_length` is FlagEmbedding's for `flag-llm-reranker` (the prompt comes on top), and the length of the whole input
    for the other scorers. `instruction` is what the two Qwen3 scorers put into Qwen3-Reranker's prompt. The last four
    belong to `formatted-head`, whose specs must name them all.
    """

    scorer: str
    name: str = ""
    label: str = ""
    dtype: str = "float32"
    trust_remote_code: bool = False
    prompt: str | None = None
    query_instruction: str | None = None
    passage_instruction: str | None = None
    query_instruction_format: str = "{}{}"
    passage_instruction_format: str = "{}{}"
    query_max_length: int | None = None
    max_length: int = 512
    instruction: str | None = None
    batch_size: int = 32
    true_token: str = "Yes"  # noqa: S105  a token of text
    version: int = 1
    query_format: str = ""
    document_format: str = ""
    seq: str = ""
    special_token: str = ""

    @property
    def effective_prompt(self) -> str:
        """The prompt behind a pair of `flag-llm-reranker`; FlagEmbedding's own when none is given."""
        return DEFAULT_PROMPT if self.prompt is None else self.prompt

    @property
    def effective_instruction(self) -> str:
        """The instruction of Qwen3-Reranker's prompt; its authors' when none is given."""
        return self.instruction or DEFAULT_INSTRUCTION

    @property
    def effective_query_max_length(self) -> int:
        """The length that FlagEmbedding cuts queries to when none is given: three quarters of `max_length`."""
        return self.query_max_length if self.query_max_length is not None else self.max_length * 3 // 4

    def wrap_query(self, text: str) -> str:
        """Return the query with its instruction, as FlagEmbedding's `get_detailed_inputs` makes it."""
        return wrap(self.query_instruction, self.query_instruction_format, text)

    def wrap_document(self, text: str) -> str:
        """Return the document with its instruction, as FlagEmbedding's `get_detailed_inputs` makes it."""
        return wrap(self.passage_instruction, self.passage_instruction_format, text)


def wrap(instruction: str | None, template: str, text: str) -> str:
    r"""Return `template` filled with instruction and text; a `\n` spelt with a backslash is a line break."""
    return text if instruction is None else template.replace("\\n", "\n").format(instruction, text)


def parse_spec(raw: dict[str, Any], origin: str) -> ScoringSpec:
    """Return the spec; keys that are not its own are left to other readers. Raises WorkerError for a bad value."""
    known = {field.name for field in fields(ScoringSpec)}
    if raw.get("version", 1) != 1:
        raise WorkerError(f"{origin}: version {raw['version']} of the scoring spec is not known to this worker")
    if raw.get("scorer") not in SCORERS:
        raise WorkerError(f"{origin}: scorer is {raw.get('scorer')!r}; known are {', '.join(SCORERS)}")
    lacking = [key for key in FORMAT_KEYS if not isinstance(raw.get(key), str)]
    if raw["scorer"] == "formatted-head" and lacking:
        raise WorkerError(f"{origin}: a formatted-head model needs {', '.join(lacking)} as text")
    spec = ScoringSpec(**{key: value for key, value in raw.items() if key in known})
    if spec.dtype not in DTYPES:
        raise WorkerError(f"{origin}: dtype is {spec.dtype!r}; known are {', '.join(DTYPES)}")
    if spec.max_length < 1 or spec.batch_size < 1 or spec.effective_query_max_length < 1:
        raise WorkerError(f"{origin}: max_length, query_max_length and batch_size must be at least 1")
    return spec


def load_spec(path: Path) -> ScoringSpec:
    """Return the spec in a JSON file. Raises WorkerError when it cannot be read."""
    return parse_spec(load_raw_spec(path), str(path))


def load_raw_spec(path: Path) -> dict[str, Any]:
    """Return the spec's JSON object. Raises WorkerError when the file has none."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WorkerError(f"{path}: the scoring spec cannot be read: {error}") from error
    if not isinstance(raw, dict):
        raise WorkerError(f"{path}: the scoring spec is not a JSON object")
    return raw
