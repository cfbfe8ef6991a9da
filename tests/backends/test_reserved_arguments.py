"""What `train:` may not hold, alone or with others, and that no argument of any trainer is ever lost."""

from __future__ import annotations

import json
import re

import pytest
from msgspec.structs import replace

from orchestrator.backends import BACKENDS
from orchestrator.backends.arguments import load_arguments
from orchestrator.backends.models import learn_from_config
from orchestrator.errors import RecipeError
from orchestrator.machine.hardware import Hardware
from orchestrator.plan.pipeline import build_plan
from tests.shipped import MODELS, build_shipped_job

# One recipe for every trainer, task and family, and the snapshot of what its trainer takes.
TRAINERS = {
    "qwen3_embedding_lora": "swift",
    "qwen3_reranker_native": "swift",
    "qwen3_sft_lora": "swift",
    "qwen3_sft_finance": "swift",
    "qwen3_reranker": "flagembedding.decoder_only",
    "bge_reranker": "flagembedding.encoder_only",
    "bge_embedding": "flagembedding.embedder_encoder_only",
    "bge_m3": "flagembedding.embedder_m3",
    "bge_pointwise": "sentence_transformers",
    "llm_pointwise": "sentence_transformers",
}
# What no version needs any more, or takes from the environment: `orch render --explain` says it of each.
NOT_NEEDED = {"overwrite_output_dir", "save_safetensors", "logging_dir"}
ANYTHING = {"int": 3, "float": 0.5, "str": "anything", "list[str]": ["anything"], "dict": {"a": 1}, "json": {"a": 1}}


def give(name, /, **train):
    """Return the job of a shipped recipe with more arguments under `train:`."""
    job = build_shipped_job(name)
    return replace(job, recipe=job.recipe.model_copy(update={"train": {**job.recipe.train, **train}}))


def refuse(job, argument):
    """Return what is said of an argument, by the check of its value and of the whole job."""
    backend = job.backend
    found = [problem for key, problem in backend.check_train(job.recipe.train) if key == argument]
    try:
        found += [problem for key, problem in backend.check_job(job) if key[-1] == argument]
    except RecipeError as error:
        found += error.problems
    return found


def another_value(argument):
    """Return a value of the argument's type that is not its default."""
    if argument.type == "bool":
        return not argument.default
    if argument.choices:
        other = next((one for one in argument.choices if one != argument.default), argument.choices[0])
        return [other] if argument.type == "list[str]" else other
    return ANYTHING[argument.type]


def read_told(plan):
    """Return every argument that the trainer is told, with its value as text, and every name that one stands for."""
    stage = plan.stage("train")
    argv = list(stage.command.argv)
    flags = {
        word[2:]: " ".join(take_values(argv[place + 1 :])) for place, word in enumerate(argv) if word.startswith("--")
    }
    for file in plan.files:
        if file.path == "files/train.json":
            config = json.loads(file.text)
            told = {**config, **config["arguments"], **(config["format"] or {}), **config.get("lora", {})}
            flags |= {name: show(value) for name, value in told.items()}
    renamed = {word for note in plan.notes if note.argument in flags for word in note.why.split() if note.value}
    return flags, renamed


def take_values(words):
    for word in words:
        if word.startswith("--"):
            return
        yield word


def show(value):
    return (
        " ".join(map(str, value))
        if isinstance(value, list)
        else json.dumps(value)
        if isinstance(value, dict)
        else str(value)
    )


@pytest.mark.parametrize("name", TRAINERS)
def test_no_argument_of_a_trainer_is_lost(name):
    backend, known = build_shipped_job(name).backend, load_arguments(TRAINERS[name])
    assert len(known) > 100
    lost = []
    for key in sorted(known):
        value = another_value(known[key])
        job = give(name, **{key: value})
        if not refuse(job, key):
            flags, renamed = read_told(build_plan(job))
            right = {show(value), f"{job.recipe_folder}/{value}"}
            if flags.get(key) not in right and key not in renamed | NOT_NEEDED:
                lost.append((key, value, flags.get(key)))
    for key in backend.arguments.keys() - known.keys():  # old spellings, and what the worker reads
        jobs = [give(name, **{key: value}) for value in (True, 1, 0.5, "anything")]
        job = next((job for job in jobs if not refuse(job, key)), None)
        flags, renamed = read_told(build_plan(job)) if job else ({key}, set())
        if key not in {*flags} | renamed | NOT_NEEDED:
            lost.append((key, job.recipe.train[key], None))
    assert lost == []


PLUGIN = "plugins/own.py"


