"""The model as training starts from it (as `score` measures it before, the new head included), goes on, and ends."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from orchestrator.workers.cross_encoder.settings import Settings
from orchestrator.workers.engines.transformers import HEAD_SEED, name_head
from orchestrator.workers.environment import weight_options
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.folders import replace_link
from orchestrator.workers.reranker.scoring import load_formatted_head
from orchestrator.workers.whole_weights import NEW_HEAD, require_whole

LAYERS = "transformer_layer_cls_to_wrap"
_CHECKPOINT = re.compile(r"checkpoint-([0-9]{1,18})")


@contextlib.contextmanager
def reported_weights() -> Iterator[None]:
    """Let transformers print which weights a model file lacks: they start at random, the new head and any other one."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_warning()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def load_model(settings: Settings) -> Any:
    """Return a CrossEncoder in float32 on the CPU (the trainer moves it), whose scores are raw logits.

    A base without a head gets a seeded one, the one that `score` gives it. Raises WorkerError for a head of several
    labels, for a `max_length` beyond the encoder's positions, and what `load_formatted_head` raises.
    """
    trust: dict[str, Any] = {"trust_remote_code": settings.trust_remote_code}
    if settings.format is not None:
        return load_formatted_head(
            settings.model, settings.format, max_length=settings.max_length, device="cpu", **trust
        )
    import torch
    from sentence_transformers import CrossEncoder

    name_head(settings.model, **trust)
    require_whole(settings.model, NEW_HEAD, **trust)
    torch.manual_seed(HEAD_SEED)
    model = CrossEncoder(
        settings.model,
        num_labels=1,
        max_length=settings.max_length,
        activation_fn=torch.nn.Identity(),
        device="cpu",
        model_kwargs={"torch_dtype": "float32", **trust, **weight_options()},
        **trust,
    )
    positions = getattr(model.model.config, "max_position_embeddings", None)
    if positions and settings.max_length > positions:
        raise WorkerError(f"max_length is {settings.max_length}, and {settings.model} has {positions} positions")
    return model


def name_layers(settings: Settings) -> dict[str, Any]:
    """Return the trainer's arguments with the layers that FSDP spreads over the GPUs, where they are not named yet.

    They are the classes that the model's own library never splits; a CrossEncoder names none itself
    (sentence_transformers/base/model.py: `_no_split_modules`). Raises WorkerError where the library names none.
    """
    config = settings.arguments.get("fsdp_config")
    if not settings.arguments.get("fsdp") or not isinstance(config, dict) or config.get(LAYERS):
        return settings.arguments
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    trust = {"trust_remote_code": settings.trust_remote_code}
    with torch.device("meta"):  # the classes are wanted, not the weights
        model = AutoModelForSequenceClassification.from_config(
            AutoConfig.from_pretrained(settings.model, **trust), **trust
        )
    layers = sorted(model._no_split_modules or ())  # noqa: SLF001  what accelerate reads too
    if not layers:
        raise WorkerError(f"{settings.model} does not name its layers, which FSDP needs: say launch.strategy: ddp")
    return {**settings.arguments, "fsdp_config": {**config, LAYERS: layers}}


def save_whole(settings: Settings, weights: Mapping[str, Any], folder: str | Path) -> None:
    """Write the weights that FSDP gathered as a model folder. Raises WorkerError when they are not all of the model's.

    The trainer's own `_save` leaves them aside and saves the model that it holds, of which FSDP left it the shards.
    """
    model = load_model(settings)
    try:
        model.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise WorkerError(
            f"the weights that FSDP gathered are not the model's: {' '.join(str(error).split())}"
        ) from error
    model.save_pretrained(str(folder))


def require_resumable(checkpoint: Path, arguments: Any) -> None:
    """Raise WorkerError unless the checkpoint holds all that makes the rest of the training the same.

    transformers starts without a word from what is missing. DeepSpeed and FSDP keep optimizer and weights in files of
    their own, and complain themselves.
    """
    if not checkpoint.is_dir():
        raise WorkerError(f"{checkpoint}: there is no such checkpoint")
    needed = ["trainer_state.json", "scheduler.pt"]
    if not arguments.deepspeed and not arguments.fsdp:
        needed.append("optimizer.pt")
    # one process a file: with another number of processes the same steps would see other rows
    ranks = range(arguments.world_size)
    needed += [f"rng_state_{rank}.pth" for rank in ranks] if arguments.world_size > 1 else ["rng_state.pth"]
    missing = [name for name in needed if not (checkpoint / name).is_file()]
    if missing:
        raise WorkerError(
            f"{checkpoint} cannot be continued: {', '.join(missing)} is missing; it was saved by another number of "
            "processes, with save_only_model, or not to its end"
        )


def link_checkpoints(output: Path, best: str | None, *, has_validation: bool) -> dict[str, str]:
    """Make the links in `output` and return what they point to. `best`: the trainer state's best_model_checkpoint.

    Raises WorkerError when no checkpoint was written to its end, or, with validation, when none is the best.
    """
    whole = {
        int(match[1]): path.name
        for path in output.iterdir()
        if (match := _CHECKPOINT.fullmatch(path.name)) and (path / "trainer_state.json").is_file()
    }
    if not whole:
        raise WorkerError(f"{output} holds no checkpoint: the training ended before the first one; lower save_steps")
    links = {"last": whole[max(whole)]}
    if has_validation:
        name = os.path.basename(best.rstrip("/")) if best else ""  # noqa: PTH119  the text of another process's path
        if name not in whole.values():
            raise WorkerError(
                f"{output}: no checkpoint is known as the best ({name or 'none was both evaluated and saved'}); "
                "let eval_steps and save_steps be equal"
            )
        links["best"] = name
    for name, target in links.items():
        replace_link(output / name, target)
    return links
