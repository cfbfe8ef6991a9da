"""Builds the ranking files of this folder from the two handbooks: `python datasets_example/build.py`.

A query's negatives are hard on purpose: the same rule of other services (only the code name tells them apart) and other
rules of the same service. Passages are split, not queries: no passage that is a positive in eval occurs in train.
"""

import json
import random
from pathlib import Path

HERE = Path(__file__).parent
EVAL_SHARE = 0.2
SAME_ASPECT, SAME_SERVICE = 4, 3


def rows_of(passages: list[dict], corpus: list[dict], rng: random.Random) -> list[dict]:
    """Return two rows a passage, {query, pos, neg}; negatives come from `corpus`."""
    rows = []
    for passage in passages:
        twins = [p for p in corpus if p["aspect"] == passage["aspect"] and p["service"] != passage["service"]]
        siblings = [p for p in corpus if p["service"] == passage["service"] and p["aspect"] != passage["aspect"]]
        for query in passage["queries"]:
            twin = rng.sample(twins, min(SAME_ASPECT, len(twins)))
            sibling = rng.sample(siblings, SAME_ASPECT + SAME_SERVICE - len(twin))
            negatives = [p["passage"] for p in twin + sibling]
            rng.shuffle(negatives)
            rows.append({"query": query, "pos": [passage["passage"]], "neg": negatives})
    rng.shuffle(rows)
    return rows


def main() -> None:
    sides: dict[str, list[dict]] = {"train": [], "eval": [], "en.train": [], "en.eval": []}
    for language in ("en", "zh"):
        lines = (HERE / f"handbook.{language}.jsonl").read_text(encoding="utf-8").splitlines()
        handbook = [json.loads(line) for line in lines]
        rng = random.Random(f"orch-{language}")  # noqa: S311  (a split, not a secret)
        held_out = set(rng.sample(range(len(handbook)), round(len(handbook) * EVAL_SHARE)))
        train = [p for index, p in enumerate(handbook) if index not in held_out]
        kept = [p for index, p in enumerate(handbook) if index in held_out]
        for side, rows in (("train", rows_of(train, train, rng)), ("eval", rows_of(kept, handbook, rng))):
            sides[side] += rows
            if language == "en":
                sides[f"en.{side}"] = rows
    for name, rows in sides.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (HERE / f"reranker.{name}.jsonl").write_text(text, encoding="utf-8")
        print(f"reranker.{name}.jsonl: {len(rows)} rows")


if __name__ == "__main__":
    main()