REFUSED = [
        ("qwen3_sft_lora", {"loss_type": "total_nonsense"}, "loss_type", "learns the next token"),
        ("qwen3_sft_lora", {"loss_type": "infonce"}, "loss_type", "learns the next token"),
        ("qwen3_reranker_native", {"cached_dataset": ["/data/other"]}, "cached_dataset", "not set here"),
        ("qwen3_reranker_native", {"cached_val_dataset": ["/data/other"]}, "cached_val_dataset", "not set here"),
        ("qwen3_sft_lora", {"custom_dataset_info": ["own.json"]}, "custom_dataset_info", "not set here"),
        ("qwen3_sft_lora", {"load_data_args": True}, "load_data_args", "not set here"),
        ("qwen3_sft_lora", {"interleave_prob": [0.5, 0.5]}, "interleave_prob", "not set here"),
        ("qwen3_sft_lora", {"ignore_args_error": True}, "ignore_args_error", "not set here"),
        ("qwen3_sft_lora", {"model_revision": "v2"}, "model_revision", "not set here"),
        ("qwen3_sft_lora", {"use_hf": False}, "use_hf", "ModelScope's copy"),
        ("qwen3_reranker_native", {"num_labels": 2}, "num_labels", "one score"),
        ("qwen3_reranker_native", {"problem_type": "regression"}, "problem_type", "classifier"),
        ("qwen3_sft_lora", {"packing": True}, "packing", "flash attention"),
        ("qwen3_sft_lora", {"padding_free": True, "attn_impl": "sdpa"}, "padding_free", "flash attention"),
        ("qwen3_sft_lora", {"packing": True, "attn_impl": "flash_attn", "lazy_tokenize": True}, "lazy_tokenize", "length"),
        ("qwen3_sft_lora", {"streaming": True}, "streaming", "no length"),
        ("qwen3_sft_lora", {"streaming": True, "max_steps": 9, "lazy_tokenize": True}, "lazy_tokenize", "stream"),
        ("qwen3_sft_lora", {"fsdp": "fsdp2"}, "fsdp", "a piece of the weights"),
        ("qwen3_sft_lora", {"fsdp": "full_shard"}, "fsdp", "its own name"),
    ("qwen3_sft_lora", {"quant_bits": 4}, "quant_bits", "quantises nothing"),
        ("qwen3_sft_lora", {"quant_method": "bnb"}, "quant_method", "how many bits"),
        ("qwen3_sft_lora", {"quant_method": "bnb", "quant_bits": 2}, "quant_bits", "no such number"),
        ("qwen3_embedding_full", {"quant_method": "bnb", "quant_bits": 4}, "quant_method", "only LoRA beside"),
        ("qwen3_sft_lora", {"template_backend": "jinja"}, "template_backend", "ms-swift's own template"),
        ("qwen3_sft_lora", {"response_prefix": "<think>"}, "response_prefix", "without it"),
        ("qwen3_sft_lora", {"predict_with_generate": True}, "predict_with_generate", "rouge-l"),
        ("qwen3_sft_lora", {"safe_serialization": False}, "safe_serialization", "pickle"),
        ("qwen3_sft_lora", {"truncation_strategy": "split"}, "truncation_strategy", "raw text"),
        ("qwen3_sft_lora", {"save_strategy": "no"}, "save_strategy", "package"),
        ("qwen3_sft_lora", {"callbacks": ["unheard"]}, "callbacks", "none of that name"),
        ("qwen3_sft_lora", {"rope_scaling": "yarn"}, "rope_scaling", "which length"),
        ("qwen3_sft_lora", {"lisa_activated_layers": 2}, "lisa_activated_layers", "full training"),
        ("qwen3_sft_lora", {"sequence_parallel_size": 4}, "sequence_parallel_size", "so many processes"),
        ("qwen3_sft_lora", {"external_plugins": [PLUGIN]}, "external_plugins", "no such file"),
        ("qwen3_reranker", {"from_peft": "./nowhere"}, "from_peft", "no such file"),
        ("qwen3_reranker", {"tokenizer_name": "Qwen/Qwen3-0.6B"}, "tokenizer_name", "not set here"),
        ("qwen3_reranker", {"fsdp": "full_shard"}, "fsdp", "not set here"),
        ("bge_reranker", {"max_len": 512}, "max_len", "not set here"),
        ("llm_pointwise", {"dataloader_prefetch_factor": 2}, "dataloader_prefetch_factor", "without workers"),
        *(
            (name, {key: value}, key, says)
            for name in ("qwen3_sft_lora", "qwen3_reranker", "bge_reranker")
            for key, value, says in (
                ("greater_is_better", True, "lowest validation loss"),
                ("metric_for_best_model", "rouge-l", "lowest validation loss"),
                ("save_only_model", True, "continued with"),
                ("push_to_hub", True, "measured"),
                ("lr_scheduler_type", "cosin", ""),
                ("logging_steps", 0, "refuses"),
            )
        ),
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "given", "key", "says"), REFUSED)
def test_what_breaks_a_promise_or_the_trainer_s_start_is_refused_with_the_reason(name, given, key, says):
    problems = refuse(give(name, **given), key)
    assert problems
    assert any(says in problem.message for problem in problems)
    assert all(problem.hint or key == "lr_scheduler_type" for problem in problems)


