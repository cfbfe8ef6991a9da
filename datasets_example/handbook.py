"""The two handbooks: 10 services with 20 topics each, a passage and two questions for every pair of them."""

import json
import random
from pathlib import Path

HERE = Path(__file__).parent
EVAL_SHARE = 0.2
LANGUAGES = ("en", "zh")

Passage = dict[str, object]


def load_handbook(language: str) -> list[Passage]:
    lines = (HERE / f"handbook.{language}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def alike(one: Passage, other: Passage) -> tuple[bool, bool]:
    """Return whether two passages are of one service, and whether they are of one topic."""
    return one["service"] == other["service"], one["aspect"] == other["aspect"]


def split(handbook: list[Passage], rng: random.Random) -> tuple[list[Passage], list[Passage]]:
    held_out = set(rng.sample(range(len(handbook)), round(len(handbook) * EVAL_SHARE)))
    train = [passage for index, passage in enumerate(handbook) if index not in held_out]
    return train, [passage for index, passage in enumerate(handbook) if index in held_out]
