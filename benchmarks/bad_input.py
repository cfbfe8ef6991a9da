"""What Orch says to bad input: every case of tests/bad_input as a process of its own, in a Markdown table.

`python benchmarks/bad_input.py [id …]` prints input → exit code, CPU seconds, the message's line, and a summary by
kind. A run of all cases also puts the summary into benchmarks/README.md and its total into the READMEs; it ends with 1
when a case was not refused as the table asks. CPU time is that of the command and all that it starts, from the start of
Python on: on a shared machine wall time says how busy the others are.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.bad_input.cases import CASES, KINDS  # noqa: E402  (the repository's root is no package of the environment)

if TYPE_CHECKING:
    from tests.bad_input.case import BadInput

ORCH = str(Path(sys.executable).with_name("orch"))
TOTAL = "{} inputs, {} refused before training with file and remedy, {} tracebacks."
# The pages that the answers stand in: the table, or the total alone, in the page's language.
TABLE_PAGE = ROOT / "benchmarks" / "README.md"
TOTALS = {
    ROOT / "README.md": TOTAL,
    ROOT / "README.zh-CN.md": "共 {} 个，{} 个在训练之前被拒绝并指出文件和办法，traceback {} 个。",
}
BEGIN, END = "<!-- bad input -->", "<!-- /bad input -->"
LONGEST_LINE = 110


@dataclass(frozen=True)
class Answer:
    """How one bad input was answered."""

    case: BadInput
    exit_code: int
    seconds: float
    said: str

    @property
    def faults(self) -> list[str]:
        return self.case.find_faults(self.exit_code, self.said)

    @property
    def first_line(self) -> str:
        """The message's first line: behind what a run says before it, and without a heading that only counts."""
        lines = [line for line in self.said.splitlines() if line.strip() and not line.startswith("Usage:")]
        with_place = [line for line in lines if self.case.says in line or (self.case.where and self.case.where in line)]
        line = (with_place or lines or [""])[0].strip()
        return line if len(line) <= LONGEST_LINE else line[: LONGEST_LINE - 1] + "…"


def answer(case: BadInput) -> Answer:
    with tempfile.TemporaryDirectory() as folder:
        case.write(Path(folder))
        argv = [ORCH, *case.argv]
        begin = _cpu_seconds()
        env = {**os.environ, "ORCH_LANG": "en"}
        done = subprocess.run(argv, cwd=folder, env=env, capture_output=True, check=False, timeout=120)
        seconds = _cpu_seconds() - begin
        said = (done.stdout + done.stderr).decode("utf-8", "replace").replace(str(Path(folder).resolve()), "…")
    return Answer(case, done.returncode, seconds, said)


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def summarise(answers: list[Answer]) -> str:
    """Return a table by kind: how many, how many were refused as they should be, with which codes, the slowest."""
    lines = ["| bad input | inputs | refused | exit codes | slowest, CPU seconds |", "|---|---|---|---|---|"]
    for kind, cases in KINDS.items():
        ids = {case.id for case in cases}
        found = [answer for answer in answers if answer.case.id in ids]
        if not found:
            continue
        codes = ", ".join(map(str, sorted({answer.exit_code for answer in found})))
        refused = sum(not answer.faults for answer in found)
        slowest = max(answer.seconds for answer in found)
        lines.append(f"| {kind} | {len(found)} | {refused} | {codes} | {slowest:.2f} |")
    return "\n".join([*lines, "", count_answers(answers, TOTAL)])


def count_answers(answers: list[Answer], total: str) -> str:
    right = sum(not found.faults for found in answers)
    tracebacks = sum("Traceback" in found.said or "a bug in Orch" in found.said for found in answers)
    return total.format(len(answers), right, tracebacks)


def keep(answers: list[Answer]) -> None:
    """Put the summary of the whole table, or its total, into the pages that have a place for it."""
    totals = {page: count_answers(answers, total) for page, total in TOTALS.items()}
    for page, text in {TABLE_PAGE: summarise(answers), **totals}.items():
        head, rest = page.read_text(encoding="utf-8").split(BEGIN)
        page.write_text(f"{head}{BEGIN}\n\n{text}\n\n{END}{rest.split(END)[1]}", encoding="utf-8")


def main() -> int:
    asked = set(sys.argv[1:])
    cases = [case for case in CASES if not asked or case.id in asked]
    cases = [case for case in cases if not (case.needs_user and os.geteuid() == 0)]
    print("| the user … | exit code | CPU seconds | message |\n|---|---|---|---|")
    answers = []
    for case in cases:
        found = answer(case)
        answers.append(found)
        line = found.first_line.replace("|", "\\|").replace("`", "'")
        print(f"| {case.story} | {found.exit_code} | {found.seconds:.2f} | `{line}` |", flush=True)
    print(f"\n{summarise(answers)}")
    if not asked:
        keep(answers)
    wrong = [found for found in answers if found.faults]
    for found in wrong:
        print(f"NOT AS ASKED {found.case.id}: {'; '.join(found.faults)}\n{found.said}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
