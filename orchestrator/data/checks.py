"""One parsed row is checked and becomes a ranking group, or the one fault for which it is dropped."""

from __future__ import annotations

import difflib
import json
import math
import unicodedata
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.data.digests import document_key
from orchestrator.data.groups import RankingGroup
from orchestrator.data.reasons import REASONS, Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REQUIRED_KEYS = ("query", "pos", "neg")
KNOWN_KEYS = frozenset({*REQUIRED_KEYS, "pos_scores", "neg_scores", "prompt"})
_NEAR_NAMES = {
    "query": ("question", "queries", "q", "anchor", "query_text", "search_query", "sentence1", "input"),
    "pos": ("positive", "positives", "pos_docs", "positive_passages", "positive_messages", "answer", "chosen", "docs"),
    "neg": (
        *("negative", "negatives", "negs", "neg_docs", "negative_passages", "negative_messages"),
        *("hard_negative", "hard_negatives", "hard_neg", "rejected", "rejected_response"),
    ),
}
_TYPE_NAMES: dict[type, str] = {
    bool: "true or false",
    int: "a number",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
    type(None): "null",
}
_SHAPE = 'a row is {"query": "…", "pos": ["…"], "neg": ["…", "…"]}'
_INVISIBLE = frozenset({"Cc", "Cf", "Zs", "Zl", "Zp"})
_LONGEST_INVISIBLE = 32
_LONGEST_QUOTE = 40


@dataclass(frozen=True)
class Accepted:
    """A good row's group, and what about it is worth a warning."""

    group: RankingGroup
    unknown_keys: tuple[str, ...] = ()
    repeated_positives: int = 0
    repeated_negatives: int = 0


def check_row(value: Any, *, source: str, line: int) -> Accepted | Fault:
    """Check one JSON value and return the group that it is, its repeated documents left out, or its first fault."""
    for check in _CHECKS:
        if fault := check(value):
            return fault
    positive_keys = [document_key(text) for text in value["pos"]]
    negative_keys = [document_key(text) for text in value["neg"]]
    if shared := set(positive_keys).intersection(negative_keys):
        text = next(text for text, key in zip(value["neg"], negative_keys, strict=True) if key in shared)
        message = f"the document {quote(text)} is a positive and a negative"
        return _fault("positive-among-negatives", message)
    positives = _firsts(positive_keys)
    negatives = _firsts(negative_keys)
    group = RankingGroup(
        query=value["query"],
        positives=_pick(value["pos"], positives),
        negatives=_pick(value["neg"], negatives),
        source=source,
        line=line,
        positive_scores=_pick_scores(value.get("pos_scores"), positives),
        negative_scores=_pick_scores(value.get("neg_scores"), negatives),
        prompt=value.get("prompt"),
    )
    return Accepted(
        group=group,
        unknown_keys=tuple(key for key in value if key not in KNOWN_KEYS),
        repeated_positives=len(positive_keys) - len(positives),
        repeated_negatives=len(negative_keys) - len(negatives),
    )


def check_query(value: Any) -> Fault | None:
    """Return why a row cannot be placed by its query, or None; nothing else of the row is looked at."""
    if fault := _check_is_object(value):
        return fault
    if "query" not in value:
        return _explain_missing("query", value)
    only_query = {"query": value["query"], "pos": ["-"], "neg": ["-"]}
    for check in (_check_types, _check_surrogates, _check_texts_present):
        if fault := check(only_query):
            return fault
    return None


def quote(text: str) -> str:
    """Return the beginning of a user's text in quotes, on one line and printable, for a message."""
    short = text if len(text) <= _LONGEST_QUOTE else text[: _LONGEST_QUOTE - 1] + "…"
    return json.dumps(short, ensure_ascii=not short.isprintable())


def is_blank(text: str) -> bool:
    """Whether a text shows nothing: white space, or only invisible characters such as a zero-width space."""
    if not text or text.isspace():
        return True
    if text.isascii() or len(text) > _LONGEST_INVISIBLE:
        return False
    return all(unicodedata.category(character) in _INVISIBLE for character in text)


def _fault(code: str, message: str, hint: str | None = None) -> Fault:
    return Fault(code, message, hint or REASONS[code].remedy)


def _firsts(keys: list[str]) -> list[int]:
    """Return the places of the keys that did not occur before."""
    if len(set(keys)) == len(keys):
        return list(range(len(keys)))
    first: dict[str, int] = {}
    for place, key in enumerate(keys):
        first.setdefault(key, place)
    return list(first.values())


def _pick(texts: list[str], places: list[int]) -> tuple[str, ...]:
    return tuple(texts) if len(places) == len(texts) else tuple(texts[place] for place in places)


def _pick_scores(scores: list[float] | None, places: list[int]) -> tuple[float, ...] | None:
    # One JSON type for all: the backend's reader infers a column's type from the first rows and refuses the other.
    return None if scores is None else tuple(float(scores[place]) for place in places)


# Each check may rely on those before it having found nothing.


def _check_is_object(value: Any) -> Fault | None:
    if isinstance(value, dict):
        return None
    return _fault("not-an-object", f"the row is {_name_type(value)}, not a JSON object", _SHAPE)


