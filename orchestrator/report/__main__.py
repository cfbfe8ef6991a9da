"""`python -m orchestrator.report RUN`: writes a run's report, prints the verdict, exits 8 when the gate is missed."""

from __future__ import annotations

import sys
from pathlib import Path

from orchestrator.errors import GateMissedError, OrchError
from orchestrator.machine.rundir import RunDir
from orchestrator.machine.terminal import say
from orchestrator.report.publish import write_report
from orchestrator.report.wording import build_lines

_USAGE = 2


def main(argv: list[str]) -> int:
    """Report on the run folder `argv[0]`; return 0, 8 for a missed gate, or the exit code of the error."""
    if len(argv) != 1:
        say("usage: python -m orchestrator.report RUN", err=True)
        return _USAGE
    run = RunDir(Path(argv[0]).resolve())
    try:
        summary = write_report(run)
    except OrchError as error:
        for problem in error.problems:
            say(f"{error.title}: {problem.message}", err=True)
            for note in (problem.where, problem.hint):
                if note:
                    say(f"  {note}", err=True)
        return error.exit_code
    say("\n".join([*build_lines(summary), f"report: {run.report_html}"]))
    return GateMissedError.exit_code if summary["gate"]["passed"] is False else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
