"""A rendered command line held against the arguments that its parser takes: everything it would refuse or misread."""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from orchestrator.backends.arguments import Argument
from orchestrator.errors import Problem

# string_to_bool of transformers/hf_argparser.py
_BOOLEANS = frozenset({"yes", "true", "t", "y", "1", "no", "false", "f", "n", "0"})


@dataclass
class _Flag:
    name: str
    values: list[str] = field(default_factory=list)


def check_argv(words: Sequence[str], known: Mapping[str, Argument]) -> Iterator[Problem]:
    """Yield what the parser would refuse, and what it would take for something else without a word, by the flag's name.

    `words` follow the module. argparse takes the unique beginning of a flag for the flag, and of a flag that is given
    twice it takes the last: both end with exit code 0 and another training than the one that was read.
    """
    flags, stray = _split(words)
    if stray:
        yield Problem(f"{stray[0]!r} stands in front of every flag", "give it a flag, or remove it")
    seen: set[str] = set()
    for flag in flags:
        name = _normal(flag.name, known)
        if name in seen:
            twice = f"--{flag.name} is given twice, and the last one would win"
            yield Problem(twice, "keep one of the two", name=flag.name)
        seen.add(name)
        if name not in known:
            yield describe_unknown(flag.name, known)
        elif message := _check_values(known[name], flag.values):
            yield Problem(f"--{flag.name}{message}", name=flag.name)
    for name, argument in known.items():
        if argument.required and name not in seen:
            yield Problem(f"--{name} is missing, and it cannot be left out", name=name)


def _split(words: Sequence[str]) -> tuple[list[_Flag], list[str]]:
    """Return the flags with their values, and what stands in front of the first one."""
    flags: list[_Flag] = []
    stray: list[str] = []
    for word in words:
        if word.startswith("--") and len(word) > len("--"):
            name, bound, value = word[2:].partition("=")
            flags.append(_Flag(name, [value] if bound else []))
        elif flags:
            flags[-1].values.append(word)
        else:
            stray.append(word)
    return flags, stray


def _normal(name: str, known: Mapping[str, Argument]) -> str:
    """Return a flag as the dataclass calls it: HfArgumentParser takes dashes for its underscores, and --no_NAME."""
    name = name.replace("-", "_")
    plain = name.removeprefix("no_")
    negated = name not in known and plain in known and known[plain].type == "bool" and known[plain].default is True
    return plain if negated else name


def describe_unknown(name: str, known: Mapping[str, Argument]) -> Problem:
    """Return what to say of a name that the parser does not have: whose beginning it is, or which is near."""
    longer = sorted(other for other in known if other.startswith(name.replace("-", "_")))
    if len(longer) == 1:
        message = f"there is no argument --{name}, and argparse would take it for --{longer[0]}"
        return Problem(message, f"say --{longer[0]}", name=name)
    near = difflib.get_close_matches(name, known, n=1)
    return Problem(f"there is no argument --{name}", f"did you mean --{near[0]}?" if near else None, name=name)


def _check_values(argument: Argument, values: Sequence[str]) -> str | None:
    """Return what is wrong with a flag's values, or None."""
    if argument.type == "list[str]":
        wrong = [value for value in values if argument.choices and value not in argument.choices]
        if wrong:
            return f" {wrong[0]}: one of {', '.join(argument.choices or ())}"
        return None if values else " has no value"
    if not values and argument.type != "bool":  # a bool alone means true
        return " has no value"
    if len(values) > 1:
        return f" takes one value, and has {len(values)}: {' '.join(values)}"
    return next((message for value in values if (message := _check_value(argument, value))), None)


def _check_value(argument: Argument, value: str) -> str | None:
    if argument.type == "bool":
        return None if value.lower() in _BOOLEANS else f" {value}: expected true or false"
    if argument.type == "int" and not _is_number(value, int):
        return f" {value}: expected a whole number"
    if argument.type == "float" and not _is_number(value, float):
        return f" {value}: expected a number"
    if argument.choices and value not in argument.choices:
        return f" {value}: one of {', '.join(argument.choices)}"
    if argument.type == "dict" and not _is_mapping(value):
        return f" {value}: expected a mapping, as JSON"
    return None


def _is_number(value: str, kind: type[int | float]) -> bool:
    try:
        return math.isfinite(kind(value))
    except ValueError:
        return False


def _is_mapping(value: str) -> bool:
    try:
        return isinstance(json.loads(value), dict)
    except ValueError:
        return False
