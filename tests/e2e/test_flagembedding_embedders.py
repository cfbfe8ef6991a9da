"""FlagEmbedding's embedding models, end to end on tiny ones: bge-m3 with its heads, and a training that is killed."""

from __future__ import annotations

import json

import pytest

from tests.e2e.conftest import ENV, run_killed_and_resumed, run_to_the_end

pytestmark = pytest.mark.smoke


def load(path):
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def m3(recipes, tmp_path_factory, warm):
    folder = tmp_path_factory.mktemp("runs") / "m3"
    return run_to_the_end(recipes / "bge_m3.yaml", folder, "--smoke", "--set", "deepspeed=null", env=ENV | warm)


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
