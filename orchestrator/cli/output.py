"""How results and errors are printed: text for people, one versioned JSON envelope for programs."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from itertools import zip_longest
from typing import Any

import click

from orchestrator.errors import OrchError, Problem
from orchestrator.machine.terminal import Language, Text, clean, current_language, print_data, say, say_lines

ENVELOPE_VERSION = 1
# The words that `orch` puts around messages; JSON has the English ones whatever the language.
_CHINESE = {
    "error": "错误",
    "recipe": "配方",
    "data": "数据",
    "environment": "环境",
    "render": "渲染",
    "stage failed": "阶段失败",
    "stalled": "停滞",
    "gate missed": "未达门槛",
    "run folder": "运行目录",
    "taken away": "被收回",
    "interrupted": "已中断",
}
TITLES = {title: Text(title, chinese) for title, chinese in _CHINESE.items()}
PROBLEMS = Text("{0} problems", "{0} 个问题")
NOTE = Text("note", "提示")
INTERRUPTED = Text("interrupted", "已中断")


@dataclass(frozen=True)
class Result:
    """What a command has to say: `data` for programs, and for people `text`, as lines or what prints it."""

    data: Any
    text: Iterable[str] | Callable[[], None] = ()
    exit_code: int = 0


def prints(name: str) -> Callable[[Callable[..., Result]], Callable[..., None]]:
    """Give a command the option --json, and print the `Result` that it returns as text or as envelope.

    The command is told `as_json` only where it takes it.
    """

    def decorate(command: Callable[..., Result]) -> Callable[..., None]:
        asks = "as_json" in inspect.signature(command).parameters

        @functools.wraps(command)
        def run(*, as_json: bool, **options: Any) -> None:
            result = command(**options, as_json=as_json) if asks else command(**options)
            if as_json:
                print_data({"version": ENVELOPE_VERSION, "command": name, "ok": True, "data": result.data})
            elif callable(result.text):
                result.text()
            else:
                say_lines(result.text)
            if result.exit_code:
                raise click.exceptions.Exit(result.exit_code)

        return click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")(run)

    return decorate


def tell(text: str) -> None:
    """Say what goes on, on stderr."""
    say(f"orch: {text}", err=True)


def print_error(error: OrchError, *, as_json: bool) -> None:
    """Print an error: on stderr for people, as an envelope on stdout for programs."""
    if not as_json:
        say(format_error(error), err=True)
        return
    problems = [
        {"name": one.name, "message": one.message, "hint": one.hint, "where": one.where and asdict(one.where)}
        for one in error.problems
    ]
    body = {"exit_code": error.exit_code, "title": error.title, "problems": problems}
    print_data({"version": ENVELOPE_VERSION, "ok": False, "error": body})


def format_error(error: OrchError, language: Language | None = None) -> str:
    """Return an error as text: one line a problem, the place first, and the remedy indented below.

    Problems that follow one another with the same remedy, as bad rows do, share it: it stands below the last of them.
    """
    language = language or current_language()
    title = _head(TITLES.get(error.title, Text(error.title, error.title)), language)
    several = len(error.problems) > 1
    lines = [f"{title}{PROBLEMS.say(language).format(len(error.problems))}"] if several else []
    for problem, following in zip_longest(error.problems, error.problems[1:]):
        is_last = following is None or following.hint != problem.hint
        lines += _problem_lines("" if several else title, problem, with_hint=is_last)
    return "\n".join(lines)


def format_advice(problem: Problem, language: Language | None = None) -> str:
    """Return one piece of advice as text, like an error's problem."""
    language = language or current_language()
    return clean("\n".join(_problem_lines(_head(NOTE, language), problem, with_hint=True)))


def _head(title: Text, language: Language) -> str:
    """Return what stands in front of a message."""
    return title.say(language) + ("：" if language == "zh" else ": ")


def _problem_lines(head: str, problem: Problem, *, with_hint: bool) -> list[str]:
    place = f"{problem.where}: " if problem.where else ""
    hints = (problem.hint or "").splitlines() if with_hint else ()
    return [f"{head}{place}{problem.message}", *(f"    → {line}" for line in hints)]
