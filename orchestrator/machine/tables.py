"""Tables that Orch carries as YAML beside its modules: a list of rows → typed records."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import msgspec

_Row = TypeVar("_Row")


def load_table(path: Path, kind: type[_Row]) -> tuple[_Row, ...]:
    """Return the rows of a file as records of `kind`; a list where a pattern is wanted is its alternatives.

    Raises msgspec.ValidationError for a key that `kind` does not have, or a value of another type.
    """
    return load_record(path, tuple[kind, ...])  # type: ignore[valid-type]


def load_record(path: Path, kind: type[_Row]) -> _Row:
    """Return the one record of `kind` that a file holds, which is read once in a process; else as `load_table`."""
    record: _Row = _load(path, kind)  # type: ignore[arg-type]  # mypy takes a class for unhashable
    return record


@cache
def _load(path: Path, kind: type) -> Any:
    import yaml  # takes long to import, and most commands do without

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is ten times as fast
    content = yaml.load(path.read_text(encoding="utf-8"), Loader=loader)  # noqa: S506  (either loader is a safe one)
    return msgspec.convert(content, kind, dec_hook=_compile)


def _compile(_: type, pattern: str | list[str]) -> re.Pattern[str]:
    return re.compile("|".join(pattern) if isinstance(pattern, list) else pattern, re.MULTILINE)
