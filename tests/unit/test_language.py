"""Which language Orch speaks, and that programs are not told another."""

from __future__ import annotations

import json
import os
import re

import pytest

from orchestrator.cli import output
from orchestrator.errors import OrchError, Problem, StageFailedError, Where
from orchestrator.machine.terminal import Text, choose_language, current_language
from orchestrator.report import wording as report_wording
from orchestrator.run import failures as supervision

CATALOGUES = (output, report_wording, supervision)


@pytest.mark.parametrize(
    ("environment", "language"),
    [
        ({}, "en"),
        ({"ORCH_LANG": "zh"}, "zh"),
        ({"ORCH_LANG": "zh_CN", "LANG": "en_US.UTF-8"}, "zh"),
        ({"ORCH_LANG": "en", "LANG": "zh_CN.UTF-8"}, "en"),
        ({"ORCH_LANG": "fr", "LANG": "zh_CN.UTF-8"}, "en"),
        ({"ORCH_LANG": "", "LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_TW.UTF-8"}, "zh"),
        ({"LC_ALL": "C", "LANG": "zh_CN.UTF-8"}, "en"),
        ({"LC_MESSAGES": "zh_CN", "LANG": "en_US"}, "zh"),
        ({"LC_ALL": "", "LC_MESSAGES": "", "LANG": "C.UTF-8"}, "en"),
    ],
)
def test_orch_lang_chooses_then_the_locale_and_english_is_the_rest(environment, language):
    before = dict(environment)
    assert choose_language(environment) == language
    assert environment == before


def texts():
    for module in CATALOGUES:
        for name, value in vars(module).items():
            found = value.values() if isinstance(value, dict) else [value]
            yield from ((f"{module.__name__}.{name}", text) for text in found if isinstance(text, Text))


def test_every_word_has_both_languages_with_the_same_places_to_fill():
    found = list(texts())
    assert len(found) > 30
    for name, text in found:
        places = [
            sorted(re.findall(r"\{(\w*)[:}]", words.replace("{{", "").replace("}}", "")))
            for words in (text.en, text.zh)
        ]
        assert places[0] == places[1], name
        assert re.search(r"[\u4e00-\u9fff]", text.zh), name
        assert not re.search(r"[\u4e00-\u9fff][,;!?]", text.zh), name


def test_every_title_of_an_error_has_a_translation():
    for kind in (OrchError, *OrchError.__subclasses__()):
        assert output.TITLES[kind.title].zh != kind.title
        assert output.TITLES[kind.title].en == kind.title


def test_an_error_is_printed_in_the_chosen_language():
    error = StageFailedError("训练失败", hint="换用更小的批", where=Where("a.log", 3))
    assert output.format_error(error, "zh") == "阶段失败：a.log:3: 训练失败\n    → 换用更小的批"
    several = OrchError.from_problems([Problem("x"), Problem("y")])
    assert output.format_error(several, "zh").splitlines()[0] == "错误：2 个问题"
    assert output.format_error(several, "en").splitlines()[0] == "error: 2 problems"
    assert output.format_advice(Problem("x"), "zh") == "提示：x"


def test_problems_that_follow_one_another_share_a_remedy():
    rows = [Problem(f"row {row}", "convert it") for row in (1, 2)]
    error = OrchError.from_problems([*rows, Problem("row 3", "drop it"), Problem("row 4", "convert it")])
    assert output.format_error(error, "en").splitlines()[1:] == [
        "row 1",
        "row 2",
        "    → convert it",
        "row 3",
        "    → drop it",
        "row 4",
        "    → convert it",
    ]


def test_orch_lang_reaches_the_terminal(monkeypatch, capsys):
    monkeypatch.setenv("ORCH_LANG", "zh")
    output.print_error(StageFailedError("x"), as_json=False)
    assert capsys.readouterr().err == "阶段失败：x\n"


def test_the_language_is_only_read_and_children_inherit_what_the_user_has(monkeypatch):
    monkeypatch.setenv("ORCH_LANG", "zh")
    before = dict(os.environ)
    assert current_language() == "zh"
    output.format_error(StageFailedError("x"))
    assert dict(os.environ) == before


def test_json_has_english_titles_and_names_in_every_language(monkeypatch, capsys):
    monkeypatch.setenv("ORCH_LANG", "zh")
    output.print_error(StageFailedError("显存不足", name="cuda-out-of-memory"), as_json=True)
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["title"] == "stage failed"
    assert error["problems"][0]["name"] == "cuda-out-of-memory"


SUMMARY = {
    "name": "demo",
    "verdict": "better",
    "headline": "nDCG@10 rose from 0.412 to 0.873: +0.461 [+0.394, +0.531], p < 0.001, 60 queries",
    "unit": "query",
    "metrics": {"names": [], "headline": "ndcg@10", "systems": []},
    "comparisons": [
        {"metric": "ndcg@10", "before": 0.412, "after": 0.873, "difference": 0.461, "low": 0.394, "high": 0.531,
         "p": 0.0001, "units": 60, "verdict": "better"}
    ],
    "teacher": None,
    "guards": [],
    "gate": {"rules": [{"passed": False, "sentence": "ndcg@10 > 0.9"}]},
    "cautions": ["few"],
    "gaps": [],
}  # fmt: skip


def test_the_verdict_is_told_in_chinese():
    from orchestrator.report.wording import build_lines

    assert build_lines(SUMMARY, "zh") == [
        "demo: 变好",
        "nDCG@10 由 0.412 升至 0.873：+0.461 [+0.394, +0.531]，p < 0.001，60 个查询",
        "未达门槛：ndcg@10 > 0.9",
        "注意：few",
    ]
    assert build_lines(SUMMARY)[:2] == ["demo: better", SUMMARY["headline"]]
