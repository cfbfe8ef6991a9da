"""Whole runs over bad data: the first stage refuses it, and nothing is trained."""

from __future__ import annotations

from tests.bad_input.case import ROW, ROWS, BadInput

RUN = ("run", "recipe.yaml", "--smoke", "-o", "out")


def _run(name: str, story: str, train: str | bytes, *, line: int, says: str, remedy: str) -> BadInput:
    """Return the case of `orch run` with these training rows."""
    return BadInput(name, story, RUN, 3, f"train.jsonl:{line}: ", says, remedy, {"train.jsonl": train})


CASES = (
    _run(
        "run-broken-line",
        "runs on a cut line",
        ROWS + "{\n",
        line=9,
        says="not-json",
        remedy="→ write each row on one line",
    ),
    _run(
        "run-no-negative",
        "runs on a row without negatives",
        ROWS + ROW.replace('"a car", "a tree"', ""),
        line=9,
        says="no-negative",
        remedy="→ add documents",
    ),
    _run(
        "run-latin-1",
        "runs on Latin-1",
        (ROWS + ROW.replace("car", "caf\xe9")).encode("latin-1"),
        line=9,
        says="bad-utf-8",
        remedy="→ name the encoding in data.encoding (--encoding), or save the file as UTF-8",
    ),
)
