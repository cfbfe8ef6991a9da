"""The canonical records: what every input row becomes, whatever format it came from; all of a run are of one kind."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import ClassVar, Literal

from orchestrator.data.digests import query_key

Kind = Literal["group", "pair", "chat", "labelled", "class"]
KINDS: tuple[Kind, ...] = ("group", "pair", "chat", "labelled", "class")
RELEVANT = 0.5  # of labels from 0 to 1 (decisions/0017); workers/cross_encoder_losses.py has it too, being an island


def is_relevant(label: float) -> bool:
    """Tell whether a document with this label, from 0 to 1, is relevant to its query."""
    return label >= RELEVANT


@dataclass(frozen=True)
class ScoredPair:
    """Two texts and how alike they are. With a loss of two labels, `score` is 0 or 1."""

    text1: str
    text2: str
    score: float
    source: str
    line: int

    @property
    def split_text(self) -> str:
        """The first text."""
        return self.text1

    @property
    def identity(self) -> Iterator[str]:
        """Both texts and the score."""
        yield from (self.text1, self.text2, repr(self.score))

    @property
    def texts(self) -> tuple[str, ...]:
        """Both texts."""
        return (self.text1, self.text2)

    answers: ClassVar[tuple[str, ...]] = ()  # sentences of one pair occur in others by design
    prompt: ClassVar[str | None] = None


@dataclass(frozen=True)
class ClassText:
    """One text and the name of its class; texts of one class belong together, and to no other."""

    text: str
    label: str
    source: str
    line: int

    @property
    def split_text(self) -> str:
        """The text."""
        return self.text

    @property
    def identity(self) -> Iterator[str]:
        """The text and its class."""
        yield from (self.text, self.label)

    @property
    def texts(self) -> tuple[str, ...]:
        """The text."""
        return (self.text,)

    answers: ClassVar[tuple[str, ...]] = ()  # the text is what a split goes by
    prompt: ClassVar[str | None] = None


@dataclass(frozen=True)
class Message:
    """One message: `role` is system, user or assistant; `learnt` is None where the data says nothing of it."""

    role: str
    content: str
    learnt: bool | None = None


@dataclass(frozen=True)
class Chat:
    """A conversation: a system message or none, then user and assistant in turn; the last is the assistant's.

    Its last answer is learnt, unless none is.
    """

    messages: tuple[Message, ...]
    source: str
    line: int

    @property
    def split_text(self) -> str:
        """All that comes before the last answer, which is the one that is measured."""
        return join_question((message.role, message.content) for message in self.messages[:-1])

    @property
    def earlier_questions(self) -> Iterator[str]:
        """What comes before each other answer that is learnt, as `split_text` of a conversation that ends there."""
        for place, message in enumerate(self.messages[:-1]):
            if message.role == "assistant" and message.learnt is not False:
                yield join_question((earlier.role, earlier.content) for earlier in self.messages[:place])

    @property
    def identity(self) -> Iterator[str]:
        """Every role and content, and whether it is learnt where the data says so."""
        for message in self.messages:
            yield message.role if message.learnt is None else f"{message.role} {message.learnt}"
            yield message.content

    @property
    def texts(self) -> tuple[str, ...]:
        """Every content."""
        return tuple(message.content for message in self.messages)

    @property
    def learns(self) -> bool:
        """Whether an answer is learnt."""
        return self.messages[-1].learnt is not False

    @property
    def has_marks(self) -> bool:
        """Whether the data says of some message that it is learnt, or is not."""
        return any(message.learnt is not None for message in self.messages)

    answers: ClassVar[tuple[str, ...]] = ()  # many questions may have one short answer
    prompt: ClassVar[str | None] = None  # a system message is one of its turns


def join_question(turns: Iterable[tuple[str, str]]) -> str:
    """Return what an answer answers as one text: of (role, content) up to there; a lone question is its own text.

    However its white space is collapsed, other turns give another text: no prompt holds a NUL on purpose.
    """
    found = list(turns)
    if [role for role, _ in found] == ["user"]:
        return found[0][1]
    return " ".join(f"\0{role}\0 {content}" for role, content in found)


@dataclass(frozen=True)
class RankingGroup:
    """One checked row: a query, at least one positive, negatives, and teacher scores for all or none of them.

    `source` is the file's name without its folder, `line` counts from 1. Rerankers need at least one negative.
    """

    query: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...]
    source: str
    line: int
    positive_scores: tuple[float, ...] | None = None
    negative_scores: tuple[float, ...] | None = None
    prompt: str | None = None

    @property
    def split_text(self) -> str:
        """The query."""
        return self.query

    @property
    def identity(self) -> Iterator[str]:
        """Query, documents by their role, and prompt."""
        yield self.query
        yield f"{len(self.positives)} {self.prompt is not None}"
        yield from self.positives
        yield from self.negatives
        if self.prompt is not None:
            yield self.prompt

    @property
    def texts(self) -> tuple[str, ...]:
        """The query and every document."""
        return (self.query, *self.positives, *self.negatives)

    @property
    def answers(self) -> tuple[str, ...]:
        """The positives."""
        return self.positives

    @property
    def documents(self) -> tuple[str, ...]:
        """The positives, and behind them the negatives."""
        return self.positives + self.negatives

    @property
    def labels(self) -> tuple[float, ...]:
        """1 for each positive, and 0 for each negative."""
        return (1.0,) * len(self.positives) + (0.0,) * len(self.negatives)

    @property
    def scores(self) -> tuple[float, ...] | None:
        """The teacher's, for all documents or None."""
        return None if self.positive_scores is None else self.positive_scores + (self.negative_scores or ())


