"""`swift sft` as it is rendered: old flags in, new flags out, nothing left to ms-swift's own defaults."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from orchestrator.backends import BACKENDS
from orchestrator.backends.models import BaseModel
from orchestrator.errors import RecipeError
from orchestrator.machine.hardware import CPU, Hardware
from orchestrator.plan.pipeline import build_plan
from orchestrator.recipe.losses import find_own_loss, list_script_names
from tests.jobs import RECIPES, TESTED, build_imagined_job

GPU = Hardware("cuda", 1, bf16=True, names=("NVIDIA A100",))
SWIFT = BACKENDS["swift"]
OLD_LOSS_TYPES = list_script_names("swift")
MODELS = {
    "qwen3_embedding_lora": "Qwen/Qwen3-Embedding-0.6B",
    "qwen3_embedding_full": "Qwen/Qwen3-Embedding-0.6B",
    "qwen3_reranker_native": "Qwen/Qwen3-Reranker-0.6B",
    "qwen3_sft_lora": "Qwen/Qwen3-4B",
    "sft_single_gpu_test": "Qwen/Qwen3-0.6B",
    "qwen3_sft_finance": "Qwen/Qwen3-4B",
}


def make_job(recipe_name, /, *overrides, hardware=GPU, versions=TESTED, smoke=False, **model):
    native = "qwen3-native" if "Reranker" in MODELS[recipe_name] else None
    found = {
        "name": MODELS[recipe_name],
        "location": MODELS[recipe_name],
        "folder": None,
        "family": "decoder",
        "native": native,
    }
    base = BaseModel(**(found | model))
    hardware = CPU if smoke else hardware
    return build_imagined_job(recipe_name, base, hardware, overrides=overrides, versions=versions, smoke=smoke)


def train_stage(job):
    stage = build_plan(job).stage("train")
    assert stage is not None
    return stage


def argument(stage, name):
    argv = list(stage.command.argv)
    return argv[argv.index(f"--{name}") + 1]


def problems(job):
    return {".".join(map(str, key)): problem for key, problem in SWIFT.check_job(job)}


@pytest.mark.parametrize("name", MODELS)
def test_every_shipped_recipe_fits_together(name):
    assert problems(make_job(name)) == {}
    assert problems(make_job(name, hardware=CPU)) == {}


ENCODER = {"family": "encoder", "native": None}
GTE = ENCODER | {"name": "Alibaba-NLP/gte-reranker-modernbert-base"}


def test_an_encoder_is_a_reranker_by_its_head_and_reads_two_texts():
    job = make_job("qwen3_reranker_native", "loss=listwise", "data.instruction=", "train.task_type=reranker", **GTE)
    stage, plan = train_stage(job), build_plan(job)
    assert problems(job) == {}
    assert (argument(stage, "task_type"), argument(stage, "template")) == ("reranker", "bert")
    assert not [name for name in dict(stage.command.env) if name.startswith("GENERATIVE")]
    spec = next(json.loads(file.text) for file in plan.files if file.path == "files/scoring.packaged.json")
    assert (spec["scorer"], spec["tool"], spec["model_type"]) == ("cross-encoder", "swift", "modern_bert_gte_reranker")
    assert "instruction" not in spec


def test_what_an_encoder_of_ms_swift_cannot_do_is_refused_before_anything_runs():
    told = ("train.task_type=generative_reranker", "data.instruction=Find it")
    assert set(problems(make_job("qwen3_reranker_native", *told, **GTE))) == {"train.task_type", "data.instruction"}
    headless = GTE | {"architectures": ("ModernBertModel",), "model_type": "modern_bert_gte_reranker"}
    told = ("loss=pointwise", "data.instruction=", "train.task_type=reranker")
    [(key, problem)] = problems(make_job("qwen3_reranker_native", *told, **headless)).items()
    assert (key, problem.hint[:31]) == ("train", "say train: {tuner_type: full}; ")
    full = set(problems(make_job("qwen3_reranker_native", *told, "train.tuner_type=full", "merge=false", **headless)))
    assert "train" not in full


def test_an_encoder_that_pools_by_the_mean_is_not_taken_for_one_that_reads_its_first_token(tmp_path):
    modules = [{"idx": n, "type": f"sentence_transformers.models.{kind}", "path": path, "name": str(n)}
               for n, (kind, path) in enumerate((("Transformer", ""), ("Pooling", "1_Pooling")))]  # fmt: skip
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "1_Pooling").mkdir()
    found = {}
    for pooling in ("cls", "mean"):
        (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": pooling}))
        told = {"name": "mine", "folder": tmp_path, "architectures": ("ModernBertModel",), "brings_code": False}
        found[pooling] = problems(make_job("qwen3_embedding_lora", "data.instruction=", **ENCODER | told))
    assert found["cls"] == {}
    [(key, problem)] = found["mean"].items()
    assert (key, problem.hint) == ("model", "say backend: sentence-transformers")


@pytest.mark.parametrize("name", MODELS)
def test_what_ms_swift_must_never_decide_by_itself_is_always_rendered(name):
    stage = train_stage(make_job(name))
    for flag in (
        "model_type", "template", "max_length", "truncation_strategy", "gradient_accumulation_steps", "learning_rate",
        "torch_dtype", "bf16", "fp16", "add_version", "check_model", "strict", "report_to",
        "save_total_limit", "split_dataset_ratio", "ddp_timeout", "seed", "eval_strategy",
    ):  # fmt: skip
        assert f"--{flag}" in stage.command.argv, flag
    assert argument(stage, "strict") == "True"
    assert argument(stage, "split_dataset_ratio") == "0"
    assert stage.counts_rows


def test_the_embedding_recipe_asks_for_the_numbers_it_promises():
    stage = train_stage(make_job("qwen3_embedding_lora"))
    expected = {
        "task_type": "embedding", "loss_type": "infonce", "lora_rank": "16", "lora_alpha": "32", "lora_dropout": "0.1",
        "num_train_epochs": "5", "per_device_train_batch_size": "8", "per_device_eval_batch_size": "4",
        "gradient_accumulation_steps": "2", "learning_rate": "6e-06", "eval_steps": "200", "save_steps": "200",
        "dataloader_drop_last": "True", "model_type": "qwen3_emb", "template": "qwen3_emb",
    }  # fmt: skip
    assert {name: argument(stage, name) for name in expected} == expected


def test_the_loss_s_environment_is_explicit_and_recorded_in_the_plan():
    plan = build_plan(make_job("qwen3_embedding_lora"))
    env = dict(plan.stage("train").command.env)
    assert env["INFONCE_TEMPERATURE"] == "0.05"
    assert env["INFONCE_USE_BATCH"] == "true"
    assert env["INFONCE_INCLUDE_QQ"] == env["INFONCE_INCLUDE_DD"] == env["INFONCE_MASK_FAKE_NEGATIVE"] == "false"
    assert "INFONCE_HARD_NEGATIVES" not in env  # unset means all of them; 'None' would be read as a number
    origins = {note.argument: (note.origin, note.why) for note in plan.notes}
    assert origins["INFONCE_TEMPERATURE"] == ("recipe", "loss.temperature")
    assert origins["INFONCE_FAKE_NEG_MARGIN"][0] == "default"


def test_the_flags_of_ms_swift_3_come_out_as_those_of_the_installed_version():
    job = make_job("qwen3_embedding_lora")
    train = {"train_type": "full", "evaluation_strategy": "epoch", "save_strategy": "epoch", "loss_type": "infonce"}
    job = replace(job, recipe=job.recipe.model_copy(update={"train": train, "loss": None, "merge": False}))
    assert problems(job) == {}
    argv = train_stage(job).command.argv
    assert "--tuner_type" in argv
    assert "--train_type" not in argv
    assert "--evaluation_strategy" not in argv
    assert argv.count("--loss_type") == 1


def test_ms_swift_3_gets_its_own_spelling():
    stage = train_stage(make_job("qwen3_embedding_lora", versions=TESTED | {"ms-swift": "3.12.0"}))
    assert argument(stage, "train_type") == "lora"


@pytest.mark.parametrize(
    "old", sorted(name for name, new in OLD_LOSS_TYPES.items() if new in {"pointwise", "listwise"})
)
def test_every_old_name_of_a_reranker_s_loss_is_understood(old):
    job = make_job("qwen3_reranker_native")
    recipe = job.recipe.model_copy(update={"train": {**job.recipe.train, "loss_type": old}, "loss": None})
    job = replace(job, recipe=recipe)
    assert problems(job) == {}
    assert argument(train_stage(job), "loss_type") == f"{OLD_LOSS_TYPES[old]}_reranker"


def test_a_loss_that_is_given_twice_is_refused():
    job = make_job("qwen3_embedding_lora")
    job = replace(job, recipe=job.recipe.model_copy(update={"train": {"loss_type": "infonce"}}))
    assert "twice" in problems(job)["train.loss_type"].message


@pytest.mark.parametrize(
    ("name", "overrides", "key", "says"),
    [
        ("qwen3_embedding_lora", ["loss.type=pointwise"], "loss", "not for task: embedding"),
        ("qwen3_reranker_native", ["loss.type=infonce", "loss.max_negatives=null"], "loss", "not for task: reranker"),
        ("qwen3_embedding_lora", ["loss.min_group_size=3"], "loss.min_group_size", "infonce has no min_group_size"),
        ("qwen3_embedding_lora", ["loss.use_batch=false", "loss.include_qq=true"], "loss.include_qq", "use_batch is off"),
        ("qwen3_embedding_lora", ["checkpoint=last", "train.truncation_strategy=split"], "train.truncation_strategy", "two vectors"),
        ("qwen3_reranker_native", ["train.truncation_strategy=right"], "train.truncation_strategy", "cuts the prompt"),
        ("qwen3_reranker_native", ["train.task_type=embedding"], "train.task_type", "does not fit"),
        ("qwen3_embedding_full", ["train.lora_rank=8"], "train.lora_rank", "no lora_rank"),
        ("qwen3_embedding_full", ["merge=true"], "merge", "no LoRA to merge"),
        ("qwen3_sft_lora", ["merge=false"], "gate", "measured merged"),
        ("qwen3_sft_lora", ["train.tuner_type=adalora"], "train.tuner_type", "only lora and full"),
        ("qwen3_sft_lora", ["data.instruction=Be brief"], "data.instruction", "their own instruction"),
        ("qwen3_reranker_native", ["train.system=Judge"], "train.system", "part of the training"),
        ("qwen3_embedding_lora", ["evaluate.instruction=Find"], "evaluate.instruction", "part of the training"),
        ("sft_single_gpu_test", ["train.early_stop_interval=3"], "train.early_stop_interval", "needs validation rows"),
        ("sft_single_gpu_test", ["train.eval_strategy=epoch"], "train.eval_strategy", "no validation rows"),
        ("sft_single_gpu_test", ["checkpoint=best"], "checkpoint", "none is best"),
        ("qwen3_sft_lora", ["train.eval_steps=20"], "train.eval_steps", "may not be saved"),
        ("qwen3_sft_lora", ["checkpoint=0"], "checkpoint", "no checkpoint 0"),
        ("qwen3_sft_lora", ["launch.env.INFONCE_TEMPERATURE='0.1'"], "launch.env.INFONCE_TEMPERATURE", "setting of the loss"),
        ("qwen3_sft_lora", ["train.bf16=true", "train.fp16=true"], "train.fp16", "exclude each other"),
        ("qwen3_sft_lora", ["train.quant_bits=4"], "train.quant_bits", "quantises nothing"),
        ("qwen3_sft_lora", ["train.attn_impl=fa2"], "train.attn_impl", "no attention of that name"),
        ("qwen3_sft_lora", ["train.tuner_type=qlora"], "train.tuner_type", "only lora and full"),
        ("qwen3_sft_lora", ["train.quant_method=bnb"], "train.quant_bits", "without quant_bits"),
        ("qwen3_sft_lora", ["train.quant_method=bnb", "train.quant_bits=2"], "train.quant_bits", "has no quant_bits 2"),
        ("qwen3_embedding_full", ["train.quant_method=bnb", "train.quant_bits=4"], "train.quant_method", "only LoRA"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_refused_with_the_key_to_change(name, overrides, key, says):
    found = problems(make_job(name, *overrides))
    assert says in found[key].message
    assert found[key].hint


def test_an_embedding_recipe_without_a_loss_is_told_which_loss_fits_which_data():
    found = problems(
        replace(job := make_job("qwen3_embedding_lora"), recipe=job.recipe.model_copy(update={"loss": None}))
    )
    assert "contrastive" in found["task"].hint
    assert "cosine_similarity" in found["task"].hint


def test_matryoshka_sizes_above_the_hidden_size_are_refused():
    found = problems(make_job("qwen3_embedding_full", hidden_size=768))
    assert "768" in found["loss.mrl_dims"].message
    assert problems(make_job("qwen3_embedding_full", hidden_size=1024)) == {}
    assert json.loads(argument(train_stage(make_job("qwen3_embedding_full")), "mrl_dims")) == {
        "1024": 1.0, "512": 1.0, "256": 1.0, "128": 1.0, "64": 1.0,
    }  # fmt: skip


def test_a_model_that_brings_code_is_refused_until_the_recipe_trusts_it():
    assert "Python code" in problems(make_job("qwen3_sft_lora", brings_code=True))["model"].message
    assert problems(make_job("qwen3_sft_lora", brings_code=True, trust_remote_code=True)) == {}


def test_an_unknown_model_is_asked_for_with_the_candidates():
    found = problems(make_job("qwen3_embedding_lora", name="acme/secret-model", location="acme/secret-model"))
    assert "qwen3_emb" in found["model"].hint
    job = make_job("qwen3_embedding_lora", name="acme/secret-model", location="acme/secret-model")
    with pytest.raises(RecipeError):
        build_plan(job)


@pytest.mark.parametrize(
    ("name", "architecture"),
    [("Alibaba-NLP/gte-Qwen2-1.5B-instruct", "Qwen2ForCausalLM"), ("google/embeddinggemma-300m", "Gemma3TextModel")],
)
def test_an_embedding_model_that_ms_swift_loads_as_a_whole_is_refused_with_the_backend_that_trains_it(
    name, architecture
):
    """ms-swift 4.6 loads both by SentenceTransformersLoader: what it saves is not proved to give equal vectors."""
    for where in (name, f"/models/{name.split('/')[1]}"):
        for told in ({}, {"architectures": (architecture,)}):
            found = problems(make_job("qwen3_embedding_lora", name=where, location=where, **told))["model"]
            assert "Orch's embedding models with ms-swift are Qwen3-Embedding" in found.message
            assert found.hint.startswith("say backend: sentence-transformers or flagembedding; or name Qwen/")


def test_a_model_is_known_by_its_architecture_and_the_task_decides_among_its_types():
    for recipe, expected in (
        ("qwen3_embedding_lora", "qwen3_emb"),
        ("qwen3_reranker_native", "qwen3_reranker"),
        ("qwen3_sft_lora", "qwen3"),
    ):
        job = make_job(recipe, name="/models/mine", location="/models/mine", architectures=("Qwen3ForCausalLM",))
        assert argument(train_stage(job), "model_type") == expected


def test_an_instruct_model_without_thinking_gets_its_own_template():
    job = make_job("qwen3_sft_lora", name="Qwen/Qwen3-4B-Instruct-2507", location="Qwen/Qwen3-4B-Instruct-2507")
    assert argument(train_stage(job), "template") == "qwen3_nothinking"
    assert argument(train_stage(make_job("qwen3_sft_lora", template="qwen3_thinking")), "template") == "qwen3_thinking"


def test_a_model_whose_type_has_several_prompts_is_asked_for_its_own():
    mine = {"name": "./mine", "location": "/models/mine", "architectures": ("LlamaForCausalLM",), "model_type": "llama"}
    hint = problems(make_job("qwen3_sft_lora", **mine))["model"].hint
    assert "model_type: llama, template: …}" in hint
    assert "llama3_2" in hint
    assert argument(train_stage(make_job("qwen3_sft_lora", **mine, template="llama3_2")), "template") == "llama3_2"


def test_a_prompt_that_ms_swift_does_not_have_is_refused():
    problem = problems(make_job("qwen3_sft_lora", template="qwen3_nothink"))["model"]
    assert (problem.message, problem.hint) == (
        "ms-swift knows no template 'qwen3_nothink'",
        "did you mean 'qwen3_nothinking'?",
    )


@pytest.mark.parametrize("name", ["meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Meta-Llama-3.1-8B-Instruct"])
def test_a_model_that_the_hub_has_renamed_has_the_prompt_of_its_old_name(name):
    assert argument(train_stage(make_job("qwen3_sft_lora", name=name, location=name)), "template") == "llama3_2"


@pytest.mark.parametrize("given", ["q_proj k_proj", "q_proj,k_proj", "q_proj, k_proj"])
def test_a_list_that_is_written_as_one_text_becomes_a_list(given):
    argv = train_stage(make_job("qwen3_sft_lora", f"train.target_modules={given}")).command.argv
    at = argv.index("--target_modules")
    assert argv[at + 1 : at + 3] == ("q_proj", "k_proj")


def test_the_name_of_a_loss_s_option_in_ms_swift_is_answered_with_the_loss():
    assert find_own_loss("listwise_reranker", "swift") == "say listwise"
    assert find_own_loss("InfoNCE", "swift") == "say infonce"
    assert find_own_loss("MultipleNegativesRankingLoss", "sentence-transformers") == "say mnrl"
    assert find_own_loss("SpladeLoss", "sentence-transformers") is None
    assert find_own_loss("LambdaLoss", "swift") is None


def test_another_tool_s_word_for_a_number_s_type_is_answered_with_ms_swift_s():
    problem = SWIFT.check_train({"torch_dtype": "bf16"})[0][1]
    assert (problem.hint, "None" in problem.message) == ("say bfloat16", False)


def test_a_model_type_of_another_task_or_of_none_is_refused():
    assert "no embedding model" in problems(make_job("qwen3_embedding_lora", model_type="qwen3"))["model"].message
    assert (
        "did you mean 'qwen3_emb'?" in problems(make_job("qwen3_embedding_lora", model_type="qwen3_embb"))["model"].hint
    )


def test_full_training_keeps_its_weights_in_float32_and_computes_in_the_hardware_s_precision():
    full = train_stage(make_job("qwen3_embedding_full"))
    assert [argument(full, name) for name in ("torch_dtype", "bf16", "fp16")] == ["float32", "True", "False"]
    lora = train_stage(make_job("qwen3_embedding_lora"))
    assert [argument(lora, name) for name in ("torch_dtype", "bf16", "fp16")] == ["bfloat16", "True", "False"]
    cpu = train_stage(make_job("qwen3_embedding_lora", hardware=CPU))
    assert [argument(cpu, name) for name in ("torch_dtype", "bf16", "fp16")] == ["float32", "False", "False"]


def test_several_gpus_train_together_on_a_port_of_their_own():
    argv = train_stage(make_job("qwen3_sft_lora", hardware=Hardware("cuda", 4, bf16=True))).command.argv
    assert argv[1:6] == ("/orch/orchestrator/workers", "launch", "--nproc_per_node", "4", "--checkpoints")
    stage = train_stage(make_job("qwen3_sft_lora", "launch.nproc_per_node=2", hardware=CPU))
    assert argument(stage, "ddp_backend") == "gloo"
    assert dict(stage.command.env)["ACCELERATE_USE_CPU"] == "true"


def test_deepspeed_is_a_file_of_orch_or_of_the_user_without_an_optimizer(tmp_path):
    plan = build_plan(make_job("qwen3_embedding_lora", "deepspeed=zero3_offload"))
    shipped = json.loads(next(file.text for file in plan.files if file.path == "files/ds_config.json"))
    assert shipped["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] is True
    assert not {"optimizer", "scheduler", "train_batch_size"} & shipped.keys()
    mine = tmp_path / "ds.json"
    mine.write_text('{"zero_optimization": {"stage": 2}}')
    job = make_job("qwen3_embedding_lora", f"deepspeed={mine}")
    assert argument(train_stage(job), "deepspeed") == "/runs/golden/files/ds_config.json"
    clash = replace(job, deepspeed_text='{"optimizer": {}, "scheduler": {}}')
    assert "optimizer and scheduler" in problems(clash)["deepspeed"].message
    assert "not a DeepSpeed configuration" in problems(replace(job, deepspeed_text="{"))["deepspeed"].message


@pytest.mark.parametrize(
    ("asked", "folder"), [("best", "best"), ("last", "last-checkpoint"), ("200", "checkpoint-200")]
)
def test_the_checkpoint_of_the_recipe_is_merged_packaged_and_awaited(asked, folder):
    plan = build_plan(make_job("qwen3_embedding_lora", f"checkpoint={asked}"))
    assert plan.stage("train").outputs[0].endswith(f"/output/{folder}/adapter_model.safetensors")
    assert argument(plan.stage("merge"), "adapters").endswith(f"/output/{folder}")
    assert argument(plan.stage("package"), "adapter").endswith(f"/output/{folder}")


def test_the_merge_is_swift_export_into_a_folder_that_does_not_exist_yet():
    argv = build_plan(make_job("qwen3_sft_lora")).stage("merge").command.argv
    assert argv[argv.index("--") + 1 :][:1] == ("swift.cli.export",)
    assert argv[-2:] == ("--output_dir", "{fresh}")
    assert "--exist_ok" not in argv


def test_the_instruction_stands_inline_in_front_of_queries_in_training_and_scoring_alike():
    plan = build_plan(make_job("qwen3_embedding_lora"))
    instruction = plan.recipe["data"]["instruction"]
    assert argument(plan.stage("prepare"), "instruction") == instruction
    assert "--system" not in plan.stage("train").command.argv
    spec = json.loads(plan.file("files/scoring.packaged.json").text)
    assert spec["query_prompt"] == f"Instruct: {instruction}\nQuery:"
    assert spec["document_prompt"] == ""


def test_an_embedding_model_without_an_instruction_is_also_measured_with_its_authors_own():
    plan = build_plan(make_job("qwen3_embedding_lora", "data.instruction=null"))
    assert [stage.kind for stage in plan.stages if stage.kind.startswith("baseline")] == [
        "baseline-native",
        "baseline-trained-format",
    ]
    assert "web search query" in json.loads(plan.file("files/scoring.native.json").text)["query_prompt"]
    assert json.loads(plan.file("files/scoring.packaged.json").text)["query_prompt"] == ""


@pytest.mark.parametrize("name", MODELS)
def test_a_smoke_run_keeps_every_stage_and_needs_no_gpu(name):
    stages = [stage.kind for stage in build_plan(make_job(name)).stages]
    plan = build_plan(make_job(name, smoke=True))
    smoke = [stage.kind for stage in plan.stages if stage.kind != "tiny-model"]
    assert smoke == stages
    assert argument(plan.stage("train"), "torch_dtype") == "float32"
    assert "--deepspeed" not in plan.stage("train").command.argv


def test_a_data_set_of_a_hub_is_fetched_by_a_stage_of_its_own():
    plan = build_plan(make_job("qwen3_embedding_full", "data.train=sentence-transformers/stsb:train"))
    fetch = plan.stages[0]
    assert fetch.kind == "fetch"
    assert argument(fetch, "id") == "sentence-transformers/stsb"
    assert argument(fetch, "split") == "train"
    assert argument(plan.stage("prepare"), "train") == fetch.outputs[0]
    assert plan.stage("train").folder in argument(plan.stage("train"), "output_dir")


def test_no_argument_is_rendered_that_the_tested_version_does_not_accept():
    known = SWIFT.arguments.keys()
    for name in MODELS:
        argv = train_stage(make_job(name)).command.argv
        flags = {word[2:].partition("=")[0] for word in argv if word.startswith("--")}
        assert flags <= known
        assert len(flags) > 20


@pytest.mark.parametrize(
    ("key", "value"), [("dataset", "x"), ("add_version", True), ("hub_token", "hf_x"), ("mrl_dims", {})]
)
def test_what_is_said_elsewhere_in_the_recipe_is_refused_under_train(key, value):
    (found,) = SWIFT.check_train({key: value})
    assert found[0] == key
    assert "is not set here" in found[1].message


def test_a_misspelt_argument_is_met_with_the_right_one():
    ((_, problem),) = SWIFT.check_train({"learning_rat": 1e-4})
    assert problem.hint == "did you mean 'learning_rate'?"
    ((_, problem),) = SWIFT.check_train({"max_length": 0})
    assert "at least 1" in problem.message


def test_the_snapshot_holds_no_path_of_the_machine_that_took_it():
    snapshot = (RECIPES.parent / "orchestrator/backends/arguments/swift.json").read_text()
    assert "/work" not in snapshot
    assert "/home" not in snapshot


def test_a_checkpoint_that_is_named_by_its_step_is_not_deleted_by_later_ones():
    assert argument(train_stage(make_job("qwen3_sft_lora", "checkpoint=50")), "save_total_limit") == "100"
    assert argument(train_stage(make_job("qwen3_sft_lora")), "save_total_limit") == "2"


def test_a_fetch_may_use_the_network_although_the_model_is_on_this_machine():
    job = make_job("qwen3_embedding_full", "data.train=sentence-transformers/stsb:train", smoke=True)
    plan = build_plan(job)
    assert "HF_HUB_OFFLINE" not in dict(plan.stages[0].command.env)
    assert dict(plan.stage("train").command.env)["HF_HUB_OFFLINE"] == "1"


def test_the_tokens_of_an_answer_are_counted_with_the_empty_thought_that_the_template_adds():
    assert argument(build_plan(make_job("qwen3_sft_lora")).stage("prepare"), "answer-prefix").startswith("<think>")
    without = build_plan(make_job("qwen3_sft_lora", template="qwen3_nothinking")).stage("prepare")
    assert "--answer-prefix" not in without.command.argv


def test_what_decides_an_llm_s_tokens_is_handed_to_its_scoring():
    plan = build_plan(make_job("qwen3_sft_lora", "train.loss_scale=all"))
    spec = json.loads(plan.file("files/scoring.packaged.json").text)
    assert spec["template_args"] == {"loss_scale": "all"}
    assert "system" in spec


@pytest.mark.parametrize("setting", ["train.truncation_strategy=split", "train.packing=true", "train.streaming=true"])
def test_rows_are_not_compared_where_ms_swift_makes_others_of_them(setting):
    assert not train_stage(make_job("qwen3_sft_lora", setting)).counts_rows


@pytest.mark.parametrize(
    ("overrides", "key", "message"),
    [
        (["teacher=Qwen/Qwen3-Reranker-4B"], "teacher", "not from a teacher's scores"),
        (["data.max_label=2"], "data.max_label", "no labels to scale"),
        (["launch.distributed=fsdp"], "launch.distributed", "there is one"),
        (["loss=pointwise_bce"], "loss", "is not for task: reranker"),
    ],
)
def test_what_other_backends_understand_is_refused_and_not_ignored(overrides, key, message):
    assert message in problems(make_job("qwen3_reranker_native", *overrides))[key].message
