"""Finds where a trainer's log quotes the user's rows, and leaves it out of a text that goes to others.

ms-swift prints the first row of the training set before it begins, as token ids and as text: [INPUT_IDS], [INPUT],
[LABELS], each also with anchor, positive, negative, chosen or rejected before it (swift/template/base.py: print_inputs,
in 3.6 to 4.6). The text may go over several lines, to the logger's next line.
"""

from __future__ import annotations

import re

LEFT_OUT = "(a row of the data, left out)"
_LOGGER = r"\[(?:INFO|WARNING|ERROR|DEBUG|CRITICAL):\w+\] "
_QUOTED = re.compile(
    rf"^({_LOGGER}\[(?:[A-Z]+\d*_)*(?:INPUT|LABELS|GENERATE|LOSS_SCALE)(?:_IDS)?\] ).*?(?=^{_LOGGER}|^Traceback |\Z)",
    re.MULTILINE | re.DOTALL,
)


def hide_rows(log: str) -> str:
    """Return the log with each quoted row replaced by a remark; whatever stands between is kept as it is."""
    return _QUOTED.sub(rf"\g<1>{LEFT_OUT}\n", log)
