"""Builds the data files of this folder, the same bytes each time: `python datasets_example/build.py`.

A query's negatives are hard on purpose: the same rule of other services (only the code name tells them apart) and other
rules of the same service. Passages are split, not queries: no passage that is a positive in eval occurs in train.
The `demo` files are the English half with random negatives for training, and for eval with candidates as a first search
brings them: some hard, some off the topic.
"""

import csv
import json
import random

from chat_rows import FIRST, SECOND, build_chats, build_instructions, build_sharegpt
from embedding_rows import build_answers, build_classes, build_labelled, build_pairs
from finance_rows import build_finance
from graded_rows import build_graded, build_pointwise, split_families
from handbook import HERE, LANGUAGES, Passage, alike, load_handbook, split

# Negatives a row: the same rule of other services, other rules of the same service, anything else.
HARD, MIXED, MILD = (4, 3, 0), (2, 2, 3), (0, 0, 7)


def draw_negatives(passage: Passage, corpus: list[Passage], mix: tuple[int, int, int], rng: random.Random) -> list[str]:
    """Return texts of `corpus` that do not answer, as many of each kind as `mix` says, in random order."""
    kinds: tuple[list[Passage], ...] = ([], [], [])
    for other in corpus:
        same_service, same_aspect = alike(other, passage)
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


def write_rows(name: str, rows: list[dict]) -> None:
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (HERE / name).write_text(text, encoding="utf-8")
    print(f"{name}: {len(rows)} rows")


def write_table(name: str, rows: list[dict]) -> None:
    with (HERE / name).open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    print(f"{name}: {len(rows)} rows")


def write_list(name: str, rows: list[dict]) -> None:
    (HERE / name).write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(f"{name}: {len(rows)} rows")


def build_rerankers() -> None:
    train_rows, eval_rows = [], []
    for language in LANGUAGES:
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


def build_judgements() -> None:
    """No passage that is relevant in eval occurs in train; the two forms hold the same judgements."""
    sides: dict[str, list[dict]] = {"train": [], "eval": []}
    for language in LANGUAGES:
        handbook = load_handbook(language)
        rng = random.Random(f"orch-graded-{language}")  # noqa: S311
        train, held_out = split_families(handbook, rng)
        sides["train"] += build_graded(rng.sample(train, 150), train, rng)
        sides["eval"] += build_graded(rng.sample(held_out, 40), handbook, rng)
    for side, rows in sides.items():
        random.Random(f"orch-graded-{side}").shuffle(rows)  # noqa: S311
        write_rows(f"graded.{side}.jsonl", rows)
        write_rows(f"pointwise.{side}.jsonl", build_pointwise(rows))


def build_embeddings() -> None:
    """Passages are split as for the rerankers: what is measured is on rules that training does not show."""
    files: dict[str, list[dict]] = {}
    for language in LANGUAGES:
        rng = random.Random(f"orch-{language}")  # noqa: S311
        train, held_out = split(load_handbook(language), rng)
        for name, rows in (
            ("embedding.train.jsonl", build_answers(train, 80, rng)),
            ("embedding.eval.jsonl", build_answers(held_out, 20, rng)),
            ("embedding_hard.train.jsonl", build_answers(train, 80, rng, rejected=2)),
            ("labelled_pairs.train.jsonl", build_labelled(train, 80, rng)),
            ("pairs.train.csv", build_pairs(train, 100, rng)),
            ("pairs.eval.csv", build_pairs(held_out, 30, rng)),
            ("classes.train.jsonl", build_classes(train, 120, rng)),
            ("classes.eval.jsonl", build_classes(held_out, 60, rng)),
        ):
            files.setdefault(name, []).extend(rows)
    for name, rows in files.items():
        (write_table if name.endswith(".csv") else write_rows)(name, rows)


def build_chat_files() -> None:
    """Passages of one fifth are only asked for the service's name, and only in eval."""
    files: dict[str, list[dict]] = {}
    for language in LANGUAGES:
        rng = random.Random(f"orch-chat-{language}")  # noqa: S311
        train, held_out = split(load_handbook(language), rng)
        asked, named = rng.sample(train, 45), rng.sample(train, 15)
        tested = rng.sample(asked, 11)
        finance_train, finance_eval = build_finance(language, rng)
        for name, rows in (
            ("sft.train.jsonl", build_instructions(asked, FIRST, named, language, rng)),
            ("sft.eval.jsonl", build_instructions(tested, SECOND, rng.sample(held_out, 4), language, rng)),
            ("sft_chat.train.jsonl", build_chats(train, 30, language, rng)),
            ("finance.train.jsonl", finance_train),
            ("finance.eval.jsonl", finance_eval),
            ("sharegpt.train.json", build_sharegpt(train, 10, language, rng)),
        ):
            files.setdefault(name, []).extend(rows)
    for name, rows in files.items():
        (write_list if name.endswith(".json") else write_rows)(name, rows)


def main() -> None:
    build_rerankers()
    build_judgements()
    build_embeddings()
    build_chat_files()


if __name__ == "__main__":
    main()