@pytest.mark.parametrize(("name", "given", "key", "says"), REFUSED)
def test_each_way_out_that_a_hint_names_is_one(name, given, key, says):
    job = give(name, **given)
    problem = refuse(job, key)[0]
    ways = list(follow(problem.hint, key, job.recipe.train))
    silent = {"lr_scheduler_type", "external_plugins", "from_peft", "quant_bits", "rope_scaling"}  # no one value
    assert ways or key in silent, problem.hint
    for train in ways:
        changed = replace(job, recipe=job.recipe.model_copy(update={"train": train}))
        backend = job.backend
        assert backend.check_train(train) == []
        left = [one for one in backend.check_job(changed) if "there is one" not in one[1].message]  # process, for fsdp2
        assert left == [], (problem.hint, says)


def follow(hint, key, train):
    """Yield what `train:` becomes by each clause of a hint: the key removed or moved away, or another value of one."""
    for clause in re.split("; |, or | or (?=remove)", hint or ""):
        rest = {name: value for name, value in train.items() if name != key}
        if said := re.search(r"say (\w+): (\w+)", clause):
            full = said[2] == "full"
            kept = {name: value for name, value in train.items() if not (full and "lora" in name)}
            yield {**kept, said[1]: said[2]} | ({"quant_bits": 4} if said[2] == "bnb" else {})
        elif key == "save_strategy":
            yield from ({**train, key: one} for one in ("epoch", "steps") if one in clause)
        elif clause.startswith("remove it, and quant_bits"):
            yield {name: value for name, value in rest.items() if name != "quant_bits"}
        elif clause.startswith("say max_steps"):
            yield {**train, "max_steps": 100}
        elif number := re.match(r"(\d+) is usual", clause):
            yield {**train, key: int(number[1])}
        elif listed := re.match(r"one of ([\w, ]+)$", clause):
            yield from ({**train, key: [one] if isinstance(train[key], list) else one} for one in listed[1].split(", "))
        elif clause.startswith(
            ("remove it", "say it as", "say query_max_len", "name the files", "these trainers", "download")
        ):
            yield rest


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("qwen3_sft_lora", {"packing": True, "attn_impl": "flash_attention_2"}),
        ("qwen3_sft_lora", {"streaming": True, "max_steps": 100}),
        ("qwen3_sft_lora", {"quant_method": "bnb", "quant_bits": 4}),
        ("qwen3_sft_lora", {"quant_method": "fp8"}),
        ("qwen3_sft_lora", {"loss_type": "cross_entropy"}),
        ("qwen3_sft_lora", {"greater_is_better": False, "metric_for_best_model": "loss", "push_to_hub": False}),
        ("qwen3_sft_lora", {"callbacks": ["lisa"], "optimizer": "muon", "use_hf": True}),
        ("qwen3_sft_finance", {"eval_strategy": "steps", "eval_use_evalscope": True, "eval_dataset": ["gsm8k"]}),
    ],
)
def test_what_goes_together_is_taken(name, given):
    job = give(name, **given)
    assert BACKENDS["swift"].check_train(job.recipe.train) == []
    assert BACKENDS["swift"].check_job(job) == []
    flags, _ = read_told(build_plan(job))
    assert {key: flags.get(key) for key in given} == {key: show(value) for key, value in given.items()}


def test_fsdp_and_deepspeed_exclude_each_other():
    job = give("qwen3_sft_lora", fsdp="fsdp2")
    job = replace(
        job, recipe=job.recipe.model_copy(update={"deepspeed": "zero2"}), hardware=Hardware("cuda", 2, bf16=True)
    )
    assert "deepspeed" in refuse(job, "fsdp")[0].message


