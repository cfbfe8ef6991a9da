"""When a text is too long: FlagEmbedding's rule for LLM rerankers, ms-swift's for its three tasks, cross-encoders'."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.data.counting.tokens import LengthBudget, LengthRule, Measured, TextCounter, TokenLimit
from orchestrator.data.rows.groups import RankingGroup
from orchestrator.data.rows.records import Chat, Kind, Message, Record, ScoredPair
from orchestrator.data.writing.swift_rows import build_anchor

_SEPARATOR = "\n"
# https://huggingface.co/Qwen/Qwen3-Reranker-0.6B#transformers-usage
_RERANKER_PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
_RERANKER_SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
_RERANKER_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"


def build_rule(kind: Kind, budget: LengthBudget | TokenLimit | None, counter: TextCounter) -> LengthRule:
    """Return the rule for records of `kind`; without a budget, lengths are counted and nothing is too long."""
    limit = budget if isinstance(budget, TokenLimit) else None
    if kind == "chat":
        return ChatRule(limit)
    if kind == "labelled":
        return CrossEncoderRule(limit, counter)
    if limit and limit.form == "swift-reranker":
        return RerankerRule(limit, counter)
    if kind == "pair":
        return TextRule(limit, ("text",))
    return TextRule(limit, ("query", "document")) if limit else FlagRule(_as_budget(budget), counter)


def _as_budget(budget: LengthBudget | TokenLimit | None) -> LengthBudget | None:
    return budget if isinstance(budget, LengthBudget) else None


@dataclass(frozen=True)
class FlagRule:
    """FlagEmbedding's LLM rerankers (AbsLLMRerankerTrainDataset.__getitem__).

    query_max_len is no limit of the query alone, and the pair loses the tokens of the prompt and of two separators from
    the document's end.
    """

    budget: LengthBudget | None
    counter: TextCounter
    parts: tuple[str, ...] = ("query", "document")

    @property
    def limited(self) -> bool:
        """Whether there is a budget."""
        return self.budget is not None

    def texts(self, record: Record) -> list[str]:
        """Return query and documents with their instructions."""
        query, document = (self.budget.query_instruction, self.budget.passage_instruction) if self.budget else ("", "")
        first, *others = record.texts
        return [query + first, *(document + text for text in others)]

    def measure(self, record: Record, counts: Sequence[int]) -> Measured:
        """Return the lengths, and what the budget cuts."""
        query, *documents = counts
        lengths = {"query": [query], "document": documents}
        if self.budget is None:
            return Measured(lengths, {})
        prompt = record.prompt if isinstance(record, RankingGroup) else None
        return self._cut(self.budget, lengths, prompt)

    def _cut(self, budget: LengthBudget, lengths: dict[str, list[int]], prompt: str | None) -> Measured:
        [query] = lengths["query"]
        separator = self.counter.count_again(_SEPARATOR)
        prompt_tokens = self.counter.count_again(budget.prompt if prompt is None else prompt)
        pair_limit = budget.query_max_len + budget.passage_max_len - prompt_tokens - separator
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
        return Measured(lengths, {"query": int(query_kept < query), "document": documents_cut}, tokens_cut)


@dataclass(frozen=True)
class TextRule:
    """swift's embedding: every text for itself, with the end token that its template appends."""

    limit: TokenLimit | None
    parts: tuple[str, ...]

    @property
    def limited(self) -> bool:
        """Whether there is a limit."""
        return self.limit is not None

    def texts(self, record: Record) -> list[str]:
        """Return the anchor with its instruction, and the other texts."""
        first, *others = record.texts
        return [build_anchor(first, self.limit.instruction if self.limit else None), *others]

    def measure(self, record: Record, counts: Sequence[int]) -> Measured:
        """Return the lengths, and what is beyond the limit."""
        ended = [count + 1 for count in counts]
        by_part = {"text": ended} if isinstance(record, ScoredPair) else {"query": ended[:1], "document": ended[1:]}
        return _measure_each(by_part, self.limit)


