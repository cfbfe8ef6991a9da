"""What a recipe names and a stage reads from the disk decides that stage: changed in place, it is read anew."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from orchestrator.backends import BACKENDS
from orchestrator.backends.aliases import list_paths
from orchestrator.backends.models import BaseModel
from orchestrator.plan.pipeline import build_plan
from orchestrator.recipe.schema import Guard, Teacher, TrainSet
from orchestrator.run.resume import stage_digest
from tests.shipped import build_shipped_job

RECIPES = {
    ("flagembedding", "reranker"): "qwen3_reranker",
    ("flagembedding", "embedding"): "bge_embedding",
    ("swift", "sft"): "qwen3_sft_lora",
    ("swift", "embedding"): "qwen3_embedding_lora",
    ("sentence-transformers", "reranker"): "reranker_lora",
    ("sentence-transformers", "embedding"): "minilm_embedding",
}
TYPED = {"flagembedding": 5, "swift": 10, "sentence-transformers": 5}  # at least so many arguments name files
SUFFIXES = ("", ".json", ".txt")


def list_arguments():
    """Return each (backend, task, argument, suffix) whose value is read as a path."""
    found = []
    for backend, task in RECIPES:
        trainer = BACKENDS[backend].for_task(task)
        for name in sorted(trainer.arguments.keys() - trainer.reserved.keys() - trainer.others.keys()):
            paths = [end for end in SUFFIXES if list(list_paths({name: f"/file{end}"}, trainer.arguments))]
            found += [(backend, task, name, paths[0])] if paths else []
    return found


def digests(job, kind):
    """Return the digests of the stages of that kind, or that begin so."""
    plan = build_plan(job)
    found = {stage.kind: stage_digest(plan, stage) for stage in plan.stages if stage.kind.startswith(kind)}
    assert found
    return found


def change(path):
    (path / "model.safetensors" if path.is_dir() else path).write_text("after")


def make_model(folder):
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (folder / name).write_text("{}")
    return folder


def in_folder(job, folder, **recipe):
    run = folder / "run"
    return replace(job, recipe_folder=folder, run_dir=run, recipe=job.recipe.model_copy(update=recipe))


def test_enough_arguments_name_files():
    found = list_arguments()
    assert {(backend, task) for backend, task, _, _ in found} == set(RECIPES)
    for backend, least in TYPED.items():
        assert len({name for owner, _, name, _ in found if owner == backend}) >= least
    assert {"external_plugins", "adapters", "from_peft"} <= {name for _, _, name, _ in found}


@pytest.mark.parametrize(("backend", "task", "name", "suffix"), list_arguments())
def test_a_file_that_an_argument_names_decides_the_training(tmp_path, backend, task, name, suffix):
    path = tmp_path / f"named{suffix}"
    path.write_text("before")
    job = build_shipped_job(RECIPES[backend, task])
    job = in_folder(job, tmp_path, train={**job.recipe.train, name: path.name})
    before = digests(job, "train")
    assert digests(job, "train") == before
    change(path)
    assert digests(job, "train") != before


def with_model(job, folder):
    model = make_model(folder / "model")
    return replace(job, model=BaseModel("model", str(model), model, job.model.family, job.model.native)), model


def with_guide(job, folder):
    guide = make_model(folder / "guide")
    loss = job.recipe.loss.model_copy(update={"type": "gist", "guide": "guide"})
    return in_folder(job, folder, loss=loss), guide


def with_teacher(job, folder):
    teacher = make_model(folder / "teacher")
    loss = job.recipe.loss.model_copy(update={"type": "margin_mse"})
    job = in_folder(job, folder, loss=loss, teacher=Teacher(path="teacher"))
    return replace(job, teacher=BaseModel("teacher", str(teacher), teacher, "encoder", "cross-encoder")), teacher


def with_more(job, folder):
    (folder / "more.jsonl").write_text("before")
    more = TrainSet.model_validate({"files": "more.jsonl", "loss": "cosent"})
    return in_folder(job, folder, data=job.recipe.data.model_copy(update={"more": {"b": more}})), folder / "more.jsonl"


def with_guard(job, folder):
    (folder / "guard.jsonl").write_text("before")
    guard = Guard.model_validate({"data": "guard.jsonl", "gate": {"recall@10": ">= 0"}})
    evaluate = job.recipe.evaluate.model_copy(update={"guard": {"g": guard}})
    return replace(in_folder(job, folder, evaluate=evaluate), guard_kinds={"g": "group"}), folder / "guard.jsonl"


def with_data(key):
    def put(job, folder):
        path = folder / f"{key}.jsonl"
        path.write_text("before")
        return in_folder(job, folder, data=job.recipe.data.model_copy(update={key: (path.name,)})), path

    return put


@pytest.mark.parametrize(
    ("put", "kinds"),
    [
        (with_model, ("train", "merge", "package", "baseline")),
        (with_guide, ("train",)),
        (with_teacher, ("teacher-scores",)),
        (with_data("train"), ("prepare",)),
        (with_data("eval"), ("prepare",)),
        (with_more, ("set-b",)),
        (with_guard, ("guard-g-data",)),
    ],
)
def test_what_a_recipe_names_decides_every_stage_that_reads_it(tmp_path, put, kinds):
    recipe = "embeddinggemma_lora" if put is with_model else "minilm_embedding"
    job, path = put(in_folder(build_shipped_job(recipe), tmp_path), tmp_path)
    before = {kind: digests(job, kind) for kind in kinds}
    change(path)
    for kind in kinds:
        after = digests(job, kind)
        assert all(after[name] != before[kind][name] for name in after), kind


def test_the_tokenizer_decides_what_the_data_pass_counts(tmp_path):
    job, model = with_model(in_folder(build_shipped_job("minilm_embedding"), tmp_path), tmp_path)
    before = digests(job, "prepare")
    (model / "tokenizer.json").write_text('{"version": "2"}')
    assert digests(job, "prepare") != before


def test_a_model_of_a_hub_is_no_file(tmp_path):
    job = in_folder(build_shipped_job("minilm_embedding"), tmp_path)
    loss = job.recipe.loss.model_copy(update={"type": "gist", "guide": "BAAI/bge-m3"})
    stage = build_plan(in_folder(job, tmp_path, loss=loss)).stage("train")
    assert stage.inputs == ("data/train.jsonl", "data/validation.jsonl")
