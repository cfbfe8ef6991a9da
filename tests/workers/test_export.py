"""`workers export` on tiny LLM rerankers: a word of lm_head as a score head gives the scores that the word gave."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from orchestrator.workers import export
from orchestrator.workers.failure import WorkerError

from .conftest import write_spec


def run_export(model: Path, scoring: Path, data: Path, out: Path, form: str = "seq-cls") -> dict[str, object]:
    arguments = {"model": model, "scoring": scoring, "form": form, "data": data, "out": out, "device": "cpu"}
    arguments["scores"] = out.parent / f"{out.name}.scores"
    assert export.main([part for name, value in arguments.items() for part in (f"--{name}", str(value))]) == 0
    return json.loads((arguments["scores"] / "scoring.json").read_text(encoding="utf-8"))


def read_scores(path: Path) -> list[float]:
    return [json.loads(line)["score"] for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def exported(packaged_decoder, eval_file, tmp_path_factory):
    out = tmp_path_factory.mktemp("export") / "flag"
    return out, run_export(packaged_decoder, packaged_decoder / "scoring.json", eval_file, out)


def test_the_head_gives_the_scores_of_flagembedding(exported):
    out, _ = exported
    scores = out.parent / "flag.scores"
    assert read_scores(scores / "scores.jsonl") == pytest.approx(read_scores(scores / "source.jsonl"), abs=1e-5)
    assert len(set(read_scores(scores / "scores.jsonl"))) > 5


def test_its_user_loads_it_with_nothing_said(exported, packaged_decoder):
    from sentence_transformers import CrossEncoder
    from transformers import AutoModelForSequenceClassification

    out, _ = exported
    pairs = [("tell me of tea", "Green tea is steamed."), ("tell me of cells", "北京是中国的首都。")]
    source = CrossEncoder(str(packaged_decoder), device="cpu").predict(pairs)
    assert CrossEncoder(str(out), device="cpu").predict(pairs) == pytest.approx(source, abs=1e-5)
    model = AutoModelForSequenceClassification.from_pretrained(out)
    assert model.config.num_labels == 1
    assert model.config.pad_token_id is not None
    assert not model.config.tie_word_embeddings
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    assert config["architectures"] == ["Qwen3ForSequenceClassification"]
    assert config["sentence_transformers"]["activation_fn"].endswith(".Identity")
    assert (out / "chat_template.jinja").read_text() == (packaged_decoder / "chat_template.jinja").read_text()


def test_it_says_what_it_is_of_what(exported, packaged_decoder):
    out, facts = exported
    said = json.loads((out / "scoring.json").read_text(encoding="utf-8"))
    assert said["scorer"] == "cross-encoder"
    assert said["export"]["form"] == "seq-cls"
    assert said["export"]["source"]["scorer"] == "flag-llm-reranker"
    assert "model.safetensors" in said["export"]["source"]["files"]
    assert "model.safetensors" in said["files"]
    assert facts["speed"]["unit"] == "pairs"
    assert facts["speed"]["source"] > 0
    assert facts["bytes"]["export"] != facts["bytes"]["source"]
    assert not (out / "1_LogitScore").exists()


def test_a_bare_reranker_of_yes_and_no_becomes_their_difference(decoder, eval_file, tmp_path):
    spec = write_spec(tmp_path / "native.json", scorer="qwen3-native", max_length=512, instruction=None)
    run_export(decoder, spec, eval_file, tmp_path / "native")
    scores = tmp_path / "native.scores"
    assert read_scores(scores / "scores.jsonl") == pytest.approx(read_scores(scores / "source.jsonl"), abs=1e-5)
    said = json.loads((tmp_path / "native" / "scoring.json").read_text(encoding="utf-8"))
    assert (said["scorer"], said["task_type"]) == ("qwen3-score-head", "reranker")  # as which ms-swift loads it


def test_a_bare_reranker_of_flagembedding_gets_its_prompt(decoder, eval_file, tmp_path):
    run_export(decoder, write_spec(tmp_path / "flag.json"), eval_file, tmp_path / "bare")
    scores = tmp_path / "bare.scores"
    assert read_scores(scores / "scores.jsonl") == pytest.approx(read_scores(scores / "source.jsonl"), abs=1e-5)


def test_a_word_that_is_more_than_a_row_of_lm_head_is_refused_and_nothing_is_left(decoder, eval_file, tmp_path):
    capped = tmp_path / "capped"
    shutil.copytree(decoder, capped)
    config = json.loads((capped / "config.json").read_text(encoding="utf-8"))
    (capped / "config.json").write_text(json.dumps({**config, "final_logit_softcapping": 30.0}))
    with pytest.raises(WorkerError, match="final_logit_softcapping"):
        run_export(capped, write_spec(tmp_path / "spec.json"), eval_file, tmp_path / "out")
    assert not list(tmp_path.glob("*out*"))


def test_an_export_takes_no_folder_that_is_there(decoder, eval_file, tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(WorkerError, match="exists already"):
        run_export(decoder, write_spec(tmp_path / "spec.json"), eval_file, tmp_path / "out")


CONVERTER = """
import pathlib, sys
from conversion import NAME
source, _, outtype, _, outfile = sys.argv[1:]
assert pathlib.Path(source, "config.json").is_file(), "no config.json"
pathlib.Path(outfile).write_text(f"{NAME} {outtype}")
"""


@pytest.fixture
def gguf(encoder, tmp_path, monkeypatch):
    """Return what is asked for, and a folder for it; LLAMA_CPP names sources whose converter is a script of ours."""
    sources = tmp_path / "llama.cpp"
    (sources / "conversion").mkdir(parents=True)
    (sources / "conversion" / "__init__.py").write_text('NAME = "converted"')
    (sources / "convert_hf_to_gguf.py").write_text(CONVERTER)
    monkeypatch.setenv("LLAMA_CPP", str(sources))
    monkeypatch.setattr(sys, "argv", list(sys.argv))
    monkeypatch.setattr(sys, "path", list(sys.path))
    raw = {"version": 1, "name": "x", "dtype": "float32", "scorer": "embedding", "batch_size": 4, "max_length": 8,
           "pooling": "mean", "normalize": True, "query_prompt": "", "document_prompt": ""}  # fmt: skip
    folder = tmp_path / "out"
    shutil.copytree(encoder, folder)
    return export.Export(encoder, raw, "gguf-q8", "cpu"), folder


def test_llama_cpp_s_own_converter_writes_the_gguf(gguf):
    assert export.write_gguf(*gguf) == {}
    assert (gguf[1] / "model.gguf").read_text() == "converted q8_0"


def test_a_converter_that_is_missing_or_fails_and_layers_that_it_drops_are_said(gguf, tmp_path, monkeypatch):
    asked, folder = gguf
    dense = tmp_path / "dense"
    shutil.copytree(asked.source, dense)
    (dense / "modules.json").write_text('[{"path": "", "type": "x.Transformer"}, {"path": "2", "type": "x.Dense"}]')
    with pytest.raises(WorkerError, match="drops the dense layers"):
        export.write_gguf(export.Export(dense, asked.raw, "gguf", "cpu"), folder)
    with pytest.raises(WorkerError, match=r"llama\.cpp's converter: no config\.json"):
        export.write_gguf(export.Export(tmp_path, asked.raw, "gguf", "cpu"), folder)
    monkeypatch.setenv("LLAMA_CPP", str(tmp_path))
    with pytest.raises(WorkerError, match="set LLAMA_CPP to the sources"):
        export.write_gguf(asked, folder)


def test_llama_cpp_is_given_texts_that_fit_and_its_refusal_is_said(gguf, monkeypatch):
    heard: list[list[str]] = []

    def answer(asked):
        heard.append(asked["input"])
        refused = {"error": {"code": 500, "message": "too large"}}
        return refused if "refuse" in asked["input"][0] else {"data": [{"embedding": [3.0, 4.0]} for _ in heard[-1]]}

    llama = ModuleType("xllamacpp")
    llama.CommonParams = lambda: SimpleNamespace(model=SimpleNamespace())
    llama.Server = lambda _: SimpleNamespace(handle_embeddings=answer)
    monkeypatch.setitem(sys.modules, "xllamacpp", llama)
    reader = export.open_gguf(*gguf)
    assert reader.run(["green tea", "tea " * 40]).tolist() == [[3.0, 4.0], [3.0, 4.0]]
    assert heard[0][0] == "green tea"
    assert 0 < len(heard[0][1].split()) < 8
    with pytest.raises(WorkerError, match="too large"):
        reader.run(["refuse"])
