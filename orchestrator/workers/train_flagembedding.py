"""Start a reranker trainer of FlagEmbedding with less waste, where its first batch shows that nothing else changes.

What FlagEmbedding 1.4.2 wastes, and what is done instead; the rest of the training is FlagEmbedding's own main.

- last_logits: `CrossDecoderModel.encode` (finetune/reranker/decoder_only/base/modeling.py) computes the logits of every
  position over the whole vocabulary and keeps every layer's output, to read one number of the last position. Here the
  model computes the last position alone (transformers' `logits_to_keep`).
- trim_padding: a batch is padded to its longest text. Here its rows pass the model in parts of like length, each padded
  to its own longest, with the positions that they have in the whole batch. Batches, scores and the loss stay the same;
  LoRA's dropout draws other numbers from the same distribution.

Before the first step each is held against the native computation, on two texts of the first batch without dropout:
scores and gradients must be equal within a bound that is printed. What differs, or is not there, is left out and said.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from orchestrator.workers.environment import say
from orchestrator.workers.launch import run_words

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor

Features = Mapping[str, Any]  # of a batch of rows: input_ids, attention_mask, …, each (rows, tokens)
Encode = Callable[[Any, Features], "Tensor"]  # FlagEmbedding's model and features → one score a row

# The trainers that can be changed, and the class in `modeling` whose `encode` each calls.
MODELS = {
    "FlagEmbedding.finetune.reranker.decoder_only.base": "CrossDecoderModel",
    "FlagEmbedding.finetune.reranker.encoder_only.base": "CrossEncoderModel",
}
# What one more pass may cost, in tokens: the kernels of a 0.6B model are started in the time that a large GPU computes
# about so many.
PASS_COST = 1024
_KEEP = ("logits_to_keep", "num_logits_to_keep")  # since transformers 4.49, and from 4.45 on
_MULTIPLE = 8  # kernels want rows of a multiple of eight tokens
_TESTED_TOKENS = 32
_EXACT, _HALF = 1e-4, 0.1  # how far scores and gradients may differ: in float32, and in half precision


class UnsupportedError(Exception):
    """A speedup cannot be used with this model or these versions."""


def keep_last_logits(model: Any, native: Encode) -> Encode:  # noqa: ARG001
    """Return how rows are scored from the last position's logits alone. Raises UnsupportedError."""
    base = model.model.get_base_model() if hasattr(model.model, "get_base_model") else model.model
    known = inspect.signature(base.forward).parameters
    name = next((name for name in _KEEP if name in known), None)
    if name is None:
        raise UnsupportedError(f"{type(base).__name__} of this transformers has no logits_to_keep")

    def encode(model: Any, features: Features) -> Tensor:
        inputs = {key: features.get(key) for key in ("input_ids", "attention_mask", "position_ids")}
        return model.model(**inputs, **{name: 1}).logits[:, -1, model.yes_loc].contiguous()

    return encode


def trim_padding(model: Any, native: Encode, pass_cost: int = PASS_COST) -> Encode:
    """Return how `native` scores a batch in parts of like length. Raises UnsupportedError."""
    for module in model.modules():
        checkpoints = getattr(module, "_gradient_checkpointing_func", None)
        if getattr(checkpoints, "keywords", {}).get("use_reentrant", checkpoints is not None):
            # each part would finish the gradients anew: DistributedDataParallel and ZeRO refuse that
            raise UnsupportedError("it needs gradient_checkpointing_kwargs: {use_reentrant: false}")

    def encode(model: Any, features: Features) -> Tensor:
        import torch

        mask = features["attention_mask"]
        width, left = mask.shape[1], model.tokenizer.padding_side == "left"
        parts = split_rows(mask.sum(1).tolist(), width, pass_cost)
        if len(parts) == 1:
            return native(model, features)
        scores = []
        for rows, tokens in parts:
            columns = slice(width - tokens, width) if left else slice(tokens)
            part = {name: value[rows, columns] for name, value in features.items()}
            if left:  # the positions that native padding gives
                part.setdefault("position_ids", torch.arange(width, device=mask.device)[None, columns])
            scores.append(native(model, part))
        order = torch.tensor([row for rows, _ in parts for row in rows], device=mask.device)
        return torch.cat(scores)[order.argsort()]

    return encode


SPEEDUPS: dict[str, Callable[[Any, Encode], Encode]] = {"last_logits": keep_last_logits, "trim_padding": trim_padding}


