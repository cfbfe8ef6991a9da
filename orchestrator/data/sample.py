"""Sample rows for a first try, made from templates and marked as samples."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

from orchestrator.data.rows.shapes import SAMPLE_KEY
from orchestrator.data.writers import FileSet, format_line, require_new_rows
from orchestrator.machine.tables import load_record

_WORDS = load_record(Path(__file__).with_name("sample_words.yaml"), dict[str, Any])
_TOPICS: dict[str, tuple[int, int]] = _WORDS.pop("topics")
LANGUAGES = tuple(_WORDS)
_HARD_NEGATIVES, _MIXED_NEGATIVES = 3, 2
_RELATED, _UNRELATED = 0.5, 0.0

_Place = tuple[int, str, int, int]  # service, topic, plan, wording of the question


class _Facts:
    """The rules of ten services that do not exist: one number for each service, topic and plan."""

    def __init__(self, words: dict[str, Any], rng: random.Random) -> None:
        self.services: list[tuple[str, str]] = words["services"]
        self.plans: list[str] = words["plans"]
        self.questions: dict[str, list[str]] = words["questions"]
        self._answers: dict[str, str] = words["answers"]
        keys = product(range(len(self.services)), _TOPICS, range(len(self.plans)))
        self._numbers = {key: rng.choice(range(*_TOPICS[key[1]])) for key in keys}

    def ask(self, service: int, topic: str, plan: int, wording: int) -> str:
        """Return one of the topic's questions; it describes the service and does not name it."""
        return self.questions[topic][wording].format(what=self.services[service][1], plan=self.plans[plan])

    def answer(self, service: int, topic: str, plan: int) -> str:
        """Return the rule, which names the service."""
        name, description = self.services[service]
        number = self._numbers[service, topic, plan]
        return self._answers[topic].format(name=name, what=description, plan=self.plans[plan], number=number)

    def draw_negatives(self, place: _Place, rng: random.Random) -> list[str]:
        """Return the same rule of other services, and other rules of the same service."""
        service, topic, plan, _ = place
        services = rng.sample([one for one in range(len(self.services)) if one != service], _HARD_NEGATIVES)
        topics = rng.sample([one for one in _TOPICS if one != topic], _MIXED_NEGATIVES)
        texts = [self.answer(one, topic, plan) for one in services]
        texts += [self.answer(service, one, plan) for one in topics]
        rng.shuffle(texts)
        return texts


def _list_places(words: dict[str, Any]) -> list[_Place]:
    return [
        (service, topic, plan, wording)
        for service, topic, plan in product(range(len(words["services"])), _TOPICS, range(len(words["plans"])))
        for wording in range(len(words["questions"][topic]))
    ]


def _other(rng: random.Random, count: int, but: int) -> int:
    """Return a number below `count` that is not `but`."""
    return (but + rng.randrange(1, count)) % count


def _pair_row(facts: _Facts, place: _Place, rng: random.Random) -> dict[str, Any]:
    """Return a question and another one: in other words, on another topic, or on another service and topic."""
    service, topic, plan, wording = place
    score = rng.choice((1.0, _RELATED, _UNRELATED))
    if score == 1:
        wording = _other(rng, len(facts.questions[topic]), wording)
    else:
        topic = list(_TOPICS)[_other(rng, len(_TOPICS), list(_TOPICS).index(topic))]
        if score == _UNRELATED:
            service = _other(rng, len(facts.services), service)
            plan = _other(rng, len(facts.plans), plan)
        wording = rng.randrange(len(facts.questions[topic]))
    return {"sentence1": facts.ask(*place), "sentence2": facts.ask(service, topic, plan, wording), "score": score}


def _class_row(facts: _Facts, place: _Place, _: random.Random) -> dict[str, Any]:
    return {"text": facts.ask(*place), "label": place[1]}


def _sft_row(facts: _Facts, place: _Place, rng: random.Random) -> dict[str, Any]:
    """Return a question with its answer; one in four has the rule beside it, among others."""
    answer = facts.answer(*place[:3])
    notes = []
    if rng.random() < 1 / 4:
        notes = [answer, *facts.draw_negatives(place, rng)[:2]]
        rng.shuffle(notes)
    return {"instruction": facts.ask(*place), "input": "\n".join(notes), "output": answer}


SAMPLERS: dict[str, Callable[[_Facts, _Place, random.Random], dict[str, Any]]] = {
    "reranker": lambda facts, place, rng: {
        "query": facts.ask(*place), "pos": [facts.answer(*place[:3])], "neg": facts.draw_negatives(place, rng),
    },
    "embedding": lambda facts, place, _: {"query": facts.ask(*place), "response": facts.answer(*place[:3])},
    "pairs": _pair_row,
    "classes": _class_row,
    "sft": _sft_row,
}  # fmt: skip
LARGEST = min(len(_list_places(words)) for words in _WORDS.values())


def build_samples(task: str, count: int, *, language: str = "en", seed: int = 42) -> list[dict[str, Any]]:
    """Return `count` (1 to LARGEST) different rows for a key of SAMPLERS, each marked; no query occurs twice.

    The same arguments give the same rows, and more rows begin with the fewer ones.
    """
    words = _WORDS[language]
    facts = _Facts(words, random.Random(f"facts {seed} {language}"))  # noqa: S311 - not for secrets
    places = _list_places(words)
    random.Random(f"places {seed}").shuffle(places)  # noqa: S311
    rng = random.Random(f"rows {seed} {task}")  # noqa: S311
    return [SAMPLERS[task](facts, place, rng) | {SAMPLE_KEY: True} for place in places[:count]]


def write_samples(out: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows to a new file of JSON Lines. Raises DataError when `out` exists or is named otherwise."""
    require_new_rows([out])
    with FileSet() as files:
        files.open(out).writelines(format_line(row) for row in rows)
        files.commit()
