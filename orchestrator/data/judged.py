"""What one row of ranking data says of the documents of its query, in whichever form: convert, score and mine read it.

There are three forms: pointwise, hits and ranking. Rows of a registered shape become one of them first.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from orchestrator.data.reading.json_rows import Row as Line
from orchestrator.data.reading.tabular import parse_cell
from orchestrator.data.rows.checks import require_group_types, require_list_of_texts
from orchestrator.data.rows.nearest import explain_unknown
from orchestrator.data.rows.shapes import (
    SAMPLE_KEY,
    SHAPES,
    Fields,
    Row,
    explain_no_object,
    find_shape,
    fold_numbered,
    name_values,
    read_fields,
    rename,
    require_hits,
    rewrite,
)
from orchestrator.data.rows.texts import (
    BadRowError,
    bad_row,
    is_finite_number,
    name_type,
    parse_number,
    quote,
    require_encodable,
    require_type,
)
from orchestrator.data.rows.unread import UnreadText, find_unread

Form = Literal["pointwise", "hits", "ranking"]
HitKey = Literal["content", "label", "score"]
Place = tuple[int, int]  # the number of a file among those given, and a line

EXAMPLES: dict[Form, str] = {
    "pointwise": '{"query": "…", "content": "…", "label": 1}',
    "hits": '{"query": "…", "hits": [{"content": "…", "label": 1}, …]}',
    "ranking": '{"query": "…", "pos": ["…"], "neg": ["…", "…"]}',
}
HIT_KEYS: tuple[HitKey, ...] = ("content", "label", "score")
OWN_KEYS: dict[Form, tuple[str, ...]] = {
    "pointwise": ("query", *HIT_KEYS),
    "hits": ("query", "hits"),
    "ranking": ("query", "pos", "neg", "pos_scores", "neg_scores"),
}
QUERY_KEYS = ("prompt", SAMPLE_KEY)  # what they say is said of a query, in every form
# By which keys a form is known; it needs the first of them.
_MARKS: dict[Form, tuple[str, ...]] = {"pointwise": ("content",), "hits": ("hits",), "ranking": ("pos", "neg")}
_LIKELIEST_FIRST: tuple[Form, ...] = ("ranking", "hits", "pointwise")
TO_RANKING = f"rename columns with --map, or write {' or '.join(EXAMPLES.values())}"
_NULLABLE = {"prompt", *(key for keys in OWN_KEYS.values() for key in keys)}
_ABSENT: tuple[Any, ...] = (None, "", [])
_FIELDS_OF_HITS: dict[str, HitKey] = {"documents": "content", "labels": "label", "scores": "score"}


@dataclass(frozen=True)
class Hit:
    """A document of a query, with its row's label and score for it (None: it has none) and further keys.

    In ranking rows the labels are 1 and 0. `relevant` (None: nobody knows) and `place` are for reshape.py to say.
    """

    content: str
    label: Any = None
    score: Any = None
    keys: Row = field(default_factory=dict)
    relevant: bool | None = None
    place: Place = (0, 0)


@dataclass(frozen=True)
class Judged:
    """A query and its documents in their order, positives first; `keys` are further keys of the row itself."""

    form: Form
    query: str
    hits: tuple[Hit, ...]
    keys: Row
    has_scores: bool

    @property
    def texts(self) -> tuple[str, ...]:
        """The documents."""
        return tuple(hit.content for hit in self.hits)


def _read_cell(key: str, cell: Any) -> Any:
    """Return a cell of a row that keeps what it says: only its label and score are read as numbers."""
    if key in {"label", "score"}:
        return parse_number(cell)
    return parse_cell(key, cell) if isinstance(cell, str) else cell


def bring_to_form(row: Row, *, numeric_text: bool = False) -> Row:
    """Return a row of another registered shape as one of the three forms. Raises BadRowError where it cannot be read.

    With `numeric_text` its labels and scores may be numbers that stand as text.
    """
    found = rewrite(fold_numbered(row))
    shape = find_shape(found, "labelled")
    is_other = shape and shape.kind in {"group", "labelled"} and shape.name not in _MARKS
    if shape is None or not is_other:
        return found
    fields = read_fields(found, shape)
    require_type(fields.values["query"], str, fields.name("query"), "write a string")
    if "documents" in fields.values:
        hits = {"hits": _build_hits(fields, numeric_text=numeric_text)}
    else:
        require_group_types(fields)
        hits = {}
    values = {key: value for key, value in fields.values.items() if value is not None and key not in _FIELDS_OF_HITS}
    return values | hits | {key: found[key] for key in (*fields.unknown_keys, SAMPLE_KEY) if key in found}


def _build_hits(fields: Fields, *, numeric_text: bool) -> list[Row]:
    """Return the documents of a labelled row as hits, all that is wrong with them told in the row's own words."""
    hits: list[Row] = [{} for _ in fields.values["documents"]]
    for key, own in _FIELDS_OF_HITS.items():
        for at, (hit, value) in enumerate(zip(hits, fields.values[key], strict=True)):
            if own == "content":
                require_type(value, str, fields.name(key, at), "write a string")
                hit[own] = value
            elif value is not None:
                hit[own] = _read_cell(own, value) if numeric_text else value
                require_number(hit[own], own, fields.name(key, at))
    return hits


