"""Read train.json: everything that decides one training of a cross-encoder; an unknown key is an error."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from orchestrator.workers.failure import WorkerError

VERSION = 1
FAMILIES = ("encoder", "decoder")
ACTIVATIONS = ("identity", "sigmoid")
FORMAT_KEYS = ("query_format", "document_format", "seq", "special_token")
PAIRS, LISTS, MARGINS = "cross-encoder-pairs", "cross-encoder-lists", "cross-encoder-margins"
# loss → the form of the rows that it reads
FORMS = {
    "pointwise_bce": PAIRS,
    "pointwise_mse": PAIRS,
    "pairwise_ranknet": LISTS,
    "listwise_ce": LISTS,
    "lambda_loss": LISTS,
    "list_mle": LISTS,
    "margin_mse": MARGINS,
}
# setting → the losses that have it, and what it is where it has no effect
SETTINGS_OF_LOSSES: dict[str, tuple[tuple[str, ...], Any]] = {
    "graded": (("listwise_ce",), False),
    "activation": (("pointwise_mse", "margin_mse"), "identity"),
    "pos_weight": (("pointwise_bce",), None),
    "k": (("lambda_loss",), None),
}


@dataclass(frozen=True)
class LossSettings:
    """What is minimised; `pos_weight` None is 1, `k` None is no cutoff."""

    type: str
    graded: bool = False
    activation: str = "identity"
    pos_weight: float | None = None
    k: int | None = None


@dataclass(frozen=True)
class EarlyStopping:
    """The training ends after `patience` evaluations in a row that are not better by more than `threshold`."""

    patience: int
    threshold: float = 0.0


@dataclass(frozen=True)
class Settings:
    """One training; `max_length` in tokens, `arguments` are CrossEncoderTrainingArguments as they are written.

    `format` (of decoders only) has the keys `FORMAT_KEYS`. `stable_ratio` is the part of the steps at the full learning
    rate, `shuffle_ratio` the probability that a document's parts change places.
    """

    model: str
    family: str
    loss: LossSettings
    form: str
    train: Path
    validation: Path | None
    max_length: int
    format: dict[str, str] | None
    shuffle_ratio: float
    stable_ratio: float | None
    early_stopping: EarlyStopping | None
    deterministic: bool
    trust_remote_code: bool
    arguments: dict[str, Any]

    @property
    def output(self) -> Path:
        """The folder of the checkpoints."""
        return Path(self.arguments["output_dir"])

    @property
    def seed(self) -> int:
        """The seed of everything but the new head: transformers' default is 42."""
        seed: int = self.arguments.get("seed", 42)
        return seed


