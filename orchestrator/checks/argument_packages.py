"""Packages that single arguments ask for: the trainer would miss them at its start, after the baseline."""

from __future__ import annotations

import re
from collections.abc import Iterator

from orchestrator.backends.protocol import Job
from orchestrator.checks.train_values import read_train_values
from orchestrator.errors import Problem
from orchestrator.recipe.plan import Plan

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
