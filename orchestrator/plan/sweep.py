"""A recipe and what `orch sweep` is asked for → the settings to try: all combinations of the values, or drawn ones."""

from __future__ import annotations

import itertools
import json
import math
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from orchestrator.errors import RecipeError, Where
from orchestrator.evaluation.measures import default_metrics, require_metric
from orchestrator.machine.files import hash_path
from orchestrator.machine.hardware import Hardware
from orchestrator.plan.load import EVAL_KINDS, LoadedRecipe, load_recipe
from orchestrator.recipe.source import parse_value

MOST_TRAININGS = 100  # that a grid may ask for without saying how many: more is a slip more often than a wish
SEED = 42  # of the draws; and of the first training, where the recipe names none
CACHE = "HF_DATASETS_CACHE"
VISIBLE = "CUDA_VISIBLE_DEVICES"
_SHARED = ("auto", "cpu")
_NUMBER = r"[-+]?[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?"
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})( log)?")
_SCIENTIFIC = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+")  # 1e-5, which YAML 1.1 reads as text

Setting = dict[str, Any]


@dataclass(frozen=True)
class Range:
    """All numbers from `low` to `high`, whole ones where both are; `log`: drawn evenly by their logarithm."""

    low: float
    high: float
    log: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether it is of whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def draw(self, numbers: random.Random) -> float:
        """Return one of them."""
        if self.is_whole and not self.log:
            return numbers.randint(int(self.low), int(self.high))
        if not self.log:
            return numbers.uniform(self.low, self.high)
        drawn = math.exp(numbers.uniform(math.log(self.low), math.log(self.high)))
        return round(drawn) if self.is_whole else drawn


Choices = Range | tuple[Any, ...]


def split_override(text: str) -> tuple[str, tuple[Any, ...]]:
    """Return the key of `KEY=A,B` and its values; commas inside quotes, [] and {} part nothing."""
    key, _, raw = text.partition("=")
    value, problems = parse_value(f"[{raw}]", Where(f"--set {text}"))
    return key, tuple(value) if isinstance(value, list) and not problems else (raw,)


def read_choices(key: str, values: Sequence[Any]) -> Choices:
    """Return what a parameter may be: its values, or the one range among them. Raises RecipeError."""
    where = Where(f"sweep over {key}")
    if len(values) == 1 and isinstance(values[0], str) and (found := _RANGE.fullmatch(values[0])):
        low, high = (int(one) if one.lstrip("+-").isdigit() else float(one) for one in found.groups()[:2])
        if not low < high or (found[3] and low <= 0):
            raise RecipeError(f"{values[0]} holds no number", hint="say LOW..HIGH, above 0 for log", where=where)
        return Range(low, high, bool(found[3]))
    plain = [float(one) if isinstance(one, str) and _SCIENTIFIC.fullmatch(one) else one for one in values]
    unlike = [one for place, one in enumerate(plain) if one not in plain[:place]]
    if not unlike:
        raise RecipeError("it has no values", hint=f"say {key}: [A, B], or LOW..HIGH", where=where)
    return tuple(unlike)


def build_grid(parameters: Mapping[str, Choices]) -> Iterator[Setting]:
    """Yield every combination of the values, the last parameter changing first. Raises RecipeError for a range."""
    for key, choices in parameters.items():
        if isinstance(choices, Range):
            hint = "say --random N or --optuna N, or list its values"
            raise RecipeError("a range has no end of values", hint=hint, where=Where(f"sweep over {key}"))
    for values in itertools.product(*parameters.values()):  # type: ignore[arg-type]
        yield dict(zip(parameters, values, strict=True))


def draw_settings(parameters: Mapping[str, Choices], count: int) -> list[Setting]:
    """Return `count` settings drawn at random, each once; all of them where there are no more (Bergstra and Bengio,
    Random Search for Hyper-Parameter Optimization, JMLR 13, 2012).
    """  # noqa: D205
    known = [len(choices) for choices in parameters.values() if not isinstance(choices, Range)]
    if len(known) == len(parameters) and math.prod(known) <= count:
        return list(build_grid(parameters))
    numbers, found = random.Random(SEED), list[Setting]()  # noqa: S311
    for _ in range(100 * count):
        drawn = {
            key: one.draw(numbers) if isinstance(one, Range) else numbers.choice(one) for key, one in parameters.items()
        }
        found += [drawn] if drawn not in found else []
        if len(found) == count:
            break
    return found


def require_bounded(parameters: Mapping[str, Choices], seeds: int, most: int | None) -> None:
    """Raise RecipeError for a grid of more trainings than anybody wants unasked."""
    known = [len(choices) for choices in parameters.values() if not isinstance(choices, Range)]
    count = math.prod(known) * seeds
    if most is None and count > MOST_TRAININGS:
        words = " × ".join(map(str, [*known, *([seeds] if seeds > 1 else [])]))
        hint = f"draw some of them: --random N; or say how many may run: --max-trials {count}"
        raise RecipeError(f"the grid has {count:,} trainings ({words})", hint=hint)


def write_override(key: str, value: Any) -> str:
    """Return `KEY=VALUE` as `--set` takes it."""
    if value is None:
        return f"{key}="
    if isinstance(value, str) and parse_value(value, Where(key)) == (value, []):
        return f"{key}={value}"
    return f"{key}={json.dumps(value, ensure_ascii=False)}"


