"""Read a scoring spec: everything that decides how one model scores pairs, embeds texts, or answers conversations."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar

from orchestrator.workers.failure import WorkerError
from orchestrator.workers.folders import read_object
from orchestrator.workers.settings import STRING, Rule, one_of, or_null, parse_settings

T = TypeVar("T")

# each way of scoring, as the core reads it too (backends/scorers.py); those of pairs have specs of their own
SCORERS: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("scorers.json").read_text(encoding="utf-8"))
PAIR_SCORERS = tuple(name for name, row in SCORERS.items() if row["kind"] not in {"embedding", "chat"})
FORMAT_KEYS = ("query_format", "document_format", "seq", "special_token")
DTYPES = ("float32", "bfloat16", "float16")
POOLINGS = ("lasttoken", "cls", "mean", "max", "mean_sqrt_len_tokens", "weightedmean")
PARTS = ("sparse", "colbert", "sum")  # by which of bge-m3's heads texts are compared, where not by its vector
TOOLS = ("swift", "sentence-transformers", "flagembedding")
_BARE_TOOLS = (None, "swift")
# FlagEmbedding/inference/reranker/decoder_only/base.py and abc/finetune/reranker/AbsDataset.py, the same in both
DEFAULT_PROMPT = (
    "Given a query A and a passage B, determine whether the passage contains an answer to the query by providing a "
    "prediction of either 'Yes' or 'No'."
)
# https://huggingface.co/Qwen/Qwen3-Reranker-0.6B#transformers-usage
DEFAULT_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
# what decides the ids and labels of a conversation in ms-swift besides template and system, under its own names
# (swift/arguments/base_args/template_args.py), with their defaults
TEMPLATE_ARGUMENTS: dict[str, Any] = {
    "add_non_thinking_prefix": True,
    "agent_template": None,
    "disable_ignore_empty_think": False,
    "enable_thinking": None,
    "loss_scale": "default",
    "preserve_thinking": None,
    "use_chat_template": True,
}


def at_least(least: int) -> Rule:
    """Return the rule for a whole number that is not less."""
    words = f"is {{value!r}}, not a whole number of at least {least}"
    return Rule(words, lambda value: type(value) is int and value >= least)


def or_none(choices: tuple[str, ...], hint: str = "") -> Rule:
    """Return the rule for one of these texts or none."""
    known = ", ".join(("None", *choices))
    return Rule(f"is {{value!r}}; known are {known}{hint}", lambda value: value is None or value in choices)


TextOrNull = Annotated[str | None, or_null(STRING)]
Dtype = Annotated[str, one_of(*DTYPES)]
Count = Annotated[int, at_least(1)]
CountOrNull = Annotated[int | None, or_null(at_least(1))]
_DIMS = Rule(
    "is {value!r}, not a list of whole numbers of at least 1",
    lambda value: isinstance(value, (list, tuple)) and all(type(dim) is int and dim > 0 for dim in value),
)
_TEMPLATE_ARGUMENTS = Rule(
    f"is {{value!r}}; it is an object, and known are {', '.join(TEMPLATE_ARGUMENTS)}",
    lambda value: isinstance(value, dict) and set(value) <= set(TEMPLATE_ARGUMENTS),
)


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
    dtype: Dtype = "float32"
    trust_remote_code: bool = False
    prompt: TextOrNull = None
    query_instruction: TextOrNull = None
    passage_instruction: TextOrNull = None
    query_instruction_format: str = "{}{}"
    passage_instruction_format: str = "{}{}"
    query_max_length: CountOrNull = None
    max_length: Count = 512
    instruction: TextOrNull = None
    batch_size: Count = 32
    true_token: str = "Yes"  # noqa: S105  a token of text
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


@dataclass(frozen=True)
class EmbeddingSpec:
    """How texts become vectors; `max_length` is in tokens, end token included, and prompts stand in front of texts.

    `query_suffix` stands behind queries (bge-en-icl's). `pooling` and `normalize` count for a base that does not say
    them itself (in modules.json); None asks for the base's own pooling, and a trained model is packaged with that of
    the spec. `truncate_dim` None is every dimension; `mrl_dims` are the shorter ones that were trained (Matryoshka).
    `tool` is what trained the model: one that swift trained is verified in its engine, by `model_type` and `template`,
    and one of FlagEmbedding's in that; sentence-transformers saves a whole SentenceTransformer. `end_token` false
    leaves the last token, where it is pooled, to the tokenizer. `colbert_dim` is the width of bge-m3's ColBERT vectors
    (-1: the model's own); None: it has no heads but its vector.
    """

    name: str = ""
    label: str = ""
    dtype: Dtype = "float32"
    trust_remote_code: bool = False
    batch_size: Count = 32
    max_length: Count = 512
    query_prompt: str = ""
    document_prompt: str = ""
    query_suffix: str = ""
    pooling: Annotated[str | None, or_none(POOLINGS)] = "lasttoken"
    normalize: bool = True
    truncate_dim: CountOrNull = None
    mrl_dims: Annotated[tuple[int, ...], _DIMS] = ()
    end_token: bool = True
    colbert_dim: int | None = None
    part: Annotated[str | None, or_none(PARTS)] = None
    tool: Annotated[str | None, or_none(TOOLS)] = None
    model_type: str = "qwen3_emb"
    template: str = "qwen3_emb"

    @property
    def ends_texts(self) -> bool:
        """Whether every text is ended with Qwen3-Embedding's end token, whatever the tokenizer does."""
        return self.end_token and self.pooling == "lasttoken"

    @property
    def saves_modules(self) -> bool:
        """Whether the tool saves a whole SentenceTransformer: ms-swift saves a transformer alone."""
        return self.tool not in _BARE_TOOLS

    def wrap_query(self, text: str) -> str:
        """Return the query as the model reads it."""
        return self.query_prompt + text + self.query_suffix

    def wrap_document(self, text: str) -> str:
        """Return the document as the model reads it."""
        return self.document_prompt + text

    def wrap(self, kind: str, text: str) -> str:
        """Return a text of the kind `query` or `document` as the model reads it."""
        return self.wrap_query(text) if kind == "query" else self.wrap_document(text)


@dataclass(frozen=True)
class ChatSpec:
    """How conversations are scored; lengths are in tokens.

    `system` is for conversations without a system message. `generate` says for how many rows, the first ones, the model
    also writes its own answer. `tool` swift and `template` name the format of training, `template_args` what of it the
    training changed; without `tool` the model's own chat template is the format.
    """

    name: str = ""
    label: str = ""
    dtype: Dtype = "float32"
    trust_remote_code: bool = False
    batch_size: Count = 8
    max_length: Annotated[int, at_least(2)] = 2048
    system: TextOrNull = None
    max_new_tokens: Count = 256
    generate: Annotated[int, at_least(0)] = 0
    tool: Annotated[str | None, or_none(("swift",), ", None being the model's own chat template")] = None
    model_type: TextOrNull = None
    task_type: TextOrNull = None
    template: TextOrNull = None
    template_args: Annotated[dict[str, Any], _TEMPLATE_ARGUMENTS] = field(default_factory=dict)


def read_spec(cls: type[T], raw: dict[str, Any], origin: str, *scorers: str) -> T:
    """Return the spec; keys that are not its own are left to other readers. Raises WorkerError, a line a bad value."""
    if raw.get("version", 1) != 1:
        raise WorkerError(f"{origin}: version {raw['version']} of the scoring spec is not known to this worker")
    if raw.get("scorer") not in scorers:
        raise WorkerError(f"{origin}: scorer is {raw.get('scorer')!r}; known are {', '.join(scorers)}")
    known = {one.name for one in fields(cls)}  # type: ignore[arg-type]
    return parse_settings(cls, {key: value for key, value in raw.items() if key in known}, origin)


def parse_spec(raw: dict[str, Any], origin: str) -> ScoringSpec:
    """Return the spec of a model that scores pairs. Raises WorkerError, a line a bad value."""
    lacking = [key for key in FORMAT_KEYS if not isinstance(raw.get(key), str)]
    if raw.get("scorer") == "formatted-head" and lacking:
        raise WorkerError(f"{origin}: a formatted-head model needs {', '.join(lacking)} as text")
    return read_spec(ScoringSpec, raw, origin, *PAIR_SCORERS)


def parse_embedding_spec(raw: dict[str, Any], origin: str) -> EmbeddingSpec:
    """Return the spec of an embedding model. Raises WorkerError, a line a bad value."""
    dims = raw.get("mrl_dims") or ()
    return read_spec(
        EmbeddingSpec, {**raw, "mrl_dims": tuple(dims) if isinstance(dims, list) else dims}, origin, "embedding"
    )


def parse_chat_spec(raw: dict[str, Any], origin: str) -> ChatSpec:
    """Return the spec of a chat model. Raises WorkerError, a line a bad value."""
    spec = read_spec(ChatSpec, raw, origin, "chat")
    if spec.tool and not spec.template:
        raise WorkerError(
            f"{origin}: template is missing: name ms-swift's template that the model is trained with, such as qwen3"
        )
    return spec


def load_raw_spec(path: Path) -> dict[str, Any]:
    """Return the spec's JSON object. Raises WorkerError when the file has none."""
    return read_object(path, "the scoring spec")
