"""Names and versions of Python distributions, in the forms by which they compare.

`packaging.version` is not used: it refuses what vendors append to a version (2.4.0-nv24.07), and it orders a release
candidate before its release, whose fixes it has.
"""

from __future__ import annotations

import re

_NUMBERS = re.compile(r"\d+(?:\.\d+)*")


def normalise(name: str) -> str:
    """Return a distribution's name as all spellings of it compare (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def parse_release(version: str) -> tuple[int, ...]:
    """Return the numbers of a release without trailing zeros, so that 5.0 is 5.0.0; empty where there are none.

    What comes after them (rc1, .dev0, +cpu) is left out: a release candidate counts as its release, and a build for
    another device as the same one.
    """
    numbers = _read_numbers(version)
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)


def find_major(version: str | None) -> int | None:
    """Return the first number of a version; None where it is not known."""
    return next(iter(_read_numbers(version or "")), None)


def _read_numbers(version: str) -> list[int]:
    found = _NUMBERS.match(version)
    return [int(number) for number in found[0].split(".")] if found else []
