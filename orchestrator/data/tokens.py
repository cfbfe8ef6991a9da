"""How many tokens the texts have, counted in batches, and what of them the backend will cut or drop.

Rules say what counts as a text and when it is too long: FlagEmbedding's for LLM rerankers, ms-swift's for its three
tasks, and that of cross-encoders.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from orchestrator.data.forms import build_anchor
from orchestrator.data.rows.records import Chat, Kind, Message, Record

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# FlagEmbedding/abc/finetune/reranker/AbsDataset.py
DEFAULT_PROMPT = (
    "Given a query A and a passage B, determine whether the passage contains an answer to the query by providing a "
    "prediction of either 'Yes' or 'No'."
)
_BATCH_TEXTS = 2048
_PAIR = ("query", "document")
_SEPARATOR = "\n"  # between the texts of FlagEmbedding's pairs
# https://huggingface.co/Qwen/Qwen3-Reranker-0.6B#transformers-usage
_RERANKER_PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
_RERANKER_SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
_RERANKER_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"


@dataclass(frozen=True)
class LengthBudget:
    """What decides how FlagEmbedding cuts texts; lengths in tokens, an instruction stands in front of every text."""

    query_max_len: int
    passage_max_len: int
    query_instruction: str = ""
    passage_instruction: str = ""
    prompt: str = DEFAULT_PROMPT
    apart: bool = False  # each text for itself, as embedding models read them; else query and document are a pair


Truncation = Literal["cut", "drop", "split"]


@dataclass(frozen=True)
class TokenLimit:
    """How many tokens a text, a pair or a conversation may have, and what becomes of longer ones.

    `answer_prefix` is what the chat template puts in front of each answer that does not begin with it.
    """

    max_tokens: int
    truncation: Truncation = "cut"
    form: str = "swift-embedding"
    instruction: str | None = None
    answer_prefix: str = ""
    prompts: tuple[str, str] = ("", "")  # of queries and of documents, where the trainer puts them in front


class TokenizerUnusableError(Exception):
    """The tokens cannot be counted; the message says why. Never leaves this package: it becomes a warning."""


def load_tokenizer(path: Path) -> Tokenizer:
    """Load `path`, a tokenizer.json or the folder that holds one. Raises TokenizerUnusableError."""
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise TokenizerUnusableError(f"there is no {file}")
    try:
        from tokenizers import Tokenizer  # an optional package: only counting tokens needs it
    except ImportError as error:
        raise TokenizerUnusableError("the Python package tokenizers is not installed here") from error
    try:
        tokenizer: Tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the Rust side raises bare Exception
        raise TokenizerUnusableError(f"{file} cannot be loaded: {error}") from error
    tokenizer.no_truncation()  # FlagEmbedding saves its training truncation into tokenizer.json
    tokenizer.no_padding()
    return tokenizer


@dataclass(frozen=True)
class Measured:
    """One record's lengths in tokens by part, how many texts of a part are too long, and tokens beyond the limit.

    `paired` are the tokens of the query with each of its documents, as they are read where both are one sequence.
    """

    lengths: Mapping[str, Sequence[int]]
    cut: Mapping[str, int]
    tokens_cut: int = 0
    paired: int = 0


Lengths = dict[str, list[int]]
Cut = tuple[dict[str, int], int]  # how many texts of each part are too long, and by how many tokens in all


@dataclass(frozen=True)
class LengthRule:
    """What of a record is counted, and when it is too long.

    `parts` are the names of what is counted: query and document, or one name for all. `texts` gives the texts as the
    backend reads them; `find_cut` says which are too long (None: nothing can be). `end_tokens` is what the backend adds
    to every text. `frame` says what stands around a query and a document that are one sequence (None: each text is read
    for itself, up to `most` tokens of its part).
    """

    parts: tuple[str, ...]
    texts: Callable[[Record], list[str]]
    find_cut: Callable[[Record, Lengths], Cut] | None
    end_tokens: int = 0
    frame: Callable[[Record], int] | None = None
    most: Mapping[str, int] = field(default_factory=dict)

    def measure(self, record: Record, counts: Sequence[int]) -> Measured:
        """Return the record's lengths, given the tokens of each of its texts."""
        ended = [count + self.end_tokens for count in counts]
        is_pair = len(self.parts) > 1
        lengths = {"query": ended[:1], "document": ended[1:]} if is_pair else {self.parts[0]: ended}
        cut, beyond = self.find_cut(record, lengths) if self.find_cut else ({}, 0)
        paired = 0
        if self.frame:
            [query], documents = lengths["query"], lengths["document"]
            paired = sum(documents) + len(documents) * (query + self.frame(record)) - beyond
        return Measured(lengths, cut, beyond, paired)


