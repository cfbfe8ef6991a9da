"""What a packaged model is verified on: some inputs of the run's own, and some built to be awkward."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from orchestrator.workers import eval_files

T = TypeVar("T")

MAX_FROM_DATA = 16
# a longer probe would cost more than it shows: cutting works the same
LONGEST_PROBE_TOKENS = 2048
# a text that fills a context window would cost more than it shows
LONG_TOKENS = 512
LONGEST_CHARS = 4000

_TEXTS = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
EXAMPLES: tuple[eval_files.Pair, ...] = tuple(map(tuple, _TEXTS["examples"]))
AWKWARD: tuple[eval_files.Pair, ...] = tuple(map(tuple, _TEXTS["awkward"]))
FILLER = "The river bends twice before it meets the sea, and the road follows it. "


def spread(found: Sequence[T], count: int) -> Sequence[T]:
    """Return up to `count` entries from all over the list."""
    return found[:: max(1, len(found) // count)][:count]


def count_filler(tokenizer: Any) -> int:
    """Return the tokens of one `FILLER`."""
    return max(1, len(tokenizer(FILLER, add_special_tokens=False)["input_ids"]))


@dataclass(frozen=True)
class PairProbe:
    """One pair and where it comes from: `data`, `example`, `awkward` or `long`."""

    pair: eval_files.Pair
    origin: str


def build_pair_probes(data: Path, tokenizer: Any, max_length: int) -> list[PairProbe]:
    """Return up to 16 pairs spread over the eval file, the fixed ones, and one longer than `max_length` tokens."""
    candidates = spread(eval_files.read_candidates(data), MAX_FROM_DATA)
    probes = [PairProbe((found.query, found.document), "data") for found in candidates]
    probes += [PairProbe(pair, "example") for pair in EXAMPLES]
    probes += [PairProbe(pair, "awkward") for pair in AWKWARD]
    if max_length <= LONGEST_PROBE_TOKENS:
        text = FILLER * (max_length // count_filler(tokenizer) + 2)
        probes.append(PairProbe(("Where does the river meet the sea?", text), "long"))
    return probes


@dataclass(frozen=True)
class TextProbe:
    """One text, `query` or `document`, and its origin: `data`, `example`, `awkward`, `long`, `cut` or `test-prompt`."""

    kind: str
    text: str
    origin: str


def read_sides(data: Path, corpus: Path | None) -> tuple[list[str], list[str]]:
    """Return the queries and the documents of an eval file, either from a corpus or from pairs."""
    if corpus is None and eval_files.is_pair_file(data):
        pairs = eval_files.read_text_pairs(data)
        return [pair.text1 for pair in pairs], [pair.text2 for pair in pairs]
    queries = [query.text for query in eval_files.read_queries(data)]
    return queries, [] if corpus is None else [document.text for document in eval_files.read_corpus(corpus)]


def build_text_probes(
    data: Path, corpus: Path | None, tokenizer: Any, max_length: int, test_prompt: str | None
) -> list[TextProbe]:
    """Return the probes, each text once a kind: the user's own, the fixed ones, the data's, a long one, some to cut."""
    found = [] if test_prompt is None else [TextProbe("query", test_prompt, "test-prompt")]
    for pairs, origin in ((EXAMPLES, "example"), (AWKWARD, "awkward")):
        for query, document in pairs:
            found += [TextProbe("query", query, origin), TextProbe("document", document, origin)]
    for kind, texts in zip(("query", "document"), read_sides(data, corpus), strict=True):
        found += [TextProbe(kind, text, "data") for text in spread(texts, MAX_FROM_DATA // 2)]
    per_filler = count_filler(tokenizer)
    found.append(TextProbe("document", FILLER * max(1, min(max_length, LONG_TOKENS) * 3 // 4 // per_filler), "long"))
    if max_length <= LONGEST_PROBE_TOKENS:
        text = FILLER * (max_length // per_filler + 2)
        found += [TextProbe("document", text, "cut"), TextProbe("query", text, "cut")]
    return list({(probe.kind, probe.text): probe for probe in reversed(found)}.values())[::-1]


@dataclass(frozen=True)
class ChatProbe:
    """One conversation, the answer to it, and where it comes from: `data`, `turns` (several of them) or `built`."""

    messages: list[eval_files.Message]
    answer: str
    origin: str


def _build_chat(origin: str, texts: list[str], system: str | None = None) -> ChatProbe:
    """Return the texts of user and assistant in turn; the last is the answer."""
    roles = ("user", "assistant") * len(texts)
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts[:-1], strict=False)]
    start = [] if system is None else [{"role": "system", "content": system}]
    return ChatProbe([*start, *messages], texts[-1], origin)


BUILT = tuple(_build_chat(**chat) for chat in _TEXTS["chats"])  # of one turn first, then of several


def build_chat_probes(rows: Sequence[eval_files.ChatRow]) -> list[ChatProbe]:
    """Return up to 16 conversations spread over the eval rows that are not very long, and the built ones."""
    short = [
        row
        for row in rows
        if sum(len(message["content"]) for message in row.messages) + len(row.reference) <= LONGEST_CHARS
        and row.messages[-1]["role"] == "user"
    ]
    probes = [ChatProbe(row.messages, row.reference, "data") for row in spread(short, MAX_FROM_DATA)]
    return [*probes, *BUILT]
