"""The known form that a row of no known form comes nearest to, as a whole, and what to rename for it."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.data.rows.foreign_rows import find_lists, find_passage
from orchestrator.data.rows.records import KINDS, Kind
from orchestrator.data.rows.shapes import EXAMPLES, SHAPES, Shape
from orchestrator.data.rows.texts import (
    BadRowError,
    bad_row,
    find_near_name,
    find_optional,
    names_negatives,
    plain_name,
    quote,
    suits,
)

_READ_LISTS = ("messages", "conversations", "hits", "positive_messages", "negative_messages")
_OTHER_KIND = {
    ("labelled", "group"): "; labelled rows are taken by backend: sentence-transformers, or made groups by "
    "orch data convert --to ranking --relevant-from LABEL",
    **dict.fromkeys(
        (("class", kind) for kind in KINDS),
        "; texts with classes are for loss: batch_all_triplet, and orch evaluate: they have no query with documents",
    ),
    ("chat", "group"): "; conversations are for task: sft",
    ("chat", "labelled"): "; conversations are for task: sft",
}


@dataclass(frozen=True)
class Nearest:
    """A form, the keys of a row that stand for its own under other names, and those of its own that nothing is for."""

    shape: Shape
    renamed: dict[str, str]
    missing: tuple[str, ...]
    exact: int


def find_nearest(row: Mapping[str, Any], wanted: Kind, shapes: Iterable[Shape] = SHAPES) -> Nearest:
    """Return the form that a row fills with the fewest keys left over, one of the wanted kind among equals.

    Only where no form is filled, the wanted kind's forms are looked at alone, and the one with the fewest gaps is it.
    """
    found = [_match(row, shape) for shape in shapes if shape.needs and not (shape.variant or shape.fits)]
    if filled := [one for one in found if not one.missing]:
        return max(filled, key=lambda one: _rank(one, wanted))
    own = [one for one in found if one.shape.kind == wanted] or found
    return max(own, key=lambda one: (-len(one.missing), one.exact, len(one.renamed)))


def _rank(one: Nearest, wanted: Kind) -> tuple[bool, int, bool, int, bool]:
    """Return what decides among filled forms; a query with a text and a label is a judged document first.

    Where conversations are wanted, what fills one is one: a score beside it is only its quality.
    """
    return (
        one.shape.kind == wanted == "chat",
        one.exact + len(one.renamed),
        one.shape.kind == wanted,
        one.exact,
        one.shape.name == "pointwise",
    )


def _match(row: Mapping[str, Any], shape: Shape) -> Nearest:
    needs = (*shape.needs, *shape.given)
    exact = [key for key in needs if key in row]
    renamed: dict[str, str] = {}
    missing = []
    is_preference = any(map(names_negatives, row))
    for key in needs:
        if key in row:
            continue
        free = [name for name in row if name not in exact and name not in renamed.values() and suits(key, row[name])]
        if key == "query" and not is_preference:  # a prompt is for a model that answers, unless answers are compared
            free = [name for name in free if plain_name(name) != "prompt"]
        near = find_near_name(key, free)
        if near is None:
            missing.append(key)
        else:
            renamed[key] = near
    for name, value in row.items():
        if name in exact or name in renamed.values():
            continue
        if name in shape.optional:
            exact.append(name)
        else:
            near = find_optional(name, [key for key in shape.optional if key not in row and key not in renamed])
            if near and suits(near, value):
                renamed[near] = name
    blocked = [key for key in shape.lacks if key in exact or row.get(key) not in (None, "", [])]
    return Nearest(shape, renamed, (*missing, *blocked), len(exact))


def explain_unknown(row: Mapping[str, Any], asked: Kind | None, shapes: Iterable[Shape] = SHAPES) -> BadRowError:
    """Return the error for a row of no known form: what to rename, else the first key that the nearest form misses.

    `asked` None: a row of any kind is right.
    """
    wanted = asked or "group"
    if error := _explain_beir(row):
        return error
    if lists := find_lists(row):
        message = f"the documents and their labels stand in two lists, {quote(lists[0])} and {quote(lists[1])}"
        return bad_row("missing-key", message, "orch data convert FILE --from lists -o NEW.jsonl makes rows of hits")
    if passages := next((key for key in row if key not in _READ_LISTS and _holds_passages(row[key])), None):
        message = f"nothing says which of the documents in {quote(passages)} answer the query"
        named = shlex.join(["--map", f"pos={passages}"])
        hint = f'give each a "label"; where all of them do: {named} (data.columns: {{pos: {passages}}})'
        return bad_row("missing-key", message, hint)
    nearest = find_nearest(row, wanted, shapes)
    gaps = [key for key in (*nearest.shape.needs, *nearest.shape.given) if key not in row]
    if not gaps:
        hint = _show(nearest.shape) + _OTHER_KIND.get((nearest.shape.kind, wanted), "")
        return bad_row("missing-key", f"the row has the keys of no {wanted} row", hint)
    if nearest.missing or not nearest.renamed:
        return explain_missing(next((key for key in gaps if key in nearest.missing), gaps[0]), row, wanted)
    message = f'the key "{gaps[0]}" is missing, and the row has {quote(nearest.renamed[gaps[0]])}'
    renames = " and ".join(f'{quote(old)} to "{new}"' for new, old in nearest.renamed.items())
    options = " ".join(shlex.join(["--map", f"{new}={old}"]) for new, old in nearest.renamed.items())
    hint = f"rename {renames}: {options} (data.columns)"
    if asked and nearest.shape.kind != asked:
        message += f"; so named it is a {nearest.shape.kind} row, and {wanted} rows are wanted"
        hint += _OTHER_KIND.get(
            (nearest.shape.kind, wanted), f"; or choose task and loss for {nearest.shape.kind} rows"
        )
    return bad_row("missing-key", message, hint)


def _explain_beir(row: Mapping[str, Any]) -> BadRowError | None:
    """Return the error for a row of one of BEIR's three files, None for any other."""
    if {"query-id", "corpus-id"} <= row.keys():
        message = "this is one of BEIR's files: its rows name texts by ids, and no corpus.jsonl is beside or above it"
        hint = "put the judgements into qrels/, in the folder of corpus.jsonl and queries.jsonl"
        return bad_row("missing-key", message, hint)
    if {"_id", "text"} <= row.keys() and "query" not in row:
        message = "this is one of BEIR's files: its texts are named by ids in the judgements"
        return bad_row("missing-key", message, "give the judgements: a file of qrels/, such as qrels/train.tsv")
    return None