class TextCounter:
    """Counts the tokens of texts."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Count with `tokenizer`, without special tokens of its own."""
        self._tokenizer = tokenizer
        self._known: dict[str, int] = {}

    @property
    def text_overhead(self) -> int:
        """How many special tokens stand around one text."""
        return self._tokenizer.num_special_tokens_to_add(is_pair=False)

    @property
    def pair_overhead(self) -> int:
        """How many special tokens stand around two texts that are read as one sequence."""
        return self._tokenizer.num_special_tokens_to_add(is_pair=True)

    def count(self, texts: list[str]) -> list[int]:
        """Return the tokens of each text; special tokens that stand in a text count as one."""
        return [len(found.ids) for found in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def count_again(self, text: str) -> int:
        """Return the tokens of a text that recurs, such as a prompt."""
        if text not in self._known:
            if len(self._known) > _BATCH_TEXTS:
                self._known.clear()
            self._known[text] = self.count([text])[0]
        return self._known[text]


class EstimatedCounter(TextCounter):
    """Stands in for a tokenizer that is not here: a token for every 4 bytes of UTF-8, and BERT's special tokens.

    English has about 4 characters a token in the vocabularies of Qwen3 and XLM-RoBERTa, Chinese, 3 bytes each, about
    1.4: an estimate, never what a text is cut by.
    """

    text_overhead, pair_overhead = 2, 3

    def __init__(self) -> None:
        """Count without a tokenizer."""
        self._known = {}

    def count(self, texts: list[str]) -> list[int]:
        """Return about how many tokens each text has."""
        return [-(-len(text.encode("utf-8", "replace")) // 4) for text in texts]


Measurement = tuple[str, Record, Measured | None]  # a record of a file, and its lengths where they are counted


class MeasuringQueue:
    """Records wait here until a batch of them is counted; they leave in the order in which they came."""

    def __init__(self, counter: TextCounter | None = None, rule: LengthRule | None = None) -> None:
        """Start empty; without a counter and a rule no record waits."""
        self._counter = counter
        self._rule = rule
        self._waiting: list[tuple[str, Record]] = []
        self._texts: list[str] = []
        self._sizes: list[int] = []

    def put(self, path: str, record: Record) -> Iterable[Measurement]:
        """Add a record of the file `path`, and return those that are measured by it."""
        if not self._rule:
            return [(path, record, None)]
        texts = self._rule.texts(record)
        self._waiting.append((path, record))
        self._sizes.append(len(texts))
        self._texts += texts
        return self.flush() if len(self._texts) >= _BATCH_TEXTS else []

    def flush(self) -> Iterator[Measurement]:
        """Measure and yield what is waiting."""
        if not (self._counter and self._rule):
            return
        counts = iter(self._counter.count(self._texts))
        waiting, sizes = self._waiting, self._sizes
        self._waiting, self._sizes, self._texts = [], [], []
        for (path, record), size in zip(waiting, sizes, strict=True):
            yield path, record, self._rule.measure(record, list(islice(counts, size)))


def build_rule(kind: Kind, budget: LengthBudget | TokenLimit | None, counter: TextCounter) -> LengthRule:
    """Return the rule for records of `kind`; without a budget, lengths are counted and nothing is too long."""
    limit = budget if isinstance(budget, TokenLimit) else None
    form = limit.form if limit else ""
    parts = {"chat": ("conversation",), "pair": ("text",), "class": ("text",)}.get(kind, _PAIR)
    most = dict.fromkeys(parts, limit.max_tokens) if limit else {}
    own_texts, ends = partial(_prefix, "", ""), 0

    def around(_: Record) -> int:
        return counter.pair_overhead

    if kind == "labelled":
        cut = partial(_cut_cross_encoder, limit.max_tokens - counter.pair_overhead) if limit else None
        return LengthRule(parts, own_texts, cut, frame=around)
    if limit and form in {"swift-reranker", "swift-encoder-reranker"}:
        frame = partial(_count_swift_frame, limit, counter) if form == "swift-reranker" else around
        return LengthRule(parts, own_texts, partial(_cut_documents, limit.max_tokens, frame), frame=frame)
    if kind == "chat":
        texts = partial(_render_chat, limit.answer_prefix if limit else "")
    elif limit and form.startswith("embedding-"):
        texts, ends = partial(_prefix, *limit.prompts), counter.text_overhead
    elif limit or kind in {"pair", "class"}:  # swift's, with the end token that its template appends
        texts, ends = partial(_prefix, build_anchor("", limit.instruction if limit else None), ""), 1
    elif isinstance(budget, LengthBudget):
        texts, ends = partial(_prefix, budget.query_instruction, budget.passage_instruction), counter.text_overhead
        if not budget.apart:
            frame = partial(_count_flag_frame, budget, counter)
            return LengthRule(parts, texts, partial(_cut_flag, budget, counter), frame=frame)
        most = {"query": budget.query_max_len, "document": budget.passage_max_len}
    else:
        return LengthRule(parts, own_texts, None, frame=around)
    return LengthRule(parts, texts, partial(_cut_each, most) if most else None, ends, most=most)


def _prefix(query: str, document: str, record: Record) -> list[str]:
    """Return the texts of a record, the first with what stands in front of queries, the others with the other."""
    first, *others = record.texts
    return [query + first, *(document + text for text in others)]


def _render_chat(prefix: str, record: Record) -> list[str]:
    """Return the conversation in ChatML, as swift's templates qwen3 and qwen3_nothinking write it.

    There is a line feed behind its last end too.
    """
    if not isinstance(record, Chat):
        raise TypeError(record)

    def render(message: Message) -> str:
        # swift/template/base.py, _add_non_thinking_prefix: an answer with thoughts of its own gets no empty ones.
        has_own = not prefix or message.content.startswith(prefix.split("\n", 1)[0])
        added = "" if has_own or message.role != "assistant" else prefix
        return f"<|im_start|>{message.role}\n{added}{message.content}<|im_end|>\n"

    return ["".join(map(render, record.messages))]


def _cut_each(most: Mapping[str, int], _: Record, lengths: Lengths) -> Cut:
    """Return what is cut where every text has the limit of its part for itself (AbsEmbedderCollator, swift)."""
    beyond = {part: [one - most[part] for one in counts if one > most[part]] for part, counts in lengths.items()}
    return {part: len(over) for part, over in beyond.items()}, sum(map(sum, beyond.values()))


def _cut_flag(budget: LengthBudget, counter: TextCounter, record: Record, lengths: Lengths) -> Cut:
    """Return what FlagEmbedding's LLM rerankers cut (AbsLLMRerankerTrainDataset.__getitem__).

    query_max_len does not limit the query alone, and the pair loses the tokens of the prompt and of two separators from
    the document's end.
    """
    [query] = lengths["query"]
    separator = counter.count_again(_SEPARATOR)
    pair_limit = budget.query_max_len + budget.passage_max_len - _count_flag_frame(budget, counter, record) + separator
    query_kept = min(query, budget.query_max_len + budget.passage_max_len // 4)
    document_limit = budget.passage_max_len + budget.query_max_len // 2
    documents_cut = 0
    tokens_cut = query - query_kept
    for document in lengths["document"]:
        kept = min(document, document_limit)
        excess = query_kept + separator + kept - pair_limit
        # transformers cuts the second text only, and nothing at all where that would leave none of it.
        if 0 < excess < separator + kept:
            kept = max(0, kept - excess)
        documents_cut += kept < document
        tokens_cut += document - kept
    return {"query": int(query_kept < query), "document": documents_cut}, tokens_cut


def _count_flag_frame(budget: LengthBudget, counter: TextCounter, record: Record) -> int:
    """Return the tokens of the prompt and of both separators."""
    prompt = record.prompt
    return counter.count_again(budget.prompt if prompt is None else prompt) + 2 * counter.count_again(_SEPARATOR)


def _count_swift_frame(limit: TokenLimit, counter: TextCounter, record: Record) -> int:
    """Return the tokens of Qwen3-Reranker's official prompt, in which query and document stand together."""
    instruction = record.prompt or limit.instruction or _RERANKER_INSTRUCTION
    return counter.count_again(
        f"{_RERANKER_PREFIX}<Instruct>: {instruction}\n<Query>: \n<Document>: {_RERANKER_SUFFIX}"
    )


def _cut_documents(limit: int, frame: Callable[[Record], int], record: Record, lengths: Lengths) -> Cut:
    """Return what swift's rerankers cut: of documents that stand behind their query in one sequence, in a frame."""
    room = limit - lengths["query"][0] - frame(record)
    beyond = [document - room for document in lengths["document"] if document > room]
    return {"query": 0, "document": len(beyond)}, sum(beyond)


def _cut_cross_encoder(room: int, _: Record, lengths: Lengths) -> Cut:
    """Return what cross-encoders cut: query and document are one sequence; the longer loses a token until both fit.

    An estimate for decoders, whose format puts words around both. The query is cut where a pair with one document cuts
    it.
    """
    [query] = lengths["query"]
    half = room // 2
    over = [document for document in lengths["document"] if query + document > room]
    cut = {"query": int(bool(over) and query > half), "document": sum(document > half for document in over)}
    return cut, sum(query + document - room for document in over)
