"""Which sets of versions the snapshots were taken from, and which of them stands for what is installed."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from orchestrator.machine.packages import parse_release


@dataclass(frozen=True)
class VersionSet:
    """One of the sets of versions that a snapshot holds; `index` is its number there, 0 the tested set."""

    index: int
    versions: dict[str, str]


@cache
def read_snapshot(name: str) -> dict[str, Any]:
    """Return a snapshot beside this module, or by its own path: `module`, `deciding`, `sets` and `items`.

    `deciding` are the packages whose versions decide it: the one that reads the command line comes first. Each item has
    the numbers of the sets that have it; an argument whose type, default or choices differ stands there once a form.
    """
    raw: dict[str, Any] = json.loads((Path(__file__).parent / f"{name}.json").read_text(encoding="utf-8"))
    return raw


def find_modules(names: Iterable[str]) -> dict[str, str]:
    """Return the modules that are run as a stage, each with the snapshot of what it accepts."""
    return {read_snapshot(name)["module"]: name for name in names}


def version_sets(name: str) -> tuple[VersionSet, ...]:
    """Return every set of versions that the snapshot holds, the tested one first."""
    return tuple(VersionSet(index, versions) for index, versions in enumerate(read_snapshot(name)["sets"]))


def is_exact(name: str, found: VersionSet, versions: Mapping[str, str]) -> bool:
    """Tell whether the snapshot was taken from these very versions, as far as they decide it."""
    return all(found.versions[package] == versions.get(package) for package in read_snapshot(name)["deciding"])


def is_near(name: str, found: VersionSet, versions: Mapping[str, str]) -> bool:
    """Tell whether the snapshot was taken from the same minor versions: they differ in no argument."""
    near = [package for package in read_snapshot(name)["deciding"] if package in versions]
    return bool(near) and all(_three(found.versions[one])[:2] == _three(versions[one])[:2] for one in near)


def find_set(name: str, versions: Mapping[str, str] | None) -> VersionSet:
    """Return the set of exactly these versions, else the nearest; the tested one where nothing is known.

    The package that reads the command line comes first, by its minor version; the others decide among equals.
    """
    sets = version_sets(name)
    own, *others = read_snapshot(name)["deciding"]
    if versions is None or own not in versions:
        return sets[0]

    def distance(one: VersionSet) -> tuple[int, ...]:
        return (
            _minors_apart(one.versions[own], versions[own]),
            *(_apart(one.versions[package], versions.get(package, one.versions[package])) for package in others),
            _apart(one.versions[own], versions[own]),
        )

    return min(sets, key=distance)


def items_of(name: str, index: int) -> list[dict[str, Any]]:
    """Return what the set of that number holds: arguments, or models."""
    return [item for item in read_snapshot(name)["items"] if index in item["sets"]]


def describe_versions(name: str, versions: Mapping[str, str]) -> str:
    """Return the versions that decide a snapshot as text, such as `ms-swift 4.6.0 with transformers 5.19.0`."""
    return " with ".join(
        f"{package} {versions[package]}" for package in read_snapshot(name)["deciding"] if package in versions
    )


def _three(version: str) -> tuple[int, int, int]:
    """Return the first three numbers of a version; what is not there counts as 0."""
    major, minor, patch = (*parse_release(version), 0, 0, 0)[:3]
    return major, minor, patch


def _apart(one: str, other: str) -> int:
    (a, b, c), (d, e, f) = _three(one), _three(other)
    return abs((a - d) * 1_000_000 + (b - e) * 1_000 + (c - f))


def _minors_apart(one: str, other: str) -> int:
    (a, b, _), (d, e, _) = _three(one), _three(other)
    return abs((a - d) * 1_000 + (b - e))