def _show(shape: Shape) -> str:
    return f"its form has {', '.join(shape.needs)}" + (f", and no {', '.join(shape.lacks)}" if shape.lacks else "")


def explain_missing(key: str, row: Mapping[str, Any], wanted: Kind) -> BadRowError:
    """Return the error for a row without `key`, with the key that may have been meant."""
    message = f'the key "{key}" is missing'
    example = EXAMPLES["chat" if key in {"messages", "conversations"} else wanted]
    names = {"ranking", "hits"} if wanted == "labelled" else {"ranking"}
    right = {key for shape in SHAPES if shape.name in names for key in (*shape.needs, *shape.optional)}
    near = find_near_name(key, row, right)  # a key that is right where it is stands for no other
    if near is None:
        return bad_row("missing-key", message, f'add "{key}": {example}')
    if not (suits(key, row[near]) or (key == "pos" and isinstance(row[near], str))):
        advice = f'write what stands in {quote(near)} as "{key}": {example}'
        return bad_row("missing-key", f"{message}, and the row has {quote(near)} in another form", advice)
    better = "response" if key == "pos" and isinstance(row[near], str) and "neg" not in row else key
    hint = f'rename {quote(near)} to "{better}": {shlex.join(["--map", f"{better}={near}"])} (data.columns)'
    return bad_row("missing-key", f"{message}, and the row has {quote(near)}", hint)


def explain_no_negatives(row: Mapping[str, Any]) -> BadRowError:
    """Return the fault of a ranking row without the key for negatives, where the trainer needs some."""
    found = explain_missing("neg", row, "group").fault
    way_out = "; cross-encoders take rows without: backend: sentence-transformers (--backend)"
    return BadRowError(replace(found, hint=found.hint + ("" if "rename" in found.hint else way_out)))


def _holds_passages(value: Any) -> bool:
    """Whether a value is a list of objects with a text each, as MIRACL and DPR write documents."""
    return isinstance(value, list) and bool(value) and all(find_passage(one) is not None for one in value)
