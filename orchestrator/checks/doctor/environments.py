"""Which Pythons there are, what is installed in them at which version, and which backends each could run."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from orchestrator.backends import BACKENDS
from orchestrator.checks.doctor.finding import Finding
from orchestrator.checks.environments.requirements import find_minimum
from orchestrator.checks.environments.tested import judge_version, load_tested
from orchestrator.checks.packages import REPORT_MODULES, find_missing_report_modules, name_installation
from orchestrator.machine.packages import DISTRIBUTIONS, find_versions, normalise

_WORDS = {
    "tested": "{version}, tested",
    "supported": "{version}, supported (tested: {tested})",
    "unknown": "{version}, not known to work (tested: {tested})",
}


@dataclass(frozen=True)
class Interpreter:
    """One Python: whose it is, where it is, what is installed in it."""

    title: str
    python: str
    versions: dict[str, str]

    @property
    def backends(self) -> tuple[str, ...]:
        """The backends that have all they need in it."""
        return tuple(name for name in BACKENDS if not self.find_missing(name))

    def find_missing(self, backend: str) -> tuple[str, ...]:
        """Return what a backend needs and this Python lacks."""
        return tuple(name for name in BACKENDS[backend].distributions if name not in self.versions)


def find_interpreters(named: Iterable[tuple[str, str]]) -> tuple[Interpreter, ...]:
    """Return Orch's own Python and the named ones (title, path), each once."""
    titles = {sys.executable: "Orch's Python"}
    for title, python in named:
        titles.setdefault(python, title)
    return tuple(Interpreter(title, python, find_versions(python)) for python, title in titles.items())


def examine_environments(
    interpreters: tuple[Interpreter, ...], wanted: str | None, home: str | None = None
) -> Iterator[Finding]:
    """Yield each Python's packages, and whether a backend (`wanted`, or any) can run in `home`, or in any of them."""
    for interpreter in interpreters:
        yield from _examine_packages(interpreter)
    yield from _examine_report_packages()
    asked = [interpreter for interpreter in interpreters if home in {None, interpreter.python}]
    ready = {name for interpreter in asked for name in interpreter.backends}
    for name in BACKENDS:
        homes = [interpreter.python for interpreter in asked if name in interpreter.backends]
        needed = name == wanted or (wanted is None and not ready)
        if homes:
            yield Finding("backends", name, "ok", f"in {homes[0]}")
        else:
            lacks = ", ".join(asked[-1].find_missing(name))
            said, remedy = f"not installed ({lacks})", f"orch env create {name}"
            yield Finding("backends", name, "missing" if needed else "note", said, remedy)


def _examine_packages(interpreter: Interpreter) -> Iterator[Finding]:
    area = f"{interpreter.title}: {interpreter.python}"
    if not interpreter.versions:
        yield Finding(area, "python", "missing", "it cannot be run", "name another one as launch.python")
        return
    yield Finding(area, "python", "ok", interpreter.versions.get("python", "?"))
    for name in DISTRIBUTIONS:
        if (version := interpreter.versions.get(name)) is not None:
            yield _judge(area, name, version, interpreter.python)


def _judge(area: str, name: str, version: str, python: str) -> Finding:
    minimum = next((found for backend in BACKENDS.values() if (found := find_minimum(backend, name))), None)
    standing = judge_version(name, version, minimum)
    tested = load_tested().get(normalise(name), "none")
    words = _WORDS[standing].format(version=version, tested=tested)
    if standing != "unknown":
        return Finding(area, name, "ok", words)
    return Finding(area, name, "note", words, f"{python} -m pip install {name}=={tested}" if tested != "none" else None)


def _examine_report_packages() -> Iterator[Finding]:
    if missing := find_missing_report_modules():
        said = f"{', '.join(missing)} missing"
        yield Finding("report", "packages", "missing", said, name_installation(missing))
    else:
        yield Finding("report", "packages", "ok", ", ".join(REPORT_MODULES))
