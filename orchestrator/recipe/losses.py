"""Every loss in one registry: whose it is, which rows it reads, its settings, and what is true of its value.

A new loss is one row of losses.yaml, which becomes an entry of `LOSSES` under its backend, its task and its name, so
that several trainers may have a loss of one name; where the library has none, its code stands in
workers/cross_encoder_losses.py. What each loss computes stands in docs/losses.md.

A batch may be split into smaller ones whose gradients are accumulated only where the objective stays. It stays where
the loss of a batch is the mean over its rows, each row's loss without the others: then the mean over 4 rows is the mean
of the means over 2 and 2.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from orchestrator.machine.tables import load_record

PAIRS, LISTS, MARGINS = "cross-encoder-pairs", "cross-encoder-lists", "cross-encoder-margins"
GROUPS, SCORES, COMPARED = "embedding-groups", "embedding-scores", "embedding-pairs"
CLASSES = "embedding-classes"
Given = Any  # what a recipe says under `loss:`, a Loss of recipe/schema.py: here nothing needs pydantic
_NEAR = 0.7  # how alike two words are, of which one is meant to be the other


class Setting(msgspec.Struct, frozen=True):
    """A setting of a loss: its value where the recipe gives none, what that means, the variable that carries it.

    One that is not `shown` is rendered only where the recipe gives it.
    """

    default: Any
    meaning: str = "shown, because ms-swift records it nowhere"
    variable: str = ""
    shown: bool = True


class LossType(msgspec.Struct, frozen=True):
    """One loss.

    `kinds` are the rows that it can learn from, `form` the writer of its rows. `obstacle` says why a smaller batch
    would change what is learnt (None: it would not). `candidates` is among how many a model without knowledge chooses,
    whose loss is then the logarithm of it; None where the loss is no such number. `texts` is how many texts one row
    puts through the model; None where the rows decide. Both take the loss, the train command's arguments, and how many
    rows one step has. `scores` are the bounds of a teacher's scores in place of labels, and why. `native` is its name
    in `--loss_type`, `scripts` are those that older scripts write there, `aliases` what other tools call it.
    """

    name: str
    backend: str
    task: str
    kinds: tuple[str, ...]
    form: str
    settings: Mapping[str, Setting] = {}
    obstacle: str | Callable[[Given], str | None] | None = None
    candidates: Callable[[Given, Mapping[str, Any], int], int | None] = lambda *_: None
    texts: Callable[[Given], int | None] = lambda _: 2
    scores: tuple[float, float, str] | None = None
    reads_logits: bool = True  # whether targets may lie outside 0 to 1, as a teacher's scores do
    learns: str = "label"  # where the recipe does not say: label or teacher
    contrasts: bool = False  # with one label in all rows there is nothing to learn
    labels: tuple[float, ...] = ()  # of pairs; empty: any
    most_positives: int | None = None
    needs_negatives: bool = False
    at_once: Callable[[Given], int | None] = lambda _: None  # texts that pass the model at once, where fewer than all
    in_batch: bool = False  # the other rows of a batch are negatives
    exact_negatives: bool = False  # a row with fewer negatives than hard_negatives is refused, and not filled up
    answers: bool = False  # a row is one relevant document and others; documents of other rows are negatives too
    adds: bool = False  # may be added to another loss; without kinds it may do nothing else
    has_weights: bool = False  # trains weights of its own beside the model's
    measured_by_loss: bool = False  # its rows' labels rank nothing
    native: str = ""
    scripts: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()


def _use_batch(loss: Given) -> str | None:
    return None if loss.use_batch is False else "the other rows of a batch are the negatives of infonce (use_batch)"


def _split_groups(loss: Given) -> str | None:
    if (loss.max_positives or 1) > 1:
        return "with max_positives a row is several groups, and listwise is the mean over a batch's groups"
    if (loss.min_group_size or 0) > 2:  # noqa: PLR2004  (a positive and one negative: what every row has)
        return "min_group_size leaves groups out, and listwise is the mean over the others of a batch"
    return None


def _infonce_candidates(loss: Given, _: Mapping[str, Any], rows: int) -> int | None:
    if not loss.hard_negatives or loss.mrl_dims or loss.include_qq or loss.include_dd:
        return None
    return int(1 + loss.hard_negatives) * (1 if loss.use_batch is False else rows)


def _count_candidates(loss: Given, _: Mapping[str, Any], rows: int) -> int | None:
    around = loss.matryoshka_dims or loss.n_layers_per_step or loss.plus
    known = loss.hard_negatives is not None and not around
    return int(1 + loss.hard_negatives) * rows if known else None


def _one_positive(loss: Given, train: Mapping[str, Any], _: int) -> int | None:
    labels = find_target(loss) == "label" and not loss.graded
    return int(train["train_group_size"]) if labels and "train_group_size" in train else None


_MAX_NEGATIVES = 7  # of a row of ms-swift's, where the recipe does not say
OBSTACLES = {"use_batch": _use_batch, "split_groups": _split_groups}
CANDIDATES: dict[str, Callable[[Given, Mapping[str, Any], int], int | None]] = {
    "two": lambda *_: 2,
    "bce": lambda loss, *_: 2 if loss.target != "teacher" and loss.pos_weight in {None, 1} else None,
    "classes": lambda loss, *_: loss.num_labels,
    "listwise": lambda loss, *_: 1 + (loss.max_negatives or _MAX_NEGATIVES),
    "one_positive": _one_positive,
    "infonce": _infonce_candidates,
    "batch": _count_candidates,
}
TEXTS: dict[str, Callable[[Given], int | None]] = {
    "negatives": lambda loss: None if loss.hard_negatives is None else int(2 + loss.hard_negatives),
    "sampled": lambda loss: int(loss.max_positives or 1) * int(1 + (loss.max_negatives or _MAX_NEGATIVES)),
}


def _build(row: Mapping[str, Any], table: Mapping[str, Any]) -> LossType:
    """Return the loss of a row of losses.yaml."""
    facts: dict[str, Any] = {**table["families"].get(row.get("of"), {}), **row}
    facts.pop("of", None)
    said: dict[str, Any] = {}
    for part in facts.get("settings", ()):
        said |= table["settings"][part] if isinstance(part, str) else part
    settings = facts["settings"] = {name: Setting(**one) for name, one in said.items()}
    for name in ("kinds", "labels", "scripts", "aliases", "scores"):
        if name in facts:
            facts[name] = tuple(facts[name])
    if (obstacle := facts.get("obstacle")) is not None:
        facts["obstacle"] = OBSTACLES.get(obstacle) or obstacle.format(name=facts["name"])
    if "candidates" in facts:
        facts["candidates"] = CANDIDATES[facts["candidates"]]
    if "texts" in facts:
        texts = facts["texts"]
        facts["texts"] = TEXTS[texts] if isinstance(texts, str) else lambda _: texts
    if facts.get("at_once"):
        facts["at_once"] = lambda loss: loss.mini_batch_size or settings["mini_batch_size"].default
    return LossType(**facts)


_TABLE = load_record(Path(__file__).with_suffix(".yaml"), dict[str, Any])
_ALL = [_build(row, _TABLE) for row in _TABLE["losses"]]
LOSSES = {(one.backend, one.task, one.name): one for one in _ALL}
DEFAULT_LOSSES = {
    ("swift", "reranker"): "pointwise",
    ("sentence-transformers", "reranker"): "pointwise_bce",
    ("flagembedding", "embedding"): "infonce",
}


def find_loss(backend: str, task: str, name: str) -> LossType | None:
    """Return the loss of that name; another trainer's where this one has none, which checks refuse; None for no loss's.

    A trainer of the same tool comes before the others.
    """
    found = LOSSES.get((backend, task, name))
    named = [] if found else [one for one in LOSSES.values() if one.name == name]
    return found or next((one for one in named if one.backend == backend), next(iter(named), None))


def find_losses(backend: str | None = None, task: str | None = None) -> list[LossType]:
    """Return the losses of a backend and a task; None stands for all."""
    return [one for one in LOSSES.values() if backend in {None, one.backend} and task in {None, one.task}]


def find_loss_of_form(name: str | None, form: str | None) -> LossType | None:
    """Return the loss of that name whose rows are written in that form, or in any where that says nothing."""
    named = [one for one in LOSSES.values() if one.name == name]
    return next((one for one in named if one.form == form), next(iter(named), None))


def list_names() -> list[str]:
    """Return the names that `loss:` may say, each once."""
    return list(dict.fromkeys(one.name for one in LOSSES.values()))


def list_losses(backend: str, task: str | None = None) -> tuple[str, ...]:
    """Return the names of a backend's losses, for one task or for all, each once."""
    return tuple(dict.fromkeys(one.name for one in find_losses(backend, task)))


