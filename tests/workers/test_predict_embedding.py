from __future__ import annotations

import io
import json

import numpy as np
import pytest

from orchestrator.workers import package, score
from orchestrator.workers.failure import WorkerError
from tests.workers.embedding_runs import INSTRUCTION, embed_alone, tune, write_eval_files

ROWS = [{"document": "Green tea is steamed."}, {"query": "tea?"}, {"query": "北京？"}, {"document": "cells"}]


@pytest.fixture(scope="module")
def packaged(place, decoder):
    folder = place / "predict-embedding"
    write_eval_files(folder)
    assert package.main(tune(decoder, folder).arguments(folder, folder / "model")) == 0
    return folder / "model"


@pytest.fixture
def ask(monkeypatch, capsys):
    def run(folder, rows, *flags):
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        monkeypatch.setattr("sys.stdin", io.StringIO(lines))
        capsys.readouterr()
        assert score.predict(["--model", str(folder), "--device", "cpu", *flags]) == 0
        return capsys.readouterr().out

    return run


def test_every_query_is_compared_with_every_document(packaged, ask):
    found = json.loads(ask(packaged, ROWS))
    assert [(row["query"], row["document"]) for row in found] == [
        (query, document) for query in ("tea?", "北京？") for document in ("Green tea is steamed.", "cells")
    ]
    for row in found:
        expected = float(embed_alone(packaged, INSTRUCTION + row["query"]) @ embed_alone(packaged, row["document"]))
        assert abs(row["score"] - expected) < 1e-5


def test_vectors_come_in_the_order_of_the_rows(packaged, ask):
    found = [json.loads(line) for line in ask(packaged, ROWS, "--vectors").splitlines()]
    assert [row["text"] for row in found] == [next(iter(row.values())) for row in ROWS]
    assert np.abs(embed_alone(packaged, f"{INSTRUCTION}tea?") - found[1]["vector"]).max() < 1e-5


def test_no_rows_give_no_rows(packaged, ask):
    assert json.loads(ask(packaged, [])) == []
    assert ask(packaged, [], "--vectors") == ""


@pytest.mark.parametrize("row", [{"query": "a", "document": "b"}, {"text": "a"}, {"query": 3}, ["a"]])
def test_a_row_that_is_not_one_text_is_refused_with_its_line(packaged, ask, row):
    with pytest.raises(WorkerError, match="line 2: not"):
        ask(packaged, [ROWS[0], row])


def test_vectors_of_a_reranker_are_refused(packaged_encoder, ask):
    with pytest.raises(WorkerError, match=r"is not an embedding model \(its scorer is cross-encoder\)"):
        ask(packaged_encoder, [], "--vectors")
