"""A SentenceTransformer that a training saved whole: packaged with all of its modules, and proved by its vectors."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest

from orchestrator.workers import package
from orchestrator.workers.embedding.model import TEXT_ONLY
from orchestrator.workers.failure import WorkerError
from tests.workers.conftest import TOPICS
from tests.workers.embedding_runs import SPEC, Trained, write_eval_files

PROMPTS = {"query": "query: ", "document": "passage: "}
SAVED = {
    **SPEC,
    "tool": "sentence-transformers",
    "query_prompt": PROMPTS["query"],
    "document_prompt": PROMPTS["document"],
    "pooling": None,
}


@pytest.fixture(scope="module")
def data(place):
    write_eval_files(place / "package-whole-eval")
    return place / "package-whole-eval"


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def load(folder):
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu", local_files_only=True)


def build(base, place, pooling, *more, spec=None, **settings):
    """Return base, and what a training of it saves: every weight has moved, and prompts are the library's defaults."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    torch.manual_seed(5)
    kinds = {"Dense": lambda: Dense(32, 16), "Normalize": Normalize}
    modules = [Transformer(str(base), **TEXT_ONLY), Pooling(32, pooling, **settings), *(kinds[name]() for name in more)]
    model = SentenceTransformer(modules=modules, device="cpu")
    model.save_pretrained(str(place / "base"))
    for parameter in model.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    model.save_pretrained(str(place / "trained"))
    return Trained(place / "base", place / "trained", None, spec or SAVED)


def pack(trained, data, place):
    assert package.main(trained.arguments(data, place / "model")) == 0
    return place / "model", {check["name"]: check for check in read(place / "model.report.json")["checks"]}


@pytest.fixture(scope="module")
def cls(place, encoder, data):
    (place / "cls").mkdir()
    trained = build(encoder, place / "cls", "cls", "Normalize")
    return trained, *pack(trained, data, place / "cls")


@pytest.fixture(scope="module")
def dense(place, encoder, data):
    (place / "dense").mkdir()
    trained = build(encoder, place / "dense", "mean", "Dense")
    return trained, *pack(trained, data, place / "dense")


def test_a_model_read_from_its_first_token_is_proved_in_both_libraries(cls):
    _, _, checks = cls
    same = ("sentence-transformers", "transformers", "reloaded", "trained")
    others = {"weights", "complete", "tokens", "finite", "unit-length", "not-constant"}
    assert set(checks) == {*same, *others, "changed-weights", "changed-vectors"}
    assert all(checks[name]["max_distance"] < 1e-10 for name in same)


@pytest.mark.parametrize("made", ["cls", "dense"])
def test_the_package_gives_the_trained_vectors_with_the_prompts_of_the_training(made, request):
    trained, folder, _ = request.getfixturevalue(made)
    packaged, saved = load(folder), load(trained.model)
    found = packaged.encode_query("tell me of tea"), packaged.encode_document(TOPICS["tea"])
    wanted = saved.encode(["query: tell me of tea"])[0], saved.encode([f"passage: {TOPICS['tea']}"])[0]
    for one, other in zip(found, wanted, strict=True):
        assert np.abs(one - other).max() < 1e-5
    assert packaged.max_seq_length == 64
    assert read(folder / "config_sentence_transformers.json")["prompts"] == PROMPTS


def test_dense_layers_come_along_and_vectors_keep_their_length(dense):
    _, folder, checks = dense
    assert [one["type"].rsplit(".", 1)[-1] for one in read(folder / "modules.json")] == [
        "Transformer",
        "Pooling",
        "Dense",
    ]
    assert "unit-length" not in checks
    assert checks["transformers"]["max_distance"] < 1e-10
    scoring = read(folder / "scoring.json")
    assert (scoring["pooling"], scoring["normalize"], scoring["dims"]) == ("mean", False, 16)
    assert abs(scoring["examples"]["cosines"][0][0] - 1) < 1e-6
    assert "2_Dense/model.safetensors" in scoring["files"]
    # the names that sentence-transformers 3 knows, with which Infinity serves it
    assert set(read(folder / "2_Dense" / "config.json")) == {
        "in_features",
        "out_features",
        "bias",
        "activation_function",
    }
    assert "through the dense layers" in (folder / "README.md").read_text(encoding="utf-8")


