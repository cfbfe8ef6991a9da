"""Which settings a sweep tries: all combinations of the values, or some drawn at random. Pure."""

from __future__ import annotations

import itertools
import json
import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import RecipeError, Where
from orchestrator.recipe.source import parse_value

MOST_TRAININGS = 100  # that a grid may ask for without saying how many: more is a slip more often than a wish
SEED = 42  # of the draws; and of the first training, where the recipe names none
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
