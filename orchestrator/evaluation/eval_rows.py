"""Reads a prepared eval.jsonl, corpus.jsonl and scores.jsonl; whatever is wrong is named by its line."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from orchestrator.data.rows.records import is_relevant
from orchestrator.errors import RunFolderError, Where
from orchestrator.machine.files import open_regular
from orchestrator.machine.json_files import parse_json

T = TypeVar("T")
_UNFIT = (AttributeError, KeyError, TypeError, ValueError)  # what a row of another form raises while it is read


@dataclass(frozen=True, slots=True)  # a retrieval pool holds millions
class Document:
    """One candidate of a query; its `label` runs from 0 to 1, and from 0.5 on it is relevant."""

    docid: str
    text: str
    label: float


@dataclass(frozen=True)
class Group:
    """One query with all its candidates: the unit that is ranked, measured and resampled.

    With a `class_name` the texts of its class are its relevant documents, all of them.
    """

    qid: str
    query: str
    documents: tuple[Document, ...]
    class_name: str | None = None

    @property
    def relevant(self) -> int:
        """How many candidates are relevant."""
        return sum(is_relevant(document.label) for document in self.documents)


@dataclass(frozen=True)
class Pair:
    """Two texts, and how alike they are (`gold`): any scale, higher is more alike."""

    pid: str
    text1: str
    text2: str
    gold: float


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: str
    content: str


@dataclass(frozen=True)
class ChatRow:
    """A conversation up to the answer, and the answer that is expected."""

    row: str
    messages: tuple[Message, ...]
    reference: str


@dataclass(frozen=True)
class ChatScore:
    """Σ -log p of the reference's `tokens` tokens, in nats, and the model's own answer where one was generated."""

    nll: float
    tokens: int
    generation: str | None

    @property
    def loss(self) -> float | None:
        """Nats a token; None where none was scored."""
        return self.nll / self.tokens if self.tokens > 0 else None


def parse_group(row: Any) -> Group:
    """Return the canonical ranking group of a row."""
    documents = [Document(str(item["docid"]), str(item["text"]), float(item["label"])) for item in row["documents"]]
    if wrong := [document.label for document in documents if not 0 <= document.label <= 1]:
        raise ValueError(f"the label {wrong[0]} does not lie between 0 and 1")
    return Group(str(row["qid"]), str(row["query"]), tuple(documents))


def parse_pair(row: Any) -> Pair:
    """Return the scored pair of a row."""
    pair = Pair(str(row["pid"]), str(row["text1"]), str(row["text2"]), float(row["score"]))
    if not math.isfinite(pair.gold):
        raise ValueError(f"its score is {pair.gold}, not a number")
    return pair


def parse_chat(row: Any) -> ChatRow:
    """Return the conversation of a row."""
    messages = tuple(Message(str(item["role"]), str(item["content"])) for item in row["messages"])
    return ChatRow(str(row["id"]), messages, str(row["reference"]))


def parse_chat_score(row: Any) -> ChatScore:
    """Return one system's score of a chat row."""
    generation = row.get("generation")
    return ChatScore(float(row["nll"]), int(row["tokens"]), None if generation is None else str(generation))


def read_lines(path: Path) -> Iterator[tuple[Where, Any]]:
    """Yield (place, parsed value) of each line that is not blank. Raises RunFolderError for one that is not JSON."""
    with open_regular(path) as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            where = Where(str(path), number)
            try:
                yield where, parse_json(line, constants=True, surrogates=True)
            except ValueError as error:
                raise RunFolderError(f"not a line of JSON: {error}", where=where) from error


def read_rows(path: Path, key: str, what: str, parse: Callable[[Any], T]) -> Iterator[tuple[Where, str, T]]:
    """Yield (place, id, row) of a file whose rows are named by `key`.

    Raises RunFolderError for a line that `parse` refuses (it is no `what`), and for an id that comes twice.
    """
    seen: set[str] = set()
    for where, row in read_lines(path):
        try:
            name, parsed = str(row[key]), parse(row)
        except _UNFIT as error:
            raise RunFolderError(f"not a {what}: {error!r}", where=where) from error
        if name in seen:
            raise RunFolderError(f"the {key} {name} comes twice", where=where)
        seen.add(name)
        yield where, name, parsed


def load_scores(
    path: Path, keys: tuple[str, str], known: Mapping[str, Container[str]], parse: Callable[[Any], T], what: str
) -> dict[str, dict[str, T]]:
    """Return {first id: {second id: score}} of a stage's scores.jsonl; `known` holds the ids that there are.

    `keys` are the names of both ids, the first "" where a row has only one: its id is "" too. A row may be missing.
    Raises RunFolderError for a row that is not known, or that comes twice: such scores belong to other data, and a
    measure over them would mean nothing.
    """
    scores: dict[str, dict[str, T]] = {}
    for where, row in read_lines(path):
        try:
            first, second = (str(row[key]) if key else "" for key in keys)
            score = parse(row)
        except _UNFIT as error:
            raise RunFolderError(f"not a {what}: {error!r}", where=where) from error
        name = f"{first}/{second}" if first else second
        if second not in known.get(first, ()):
            raise RunFolderError(f"a score for {name}, which the evaluation set does not hold", where=where)
        if second in scores.setdefault(first, {}):
            raise RunFolderError(f"two scores for {name}", where=where)
        scores[first][second] = score
    return scores


def load_row_scores(path: Path, key: str, ids: Sequence[str], parse: Callable[[Any], T], what: str) -> dict[str, T]:
    """Return {id: score} of a scores.jsonl whose rows are the evaluation set's, all of them.

    Raises RunFolderError for a row that is unknown, repeated or missing: no value stands for a score that is not there.
    """
    scores = load_scores(path, ("", key), {"": frozenset(ids)}, parse, f"{what}'s score").get("", {})
    if absent := [row for row in ids if row not in scores]:
        raise RunFolderError(
            f"{len(absent)} of {len(ids)} {what.rsplit(maxsplit=1)[-1]}s have no score (the first: {absent[0]})",
            hint="the scoring was cut short: remove the stage's result.json and run orch resume",
            where=Where(str(path)),
        )
    return scores
