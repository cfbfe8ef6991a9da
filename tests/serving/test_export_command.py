"""`orch export`: what it refuses before any work, the verdict, the gate's exit code, and that nothing is half-written.

The exporter is a script here; tests/workers/test_export.py has the real one.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from orchestrator.backends.scorers import EXPORT_WAYS, EXPORTS, SCORERS, find_export_problem
from orchestrator.cli import main

HERE = Path(__file__).resolve().parent


def call(capsys, *argv):
    with pytest.raises(SystemExit) as ended:
        main(["export", *map(str, argv)])
    said = capsys.readouterr()
    return ended.value.code, said.out, said.err


@pytest.fixture
def exporter(tmp_path):
    """Return an interpreter that has what seq-cls needs, loads every model, and whose exporter is a script."""
    path = tmp_path / "python-with-exporter"
    path.write_text(
        "#!/bin/sh\n"
        'if [ "$1" = -c ]; then echo \'{"python": "3.11.7", "sentence_transformers": "6.2.0"}\'; exit; fi\n'
        'if [ "$2" = inspect_model ] || [ "$2" = inspect_tensors ]; then echo "{}"; exit; fi\n'
        f'exec {sys.executable} {HERE / "fake_exporter.py"} "$@"\n',
        encoding="utf-8",
    )
    path.chmod(0o755)
    return path


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    groups = ({"query": f"question {n}", "pos": [f"right {n}"], "neg": [f"wrong {n}", f"bad {n}"]} for n in range(10))
    path.write_text("".join(json.dumps(group) + "\n" for group in groups), encoding="utf-8")
    return path


GATE = ("--gate", "ndcg@10: >= source - 0.005")


def test_a_faithful_export_is_kept_with_its_verdict_and_a_card(capsys, package, exporter, rows, tmp_path):
    out = tmp_path / "out"
    model = package("flag-llm-reranker")
    asked = (model, "--to", "seq-cls", "--data", rows, "--python", exporter, "-o", out, *GATE)
    code, said, _ = call(capsys, *asked, "--json")
    assert code == 0
    found = json.loads(said)["data"]
    assert found["verdict"] == "no measurable difference"
    assert found == json.loads((out / "export.json").read_text(encoding="utf-8"))
    assert found["means"]["source"] == found["means"]["export"]
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "no measurable difference" in card
    assert "4 → 1" in card
    assert str(model).replace("_", "\\_") in card
    code, _, err = call(capsys, *asked)
    assert code == 9
    assert "exists already" in err


def test_an_order_that_the_form_turned_round_is_caught_by_the_gate(
    capsys, package, exporter, rows, tmp_path, monkeypatch
):
    monkeypatch.setenv("TURNED", "1")
    out = tmp_path / "out"
    asked = ("--to", "seq-cls", "--data", rows, "--python", exporter, "-o", out, "--hardware", "cpu")
    code, said, _ = call(capsys, package("flag-llm-reranker"), *asked, *GATE)
    assert code == 8
    assert "seq-cls: worse" in said
    assert "gate MISSED: nDCG@10" in said
    assert "66.67% of the pairs turned round" in said
    assert json.loads((out / "export.json").read_text(encoding="utf-8"))["gate"]["passed"] is False


def test_an_exporter_that_fails_leaves_nothing(capsys, package, exporter, rows, tmp_path, monkeypatch):
    monkeypatch.setenv("FAILING", "1")
    model, before = package("flag-llm-reranker"), set(tmp_path.iterdir())
    asked = ("--to", "seq-cls", "--data", rows, "--python", exporter, "-o", tmp_path / "out")
    code, _, err = call(capsys, model, *asked)
    assert code == 6
    assert "no such operator" in err
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("kind", "form", "message", "hint"),
    [
        ("cross-encoder", "gguf", "llama.cpp turned the order round and said nothing", "orch serve"),
        ("cross-encoder", "seq-cls", "has no form seq-cls", "orch serve"),
        ("flag-llm-reranker", "onnx", "ONNX is written for encoders", "seq-cls"),
        ("embedding", "openvino-int8", "OpenVINO is written for encoders", "orch serve"),
        ("embedding", "gguf", "xllamacpp, which gguf is written with", "pip install"),
        ("flag-llm-reranker", "bnb-4bit", "has never been run on one", "orch evaluate"),
        ("flag-llm-reranker", "awq", "has never been run on one", "llm-compressor"),
    ],
)
def test_a_form_that_a_model_does_not_have_is_refused(capsys, package, rows, tmp_path, kind, form, message, hint):
    asked = ("--to", form, "--data", rows, "-o", tmp_path / "out", "--hardware", "cpu")
    code, _, err = call(capsys, package(kind), *asked)
    assert code == 4
    assert message in err
    assert hint in err
    assert not (tmp_path / "out").exists()


def test_missing_packages_are_named_with_the_line_that_installs_them(capsys, package, rows, tmp_path):
    python = tmp_path / "python-without"
    python.write_text('#!/bin/sh\necho \'{"python": "3.11.7"}\'\n', encoding="utf-8")
    python.chmod(0o755)
    asked = ("--to", "seq-cls", "--data", rows, "-o", tmp_path / "out", "--python", python)
    code, _, err = call(capsys, package("flag-llm-reranker"), *asked)
    assert code == 4
    assert f"{python} -m pip install sentence-transformers" in err


def test_a_model_without_a_run_needs_rows(capsys, package, exporter, tmp_path):
    asked = ("--to", "seq-cls", "-o", tmp_path / "out", "--python", exporter)
    code, _, err = call(capsys, package("flag-llm-reranker"), *asked)
    assert code == 4
    assert "--data FILE" in err


@pytest.mark.parametrize("gate", ["ndcg@10: > baseline", "ndcg@10", "ndgc@10: > source", "ndcg@10: < source"])
def test_a_gate_that_is_none_is_an_error_of_usage(capsys, tmp_path, gate):
    code, _, err = call(capsys, "model", "--to", "seq-cls", "-o", tmp_path / "out", "--gate", gate)
    assert code == 2
    assert "--gate" in err


def test_a_gate_on_a_metric_of_other_data_is_refused_before_the_export(capsys, package, exporter, rows, tmp_path):
    asked = ("--to", "seq-cls", "--data", rows, "-o", tmp_path / "out", "--python", exporter)
    code, _, err = call(capsys, package("flag-llm-reranker"), *asked, "--gate", "spearman: >= source")
    assert code == 4
    assert "spearman" in err.lower()


def test_every_form_is_of_a_way_and_every_scorer_is_one_that_there_is():
    assert {row["way"] for row in EXPORTS.values()} == set(EXPORT_WAYS)
    for way in EXPORT_WAYS.values():
        assert set(way["takes"]) <= set(SCORERS)
        assert set(way["takes"].values()) <= {"encoder", "decoder", None}
    assert find_export_problem("onnx", "embedding", "encoder") is None
