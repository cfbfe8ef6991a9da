"""Print every argument that an installed trainer (of FlagEmbedding, ms-swift, sentence-transformers) takes, as JSON."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import enum
import importlib
import importlib.util
import json
import sys
import types
import typing
from operator import itemgetter
from typing import Any

from orchestrator.workers.environment import read_versions
from orchestrator.workers.failure import WorkerError

SECRETS = (
    "token",
    "hub_token",
    "push_to_hub_token",
    "swanlab_token",
    "swanlab_secret",
    "swanlab_webhook_url",
)  # their defaults are read from the environment
GROUP_ORDER = ("model", "data", "training")
Argument = dict[str, Any]


def list_kinds(hint: Any) -> list[Any]:
    """Return the alternatives of a union without None, those of a Literal by their values' types."""
    if typing.get_origin(hint) in {typing.Union, types.UnionType}:
        return [kind for part in typing.get_args(hint) if part is not type(None) for kind in list_kinds(part)]
    return list(map(type, typing.get_args(hint))) if typing.get_origin(hint) is typing.Literal else [hint]


def choices_of(kinds: list[Any], action: argparse.Action) -> list[str] | None:
    """Return what the trainer's parser allows; for an Enum its values."""
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, enum.Enum):
            return [str(member.value) for member in kind]
    return [str(choice) for choice in action.choices if choice != "None"] if action.choices else None


def type_of(kinds: list[Any], action: argparse.Action) -> str:
    """Return the one type name that a recipe's value should have; the parser decides what is a list and what a bool."""
    if action.nargs == "+":
        return "list[str]"
    if getattr(action.type, "__name__", "") == "string_to_bool":
        return "bool"
    if any(kind is dict or typing.get_origin(kind) is dict for kind in kinds):
        return "json" if str in kinds else "dict"
    if str in kinds:
        return "str"
    # float before int: `warmup_steps: float` takes 0.1 and 100
    return next((candidate.__name__ for candidate in (float, int) if candidate in kinds), "json")


def default_of(field: dataclasses.Field[Any]) -> Any:
    """Return the field's default as JSON-ready data; a secret's default is None, whatever the environment holds."""
    if field.name in SECRETS:
        return None
    value = field.default
    if value is dataclasses.MISSING:
        value = field.default_factory() if field.default_factory is not dataclasses.MISSING else None
    return value.value if isinstance(value, enum.Enum) else value


def read_arguments(cls: type, group: str) -> list[Argument]:
    """Return the arguments of one dataclass, in its own order, as the trainer's own parser takes them.

    Each has name, type (int, float, bool, str, list[str], dict, or json: a dict or its text), default, choices, nargs,
    group, and whether it is required.
    """
    from transformers import HfArgumentParser

    hints = typing.get_type_hints(cls)
    # the first action of a name takes a value; `--no_NAME` of a bool that is on by default comes after it
    actions: dict[str, argparse.Action] = {}
    for action in HfArgumentParser((cls,))._actions:  # noqa: SLF001  argparse has no public list of its actions
        actions.setdefault(action.dest, action)
    found = []
    for field in dataclasses.fields(cls):
        if field.init:
            action, kinds = actions[field.name], list_kinds(hints[field.name])
            found.append(
                {
                    "name": field.name,
                    "type": type_of(kinds, action),
                    "default": default_of(field),
                    "choices": choices_of(kinds, action),
                    "nargs": "+" if action.nargs == "+" else None,
                    "group": group,
                    "required": action.required,
                }
            )
    return found


def read_module(module: str) -> dict[str, Any]:
    """Return versions and arguments of a module that trains or merges, or ms-swift's models for `swift_models`.

    Such a module is FlagEmbedding.finetune.reranker.decoder_only.base, swift.cli.sft or swift.cli.export; the trainer
    that sentence_transformers has is not a module that can be run.
    """
    if module == "swift_models":
        return {"versions": read_versions(), "module": module, "models": read_swift_models()}
    found = _READERS.get(module.partition(".")[0], read_flagembedding)(module)
    return {"versions": read_versions(), "module": module, "arguments": found}


