from __future__ import annotations

from orchestrator.workers.environment import Progress


def test_lines_come_at_most_once_a_second_and_always_at_the_end(capsys):
    times = iter([0.0, 0.1, 0.2, 1.3, 1.4])
    progress = Progress(total=50, clock=lambda: next(times))
    for _ in range(5):
        progress.advance(10)
    assert capsys.readouterr().out.splitlines() == ["orch-progress 10/50", "orch-progress 40/50", "orch-progress 50/50"]
