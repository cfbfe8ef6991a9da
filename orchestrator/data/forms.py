"""Training records become the rows that a backend reads: one entry of TRAIN_FORMS for each form of rows.

Numbers are always written as floats: the reader infers a column's type from the first rows and refuses the other.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from orchestrator.data.digests import query_key
from orchestrator.data.rows.records import (
    KIND_OF,
    Chat,
    Kind,
    LabelledGroup,
    RankingGroup,
    Record,
    ScoredPair,
    is_relevant,
)
from orchestrator.data.writers import format_line


@dataclass(frozen=True)
class RowOptions:
    """What the rows of a form depend on besides the record."""

    instruction: str | None = None
    loss: str | None = None
    target: str = "label"
    seed: int = 42


def find_targets(group: LabelledGroup, target: str) -> Sequence[float]:
    """Return what is learnt of each document: its label, or with the target "teacher" its score."""
    if target == "label":
        return group.labels
    if group.scores is None:
        raise ValueError(f"{group.source}:{group.line} has no teacher scores")  # the row rules have let none through
    return group.scores


def find_sides(group: LabelledGroup) -> tuple[list[int], list[int]]:
    """Return the places of the relevant documents, and those of the others."""
    relevant = [place for place, label in enumerate(group.labels) if is_relevant(label)]
    return relevant, [place for place, label in enumerate(group.labels) if not is_relevant(label)]


def build_pairs(group: LabelledGroup, options: RowOptions) -> Iterator[dict[str, Any]]:
    """Yield a row for each document, for pointwise losses."""
    for text, target in zip(group.documents, find_targets(group, options.target), strict=True):
        yield {"query": group.query, "document": text, "label": float(target)}


def build_lists(group: LabelledGroup, options: RowOptions) -> Iterator[dict[str, Any]]:
    """Yield the one row of a query, for pairwise and listwise losses; for mnrl one for each relevant document.

    For list_mle and plist_mle, which learn the order of the row, the highest label comes first; equal ones in a seeded
    order.
    """
    if options.loss in {"mnrl", "cached_mnrl"}:
        relevant, others = find_sides(group)
        negatives = [group.documents[place] for place in others]
        for place in relevant:
            labels = [1.0, *[0.0] * len(negatives)]
            yield {"query": group.query, "documents": [group.documents[place], *negatives], "labels": labels}
        return
    targets = find_targets(group, options.target)
    places = list(range(len(targets)))
    if options.loss in {"list_mle", "plist_mle"}:
        random.Random(f"{options.seed}:{query_key(group.query)}").shuffle(places)  # noqa: S311 - not for secrets
        places.sort(key=lambda place: -targets[place])
    yield {
        "query": group.query,
        "documents": [group.documents[place] for place in places],
        "labels": [float(targets[place]) for place in places],
    }


def build_margins(group: LabelledGroup, options: RowOptions) -> Iterator[dict[str, Any]]:
    """Yield a row for each relevant document with each other one, for margin_mse."""
    targets = find_targets(group, options.target)
    relevant, others = find_sides(group)
    for positive in relevant:
        for negative in others:
            yield {
                "query": group.query,
                "positive": group.documents[positive],
                "negative": group.documents[negative],
                "label": float(targets[positive] - targets[negative]),
            }


def build_anchor(query: str, instruction: str | None) -> str:
    """Return a query as embedding models read it, no blank after "Query:" (Qwen3-Embedding's own form).

    A system message would not do: swift's template puts a blank between it and the query.
    """
    return query if instruction is None else f"Instruct: {instruction}\nQuery:{query}"


def build_embedding_row(record: RankingGroup | ScoredPair, options: RowOptions) -> dict[str, Any]:
    """Return a row for `task_type embedding`: anchor and positive, with negatives (groups) or a label (pairs).

    With infonce pairs have no label: that loss takes rows apart by their labels.
    """
    texts = (record.text2,) if isinstance(record, ScoredPair) else record.positives
    row: dict[str, Any] = {
        "messages": _say("user", build_anchor(record.split_text, options.instruction)),
        "positive_messages": [_say("user", text) for text in texts],
    }
    if isinstance(record, RankingGroup):
        return row | {"negative_messages": [_say("user", text) for text in record.negatives]}
    return row if options.loss == "infonce" else row | {"label": record.score}


def build_groups(record: RankingGroup | ScoredPair, options: RowOptions) -> Iterator[dict[str, Any]]:
    """Yield a row for each positive with all negatives, for triplet with each of them; a pair is a row without any."""
    if isinstance(record, ScoredPair):
        yield {"query": record.text1, "positive": record.text2, "negatives": []}
        return
    sets = [[text] for text in record.negatives] if options.loss == "triplet" else [list(record.negatives)]
    for positive in record.positives:
        for negatives in sets:
            yield {"query": record.query, "positive": positive, "negatives": negatives}


def build_scored_groups(record: RankingGroup, options: RowOptions) -> Iterator[dict[str, Any]]:
    """Yield the rows of `build_groups` with the teacher's score of each document, the positive's first."""
    first, others = record.positive_scores or (), list(map(float, record.negative_scores or ()))
    for row, score in zip(build_groups(record, options), first, strict=True):
        yield row | {"scores": [float(score), *others]}


def build_reranker_row(record: RankingGroup, options: RowOptions) -> dict[str, Any]:
    """Return a row for `task_type reranker` or `generative_reranker`; its own prompt stands in for the instruction."""
    instruction = options.instruction if record.prompt is None else record.prompt
    system = [] if instruction is None else _say("system", instruction)
    return {
        "messages": system + _say("user", record.query),
        "positive_messages": [_say("assistant", text) for text in record.positives],
        "negative_messages": [_say("assistant", text) for text in record.negatives],
    }


def build_chat_row(record: Chat, options: RowOptions) -> dict[str, Any]:  # noqa: ARG001 - the writers' signature
    """Return a row for `swift sft`; `loss` is ms-swift's own key, on messages of which the data says it."""
    return {
        "messages": [
            {"role": turn.role, "content": turn.content} | ({} if turn.learnt is None else {"loss": turn.learnt})
            for turn in record.messages
        ]
    }


def _say(role: str, content: str) -> list[dict[str, str]]:
    return [{"role": role, "content": content}]


@dataclass(frozen=True)
class TrainForm:
    """A backend's form of training rows: the kinds that it can hold, how a record's are built, what it asks of them.

    `merges`: the rows of a query become one record.
    """

    kinds: tuple[Kind, ...]
    build_rows: Callable[[Any, RowOptions], Iterable[dict[str, Any]]]
    needs_negatives: bool = False
    takes_prompt: bool = True
    takes_scores: bool = False
    merges: bool = False

    def rows(self, record: Record, options: RowOptions) -> Iterable[dict[str, Any]]:
        """Return the rows of a record. Raises TypeError for a kind that this form has no place for."""
        if KIND_OF[type(record)] not in self.kinds:
            raise TypeError(record)
        return self.build_rows(record, options)


_DEFAULTS = RowOptions()


def build_flagembedding_row(record: RankingGroup, options: RowOptions = _DEFAULTS) -> dict[str, Any]:  # noqa: ARG001
    """Return the row that FlagEmbedding's reranker trainers read; all rows of a side have the same keys."""
    row: dict[str, Any] = {"query": record.query, "pos": record.positives, "neg": record.negatives}
    if record.positive_scores is not None:
        row |= {"pos_scores": record.positive_scores, "neg_scores": record.negative_scores}
    if record.prompt is not None:
        row["prompt"] = record.prompt
    return row


def _each(build: Callable[[Any, RowOptions], dict[str, Any]]) -> Callable[[Any, RowOptions], Iterable[dict[str, Any]]]:
    """Return what builds the one row of a record as a list."""
    return lambda record, options: (build(record, options),)


TRAIN_FORMS: dict[str, TrainForm] = {
    "flagembedding": TrainForm(("group",), _each(build_flagembedding_row), needs_negatives=True, takes_scores=True),
    "swift-embedding": TrainForm(("group", "pair"), _each(build_embedding_row), takes_prompt=False),
    "swift-encoder-reranker": TrainForm(  # an encoder reads two texts and no instruction
        ("group",), lambda one, _: [build_reranker_row(one, _DEFAULTS)], needs_negatives=True, takes_prompt=False
    ),
    "swift-reranker": TrainForm(("group",), _each(build_reranker_row), needs_negatives=True),
    "swift-chat": TrainForm(("chat",), _each(build_chat_row)),
    "cross-encoder-pairs": TrainForm(("labelled",), build_pairs, takes_prompt=False),
    "cross-encoder-lists": TrainForm(("labelled",), build_lists, takes_prompt=False, merges=True),
    "embedding-groups": TrainForm(("group", "pair"), build_groups, takes_prompt=False),
    "embedding-scores": TrainForm(("group",), build_scored_groups, takes_prompt=False, takes_scores=True),
    "embedding-pairs": TrainForm(
        ("pair",), lambda one, _: [{"text1": one.text1, "text2": one.text2, "label": one.score}], takes_prompt=False
    ),
    "embedding-classes": TrainForm(
        ("class",), lambda one, _: [{"text": one.text, "label": one.label}], takes_prompt=False
    ),
    "cross-encoder-margins": TrainForm(("labelled",), build_margins, takes_prompt=False, merges=True),
}


class TrainWriter:
    """Writes the rows of one side, the first row with all that rows may have in front; `lines` counts them.

    The datasets library infers a column's type from the first 10 MB: were every list of negatives there empty, or no
    message marked with `loss`, the first one that is would end the training (seen with datasets 4.8).
    """

    def __init__(self, stream: BinaryIO, spool: BinaryIO, form: str, options: RowOptions) -> None:
        """Write to `stream`, in the form of that name; `spool` is a temporary file."""
        self._stream = stream
        self._spool = spool
        self._form = TRAIN_FORMS[form]
        self._options = options
        self._waiting = True
        self.lines = 0

    def add(self, record: Record) -> None:
        """Write one record, or let it wait for one with negatives or marks."""
        lacks = (isinstance(record, RankingGroup) and not record.negatives) or (
            isinstance(record, Chat) and not record.has_marks
        )
        waits = self._waiting and lacks
        stream = self._spool if waits else self._stream
        for row in self._form.rows(record, self._options):
            stream.write(format_line(row))
            self.lines += 1
        if not waits:
            self.close()

    def close(self) -> None:
        """Write the rows that wait still."""
        if self._waiting:
            self._waiting = False
            self._spool.seek(0)
            shutil.copyfileobj(self._spool, self._stream)
