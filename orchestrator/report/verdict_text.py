"""The verdict on the terminal: the frame words in both languages, and the headline sentence in Chinese."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from orchestrator.evaluation.measures import display_name
from orchestrator.evaluation.paired import BETTER, NO_DIFFERENCE, NOT_COMPARED, WORSE
from orchestrator.machine.language import Language, Text
from orchestrator.report.wording import figure, interval, p_value, signed

VERDICTS = {
    BETTER: Text(BETTER, "变好"),
    WORSE: Text(WORSE, "变差"),
    NO_DIFFERENCE: Text(NO_DIFFERENCE, "无可测差异"),
    NOT_COMPARED: Text(NOT_COMPARED, "未比较"),
}
GATE = {True: Text("gate passed: {0}", "门槛通过：{0}"), False: Text("gate MISSED: {0}", "未达门槛：{0}")}
GUARD = Text("guard {0}: {1} {2} to {3}: {4}", "防退化检查 {0}：{1} 由 {2} 到 {3}：{4}")
CAUTION = Text("caution: {0}", "注意：{0}")
MISSING = Text("missing: {0}", "缺失：{0}")
_UNITS = {"query": "个查询", "pair": "个句对", "row": "行"}


def say_verdict(word: str, language: Language) -> str:
    """Return the one word of a comparison; one without a translation stays as it is."""
    return VERDICTS.get(word, Text(word, word)).say(language)


def say_headline(summary: Mapping[str, Any], language: Language) -> str:
    """Return the headline of a report.json; what was not compared is told in English, as the report has it."""
    first = next(iter(summary["comparisons"]), None)
    english: str = summary["headline"]
    if language == "en" or first is None or first["metric"] != summary["metrics"]["headline"]:
        return english
    name, before, after = display_name(first["metric"]), figure(first["before"]), figure(first["after"])
    evidence = (
        f"{signed(first['difference'])} {interval(first['low'], first['high'])}，{p_value(first['p'])}，"
        f"{first['units']:,} {_UNITS[summary['unit']]}"
    )
    if first["verdict"] == NO_DIFFERENCE:
        return f"{name} 无可测差异，微调前 {before}，微调后 {after}：{evidence}"
    moved = "升至" if first["difference"] > 0 else "降至"
    return f"{name} 由 {before} {moved} {after}：{evidence}"
