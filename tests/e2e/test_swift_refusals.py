"""What ms-swift would train on wrongly, or die of late, is refused before it starts; through the command line."""

from __future__ import annotations

import json

import pytest

from tests.e2e.conftest import ENV, orch

POSITIVES = [{"query": f"question {n}", "response": f"answer {n}"} for n in range(40)]
LABELLED = [{**row, "label": n % 2} for n, row in enumerate(POSITIVES)]
RECIPE = """\
name: toy
task: embedding
backend: swift
model: {{path: {model}, model_type: qwen3_emb}}
data: {{train: train.jsonl, eval_ratio: 0.2}}
loss: infonce
train: {{max_length: 64}}
"""


@pytest.fixture
def toy(tmp_path):
    """A folder with a recipe and a model of which nothing but the config is there."""
    model = tmp_path / "model"
    model.mkdir()
    config = {"architectures": ["Qwen3ForCausalLM"], "hidden_size": 32}
    (model / "config.json").write_text(json.dumps(config))
    (tmp_path / "recipe.yaml").write_text(RECIPE.format(model=model))
    write(tmp_path, POSITIVES)
    return tmp_path


def write(folder, rows):
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "train.jsonl").write_text(text)


def run(folder, *sets, env=ENV):
    words = [word for value in sets for word in ("--set", value)]
    return orch("run", str(folder / "recipe.yaml"), "--smoke", "-o", str(folder / "run"), *words, env=env)


@pytest.mark.parametrize(
    ("rows", "sets", "reason", "way_out"),
    [
        (LABELLED, ["loss=infonce"], "loss-misfit", "contrastive"),
        (POSITIVES, ["loss=contrastive"], "loss-misfit", "infonce"),
        (POSITIVES, ["loss=cosine_similarity"], "loss-misfit", "infonce"),
        ([{**row, "label": 3.5} for row in POSITIVES], ["loss=cosine_similarity"], "score-out-of-range", "divide-score"),
        (POSITIVES, ["loss={type: infonce, use_batch: false}"], "loss-misfit", "negatives"),
        ([{"query": row["query"], "pos": ["a", "b"]} for row in POSITIVES], [], "several-positives", "one-positive"),
        (POSITIVES, ["data.validation_ratio=0.05", "train.per_device_eval_batch_size=2"], None, None),
    ],
    ids=["labels", "no labels", "no scores", "grades", "no negatives", "positives", "control"],
)  # fmt: skip
def test_data_that_do_not_fit_the_loss_end_with_3_before_anything_is_trained(toy, rows, sets, reason, way_out):
    write(toy, rows)
    if reason is None:  # the same folder and recipe pass where nothing is wrong: the refusals are not accidents
        done = orch(
            "render",
            str(toy / "recipe.yaml"),
            "--smoke",
            "-o",
            str(toy / "run"),
            *(w for s in sets for w in ("--set", s)),
        )
        assert done.code == 0, done.err
        return
    done = run(toy, *sets)
    assert done.code == 3, done.out + done.err
    assert reason in done.err
    assert way_out in done.err
    assert not (toy / "run" / "data" / "train.jsonl").exists()
    assert not list((toy / "run" / "stages").glob("*-train/stdout.log"))


def test_too_few_validation_rows_for_one_batch_end_with_3(toy):
    write(toy, POSITIVES[:6])
    done = run(toy, "data.validation_ratio=0.05")
    assert done.code == 3, done.out + done.err
    assert "too-few-validation-rows" in done.err
    assert "per_device_eval_batch_size" in done.err


@pytest.mark.parametrize(
    ("sets", "says", "way_out"),
    [
        (["loss={type: infonce, mrl_dims: [64, 16]}"], "mrl_dims asks for 64", "up to 32"),
        (["model.model_type=qwen4_emb"], "no model_type 'qwen4_emb'", "qwen3_emb"),
        (["task=sft"], "is no sft model", "qwen3"),
        (["loss=listwise"], "not for task: embedding", "infonce"),
        (["backend=flagembedding", "task=sft"], "does not train for task: sft", "backend: swift"),
        (["evaluate.metrics=[spearman]"], "spearman", "ndcg"),
        (["data.train=sentence-transformers/"], "no such file", "paths start from"),
    ],
)
def test_a_recipe_that_does_not_fit_together_ends_with_2_at_once(toy, sets, says, way_out):
    done = run(toy, *sets)
    assert done.code == 2, done.out + done.err
    assert says in done.err
    assert way_out in done.err
    assert not (toy / "run").exists()


def test_a_model_that_brings_code_is_not_trained_unless_the_recipe_trusts_it(toy):
    config = {"architectures": ["Qwen3ForCausalLM"], "hidden_size": 32, "auto_map": {"AutoModel": "mine.Model"}}
    (toy / "model" / "config.json").write_text(json.dumps(config))
    done = run(toy)
    assert done.code == 2
    assert "Python code" in done.err
    assert "trust_remote_code" in done.err


def test_a_hub_that_cannot_be_reached_ends_the_fetch_with_a_way_out(toy):
    nowhere = {**ENV, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "0"}
    done = run(toy, "data.train=sentence-transformers/stsb:train", env=nowhere)
    assert done.code == 6, done.out + done.err
    assert "sentence-transformers/stsb" in done.err
    assert "HF_ENDPOINT" in done.err or "download" in done.err
