"""A trainer's log without the rows that it quotes: the logs are captured ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.logs.row_texts import LEFT_OUT, hide_rows

CAPTURED = Path(__file__).parent / "captured"


def test_the_row_that_swift_shows_is_left_out_and_nothing_else():
    log = (CAPTURED / "trained.swift.stderr.log").read_text(encoding="utf-8")
    assert "compensation if the monitoring system itself fails" in log
    kept = [line for line in log.splitlines() if "_INPUT]" not in line]
    hidden = hide_rows(log).splitlines()
    assert [line for line in hidden if LEFT_OUT not in line] == kept
    assert len(hidden) == len(log.splitlines())


def test_a_text_of_several_lines_goes_up_to_the_logger_s_next_line():
    log = "[INFO:swift] [ANCHOR_INPUT] Instruct: find\nQuery:a secret\n\n[INFO] a line of the row\n[INFO:swift] lora_config: x\n"
    assert hide_rows(log) == f"[INFO:swift] [ANCHOR_INPUT] {LEFT_OUT}\n[INFO:swift] lora_config: x\n"


@pytest.mark.parametrize("name", ["INPUT_IDS", "INPUT", "LABELS_IDS", "LABELS", "NEGATIVE0_INPUT", "CHOSEN_LABELS"])
def test_every_name_that_swift_prints_a_row_under(name):
    assert hide_rows(f"[INFO:swift] [{name}] secret") == f"[INFO:swift] [{name}] {LEFT_OUT}\n"


@pytest.mark.parametrize("line", ["[INFO:swift] [rank0] ready\n", "[INFO:swift] max_length: 64\n", "INPUT secret\n"])
def test_other_lines_stay(line):
    assert hide_rows(line) == line