def find_form(row: Row) -> Form | None:
    """Return the form of a row by its keys; one with a value says more than one without. Raises BadRowError for two."""
    for absent in (_ABSENT, (None,)):
        forms = [form for form, keys in _MARKS.items() if any(row.get(key) not in absent for key in keys)]
        if len(forms) == 1:
            return forms[0]
        if forms:
            message = f"the row is of more than one form; it has {list_keys(row)}"
            raise bad_row("not-convertible", message, TO_RANKING)
    return None


def drop_nulls(row: Row, keys: Collection[str] = _NULLABLE) -> Row:
    """Return a row without those of `keys`, by default of all keys of the three forms, that are null."""
    return {key: value for key, value in row.items() if value is not None or key not in keys}


def list_keys(row: Row) -> str:
    """Return the first keys of a row, for a message."""
    return ", ".join(map(quote, list(row)[:20])) or "no keys"


def read_judged(row: Row, form: Form, *, scores: bool = False) -> Judged:
    """Return what a row of that form says; null is an absent key. With `scores` those of a ranking row are read too.

    Raises BadRowError for a row without query or documents, and for texts that are not strings.
    """
    others = {mark for other, marks in _MARKS.items() if other != form for mark in marks}
    row = drop_nulls({key: value for key, value in row.items() if key not in others or value not in _ABSENT})
    for key in ("query", _MARKS[form][0]):
        if key not in row:
            raise bad_row("missing-key", f'the key "{key}" is missing', f"write {EXAMPLES[form]}")
    require_type(row["query"], str, '"query"', "write a string")
    if form == "ranking":
        hits = _read_ranking(row, scores=scores)
        has_scores = any(f"{side}_scores" in row for side in ("pos", "neg"))
    else:
        if form == "hits":
            hits = _read_hits(row["hits"])
        else:  # its further keys belong to its document
            own = {key: value for key, value in row.items() if key not in {"query", *QUERY_KEYS}}
            hits = [_build_hit(own, '"content"')]
        has_scores = any(hit.score is not None for hit in hits)
    if not hits:
        raise bad_row("no-documents", "the row has no documents")
    is_further = QUERY_KEYS.__contains__ if form == "pointwise" else lambda key: key not in OWN_KEYS[form]
    return Judged(form, row["query"], tuple(hits), {key: row[key] for key in row if is_further(key)}, has_scores)


def _build_hit(row: Row, name: str) -> Hit:
    """Return the document that an object holds; `name` opens what is said of it."""
    require_type(row["content"], str, name, "write a string")
    keys = {key: value for key, value in row.items() if key not in HIT_KEYS}
    return Hit(row["content"], row.get("label"), row.get("score"), keys)


def _read_hits(hits: Any) -> list[Hit]:
    if isinstance(hits, list):
        hits = [drop_nulls(hit, HIT_KEYS) if isinstance(hit, dict) else hit for hit in hits]
    require_hits(hits, ("content",))
    return [_build_hit(hit, f'"hits"[{place}].content') for place, hit in enumerate(hits)]


def _read_ranking(row: Row, *, scores: bool) -> list[Hit]:
    fields = Fields({"neg": []} | row)
    hits: list[Hit] = []
    scored = scores and any(f"{side}_scores" in row for side in ("pos", "neg"))
    for side, label in (("pos", 1), ("neg", 0)):
        require_list_of_texts(fields, side)
        found = [Hit(text, label) for text in fields.values[side]]
        if scored:
            given: Any = row.get(f"{side}_scores", [])
            if not isinstance(given, list) or not all(is_finite_number(score) for score in given):
                raise bad_row("scores-not-numbers", f'"{side}_scores" is not a list of finite numbers')
            if len(given) != len(found):
                raise bad_row("scores-length", f'"{side}_scores" holds {len(given)} and "{side}" {len(found)}')
            found = [replace(hit, score=score) for hit, score in zip(found, given, strict=True)]
        hits += found
    return hits


