"""Old and new names of ms-swift's own arguments: each is rendered as the installed version wants it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.backends.spellings import Translation, leave_out, major, put, rename
from orchestrator.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

# Old names that `translate_swift` understands, with the type that a recipe gives them.
OLD_SWIFT_SPELLINGS: dict[str, str] = {
    "train_type": "str",
    "sft_type": "str",
    "evaluation_strategy": "str",
    "no_cuda": "bool",
    "per_gpu_train_batch_size": "int",
    "overwrite_output_dir": "bool",
    "save_safetensors": "bool",
}
_TUNER = "ms-swift 4 renamed it, and has no alias"


def translate_swift(train: Mapping[str, Any], swift_version: str | None) -> Translation:
    """Return `train` (values already of the right types) in the installed version's spelling.

    Sources: swift/arguments of ms-swift 3.6 and 4.6, which still takes `--warmup_ratio` and `--group_by_length`.
    """
    result = Translation()
    modern = swift_version is None or major(swift_version) >= 4  # noqa: PLR2004
    for name, value in train.items():
        if name in {"train_type", "sft_type"} and modern:
            put(result, train, name, ("tuner_type", value), _TUNER)
        elif name in {"tuner_type", "sft_type"} and not modern:
            put(result, train, name, ("train_type", value), "before ms-swift 4 it has this name")
        elif rename(result, train, name, value):
            continue
        elif name in {"overwrite_output_dir", "save_safetensors"}:
            leave_out(result, name, value)
        elif name == "loss_type":
            result.dropped[name] = "understood as `loss:`, which decides the loss and its settings"
        elif name == "warmup_ratio" and not 0 <= value < 1:
            problem = Problem(f"warmup_ratio is a share of the steps, got {value}", "0.1 is 10 %")
            result.problems.append((name, problem))
        else:
            result.arguments[name] = value
    return result
