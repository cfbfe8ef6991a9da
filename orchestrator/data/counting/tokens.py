"""How many tokens the texts have, counted in batches, and what of them the backend will cut or drop.

What counts as a text, and when it is too long, is said by the rules of lengths.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from orchestrator.data.counting.spreads import find_percentiles
from orchestrator.data.reading.readers import show_path
from orchestrator.data.rows.records import Record

if TYPE_CHECKING:
    from tokenizers import Tokenizer

# FlagEmbedding/abc/finetune/reranker/AbsDataset.py
DEFAULT_PROMPT = (
    "Given a query A and a passage B, determine whether the passage contains an answer to the query by providing a "
    "prediction of either 'Yes' or 'No'."
)
_BATCH_TEXTS = 2048


@dataclass(frozen=True)
class LengthBudget:
    """What decides how FlagEmbedding cuts texts; lengths in tokens, an instruction stands in front of every text."""

    query_max_len: int
    passage_max_len: int
    query_instruction: str = ""
    passage_instruction: str = ""
    prompt: str = DEFAULT_PROMPT


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


class TokenizerUnusableError(Exception):
    """The tokens cannot be counted; the message says why. Never leaves this package: it becomes a warning."""


def load_tokenizer(path: Path) -> Tokenizer:
    """Load `path`, a tokenizer.json or the folder that holds one. Raises TokenizerUnusableError."""
    file = path / "tokenizer.json" if path.is_dir() else path
    if not file.is_file():
        raise TokenizerUnusableError(f"there is no {file}")
    try:
        from tokenizers import Tokenizer  # an optional package: only whoever asks for tokens needs it
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
    """One record's lengths in tokens by part, how many texts of a part are too long, and tokens beyond the limit."""

    lengths: Mapping[str, Sequence[int]]
    cut: Mapping[str, int]
    tokens_cut: int = 0

    @property
    def texts_cut(self) -> int:
        """How many texts are longer than the limit."""
        return sum(self.cut.values())


class LengthRule(Protocol):
    """What of a record is counted, and when it is too long."""

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of what is counted, such as query and document."""

    @property
    def limited(self) -> bool:
        """Whether anything can be too long."""

    def texts(self, record: Record) -> list[str]:
        """Return the texts to count, as the backend reads them."""

    def measure(self, record: Record, counts: Sequence[int]) -> Measured:
        """Return the record's lengths, given the tokens of each of its `texts`."""


class TextCounter:
    """Counts the tokens of texts."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """Count with `tokenizer`, without special tokens of its own."""
        self._tokenizer = tokenizer
        self._known: dict[str, int] = {}

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


class MeasuringQueue:
    """Records wait here until a batch of them is counted; they leave in the order in which they came."""

    def __init__(self, counter: TextCounter, rule: LengthRule) -> None:
        """Start empty."""
        self._counter = counter
        self._rule = rule
        self._waiting: list[tuple[str, Record]] = []
        self._texts: list[str] = []
        self._sizes: list[int] = []

    def put(self, path: str, record: Record) -> Iterator[tuple[str, Record, Measured]]:
        """Add a record of the file `path`, and yield those that are measured thereby."""
        texts = self._rule.texts(record)
        self._waiting.append((path, record))
        self._sizes.append(len(texts))
        self._texts += texts
        if len(self._texts) >= _BATCH_TEXTS:
            yield from self.flush()

    def flush(self) -> Iterator[tuple[str, Record, Measured]]:
        """Measure and yield what is waiting."""
        counts = self._counter.count(self._texts)
        waiting, sizes = self._waiting, self._sizes
        self._waiting, self._sizes, self._texts = [], [], []
        start = 0
        for (path, record), size in zip(waiting, sizes, strict=True):
            yield path, record, self._rule.measure(record, counts[start : start + size])
            start += size


class TokenStatistics:
    """Sums up the tokens of one side's kept records."""

    def __init__(self, rule: LengthRule, path: Path) -> None:
        """Start empty; `path` is the tokenizer's."""
        self.cut: Counter[str] = Counter()
        self.tokens_cut = 0
        self._rule = rule
        self._path = path
        self._lengths: dict[str, Counter[int]] = {part: Counter() for part in rule.parts}

    @property
    def texts_cut(self) -> int:
        """How many texts are longer than the limit."""
        return self.cut.total()

    def add(self, measured: Measured) -> None:
        """Count one record."""
        for part, lengths in measured.lengths.items():
            self._lengths[part].update(lengths)
        self.cut.update(measured.cut)
        self.tokens_cut += measured.tokens_cut

    def describe_cut(self) -> str:
        """Return what is cut, for the warning."""
        parts = ", ".join(f"{self.cut[part]} {_plural(part)}" for part in self._rule.parts)
        return f"{parts}, {self.tokens_cut} tokens in all"

    def to_json(self) -> dict[str, Any]:
        """Return stats.json's `tokens` of one side: the lengths of each part, and what is cut, if known."""
        found: dict[str, Any] = {}
        for name, histogram in self._lengths.items():
            spread = find_percentiles(histogram)
            found[name] = {"p50": spread.p50, "p95": spread.p95, "max": spread.high}
        if self._rule.limited:
            found |= {f"{_plural(part)}_cut": self.cut[part] for part in self._rule.parts}
            found["tokens_cut"] = self.tokens_cut
        return found | {"tokenizer": show_path(self._path)}


def _plural(part: str) -> str:
    return {"query": "queries"}.get(part, f"{part}s")
