"""What a run looks like while it runs: the panel fits the terminal, plain lines say what matters."""

from __future__ import annotations

import pytest
from rich.console import Console

from orchestrator.cli.progress import LivePanel, PlainLines, show_seconds
from orchestrator.logs.events import Message, Progress, StageFinished, StageStarted, Step
from orchestrator.recipe.plan import plan_from_json
from tests.golden.regenerate import build_case


@pytest.fixture(scope="module")
def plan():
    return plan_from_json(build_case("qwen3_reranker.gpu")["plan.json"])


def draw(plan, width: int) -> list[str]:
    panel = LivePanel(plan, Console(width=width, force_terminal=True, color_system=None))
    panel(StageStarted("01-prepare", 1, 1))
    panel(StageFinished("01-prepare", "done", 0, 12.3))
    panel(StageStarted("04-train", 1, 1))
    panel(Step(step=230, max_steps=480, loss=0.9345, learning_rate=1.2e-4, stage="04-train"))
    with panel.console.capture() as captured:
        panel.console.print(panel._draw())
    return captured.get().splitlines()


@pytest.mark.parametrize("width", [80, 100, 140])
def test_the_panel_has_one_line_a_stage_at_any_width(plan, width):
    lines = draw(plan, width)
    assert len(lines) == len(plan.stages)
    assert all(len(line) <= width for line in lines)
    assert lines[0].startswith("✓ 01-prepare")
    assert "230/480" in lines[3]
    assert "loss 0.9345" in lines[3]


def test_plain_lines_say_the_start_the_end_and_what_went_wrong(plan, capsys):
    listener = PlainLines(plan)
    listener(StageStarted("04-train", 1, 1))
    listener(Progress(3, 10, "04-train"))
    listener(Message("warning", "the loss is NaN", "04-train"))
    listener(StageFinished("04-train", "done", 0, 185.0))
    assert capsys.readouterr().err.splitlines() == [
        "04-train: Fine-tune with flagembedding and LoRA: 2 processes, 8 rows a step",
        "04-train: the loss is NaN",
        "04-train: done in 3m 05s",
    ]


def test_durations_read_as_people_say_them():
    assert [show_seconds(seconds) for seconds in (8.2, 185, 7800)] == ["8s", "3m 05s", "2h 10m"]
