"""The FlagEmbedding backend renders what its trainers understand, and refuses what they would get wrong."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from orchestrator.backends import BACKENDS
from orchestrator.backends.arguments import load_arguments
from orchestrator.backends.models import BaseModel
from orchestrator.machine.hardware import CPU, Hardware
from orchestrator.plan.pipeline import build_plan
from tests.jobs import build_imagined_job

BACKEND = BACKENDS["flagembedding"]


def train_argv(job) -> list[str]:
    return list(build_plan(job).stage("train").command.argv)


def value_of(argv: list[str], name: str) -> str:
    return argv[argv.index(f"--{name}") + 1]


def refusals(job) -> dict[tuple[str, ...], str]:
    return {key: problem.message for key, problem in BACKEND.check_job(job)}


def test_every_rendered_argument_is_one_that_the_trainer_has(make_job):
    known = load_arguments("flagembedding.decoder_only").keys()
    argv = train_argv(make_job())
    flags = {word[2:] for word in argv[argv.index("-m", 3) :] if word.startswith("--")}
    assert len(flags) > 20
    assert flags <= known


def test_the_model_type_and_both_instructions_are_always_rendered(make_job):
    argv = train_argv(make_job())
    assert value_of(argv, "model_type") == "decoder"
    assert value_of(argv, "query_instruction_for_rerank") == "A: "
    assert value_of(argv, "passage_instruction_for_rerank") == "B: "


def test_instructions_of_the_recipe_reach_training_and_scoring_alike(make_job):
    plan = build_plan(make_job("train.query_instruction_for_rerank='Q: '"))
    assert value_of(list(plan.stage("train").command.argv), "query_instruction_for_rerank") == "Q: "
    assert json.loads(plan.file("files/scoring.trained-format.json").text)["query_instruction"] == "Q: "


@pytest.mark.parametrize(
    ("transformers", "given", "flag", "value"),
    [
        ("5.19.0", "warmup_ratio=0.1", "warmup_steps", "0.1"),
        ("4.57.1", "warmup_ratio=0.1", "warmup_ratio", "0.1"),
        ("4.57.1", "warmup_steps=0.1", "warmup_ratio", "0.1"),
        ("4.57.1", "warmup_steps=100", "warmup_steps", "100"),
        ("5.19.0", "warmup_steps=100", "warmup_steps", "100"),
        ("5.19.0", "no_cuda=true", "use_cpu", "True"),
        ("5.19.0", "per_gpu_train_batch_size=3", "per_device_train_batch_size", "3"),
    ],
)
def test_old_and_new_spellings_are_rendered_as_the_installed_version_wants_them(
    make_job, transformers, given, flag, value
):
    job = make_job(f"train.{given}", versions={"transformers": transformers})
    name = given.split("=")[0]
    drop = {"warmup_ratio"} if name == "warmup_steps" else set()
    drop |= {"per_device_train_batch_size"} if name.startswith("per_gpu") else set()
    train = {key: item for key, item in job.recipe.train.items() if key not in drop}
    job = _with_train(job, train)
    assert refusals(job) == {}
    argv = train_argv(job)
    assert value_of(argv, flag) == value
    assert name == flag or f"--{name}" not in argv


@pytest.mark.parametrize("transformers", ["5.19.0", "4.57.1"])
def test_rows_without_a_length_are_not_ordered_by_it(make_job, transformers):
    job = make_job("train.group_by_length=true", versions={"transformers": transformers})
    assert ["ends the training" in message for message in refusals(job).values()] == [True]


@pytest.mark.parametrize("name", ["overwrite_output_dir", "save_safetensors"])
def test_flags_that_transformers_dropped_are_left_out_and_explained(make_job, name):
    plan = build_plan(make_job(f"train.{name}=true"))
    assert f"--{name}" not in plan.stage("train").command.argv
    assert any(note.argument == name and note.value == "(not rendered)" for note in plan.notes)


def test_a_logging_folder_becomes_an_environment_variable(make_job):
    command = build_plan(make_job("train.logging_dir=/logs")).stage("train").command
    assert dict(command.env)["TENSORBOARD_LOGGING_DIR"] == "/logs"
    assert "--logging_dir" not in command.argv


@pytest.mark.parametrize(
    ("overrides", "key", "message"),
    [
        (["train.warmup_steps=10"], ("train", "warmup_ratio"), "both are given"),
        (["train.warmup_ratio=1.5"], ("train", "warmup_ratio"), "a share of the steps"),
        (["train.save_safetensors=false"], ("train", "save_safetensors"), "pickled"),
        (["train.use_lora=false"], ("merge",), "no LoRA to merge"),
        (["train.use_lora=false", "merge=false", "train.save_merged_lora_model=true"], ("train", "save_merged_lora_model"), "no LoRA"),
        (["train.sep_token=' '"], ("train", "sep_token"), "newline"),
        (["train.eval_strategy=steps"], ("train", "eval_strategy"), "do not evaluate"),
        (["train.load_best_model_at_end=true"], ("train", "load_best_model_at_end"), "none is best"),
        (["train.bf16=true", "train.fp16=true"], ("train", "fp16"), "exclude each other"),
        (["train.model_type=encoder"], ("train", "model_type"), "decoder-only"),
        (["train.query_max_len=16", "train.passage_max_len=16"], ("train", "passage_max_len"), "no room"),
    ],
)  # fmt: skip
def test_what_the_trainer_would_get_wrong_is_refused(make_job, overrides, key, message):
    assert message in refusals(make_job(*overrides))[key]


def test_zero_3_is_refused(make_job, tmp_path):
    path = tmp_path / "zero3.json"
    path.write_text('{"zero_optimization": {"stage": 3}}')
    assert "empty weights" in refusals(make_job(f"deepspeed={path}"))[("deepspeed",)]


def test_a_deepspeed_file_that_is_no_json_is_refused(make_job):
    job = replace(make_job(), deepspeed_text="{")
    assert "not a DeepSpeed configuration" in refusals(job)[("deepspeed",)]


def test_half_precision_without_a_gpu_is_refused(make_job):
    assert "needs a GPU" in refusals(make_job("train.bf16=true", hardware=CPU))[("train", "bf16")]


@pytest.mark.parametrize(
    ("hardware", "rendered", "absent"),
    [
        (Hardware("cuda", 1, bf16=True), {"bf16"}, {"fp16", "use_cpu"}),
        (Hardware("cuda", 1, bf16=False), {"fp16"}, {"bf16", "use_cpu"}),
        (CPU, {"use_cpu"}, {"bf16", "fp16"}),
    ],
)
def test_the_precision_follows_the_hardware(make_job, hardware, rendered, absent):
    argv = train_argv(make_job(hardware=hardware))
    assert {f"--{name}" for name in rendered} <= set(argv)
    assert not {f"--{name}" for name in absent} & set(argv)


def test_one_process_a_gpu_is_started_unless_the_recipe_says_otherwise(make_job):
    four = Hardware("cuda", 4, bf16=True)
    assert value_of(train_argv(make_job(hardware=four)), "nproc_per_node") == "4"
    assert value_of(train_argv(make_job("launch.nproc_per_node=2", hardware=four)), "nproc_per_node") == "2"


def test_every_argument_of_the_dataclasses_can_be_given(make_job):
    samples = {"int": 4, "float": 0.5, "bool": True, "str": "x", "list[str]": ["x"], "dict": {"a": 1}, "json": {"a": 1}}
    for name, argument in BACKEND.arguments.items():
        if name in BACKEND.reserved:
            continue
        value = argument.choices[0] if argument.choices else samples[argument.type]
        assert BACKEND.check_train({name: value}) == [], name
        if name in load_arguments("flagembedding.decoder_only"):
            argv = train_argv(_with_train(make_job(), {name: value}))
            assert f"--{name}" in argv, name


def test_an_encoder_has_no_lora_arguments_no_merge_and_no_instructions(make_job):
    job = make_job(family="encoder", native="bi-encoder", name="demo_reranker")
    plan = build_plan(job)
    argv = plan.stage("train").command.argv
    assert "FlagEmbedding.finetune.reranker.encoder_only.base" in argv
    assert "--lora_rank" not in argv
    assert "--query_instruction_for_rerank" not in argv
    assert plan.stage("merge") is None
    assert refusals(make_job("train.lora_rank=8", family="encoder", name="demo_reranker")).keys() == {
        ("train", "lora_rank")
    }


def test_resume_needs_deepspeed(make_job):
    assert build_plan(make_job()).stage("train").resume is not None
    assert build_plan(make_job("deepspeed=null")).stage("train").resume is None


def test_an_encoder_is_continued_through_deepspeed_and_not_without():
    assert build_plan(bge_job()).stage("train").resume.flag == "--resume_from_checkpoint"
    assert build_plan(bge_job("deepspeed=null")).stage("train").resume is None


def test_a_teacher_s_scores_are_needed_once_they_are_learnt():
    plan = build_plan(bge_job("train.knowledge_distillation=true"))
    assert value_of(list(plan.stage("train").command.argv), "knowledge_distillation") == "True"
    assert "--needs-scores" in plan.stage("prepare").command.argv
    assert any("logits, not probabilities" in note.why for note in plan.notes)
    assert "--needs-scores" not in build_plan(bge_job()).stage("prepare").command.argv


def test_a_teacher_whose_scores_nobody_learns_is_refused():
    found = refusals(bge_job("teacher=Qwen/Qwen3-Reranker-0.6B"))
    assert "not learnt" in found[("teacher",)]
    assert refusals(bge_job("teacher=Qwen/Qwen3-Reranker-0.6B", "train.knowledge_distillation=true")) == {}


@pytest.mark.parametrize(
    ("overrides", "key", "message"),
    [
        (["data.max_label=2"], ("data", "max_label"), "no labels to scale"),
        (["launch.distributed=fsdp"], ("launch", "distributed"), "not started with FSDP"),
        (["loss=pairwise_ranknet"], ("loss",), "have no loss"),
        (["train.lr_scheduler_type=cosine"], ("train", "lr_scheduler_type"), "a linear decay, would replace"),
    ],
)
def test_what_an_encoder_s_training_would_ignore_is_refused(overrides, key, message):
    assert message in refusals(bge_job(*overrides))[key]


def test_a_deepspeed_file_without_a_scheduler_leaves_the_recipe_s_own():
    job = bge_job("train.lr_scheduler_type=cosine", "deepspeed=zero0")
    assert refusals(job) == {}
    assert "files/ds_config.json" in {file.path for file in build_plan(job).files}


def test_a_smoke_run_has_the_same_stages_and_flags_and_only_small_numbers(make_job):
    full, smoke = build_plan(make_job()), build_plan(make_job(smoke=True))
    assert [stage.kind for stage in smoke.stages if stage.kind != "tiny-model"] == [stage.kind for stage in full.stages]
    assert "--deepspeed" in smoke.stage("train").command.argv
    assert value_of(list(smoke.stage("train").command.argv), "lora_rank") == "8"
    assert value_of(list(smoke.stage("train").command.argv), "num_train_epochs") == "2"
    assert smoke.recipe["gate"] == {}


def bge_job(*overrides: str):
    model = BaseModel("BAAI/bge-reranker-v2-m3", "BAAI/bge-reranker-v2-m3", None, "encoder", "cross-encoder")
    return build_imagined_job("bge_reranker", model, Hardware("cuda", 1, bf16=True), overrides=overrides)


def _with_train(job, train):
    return replace(job, recipe=job.recipe.model_copy(update={"train": train}))


# Speedups


def test_speedups_stand_in_the_command_and_none_leaves_the_trainers_own(make_job):
    auto, none = train_argv(make_job()), train_argv(make_job("speedups=none"))
    start = auto.index("train_flagembedding") - 1
    assert auto[start + 1 : start + 5] == ["train_flagembedding", "--speedups", "last_logits", "trim_padding"]
    assert auto[:start] + auto[start + 5 :] == none
    assert none[none.index("--nproc_per_node") + 2 :][:2] == ["-m", "FlagEmbedding.finetune.reranker.decoder_only.base"]


def test_a_list_of_speedups_is_taken_as_it_is(make_job):
    job = make_job("speedups=[last_logits]")
    assert refusals(job) == {}
    assert value_of(train_argv(job), "speedups") == "last_logits"
    note = next(note for note in build_plan(job).notes if note.argument == "speedups")
    assert (note.value, note.origin) == ("last_logits", "recipe")


def test_a_speedup_that_the_trainer_does_not_know_is_refused(make_job):
    job = make_job("speedups=[last_logits, warp]")
    ((key, problem),) = BACKEND.check_job(job)
    assert key == ("speedups",)
    assert "know no speedup 'warp' here" in problem.message
    assert problem.hint == "it knows last_logits, trim_padding"


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_speedup_of_another_trainer_is_refused_and_auto_is_not(make_job, backend):
    recipe = {"flagembedding": "bge_embedding", "swift": "qwen3_sft_lora", "sentence-transformers": "bge_pointwise"}
    job, asked = (make_job(*given, name=recipe[backend]) for given in ((), ("speedups=[last_logits]",)))
    assert job.speedups == ()
    assert ("speedups",) not in {key for key, _ in job.backend.check_job(job)}
    assert "speedups" not in " ".join(train_argv(job))
    problem = dict(asked.backend.check_job(asked))["speedups",]
    assert problem.hint == "remove speedups"
