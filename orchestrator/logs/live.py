"""A running stage's two log files → its events: what a line says, whether it shows life, and how far the stage is.

Understands what Hugging Face trainers, ms-swift and Orch's own workers print: the dicts of loss and of the end (whose
values are strings since transformers 5 and were numbers before), tqdm bars without a description, `orch-progress 3/10`,
and sentences behind `orch-note` and `orch-caution`. A bar and a dict may share a line. Bars with a description
(loading, tokenising, saving) are not the stage's progress. Steps know their number, and progress comes at most once a
second.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import replace

from orchestrator.logs.events import Event, Message, Progress, RowsLoaded, Step
from orchestrator.logs.follow import LogFollower
from orchestrator.logs.health import LossHealth, LossProblem, LossRules
from orchestrator.logs.row_texts import QuotedRows
from orchestrator.machine.rundir import StageDir

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
    if own := _SAID.match(text):
        return Message("info" if own[1] == "note" else "caution", own[2])
    bar = _BAR.match(text) or _OWN.match(text)
    found = _DICT.search(text) if text.rstrip().endswith("}") else None
    said = _PAIR.finditer(found[1]) if found else ()
    pairs = {pair[1]: pair[3] if pair[2] is None else pair[2] for pair in said}
    if "loss" in pairs:
        counted = _SLASHED.fullmatch(pairs.get("global_step/max_steps", "")) or bar
        step, most = (int(counted[1]), int(counted[2])) if counted else (None, None)
        names = ("epoch", "loss", "learning_rate", "grad_norm")
        epoch, loss, rate, norm = (_parse_number(pairs.get(name)) for name in names)
        return Step(step, most, epoch, loss, rate, norm)
    if "train_runtime" in pairs:
        mean = f", mean loss {pairs['train_loss']}" if "train_loss" in pairs else ""
        return Message("info", f"trained in {pairs['train_runtime']} s{mean}")
    if measured := {key: value for key, value in pairs.items() if key.startswith("eval_")}:
        return Message("info", ", ".join(f"{key} {value}" for key, value in measured.items()))
    if bar:
        return Progress(int(bar[1]), int(bar[2]))
    new = _NEW_WEIGHTS.match(text) or _NEW_WEIGHTS_4.search(text)
    return Message("warning", f"starts at random, for the base model has no such weight: {new[1]}") if new else None


def _parse_number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


class Activity:
    """Counts what is new in a log: all but a bar drawn again at the count where it stood, as bars are by a timer."""

    def __init__(self) -> None:
        self.new_output = 0
        self._counts: dict[str, str] = {}
        self._unfinished: dict[str, str] = {}

    def see_line(self, line: str) -> None:
        """Take a finished line; a refresh of a bar is one."""
        text = _ANSI.sub("", line[:_LONGEST_BAR])
        if (bar := _DRAWN.match(text) or _COUNTER.match(text)) is None:
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
        is_new = text.strip() and text != self._unfinished.get(log)
        if is_new and not _TORN_BAR.search(_ANSI.sub("", text[-_LONGEST_BAR:])):
            self.see_line(text)
        self._unfinished[log] = text


PROGRESS_EVERY_S = 1.0
_SHOWN_CHARS = 80
MOST_BYTES_A_LOOK = 4 << 20  # of each log: who adopts a training that has said gigabytes still looks at signals
# ms-swift prints a dataset over several lines, after it has left out what it could not use
_DATASET = re.compile(r".*\b(train|val)_dataset: Dataset\(\{$")
_NUM_ROWS = re.compile(rf"\s+num_rows: ({COUNT})$")
_ARGUMENT = re.compile(rf"(num_train_epochs|max_steps)=(-?{COUNT}(?:\.{COUNT})?),$")


class LiveLog:
    """Follows stdout and stderr of one attempt.

    A trainer of Hugging Face prints its losses without a step number on stdout, and its bar on stderr. The number
    follows from the epoch, the bar's total, and the epochs that the training's arguments (which FlagEmbedding logs)
    say; where they are not known, the newest bar's count stands in: near, not exact.

    Rows of the data that a trainer prints are not its words, whatever they say. Some are not known as such, so no burst
    of lines ends a training: losses must stay bad from one look to the next, and the first count of rows stands.

    The logs are followed from the offsets (bytes) on, and the losses judged by `rules`.
    """

    def __init__(
        self, stage: str, folder: StageDir, stdout_offset: int, stderr_offset: int, rules: LossRules | None = None
    ) -> None:
        self._stage = stage
        self._followers = (LogFollower(folder.stderr_log, stderr_offset), LogFollower(folder.stdout_log, stdout_offset))
        self._quoted = tuple(QuotedRows() for _ in self._followers)
        self._health = LossHealth(rules or LossRules())
        self._look = 0
        self._activity = Activity()
        self._bar: Progress | None = None
        self._unsent: Progress | None = None
        self._sent_at = float("-inf")
        self._said: set[str] = set()
        self._reported_steps = 0
        self._arguments: dict[str, float] = {}
        self._dataset: str | None = None
        self._counted: set[str] = set()
        self.progress_count = 0  # how often a step or a count has moved on
        self.last_step: Step | Progress | None = None
        self.fatal: LossProblem | None = None  # what the recipe wants the training ended for

    @property
    def new_output(self) -> int:
        """How often the logs have said something new: a sign of life."""
        return self._activity.new_output

    @property
    def has_counted_rows(self) -> bool:
        """Whether the trainer has said how many rows it has loaded."""
        return bool(self._counted)

    def describe_position(self) -> str:
        """Return how far the stage has come, in words; empty when it never said."""
        last = self.last_step
        if isinstance(last, Progress):
            return f"{last.done} of {last.total}"
        if last is None or last.step is None:
            return ""
        return f"step {last.step}" + (f" of {last.max_steps}" if last.max_steps else "")

    def remember_losses(self, losses: Iterable[float]) -> None:
        """Judge the losses in the light of those that earlier attempts have logged."""
        self._health.remember(losses)

    def skip_reported(self, events: list[Event]) -> None:
        """Do not report again what an earlier supervisor of this attempt has reported."""
        self._reported_steps = sum(isinstance(event, Step) for event in events)
        self._said |= {event.text for event in events if isinstance(event, Message)}
        bars = [event for event in events if isinstance(event, Progress)]
        self._bar = bars[-1] if bars else None

    def read_events(self, now: float, *, at_end: bool = False) -> list[Event]:
        """Return the events of what was written since the last call. `now`: monotonic seconds."""
        events: list[Event] = []
        self._look += 1
        for follower, quoted in zip(self._followers, self._quoted, strict=True):
            for line in follower.iter_lines(at_end=at_end, most_bytes=None if at_end else MOST_BYTES_A_LOOK):
                self._activity.see_line(line)
                if not quoted.has(line):
                    events += self._understand(line)
            self._activity.see_unfinished(follower.path.name, follower.unfinished)
        if at_end:
            events += self._judge(self._health.end())
        if self._unsent and (at_end or now - self._sent_at >= PROGRESS_EVERY_S):
            events.append(replace(self._unsent, stage=self._stage))
            self._unsent = None
            self._sent_at = now
        return events

    def _understand(self, line: str) -> list[Event]:
        """Return what a line says. None may end the training, however odd: one that cannot be read is only noted."""
        try:
            return self._events_of(line)
        except Exception as error:  # noqa: BLE001  (anybody's text may stand in a log; the fuzz tests find such lines)
            name, shown = type(error).__name__, line[:_SHOWN_CHARS]
            return self._say_once(name, "warning", f"a line of its log is skipped: it raises {name}: {shown}")

    def _events_of(self, line: str) -> list[Event]:
        if argument := _ARGUMENT.match(line):
            self._arguments[argument[1]] = float(argument[2])
        if loaded := self._count_rows(line):
            return [loaded]
        event = parse_line(line)
        if isinstance(event, Progress):
            if event != self._bar:
                self.last_step = self._bar = self._unsent = event
                self.progress_count += 1
        elif isinstance(event, Step):
            return self._events_of_step(event)
        elif isinstance(event, Message):
            return self._say_once(event.text, event.level, event.text)
        return []

    def _say_once(self, what: str, level: str, text: str) -> list[Event]:
        if what in self._said:
            return []
        self._said.add(what)
        return [Message(level, text, self._stage)]

    def _count_rows(self, line: str) -> RowsLoaded | None:
        """Return the rows of the dataset that is being printed, once its line comes."""
        if opened := _DATASET.match(line):
            self._dataset = "train" if opened[1] == "train" else "validation"
        rows = _NUM_ROWS.match(line)
        if not rows or self._dataset is None:
            return None
        side, self._dataset = self._dataset, None
        if side in self._counted:  # it is the trainer's own first word, rows that are printed come later
            return None
        self._counted.add(side)
        return RowsLoaded(side, int(rows[1]), self._stage)

    def _events_of_step(self, step: Step) -> list[Event]:
        if step.step is None and self._bar:
            step = replace(step, step=self._count_steps(step, self._bar), max_steps=self._bar.total)
        self.last_step = step = replace(step, stage=self._stage)
        self.progress_count += 1
        # also of steps that were reported: an adopting supervisor judges all of them
        judged = self._judge(self._health.add(step, 0 if self._reported_steps > 0 else self._look))
        events: list[Event] = [step] if self._reported_steps <= 0 else []
        self._reported_steps -= 1
        return [*events, *judged]

    def _judge(self, problem: LossProblem | None) -> list[Event]:
        """Keep a problem that the recipe wants the training ended for; return a warning of any other."""
        if problem is None:
            return []
        if problem.stops:
            self.fatal = self.fatal or problem
            return []
        return self._say_once(problem.message, "warning", f"{problem.message} ({problem.remedy})")

    def _count_steps(self, step: Step, bar: Progress) -> int:
        epochs = self._arguments.get("num_train_epochs")
        if step.epoch is None or not epochs or self._arguments.get("max_steps", 0) > 0:
            return bar.done
        counted = step.epoch * bar.total / epochs
        return min(bar.total, round(counted)) if math.isfinite(counted) else bar.done
