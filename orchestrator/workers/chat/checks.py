"""The checks that only a packaged chat model has: whole copy, tied embeddings, same answer, template, end of a turn."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.workers.chat.greedy_comparison import describe_divergence, find_divergence
from orchestrator.workers.verification_checks import Check
from orchestrator.workers.weights import hash_file, read_tensors, require_safetensors

if TYPE_CHECKING:
    from orchestrator.workers.chat.model import Answer


def check_copied(model: Path, folder: Path) -> Check:
    """Check that config and weights are the trained folder's, byte for byte: then the two are one model."""
    names = ["config.json", *(path.name for path in require_safetensors(model))]
    other = [
        name for name in names if not (folder / name).is_file() or hash_file(folder / name) != hash_file(model / name)
    ]
    failure = f"{', '.join(other)} of the package differ from the trained folder's: the copy is damaged"
    return Check("copied", not other, failure, {"files": len(names)})


def check_tied(folder: Path, *, wanted: bool, tied: bool) -> Check:
    """Check that the embeddings are shared as the config says, and that the files hold no second, other output."""
    import torch

    found = {
        name: tensor
        for name, tensor in read_tensors(require_safetensors(folder))
        if name.endswith(("embed_tokens.weight", "lm_head.weight"))
    }
    tensors = list(found.values())
    twice = len(tensors) == 2  # noqa: PLR2004
    differ = wanted and twice and not torch.equal(tensors[0], tensors[1])
    failure = (
        "the config ties input and output embeddings, the files hold two different ones: one of them is ignored"
        if differ
        else f"the config says tie_word_embeddings {wanted}, the loaded model says {tied}"
    )
    return Check(
        "tied", wanted == tied and not differ, failure, {"tie_word_embeddings": wanted, "both_in_files": twice}
    )


def check_answer(adapted: Answer, packaged: Answer, stop_ids: list[int], tolerance: float) -> Check:
    """Check that the packaged model writes the adapter's answer, up to a tie that rounding may turn."""
    divergence = find_divergence(adapted, packaged, stop_ids)
    facts = describe_divergence(divergence, tolerance)
    failure = (
        f"the packaged model answers the test prompt differently from base and adapter, from token "
        f"{facts.get('first_difference')} on (margin {facts.get('margin')}, explained up to {tolerance:.3g})"
    )
    passed = divergence is None or divergence.is_tie(tolerance)
    return Check("same-answer", passed, failure, {**facts, "tokens": len(adapted.ids)})


def check_template(chosen: Any) -> Check:
    """Check that the packaged chat template renders the ids of training."""
    failure = (
        f"the packaged chat template renders other ids than the training: {chosen.differs} probes of each origin; "
        "the model would be asked in a format that it was not trained in"
    )
    return Check("chat-template", chosen.exact, failure, {"chat_template": chosen.source, "differs": chosen.differs})


def check_stop(stop_id: int | None, kept: list[int]) -> Check:
    """Check that the packaged generation_config ends where the training ends a turn."""
    failure = f"generation_config.json does not stop at {stop_id}, which ends every trained answer: it never would stop"
    return Check("stop", stop_id is None or stop_id in kept, failure, {"stop_ids": kept})
