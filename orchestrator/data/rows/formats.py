"""The known shapes of rows, told apart by their keys: one table, from which near names are pointed out too.

`find_shape` says which shape a row has; field_readers.py reads it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.data.reading.readers import open_source
from orchestrator.data.reasons import Fault, problem_of
from orchestrator.data.rows.near_names import plain_name
from orchestrator.data.rows.records import KINDS, Kind
from orchestrator.data.rows.texts import build_fault, is_finite_number, name_type, quote
from orchestrator.errors import Problem


@dataclass(frozen=True)
class Shape:
    """Rows with every key of `needs` and `given` and none of `lacks`; for these two, null, "" and [] are no values."""

    name: str
    kind: Kind
    needs: tuple[str, ...]
    lacks: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    given: tuple[str, ...] = ()

    @property
    def without_negatives(self) -> bool:
        """Whether rows of this shape have none: those of swift without the key for them."""
        return self.name in {"swift3", "swift4"} and not self.given


_SWIFT_LISTS = ("positive_messages", "negative_messages")

# The first that fits is the row's, labelled shapes last unless these are wanted. Among them are all that ms-swift 3
# and 4 and FlagEmbedding document.
SHAPES = (
    Shape("ranking", "group", ("query", "pos"), (), ("neg", "pos_scores", "neg_scores", "prompt")),
    Shape("swift4", "group", ("messages", "positive_messages"), (), ("label",), ("negative_messages",)),
    Shape("swift4", "group", ("messages", "positive_messages"), ("label",), ("negative_messages", "label")),
    Shape("swift3", "group", ("query", "response"), (), ("label", "system"), ("rejected_response",)),
    Shape("swift3", "group", ("query", "response"), ("label",), ("rejected_response", "label", "system")),
    Shape("sentences", "pair", ("sentence1", "sentence2", "score")),
    Shape("swift4", "pair", ("messages", "positive_messages", "label"), ("negative_messages",), ("negative_messages",)),
    Shape("swift3", "pair", ("query", "response", "label"), ("rejected_response",), ("rejected_response", "system")),
    Shape("messages", "chat", ("messages",), _SWIFT_LISTS, ("system",)),
    Shape("conversations", "chat", ("conversations",), (), ("system",)),
    Shape("instruction", "chat", ("instruction", "output"), (), ("input", "system", "history")),
    Shape("response", "chat", ("query", "response"), ("label", "rejected_response"), ("system", "history")),
    Shape("pointwise", "labelled", ("query", "content", "label"), (), ("score",)),
    Shape("hits", "labelled", ("query", "hits")),
    Shape("ranking", "labelled", ("query", "pos"), (), ("neg", "pos_scores", "neg_scores", "prompt")),
)  # fmt: skip

_BY_KIND = {
    kind: (
        tuple(s for s in SHAPES if s.kind == kind),
        tuple(s for s in SHAPES if s.kind not in {kind, "labelled"}),
        tuple(s for s in SHAPES if s.kind == "labelled" != kind),
    )
    for kind in KINDS
}
EXAMPLES: dict[Kind, str] = {
    "group": 'a row is {"query": "…", "pos": ["…"], "neg": ["…", "…"]}',
    "pair": 'a row is {"sentence1": "…", "sentence2": "…", "score": 0.8}',
    "labelled": 'a row is {"query": "…", "content": "…", "label": 1}',
    "chat": 'a row is {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}',
}
# Keys without which a row is still one, in every form that has them.
OPTIONAL_KEYS = frozenset({"neg", "rejected_response", "negative_messages", "prompt", "system", "history", "input"})
_NUMBERED = re.compile(r"(?:hard_)?(?:negatives?|negs?|rejected(?:_responses?)?)(?:_docs?|_passages?)?_?(\d{1,4})")
_LIST_NAMES = {
    ("text", "text", "number"): ("sentence1", "sentence2", "score"),
    ("text", "text"): ("query", "response"),
    ("text", "text", "text"): ("query", "response", "rejected_response"),
    ("text", "text", "list"): ("query", "response", "rejected_response"),
    ("text", "list", "list"): ("query", "pos", "neg"),
}
_PAIR_COLUMNS = {"sentences": "query=sentence1 content=sentence2 label=score", "swift3": "content=response"}
_ABSENT: tuple[Any, ...] = (None, "", [])


def find_shape(row: Mapping[str, Any], wanted: Kind) -> Shape | None:
    """Return a row's shape: one of the wanted kind where the keys allow it, else any, else None."""
    for shapes in _BY_KIND[wanted]:
        for is_there in (_has_value, _has_key):
            for shape in shapes:
                needed = all(is_there(row, key) for key in shape.needs)
                if (
                    needed
                    and all(_has_value(row, key) for key in shape.given)
                    and not any(_has_value(row, key) for key in shape.lacks)
                ):
                    return shape
    return None


def _has_value(row: Mapping[str, Any], key: str) -> bool:
    return key in row and row[key] not in _ABSENT


def _has_key(row: Mapping[str, Any], key: str) -> bool:
    return key in row


