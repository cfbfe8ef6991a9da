"""One line of a backend's log → the event that it reports, or None; and whether it shows that the stage lives.

Understands what Hugging Face trainers, ms-swift and Orch's own workers print: the dicts of loss and of the end (whose
values are strings since transformers 5 and were numbers before), tqdm bars without a description, `orch-progress 3/10`,
and sentences behind `orch-note` and `orch-caution`. A bar and a dict may share a line. Bars with a description
(loading, tokenising, saving) are not the stage's progress.
"""

from __future__ import annotations

import re

from orchestrator.logs.events import Event, Message, Progress, Step

_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# What is counted in a log has at most 18 digits: a longer number is no count, and int() refuses the longest ones.
COUNT = r"[0-9]{1,18}(?![0-9])"
_BAR = re.compile(rf"\s*\d{{1,3}}%\|[^|]*\|\s*({COUNT})/({COUNT})\s*\[")
_OWN = re.compile(rf"orch-progress ({COUNT})/({COUNT})\s*$")
_SAID = re.compile(r"orch-(note|caution) (.+)$")
_LONGEST_LINE = 1 << 13  # characters: no trainer reports more in one line, and a dataset's row may hold megabytes
_DICT = re.compile(r"\{('[\w/ ().%@]+': .*)\}\s*$")
_PAIR = re.compile(r"'([\w/ ().%@]+)':\s*(?:'([^']*)'|([^,{}'\s]+))")
_SLASHED = re.compile(rf"({COUNT})/({COUNT})")
_NEW_WEIGHTS = re.compile(r"\s*(\S+)\s*\|\s*MISSING\s*\|")  # transformers 5 prints a table
_NEW_WEIGHTS_4 = re.compile(r"newly initialized: (\[.*\])")
# tqdm: `name:  40%|████      | 4/10 [00:01<00:02, 2.50it/s]`, and without a total `name: 4it [00:01, 2.50it/s]`
_DRAWN = re.compile(r"(?P<name>.*?)\d{1,3}%\|[^|]*\|\s*(?P<count>[^\s/]{1,32}/[^\s/]{1,32})\s*\[[^\]]*\]?(?P<rest>.*)")
_COUNTER = re.compile(r"(?P<name>.*?)(?<![\d.])(?P<count>[\d.]+\w?it) \[[^\]]*\]?(?P<rest>.*)")
_TORN_BAR = re.compile(r"\d{1,3}%(?:\|[^|]*)?\|?[^\[]*$")
_MOST_BARS = 1000
_LONGEST_BAR = 1 << 12  # characters: no bar is longer, and expressions that search for one would take minutes


def parse_line(line: str) -> Event | None:
    """Return what `line` (without line ends; one tqdm refresh counts as a line) says, or None."""
    text = _ANSI.sub("", line[:_LONGEST_LINE])
    if said := _SAID.match(text):
        return Message("info" if said[1] == "note" else "caution", said[2])
    bar = _BAR.match(text) or _OWN.match(text)
    pairs = _parse_pairs(text)
    if "loss" in pairs:
        return _step_of(pairs, bar)
    if "train_runtime" in pairs:
        loss = f", mean loss {pairs['train_loss']}" if "train_loss" in pairs else ""
        return Message("info", f"trained in {pairs['train_runtime']} s{loss}")
    measured = {key: value for key, value in pairs.items() if key.startswith("eval_")}
    if measured:
        return Message("info", ", ".join(f"{key} {value}" for key, value in measured.items()))
    if bar:
        return Progress(int(bar[1]), int(bar[2]))
    new = _NEW_WEIGHTS.match(text) or _NEW_WEIGHTS_4.search(text)
    return Message("warning", f"starts at random, for the base model has no such weight: {new[1]}") if new else None


def _parse_pairs(text: str) -> dict[str, str]:
    found = _DICT.search(text) if text.rstrip().endswith("}") else None
    if not found:
        return {}
    return {pair[1]: pair[3] if pair[2] is None else pair[2] for pair in _PAIR.finditer(found[1])}


def _step_of(pairs: dict[str, str], bar: re.Match[str] | None) -> Step:
    counted = _SLASHED.fullmatch(pairs.get("global_step/max_steps", "")) or bar
    return Step(
        step=int(counted[1]) if counted else None,
        max_steps=int(counted[2]) if counted else None,
        epoch=_parse_number(pairs.get("epoch")),
        loss=_parse_number(pairs.get("loss")),
        learning_rate=_parse_number(pairs.get("learning_rate")),
        grad_norm=_parse_number(pairs.get("grad_norm")),
    )


def _parse_number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


class Activity:
    """Counts what is new in a log: all but a bar drawn again at the count where it stood, as bars are by a timer."""

    def __init__(self) -> None:
        """Begin with nothing seen."""
        self.new_output = 0
        self._counts: dict[str, str] = {}
        self._unfinished: dict[str, str] = {}

    def see_line(self, line: str) -> None:
        """Take a finished line; a refresh of a bar is one."""
        text = _ANSI.sub("", line[:_LONGEST_BAR])
        bar = _DRAWN.match(text) or _COUNTER.match(text)
        if bar is None:
            self.new_output += 1
            return
        # the bars of a training and of its evaluation have no name: their totals tell them apart
        name = f"{bar['name'].strip()}/{bar['count'].partition('/')[2]}"
        if self._counts.get(name) == bar["count"] and not bar["rest"].strip():
            return
        if len(self._counts) >= _MOST_BARS:  # names that carry numbers must not fill the memory
            self._counts.clear()
        self._counts[name] = bar["count"]
        self.new_output += 1

    def see_unfinished(self, log: str, text: str) -> None:
        """Take the line that is being written to that log: most bars are, for only the next one ends them."""
        if (
            text.strip()
            and text != self._unfinished.get(log)
            and not _TORN_BAR.search(_ANSI.sub("", text[-_LONGEST_BAR:]))
        ):
            self.see_line(text)
        self._unfinished[log] = text
