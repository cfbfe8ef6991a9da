"""What the tools printed where a trap takes minutes or several processes: the logs in captured/."""

from __future__ import annotations

import re
from pathlib import Path

from orchestrator.logs.events import Step
from orchestrator.logs.live import parse_line

CAPTURED = Path(__file__).with_name("captured")


def read_log(name: str) -> str:
    return (CAPTURED / name).read_text(encoding="utf-8")


def read_losses(name: str) -> dict[str, list[float | None]]:
    """Return the losses of each call in a log, by its title: what the call was given."""
    titles_and_texts = re.split(r"^## (.+)\n", read_log(name), flags=re.MULTILINE)[1:]
    calls = zip(titles_and_texts[::2], titles_and_texts[1::2], strict=True)
    return {title: _list_losses(text) for title, text in calls}


def _list_losses(text: str) -> list[float | None]:
    return [event.loss for line in text.splitlines() if isinstance(event := parse_line(line), Step)]