def rename_columns(row: dict[str, Any], columns: Mapping[str, str]) -> dict[str, Any] | Fault:
    """Return the row with its keys renamed, `columns` being {new: old}; the other keys stay as they are.

    A column that a row may lack under its new name, it may lack under its old one. Numbered negatives become a list.
    """
    if not columns:
        return fold_numbered(row)
    columns = {new: old for new, old in columns.items() if old in row or new not in OPTIONAL_KEYS}
    for new, old in columns.items():
        if old not in row:
            there = ", ".join(quote(key) for key in list(row)[:20]) or "no keys"
            return build_fault("missing-column", f'{quote(old)}, to be read as "{new}", is missing: there are {there}')
    taken = set(columns.values()) | set(columns)
    kept = {key: value for key, value in row.items() if key not in taken}
    return fold_numbered({new: row[old] for new, old in columns.items()} | kept)


def explain_unseen(columns: Collection[str]) -> list[Problem]:
    """Return that columns which are to be renamed are in no row at all."""
    if not columns:
        return []
    names = ", ".join(quote(name) for name in sorted(columns))
    return [problem_of("unknown-column", f"no row has {names}", hint="correct data.columns (--map NEW=OLD)")]


def fold_numbered(row: dict[str, Any]) -> dict[str, Any]:
    """Return the row with the texts of `negative_1`, `negative_2`, … as the list of negatives that its form has."""
    if not any(key[-1:].isdigit() for key in row):
        return row
    found = {key: match for key in row if (match := _NUMBERED.fullmatch(plain_name(key)))}
    target = "neg" if "pos" in row else "rejected_response" if "response" in row else None
    given = [row[key] for key in found]
    if (
        target is None
        or not found
        or _has_value(row, target)
        or not all(isinstance(text, str | None) for text in given)
    ):
        return row
    ordered = sorted(found, key=lambda key: int(found[key][1] or 0))
    texts = [row[key] for key in ordered if row[key]]
    return {key: value for key, value in row.items() if key not in found} | {target: texts}


def sniff_shape(path: Path, columns: Mapping[str, str] | None = None, wanted: Kind = "group") -> Shape | None:
    """Return the shape of a file's first row, or None where it has none or cannot be read. Reads one row."""
    row = sniff_row(path, columns)
    return None if row is None else find_shape(row, wanted)


def sniff_row(path: Path, columns: Mapping[str, str] | None = None) -> dict[str, Any] | None:
    """Return a file's first row, its columns renamed, or None where it cannot be read. Never raises."""
    try:
        rows = open_source(path).rows()
        row = next(rows, None)
        rows.close()  # type: ignore[attr-defined]
    except Exception:  # noqa: BLE001 - whatever is wrong with the file is for the prepare stage to say
        return None
    if row is None or row.fault or not isinstance(row.value, dict):
        return None
    value = rename_columns(row.value, columns or {})
    return None if isinstance(value, Fault) else value


def sniff_kind(path: Path, columns: Mapping[str, str] | None = None) -> Kind | None:
    """Return the kind of a file's first row; a query and its response alone are a group. Never raises."""
    shape = sniff_shape(path, columns)
    return shape.kind if shape else None


def explain_other_kind(shape: Shape, wanted: Kind) -> Fault:
    """Return the fault of a good-looking row that is not of the wanted kind."""
    keys = ", ".join((*shape.needs, *shape.given))
    message = f"this is a {shape.kind} row ({keys}), and {wanted} rows are wanted"
    if shape.kind == "group" and wanted == "pair":
        return build_fault("other-kind", message, 'add "label", or choose a loss that takes rows without one')
    if wanted == "labelled" and shape.kind == "pair" and shape.name in _PAIR_COLUMNS:
        hint = f"rename the columns: data.columns, or --map, with {_PAIR_COLUMNS[shape.name]}"
        return build_fault("other-kind", message, hint)
    if shape.kind == "labelled" and wanted == "group":
        hint = "orch data convert FILE --to ranking --relevant-from LABEL; or say backend: sentence-transformers"
        return build_fault("other-kind", message, hint)
    return build_fault("other-kind", message, f"{EXAMPLES[wanted]}; or choose the task and loss for {shape.kind} rows")


def explain_no_object(value: Any, wanted: Kind) -> Fault:
    """Return the fault of a row that is no JSON object, with the command that makes objects of lists."""
    if isinstance(value, list) and (names := _name_values(value)):
        message = f"the row is a list of {len(value)} values, not a JSON object"
        hint = f"name its values: orch data convert FILE --names {','.join(names)} -o NEW.jsonl"
        return build_fault("not-an-object", message, hint)
    return build_fault("not-an-object", f"the row is {name_type(value)}, not a JSON object", EXAMPLES[wanted])


def _name_values(value: list[Any]) -> tuple[str, ...]:
    """Return the likely names of a row's values, by their types; () where there are none to name."""
    if value and all(isinstance(one, dict) for one in value):
        return ("messages",)
    types = tuple(map(_classify, value))
    return _LIST_NAMES.get(types, tuple(f"NAME{number}" for number in range(1, len(value) + 1)))


def _classify(value: Any) -> str:
    if isinstance(value, str):
        return "text"
    return "list" if isinstance(value, list) else "number" if is_finite_number(value) else ""


def parse_columns(pairs: Iterable[str]) -> dict[str, str]:
    """Return {new: old} of texts NEW=OLD. Raises ValueError with the text that is none."""
    columns: dict[str, str] = {}
    for text in pairs:
        new, sign, old = text.partition("=")
        if not (new and sign and old) or new in columns or old in columns.values():
            raise ValueError(text)
        columns[new] = old
    return columns


def require_kind(name: str) -> Kind:
    """Return `name` as a kind. Raises ValueError for any other text."""
    for kind in KINDS:
        if kind == name:
            return kind
    raise ValueError(name)
