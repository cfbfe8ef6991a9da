"""Which log lines show that a stage lives: everything but a bar that is drawn again at the count where it stood."""

from __future__ import annotations

import re

# tqdm: `name:  40%|████      | 4/10 [00:01<00:02, 2.50it/s]`, and without a total `name: 4it [00:01, 2.50it/s]`
_BAR = re.compile(r"(?P<name>.*?)\d{1,3}%\|[^|]*\|\s*(?P<count>[^\s/]{1,32}/[^\s/]{1,32})\s*\[[^\]]*\]?(?P<rest>.*)")
_COUNTER = re.compile(r"(?P<name>.*?)(?<![\d.])(?P<count>[\d.]+\w?it) \[[^\]]*\]?(?P<rest>.*)")
_TORN_BAR = re.compile(r"\d{1,3}%(?:\|[^|]*)?\|?[^\[]*$")
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_MOST_BARS = 1000
_LONGEST_BAR = 1 << 12  # characters: no bar is longer, and expressions that search for one would take minutes


class LifeSigns:
    """Counts what is new in a log. A bar redraws itself on a timer even when its loop hangs."""

    def __init__(self) -> None:
        """Begin with nothing seen."""
        self.news = 0
        self._counts: dict[str, str] = {}
        self._unfinished: dict[str, str] = {}

    def see_line(self, line: str) -> None:
        """Take a finished line; a refresh of a bar is one."""
        text = _ANSI.sub("", line[:_LONGEST_BAR])
        bar = _BAR.match(text) or _COUNTER.match(text)
        if bar is None:
            self.news += 1
            return
        # the bars of a training and of its evaluation have no name: their totals tell them apart
        name = f"{bar['name'].strip()}/{bar['count'].partition('/')[2]}"
        if self._counts.get(name) == bar["count"] and not bar["rest"].strip():
            return
        if len(self._counts) >= _MOST_BARS:  # names that carry numbers must not fill the memory
            self._counts.clear()
        self._counts[name] = bar["count"]
        self.news += 1

    def see_unfinished(self, log: str, text: str) -> None:
        """Take the line that is being written to that log: most bars are, for only the next one ends them."""
        if (
            text.strip()
            and text != self._unfinished.get(log)
            and not _TORN_BAR.search(_ANSI.sub("", text[-_LONGEST_BAR:]))
        ):
            self.see_line(text)
        self._unfinished[log] = text