def split_rows(lengths: list[int], width: int, pass_cost: int) -> list[tuple[list[int], int]]:
    """Return the parts of a batch that cost the fewest tokens: the rows of each, shortest first, and its tokens.

    `lengths` are in tokens and `width` is that of the whole batch; each part costs rows x tokens, and `pass_cost`.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    tokens = [min(width, -(-lengths[row] // _MULTIPLE) * _MULTIPLE) for row in order]
    best = [(0, 0)]  # for the first n rows: the cost, and where their last part begins
    for end in range(1, len(order) + 1):
        best.append(min((best[start][0] + (end - start) * tokens[end - 1] + pass_cost, start) for start in range(end)))
    parts, end = [], len(order)
    while end:
        start = best[end][1]
        parts.append((order[start:end], tokens[end - 1]))
        end = start
    return parts[::-1]


def cut_sample(model: Any, features: Features) -> dict[str, Any]:
    """Return two short rows of a batch, of which one is padded."""
    left, tokens = model.tokenizer.padding_side == "left", min(features["input_ids"].shape[1], _TESTED_TOKENS)
    sample = {name: (value[:2, -tokens:] if left else value[:2, :tokens]).clone() for name, value in features.items()}
    padding = slice(tokens // 2) if left else slice(tokens - tokens // 2, tokens)
    sample["attention_mask"][1, padding] = 0
    sample["input_ids"][1, padding] = model.tokenizer.pad_token_id
    return sample


@contextmanager
def without_dropout(model: Any) -> Iterator[None]:
    """Score as at inference; gradient checkpointing rests, too."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def compare(model: Any, sample: Features, native: Encode, changed: Encode) -> tuple[float, float]:
    """Return how far the changed scores and gradients are from the native ones, relative to these, and the bound."""
    import torch

    weights = [weight for weight in model.parameters() if weight.requires_grad]

    def compute(encode: Encode) -> tuple[Tensor, Tensor]:
        torch.clear_autocast_cache()  # its copies of weights belong to a graph that is taken down at once
        scores = encode(model, sample).flatten()
        found = torch.autograd.grad(scores[0] - scores[1] / 2, weights, allow_unused=True, materialize_grads=True)
        torch.clear_autocast_cache()
        return scores.detach(), torch.cat([gradient.float().flatten() for gradient in found])

    with without_dropout(model), torch.enable_grad():
        found, other = compute(native), compute(changed)
    away = [float((a - b).norm() / a.norm().clamp_min(1e-30)) for a, b in zip(found, other, strict=True)]
    return max(away), _EXACT if found[0].dtype == torch.float32 else _HALF


def choose_encode(model: Any, features: Features, native: Encode, names: list[str]) -> Encode:
    """Return the native way of scoring with those speedups that change nothing on a sample of the batch; say which."""
    from torch import distributed

    sample = cut_sample(model, features)
    encode, kept = native, []
    for name in names:
        without = f"the training goes on without {name}"
        try:
            changed = SPEEDUPS[name](model, encode)
            tried = trim_padding(model, encode, pass_cost=0) if name == "trim_padding" else changed
            away, bound = compare(model, sample, native, tried)
        except UnsupportedError as error:
            say("caution", f"{without}: {error}")
        except (RuntimeError, TypeError, ValueError, NotImplementedError, AttributeError) as error:
            told = " ".join(str(error).split())[:200]
            say("caution", f"{without}: its test raises {type(error).__name__}: {told}")
        else:
            if away <= bound:
                encode = changed
                kept.append(f"{name} ({away:.1e}, bound {bound:.0e})")
            else:
                far = f"scores or gradients are {away:.1e} from the native ones, and {bound:.0e} is the bound"
                say("caution", f"{without}: {far}")
    if kept and (not distributed.is_initialized() or distributed.get_rank() == 0):  # one process speaks for all
        say("note", f"speedups with scores and gradients equal to the native ones: {', '.join(kept)}")
    return encode


def change_encode(cls: Any, names: list[str]) -> None:
    """Let a model class of FlagEmbedding score its training rows with the speedups, from its first batch on."""
    native: Encode = cls.encode
    chosen: Encode | None = None

    def encode(model: Any, features: Features | None) -> Any:
        nonlocal chosen
        if features is None or not model.training:
            return native(model, features)  # type: ignore[arg-type]
        if chosen is None:
            chosen = choose_encode(model, features, native, names)
        return chosen(model, features)

    cls.encode = encode


def main(argv: list[str]) -> int:
    """Train to the end; the words behind `-m MODULE` are the trainer's own."""
    place = argv.index("-m") if "-m" in argv else len(argv)
    parser = argparse.ArgumentParser(prog="workers train_flagembedding", description=__doc__, allow_abbrev=False)
    parser.add_argument("--speedups", nargs="+", required=True, choices=SPEEDUPS, help="what is done with less waste")
    options = parser.parse_args(argv[:place])
    if argv[place + 1 : place + 2] == [] or argv[place + 1] not in MODELS:
        parser.error(f"-m names the trainer: {' or '.join(MODELS)}")
    module = argv[place + 1]
    change_encode(getattr(importlib.import_module(f"{module}.modeling"), MODELS[module]), options.speedups)
    run_words(argv[place:])
    return 0
