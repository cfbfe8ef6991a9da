"""Rows for embedding models, from the handbook: queries with answers, graded and labelled pairs."""

import random

from handbook import Passage, alike

RELATED = 0.5


# What another passage shares with one: (the service, the topic)
SAME_TOPIC, SAME_SERVICE, NOTHING = (False, True), (True, False), (False, False)


def pick(passages: list[Passage], shared: tuple[bool, bool], than: Passage, rng: random.Random) -> Passage | None:
    """Return a passage that shares exactly this with `than`, or None."""
    found = [one for one in passages if alike(one, than) == shared]
    return rng.choice(found) if found else None


def build_answers(passages: list[Passage], count: int, rng: random.Random, rejected: int = 0) -> list[dict]:
    """Return {query, response}, one a passage; with `rejected` (0 or 2) also wrong documents that look alike."""
    rows = []
    for passage in rng.sample(passages, count):
        row = {"query": rng.choice(passage["queries"]), "response": passage["passage"]}
        if rejected:
            wrong = [pick(passages, shared, passage, rng) for shared in (SAME_TOPIC, SAME_SERVICE)]
            row["rejected_response"] = [one["passage"] for one in wrong]
        rows.append(row)
    return rows


def build_pairs(passages: list[Passage], count: int, rng: random.Random) -> list[dict]:
    """Return {sentence1, sentence2, score} of two questions: one rule 1, one service 0.5, neither 0; a third each."""
    questions = [(passage, number) for passage in passages for number in (0, 1)]
    rows = []
    taken = set()
    for passage, number in rng.sample(questions, len(questions)):
        score = (1.0, RELATED, 0.0)[len(rows) % 3]
        if score == 1:
            other = passage["queries"][1 - number]
        else:
            found = pick(passages, SAME_SERVICE if score == RELATED else NOTHING, passage, rng)
            if found is None:
                continue
            other = rng.choice(found["queries"])
        sentences = passage["queries"][number], other
        if frozenset(sentences) not in taken:  # both of a passage's questions would give one pair twice
            taken.add(frozenset(sentences))
            rows.append({"sentence1": sentences[0], "sentence2": other, "score": score})
        if len(rows) == count:
            break
    return rows


def build_classes(passages: list[Passage], count: int, rng: random.Random) -> list[dict]:
    """Return {text, label}: questions, each with the topic that it is about."""
    questions = [(question, passage["aspect"]) for passage in passages for question in passage["queries"]]
    return [{"text": question, "label": aspect} for question, aspect in rng.sample(questions, count)]


def build_labelled(passages: list[Passage], count: int, rng: random.Random) -> list[dict]:
    """Return {query, response, label}: each query once with its answer (1) and once with one that looks alike (0)."""
    rows = []
    for passage in rng.sample(passages, count // 2):
        query = rng.choice(passage["queries"])
        wrong = pick(passages, rng.choice((SAME_TOPIC, SAME_SERVICE)), passage, rng)
        rows.append({"query": query, "response": passage["passage"], "label": 1})
        rows.append({"query": query, "response": wrong["passage"], "label": 0})
    rng.shuffle(rows)
    return rows