@pytest.mark.parametrize(("gpus", "processes", "says"), [(4, 3, "does not share"), (4, 2, "refuses deepspeed")])
def test_gpus_that_a_process_has_beside_its_own_are_said_where_ms_swift_refuses_them(gpus, processes, says):
    job = build_shipped_job("qwen3_sft_lora", "deepspeed=zero2", f"launch.nproc_per_node={processes}", gpus=gpus)
    (problem,) = [problem for key, problem in BACKENDS["swift"].check_job(job) if key[-1] == "nproc_per_node"]
    assert says in problem.message
    assert BACKENDS["swift"].check_job(build_shipped_job("qwen3_sft_lora", "deepspeed=zero2", gpus=gpus)) == []


def test_a_relative_path_starts_from_the_recipe_s_folder(tmp_path):
    for name in (PLUGIN, "tokens.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    given = {"external_plugins": [PLUGIN], "new_special_tokens": ["tokens.txt", "<a>"], "callbacks": ["of-my-own"]}
    job = replace(give("qwen3_sft_lora", **given), recipe_folder=tmp_path)
    assert BACKENDS["swift"].check_job(job) == []
    flags, _ = read_told(build_plan(job))
    assert flags["external_plugins"] == str(tmp_path / PLUGIN)
    assert flags["new_special_tokens"] == f"{tmp_path / 'tokens.txt'} <a>"


@pytest.mark.parametrize("config", [{"quantization_config": {"quant_method": "awq", "bits": 4}}, {}])
def test_lora_is_not_trained_on_weights_that_it_cannot_be_merged_into(config):
    base = replace(MODELS["qwen3_sft_lora"], name="Qwen/Qwen3-4B-AWQ")
    job = replace(build_shipped_job("qwen3_sft_lora"), model=learn_from_config(base, config))
    ((key, problem),) = BACKENDS["swift"].check_job(job)
    assert key == ("model",)
    assert "quantised (awq)" in problem.message
    kept = replace(job, recipe=job.recipe.model_copy(update={"merge": False, "gate": {}}))
    assert BACKENDS["swift"].check_job(kept) == []


@pytest.mark.parametrize(
    ("name", "architectures"),
    [
        ("BAAI/bge-reranker-v2-minicpm-layerwise", ()),
        ("BAAI/bge-reranker-v2.5-gemma2-lightweight", ()),
        ("me/own", ("LayerWiseMiniCPMForCausalLM",)),
        ("me/own", ("CostWiseGemmaForCausalLM",)),
        ("Qwen/Qwen3-VL-Reranker-2B", ()),
    ],
)
@pytest.mark.parametrize("recipe", ["qwen3_reranker", "llm_pointwise"])
def test_what_the_plain_trainers_cannot_train_is_no_base_model(name, architectures, recipe):
    job = build_shipped_job(recipe)
    job = replace(job, model=replace(job.model, name=name, location=name, architectures=architectures, native=None))
    found = [problem for key, problem in job.backend.check_job(job) if key == ("model",)]
    assert len(found) == 1
    assert "such as BAAI/bge-reranker-v2" in found[0].hint


@pytest.mark.parametrize(
    ("backend", "name", "says"),
    [
        ("flagembedding", "start_layer", "layerwise rerankers"),
        ("flagembedding", "head_type", "layerwise rerankers"),
        ("flagembedding", "temperature", "embedding models"),
        ("flagembedding", "kd_loss_type", "embedding models"),
        *(
            (backend, name, says)
            for name, swift, flagembedding, cross_encoder in (
                ("lora_target", *["say target_modules"] * 3),
                ("finetuning_type", "say tuner_type", "say use_lora", "say lora_rank, which turns LoRA on"),
                ("cutoff_len", "say max_length", "say query_max_len and passage_max_len", "say max_length"),
                ("sequence_len", "say max_length", "say query_max_len and passage_max_len", "say max_length"),
                ("micro_batch_size", *["say per_device_train_batch_size"] * 3),
                ("num_epochs", *["say num_train_epochs"] * 3),
                ("lora_r", *["say lora_rank"] * 3),
                ("val_set_size", *["say it as `data.validation_ratio:`"] * 3),
                ("base_model", *["say it as `model:`"] * 3),
                ("load_in_4bit", "say quant_bits: 4", "remove it", "say quant_bits: 4"),
                ("flash_attention", "say attn_impl: flash_attn", "say use_flash_attn", "remove it"),
            )
            for backend, says in (
                ("swift", swift), ("flagembedding", flagembedding), ("sentence-transformers", cross_encoder),
            )
        ),
    ],
)  # fmt: skip
def test_the_names_of_other_tools_and_trainers_are_answered_with_ours(backend, name, says):
    ((_, problem),) = BACKENDS[backend].check_train({name: 1})
    assert "none of that name" in problem.message
    assert says in problem.hint