def read_flagembedding(module: str) -> list[Argument]:
    """Return what one of FlagEmbedding's trainers accepts: its three dataclasses, in one command line."""
    package = importlib.import_module(module)
    if ".embedder." in module:  # EncoderOnlyEmbedderM3ModelArguments and so on
        groups = {
            group: next(getattr(package, name) for name in dir(package) if name.endswith(f"{group.title()}Arguments"))
            for group in GROUP_ORDER
        }
    else:
        shared = importlib.import_module("FlagEmbedding.abc.finetune.reranker")
        groups = {
            "model": getattr(package, "RerankerModelArguments", shared.AbsRerankerModelArguments),
            "data": shared.AbsRerankerDataArguments,
            "training": shared.AbsRerankerTrainingArguments,
        }
    found = [argument for group, cls in groups.items() for argument in read_arguments(cls, group)]
    return sorted(found, key=lambda found: (GROUP_ORDER.index(found["group"]), found["name"]))


def read_swift(module: str) -> list[Argument]:
    """Return what `swift sft` or `swift export` accepts; ms-swift 3 has both in swift.llm, one as TrainArguments."""
    name = module.rpartition(".")[2]
    names = {"sft": ("SftArguments", "TrainArguments"), "export": ("ExportArguments",) * 2}.get(name)
    if names is None:
        raise ImportError(f"nothing is known of the arguments of {module}")
    new, old = names
    if importlib.util.find_spec("swift.arguments") is not None:
        cls = getattr(importlib.import_module("swift.arguments"), new)
    else:
        cls = getattr(importlib.import_module("swift.llm"), old)
    found = sorted(read_arguments(cls, name), key=itemgetter("name"))
    # its parser takes any text, and the training ends with a KeyError when it looks the loss up, which its versions
    # keep in three places
    where = "swift.loss" if importlib.util.find_spec("swift.loss") is not None else "swift.plugin.loss"
    known, maps = importlib.import_module(where), ("loss_map", "loss_mapping", "LOSS_MAPPING")
    losses = sorted(next(getattr(known, one) for one in maps if hasattr(known, one)))
    return [one | {"choices": losses} if one["name"] == "loss_type" else one for one in found]


def read_sentence_transformers(_module: str) -> list[Argument]:
    """Return what sentence-transformers' CrossEncoderTrainer takes."""
    from sentence_transformers.cross_encoder import CrossEncoderTrainingArguments

    return sorted(read_arguments(CrossEncoderTrainingArguments, "training"), key=itemgetter("name"))


_READERS = {"swift": read_swift, "sentence_transformers": read_sentence_transformers}


def read_swift_models() -> list[dict[str, Any]]:
    """Return ms-swift's models: type, the architectures it is told by, and templates with the hub ids they fit.

    `kind` is there for what is not a text model: multimodal, reward, or decision.
    """
    # ms-swift 3 has it in swift.llm, and one template for all models of a type
    where = "swift.model" if importlib.util.find_spec("swift.model") is not None else "swift.llm"
    models = []
    for model_type, meta in sorted(importlib.import_module(where).MODEL_MAPPING.items()):
        templates: dict[str, list[str]] = {}
        for group in meta.model_groups:
            ids = [name for model in group.models if (name := model.hf_model_id or model.ms_model_id)]
            templates.setdefault(getattr(group, "template", None) or meta.template or "", []).extend(ids)
        kind = "multimodal" if meta.is_multimodal else "reward" if meta.is_reward else None
        kind = "decision" if getattr(meta, "task_type", None) == "decision" else kind
        found = {"model_type": model_type, "architectures": meta.architectures, "templates": templates}
        models.append(found | ({"kind": kind} if kind else {}))
    return models


def main(argv: list[str]) -> int:
    """Print the description of each `--module`, one JSON document a line."""
    parser = argparse.ArgumentParser(prog="workers arguments", description=__doc__, allow_abbrev=False)
    which = "swift.cli.sft, swift.cli.export, swift_models, sentence_transformers, or one of FlagEmbedding's trainers"
    parser.add_argument("--module", required=True, nargs="+", help=which)
    options = parser.parse_args(argv)
    for module in options.module:
        try:
            with contextlib.redirect_stdout(sys.stderr):  # libraries print while they load
                described = read_module(module)
        except ImportError as error:
            raise WorkerError(f"cannot import {module}: {error}") from error
        sys.stdout.write(json.dumps(described, ensure_ascii=False) + "\n")
    return 0
