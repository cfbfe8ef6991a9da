"""Several processes in one log: who failed first, and what the others say about it. All of these are real runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.logs.diagnose import count_ranks, diagnose, find_first_failed, find_line_number, read_lines, read_tail

CAPTURED = Path(__file__).parent / "captured"


def captured(name):
    return read_tail(CAPTURED / f"failed.{name}.log")


@pytest.mark.parametrize("name", ["shape-mismatch.second-rank", "killed.second-rank", "missing-column.error-file"])
def test_torchruns_summary_says_which_rank_failed_first(name):
    assert find_first_failed(read_lines(captured(name))) == 1


def test_the_first_failure_explains_the_end_and_its_line_names_the_rank():
    text = captured("shape-mismatch.second-rank")
    assert "Connection closed by peer" in text  # what rank 0 said, and later
    found = diagnose(text, 1)
    assert (found.name, found.rank) == ("shape-mismatch", 1)
    assert found.evidence.startswith("[rank1]: RuntimeError: mat1 and mat2")
    assert find_line_number(CAPTURED / "failed.shape-mismatch.second-rank.log", found.evidence)


def test_an_unknown_exception_of_the_first_rank_beats_the_lost_connection_of_another():
    text = captured("shape-mismatch.second-rank").replace("mat1 and mat2 shapes cannot be multiplied", "odd moon")
    found = diagnose(text, 1)
    assert (found.name, found.rank) == ("exception", 1)
    assert "odd moon" in found.cause


def test_a_killed_rank_explains_the_lost_connection_of_the_others():
    text = captured("killed.second-rank")
    assert "by peer" in text  # "Connection reset by peer", or "closed"
    found = diagnose(text, 1)
    assert (found.name, found.rank) == ("killed", 1)


def test_the_processes_that_torchrun_ended_after_a_failure_are_not_its_cause():
    text = captured("shape-mismatch.second-rank")
    assert "(SIGTERM)" in text
    without_words = "\n".join(line for line in text.splitlines() if not line.startswith("[rank"))
    assert diagnose(without_words, 1).name != "ended-by-signal"


def test_a_lost_connection_alone_is_all_that_can_be_said():
    assert diagnose(captured("peer-gone.gloo"), 1).name == "peer-gone"


def test_the_traceback_of_an_error_file_is_read_in_torchruns_summary():
    text = captured("missing-column.error-file")
    assert "error_file: /" in text
    summary = text[text.index("Root Cause") :]
    assert "KeyError: 'pos'" in summary
    found = diagnose(summary, 1)
    assert (found.name, found.cause) == ("missing-column", "a training row has no `pos`")


def test_one_process_alone_needs_no_rank():
    found = diagnose(captured("unknown-argument"), 1)
    assert found.rank is None
    assert not found.evidence.startswith("[rank0]")


def test_a_prefix_of_torchrun_and_one_of_torch_name_the_global_rank():
    line = read_lines("[default1]:[rank9]: KeyError: 'neg'")[0]
    assert (line.text, line.rank) == ("KeyError: 'neg'", 9)


def test_lines_without_a_prefix_are_nobodys():
    lines = read_lines("loading\nstep 1\rstep 2\n")
    assert count_ranks(lines) == 0
    assert find_first_failed(lines) is None
