"""Whether the files of a model fill its architecture: every tensor's name and shape, compared on the meta device.

transformers itself matches the names, as it does when it loads: with its own renamings, prefixes and tied weights. No
weight is read. What it would fill with random numbers, with a warning and exit code 0, is refused here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from orchestrator.workers import mend_model
from orchestrator.workers.failure import UnfitModelError
from orchestrator.workers.weights import NoTensorsError, Shapes, Tensors, read_shapes

# What a model is wanted for: its words, the scores of its own head or of one that is new on purpose, or its vectors.
WORDS, SCORES, NEW_HEAD, VECTORS = USES = ("words", "scores", "new-head", "vectors")
_LOADERS = {
    WORDS: "AutoModelForCausalLM",
    SCORES: "AutoModelForSequenceClassification",
    NEW_HEAD: "AutoModelForSequenceClassification",
    VECTORS: "AutoModel",
}
_CLASSIFIES = "ForSequenceClassification"
_POOLER = re.compile(r"(^|\.)pooler\.")
_MOST_RENAMINGS = 4
# Methods that keep scales beside the weights, by which their files are known.
_HAVE_SCALES = frozenset({"awq", "bitsandbytes", "bitsandbytes_4bit", "bitsandbytes_8bit", "fbgemm_fp8", "fp8", "gptq"})
_RANDOM = "they would be filled with random numbers"
_SAME_MODEL = "take config.json and weights from one and the same model"


@dataclass(frozen=True)
class Fault:
    """What is wrong with the weights, and what to do."""

    message: str
    hint: str


@dataclass(frozen=True)
class Fit:
    """What a class wants and what the files have: what is missing, what nobody takes, and what has another shape.

    `lacking` is what is missing and must not be. `unread` is what nobody takes though the module that it belongs to is
    there. `prefix` stands in front of all names but those of the head.
    """

    model_class: str
    wanted: int
    prefix: str
    missing: Shapes = field(default_factory=dict)
    lacking: Shapes = field(default_factory=dict)
    unexpected: Shapes = field(default_factory=dict)
    unread: tuple[str, ...] = ()
    mismatched: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = field(default_factory=dict)

    def is_head(self, name: str) -> bool:
        """Tell whether a tensor belongs to the head: what comes after the model that the class is built on."""
        return bool(_POOLER.search(name)) or not name.startswith(f"{self.prefix}.")


@dataclass(frozen=True)
class Wish:
    """What a model is wanted for, and the class and config that load it so; how it is quantised, empty where not."""

    use: str
    loader: Any
    config: Any
    quantized: str


@dataclass(frozen=True)
class Verdict:
    """What was found out of a model for one use; `why_not` says why nothing could be, and is empty otherwise."""

    use: str
    faults: tuple[Fault, ...] = ()
    new: tuple[str, ...] = ()
    why_not: str = ""


def require_whole(model: str | Path, use: str, *, trust_remote_code: bool = False) -> Verdict:
    """Return what a model lacks on purpose. Raises UnfitModelError for one whose files do not fill it."""
    verdict = judge_weights(model, use, trust_remote_code=trust_remote_code)
    if verdict.faults:
        raise UnfitModelError(*(f"{fault.message}; {fault.hint}" for fault in verdict.faults))
    return verdict


def judge_weights(model: str | Path, use: str, *, trust_remote_code: bool = False) -> Verdict:
    """Return what is wrong with the weights of a folder or hub id for one of `USES`."""
    try:
        tensors = read_shapes(model)
        if tensors is None:
            return Verdict(use, why_not="its weights are not there to look at")
        shapes = tensors.shapes
        wish = _make_wish(model, use, trust_remote_code=trust_remote_code)
        fit = _compare(wish, shapes)
        renamings, left = _find_renamings(wish, shapes, fit) if fit.lacking else ((), fit)
    except NoTensorsError as error:
        return Verdict(use, (Fault(*error.args),))
    except ImportError as error:
        message = f"{model} needs a package that this Python lacks: {' '.join(str(error).split())[:300]}"
        return Verdict(use, (Fault(message, "install it, or name the model whose weights are not quantised"),))
    except Exception as error:  # noqa: BLE001  whatever a model's own code raises on a device without numbers
        return Verdict(use, why_not=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    name = str(model)
    faults = (*_judge_quantization(name, wish, fit, tensors), *_judge_fit(name, wish, fit, renamings, left))
    return Verdict(use, faults, () if faults else tuple(sorted(fit.missing)))


def _judge_quantization(model: str, wish: Wish, fit: Fit, tensors: Tensors) -> Iterator[Fault]:
    """Yield that config.json and weights say different things of whether these are quantised."""
    numbers = sorted(name for name in tensors.integers if name.endswith(".weight"))
    if not wish.quantized and numbers:
        message = (
            f"{model}: {len(numbers)} of its weights are whole numbers, such as {numbers[0]}, and config.json has no "
            "quantization_config that says how to read them"
        )
        yield Fault(message, _SAME_MODEL)
    elif wish.quantized in _HAVE_SCALES and not numbers and not fit.unexpected:
        message = f"{model}: config.json says that its weights are quantised ({wish.quantized}), and its files are not"
        yield Fault(message, f"remove quantization_config from config.json, or {_SAME_MODEL}")


def _make_wish(model: str | Path, use: str, *, trust_remote_code: bool) -> Wish:
    """Return the config, and the class that loads the model for this use. Raises ValueError where there is none."""
    import torch
    import transformers

    labels = {"num_labels": 1} if use in {SCORES, NEW_HEAD} else {}
    config = transformers.AutoConfig.from_pretrained(model, trust_remote_code=trust_remote_code, **labels)
    quantized = _take_quantization_out(config)
    named = next(iter(config.architectures or ()), "")
    if use == VECTORS and named.endswith("EncoderModel"):  # T5's, whose AutoModel has a decoder too
        return Wish(use, getattr(transformers, named), config, quantized)
    auto = getattr(transformers, _LOADERS[use])
    try:
        with torch.device("meta"):
            found = type(auto.from_config(config, trust_remote_code=trust_remote_code))
    except ValueError:  # no such class for this config: a model of pictures and words is loaded by its own name
        if use != WORDS or not hasattr(transformers, named):
            raise
        found = getattr(transformers, named)
    return Wish(use, found, config, quantized)


def _take_quantization_out(config: Any) -> str:
    """Return how a config says that its weights are quantised, which it no longer says then; empty where it does not.

    The tensors are matched by their modules: their names and shapes are the quantizer's. Raises ImportError for a
    quantizer whose package is not installed.
    """
    said = getattr(config, "quantization_config", None)
    if said is None:
        return ""
    from transformers.quantizers.auto import AutoHfQuantizer

    method = said.get("quant_method", "bitsandbytes") if isinstance(said, dict) else said.quant_method
    try:
        AutoHfQuantizer.from_config(said).validate_environment(device_map=None)
    except ImportError:
        raise
    except Exception:  # noqa: BLE001, S110  what it finds of this machine, the loader says where it loads
        pass
    del config.quantization_config
    return str(getattr(method, "value", method))


def _compare(wish: Wish, shapes: Mapping[str, tuple[int, ...]]) -> Fit:
    """Return how the tensors fit the class; transformers matches their names."""
    import torch
    from transformers.utils import logging

    state = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    said = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        model, found = wish.loader.from_pretrained(
            None,
            config=wish.config,
            state_dict=state,
            device_map={"": "meta"},
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    finally:
        logging.set_verbosity(said)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    unexpected = {name: tuple(shapes.get(name, ())) for name in map(str, found["unexpected_keys"])}
    missing = {name: wanted.get(name, ()) for name in map(str, found["missing_keys"])}
    mismatched = {}
    for entry in found["mismatched_keys"]:  # a name and two shapes, of which transformers 4 says the name only
        name = entry if isinstance(entry, str) else str(entry[0])
        own = shapes.get(name) or next((shape for key, shape in shapes.items() if name.endswith(f".{key}")), ())
        mismatched[name] = (own if isinstance(entry, str) else tuple(entry[1]), wanted.get(name, ()))
    if wish.quantized:
        modules = {name.rpartition(".")[0] for name in unexpected}
        missing = {name: shape for name, shape in missing.items() if name.rpartition(".")[0] not in modules}
        mismatched = {name: both for name, both in mismatched.items() if len(both[0]) == len(both[1]) == 1}
    prefix = model.base_model_prefix
    unread = () if wish.quantized else tuple(sorted(_find_unread(unexpected, wanted, prefix)))
    fit = Fit(wish.loader.__name__, len(wanted), prefix, missing, missing, unexpected, unread, mismatched)
    # a pooler that nobody reads may be missing, and a head that is new on purpose: the config claims none
    new_head = wish.use == NEW_HEAD and not any(_CLASSIFIES in name for name in wish.config.architectures or ())
    may_lack = _POOLER.search if wish.use == VECTORS else lambda name: new_head and fit.is_head(name)
    return replace(fit, lacking={name: shape for name, shape in missing.items() if not may_lack(name)})


def _find_unread(unexpected: Iterable[str], wanted: Iterable[str], prefix: str) -> Iterator[str]:
    """Yield what belongs to a module that is there, such as a bias beside a weight: config.json leaves it out."""
    modules = {name.rpartition(".")[0] for name in wanted}
    for name in unexpected:
        module = name.rpartition(".")[0]
        if module and {module, f"{prefix}.{module}", module.removeprefix(f"{prefix}.")} & modules:
            yield name


def _find_renamings(wish: Wish, shapes: Shapes, fit: Fit) -> tuple[tuple[mend_model.Renaming, ...], Fit]:
    """Return the changes of names that fill most of what is missing, and how the tensors fit after them."""
    found: tuple[mend_model.Renaming, ...] = ()
    best = fit
    wrappers = mend_model.find_wrappers(fit.unexpected, fit.missing)
    tied = getattr(wish.config.get_text_config(), "tie_word_embeddings", False)
    for _ in range(_MOST_RENAMINGS):
        # an output over the vocabulary that is another matrix than the embeddings has their shape, too
        there = {name: shape for name, shape in best.unexpected.items() if tied or not name.startswith("lm_head.")}
        swap = mend_model.find_swap(best.lacking, there)
        tried = (*found, *(wrappers if wrappers and not found else (swap,) if swap else ()))
        if len(tried) == len(found):
            break
        after = _compare(wish, {mend_model.rename(name, tried): shape for name, shape in shapes.items()})
        # one that fills less than half puts a tensor in the place of another that has its shape by chance
        if len(after.lacking) * 2 >= len(best.lacking):
            if not wrappers or found:
                break
            wrappers = ()
            continue
        found, best = tried, after
        if not best.lacking:
            break
    return found, best


def _judge_fit(
    model: str, wish: Wish, fit: Fit, renamings: tuple[mend_model.Renaming, ...], left: Fit
) -> Iterator[Fault]:
    """Yield which tensors have other shapes, are not there, or would not be read though that matters."""
    scores = wish.use in {SCORES, NEW_HEAD}
    heads = {name: both for name, both in fit.mismatched.items() if scores and fit.is_head(name)}
    others = fit.mismatched.keys() - heads.keys()
    if heads:
        yield _refuse_labels(model, wish.use, max(there[0] for there, _ in heads.values() if there))
    if others:
        name = min(others)
        there, asked = fit.mismatched[name]
        message = (
            f"{model}: {len(others)} of the {fit.wanted} tensors of {fit.model_class} have another shape in its files "
            f"than config.json says, such as {name}: {list(there)} and not {list(asked)}"
        )
        yield Fault(message, _SAME_MODEL)
    if adapters := [name for name in fit.unexpected if mend_model.ADAPTER.search(name)]:
        message = (
            f"{model} holds an adapter that was never merged into the weights ({_name_some(adapters)}): what it has "
            "learnt would be left out"
        )
        hint = "call merge_and_unload() before save_pretrained() in the program that wrote it"
        command = mend_model.name_command(model, "--fold-lora", "ALPHA")
        yield Fault(message, f"{hint}\nor, with the lora_alpha of its training: {command}")
    elif fit.lacking:
        yield _refuse_missing(model, fit, renamings, left)
    elif fit.unread and not others:
        message = (
            f"{model}: its files hold {len(fit.unread)} tensors of modules of {fit.model_class} that config.json "
            f"leaves out, such as {_name_some(fit.unread)}: they would not be read"
        )
        yield Fault(message, _SAME_MODEL)
    elif dropped := [name for name in fit.unexpected if mend_model.TOP_HEAD.fullmatch(name) and wish.use == WORDS]:
        message = f"{model}: its files hold {dropped[0]}, a head that scores, and {fit.model_class} would drop it"
        hint = "name its ForSequenceClassification class in architectures of config.json, and a format that has a head"
        yield Fault(message, hint)
    elif scores and (misplaced := _find_other_head(fit)):
        old, swap = misplaced
        message = (
            f"{model}: its files hold {old}, which looks like a head that scores, and {fit.model_class} reads none"
        )
        yield Fault(message, f"{swap}: {mend_model.name_command(model, *swap.option)}")


def _refuse_labels(model: str, use: str, labels: int) -> Fault:
    message = f"{model} has a head of {labels} labels, and a reranker's has one: a score"
    fixes = []
    if labels == 2:  # noqa: PLR2004  the logit of "relevant" less that of "irrelevant" orders as its probability does
        fixes.append(
            f"make one label of the two, the second less the first: {mend_model.name_command(model, '--one-label')}"
        )
    if use == NEW_HEAD:
        fixes.append(f"train a new head on its body: {mend_model.name_command(model, '--without-head')}")
    fixes.append("name a cross-encoder, whose head has one label")
    return Fault(message, "\nor ".join(fixes))


def _refuse_missing(model: str, fit: Fit, renamings: tuple[mend_model.Renaming, ...], left: Fit) -> Fault:
    message = (
        f"{model}: {len(fit.lacking)} of the {fit.wanted} tensors of {fit.model_class} are not in its files, such as "
        f"{_name_some(fit.lacking)}: {_RANDOM}"
    )
    if fit.unexpected:
        message += f"; {len(fit.unexpected)} are there that it does not ask for, such as {_name_some(fit.unexpected)}"
    if not renamings:
        return Fault(message, f"{_SAME_MODEL}, or save it again, whole")
    words = ", ".join(map(str, renamings))
    command = mend_model.name_command(model, *(word for renaming in renamings for word in renaming.option))
    more = f"\n{_name_some(left.lacking)} will still be missing: take them from where the model is whole"
    return Fault(message, f"{words}: {command}{more if left.lacking else ''}")


def _find_other_head(fit: Fit) -> tuple[str, mend_model.Renaming] | None:
    """Return a tensor that is called like a head, has the shape of the one that is new, and is not read."""
    for old, shape in fit.unexpected.items():
        if not mend_model.HEAD.search(old) or len(shape) < 2:  # noqa: PLR2004
            continue
        new = next((name for name, wanted in fit.missing.items() if wanted == shape), None)
        swap = mend_model.find_swap({new: shape}, {old: shape}) if new else None
        if swap is not None:
            return old, swap
    return None


def _name_some(names: Iterable[str]) -> str:
    """Return at most two names."""
    found = sorted(names)
    return " and ".join(found[:2]) + (" …" if len(found) > 2 else "")  # noqa: PLR2004