def find_unread_keys(
    row: Row, found: Judged, ignore: Sequence[str], *, judgements: bool = False
) -> tuple[UnreadText, ...]:
    """Return the texts of a row, its keys in canonical names, that are not read.

    With `judgements` also those keys of a ranking row that judge its documents otherwise than its two lists do.
    """
    own = [key for key in found.keys if key not in QUERY_KEYS]
    inner = dict.fromkeys(key for hit in found.hits for key in hit.keys)
    unknown = [*own, *(inner if found.form == "pointwise" else (f"hits[].{key}" for key in inner))]
    is_ranking = found.form == "ranking"
    optional = ("neg",) if is_ranking and not row.get("neg") else ()
    ranking = next(shape for shape in SHAPES if (shape.kind, shape.name) == ("labelled", "ranking"))
    shape = ranking if judgements and is_ranking else None
    return find_unread(row, unknown, (found.query, *found.texts), shape=shape, optional=optional, ignore=ignore)


def scale_label(label: Any, name: str, low: float, high: float) -> float:
    """Return (label - low) / (high - low); `name` opens what is said of it. Raises BadRowError outside of [0, 1]."""
    require_number(label, "label", f'{name}"label"')
    if not low <= label <= high:
        message = f'{name}"label" is {label:g}, and labels are between {low:g} and {high:g}'
        raise bad_row("label-out-of-range", message, "correct the label, or --min-label and --max-label")
    return float((label - low) / (high - low))


def require_number(value: Any, key: Literal["label", "score"], name: str) -> None:
    """Raise BadRowError for a label or score that is not a finite number."""
    if not is_finite_number(value):
        code = "label-not-a-number" if key == "label" else "scores-not-numbers"
        raise bad_row(code, f"{name} is {name_type(value)}, not a finite number", "write a number")


# As score and mine want a row


@dataclass(frozen=True)
class Opened:
    """A row that is no longer of another shape: `own` as it is to be written, where {new: old} is `columns`.

    `row` has canonical names, and one of the three forms unless it is of no shape that is known.
    """

    own: Row
    columns: Mapping[str, str]
    row: Row


def open_row(line: Line, columns: Mapping[str, str], *, is_table: bool) -> Opened:
    """Return the row of a line. Raises BadRowError.

    A row of another shape is written in the form that it is brought to, for it has no place for scores.
    """
    if line.fault:
        raise BadRowError(line.fault)
    value = line.value if isinstance(line.value, dict) else name_values(line.value, "labelled") or line.value
    if not isinstance(value, dict):
        raise explain_no_object(value, "group")
    value = fold_numbered(value)
    if is_table:
        names = {old: new for new, old in columns.items()}
        value = {name: _read_cell(names.get(name, name), cell) for name, cell in value.items()}
    row = rename(value, columns)
    brought = bring_to_form(row, numeric_text=is_table)
    return Opened(value, columns, row) if brought is row else Opened(brought, {}, brought)


def require_judged(row: Row) -> Judged:
    """Return what a row, its keys in canonical names, says: texts that can be scored and searched for.

    Of a row with the keys of two forms one is read, and the texts of the other are for `find_unread_keys` to find.
    Raises BadRowError where there are none.
    """
    there = [form for form in _LIKELIEST_FIRST if _MARKS[form][0] in row and "query" in row]
    form = next((form for form in there if row[_MARKS[form][0]] not in _ABSENT), there[0] if there else None)
    if form is None:
        labelled = [one for one in reversed(SHAPES) if one.kind in {"labelled", "class"}]  # the likeliest first, too
        raise explain_unknown(row, "labelled", labelled)
    found = read_judged(row, form)
    if form == "ranking" and not any(hit.label for hit in found.hits):
        raise bad_row("no-positive", '"pos" is an empty list')
    require_encodable([("the query", found.query), *(("a document", text) for text in found.texts)])
    return found


def add_scores(opened: Opened, found: Judged, scores: Sequence[float]) -> Row:
    """Return the row as it is to be written, with one score a document (in the order of `found.hits`)."""
    value = opened.own

    def name(key: str) -> str:
        return opened.columns.get(key, key)

    if found.form == "pointwise":
        return value | {name("score"): scores[0]}
    if found.form == "hits":
        hits = value[name("hits")]
        return value | {name("hits"): [hit | {"score": score} for hit, score in zip(hits, scores, strict=True)]}
    count = len(value[name("pos")])
    added = {name("pos_scores"): list(scores[:count])}
    if value.get(name("neg")) is not None:
        added[name("neg_scores")] = list(scores[count:])
    return {key: kept for key, kept in value.items() if key != name("neg_scores")} | added