@dataclass(frozen=True)
class LabelledGroup:
    """One checked row: a query and its documents, no two the same, each with a label from 0 to 1.

    `scores` are the teacher's, for all documents or None. `source` is the file's name without its folder, `line` counts
    from 1. A group that was merged has the place of its first row.
    """

    query: str
    documents: tuple[str, ...]
    labels: tuple[float, ...]
    scores: tuple[float, ...] | None
    source: str
    line: int
    prompt: ClassVar[str | None] = None

    @property
    def split_text(self) -> str:
        """The query."""
        return self.query

    @property
    def identity(self) -> Iterator[str]:
        """Query, documents and labels."""
        yield self.query
        for text, label in zip(self.documents, self.labels, strict=True):
            yield text
            yield repr(label)

    @property
    def texts(self) -> tuple[str, ...]:
        """The query and every document."""
        return (self.query, *self.documents)

    @property
    def answers(self) -> tuple[str, ...]:
        """The relevant documents."""
        return tuple(text for text, label in zip(self.documents, self.labels, strict=True) if is_relevant(label))

    def pick(self, places: Sequence[int]) -> LabelledGroup:
        """Return the group with the documents of these places only."""
        scores = None if self.scores is None else tuple(self.scores[place] for place in places)
        documents = tuple(self.documents[place] for place in places)
        return replace(self, documents=documents, labels=tuple(self.labels[place] for place in places), scores=scores)


def merge_groups(groups: Sequence[LabelledGroup]) -> LabelledGroup:
    """Return one group of all documents, at the first one's place; scores where all groups have them."""
    if len(groups) == 1:
        return groups[0]
    scores = [group.scores for group in groups if group.scores is not None]
    return replace(
        groups[0],
        documents=tuple(chain.from_iterable(group.documents for group in groups)),
        labels=tuple(chain.from_iterable(group.labels for group in groups)),
        scores=tuple(chain.from_iterable(scores)) if len(scores) == len(groups) else None,
    )


def draw_documents(group: LabelledGroup, size: int, seed: int) -> LabelledGroup:
    """Return a group of at most `size` (2 or more) documents: one of the highest label, one of the lowest, and others.

    What is drawn depends on the seed and the group only; the order stays.
    """
    count = len(group.documents)
    if count <= size:
        return group
    rng = random.Random(f"{seed}:{query_key(group.query)}")  # noqa: S311 - not for secrets
    places = list(range(count))
    rng.shuffle(places)
    highest = max(places, key=group.labels.__getitem__)
    places.remove(highest)
    lowest = min(places, key=group.labels.__getitem__)
    places.remove(lowest)
    return group.pick(sorted((highest, lowest, *places[: size - 2])))


# What the pass over the data needs of a record, whatever its kind: where it stands (`source` is the file's name without
# its folder, `line` counts from 1), `split_text` (records with the same one, as queries are the same, never part),
# `identity` (the texts that two records must share to be duplicates), `texts`, `answers` (the documents that must not
# be answers on the other side too, () where that is no leak) and `prompt` (what a group is judged by, or None).
Record = RankingGroup | ScoredPair | Chat | LabelledGroup | ClassText
KIND_OF: dict[type, Kind] = dict(zip((RankingGroup, ScoredPair, Chat, LabelledGroup, ClassText), KINDS, strict=True))
