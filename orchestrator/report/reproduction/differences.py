"""What has changed since a run was made: its inputs, which decide the result, and its surroundings, which may."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import RunFolderError, Where
from orchestrator.machine.rundir import RunDir

_MIN_VERSION = 2  # the first that hashes the inputs
_SURROUNDINGS = ("orch", "orch_sha256", "templates_sha256", "platform")
_SHOWN = 12


@dataclass(frozen=True)
class Difference:
    """One thing that was `then` and is `now`; an input's difference makes a reproduction meaningless."""

    what: str
    then: str
    now: str
    is_input: bool = False

    def __str__(self) -> str:
        """Return the difference as one line."""
        return f"{self.what}: {self.then} then, {self.now} now"


def find_differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[Difference, ...]:
    """Return how two provenance.json differ, inputs first. The recipe does not count: its plan is what is run."""
    return (*_inputs(then, now), *_packages(then, now), *_surroundings(then, now))


def require_provenance(run: RunDir, provenance: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Return a run's provenance. Raises RunFolderError for one without the hashes of its inputs."""
    if provenance and int(provenance.get("version", 0)) >= _MIN_VERSION:
        return provenance
    raise RunFolderError(
        "provenance.json is missing, or of an Orch that did not hash the inputs: nobody can tell whether they changed",
        hint="run its recipe anew: orch run RECIPE",
        where=Where(str(run.provenance_json)),
    )


def _inputs(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Difference]:
    before, after = then["inputs"], now["inputs"]
    for path in sorted({*before, *after}):
        old, new = before.get(path, "absent"), after.get(path, "absent")
        if old != new:
            yield Difference(path, old[:_SHOWN], new[:_SHOWN], is_input=True)


def _packages(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Difference]:
    before, after = then["environments"], now["environments"]
    for python in sorted({*before, *after}):
        old, new = before.get(python, {}), after.get(python, {})
        for name in sorted({*old, *new}):
            if old.get(name) != new.get(name):
                yield Difference(f"{name} in {python}", old.get(name, "absent"), new.get(name, "absent"))


def _surroundings(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Difference]:
    for key in _SURROUNDINGS:
        if then.get(key) != now.get(key):
            yield Difference(key.removesuffix("_sha256"), str(then.get(key))[:40], str(now.get(key))[:40])
    for part in ("hardware", "cpu"):
        before, after = then.get(part) or {}, now.get(part) or {}
        for key in sorted({*before, *after}):
            if before.get(key) != after.get(key):
                yield Difference(f"{part} {key}", _plain(before.get(key)), _plain(after.get(key)))


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
