"""FlagEmbedding's embedding models on tiny ones: bge-m3 with its heads, examples in queries, a killed training."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from tests.e2e.conftest import ENV, run_killed_and_resumed, run_to_the_end

pytestmark = pytest.mark.smoke


ICL = """\
name: icl
task: embedding
backend: flagembedding
model: BAAI/bge-en-icl
data: {{train: {data}/reranker.train.jsonl, eval: {data}/reranker.eval.jsonl}}
train: {{lora_rank: 8, query_instruction_for_retrieval: Find the answer., query_instruction_format: '<instruct>{{}}\\n<query>{{}}'}}
"""


def load(path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def m3(recipes, tmp_path_factory, warm):
    folder = tmp_path_factory.mktemp("runs") / "m3"
    return run_to_the_end(recipes / "bge_m3.yaml", folder, "--smoke", "--set", "deepspeed=null", env=ENV | warm)


@pytest.fixture(scope="module")
def icl(recipes, tmp_path_factory, warm):
    """An LLM whose queries have examples of their batch in front and a mark behind, as bge-en-icl is trained."""
    folder = tmp_path_factory.mktemp("runs") / "icl"
    folder.mkdir()
    path, data = folder / "recipe.yaml", recipes.parent / "datasets_example"
    path.write_text(ICL.format(data=data))
    return run_to_the_end(path, folder / "runs", "--smoke", env=ENV | warm)


@pytest.fixture(scope="module")
def resumed(recipes, tmp_path_factory):
    argv = ("run", str(recipes / "bge_embedding.yaml"), "--smoke")
    return run_killed_and_resumed(argv, tmp_path_factory.mktemp("runs") / "killed", "04-train", "encoder_only.base")


@pytest.fixture(scope="module")
def undisturbed(recipes, tmp_path_factory, warm):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return run_to_the_end(recipes / "bge_embedding.yaml", folder, "--smoke", env=ENV | warm)


def test_bge_m3_keeps_its_heads_and_every_way_gives_the_trained_weights(m3):
    [package] = (m3 / "stages").glob("*-package")
    report = load(package / "output" / "verification.json")
    checks = {check["name"]: check for check in report["checks"]}
    assert {"flagembedding", "sentence-transformers", "sparse", "colbert"} <= checks.keys()
    assert all(check["passed"] for check in checks.values())
    assert checks["flagembedding"]["max_distance"] < 1e-9
    assert {"sparse_linear.pt", "colbert_linear.pt", "modules.json"} <= {path.name for path in (m3 / "model").iterdir()}
    assert load(m3 / "report.json")["verdict"] in {"better", "worse", "no measurable difference"}


def test_a_model_with_examples_in_its_queries_is_measured_and_packaged_with_the_mark_behind_them(icl):
    report = load(next((icl / "stages").glob("*-package")) / "output" / "verification.json")
    checks = {check["name"]: check for check in report["checks"]}
    assert checks["flagembedding"]["max_distance"] < 1e-9  # in FlagICLModel, which adds the mark itself
    assert checks["merged"]["max_distance"] < 1e-9
    assert all(check["passed"] for check in checks.values())
    scoring = load(icl / "model" / "scoring.json")
    told = ("<instruct>Find the answer.\n<query>", "\n<response>")
    assert (scoring["query_prompt"], scoring["query_suffix"]) == told
    baseline = load(icl / "files" / "scoring.native.json")
    assert (baseline["query_prompt"], baseline["query_suffix"]) == told
    metrics = load(icl / "metrics.json")
    assert [system["id"] for system in metrics["systems"]] == ["native", "tuned"]


@pytest.mark.parametrize(("run", "name"), [("m3", "BGEM3FlagModel"), ("icl", "FlagICLModel"), ("resumed", "FlagModel")])
def test_every_way_of_a_card_gives_the_vectors_of_the_package(run, name, request, capsys):
    model = request.getfixturevalue(run) / "model"
    snippets = re.findall(r"```python\n(.*?)```", (model / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert [f"import {name}\n" in snippet for snippet in snippets] == [False, True, False]
    cosines = load(model / "scoring.json")["examples"]["cosines"][0][1:]
    for snippet in snippets:
        names: dict[str, object] = {}
        exec(snippet.replace("path/to/this/folder", str(model)), names)  # noqa: S102
        assert np.abs(np.asarray(names["scores"])[0] - cosines).max() < 1e-5
    capsys.readouterr()


def test_bge_m3_is_measured_by_each_of_its_heads_before_and_after(m3):
    metrics = load(m3 / "metrics.json")
    systems = [system["id"] for system in metrics["systems"]]
    parts = ["sparse", "colbert", "sum"]
    assert systems == ["native", *parts, *(f"tuned-{part}" for part in parts), "tuned"]
    assert metrics["headline"]["baseline"] == "native"
    means = {system["id"]: system["means"] for system in metrics["systems"]}
    compared = {row["baseline"]: row["after"] for row in metrics["comparisons"] if row["metric"] == "ndcg@10"}
    assert compared == {part: means[f"tuned-{part}"]["ndcg@10"] for part in parts} | {
        "native": means["tuned"]["ndcg@10"]
    }
    assert not any(system["constant"] for system in metrics["systems"])


def test_the_package_has_the_training_s_pooling_and_prompts(resumed):
    model = resumed / "model"
    prompts = load(model / "config_sentence_transformers.json")["prompts"]
    assert prompts == {"query": "Represent this sentence for searching relevant passages: ", "document": ""}
    assert load(model / "1_Pooling" / "config.json")["pooling_mode_cls_token"] is True


def test_a_killed_training_ends_with_the_weights_of_an_undisturbed_one(resumed, undisturbed):
    weights = [run / "stages" / "04-train" / "output" / "model.safetensors" for run in (resumed, undisturbed)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
