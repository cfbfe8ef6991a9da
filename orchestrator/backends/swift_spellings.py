"""Old and new names of ms-swift's own arguments: each is rendered as the installed version wants it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.backends.spellings import Translation, leave_out, major, put, rename, restore_sampling
from orchestrator.errors import Problem
from orchestrator.recipe.losses import LOSSES

# Old names that `translate_swift` understands, with the type that a recipe gives them. `loss_type` is one of them: its
# names differ from version to version, and all of them are read.
OLD_SWIFT_SPELLINGS: dict[str, str] = {
    "train_type": "str",
    "sft_type": "str",
    "loss_type": "str",
    "evaluation_strategy": "str",
    "no_cuda": "bool",
    "per_gpu_train_batch_size": "int",
    "overwrite_output_dir": "bool",
    "save_safetensors": "bool",
}
_TUNER = "ms-swift 4 renamed it, and has no alias"
_BEFORE = "before ms-swift 4 it has this name"
_GENERATIVE = "generative_reranker"
_POINTWISE = "pointwise_reranker"  # from ms-swift 4 on


def is_swift_4(versions: Mapping[str, str]) -> bool:
    """Tell whether ms-swift 4 or later is installed; so it is where nothing is known, for that is the tested set's."""
    return major(versions.get("ms-swift")) >= 4  # noqa: PLR2004


def name_tuner(versions: Mapping[str, str]) -> str:
    """Return the argument that says LoRA or full training."""
    return "tuner_type" if is_swift_4(versions) else "train_type"


def name_loss(loss: str, task_type: str, versions: Mapping[str, str]) -> str:
    """Return the value of `--loss_type` for a recipe's loss.

    Sources: swift/loss/mapping.py of ms-swift 4.6.0, swift/plugin/loss.py of 3.12.6.
    """
    native = LOSSES[loss].native or loss
    if native != _POINTWISE or is_swift_4(versions):
        return native
    return _GENERATIVE if task_type == _GENERATIVE else "reranker"


def translate_swift(train: Mapping[str, Any], versions: Mapping[str, str], task: str) -> Translation:
    """Return `train` (values already of the right types) in the installed version's spelling.

    `task` is the recipe's: but for an LLM, `loss_type` is read as `loss:`.

    Sources: swift/arguments of ms-swift 3.6, 3.12 and 4.6, which all take `--warmup_ratio` and `--group_by_length`.
    """
    result, tuner = Translation(), name_tuner(versions)
    old_transformers = major(versions.get("transformers")) < 5  # noqa: PLR2004
    for name, value in train.items():
        if name in {"train_type", "sft_type", "tuner_type"} and name != tuner:
            put(result, train, name, (tuner, value), _TUNER if is_swift_4(versions) else _BEFORE)
        elif rename(result, train, name, value):
            continue
        elif name in {"overwrite_output_dir", "save_safetensors"}:
            leave_out(result, name, value)
        elif name == "loss_type" and task != "sft":
            result.dropped[name] = "understood as `loss:`, which decides the loss and its settings"
        elif name == "warmup_ratio" and not 0 <= value < 1:
            problem = Problem(f"warmup_ratio is a share of the steps, got {value}", "0.1 is 10 %")
            result.problems.append((name, problem))
        elif name == "warmup_steps" and 0 < value < 1:
            put(result, train, name, ("warmup_ratio", value), "every ms-swift takes a ratio by this name")
        elif name == "warmup_steps":
            result.arguments[name] = int(value)
        elif name == "train_sampling_strategy" and old_transformers:
            restore_sampling(result, train, value)
        else:
            result.arguments[name] = value
    return result
