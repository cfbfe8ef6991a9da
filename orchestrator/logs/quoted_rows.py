"""Finds where a trainer's log quotes the user's rows: they go to nobody else, and are not the trainer's own words.

ms-swift prints the first row of the training set before it begins, as token ids and as text: [INPUT_IDS], [INPUT],
[LABELS], each also with anchor, positive, negative, chosen or rejected before it (swift/template/base.py: print_inputs,
in 3.6 to 4.6). The text may go over several lines, to the logger's next line.
"""

from __future__ import annotations

import re

LEFT_OUT = "(a row of the data, left out)"
_LOGGER = r"\[(?:INFO|WARNING|ERROR|DEBUG|CRITICAL):\w+\] "
_OPENING = rf"{_LOGGER}\[(?:[A-Z]+\d*_)*(?:INPUT|LABELS|GENERATE|LOSS_SCALE)(?:_IDS)?\] "
_RANK = r"(?:\[?(?:rank|default)\d+\]?:\s?)?"
# What cannot belong to the row any more: the logger's next line, a traceback, torchrun's own words.
_CLOSING = rf"{_LOGGER}|{_RANK}Traceback |[EW]\d{{4}} \d\d:\d\d:\d\d"
_QUOTED = re.compile(rf"^({_OPENING}).*?(?=^(?:{_CLOSING})|\Z)", re.MULTILINE | re.DOTALL)
_OPENS = re.compile(_OPENING)
_CLOSES = re.compile(_CLOSING)


def hide_rows(log: str) -> str:
    """Return the log with each quoted row replaced by a remark; whatever stands between is kept as it is."""
    return _QUOTED.sub(rf"\g<1>{LEFT_OUT}\n", log)


class QuotedRows:
    """Follows one log line by line, and knows whether the line belongs to a row that the trainer quotes."""

    def __init__(self) -> None:
        """Begin outside of any row."""
        self._inside = False

    def has(self, line: str) -> bool:
        """Tell whether `line`, the next one of the log, is part of a quoted row."""
        if _OPENS.match(line):
            self._inside = True
        elif self._inside and _CLOSES.match(line):
            self._inside = False
        return self._inside
