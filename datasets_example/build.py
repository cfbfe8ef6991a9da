"""Builds the ranking files of this folder from the two handbooks: `python datasets_example/build.py`.

A query's negatives are hard on purpose: the same rule of other services (only the code name tells them apart) and other
rules of the same service. Passages are split, not queries: no passage that is a positive in eval occurs in train.
The `demo` files are the English half with random negatives for training, and for eval with candidates as a first search
brings them: some hard, some off the topic.
"""

import json
import random
from pathlib import Path

HERE = Path(__file__).parent
EVAL_SHARE = 0.2
# Negatives a row: the same rule of other services, other rules of the same service, anything else.
HARD, MIXED, MILD = (4, 3, 0), (2, 2, 3), (0, 0, 7)

Passage = dict[str, object]


def load_handbook(language: str) -> list[Passage]:
    lines = (HERE / f"handbook.{language}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def draw_negatives(passage: Passage, corpus: list[Passage], mix: tuple[int, int, int], rng: random.Random) -> list[str]:
    """Return texts of `corpus` that do not answer, as many of each kind as `mix` says, in random order."""
    kinds: tuple[list[Passage], ...] = ([], [], [])
    for other in corpus:
        same_service, same_aspect = other["service"] == passage["service"], other["aspect"] == passage["aspect"]
        if not (same_service and same_aspect):
            kinds[0 if same_aspect else 1 if same_service else 2].append(other)
    texts = []
    for kind, wanted in zip(kinds, mix, strict=True):
        texts += [str(other["passage"]) for other in rng.sample(kind, min(wanted, len(kind)))]
    rng.shuffle(texts)
    return texts


def build_rows(
    passages: list[Passage], corpus: list[Passage], mix: tuple[int, int, int], rng: random.Random
) -> list[dict]:
    """Return two rows a passage, {query, pos, neg}; negatives come from `corpus`."""
    rows = [
        {"query": query, "pos": [passage["passage"]], "neg": draw_negatives(passage, corpus, mix, rng)}
        for passage in passages
        for query in passage["queries"]
    ]
    rng.shuffle(rows)
    return rows


def split(handbook: list[Passage], rng: random.Random) -> tuple[list[Passage], list[Passage]]:
    held_out = set(rng.sample(range(len(handbook)), round(len(handbook) * EVAL_SHARE)))
    train = [passage for index, passage in enumerate(handbook) if index not in held_out]
    return train, [passage for index, passage in enumerate(handbook) if index in held_out]


def write_rows(name: str, rows: list[dict]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (HERE / name).write_text(text, encoding="utf-8")
    print(f"{name}: {len(rows)} rows")


def main() -> None:
    train_rows, eval_rows = [], []
    for language in ("en", "zh"):
        rng = random.Random(f"orch-{language}")  # noqa: S311  (a split, not a secret)
        handbook = load_handbook(language)
        train, held_out = split(handbook, rng)
        train_rows += build_rows(train, train, HARD, rng)
        eval_rows += build_rows(held_out, handbook, HARD, rng)
    write_rows("reranker.train.jsonl", train_rows)
    write_rows("reranker.eval.jsonl", eval_rows)

    rng = random.Random("orch-demo")  # noqa: S311
    handbook = load_handbook("en")
    train, held_out = split(handbook, rng)
    write_rows("demo.train.jsonl", build_rows(train, train, MILD, rng))
    write_rows("demo.eval.jsonl", build_rows(held_out, handbook, MIXED, rng))


if __name__ == "__main__":
    main()