@dataclass(frozen=True)
class Budget:
    """How much a sweep may do; None: all of it."""

    trials: int | None = None
    hours: float | None = None

    def find_end(self, number: int, seconds: float) -> str | None:
        """Return why the trial of that number does not begin any more, after so many seconds of training."""
        if self.trials is not None and number >= self.trials:
            return f"{self.trials} trials"
        return f"{self.hours:g} hours" if self.hours is not None and seconds >= self.hours * 3600 else None


@dataclass(frozen=True)
class Planned:
    """A sweep as it was asked for: RECIPE with what is `fixed` by `--set`, in these settings.

    With `optuna` the settings are not known yet, but how many there will be.
    """

    name: str
    recipe: Path
    fixed: tuple[str, ...]
    hardware: Hardware
    parameters: Mapping[str, Choices]
    settings: tuple[Setting, ...]
    seeds: int
    first_seed: int
    budget: Budget
    optuna: int | None
    higher_is_better: bool
    asked: Mapping[str, Any]
    own_cache: bool = False  # the recipe names a cache of data sets
    here: bool = True  # on this machine

    @property
    def smoke(self) -> bool:
        """Whether its trials are smoke runs."""
        return bool(self.asked["smoke"])


def plan_sweep(recipe: Path, asked: Mapping[str, Any], hardware: Hardware, *, here: bool = True) -> Planned:
    """Return what `orch sweep RECIPE` means, `here` or on the machines of an engine.

    `asked` has its options: `set` (texts KEY=A,B), `smoke`, `hardware`, and those that stand in `sweep:` of the recipe
    too, None where they were not given. Raises RecipeError for what cannot be swept.
    """
    split = [(text, *split_override(text)) for text in asked["set"]]
    swept = {
        key: values
        for _, key, values in split
        if len(values) > 1 or (values and isinstance(read_choices(key, values), Range))
    }
    fixed = tuple(text for text, key, _ in split if key not in swept)
    loaded = load_recipe(recipe, fixed)
    search, named = loaded.recipe.sweep, {key for _, key, _ in split}
    given = {key: one if isinstance(one, list) else [one] for key, one in search.set.items() if key not in named}
    parameters = {key: read_choices(key, values) for key, values in {**given, **swept}.items()}
    way = {} if asked["random"] or asked["optuna"] else {"random": search.random, "optuna": search.optuna}
    option = {**asked, **{key: value for key, value in way.items() if value}}
    option |= {key: asked[key] or getattr(search, key) for key in ("seeds", "max_trials", "max_hours")}
    seeds, most = int(option["seeds"]), option["max_trials"]
    if option["random"] and option["optuna"]:
        raise RecipeError("--random and --optuna are two ways to search", hint="keep one of them")
    if option["optuna"] and (not here or (asked.get("parallel") or 1) > 1):
        hint = "say --random N, whose settings are known before the first one ends"
        raise RecipeError("Optuna chooses each setting by how the ones before it came out", hint=hint)
    if not parameters and seeds == 1:
        hint = "give a key several values: --set train.learning_rate=1e-5,2e-5; or several trainings: --seeds 3"
        raise RecipeError("there is nothing to sweep over", hint=hint, where=Where(str(recipe)))
    if seeds > 1 and "train.seed" in parameters:
        raise RecipeError("train.seed is what --seeds sets", hint="say only one of them")
    _refuse_other_rows(loaded, parameters)
    if (asked.get("parallel") or 1) > 1 and (VISIBLE in loaded.recipe.launch.env or asked["hardware"] not in _SHARED):
        hint = f"leave --hardware and launch.env.{VISIBLE} out; {VISIBLE} in the shell says which GPUs they share"
        raise RecipeError("trials at once share the GPUs of this machine, and these are named for each", hint=hint)
    settings: tuple[Setting, ...] = ()
    if option["random"]:
        settings = tuple(draw_settings(parameters, option["random"]))
    elif not option["optuna"]:
        require_bounded(parameters, seeds, most)
        settings = tuple(islice(build_grid(parameters), max(MOST_TRAININGS, most or 0)))
    # the headline metrics of a task's other kinds go the same way
    metrics = loaded.recipe.evaluate.metrics or default_metrics(EVAL_KINDS[loaded.recipe.task][0])
    return Planned(
        name=loaded.recipe.name,
        recipe=recipe,
        fixed=fixed,
        hardware=hardware,
        parameters=parameters,
        settings=settings,
        seeds=seeds,
        first_seed=int(loaded.recipe.train.get("seed", SEED)),
        budget=Budget(most, option["max_hours"]),
        optuna=option["optuna"],
        higher_is_better=require_metric(metrics[0]).higher_is_better,
        asked={**asked, "recipe_sha256": hash_path(recipe)},
        own_cache=CACHE in loaded.recipe.launch.env,
        here=here,
    )


def _refuse_other_rows(loaded: LoadedRecipe, parameters: Iterable[str]) -> None:
    """Raise RecipeError where trials would be measured on different rows: nobody could compare them."""
    data = loaded.recipe.data
    other = [
        key for key in parameters if key.startswith("data.eval") or (data.eval is None and key.startswith("data."))
    ]
    if other:
        message = f"trials with another {other[0]} are measured on other rows, and cannot be compared"
        raise RecipeError(message, hint="name one data.eval for all of them, and sweep over data.train")