def _check_keys(row: dict[str, Any]) -> Fault | None:
    for key in REQUIRED_KEYS:
        if key not in row:
            return _explain_missing(key, row)
    return None


def _explain_missing(key: str, row: dict[str, Any]) -> Fault:
    message = f'the key "{key}" is missing'
    if near := _find_near_name(key, row):
        return _fault("missing-key", f"{message}, and the row has {quote(near)}", f'rename {quote(near)} to "{key}"')
    if "messages" in row or "conversations" in row:
        return _fault("missing-key", f"{message}: this is a chat row", _SHAPE)
    return _fault("missing-key", message, f'add "{key}": {_SHAPE}')


def _find_near_name(key: str, row: dict[str, Any]) -> str | None:
    candidates = [name for name in row if name not in KNOWN_KEYS]
    plain = {name.lower().strip().replace("-", "_").replace(" ", "_"): name for name in reversed(candidates)}
    for wanted in (key, *_NEAR_NAMES[key]):
        if wanted in plain:
            return plain[wanted]
    close = difflib.get_close_matches(key, [name for name in list(plain)[:50] if len(name) < _LONGEST_QUOTE], n=1)
    return plain[close[0]] if close else None


def _check_types(row: dict[str, Any]) -> Fault | None:
    if not isinstance(row["query"], str):
        return _fault("wrong-type", f'"query" is {_name_type(row["query"])}, not a string', "write one string")
    for key in ("pos", "neg"):
        if fault := _check_texts_type(key, row[key]):
            return fault
    if not isinstance(row.get("prompt", ""), str | None):
        return _fault("wrong-type", f'"prompt" is {_name_type(row["prompt"])}, not a string', "write one string")
    for key in ("pos_scores", "neg_scores"):
        if not isinstance(row.get(key), list | None):
            message = f'"{key}" is {_name_type(row[key])}, not a list of numbers'
            return _fault("wrong-type", message, f'put it in a list: "{key}": [0.9, …], one score a document')
    return None


def _check_texts_type(key: str, texts: Any) -> Fault | None:
    if isinstance(texts, str):
        hint = f'put it in a list: "{key}": [{quote(texts)}]'
        return _fault("wrong-type", f'"{key}" is a string, not a list of strings', hint)
    if not isinstance(texts, list):
        return _fault("wrong-type", f'"{key}" is {_name_type(texts)}, not a list of strings', "write a list of strings")
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            message = f'"{key}"[{place}] is {_name_type(text)}, not a string'
            return _fault("wrong-type", message, "write the document's text itself")
    return None


def _name_type(value: Any) -> str:
    return _TYPE_NAMES[type(value)]


def _texts(row: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield every text of a row with its place, such as `"neg"[2]`."""
    yield '"query"', row["query"]
    for key in ("pos", "neg"):
        for place, text in enumerate(row[key]):
            yield f'"{key}"[{place}]', text
    if row.get("prompt") is not None:
        yield '"prompt"', row["prompt"]


def _check_surrogates(row: dict[str, Any]) -> Fault | None:
    for name, text in _texts(row):
        if text.isascii():
            continue
        try:
            text.encode()
        except UnicodeEncodeError as error:
            code = f"\\u{ord(text[error.start]):04x}"
            return _fault(
                "lone-surrogate", f"{name} holds {code}, half of a UTF-16 pair, at character {error.start + 1}"
            )
    return None


def _check_texts_present(row: dict[str, Any]) -> Fault | None:
    if is_blank(row["query"]):
        return _fault("empty-query", '"query" is empty or white space')
    if not row["pos"]:
        return _fault("no-positive", '"pos" is an empty list')
    if not row["neg"]:
        return _fault("no-negative", '"neg" is an empty list')
    for key in ("pos", "neg"):
        for place, text in enumerate(row[key]):
            if is_blank(text):
                return _fault("empty-text", f'"{key}"[{place}] is empty or white space')
    return None


def _check_scores(row: dict[str, Any]) -> Fault | None:
    given = [key for key in ("pos_scores", "neg_scores") if row.get(key) is not None]
    if len(given) == 1:
        other = "neg_scores" if given == ["pos_scores"] else "pos_scores"
        return _fault("scores-length", f'the row has "{given[0]}" without "{other}"', "give both, or neither")
    for key in given:
        scores, texts = row[key], row[key.removesuffix("_scores")]
        if len(scores) != len(texts):
            message = f'"{key}" holds {len(scores)} and "{key.removesuffix("_scores")}" {len(texts)}'
            return _fault("scores-length", message, "give one score a document, in the same order")
        for place, score in enumerate(scores):
            if not _is_finite_number(score):
                return _fault("scores-not-numbers", f'"{key}"[{place}] is not a finite number', "write a finite number")
    return None


def _is_finite_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number beyond the range of floats
        return False


_CHECKS: tuple[Callable[[Any], Fault | None], ...] = (
    _check_is_object,
    _check_keys,
    _check_types,
    _check_surrogates,
    _check_texts_present,
    _check_scores,
)