def describe_losses() -> str:
    """Return whose each loss is, as one sentence."""
    owners = dict.fromkeys((facts.backend, facts.task) for facts in LOSSES.values())
    return "; ".join(f"{backend}, {task}: {', '.join(list_losses(backend, task))}" for backend, task in owners)


def list_settings(facts: LossType | None) -> list[str]:
    """Return the settings of a loss, `target` first where there is a choice; none for what is no loss."""
    if facts is None:
        return []
    return [*(["target"] if "labelled" in facts.kinds else []), *facts.settings]


def list_variables(backend: str) -> dict[str, str]:
    """Return the environment variables that carry settings of a backend's losses, each with the setting's name."""
    settings = (item for facts in find_losses(backend) for item in facts.settings.items())
    return {setting.variable: name for name, setting in settings if setting.variable}


def list_script_names(backend: str, task: str | None = None) -> dict[str, str]:
    """Return what older scripts write as `--loss_type` of a backend → the loss."""
    return {old: facts.name for facts in find_losses(backend, task) for old in facts.scripts}


def find_target(loss: Given) -> str:
    """Return what is learnt: label or teacher."""
    return str(loss.target or loss.facts.learns)


def find_own_loss(name: str, backend: str, task: str | None = None) -> str | None:
    """Return what to say for a loss that no recipe knows: another tool's name of it, or one that is near.

    Only what the backend has is named, for the task where it is given; None where it has nothing of the kind.
    """
    own = find_losses(backend, task) or find_losses()
    plain = name.lower().replace("-", "_").removesuffix("loss").rstrip("_")
    known = {alias: one.name for one in own for alias in (*one.aliases, *one.scripts)}
    known |= {one.name: one.name for one in own}
    known |= {one.name.removesuffix("_loss").replace("_", ""): one.name for one in own}
    found = known.get(plain) or known.get(plain.replace("_", ""))
    if found:
        return f"say {found}"
    near = difflib.get_close_matches(plain, [one.name for one in own], n=1, cutoff=_NEAR)
    return f"did you mean {near[0]!r}?" if near else None


