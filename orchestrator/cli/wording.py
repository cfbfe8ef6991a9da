"""The words that `orch` puts around messages, in both languages; JSON has the English ones whatever the language."""

from __future__ import annotations

from orchestrator.machine.language import Language, Text

_TITLES = {
    "error": "错误",
    "recipe": "配方",
    "data": "数据",
    "environment": "环境",
    "render": "渲染",
    "stage failed": "阶段失败",
    "stalled": "停滞",
    "gate missed": "未达门槛",
    "run folder": "运行目录",
    "interrupted": "已中断",
}
PROBLEMS = Text("{0} problems", "{0} 个问题")
NOTE = Text("note", "提示")
INTERRUPTED = Text("interrupted", "已中断")


def say_title(title: str, language: Language) -> str:
    """Return an error's title; one without a translation stays as it is."""
    return Text(title, _TITLES.get(title, title)).say(language)


def colon(language: Language) -> str:
    """Return what stands between a title and its message."""
    return "：" if language == "zh" else ": "
