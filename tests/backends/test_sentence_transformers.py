"""sentence-transformers' trainer as it is configured: every setting written down, nothing left to the worker."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from orchestrator.backends import BACKENDS
from orchestrator.backends.arguments import load_arguments
from orchestrator.backends.models import BaseModel
from orchestrator.backends.sentence_transformers import LORA, WORKER_ARGUMENTS
from orchestrator.errors import RecipeError
from orchestrator.machine.hardware import CPU, Hardware
from orchestrator.plan.pipeline import build_plan, shrink_job
from tests.jobs import RECIPES, TESTED, build_imagined_job

BACKEND = BACKENDS["sentence-transformers"]
GPU = Hardware("cuda", 1, bf16=True, names=("NVIDIA A100",))
TWO = Hardware("cuda", 2, bf16=True)
MODELS = {
    "bge_pointwise": BaseModel("BAAI/bge-reranker-large", "BAAI/bge-reranker-large", None, "encoder", "cross-encoder"),
    "bert_pointwise": BaseModel("hfl/chinese-roberta-wwm-ext", "hfl/chinese-roberta-wwm-ext", None, "encoder", None),
    "reranker_lora": BaseModel("BAAI/bge-reranker-v2-m3", "BAAI/bge-reranker-v2-m3", None, "encoder", "cross-encoder"),
    "bert_ranknet": BaseModel("hfl/chinese-roberta-wwm-ext", "hfl/chinese-roberta-wwm-ext", None, "encoder", None),
    "llm_pointwise": BaseModel("Qwen/Qwen2.5-1.5B", "Qwen/Qwen2.5-1.5B", None, "decoder", None),
    "distill_llm_to_bert": BaseModel(
        "hfl/chinese-roberta-wwm-ext", "hfl/chinese-roberta-wwm-ext", None, "encoder", None
    ),
}
LOSSES = {
    "pointwise_bce": "cross-encoder-pairs",
    "pointwise_mse": "cross-encoder-pairs",
    "pairwise_ranknet": "cross-encoder-lists",
    "listwise_ce": "cross-encoder-lists",
    "lambda_loss": "cross-encoder-lists",
    "list_mle": "cross-encoder-lists",
    "plist_mle": "cross-encoder-lists",
    "mnrl": "cross-encoder-lists",
    "cached_mnrl": "cross-encoder-lists",
    "list_net": "cross-encoder-lists",
    "adr_mse": "cross-encoder-lists",
    "margin_mse": "cross-encoder-margins",
}


def make_job(recipe_name, /, *overrides, hardware=GPU, versions=TESTED, smoke=False, **model):
    base = replace(MODELS[recipe_name], **model)
    hardware = CPU if smoke else hardware
    return build_imagined_job(recipe_name, base, hardware, overrides=overrides, versions=versions, smoke=smoke)


def training(job):
    return BACKEND.build_training(job, model=job.model.location, data="/runs/golden/data", output="/runs/golden/output")


def config_of(job):
    return json.loads(training(job).files[0].text)


def problems(job):
    return {".".join(map(str, key)): problem for key, problem in BACKEND.check_job(job)}


@pytest.mark.parametrize("name", MODELS)
def test_every_shipped_recipe_fits_together(name):
    assert problems(make_job(name)) == {}
    assert problems(make_job(name, hardware=CPU)) == {}
    assert problems(make_job(name, hardware=TWO)) == {}


def test_the_whole_config_of_a_recipe_reads_as_the_worker_expects_it():
    config = config_of(make_job("bge_pointwise"))
    arguments = config.pop("arguments")
    assert config == {
        "version": 1,
        "model": "BAAI/bge-reranker-large",
        "family": "encoder",
        "trust_remote_code": False,
        "loss": {
            "type": "pointwise_bce",
            "graded": False,
            "activation": "identity",
            "pos_weight": None,
            "k": None,
        },
        "form": "cross-encoder-pairs",
        "train": "/runs/golden/data/train.jsonl",
        "validation": None,
        "max_length": 512,
        "num_labels": 1,
        "format": None,
        "shuffle_ratio": 0.0,
        "stable_ratio": None,
        "early_stopping": None,
        "deterministic": True,
    }
    assert arguments == {
        "output_dir": "/runs/golden/output",
        "learning_rate": 1e-5,
        "num_train_epochs": 3,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 8,
        "seed": 42,
        "warmup_steps": 0.1,
        "lr_scheduler_type": "cosine",
        "weight_decay": 0.01,
        "dataloader_drop_last": False,
        "logging_steps": 10,
        "save_strategy": "epoch",
        "eval_strategy": "no",
        "save_total_limit": 2,
        "report_to": "none",
        "ddp_timeout": 1800,
        "bf16": True,
        "full_determinism": True,
        "dataloader_num_workers": 0,
        "tf32": False,
    }


@pytest.mark.parametrize("name", MODELS)
def test_every_argument_in_the_config_is_one_that_the_trainer_has(name):
    known = load_arguments("sentence_transformers").keys()
    for hardware in (GPU, TWO, CPU):
        assert config_of(make_job(name, hardware=hardware))["arguments"].keys() <= known


def test_the_command_is_the_worker_under_torchrun_and_continues_from_a_checkpoint():
    stage = build_plan(make_job("bert_ranknet", hardware=TWO)).stage("train")
    argv = list(stage.command.argv)
    assert argv[:5] == ["/env/bin/python", "/orch/orchestrator/workers", "launch", "--nproc_per_node", "2"]
    assert argv[5:] == [
        "--checkpoints",
        "/runs/golden/stages/03-train/output",
        "/orch/orchestrator/workers",
        "train_cross_encoder",
        "--config",
        "/runs/golden/files/train.json",
    ]
    assert stage.resume.flag == "--resume_from_checkpoint"
    assert stage.resume.checkpoints.endswith("/output")
    assert stage.files == ("files/train.json",)


@pytest.mark.parametrize(("loss", "form"), LOSSES.items())
def test_each_loss_has_its_form_of_rows(loss, form):
    job = make_job("bert_ranknet", f"loss={loss}", "train.train_group_size=10")
    if form != "cross-encoder-lists":
        train = {key: value for key, value in job.recipe.train.items() if key != "train_group_size"}
        job = replace(job, recipe=job.recipe.model_copy(update={"train": train}))
    assert problems(job) == {}
    assert BACKEND.data_form(job) == form
    assert config_of(job)["form"] == form
    assert training(job).prepare["loss"] == loss


def test_a_recipe_without_a_loss_judges_each_document_alone():
    job = make_job("bert_pointwise", "loss=null")
    assert problems(job) == {}
    assert config_of(job)["loss"]["type"] == "pointwise_bce"
    assert any(note.argument == "loss" and note.origin == "default" for note in training(job).notes)


def test_the_loss_s_settings_reach_the_worker():
    assert config_of(make_job("bert_pointwise", "loss.pos_weight=4"))["loss"]["pos_weight"] == 4
    job = make_job("bert_ranknet", "loss={type: lambda_loss, k: 10}")
    assert config_of(job)["loss"]["k"] == 10
    job = make_job("distill_llm_to_bert", "teacher=null", "loss={type: margin_mse, activation: sigmoid}")
    assert config_of(job)["loss"]["activation"] == "sigmoid"


def test_prepare_is_told_what_the_loss_needs():
    flags = training(make_job("bert_ranknet", "loss={type: listwise_ce, graded: true}")).prepare
    assert flags == {
        "max-tokens": 512,
        "truncation": "cut",
        "validation-ratio": 0.05,
        "loss": "listwise_ce",
        "graded": True,
        "train-group-size": 10,
    }
    flags = training(make_job("distill_llm_to_bert")).prepare
    assert flags["target"] == "teacher"
    assert flags["needs-scores"] is True
    flags = training(make_job("distill_llm_to_bert", "teacher=null", "loss={type: margin_mse, target: label}")).prepare
    assert flags["target"] == "label"
    assert "needs-scores" not in flags
    assert "target" not in training(make_job("bge_pointwise")).prepare


def test_several_processes_each_need_a_validation_row_and_drop_incomplete_batches():
    several = training(make_job("bert_ranknet", hardware=TWO))
    assert several.prepare["min-validation"] == 2
    assert several.full_batch_rows == 4
    assert "min-validation" not in training(make_job("bert_ranknet")).prepare
    assert training(make_job("bert_ranknet")).full_batch_rows == 1
    assert config_of(make_job("bert_ranknet", hardware=TWO))["arguments"]["dataloader_drop_last"] is True


def test_an_encoder_is_scored_as_the_pair_that_it_was_trained_on():
    assert training(make_job("bge_pointwise")).scoring == {
        "scorer": "cross-encoder",
        "tool": "sentence-transformers",
        "prompt": None,
        "max_length": 512,
    }


def test_an_llm_is_scored_in_the_written_formats_of_its_training():
    job = make_job("llm_pointwise", "train.seq=' | '")
    formats = {
        "query_format": "query: {}",
        "document_format": "document: {}",
        "seq": " | ",
        "special_token": "</s>",
    }
    assert config_of(job)["format"] == formats
    spec = {"scorer": "formatted-head", "tool": "sentence-transformers", "max_length": 512}
    assert training(job).scoring == spec | formats


def test_an_llm_s_formats_are_shown_where_the_recipe_gives_none():
    job = make_job("bge_pointwise", family="decoder")
    assert config_of(job)["format"]["query_format"] == "query: {}"
    assert any(note.argument == "special_token" and note.origin == "default" for note in training(job).notes)


def test_validation_rows_make_the_best_checkpoint_the_model():
    job = make_job("bert_pointwise", "checkpoint=null")
    config = config_of(job)
    assert config["validation"] == "/runs/golden/data/validation.jsonl"
    assert config["early_stopping"] == {"patience": 2, "threshold": 0.0}
    assert config["arguments"]["eval_strategy"] == config["arguments"]["save_strategy"] == "epoch"
    assert config["arguments"]["metric_for_best_model"] == "eval_loss"
    assert config["arguments"]["greater_is_better"] is False
    assert training(job).weights == "/runs/golden/output/best"
    assert training(job).outputs == ("/runs/golden/output/best/config.json",)


@pytest.mark.parametrize(
    ("overrides", "weights", "limit"),
    [
        (["checkpoint=last"], "last", 2),
        (["checkpoint=30"], "checkpoint-30", 100),
        (["checkpoint=best"], "best", 2),
    ],
)
def test_the_recipe_says_which_checkpoint_becomes_the_model(overrides, weights, limit):
    job = make_job("bert_pointwise", *overrides)
    assert training(job).weights == f"/runs/golden/output/{weights}"
    assert config_of(job)["arguments"]["save_total_limit"] == limit


def test_without_validation_rows_the_last_checkpoint_is_the_model():
    assert training(make_job("bge_pointwise")).weights == "/runs/golden/output/last"


@pytest.mark.parametrize("given", ["save_steps", "eval_steps"])
def test_saving_and_evaluating_stand_at_the_same_steps(given):
    arguments = config_of(make_job("bert_pointwise", f"train.{given}=20"))["arguments"]
    assert arguments["save_strategy"] == arguments["eval_strategy"] == "steps"
    assert arguments["save_steps"] == arguments["eval_steps"] == 20


def test_a_stable_part_turns_the_schedule_into_one_that_has_it():
    config = config_of(make_job("bert_pointwise"))
    assert config["stable_ratio"] == 0.4
    assert config["arguments"]["lr_scheduler_type"] == "warmup_stable_decay"
    assert "stable_ratio" not in config["arguments"]


@pytest.mark.parametrize(
    ("transformers", "given", "name", "value"),
    [
        ("5.19.0", "warmup_ratio=0.2", "warmup_steps", 0.2),
        ("4.57.1", "warmup_ratio=0.2", "warmup_ratio", 0.2),
        ("5.19.0", "no_cuda=true", "use_cpu", True),
        ("5.19.0", "evaluation_strategy=epoch", "eval_strategy", "epoch"),
        ("5.19.0", "group_by_length=true", "train_sampling_strategy", "group_by_length"),
    ],
)
def test_old_spellings_are_written_as_the_installed_version_wants_them(transformers, given, name, value):
    job = make_job("bert_ranknet", f"train.{given}", versions={"transformers": transformers})
    assert problems(job) == {}
    assert config_of(job)["arguments"][name] == value


@pytest.mark.parametrize(
    ("hardware", "written", "absent"),
    [
        (Hardware("cuda", 1, bf16=True), {"bf16"}, {"fp16", "use_cpu"}),
        (Hardware("cuda", 1, bf16=False), {"fp16"}, {"bf16", "use_cpu"}),
        (CPU, {"use_cpu"}, {"bf16", "fp16", "ddp_backend"}),
    ],
)
def test_the_precision_follows_the_hardware(hardware, written, absent):
    arguments = config_of(make_job("bert_ranknet", hardware=hardware))["arguments"].keys()
    assert written <= arguments
    assert not absent & arguments


def test_several_processes_on_a_cpu_talk_through_gloo():
    job = make_job("bert_ranknet", "launch.nproc_per_node=2", hardware=CPU)
    assert config_of(job)["arguments"]["ddp_backend"] == "gloo"


@pytest.mark.parametrize("name", ["zero0", "zero1", "zero2"])
def test_deepspeed_s_file_is_shipped_and_named_in_the_config(name):
    job = make_job("llm_pointwise", f"deepspeed={name}")
    assert problems(job) == {}
    assert config_of(job)["arguments"]["deepspeed"] == "/runs/golden/files/ds_config.json"
    shipped = json.loads(training(job).files[1].text)
    assert shipped["zero_optimization"]["stage"] == int(name[-1])
    assert not {"optimizer", "scheduler"} & shipped.keys()


def test_deepspeed_on_an_encoder_is_no_problem():
    assert problems(make_job("bge_pointwise", "deepspeed=zero1")) == {}


@pytest.mark.parametrize(
    ("transformers", "fsdp"), [("5.19.0", True), ("5.0.0", "full_shard auto_wrap"), ("4.57.1", "full_shard auto_wrap")]
)
def test_fsdp_shards_an_encoder_layer_by_layer_and_saves_it_whole(transformers, fsdp):
    job = make_job(
        "bge_pointwise", "launch.distributed=fsdp", hardware=TWO,
        versions={"transformers": transformers}, architectures=("XLMRobertaForSequenceClassification",),
    )  # fmt: skip
    assert problems(job) == {}
    arguments = config_of(job)["arguments"]
    assert arguments["fsdp"] == fsdp
    assert arguments["fsdp_config"]["state_dict_type"] == "FULL_STATE_DICT"
    assert arguments["fsdp_config"]["transformer_layer_cls_to_wrap"] == ["XLMRobertaLayer"]


def test_fsdp_leaves_the_layers_of_an_unknown_model_to_the_worker():
    job = make_job("bge_pointwise", "launch.distributed=fsdp", hardware=TWO)
    assert "transformer_layer_cls_to_wrap" not in config_of(job)["arguments"]["fsdp_config"]


def test_ddp_is_what_several_processes_do_anyway():
    job = make_job("bge_pointwise", "launch.distributed=ddp", hardware=TWO)
    assert problems(job) == {}
    assert "fsdp" not in config_of(job)["arguments"]


@pytest.mark.parametrize(
    ("recipe", "overrides", "key", "message"),
    [
        ("bge_pointwise", ["loss=listwise"], "loss", "not one of sentence-transformers'"),
        ("bge_pointwise", ["loss=infonce"], "loss", "not one of sentence-transformers'"),
        ("bge_pointwise", ["loss={type: pointwise_bce, graded: true}"], "loss.graded", "pointwise_bce has no graded"),
        ("bge_pointwise", ["loss={type: pointwise_bce, k: 5}"], "loss.k", "pointwise_bce has no k"),
        ("bge_pointwise", ["loss={type: pointwise_mse, pos_weight: 2}"], "loss.pos_weight", "has no pos_weight"),
        ("bert_ranknet", ["loss={type: pairwise_ranknet, activation: sigmoid}"], "loss.activation", "has no activation"),
        ("bert_ranknet", ["loss={type: listwise_ce, temperature: 0.1}"], "loss.temperature", "has no temperature"),
        ("bge_pointwise", ["train.train_group_size=8"], "train.train_group_size", "learns no lists"),
        ("distill_llm_to_bert", ["loss=pointwise_bce"], "teacher", "computed and not learnt"),
        ("distill_llm_to_bert", ["loss={type: pointwise_bce, target: teacher}"], "loss.target", "logits"),
        ("distill_llm_to_bert", ["loss={type: lambda_loss, target: teacher}"], "loss.target", "logits"),
        ("distill_llm_to_bert", ["loss={type: listwise_ce, target: teacher}"], "loss.target", "no single positive"),
        ("distill_llm_to_bert", ["loss={type: listwise_ce, graded: true, target: teacher}"], "loss.target", "logits"),
        ("distill_llm_to_bert", ["loss={type: margin_mse, activation: sigmoid}"], "loss.activation", "never reaches"),
        ("distill_llm_to_bert", ["loss={type: cached_mnrl, target: teacher}"], "loss.target", "no document"),
        ("bert_ranknet", ["loss=mnrl", "train.per_device_train_batch_size=1"], "train.per_device_train_batch_size", "no other rows"),
        ("bge_pointwise", ["train.query_format='q: {}'"], "train.query_format", "as a pair"),
        ("bge_pointwise", ["train.special_token=x"], "train.special_token", "as a pair"),
        ("bge_pointwise", ["data.instruction=Find it"], "data.instruction", "takes no instruction"),
        ("bge_pointwise", ["merge=true"], "merge", "no LoRA to merge"),
        ("bge_pointwise", ["train.lora_alpha=32"], "train.lora_alpha", "without lora_rank"),
        ("bge_pointwise", ["train.use_dora=true"], "train.use_dora", "without lora_rank"),
        ("reranker_lora", ["launch.distributed=fsdp"], "launch.distributed", "no adapter"),
        ("bge_pointwise", ["train.early_stopping_patience=2"], "train.early_stopping_patience", "needs validation rows"),
        ("bge_pointwise", ["train.eval_steps=10"], "train.eval_steps", "needs validation rows"),
        ("bge_pointwise", ["train.eval_strategy=epoch"], "train.eval_strategy", "no validation rows"),
        ("bge_pointwise", ["checkpoint=best"], "checkpoint", "none is best"),
        ("bge_pointwise", ["train.metric_for_best_model=map"], "train.metric_for_best_model", "needs validation rows"),
        ("bert_ranknet", ["train.metric_for_best_model=spearman"], "train.metric_for_best_model", "is not measured"),
        (
            "bert_ranknet", ["train.metric_for_best_model=ndcg@10", "loss={type: pairwise_ranknet, target: teacher}"],
            "train.metric_for_best_model", "say of none",
        ),
        ("bge_pointwise", ["checkpoint=0"], "checkpoint", "no checkpoint 0"),
        ("bge_pointwise", ["train.save_strategy=no"], "train.save_strategy", "no model to package"),
        ("bge_pointwise", ["train.save_strategy=best"], "train.save_strategy", "continue from"),
        ("bge_pointwise", ["train.save_only_model=true"], "train.save_only_model", "continued"),
        ("bert_ranknet", ["train.early_stopping_threshold=0.1"], "train.early_stopping_threshold", "stops nothing"),
        ("bert_ranknet", ["train.eval_strategy=no"], "train.eval_strategy", "sets rows aside"),
        ("bert_ranknet", ["train.eval_strategy=epoch", "train.save_steps=5"], "train.eval_strategy", "may not be saved"),
        ("bert_ranknet", ["train.save_strategy=epoch", "train.eval_steps=5"], "train.eval_strategy", "may not be saved"),
        ("bert_ranknet", ["train.save_steps=5", "train.eval_steps=2"], "train.eval_steps", "may not be saved"),
        ("bert_pointwise", ["train.lr_scheduler_type=cosine"], "train.lr_scheduler_type", "stable_ratio is a part of"),
        ("bert_pointwise", ["train.lr_scheduler_kwargs={num_decay_steps: 3}"], "train.lr_scheduler_kwargs", "too"),
        ("bert_pointwise", ["train.stable_ratio=0.95"], "train.stable_ratio", "more than all steps"),
        ("bert_ranknet", ["train.lr_scheduler_type=warmup_stable_decay"], "train.lr_scheduler_type", "how long"),
        ("bert_ranknet", ["train.warmup_steps=10"], "train.warmup_ratio", "both are given"),
        ("bge_pointwise", ["train.bf16=true", "train.fp16=true"], "train.fp16", "exclude each other"),
        ("llm_pointwise", ["deepspeed=stage0"], "deepspeed", "optimizer and scheduler would replace"),
        ("llm_pointwise", ["launch.distributed=fsdp", "deepspeed=null"], "launch.distributed", "encoders only"),
        ("llm_pointwise", ["launch.distributed=ddp"], "launch.distributed", "deepspeed shares"),
        ("bge_pointwise", ["launch.distributed=fsdp"], "launch.distributed", "there is one"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_said_before_anything_runs(recipe, overrides, key, message):
    found = problems(make_job(recipe, *overrides))
    assert message in found[key].message
    assert found[key].hint


def test_zero_3_is_refused(tmp_path):
    path = tmp_path / "zero3.json"
    path.write_text('{"zero_optimization": {"stage": 3}}')
    assert "pieces" in problems(make_job("llm_pointwise", f"deepspeed={path}"))["deepspeed"].message


@pytest.mark.parametrize("text", ["{", "[]", '{"zero_optimization": 2}'])
def test_a_deepspeed_file_that_is_none_is_refused(text):
    found = problems(replace(make_job("llm_pointwise"), deepspeed_text=text))
    assert "not a DeepSpeed configuration" in found["deepspeed"].message


def test_half_precision_and_fsdp_need_a_gpu():
    assert "needs a GPU" in problems(make_job("bge_pointwise", "train.bf16=true", hardware=CPU))["train.bf16"].message
    job = make_job("bge_pointwise", "launch.distributed=fsdp", hardware=CPU)
    assert "FSDP needs GPUs" in problems(job)["launch.distributed"].message


def test_several_processes_cannot_keep_the_last_incomplete_batch():
    job = make_job("bge_pointwise", "train.dataloader_drop_last=false", hardware=TWO)
    assert "always drops" in problems(job)["train.dataloader_drop_last"].message


def test_a_model_that_brings_code_is_loaded_only_when_it_is_trusted():
    assert "brings Python code" in problems(make_job("bge_pointwise", brings_code=True))["model"].message
    trusted = make_job("bge_pointwise", brings_code=True, trust_remote_code=True)
    assert problems(trusted) == {}
    assert config_of(trusted)["trust_remote_code"] is True


def test_scores_that_stand_in_the_rows_may_be_learnt_by_any_loss():
    assert problems(make_job("bge_pointwise", "loss={type: pointwise_bce, target: teacher}")) == {}


@pytest.mark.parametrize(
    ("key", "value", "message", "hint"),
    [
        ("lr", 1e-5, "unknown argument 'lr'", "say learning_rate"),
        ("epochs", 3, "unknown argument", "say num_train_epochs"),
        ("batch_size", 3, "unknown argument", "say per_device_train_batch_size"),
        ("max_len", 512, "unknown argument", "say max_length"),
        ("warmup_proportion", 0.1, "unknown argument", "say warmup_ratio"),
        ("stable_proportion", 0.1, "unknown argument", "say stable_ratio"),
        ("save_on_epoch_end", 1, "unknown argument", "save_strategy: epoch"),
        ("num_max_checkpoints", 5, "unknown argument", "say save_total_limit"),
        ("log_interval", 10, "unknown argument", "say logging_steps"),
        ("log_with", "wandb", "unknown argument", "say report_to"),
        ("mixed_precision", "bf16", "unknown argument", "bf16: true"),
        ("shuffle_rate", 0.1, "unknown argument", "say shuffle_ratio"),
        ("loss_type", "point_ce", "is not set here", "`loss:`"),
        ("max_label", 2, "is not set here", "data.max_label"),
        ("min_label", 0, "is not set here", "data.min_label"),
        ("output_dir", "x", "is not set here", "run folder"),
        ("load_best_model_at_end", True, "is not set here", "checkpoint: best"),
        ("full_determinism", True, "is not set here", "deterministic: true"),
        ("fsdp", "full_shard", "is not set here", "launch"),
        ("hub_token", "hf_x", "is not set here", "HF_TOKEN"),
        ("lora_rank", 0, "at least 1", None),
        ("lora_dropout", 1.5, "is a share", None),
        ("use_lora", True, "where lora_rank is given", "say lora_rank: 16"),
        ("tuner_type", "lora", "where lora_rank is given", "say lora_rank: 16"),
        ("learning_rat", 1e-5, "unknown argument", "did you mean 'learning_rate'?"),
        ("num_labels", 2, "one score", "max_label"),
        ("max_length", 4, "at least 8", None),
        ("train_group_size", 1, "at least 2", None),
        ("early_stopping_patience", 0, "at least 1", None),
        ("stable_ratio", 1.5, "is a share", None),
        ("shuffle_ratio", -0.1, "is a share", None),
        ("query_format", "query:", "exactly once", None),
        ("document_format", "{} {}", "exactly once", None),
        ("max_length", "long", "a whole number", None),
    ],
)
def test_a_value_that_is_wrong_by_itself_is_met_with_the_right_one(key, value, message, hint):
    ((found, problem),) = BACKEND.check_train({key: value})
    assert found == key
    assert message in problem.message
    assert hint is None or hint in problem.hint


def test_every_argument_of_trainer_and_worker_can_be_given():
    samples = {
        "int": 8,
        "float": 0.5,
        "bool": True,
        "str": "{}",
        "list[str]": ["x"],
        "dict": {"a": 1},
        "json": {"a": 1},
    }
    for name, argument in BACKEND.arguments.items():
        if name in BACKEND.reserved:
            continue
        value = argument.choices[0] if argument.choices else samples[argument.type]
        value = 1 if name == "num_labels" else value
        assert BACKEND.check_train({name: value}) == [], name
        assert name in BACKEND.json_schema()
    assert WORKER_ARGUMENTS.keys() <= BACKEND.arguments.keys()


def test_without_a_rank_all_weights_are_trained_and_nothing_is_merged():
    job = make_job("bge_pointwise")
    assert not training(job).lora
    assert "lora" not in config_of(job)
    assert "merge" not in [stage.kind for stage in build_plan(job).stages]
    with pytest.raises(RecipeError, match="no LoRA"):
        replace(BACKEND, lora={}).build_merge(job, base="a", adapter="b", output="c")


def test_a_rank_turns_lora_on_and_every_setting_of_the_adapter_is_written_down():
    job = make_job("reranker_lora", "train.use_dora=true", "train.modules_to_save=[embeddings]")
    assert training(job).lora
    assert training(job).outputs == ("/runs/golden/output/best/adapter_model.safetensors",)
    assert config_of(job)["lora"] == {
        "lora_rank": 16,
        "lora_alpha": 32,
        "lora_dropout": 0.05,
        "target_modules": ["query", "key", "value", "dense"],
        "modules_to_save": ["embeddings"],
        "use_dora": True,
        "use_rslora": False,
    }
    assert not set(config_of(job)["arguments"]) & set(LORA)
    plain = config_of(make_job("bge_pointwise", "train.lora_rank=8"))["lora"]
    assert plain == dict.fromkeys(LORA[:-2]) | {
        "lora_rank": 8, "lora_alpha": 8, "lora_dropout": 0.0, "target_modules": ["all-linear"],
        "use_dora": False, "use_rslora": False,
    }  # fmt: skip
    stages = [stage.kind for stage in build_plan(job).stages]
    assert stages[stages.index("train") :] == ["train", "merge", "package", "evaluate", "report"]


def test_the_best_checkpoint_is_found_by_the_loss_or_by_what_the_recipe_names():
    arguments = config_of(make_job("bert_ranknet"))["arguments"]
    assert (arguments["metric_for_best_model"], arguments["greater_is_better"]) == ("eval_loss", False)
    for asked, name in (("ndcg@10", "eval_validation_ndcg@10"), ("map", "eval_validation_map"), ("loss", "eval_loss")):
        job = make_job("bert_ranknet", f"train.metric_for_best_model={asked}")
        assert problems(job) == {}
        arguments = config_of(job)["arguments"]
        assert (arguments["metric_for_best_model"], arguments["greater_is_better"]) == (name, asked != "loss")
        (note,) = [note for note in training(job).notes if note.argument == "metric_for_best_model"]
        assert (note.value, note.origin) == (asked, "recipe")


def test_a_smoke_run_of_lora_names_no_layers_that_a_tiny_model_lacks():
    assert config_of(replace(make_job("reranker_lora"), smoke=True))["lora"]["target_modules"] != ["all-linear"]
    job, _ = shrink_job(make_job("reranker_lora", "train.modules_to_save=[embeddings]", smoke=True))
    config = config_of(job)
    assert config["lora"]["target_modules"] == ["all-linear"]
    assert config["lora"]["modules_to_save"] is None
    assert config["arguments"]["learning_rate"] == 1e-2


@pytest.mark.parametrize("name", MODELS)
def test_a_smoke_run_keeps_every_stage_and_needs_no_gpu(name):
    stages = [stage.kind for stage in build_plan(make_job(name)).stages]
    plan = build_plan(make_job(name, smoke=True))
    assert [stage.kind for stage in plan.stages if not stage.kind.startswith("tiny-")] == stages
    config = json.loads(plan.file("files/train.json").text)
    assert config["arguments"]["num_train_epochs"] == 2
    assert config["arguments"]["save_strategy"] == "epoch"
    assert config["arguments"]["use_cpu"] is True
    assert not {"deepspeed", "fsdp"} & config["arguments"].keys()


def test_the_snapshot_holds_no_path_of_the_machine_that_took_it():
    snapshot = (RECIPES.parent / "orchestrator/backends/arguments/sentence_transformers.json").read_text()
    assert "/work" not in snapshot
    assert "/home" not in snapshot
