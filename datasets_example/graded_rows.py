"""Graded judgements for rerankers, from the handbook: how much each of five to eight passages helps with a question."""

import random

from handbook import Passage, alike

ANSWER, RELATED, OFF = 2, 1, 0
FEWEST, MOST = 5, 8
RELATED_DRAWN = 2
SAME_TOPIC = 2  # of the passages of other services: only the code name tells them from the answer

# Which topics of one service are related: who asks about one is likely to read on about the others.
FAMILIES = {
    "money": ("price", "free_allowance", "outage_credit"),
    "keeping": ("deletion_recovery", "retention", "backup"),
    "security": ("encryption", "access_rights", "audit", "api_keys"),
    "limits": ("rate_limit", "size_limit", "scaling"),
    "moving": ("regions", "migration_in", "export_out"),
    "operation": ("support_hours", "maintenance_window", "common_error", "getting_started"),
}
FAMILY_OF = {topic: family for family, topics in FAMILIES.items() for topic in topics}
HELD_OUT_SERVICES = 2  # of each family: a fifth


def split_families(handbook: list[Passage], rng: random.Random) -> tuple[list[Passage], list[Passage]]:
    """Return the passages for train and for eval; those of one service and family, being related, stay together."""
    services = sorted({passage["service"] for passage in handbook})
    held_out = {family: rng.sample(services, HELD_OUT_SERVICES) for family in FAMILIES}
    sides: tuple[list[Passage], list[Passage]] = ([], [])
    for passage in handbook:
        sides[passage["service"] in held_out[FAMILY_OF[passage["aspect"]]]].append(passage)
    return sides


def judge(passage: Passage, other: Passage) -> int | None:
    """Return the grade of `other` for a question about `passage`; None, not judged: its service, another family."""
    same_service, same_topic = alike(other, passage)
    if not same_service:
        return OFF
    if same_topic:
        return ANSWER
    return RELATED if FAMILY_OF[other["aspect"]] == FAMILY_OF[passage["aspect"]] else None


def draw_documents(passage: Passage, corpus: list[Passage], rng: random.Random) -> list[Passage]:
    """Return the answer, two related passages, and passages of other services, in random order."""
    related = [other for other in corpus if judge(passage, other) == RELATED]
    off = [other for other in corpus if judge(passage, other) == OFF]
    found = [passage, *rng.sample(related, RELATED_DRAWN)]
    found += rng.sample([other for other in off if alike(other, passage)[1]], SAME_TOPIC)
    rest = [other for other in off if other not in found]
    found += rng.sample(rest, rng.randint(FEWEST, MOST) - len(found))
    rng.shuffle(found)
    return found


def build_graded(passages: list[Passage], corpus: list[Passage], rng: random.Random) -> list[dict]:
    """Return {query, hits}, one question a passage; every document comes from `corpus`."""
    return [
        {
            "query": rng.choice(passage["queries"]),
            "hits": [
                {"content": other["passage"], "label": judge(passage, other)}
                for other in draw_documents(passage, corpus, rng)
            ],
        }
        for passage in passages
    ]


def build_pointwise(rows: list[dict]) -> list[dict]:
    """Return the same judgements, one row each, in the same order."""
    return [{"query": row["query"], **hit} for row in rows for hit in row["hits"]]