def _measure_each(by_part: dict[str, list[int]], limit: TokenLimit | None) -> Measured:
    if limit is None:
        return Measured(by_part, {})
    cut = {part: sum(count > limit.max_tokens for count in counts) for part, counts in by_part.items()}
    beyond = sum(max(0, count - limit.max_tokens) for counts in by_part.values() for count in counts)
    return Measured(by_part, cut, beyond)


@dataclass(frozen=True)
class RerankerRule:
    """swift's reranker: query and document together in Qwen3-Reranker's official prompt."""

    limit: TokenLimit
    counter: TextCounter
    parts: tuple[str, ...] = ("query", "document")
    limited: bool = True

    def texts(self, record: Record) -> list[str]:
        """Return query and documents as they are."""
        return list(record.texts)

    def measure(self, record: Record, counts: Sequence[int]) -> Measured:
        """Return the lengths of the texts, and the documents whose pair is beyond the limit."""
        query, *documents = counts
        prompt = record.prompt if isinstance(record, RankingGroup) else None
        instruction = prompt or self.limit.instruction or _RERANKER_INSTRUCTION
        frame = f"{_RERANKER_PREFIX}<Instruct>: {instruction}\n<Query>: \n<Document>: {_RERANKER_SUFFIX}"
        room = self.limit.max_tokens - query - self.counter.count_again(frame)
        cut = sum(document > room for document in documents)
        beyond = sum(max(0, document - room) for document in documents)
        return Measured({"query": [query], "document": documents}, {"query": 0, "document": cut}, beyond)


@dataclass(frozen=True)
class CrossEncoderRule:
    """Cross-encoders: query and document as one sequence; the longer one loses a token until both fit.

    An estimate for decoders, whose format puts words around both.
    """

    limit: TokenLimit | None
    counter: TextCounter
    parts: tuple[str, ...] = ("query", "document")

    @property
    def limited(self) -> bool:
        """Whether there is a limit."""
        return self.limit is not None

    def texts(self, record: Record) -> list[str]:
        """Return query and documents as they are."""
        return list(record.texts)

    def measure(self, record: Record, counts: Sequence[int]) -> Measured:  # noqa: ARG002 - the rule's signature
        """Return the lengths of the texts; the query is cut where a pair with one document cuts it."""
        query, *documents = counts
        lengths = {"query": [query], "document": documents}
        if self.limit is None:
            return Measured(lengths, {})
        room = self.limit.max_tokens - self.counter.pair_overhead
        half = room // 2
        over = [document for document in documents if query + document > room]
        query_cut = bool(over) and query > half
        documents_cut = sum(document > half for document in over)
        beyond = sum(query + document - room for document in over)
        return Measured(lengths, {"query": int(query_cut), "document": documents_cut}, beyond)


@dataclass(frozen=True)
class ChatRule:
    """swift's chat: the whole conversation in ChatML, as its templates qwen3 and qwen3_nothinking write it."""

    limit: TokenLimit | None
    parts: tuple[str, ...] = ("conversation",)

    @property
    def limited(self) -> bool:
        """Whether there is a limit."""
        return self.limit is not None

    def texts(self, record: Record) -> list[str]:
        """Return the rendered conversation; swift's has a line feed behind its last end too."""
        if not isinstance(record, Chat):
            raise TypeError(record)
        turns = ((message.role, self._prefix(message) + message.content) for message in record.messages)
        return ["".join(f"<|im_start|>{role}\n{content}<|im_end|>\n" for role, content in turns)]

    def _prefix(self, message: Message) -> str:
        prefix = self.limit.answer_prefix if self.limit else ""
        # swift/template/base.py, _add_non_thinking_prefix: an answer with thoughts of its own gets no empty ones.
        has_own = not prefix or message.content.startswith(prefix.split("\n", 1)[0])
        return "" if has_own or message.role != "assistant" else prefix

    def measure(self, record: Record, counts: Sequence[int]) -> Measured:  # noqa: ARG002 - the rule's signature
        """Return the conversation's length."""
        return _measure_each({"conversation": list(counts)}, self.limit)
