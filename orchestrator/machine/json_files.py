"""Reads JSON that others may have written, cut or changed: what is unfit is one kind of error, and no traceback."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from orchestrator.machine.files import IrregularFileError, open_regular

MOST_BYTES = 512 << 20  # the tokenizers and the measures of the largest runs have some tens of MB
MOST_DEPTH = 100
_MOST_DIGITS = 18
MOST_SECONDS = 1e11  # what comes after the year 5138, or is NaN, is no time and no length of time
_TIMES = frozenset({"t", "started", "finished", "seconds", "seen"})  # fields of records, in seconds
_CONTAINERS = (list, dict)  # one object: `list | dict` would be made anew for each value
_AS_ZEROS = bytes.maketrans(b"123456789", b"000000000")
_SURROGATE = re.compile("[\ud800-\udfff]")

Record = TypeVar("Record")


class DamagedJsonError(ValueError):
    """A text that is not JSON, or that no program should go on with: numbers beyond reason, halves of characters."""


def parse_json(text: str | bytes, *, constants: bool = False, surrogates: bool = False) -> Any:
    """Return the value of a text (bytes: UTF-8). Raises DamagedJsonError.

    NaN and Infinity, which are no JSON, pass with `constants`: the configurations of some models hold them. Halves of
    UTF-16 pairs pass with `surrogates`: texts of data are replaced where they are shown.
    """
    try:
        if (value := _decode_plain(text)) is not None:
            return value
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        refuse = None if constants else _refuse_constant
        value = json.loads(text, parse_int=_parse_int, parse_float=_parse_float, parse_constant=refuse)
    except RecursionError:
        raise DamagedJsonError("it is nested beyond reason") from None
    except MemoryError:
        raise DamagedJsonError("it does not fit into the memory") from None
    except DamagedJsonError:
        raise
    except ValueError as error:  # also bytes that are not UTF-8
        raise DamagedJsonError(f"it is not JSON: {error}") from None
    if not _is_shallow(value):
        raise DamagedJsonError("it is nested beyond reason")
    if not surrogates and _SURROGATE.search(json.dumps(value, ensure_ascii=False)):
        raise DamagedJsonError("a text holds half of a UTF-16 pair")
    return value


def _decode_plain(text: str | bytes) -> Any:
    """Return the value of a text that is surely fit, as nearly all are; None where it must be looked at with care."""
    import msgspec

    try:
        data = text if isinstance(text, bytes) else text.encode()
        if b"0" * _MOST_DIGITS in data.translate(_AS_ZEROS):
            return None
        value = msgspec.json.decode(data)
        return value if data.count(b"[") + data.count(b"{") <= MOST_DEPTH or _is_shallow(value) else None
    except (msgspec.DecodeError, UnicodeError):
        return None


def _is_shallow(value: Any) -> bool:
    """Tell whether no list or object stands deeper in a value than MOST_DEPTH."""
    level = [value] if isinstance(value, _CONTAINERS) else []
    for _ in range(MOST_DEPTH):
        inner = (item.values() if isinstance(item, dict) else item for item in level)
        if not (level := [item for items in inner for item in items if isinstance(item, _CONTAINERS)]):
            return True
    return False


def load_json(path: Path, *, constants: bool = False) -> Any:
    """Return the value of a file. Raises OSError where it cannot be read, DamagedJsonError where it is unfit."""
    return parse_json(_read(path), constants=constants)


def read_text(path: Path) -> str:
    """Return the text of a file. Raises OSError, and DamagedJsonError where it is none or too large."""
    try:
        return _read(path).decode("utf-8")
    except UnicodeDecodeError as error:
        raise DamagedJsonError(f"it is not JSON: {error}") from None


def _read(path: Path) -> bytes:
    try:
        with open_regular(path) as stream:
            if os.fstat(stream.fileno()).st_size > MOST_BYTES:
                raise DamagedJsonError(f"it is larger than {MOST_BYTES >> 20} MiB")
            return stream.read()
    except IrregularFileError:
        raise DamagedJsonError("it is not a file") from None


def load_object(path: Path, *, constants: bool = False) -> dict[str, Any]:
    """Return the object of a file. Raises OSError, and DamagedJsonError also for any other value."""
    value = load_json(path, constants=constants)
    if not isinstance(value, dict):
        raise DamagedJsonError(f"it holds {type(value).__name__}, not an object")
    return value


def build_record(kind: type[Record], value: Any) -> Record:
    """Return the record that a value of JSON stands for; keys that it does not have are left out.

    Raises DamagedJsonError where a key is missing, or a value has another type or is no time.
    """
    import msgspec

    try:
        record = msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise DamagedJsonError(str(error)) from None
    for name in _TIMES & value.keys():
        if not abs(value[name] or 0.0) <= MOST_SECONDS:
            raise DamagedJsonError(f"{name} is no time")
    return record


def find_object(path: Path, *, constants: bool = False) -> dict[str, Any] | None:
    """Return the object of a file, None where there is none that can be used."""
    try:
        return load_object(path, constants=constants)
    except (OSError, DamagedJsonError):
        return None


def _parse_int(text: str) -> int:
    if len(text) > _MOST_DIGITS + 1:
        raise DamagedJsonError(f"a number has {len(text)} digits")
    return int(text)


def _parse_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise DamagedJsonError(f"a number is too large: {text[:40]}")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise DamagedJsonError(f"{name} is no JSON")
