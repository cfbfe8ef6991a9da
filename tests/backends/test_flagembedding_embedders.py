"""FlagEmbedding's embedder trainers as rendered commands, and what is refused before anything runs."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from orchestrator.backends import BACKENDS
from orchestrator.backends.models import BaseModel
from orchestrator.errors import RecipeError
from orchestrator.machine.hardware import Hardware
from orchestrator.plan.pipeline import build_plan
from tests.backends.test_sentence_transformers_embedders import write_embedder
from tests.jobs import build_imagined_job

BGE = BaseModel("BAAI/bge-base-en-v1.5", "BAAI/bge-base-en-v1.5", None, "encoder", None)
M3 = BaseModel("BAAI/bge-m3", "BAAI/bge-m3", None, "encoder", None)
QWEN = BaseModel("Qwen/Qwen3-Embedding-0.6B", "Qwen/Qwen3-Embedding-0.6B", None, "decoder", None)
ICL = BaseModel("BAAI/bge-en-icl", "BAAI/bge-en-icl", None, "decoder", None)
PICKLE = "model={path: BAAI/bge-m3, allow_pickle: true}"


def make(model=BGE, *overrides, gpus=1):
    return build_imagined_job("bge_embedding", model, Hardware("cuda", gpus, bf16=True), overrides=overrides)


def plan_of(model=BGE, *overrides, gpus=1):
    return build_plan(make(model, *overrides, gpus=gpus))


def train_argv(model=BGE, *overrides, gpus=1):
    return list(plan_of(model, *overrides, gpus=gpus).stage("train").command.argv)


def value_of(argv, flag):
    return argv[argv.index(flag) + 1]


def refuse(model, *overrides, gpus=1):
    """Return the problems of a recipe with these overrides, by the key that is named in them."""
    try:
        job = make(model, *overrides, gpus=gpus)
    except RecipeError as error:
        return dict.fromkeys((override.partition("=")[0] for override in overrides), error.problems[0])
    return {".".join(key): problem for key, problem in job.backend.check_job(job)}


def test_the_backend_is_another_for_embedding_models_and_the_same_for_rerankers():
    backend = BACKENDS["flagembedding"]
    assert backend.for_task("reranker") is backend
    own = backend.for_task("embedding")
    assert (own.name, own.tasks) == ("flagembedding", ("embedding",))
    assert "temperature" in own.arguments
    assert "temperature" not in backend.arguments
    assert {"temperature", "query_instruction_for_rerank"} <= backend.json_schema().keys()


@pytest.mark.parametrize(
    ("model", "overrides", "module", "pooling"),
    [
        (BGE, (), "encoder_only.base", "cls"),
        (M3, (), "encoder_only.base", "cls"),
        (M3, ("train.unified_finetuning=true", PICKLE), "encoder_only.m3", "cls"),
        (QWEN, (), "decoder_only.base", "last_token"),
        (QWEN, ("train.retrieval_use_examples=false",), "decoder_only.icl", "last_token"),
        (ICL, (), "decoder_only.icl", "last_token"),
    ],
)
def test_the_model_and_its_heads_decide_the_trainer_and_the_pooling(model, overrides, module, pooling):
    argv = train_argv(model, *overrides)
    assert value_of(argv, "-m") == f"FlagEmbedding.finetune.embedder.{module}"
    assert value_of(argv, "--sentence_pooling_method") == pooling
    assert ("--lora_rank" in argv) == (model in {QWEN, ICL})


def spec_of(plan, name):
    return json.loads(next(file.text for file in plan.files if file.path == f"files/scoring.{name}.json"))


def test_what_stands_behind_queries_in_training_does_so_in_measuring():
    plan = plan_of(ICL)
    argv = list(plan.stage("train").command.argv)
    assert value_of(argv, "--icl_suffix_str") == "\n<response>"
    assert value_of(argv, "--same_dataset_within_batch") == "True"
    assert value_of(argv, "--train_data").endswith("/data/train/000-reranker-train.jsonl")
    assert "--by-source" in plan.stage("prepare").command.argv
    assert plan.stage("train").resume is None
    for name in ("native", "packaged"):
        assert spec_of(plan, name)["query_suffix"] == "\n<response>"
    other = plan_of(QWEN, r'train.icl_suffix_str="\n<answer>"')
    assert spec_of(other, "packaged")["query_suffix"] == "\n<answer>"
    assert spec_of(other, "native")["query_suffix"] == ""  # its authors put nothing there
    assert "query_suffix" not in spec_of(plan_of(QWEN), "packaged")


@pytest.mark.parametrize(("said", "explained"), [(r"'\n<answer>'", True), (r'"\n<answer>"', False)])
def test_a_line_break_that_flagembedding_would_not_make_is_explained(said, explained):
    notes = [note for note in plan_of(ICL, f"train.icl_suffix_str={said}").notes if note.value == "as it stands"]
    assert [note.argument for note in notes] == (["icl_suffix_str"] if explained else [])


def test_batches_of_one_file_are_no_choice_where_queries_have_examples():
    problem = refuse(ICL, "train.same_dataset_within_batch=false")["train.same_dataset_within_batch"]
    assert "ends at once" in problem.message
    assert refuse(ICL, "train.same_dataset_within_batch=true") == {}


def test_the_heads_of_bge_m3_are_measured_apart_before_and_after():
    heads = plan_of(M3, "train.unified_finetuning=true", PICKLE)
    kinds = [stage.kind for stage in heads.stages]
    parts = ["sparse", "colbert", "sum"]
    place = kinds.index("train")
    assert kinds[place - 3 : place] == [f"baseline-{part}" for part in parts]
    assert kinds[kinds.index("evaluate") + 1 : -1] == [f"baseline-tuned-{part}" for part in parts]
    assert not any("sparse" in stage.kind for stage in plan_of(M3).stages)


def test_rows_prompts_are_read_because_an_instruction_is_always_there():
    argv = train_argv(BGE, "train.query_instruction_for_retrieval=''")
    assert value_of(argv, "--query_instruction_for_retrieval") == ""


def test_what_stands_in_front_of_texts_in_training_does_so_in_measuring_and_in_counting():
    plan = plan_of(
        BGE,
        "train.query_instruction_for_retrieval=Find it",
        r"train.query_instruction_format='Instruct: {}\nQuery: {}'",
        "train.passage_instruction_for_retrieval='passage: '",
    )
    spec = next(file.text for file in plan.files if file.path == "files/scoring.packaged.json")
    assert '"query_prompt": "Instruct: Find it\\nQuery: "' in spec
    assert '"document_prompt": "passage: "' in spec
    prepare = list(plan.stage("prepare").command.argv)
    assert value_of(prepare, "--query-instruction") == "Instruct: Find it\nQuery: "
    assert "--apart" in prepare


def test_a_batch_is_part_of_the_loss_and_cannot_be_split():
    problem = refuse(BGE, "watch.on_oom=retry")["watch.on_oom"]
    assert "rows of a batch are negatives" in problem.message


def test_it_resumes_with_deepspeed_and_not_where_batches_are_drawn_by_data_set():
    assert plan_of().stage("train").resume
    assert not plan_of(BGE, "deepspeed=null").stage("train").resume
    assert not plan_of(BGE, "train.same_dataset_within_batch=true").stage("train").resume


@pytest.mark.parametrize(
    ("gpus", "overrides", "candidates"), [(1, (), 64), (2, ("train.negatives_cross_device=true",), 128)]
)
def test_the_loss_of_a_model_that_knows_nothing_counts_the_documents_of_the_batch(gpus, overrides, candidates):
    from math import log

    assert plan_of(BGE, *overrides, gpus=gpus).stage("train").flat_loss == pytest.approx(log(candidates))


@pytest.mark.parametrize(
    ("model", "overrides", "key", "says"),
    [
        (M3, ("train.unified_finetuning=true",), "model", "are pickles"),
        (BGE, ("train.lora_rank=8",), "train.lora_rank", "has no lora_rank"),
        (QWEN, ("train.colbert_dim=8",), "train.colbert_dim", "has no colbert_dim"),
        (BGE, ("train.normalize_embeddings=false",), "train.normalize_embeddings", "cosines are measured"),
        (BGE, ("train.use_mrl=true",), "train.use_mrl", "without mrl_dims"),
        (BGE, ("train.temperature=0",), "train.temperature", "above 0"),
        (BGE, ("train.query_instruction_format='{}{} now'",), "train.query_instruction_format", "as it is"),
        (BGE, ("train.train_sampling_strategy=group_by_length",), "train.train_sampling_strategy", "ends the training"),
        (BGE, ("train.train_group_size=1",), "train.train_group_size", "at least 2"),
        (BGE, ("train.query_instruction_for_rerank=x",), "train.query_instruction_for_rerank", "unknown argument"),
        (BGE, ("loss=infonce",), "loss", "have no loss"),
        (BGE, ("data.instruction=x",), "data.instruction", "have no instruction"),
        (
            BGE,
            ("train.negatives_cross_device=true",),
            "train.negatives_cross_device",
            "no other's negatives",
        ),
        (
            M3,
            ("train.unified_finetuning=true", PICKLE, "train.sub_batch_size=2"),
            "train.sub_batch_size",
            "not put together",
        ),
    ],
)
def test_what_would_break_or_be_lost_is_refused_with_a_way_out(model, overrides, key, says):
    problem = refuse(model, *overrides)[key]
    assert says in problem.message
    assert problem.hint or key == "train.train_group_size"


@pytest.mark.parametrize("local", [True, False])
def test_layers_behind_the_pooling_are_refused_before_any_training_and_not_after_it(tmp_path, local):
    model = BaseModel("sentence-transformers/LaBSE", "sentence-transformers/LaBSE", None, "encoder", None)
    if local:
        write_embedder(tmp_path / "own", "Pooling", "Dense", "Normalize")
        model = replace(model, name="own", folder=tmp_path / "own", architectures=("BertModel",))
    problem = refuse(model, "train.learning_rate=1e-5", "model=own")["model"]
    assert "layers behind its pooling" in problem.message
    assert problem.hint.startswith("say backend: sentence-transformers")
    write_embedder(tmp_path / "plain", "Pooling", "Normalize")
    plain = replace(model, name="plain", folder=tmp_path / "plain", architectures=("BertModel",))
    assert refuse(plain, "train.learning_rate=1e-5") == {}


@pytest.mark.parametrize(
    "said", ["use_self_distill=true", "self_distill_start_step=4", "colbert_dim=8", "fix_encoder=true"]
)
def test_what_is_of_the_heads_is_refused_where_they_are_not_trained(said):
    name = said.partition("=")[0]
    problem = refuse(M3, f"train.{said}", PICKLE)[f"train.{name}"]
    assert "without unified_finetuning neither is trained" in problem.message
    assert problem.hint == "say unified_finetuning: true, or remove it"
    assert refuse(M3, f"train.{said}", PICKLE, "train.unified_finetuning=true") == {}


def test_a_kind_of_distillation_without_one_is_said_to_be_unused():
    def explained(*overrides):
        return [note.value for note in plan_of(BGE, *overrides).notes if note.argument == "kd_loss_type"]

    assert "not used" in explained("train.kd_loss_type=m3_kd_loss")
    assert "not used" not in explained("train.kd_loss_type=m3_kd_loss", "train.knowledge_distillation=true")


def test_a_lora_of_an_encoder_is_refused_with_the_backend_that_has_it():
    assert refuse(BGE, "train.lora_rank=8")["train.lora_rank"].hint.startswith("say backend: sentence-transformers")


def test_matryoshka_sizes_beyond_the_vector_are_refused():
    job = make(replace(BGE, hidden_size=768), "train.use_mrl=true", "train.mrl_dims=[1024, 256]")
    ((key, problem),) = job.backend.check_job(job)
    assert key == ("train", "mrl_dims")
    assert "768" in problem.message
