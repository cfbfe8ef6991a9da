"""The tail of a failed stage's logs → why it failed, with the line that shows it and what to do.

The rules are ranked from the most to the least useful: the first that matches wins, and of its matches the last line.
Launchers bury the cause: under torchrun the last line is always `====`, and the `[rank0]:` line that says it stands
some thirty lines above. Of several processes, which write into one log, the one that failed first is read first: it
takes the others along, and what they say about a lost connection, often later and in more words, counts only where
nothing else explains the end. torchrun prefixes what an exception hook prints with `[rank1]:`, names the root cause in
its summary at the end, and puts the traceback of an error file there.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from orchestrator.machine.files import IrregularFileError, open_regular
from orchestrator.machine.tables import load_table
from orchestrator.machine.terminal import Language, Text

TAIL_BYTES = 256 << 10
_CHUNK_BYTES = 1 << 20
_PREFIX = re.compile(r"^\s*(?:\[?(?:rank|default)[0-9]{1,9}\]?:\s?)+", re.IGNORECASE)
_NUMBER = re.compile(r"(rank|default)([0-9]{1,9})", re.IGNORECASE)
_NCCL_RANK = re.compile(r"^\[E.*?\[(?:PG .*?)?Rank ([0-9]{1,9})\]")  # ProcessGroupNCCL's own lines, without a prefix
_ROOT_CAUSE = "Root Cause (first observed failure):"
_OTHER_FAILURES = "Failures:"
_SUMMARY_RANK = re.compile(r"^\s+rank\s*: ([0-9]{1,9}) ")
_SUMMARY_END = re.compile(r"^={4,}$")
_LONGEST_LINE = 1 << 12  # characters: a row that a message quotes; what is wrong stands at the beginning
_INLINE_TRACEBACK = re.compile(r"^\s+traceback : (Traceback \(most recent call last\):)$")


def read_tail(path: Path, offset: int = 0) -> str:
    """Return the end of a log, at most `TAIL_BYTES`, nothing from before `offset` (an earlier attempt's text)."""
    try:
        with open_regular(path) as stream:
            size = stream.seek(0, 2)
            begin = offset if offset <= size else 0  # somebody emptied the log meanwhile
            stream.seek(max(begin, size - TAIL_BYTES))
            return stream.read().decode("utf-8", errors="replace")
    except (FileNotFoundError, IrregularFileError):
        return ""


def find_line_number(path: Path, evidence: str) -> int | None:
    """Return the number (from 1, as editors count) of the last line in a log's tail that holds `evidence`."""
    before, found, _ = read_tail(path).rpartition(evidence)
    if not found:
        return None
    return count_line_ends(path, max(0, path.stat().st_size - TAIL_BYTES)) + before.count("\n") + 1


def count_line_ends(path: Path, most_bytes: int | None = None) -> int:
    """Return how many lines end in the file, or in its first `most_bytes`; 0 where there is no file.

    A log of bars may hold gigabytes without one line end, so it is never read as lines.
    """
    count = 0
    with suppress(FileNotFoundError, IrregularFileError), open_regular(path) as stream:
        left = path.stat().st_size if most_bytes is None else most_bytes
        while chunk := stream.read(min(_CHUNK_BYTES, left)):
            count += chunk.count(b"\n")
            left -= len(chunk)
    return count


@dataclass(frozen=True)
class Line:
    """One line: `text` without the rank's prefix, `raw` as the log has it, `rank` None where nobody says it."""

    text: str
    raw: str
    rank: int | None


def read_lines(text: str) -> list[Line]:
    """Return the lines of a log; a progress bar's returns end lines too."""
    lines = [_read(line[:_LONGEST_LINE].rstrip()) for line in re.split(r"[\r\n]+", text)]
    return _read_summary(lines)


def find_first_failed(lines: Sequence[Line]) -> int | None:
    """Return the rank that torchrun saw fail first; without its word, the first that printed a traceback."""
    for number in range(len(lines) - 1, -1, -1):
        if lines[number].text == _ROOT_CAUSE:
            return _rank_of_summary(lines[number:])
    return next((line.rank for line in lines if line.rank is not None and line.text.startswith("Traceback (")), None)


def count_ranks(lines: Sequence[Line]) -> int:
    """Return how many ranks have said something."""
    return len({line.rank for line in lines} - {None})


def _read(raw: str) -> Line:
    if not (prefix := _PREFIX.match(raw)):
        own = _NCCL_RANK.match(raw)
        return Line(raw, raw, int(own[1]) if own else None)
    numbers = _NUMBER.findall(prefix[0])
    rank = next((number for kind, number in numbers if kind.lower() == "rank"), numbers[-1][1])
    return Line(raw[prefix.end() :], raw, int(rank))


def _read_summary(lines: list[Line]) -> list[Line]:
    """Read torchrun's summary: the root cause's lines get their rank, its indented traceback the form of any other.

    The failures above it are emptied: torchrun ended these processes itself, and says so as if they had failed.
    """
    if not (starts := [number for number, line in enumerate(lines) if line.text == _ROOT_CAUSE]):
        return lines
    start = starts[-1]
    rank = _rank_of_summary(lines[start:])
    others = next((n for n in range(start, -1, -1) if lines[n].text == _OTHER_FAILURES), start)
    end = next((n for n in range(start, len(lines)) if _SUMMARY_END.match(lines[n].text)), len(lines))
    traceback = next((n for n in range(start, end) if _INLINE_TRACEBACK.match(lines[n].text)), end)
    inline = (_INLINE_TRACEBACK.sub(r"\1", line.text).removeprefix("  ") for line in lines[traceback:end])
    texts = [*(line.text for line in lines[start:traceback]), *inline]
    cause = [Line(text, line.raw, rank) for text, line in zip(texts, lines[start:end], strict=True)]
    return [*lines[:others], *(Line("", line.raw, None) for line in lines[others:start]), *cause, *lines[end:]]


def _rank_of_summary(lines: Sequence[Line]) -> int | None:
    return next((int(match[1]) for line in lines if (match := _SUMMARY_RANK.match(line.raw))), None)


RULES = Path(__file__).with_name("rules.yaml")

KILLED_CODES = frozenset({-9, 137, 247})  # signal 9 as Python, a shell and ms-swift report it
CRASHED_CODES = frozenset({-11, 139, 245, -6, 134, 250})  # SEGV and ABRT, likewise
FALLBACKS = frozenset({"exception", "error-line", "last-line", "silent"})  # no rule explains the end
_FRAMES_ABOVE = 60  # a traceback of transformers under a trainer has some forty lines
_LAUNCHER_NOISE = re.compile(
    r"ChildFailedError|SignalException|={4,}|-{4,}|^\s*(?:time|host|rank|exitcode|error_file|traceback)\s*:"
)
_RAISE = re.compile(r"^[\W\d]*raise\b(?! your\b)")  # a frame's source line, also in a box: `│ 20 │   raise …`
_PROGRESS = re.compile(r"\d%\||^\{'\w+': ")  # most of a tail: bars and metrics, which no rule reads


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A row of rules.yaml, which says what its keys mean."""

    name: str
    pattern: re.Pattern[str]
    cause: Text
    remedy: Text
    frames: re.Pattern[str] | None = None
    secondary: bool = False
    outside_run: Text | None = None
    patch: tuple[str, ...] | str = ()
    capture: str | None = None
    fault: Literal["node", "passing"] | None = None


def load_rules(path: Path = RULES) -> tuple[Rule, ...]:
    """Return the rules of a file, ranked."""
    return load_table(path, Rule)


def find_rule(name: str) -> Rule | None:
    """Return the rule of that name; None for a fallback, or where a later version has named it."""
    return next((rule for rule in load_rules() if rule.name == name), None)


@dataclass(frozen=True)
class Diagnosis:
    """Why a stage failed. `name` is the same in every language.

    `evidence` is the log's own line, with its rank where several have spoken; None when the logs say nothing. `rank` is
    the process that said it, where there are several.
    """

    name: str
    cause: str
    remedy: str
    evidence: str | None = None
    rank: int | None = None


# The fallbacks: an exception's own line. A frame's source line is indented, an exception's line is not.
_EXCEPTION = re.compile(r"^(?:[\w]+\.)*[A-Z]\w*(?:Error|Exception|Warning|Interrupt|Failed|Invalid\w*)\b(?::.*)?$")
_SAYS_ERROR = re.compile(r"\b(?:error|fatal|cannot|failed)\b", re.IGNORECASE)
_READ_THERE = Text("read the log around that line", "查看日志中该行前后的内容")
_ENDED_AFTER = Text("it ended after saying: {0}", "结束前的最后输出：{0}")
_SILENT = Text("it ended without a word", "结束时没有任何输出")
_RUN_BY_HAND = Text("run its command.sh by hand (exit code {0})", "手动运行其 command.sh（退出码 {0}）")


def diagnose(
    text: str,
    exit_code: int | None = None,
    language: Language = "en",
    *,
    in_run: bool = True,
    rules: Sequence[Rule] | None = None,
) -> Diagnosis:
    """Return the best explanation of a failure. `text` is the end of stdout, a line end, and the end of stderr.

    Not `in_run`, a command has started it: the remedy speaks of no recipe and no run. `rules` stand in for rules.yaml.
    """
    rules = load_rules() if rules is None else rules
    consequences = [rule for rule in rules if rule.secondary]
    lines = read_lines(text)
    several = count_ranks(lines) > 1
    said = [number for number, line in enumerate(lines) if is_said(line.text)]
    groups = [said]
    if several and (first := find_first_failed(lines)) is not None:
        groups = [[number for number in said if lines[number].rank in {first, None}], said]

    def explain(rule: Rule, cause: str, *shown: Any) -> Diagnosis:
        remedy = rule.remedy if in_run or rule.outside_run is None else rule.outside_run
        return Diagnosis(rule.name, cause, remedy.say(language), *shown)

    def explain_code(name: str) -> Diagnosis:
        rule = next(rule for rule in rules if rule.name == name)
        return explain(rule, rule.cause.say(language).replace("{any}", str(exit_code)))

    found = _match([rule for rule in rules if not rule.secondary], groups, lines)
    if found is None and exit_code in KILLED_CODES:
        return explain_code("killed")
    if found is None and (line := _find_exception(groups, lines, consequences)):
        return Diagnosis("exception", _complete(line, lines), _READ_THERE.say(language), *_show(line, several=several))
    if found := found or _match(consequences, groups, lines):
        rule, match, line = found
        return explain(rule, _fill(rule.cause.say(language), match), *_show(line, several=several))
    if exit_code in CRASHED_CODES:
        return explain_code("crashed")
    return _fall_back([lines[number].text for number in said], exit_code, language)


def is_said(line: str) -> bool:
    """Tell whether the line is neither progress nor a traceback's frame: frames quote messages that were not raised."""
    return not (line.startswith(("  File ", "    ")) or _RAISE.match(line) or _PROGRESS.search(line))


def _match(
    rules: Sequence[Rule], groups: Sequence[Sequence[int]], lines: Sequence[Line]
) -> tuple[Rule, re.Match[str], Line] | None:
    """Return the first rule that matches: in the lines of the first group, else in those of the next."""
    for group in groups:
        text = "\n".join(lines[number].text for number in group)  # one search tells that most rules match no line
        for rule in rules:
            for number in reversed(group) if rule.pattern.search(text) else ():
                match = rule.pattern.search(lines[number].text)
                above = lines[max(0, number - _FRAMES_ABOVE) : number]
                if match and (rule.frames is None or any(rule.frames.search(line.text) for line in above)):
                    return rule, match, lines[number]
    return None


def _find_exception(
    groups: Sequence[Sequence[int]], lines: Sequence[Line], consequences: Sequence[Rule]
) -> Line | None:
    """Return the last line that is an exception's, and no mere consequence."""
    for group in groups:
        for number in reversed(group):
            text = lines[number].text
            own = _EXCEPTION.search(text) and not _LAUNCHER_NOISE.search(text)
            if own and not any(rule.pattern.search(text) for rule in consequences):
                return lines[number]
    return None


def _complete(line: Line, lines: Sequence[Line]) -> str:
    """Return what an exception says, also where its message begins on the next line only."""
    said = line.text.strip()
    if not said.endswith(":"):
        return said
    after = (other.text.strip() for other in lines[lines.index(line) + 1 :] if other.rank == line.rank)
    return f"{said} {next(filter(None, after), '')}".strip()


def _fill(cause: str, match: re.Match[str]) -> str:
    """Put what the pattern found into a cause: {1}, {2} are its groups, {any} the first of them that matched."""
    groups = [(group or "").strip() for group in match.groups()]
    cause = cause.replace("{any}", next((group for group in groups if group), match[0].strip()))
    for number, group in enumerate(groups, 1):
        cause = cause.replace(f"{{{number}}}", group)
    return cause


def _show(line: Line, *, several: bool) -> tuple[str, int | None]:
    """Return the evidence and its rank; of one process alone the rank says nothing."""
    return (line.raw.strip(), line.rank) if several else (line.text.strip(), None)


def _fall_back(said: Sequence[str], exit_code: int | None, language: Language) -> Diagnosis:
    said = [line.strip() for line in said if line.strip() and not _LAUNCHER_NOISE.search(line)]
    if line := next((line for line in reversed(said) if _SAYS_ERROR.search(line)), None):
        return Diagnosis("error-line", line, _READ_THERE.say(language), line)
    if said:
        cause = _ENDED_AFTER.say(language).format(said[-1])
        return Diagnosis("last-line", cause, _READ_THERE.say(language), said[-1])
    return Diagnosis("silent", _SILENT.say(language), _RUN_BY_HAND.say(language).format(exit_code))
