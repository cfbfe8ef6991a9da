"""Read the prepared eval files: groups to rank, queries and the corpus that they search, pairs of texts, chats.

From them come the probes that a packaged model is verified on, beside some that are built to be awkward.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from orchestrator.workers.failure import WorkerError
from orchestrator.workers.folders import read_rows

T = TypeVar("T")
Pair = tuple[str, str]  # a query and a document
Message = dict[str, str]

GROUP = '{"qid", "query", "documents": [{"docid", "text"}, …]}, with each docid once'
CHAT = '{"id": …, "messages": […], "reference": …}, a chat row'


class Candidate(NamedTuple):
    """One (query, document) to score; `prompt` None is the spec's."""

    qid: str
    docid: str
    query: str
    document: str
    prompt: str | None = None


class Text(NamedTuple):
    """A query or a document: its id and its words."""

    id: str
    text: str


class TextPair(NamedTuple):
    """Two texts that are compared; the first is the query's side."""

    id: str
    text1: str
    text2: str


@dataclass(frozen=True)
class ChatRow:
    """One conversation up to the answer that is wanted, and that answer."""

    id: str
    messages: list[Message]
    reference: str


def read_unique(path: Path, shape: str, key: str, parse: Callable[[dict[str, Any]], T | None]) -> list[T]:
    """Return what `parse` makes of each row, in file order.

    Raises WorkerError for no rows, one that `parse` makes nothing of, and a `key` that comes twice.
    """
    found: dict[str, T] = {}
    for where, row in read_rows(path, shape):
        one, name = parse(row), str(row.get(key))
        if one is None:
            raise WorkerError(f"{where}: not {shape}; prepare the data again")
        if name in found:
            raise WorkerError(f"{where}: {key} {name} appears twice; prepare the data again")
        found[name] = one
    if not found:
        raise WorkerError(f"{path}: nothing to score")
    return list(found.values())