def test_pooling_stands_in_the_keys_that_older_readers_and_vllm_know(cls):
    _, folder, _ = cls
    pooling = read(folder / "1_Pooling" / "config.json")
    assert [key for key, value in pooling.items() if value is True] == ["pooling_mode_cls_token", "include_prompt"]
    assert pooling["word_embedding_dimension"] == 32
    assert read(folder / "modules.json")[1]["type"] == "sentence_transformers.models.Pooling"


@pytest.mark.parametrize("made", ["cls", "dense"])
def test_every_snippet_of_the_card_gives_the_cosines_of_the_package(made, request, capsys):
    _, folder, _ = request.getfixturevalue(made)
    card = (folder / "README.md").read_text(encoding="utf-8")
    snippets = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(snippets) == (2 if made == "cls" else 1)
    assert "with sentence-transformers" in card
    run_snippets(snippets, folder)
    capsys.readouterr()


def run_snippets(snippets, folder):
    cosines = read(folder / "scoring.json")["examples"]["cosines"][0][1:]
    for snippet in snippets:
        names: dict[str, object] = {}
        exec(snippet.replace("path/to/this/folder", str(folder)), names)  # noqa: S102
        assert np.abs(np.asarray(names["scores"])[0] - cosines).max() < 1e-5


@pytest.mark.parametrize(
    ("base", "pooling", "suffix", "name"),
    [
        ("encoder", "mean", "", "FlagModel"),
        ("decoder", "lasttoken", "", "FlagLLMModel"),
        ("decoder", "lasttoken", " =>", "FlagICLModel"),
    ],
)
def test_the_card_of_what_flagembedding_trained_loads_it_there(
    base, pooling, suffix, name, data, tmp_path, request, capsys
):
    own = {"tool": "flagembedding", "pooling": pooling, "query_suffix": suffix, "end_token": False}
    trained = build(request.getfixturevalue(base), tmp_path, pooling, "Normalize", spec={**SAVED, **own})
    folder, checks = pack(trained, data, tmp_path)
    assert checks["flagembedding"]["max_distance"] < 1e-10
    snippets = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert [f"import {name}\n" in snippet for snippet in snippets] == [False, True, False]
    run_snippets(snippets, folder)
    capsys.readouterr()
    assert read(folder / "scoring.json").get("query_suffix", "") == suffix


@pytest.mark.parametrize(
    ("pooling", "settings"), [("max", {}), (("cls", "mean"), {}), ("mean", {"include_prompt": False})]
)
def test_modules_that_plain_code_cannot_follow_are_held_against_the_trained_folder(
    encoder, data, tmp_path, pooling, settings
):
    _, checks = pack(build(encoder, tmp_path, pooling, "Normalize", **settings), data, tmp_path)
    assert "transformers" not in checks
    assert checks["trained"]["max_distance"] < 1e-10
    assert checks["changed-vectors"]["passed"]


def test_an_llm_that_is_read_from_its_last_token_keeps_the_tokenizer_of_its_training(decoder, data, tmp_path):
    _, checks = pack(build(decoder, tmp_path, "lasttoken", "Normalize"), data, tmp_path)
    assert all(checks[name]["max_distance"] < 1e-10 for name in ("transformers", "trained", "sentence-transformers"))


def test_a_bare_base_is_measured_as_the_spec_says(encoder, data, tmp_path):
    trained = build(encoder, tmp_path, "cls", "Normalize")
    _, checks = pack(Trained(encoder, trained.model, None, SAVED), data, tmp_path)
    assert checks["changed-vectors"]["passed"]


