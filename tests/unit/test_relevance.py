"""One number says which labels are relevant: workers, who cannot import it, have the same."""

from __future__ import annotations

import re
from pathlib import Path

import orchestrator
from orchestrator.data.rows.records import RELEVANT, is_relevant
from orchestrator.workers import cross_encoder_losses

ROOT = Path(orchestrator.__file__).parent


def test_half_a_label_is_relevant_and_less_is_not():
    assert is_relevant(0.5)
    assert not is_relevant(0.49)


def test_workers_draw_the_line_where_everybody_does():
    assert cross_encoder_losses.RELEVANT == RELEVANT


def test_nobody_else_compares_a_label_with_a_number_to_find_the_relevant():
    compares = re.compile(r"\blabel\w*(\[[^]]*\])? *(>=|>|<=|<) *(0\.5|0|RELEVANT)\b(?! *<)")
    files = [path for path in ROOT.rglob("*.py") if "workers" not in path.parts]
    found = [path.name for path in files if compares.search(path.read_text(encoding="utf-8"))]
    assert len(files) > 100
    assert found == ["records.py"]
