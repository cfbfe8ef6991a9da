from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from orchestrator.workers import package
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.weights import hash_file
from tests.workers.conftest import TOPICS, copy_with
from tests.workers.embedding_runs import (
    INSTRUCTION,
    SPEC,
    SWIFT,
    adapt,
    embed_alone,
    tune,
    write_eval_files,
)
from tests.workers.pinned import check_pinned

TEST_PROMPT = "which leaves are steamed?"


@pytest.fixture(scope="module")
def data(place):
    write_eval_files(place / "package-embedding-eval")
    return place / "package-embedding-eval"


@pytest.fixture(scope="module")
def adapted(place, decoder):
    (place / "adapted").mkdir()
    return adapt(decoder, place / "adapted")


@pytest.fixture(scope="module")
def packaged(place, adapted, data):
    """Return a packaged LoRA run over a base that lacks modules, prompts and end token; verified in swift."""
    out = place / "adapted" / "model"
    assert package.main([*adapted.arguments(data, out), "--test-prompt", TEST_PROMPT]) == 0
    return out


@pytest.fixture(scope="module")
def tuned(place, decoder):
    (place / "tuned-embedding").mkdir()
    return tune(decoder, place / "tuned-embedding")


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def load(folder):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu", local_files_only=True)


def refuse(trained, data, out, **more):
    with pytest.raises(WorkerError) as caught:
        package.main(trained.arguments(data, out, **more))
    assert not out.exists()
    report = read(out.parent / f"{out.name}.report.json")
    assert not report["passed"]
    return [problem.split(":")[0] for problem in caught.value.problems]


def test_the_adapter_in_swift_the_merged_and_the_packaged_model_give_the_same_vectors(packaged):
    report = read(packaged.parent / "model.report.json")
    checks = {check["name"]: check for check in report["checks"]}
    assert report["passed"]
    assert set(checks) == {
        *(
            "weights",
            "complete",
            "tokens",
            "finite",
            "unit-length",
            "not-constant",
            "changed-weights",
            "changed-vectors",
        ),
        *(
            "sentence-transformers",
            "transformers",
            "reloaded",
            "swift",
            "merged",
            "merge-keeps-training",
            "test-prompt",
        ),
    }
    for name in ("sentence-transformers", "transformers", "reloaded", "swift", "merged"):
        assert checks[name]["max_distance"] < 1e-10, name
    assert len(report["probes"]) >= 16
    assert {probe["origin"] for probe in report["probes"]} == {
        *("data", "example", "awkward", "long", "cut"),
        "test-prompt",
    }
    assert {probe["origin"] for probe in report["probes"] if probe["cut"]} == {"cut"}
    assert max(probe["distances"]["base"] for probe in report["probes"]) > 1e-4


def test_what_is_written_is_what_is_pinned(packaged):
    check_pinned("embedding-adapter", packaged, packaged.with_name("model.report.json"))


def test_the_test_prompt_comes_back_with_its_nearest_probes(packaged):
    found = read(packaged.parent / "model.report.json")["test_prompt"]
    assert found["text"] == TEST_PROMPT
    assert np.abs(embed_alone(packaged, INSTRUCTION + TEST_PROMPT) - found["vector"]).max() < 1e-5
    cosines = [row["cosine"] for row in found["nearest"]]
    assert len(cosines) == 3
    assert cosines == sorted(cosines, reverse=True)


def test_the_folder_embeds_queries_and_documents_as_it_was_trained(packaged):
    encoder = load(packaged)
    query, document = encoder.encode_query("tell me of tea"), encoder.encode_document(TOPICS["tea"])
    assert np.abs(query - embed_alone(packaged, f"{INSTRUCTION}tell me of tea")).max() < 1e-5
    assert np.abs(document - embed_alone(packaged, TOPICS["tea"])).max() < 1e-5
    assert encoder.max_seq_length == 64
    assert encoder.similarity_fn_name == "cosine"
    assert encoder.default_prompt_name is None


def test_the_tokenizer_appends_the_end_token_exactly_once_even_to_a_text_that_is_cut(packaged):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(packaged)
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    for text in ("a", TOPICS["tea"], TOPICS["tea"] * 50):
        ids = tokenizer(text, truncation=True)["input_ids"]
        assert ids.count(end) == 1
        assert ids[-1] == end
        assert len(ids) <= 64
    assert tokenizer.padding_side == "left"
    core = read(packaged / "tokenizer.json")
    assert (core["truncation"], core["padding"]) == (None, None)
    assert not (packaged / "chat_template.jinja").exists()


def test_scoring_json_keeps_vectors_that_a_server_can_be_asked_for(packaged):
    described = read(packaged / "scoring.json")
    encoder = load(packaged)
    assert [probe["kind"] for probe in described["probes"]] == ["query", "document", "document", "query"]
    for probe in described["probes"]:
        encode = encoder.encode_query if probe["kind"] == "query" else encoder.encode_document
        assert np.abs(encode(probe["text"]) - probe["vector"]).max() < 1e-5
    assert (described["scorer"], described["dims"], described["pooling"]) == ("embedding", 32, "lasttoken")
    assert described["prompts"] == {"query": INSTRUCTION, "document": ""}
    assert [len(row["vector"]) for row in described["examples"]["texts"]] == [8, 8, 8]
    assert abs(described["examples"]["cosines"][0][0] - 1) < 1e-5
    listed = {*described["files"], "README.md", "scoring.json"}
    assert listed == {path.relative_to(packaged).as_posix() for path in packaged.rglob("*") if path.is_file()}


