"""Sample rows for a first try, made from templates and marked as samples."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from orchestrator.data.reasons import refuse
from orchestrator.data.rows.shapes import SAMPLE_KEY
from orchestrator.data.sample_texts import TOPICS, WORDS, Words
from orchestrator.data.writing.writers import FileSet, format_line

LANGUAGES = tuple(WORDS)
_ENDINGS = (".jsonl", ".ndjson")
_HARD_NEGATIVES, _MIXED_NEGATIVES = 3, 2
_RELATED, _UNRELATED = 0.5, 0.0


class _Facts:
    """The rules of ten services that do not exist: one number for each service, topic and plan."""

    def __init__(self, words: Words, rng: random.Random) -> None:
        self.words = words
        self._numbers = {
            (service, topic, plan): rng.choice(range(*TOPICS[topic]))
            for service in range(len(words.services))
            for topic in TOPICS
            for plan in range(len(words.plans))
        }

    def ask(self, service: int, topic: str, plan: int, wording: int) -> str:
        """Return one of the topic's questions; it describes the service and does not name it."""
        _, description = self.words.services[service]
        return self.words.questions[topic][wording].format(what=description, plan=self.words.plans[plan])

    def answer(self, service: int, topic: str, plan: int) -> str:
        """Return the rule, which names the service."""
        name, description = self.words.services[service]
        number = self._numbers[service, topic, plan]
        return self.words.answers[topic].format(name=name, what=description, plan=self.words.plans[plan], number=number)


_Place = tuple[int, str, int, int]  # service, topic, plan, wording of the question


def _places(words: Words) -> list[_Place]:
    return [
        (service, topic, plan, wording)
        for service in range(len(words.services))
        for topic in TOPICS
        for plan in range(len(words.plans))
        for wording in range(len(words.questions[topic]))
    ]


def _other(rng: random.Random, count: int, but: int) -> int:
    """Return a number below `count` that is not `but`."""
    return (but + rng.randrange(1, count)) % count


def _draw_negatives(facts: _Facts, place: _Place, rng: random.Random) -> list[str]:
    """Return the same rule of other services, and other rules of the same service."""
    service, topic, plan, _ = place
    services = rng.sample([one for one in range(len(facts.words.services)) if one != service], _HARD_NEGATIVES)
    topics = rng.sample([one for one in TOPICS if one != topic], _MIXED_NEGATIVES)
    texts = [facts.answer(one, topic, plan) for one in services] + [facts.answer(service, one, plan) for one in topics]
    rng.shuffle(texts)
    return texts


def _reranker_row(facts: _Facts, place: _Place, rng: random.Random) -> dict[str, Any]:
    return {"query": facts.ask(*place), "pos": [facts.answer(*place[:3])], "neg": _draw_negatives(facts, place, rng)}


def _embedding_row(facts: _Facts, place: _Place, rng: random.Random) -> dict[str, Any]:  # noqa: ARG001
    return {"query": facts.ask(*place), "response": facts.answer(*place[:3])}


def _pair_row(facts: _Facts, place: _Place, rng: random.Random) -> dict[str, Any]:
    """Return a question and another one: in other words, on another topic, or on another service and topic."""
    service, topic, plan, wording = place
    questions = facts.words.questions
    score = rng.choice((1.0, _RELATED, _UNRELATED))
    if score == 1:
        other = facts.ask(service, topic, plan, _other(rng, len(questions[topic]), wording))
    else:
        topic = list(TOPICS)[_other(rng, len(TOPICS), list(TOPICS).index(topic))]
        if score == _UNRELATED:
            service = _other(rng, len(facts.words.services), service)
            plan = _other(rng, len(facts.words.plans), plan)
        other = facts.ask(service, topic, plan, rng.randrange(len(questions[topic])))
    return {"sentence1": facts.ask(*place), "sentence2": other, "score": score}


def _sft_row(facts: _Facts, place: _Place, rng: random.Random) -> dict[str, Any]:
    """Return a question with its answer; one in four has the rule beside it, among others."""
    answer = facts.answer(*place[:3])
    notes = ""
    if rng.random() < 1 / 4:
        texts = [answer, *_draw_negatives(facts, place, rng)[:2]]
        rng.shuffle(texts)
        notes = "\n".join(texts)
    return {"instruction": facts.ask(*place), "input": notes, "output": answer}


SAMPLERS: dict[str, Callable[[_Facts, _Place, random.Random], dict[str, Any]]] = {
    "reranker": _reranker_row,
    "embedding": _embedding_row,
    "pairs": _pair_row,
    "sft": _sft_row,
}
LARGEST = min(len(_places(words)) for words in WORDS.values())


def build_samples(task: str, count: int, *, language: str = "en", seed: int = 42) -> list[dict[str, Any]]:
    """Return `count` (1 to LARGEST) different rows for a key of SAMPLERS, each marked; no query occurs twice.

    The same arguments give the same rows, and more rows begin with the fewer ones.
    """
    words = WORDS[language]
    facts = _Facts(words, random.Random(f"facts {seed} {language}"))  # noqa: S311 - not for secrets
    places = _places(words)
    random.Random(f"places {seed}").shuffle(places)  # noqa: S311
    rng = random.Random(f"rows {seed} {task}")  # noqa: S311
    return [SAMPLERS[task](facts, place, rng) | {SAMPLE_KEY: True} for place in places[:count]]


def write_samples(out: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows to a new file of JSON Lines. Raises DataError when `out` exists or is named otherwise."""
    if out.exists():
        raise refuse("output-exists", "this file exists already, and samples are never added to a file", out)
    if out.suffix.lower() not in _ENDINGS:
        hint = f"name it {out.stem or 'samples'}.jsonl"
        raise refuse("unknown-ending", "what is written is JSON Lines, and the name says otherwise", out, hint=hint)
    with FileSet() as files:
        files.open(out).writelines(format_line(row) for row in rows)
        files.commit()