def find_batch_obstacle(loss: Given | None, train: Mapping[str, Any]) -> str | None:
    """Return why a smaller batch would change what is learnt, as a sentence; None where it would not.

    Without a loss: FlagEmbedding's softmax over each group, and an LLM's mean over the tokens of a whole step.
    """
    if _is_positive(train.get("router_aux_loss_coef")):
        return "router_aux_loss_coef balances the experts over the rows of a batch"
    if loss is None:
        return None
    obstacles = [one.facts.obstacle for one in loss.parts]
    found = (obstacle(loss) if callable(obstacle) else obstacle for obstacle in obstacles)
    return next((obstacle for obstacle in found if obstacle), None)


def find_constant_loss(loss: Given | None, train: Mapping[str, Any], rows: int) -> float | None:
    """Return the loss of a model that scores everything alike, where that is one number: ln of the candidates.

    None for losses that measure distances, that learn a teacher's scores, or whose groups differ in size: there the
    number depends on the data, or is where a good training may end. `rows` are those of one step's batch.
    """
    return log_of(loss.facts.candidates(loss, train, rows)) if loss else None


def log_of(candidates: int | None) -> float | None:
    """Return the logarithm of a number of candidates, None where there is no choice between them."""
    return math.log(candidates) if candidates and candidates > 1 else None


def _is_positive(value: object) -> bool:
    try:
        return float(str(value)) > 0
    except ValueError:
        return False