def pick_texts(row: dict[str, Any], names: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return the named texts of a row, or None where one is missing."""
    texts = tuple(text for name in names if isinstance(text := row.get(name), str))
    return texts if len(texts) == len(names) else None


def read_texts(path: Path, *names: str) -> list[tuple[str, ...]]:
    """Return the named texts of every row; the first name is an id."""
    shape = f"an object with the texts {', '.join(map(json.dumps, names))}"
    return read_unique(path, shape, names[0], lambda row: pick_texts(row, names))


def read_queries(path: Path) -> list[Text]:
    """Return the queries of a retrieval eval file in file order."""
    return [Text(*row) for row in read_texts(path, "qid", "query")]


def read_corpus(path: Path) -> list[Text]:
    """Return the documents in the order of their ids: equal scores are ranked in that order."""
    return sorted((Text(*row) for row in read_texts(path, "docid", "text")), key=lambda found: found.id)


def read_text_pairs(path: Path) -> list[TextPair]:
    """Return the pairs of a pair eval file in file order."""
    return [TextPair(*row) for row in read_texts(path, "pid", "text1", "text2")]


def is_pair_file(path: Path) -> bool:
    """Tell whether the first row is a pair of texts."""
    first = next(read_rows(path, "a row of an eval file"), ("", {}))[1]
    return pick_texts(first, ("pid", "text1", "text2")) is not None


def read_candidates(path: Path) -> list[Candidate]:
    """Return every candidate of the groups in file order."""
    return [*itertools.chain.from_iterable(read_unique(path, GROUP, "qid", _parse_group))]


def _parse_group(row: dict[str, Any]) -> list[Candidate] | None:
    texts = pick_texts(row, ("qid", "query"))
    documents = row.get("documents")
    if texts is None or not isinstance(documents, list):
        return None
    found = [pick_texts(one, ("docid", "text")) for one in documents if isinstance(one, dict)]
    named = {one[0]: one for one in found if one}
    if not documents or len(named) != len(documents):
        return None
    return [Candidate(texts[0], docid, texts[1], text, row.get("prompt")) for docid, text in named.values()]


def read_chat_rows(path: Path) -> list[ChatRow]:
    """Return the rows of a chat eval file."""
    return read_unique(path, CHAT, "id", _parse_chat)


def _parse_chat(row: dict[str, Any]) -> ChatRow | None:
    messages, reference = parse_messages(row.get("messages")), row.get("reference")
    if messages is None or not isinstance(reference, str) or "id" not in row:
        return None
    return ChatRow(str(row["id"]), messages, reference)


def parse_messages(value: Any) -> list[Message] | None:
    """Return the messages with role and content only, or None where they are not a conversation."""
    if not isinstance(value, list) or not value or not all(isinstance(message, dict) for message in value):
        return None
    messages = [{"role": message.get("role"), "content": message.get("content")} for message in value]
    if all(one["role"] in {"system", "user", "assistant"} and isinstance(one["content"], str) for one in messages):
        return messages
    return None


MAX_FROM_DATA = 16
# a longer probe would cost more than it shows: cutting works the same
LONGEST_PROBE_TOKENS = 2048
# a text that fills a context window would cost more than it shows
LONG_TOKENS = 512
LONGEST_CHARS = 4000

_TEXTS = json.loads(Path(__file__).with_name("probes.json").read_text(encoding="utf-8"))
EXAMPLES: tuple[Pair, ...] = tuple(map(tuple, _TEXTS["examples"]))
AWKWARD: tuple[Pair, ...] = tuple(map(tuple, _TEXTS["awkward"]))
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

    pair: Pair
    origin: str


def build_pair_probes(data: Path, tokenizer: Any, max_length: int) -> list[PairProbe]:
    """Return up to 16 pairs spread over the eval file, the fixed ones, and one longer than `max_length` tokens."""
    candidates = spread(read_candidates(data), MAX_FROM_DATA)
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


def build_text_probes(
    data: Path, corpus: Path | None, tokenizer: Any, max_length: int, test_prompt: str | None
) -> list[TextProbe]:
    """Return the probes, each text once a kind: the user's own, the fixed ones, the data's, a long one, some to cut."""
    found = [] if test_prompt is None else [TextProbe("query", test_prompt, "test-prompt")]
    for known, origin in ((EXAMPLES, "example"), (AWKWARD, "awkward")):
        for query, document in known:
            found += [TextProbe("query", query, origin), TextProbe("document", document, origin)]
    if corpus is None and is_pair_file(data):
        pairs = read_text_pairs(data)
        sides = {"query": [pair.text1 for pair in pairs], "document": [pair.text2 for pair in pairs]}
    else:
        sides = {"query": [query.text for query in read_queries(data)]}
        sides["document"] = [] if corpus is None else [document.text for document in read_corpus(corpus)]
    for kind, texts in sides.items():
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

    messages: list[Message]
    answer: str
    origin: str


def _build_chat(origin: str, texts: list[str], system: str | None = None) -> ChatProbe:
    """Return the texts of user and assistant in turn; the last is the answer."""
    roles = ("user", "assistant") * len(texts)
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts[:-1], strict=False)]
    start = [] if system is None else [{"role": "system", "content": system}]
    return ChatProbe([*start, *messages], texts[-1], origin)


BUILT = tuple(_build_chat(**chat) for chat in _TEXTS["chats"])  # of one turn first, then of several


def build_chat_probes(rows: Sequence[ChatRow]) -> list[ChatProbe]:
    """Return up to 16 conversations spread over the eval rows that are not very long, and the built ones."""
    short = [
        row
        for row in rows
        if sum(len(message["content"]) for message in row.messages) + len(row.reference) <= LONGEST_CHARS
        and row.messages[-1]["role"] == "user"
    ]
    probes = [ChatProbe(row.messages, row.reference, "data") for row in spread(short, MAX_FROM_DATA)]
    return [*probes, *BUILT]