def test_the_weights_are_stored_as_they_were_merged(packaged, adapted):
    assert hash_file(packaged / "model.safetensors") == hash_file(adapted.model / "model.safetensors")
    assert read(packaged / "config.json")["architectures"] == ["Qwen3ForCausalLM"]


def test_pooling_and_modules_stand_where_older_readers_and_vllm_look(packaged):
    kinds = [module["type"] for module in read(packaged / "modules.json")]
    assert kinds == [f"sentence_transformers.models.{kind}" for kind in ("Transformer", "Pooling", "Normalize")]
    pooling = read(packaged / "1_Pooling" / "config.json")
    assert next(key for key, value in pooling.items() if value is True) == "pooling_mode_lasttoken"


def test_the_card_loads_the_model_as_it_says(packaged, capsys):
    card = (packaged / "README.md").read_text(encoding="utf-8")
    assert "<!-- orch:results -->" in card
    assert "--runner pooling" in card
    snippets = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(snippets) == 2
    cosines = read(packaged / "scoring.json")["examples"]["cosines"][0][1:]
    for snippet in snippets:
        names: dict[str, object] = {}
        exec(snippet.replace("path/to/this/folder", str(packaged)), names)  # noqa: S102
        assert np.abs(np.asarray(names["scores"])[0] - cosines).max() < 1e-5
    capsys.readouterr()


def test_a_fully_trained_model_is_held_against_swift_too(tuned, data, tmp_path):
    trained = replace(tuned, spec={**SPEC, **SWIFT, "mrl_dims": [8, 16]})
    assert package.main(trained.arguments(data, tmp_path / "model")) == 0
    checks = {check["name"]: check for check in read(tmp_path / "model.report.json")["checks"]}
    assert checks["swift"]["max_distance"] < 1e-10
    assert "merged" not in checks
    assert "the first 8, 16 numbers" in (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert read(tmp_path / "model" / "scoring.json")["mrl_dims"] == [8, 16]
    check_pinned("embedding-full", tmp_path / "model", tmp_path / "model.report.json")


def test_a_merge_in_half_precision_is_allowed_what_it_rounds_away(adapted, data, tmp_path):
    import torch

    rounded = copy_with(adapted, tmp_path / "m", lambda _, one: one.to(torch.bfloat16))
    assert package.main(rounded.arguments(data, tmp_path / "model")) == 0
    checks = {check["name"]: check for check in read(tmp_path / "model.report.json")["checks"]}
    assert 1e-8 < checks["merged"]["max_distance"] < checks["merged"]["allowed"] == 1e-3


def test_a_merge_that_gives_the_base_model_back_is_refused(adapted, data, tmp_path):
    failed = refuse(replace(adapted, model=adapted.base), data, tmp_path / "model")
    assert {"changed-weights", "changed-vectors", "merged", "merge-keeps-training"} <= set(failed)
    check_pinned("embedding-adapter.base", None, tmp_path / "model.report.json")


def test_a_merge_that_is_not_the_adapter_on_its_base_is_refused(adapted, data, tmp_path):
    other = copy_with(adapted, tmp_path / "m", lambda name, one: one * 1.5 if "v_proj" in name else one)
    failed = refuse(other, data, tmp_path / "model")
    assert "merged" in failed
    assert not {"changed-weights", "changed-vectors"} & set(failed)


def test_a_pair_eval_serves_as_probes(tuned, data, tmp_path):
    arguments = tuned.arguments(data, tmp_path / "model", probes=data / "pairs.jsonl", corpus=None)
    assert package.main(arguments) == 0


def test_a_weight_that_is_missing_is_refused(tuned, data, tmp_path):
    lacking = copy_with(tuned, tmp_path / "m", lambda name, one: None if "layers.1.mlp.up" in name else one)
    assert "complete" in refuse(lacking, data, tmp_path / "model")


def test_weights_that_are_nan_are_refused(tuned, data, tmp_path):
    broken = copy_with(tuned, tmp_path / "m", lambda name, one: one * float("nan") if "q_proj" in name else one)
    assert refuse(broken, data, tmp_path / "model") == ["weights"]


def test_a_model_that_gives_every_text_one_vector_is_refused(tuned, data, tmp_path):
    # what is left of a text at its end token is the end token alone
    dead = copy_with(tuned, tmp_path / "m", lambda name, one: one * 0 if "o_proj" in name else one)
    assert refuse(dead, data, tmp_path / "model") == ["not-constant"]


def test_an_encoder_keeps_the_pooling_of_its_base(encoder, data, tmp_path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    modules = [Transformer(str(encoder)), Pooling(32, "mean")]
    SentenceTransformer(modules=modules, device="cpu").save_pretrained(str(tmp_path / "base"))
    trained = tune(tmp_path / "base", tmp_path)
    trained = replace(trained, spec={**SPEC, "pooling": None, "query_prompt": ""})
    assert package.main(trained.arguments(data, tmp_path / "model")) == 0
    vectors = load(tmp_path / "model").encode(["Paris", "tea"], convert_to_numpy=True)
    expected = load(trained.model).encode(["Paris", "tea"], normalize_embeddings=True)
    assert np.abs(vectors - expected).max() < 1e-5
    assert read(tmp_path / "model" / "scoring.json")["pooling"] == "mean"
    check_pinned("embedding-mean", tmp_path / "model", tmp_path / "model.report.json")


def test_an_adapter_without_the_tool_that_made_it_is_refused(adapted, data, tmp_path):
    with pytest.raises(WorkerError, match="verified in swift"):
        package.main(replace(adapted, spec=SPEC).arguments(data, tmp_path / "model"))