@pytest.fixture(scope="module")
def adapted(place, encoder):
    """Return what a training with LoRA saves, the dense layer trained whole beside it, and what the merge makes of it."""
    import torch
    from sentence_transformers import SentenceTransformer

    from orchestrator.workers import merge
    from orchestrator.workers.engines.sentence_transformers import Lora, add_lora

    folder = place / "lora"
    folder.mkdir()
    base = build(encoder, folder, "mean", "Dense", "Normalize").base
    model = SentenceTransformer(str(base), device="cpu")
    add_lora(model, Lora(4, 8, 0.0, ["query", "value"], use_dora=True), 3)
    torch.manual_seed(4)
    for name, parameter in model.named_parameters():
        if "lora_B" in name or "linear" in name:
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(str(folder / "adapter"))
    argv = ["--base", base, "--adapter", folder / "adapter", "--out", folder / "merged"]
    assert merge.main([*map(str, argv)]) == 0
    return Trained(base, folder / "merged", folder / "adapter", SAVED)


def test_no_adapter_stands_on_a_pooler_that_takes_no_part_in_a_vector(encoder):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    from orchestrator.workers.engines.sentence_transformers import ALL_LINEAR, Lora, add_lora

    model = SentenceTransformer(modules=[Transformer(str(encoder)), Pooling(32, "cls")], device="cpu")
    add_lora(model, Lora(4, 8, 0.0, [ALL_LINEAR]), 3)
    adapted = [name for name, one in model.named_parameters() if one.requires_grad]
    assert any("intermediate.dense" in name for name in adapted)
    assert not any("pooler" in name for name in adapted)


def test_an_adapter_merged_is_the_adapter_on_its_base_dense_layers_and_all(adapted, data, tmp_path):
    folder, checks = pack(adapted, data, tmp_path)
    assert checks["merged"]["max_distance"] < 1e-10
    assert checks["merge-keeps-training"]["passed"]
    assert checks["trained"]["max_distance"] < 1e-10
    wanted = load(adapted.adapter).encode(["query: tea"])[0]
    assert np.abs(load(folder).encode_query("tea") - wanted).max() < 1e-5


def test_a_merge_that_lost_the_adapter_is_refused(adapted, data, tmp_path):
    lost = Trained(adapted.base, adapted.base, adapted.adapter, SAVED)
    with pytest.raises(WorkerError) as caught:
        package.main(lost.arguments(data, tmp_path / "model"))
    assert "merged" in {problem.split(":")[0] for problem in caught.value.problems}


def test_a_training_without_effect_is_refused(cls, data, tmp_path):
    trained, _, _ = cls
    with pytest.raises(WorkerError) as caught:
        package.main(Trained(trained.base, trained.base, None, SAVED).arguments(data, tmp_path / "model"))
    assert {problem.split(":")[0] for problem in caught.value.problems} == {"changed-weights", "changed-vectors"}
    assert not (tmp_path / "model").exists()


def test_pickled_dense_layers_and_a_model_without_a_transformer_are_refused(dense, data, tmp_path):
    trained, _, _ = dense
    shutil.copytree(trained.model, tmp_path / "pickled")
    (tmp_path / "pickled" / "2_Dense" / "model.safetensors").rename(
        tmp_path / "pickled" / "2_Dense" / "pytorch_model.bin"
    )
    with pytest.raises(WorkerError, match="its weights are pickled"):
        package.main(Trained(trained.base, tmp_path / "pickled", None, SAVED).arguments(data, tmp_path / "model"))
    rows = read(trained.model / "modules.json")[1:]
    shutil.copytree(trained.model, tmp_path / "headless")
    (tmp_path / "headless" / "modules.json").write_text(json.dumps(rows), encoding="utf-8")
    with pytest.raises(WorkerError, match="its first module is no Transformer"):
        package.main(Trained(trained.base, tmp_path / "headless", None, SAVED).arguments(data, tmp_path / "model"))