def load_settings(path: Path) -> Settings:
    """Return the settings in a JSON file. Raises WorkerError with every problem that the file has."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WorkerError(f"{path}: the training's settings cannot be read: {error}") from error
    if not isinstance(raw, dict):
        raise WorkerError(f"{path}: the training's settings are not a JSON object")
    return parse_settings(raw, str(path))


def parse_settings(raw: dict[str, Any], origin: str) -> Settings:
    """Return the settings. Raises WorkerError with every problem, each line beginning with `origin`."""
    known = {field.name for field in fields(Settings)}
    problems = [f"{key} is no setting of a training" for key in raw if key not in known | {"version", "num_labels"}]
    problems += [
        f"{key} is missing" for key in ("version", *sorted(known - {"validation", "format"})) if key not in raw
    ]
    if problems:
        _refuse(origin, problems)
    problems = [
        *_check_loss(raw["loss"], raw["form"]),
        *_check_values(raw),
        *_check_format(raw),
        *_check_schedule(raw),
    ]
    if problems:
        _refuse(origin, problems)
    stopping = raw["early_stopping"]
    changed: dict[str, Any] = {
        "loss": LossSettings(**raw["loss"]),
        "train": Path(raw["train"]),
        "validation": Path(raw["validation"]) if raw.get("validation") else None,
        "early_stopping": EarlyStopping(**stopping) if stopping else None,
    }
    return Settings(**{**{name: raw.get(name) for name in known}, **changed})


def _refuse(origin: str, problems: list[str]) -> None:
    raise WorkerError(*(f"{origin}: {problem}" for problem in problems))


def _check_loss(loss: Any, form: Any) -> list[str]:
    if not isinstance(loss, dict) or loss.get("type") not in FORMS:
        found = loss.get("type") if isinstance(loss, dict) else loss
        return [f"loss.type is {found!r}; known are {', '.join(FORMS)}"]
    name = loss["type"]
    problems = [f"loss.{key} is no setting of a loss" for key in loss if key not in {"type", *SETTINGS_OF_LOSSES}]
    for key, (losses, neutral) in SETTINGS_OF_LOSSES.items():
        if loss.get(key, neutral) != neutral and name not in losses:
            problems.append(f"loss.{key} is a setting of {' and '.join(losses)}; the loss is {name}")
    if loss.get("activation", "identity") not in ACTIVATIONS:
        problems.append(f"loss.activation is {loss['activation']!r}; known are {', '.join(ACTIVATIONS)}")
    if not isinstance(loss.get("graded", False), bool):
        problems.append("loss.graded must be true or false")
    if loss.get("pos_weight") is not None and not _is_number(loss["pos_weight"], above=0):
        problems.append("loss.pos_weight must be a number above 0")
    if loss.get("k") is not None and not _is_count(loss["k"]):
        problems.append("loss.k must be a whole number of at least 1")
    if form != FORMS[name]:
        problems.append(f"form is {form!r}, and {name} learns from {FORMS[name]}")
    return problems


def _check_values(raw: dict[str, Any]) -> list[str]:
    problems = []
    if raw["version"] != VERSION:
        problems.append(f"version {raw['version']} of the settings is not known to this worker")
    if raw["family"] not in FAMILIES:
        problems.append(f"family is {raw['family']!r}; known are {', '.join(FAMILIES)}")
    if raw.get("num_labels", 1) != 1:
        problems.append(f"num_labels is {raw['num_labels']}; every loss here trains a head of one label")
    problems += [f"{key} must be a text" for key in ("model", "train") if not _is_text(raw[key])]
    if raw.get("validation") is not None and not _is_text(raw["validation"]):
        problems.append("validation must be a text or null")
    problems += [f"{key} must be true or false" for key in _SWITCHES if not isinstance(raw[key], bool)]
    if not _is_count(raw["max_length"]):
        problems.append("max_length must be a whole number of at least 1")
    arguments = raw["arguments"]
    if not isinstance(arguments, dict) or not _is_text(arguments.get("output_dir")):
        problems.append("arguments must be an object, with output_dir")
    elif arguments.get("save_strategy") == "no":
        problems.append("arguments.save_strategy is no: the training would leave no model")
    return problems


def _check_format(raw: dict[str, Any]) -> list[str]:
    written = raw.get("format")
    if raw["family"] != "decoder":
        return [] if written is None else ["format belongs to decoders; an encoder joins query and document by itself"]
    if not isinstance(written, dict) or set(written) != set(FORMAT_KEYS):
        return [f"a decoder needs a format of {', '.join(FORMAT_KEYS)}"]
    return [f"format.{key} must be a text" for key, value in written.items() if not isinstance(value, str)]


def _check_schedule(raw: dict[str, Any]) -> list[str]:
    problems = []
    if not _is_number(raw["shuffle_ratio"], least=0, most=1):
        problems.append("shuffle_ratio must be a number from 0 to 1")
    if raw["stable_ratio"] is not None and not _is_number(raw["stable_ratio"], least=0, most=1):
        problems.append("stable_ratio must be a number from 0 to 1, or null")
    stopping = raw["early_stopping"]
    if stopping is None:
        return problems
    if not isinstance(stopping, dict) or not {"patience"} <= set(stopping) <= {"patience", "threshold"}:
        return [*problems, "early_stopping needs patience, and may have threshold"]
    if not _is_count(stopping["patience"]) or not _is_number(stopping.get("threshold", 0), least=0):
        problems.append("early_stopping: patience is a whole number of at least 1, threshold a number of at least 0")
    if raw.get("validation") is None:
        problems.append("early_stopping needs validation rows; set data.validation_ratio")
    return problems


_SWITCHES = ("trust_remote_code", "deterministic")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_number(
    value: Any, *, least: float = float("-inf"), most: float = float("inf"), above: float = float("-inf")
) -> bool:
    # NaN compares false with everything
    return isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= most and value > above
