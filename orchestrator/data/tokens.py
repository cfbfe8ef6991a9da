"""How many tokens the texts have, and how many of them the backend will cut in silence.

The rule is FlagEmbedding's for LLM rerankers (AbsLLMRerankerTrainDataset.__getitem__): query_max_len is no limit of the
query alone, and the pair loses the tokens of the prompt and of two separators from the document's end.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.data.readers import show_path
from orchestrator.data.statistics import find_percentiles

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tokenizers import Tokenizer

    from orchestrator.data.groups import RankingGroup

# FlagEmbedding/abc/finetune/reranker/AbsDataset.py
DEFAULT_PROMPT = (
    "Given a query A and a passage B, determine whether the passage contains an answer to the query by providing a "
    "prediction of either 'Yes' or 'No'."
)
_SEPARATOR = "\n"
_BATCH_TEXTS = 2048


@dataclass(frozen=True)
class LengthBudget:
    """What decides how texts are cut; lengths in tokens, instructions in front of every query and every document."""

    query_max_len: int
    passage_max_len: int
    query_instruction: str = ""
    passage_instruction: str = ""
    prompt: str = DEFAULT_PROMPT


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


class TokenCounter:
    """Counts the tokens of one side's groups, in batches."""

    def __init__(self, tokenizer: Tokenizer, path: Path, budget: LengthBudget | None) -> None:
        """Count with `tokenizer`, loaded from `path`; without a budget nothing is said about cuts."""
        self.queries_cut = 0
        self.documents_cut = 0
        self.tokens_cut = 0
        self._tokenizer = tokenizer
        self._path = path
        self._budget = budget
        self._waiting: list[RankingGroup] = []
        self._waiting_texts = 0
        self._query: Counter[int] = Counter()
        self._document: Counter[int] = Counter()
        self._prompts: dict[str, int] = {}

    @property
    def texts_cut(self) -> int:
        """How many queries and documents are longer than the budget."""
        return self.queries_cut + self.documents_cut

    def add(self, group: RankingGroup) -> None:
        """Count one group, now or with the next ones."""
        self._waiting.append(group)
        self._waiting_texts += 1 + len(group.positives) + len(group.negatives)
        if self._waiting_texts >= _BATCH_TEXTS:
            self.flush()

    def flush(self) -> None:
        """Count what is waiting."""
        budget = self._budget
        before_query, before_document = (budget.query_instruction, budget.passage_instruction) if budget else ("", "")
        texts: list[str] = []
        for group in self._waiting:
            texts.append(before_query + group.query)
            texts.extend(before_document + text for text in group.positives + group.negatives)
        counts = iter(self._count(texts))
        for group in self._waiting:
            query = next(counts)
            documents = [next(counts) for _ in range(len(group.positives) + len(group.negatives))]
            self._query[query] += 1
            self._document.update(documents)
            if budget:
                self._cut(budget, query, documents, group.prompt)
        self._waiting.clear()
        self._waiting_texts = 0

    def _count(self, texts: list[str]) -> list[int]:
        return [len(found.ids) for found in self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    def _count_prompt(self, prompt: str) -> int:
        if prompt not in self._prompts:
            if len(self._prompts) > _BATCH_TEXTS:
                self._prompts.clear()
            self._prompts[prompt] = self._count([prompt])[0]
        return self._prompts[prompt]

    def _cut(self, budget: LengthBudget, query: int, documents: Sequence[int], prompt: str | None) -> None:
        separator = self._count_prompt(_SEPARATOR)
        prompt_tokens = self._count_prompt(budget.prompt if prompt is None else prompt)
        pair_limit = budget.query_max_len + budget.passage_max_len - prompt_tokens - separator
        query_kept = min(query, budget.query_max_len + budget.passage_max_len // 4)
        document_limit = budget.passage_max_len + budget.query_max_len // 2
        self.queries_cut += query_kept < query
        self.tokens_cut += query - query_kept
        for document in documents:
            kept = min(document, document_limit)
            excess = query_kept + separator + kept - pair_limit
            # transformers cuts the second text only, and nothing at all where that would leave none of it.
            if 0 < excess < separator + kept:
                kept = max(0, kept - excess)
            self.documents_cut += kept < document
            self.tokens_cut += document - kept

    def to_json(self) -> dict[str, Any]:
        """Return stats.json's `tokens` of one side: lengths of queries and documents, and what is cut, if known."""
        self.flush()
        found: dict[str, Any] = {}
        for name, histogram in (("query", self._query), ("document", self._document)):
            spread = find_percentiles(histogram)
            found[name] = {"p50": spread.p50, "p95": spread.p95, "max": spread.high}
        if self._budget:
            found |= {
                "queries_cut": self.queries_cut,
                "documents_cut": self.documents_cut,
                "tokens_cut": self.tokens_cut,
            }
        return found | {"tokenizer": show_path(self._path)}
