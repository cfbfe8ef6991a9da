"""What a recipe asks for that its machine or its packages cannot give, and what its user should know before it runs.

All is read from the plan's notes, which are the same for every backend, before the trainer would find it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from orchestrator.backends.protocol import Job
from orchestrator.checks.train_values import is_on, read_train_values
from orchestrator.errors import Problem
from orchestrator.recipe.plan import Plan

# What asks for flash attention, and whether the package flash-attn brings it; 3 and 4 are built by hand.
_FLASH = {"flash_attn": True, "flash_attention_2": True, "flash_attention_3": False, "flash_attention_4": False}

# Packages that a recipe's own words ask for, beside those that its backend needs.
OPTIONAL = ("flash-attn", "kernels", "liger-kernel")
# (argument, what its value reads like, the distributions of which one is needed). Sources: is_*_available of
# transformers 5.19, get_optimizer_cls_and_kwargs of its trainer_optimizer.py, require_version of ms-swift 4.6.0.
_NEEDS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("report_to", r"\btensorboard\b", ("tensorboard", "tensorboardX")),
    ("report_to", r"\bwandb\b", ("wandb",)),
    ("report_to", r"\bswanlab\b", ("swanlab",)),
    ("report_to", r"\bmlflow\b", ("mlflow",)),
    ("report_to", r"\bcomet_ml\b", ("comet-ml",)),
    ("report_to", r"\btrackio\b", ("trackio",)),
    ("quant_method", r"^bnb$", ("bitsandbytes",)),
    ("quant_method", r"^hqq$", ("hqq",)),
    ("quant_method", r"^eetq$", ("eetq",)),
    ("quant_method", r"^quanto$", ("optimum-quanto",)),
    ("optim", r"^(adamw_8bit|adamw_bnb_8bit|lion_8bit|paged_.*|rmsprop_bnb.*|ademamix.*)$", ("bitsandbytes",)),
    ("optim", r"^galore_", ("galore-torch",)),
    ("optim", r"^schedule_free_", ("schedulefree",)),
    ("optim", r"^(ada)?lomo$", ("lomo-optim",)),
    ("optim", r"^apollo_", ("apollo-torch",)),
    ("eval_use_evalscope", r"(?i)^true$", ("evalscope",)),
    ("eval_metric", r"^nlg$", ("jieba",)),
    ("predict_with_generate", r"(?i)^true$", ("jieba",)),
    ("tuner_backend", r"^unsloth$", ("unsloth",)),
)
ASKED_FOR = tuple(dict.fromkeys(name for _, _, names in _NEEDS for name in names))


def check_conflicts(job: Job, plan: Plan) -> Iterator[Problem]:
    """Yield what does not go together: attention and GPUs, kernels and packages, processes and devices."""
    values = read_train_values(plan)
    if not job.smoke:
        yield from _check_attention(job, values)
        yield from _check_tf32(job, values)
        yield from _check_liger(job, values)
        yield from _check_processes(job)


def advise_precision(job: Job, plan: Plan) -> Iterator[Problem]:
    """Yield that bf16 is asked for on a GPU that has no units for it: PyTorch emulates it."""
    if job.hardware.kind == "cuda" and not job.hardware.bf16 and is_on(read_train_values(plan), "bf16"):
        yield Problem(f"bf16 on {job.hardware} is emulated, and slow", "remove bf16: Orch then takes fp16 here")


def _check_attention(job: Job, values: dict[str, str]) -> Iterator[Problem]:
    asked = values.get("attn_impl", "")
    argument = "attn_impl" if asked in _FLASH else "use_flash_attn" if is_on(values, "use_flash_attn") else None
    if argument is None:
        return
    if job.hardware.kind != "cuda":
        hint = "remove it: PyTorch's own attention (sdpa) is used without it"
        yield Problem(f"train.{argument}: flash attention needs a GPU, and there is none", hint)
        return
    # transformers takes the kernels package instead, where it is installed (_check_and_adjust_attn_implementation)
    if (asked not in _FLASH or _FLASH[asked]) and not {"flash-attn", "kernels"} & job.versions.keys():
        hint = (
            f"{job.backend_python} -m pip install flash-attn --no-build-isolation   (it needs nvcc), "
            "or remove it: PyTorch's own attention (sdpa) is used without it"
        )
        yield Problem(f"train.{argument} asks for flash-attn, which is not installed", hint)


def _check_tf32(job: Job, values: dict[str, str]) -> Iterator[Problem]:
    if is_on(values, "tf32") and (job.hardware.kind == "cpu" or not job.hardware.bf16):
        message = f"train.tf32 needs a GPU of the Ampere generation or newer, and the job is for {job.hardware}"
        yield Problem(message, "remove it: transformers would end with an error")


def _check_liger(job: Job, values: dict[str, str]) -> Iterator[Problem]:
    if is_on(values, "use_liger_kernel") and "liger-kernel" not in job.versions:
        hint = f"{job.backend_python} -m pip install liger-kernel, or remove it"
        yield Problem("train.use_liger_kernel asks for liger-kernel, which is not installed", hint)


def _check_processes(job: Job) -> Iterator[Problem]:
    if job.hardware.kind != "cuda":
        return
    asked, there = job.processes(), job.hardware.count
    chosen = job.chosen_gpus()
    if chosen == ():
        message = "launch.env.CUDA_VISIBLE_DEVICES hides every GPU from a job that is planned for one"
        yield Problem(message, "remove it, or say --hardware cpu")
    elif chosen is not None and asked > len(chosen):
        message = f"{asked} processes, and launch.env.CUDA_VISIBLE_DEVICES={','.join(chosen)} leaves {len(chosen)} GPUs"
        yield Problem(message, f"say launch: {{nproc_per_node: {len(chosen)}}}, or auto")
    elif asked > there:
        message = f"launch.nproc_per_node is {asked}, and this machine has {there} GPUs for them"
        yield Problem(message, f"give at most {there}, or auto: two processes on one GPU end with an error of NCCL")


def check_argument_packages(job: Job, plan: Plan) -> Iterator[Problem]:
    """Yield every argument that asks for a package which is not installed, with the command that installs it."""
    if not job.versions:
        return  # an interpreter that cannot be run: another check says so
    values = read_train_values(plan)
    for argument, pattern, names in _NEEDS:
        given = values.get(argument, "")
        if re.search(pattern, given) and not set(names) & job.versions.keys():
            hint = f"{job.backend_python} -m pip install {names[0]}, or remove it"
            yield Problem(f"train.{argument}: {given} asks for {names[0]}, which is not installed", hint)


def advise_trust(job: Job, plan: Plan) -> Iterator[Problem]:  # noqa: ARG001  (every advice takes both)
    """Yield what code of others the run executes with the user's rights."""
    for key, ref in (("model", job.recipe.model), ("teacher", job.recipe.teacher)):
        if ref and ref.trust_remote_code:
            message = f"{key} {ref.name}: the Python code that it brings along will run (trust_remote_code)"
            yield Problem(message, "read that code first: it may do whatever you may do")
        if ref and ref.allow_pickle:
            message = f"{key} {ref.name}: pickled weights will be loaded (allow_pickle)"
            yield Problem(message, "take only files of people whom you trust: a pickle can run code")


def advise_on_resuming(job: Job, plan: Plan) -> Iterator[Problem]:
    """Yield that an interrupted training starts anew. A smoke run is over before anybody would mind."""
    train = plan.stage("train")
    if train and not train.resume and not job.smoke:
        yield Problem(
            f"if it is interrupted, {train.name} starts anew: {job.recipe.backend} cannot continue what it saves "
            "without DeepSpeed",
            "say deepspeed: zero0 in the recipe (it needs the package deepspeed), or accept it",
        )
