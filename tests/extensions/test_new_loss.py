"""A loss from outside: its registry entry, and its code where the library has none, from check to the trainer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from orchestrator.backends import BACKENDS
from orchestrator.backends.models import BaseModel
from orchestrator.data import prepare
from orchestrator.errors import RecipeError
from orchestrator.logs.patches import suggest_patch
from orchestrator.machine.hardware import CPU, Hardware
from orchestrator.plan.jobs import build_job
from orchestrator.plan.load import load_recipe
from orchestrator.plan.pipeline import build_plan
from orchestrator.recipe.losses import (
    GROUPS,
    LISTS,
    LOSSES,
    LossType,
    Setting,
    find_loss,
    find_loss_of_form,
    list_losses,
    list_names,
)
from orchestrator.recipe.schema import Loss, build_json_schema
from orchestrator.workers import cross_encoder_losses as of_worker
from orchestrator.workers.embedding import losses as of_embeddings
from orchestrator.workers.train_cross_encoder import load_settings
from orchestrator.workers.train_embedding import load_settings as load_embedding_settings
from tests.jobs import build_imagined_job

GPU = Hardware("cuda", 1, bf16=True)
HINGE = LossType(
    "hinge",
    "sentence-transformers",
    "reranker",
    ("labelled",),
    LISTS,
    {"k": Setting(None, "every document counts")},
    obstacle="hinge looks at the hardest document of a batch",
    texts=lambda _: None,
    aliases=("maxmargin",),
)
HINGE_OF_WORKER = of_worker.Loss(LISTS, lambda model, settings: (model, settings.k), ("k",))
TRIPLET = LossType(
    "triplet",
    "swift",
    "embedding",
    ("group",),
    "swift-embedding",
    {"temperature": Setting(0.2, variable="TRIPLET_TEMPERATURE")},
    scripts=("old_triplet",),
)
HINGE_OF_SWIFT = replace(HINGE, backend="swift", kinds=("group",), form="swift-reranker", settings={})
RECIPE = """\
name: toy
task: reranker
backend: sentence-transformers
model: {path: encoder, family: encoder}
data: {train: train.jsonl, eval: eval.jsonl}
loss: {type: hinge, k: 3}
train: {train_group_size: 4}
"""


@pytest.fixture(autouse=True)
def register(monkeypatch):
    monkeypatch.setitem(LOSSES, ("sentence-transformers", "reranker", "hinge"), HINGE)
    monkeypatch.setitem(of_worker.LOSSES, "hinge", HINGE_OF_WORKER)
    monkeypatch.setitem(LOSSES, ("swift", "embedding", "triplet"), TRIPLET)
    monkeypatch.setitem(LOSSES, ("swift", "reranker", "hinge"), HINGE_OF_SWIFT)


@pytest.fixture
def build(tmp_path):
    (tmp_path / "encoder").mkdir()
    config = {"model_type": "bert", "architectures": ["BertForSequenceClassification"]}
    (tmp_path / "encoder" / "config.json").write_text(json.dumps(config))
    for side, words in (("train", ("alpha", "beta")), ("eval", ("gamma",))):
        rows = [
            {"query": word, "hits": [{"content": f"{word} {label}", "label": label} for label in (0, 1)]}
            for word in words
        ]
        (tmp_path / f"{side}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "recipe.yaml").write_text(RECIPE)

    def build(*overrides):
        job = build_job(load_recipe(tmp_path / "recipe.yaml", overrides), tmp_path / "run", CPU)
        return job, build_plan(job)

    return build


def test_what_it_cannot_do_is_refused(build):
    for override, message in (
        ("loss.temperature=0.5", "hinge has no temperature"),
        ("loss.k=0", "expected 1 or more"),
        ("loss.type=hing", "is not one of .*'hinge'"),
        ("watch.on_oom=retry", "the hardest document of a batch"),
    ):
        with pytest.raises(RecipeError, match=message):
            build(override)
    with pytest.raises(RecipeError) as caught:
        build("loss=MaxMarginLoss")
    assert caught.value.problems[0].hint == "say hinge"


def test_it_is_rendered_and_its_rows_are_prepared_for_the_trainer_that_finds_it(build):
    job, plan = build()
    for file in plan.files:
        (job.run_dir / file.path).parent.mkdir(parents=True, exist_ok=True)
        (job.run_dir / file.path).write_text(file.text)
    words = plan.stage("prepare").command.argv
    assert prepare.main(words[words.index("-m") + 2 :]) == 0
    settings = load_settings(job.run_dir / "files" / "train.json")
    rows = [json.loads(line) for line in settings.train.read_text().splitlines()]
    assert [row["query"] for row in rows] == ["alpha", "beta"]
    assert all(len(row["documents"]) == len(row["labels"]) == 2 for row in rows)
    assert of_worker.LOSSES[settings.loss.type].build("model", settings.loss) == ("model", 3)


def test_no_patch_makes_its_batch_smaller(build):
    job, _ = build()
    recipe, remedies = job.recipe.model_dump(mode="json"), job.backend.remedies
    assert not any("batch_size" in item for item in suggest_patch("cuda-out-of-memory", recipe, "train", remedies))


def test_a_loss_of_ms_swift_is_one_entry(tmp_path):
    model = BaseModel("Qwen/Qwen3-Embedding-0.6B", "Qwen/Qwen3-Embedding-0.6B", None, "decoder", None)
    job = build_imagined_job("qwen3_embedding_lora", model, GPU, overrides=("loss=triplet",))
    assert [problem for key, problem in BACKENDS["swift"].check_job(job) if key[0] == "loss"] == []
    train, prepared = (build_plan(job).stage(kind).command for kind in ("train", "prepare"))
    assert train.argv[train.argv.index("--loss_type") + 1] == "triplet"
    assert dict(train.env)["TRIPLET_TEMPERATURE"] == "0.2"
    assert prepared.argv[prepared.argv.index("--loss") + 1] == "triplet"
    out = tmp_path / "data"
    words = ["--out", str(out)]
    for side in ("train", "eval"):
        rows = tmp_path / f"{side}.jsonl"
        rows.write_text(json.dumps({"query": side, "pos": ["p"], "neg": ["n"]}) + "\n")
        words += [f"--{side}", str(rows)]
    assert prepare.main([*words, "--form", "swift-embedding", "--kind", "group", "--loss", "triplet"]) == 0
    assert len(Path(out / "train.jsonl").read_text().splitlines()) == 1


def test_the_schema_of_recipes_offers_them():
    schema = build_json_schema({name: backend.json_schema() for name, backend in BACKENDS.items()})
    assert {"hinge", "triplet"} <= {*schema["$defs"]["Loss"]["properties"]["type"]["enum"]}
    assert Loss(type="triplet").of("swift", "embedding").facts is TRIPLET


def test_several_trainers_have_a_loss_of_one_name():
    assert Loss(type="hinge").of("sentence-transformers", "reranker").facts is HINGE
    assert Loss(type="hinge").of("swift", "reranker").facts is HINGE_OF_SWIFT
    assert find_loss("swift", "embedding", "hinge") is HINGE_OF_SWIFT  # none of its own: its tool's, which is refused
    assert find_loss_of_form("hinge", "swift-reranker") is HINGE_OF_SWIFT
    assert find_loss_of_form("hinge", LISTS) is HINGE
    assert list_names().count("hinge") == 1
    assert [name for name in list_losses("swift") if name == "hinge"] == ["hinge"]


def test_a_loss_of_embedding_models_is_an_entry_and_a_line(build, monkeypatch, tmp_path):
    mega = LossType("mega", "sentence-transformers", "embedding", ("group",), GROUPS, in_batch=True)
    monkeypatch.setitem(LOSSES, ("sentence-transformers", "embedding", "mega"), mega)
    monkeypatch.setitem(of_embeddings.LOSSES, "mega", of_embeddings.Loss("MegaBatchMarginLoss", GROUPS, in_batch=True))
    recipe = (tmp_path / "recipe.yaml").read_text().partition("loss:")[0].replace("task: reranker", "task: embedding")
    (tmp_path / "recipe.yaml").write_text(recipe.replace("family: encoder", "pooling: mean") + "loss: mega\n")
    (tmp_path / "encoder" / "config.json").write_text('{"model_type": "bert", "architectures": ["BertModel"]}')
    for side in ("train", "eval"):
        (tmp_path / f"{side}.jsonl").write_text(json.dumps({"query": side, "pos": ["p"], "neg": ["n"]}) + "\n")
    _, plan = build()
    config = next(file.text for file in plan.files if file.path == "files/train.json")
    (tmp_path / "train.json").write_text(config)
    assert load_embedding_settings(tmp_path / "train.json").loss.type == "mega"
    assert json.loads(config)["arguments"]["batch_sampler"] == "no_duplicates"
