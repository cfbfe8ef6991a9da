"""Everything that a report writes, byte for byte: the page, report.json, the model card and the terminal's lines.

`ORCH_WRITE_GOLDEN=1 pytest tests/report/test_golden.py` writes the files anew; read the diff.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest

from orchestrator.machine.rundir import RunDir
from orchestrator.report.publish import write_report
from orchestrator.report.wording import build_lines
from tests.report.conftest import build_kind_run, build_run
from tests.report.test_distillation import distil

FOLDER = Path(__file__).with_name("golden")
_CURVE = re.compile(r"(?<=base64,)[A-Za-z0-9+/=]+")  # matplotlib's own; test_curve looks at the picture
_STYLE = re.compile(r"(?<=<style>\n).*?(?=</style>)", re.DOTALL)  # templates/report/page.css as it is


def build_bare_run(root):
    """A run without baselines, training log, verification, ledger, statistics, provenance and recipe."""
    run = build_run(root)
    for name in ("02-baseline-native", "03-baseline-trained-format", "04-train", "06-package"):
        shutil.rmtree(run.stage(name).output)
    for path in (run.stats_json, run.ledger_json, run.provenance_json, run.recipe_yaml):
        path.unlink()
    return run


CASES = {
    "group": build_run,
    "distilled": lambda root: distil(build_run(root)),
    "bare": build_bare_run,
    "retrieval": lambda root: build_kind_run(root, "retrieval"),
    "pair": lambda root: build_kind_run(root, "pair"),
    "chat": lambda root: build_kind_run(root, "chat"),
}


def written(run: RunDir, name: str) -> dict[str, str]:
    """Return {file name: text} of what a report has written, with RUN for the run's folder."""
    summary = write_report(run)
    page = _STYLE.sub("CSS\n", _CURVE.sub("PNG", run.report_html.read_text(encoding="utf-8")))
    texts = {
        f"{name}.html": page,
        f"{name}.json": run.report_json.read_text(encoding="utf-8"),
        f"{name}.card.md": (run.model / "README.md").read_text(encoding="utf-8"),
        f"{name}.txt": "\n".join([*build_lines(summary, "en"), "", *build_lines(summary, "zh"), ""]),
    }
    return {file: text.replace(str(run.root), "RUN") for file, text in texts.items()}


@pytest.mark.parametrize("name", CASES)
def test_a_report_is_byte_for_byte_as_it_was(name, tmp_path):
    found = written(CASES[name](tmp_path / "run"), name)
    if os.environ.get("ORCH_WRITE_GOLDEN"):
        FOLDER.mkdir(exist_ok=True)
        for file, text in found.items():
            (FOLDER / file).write_text(text, encoding="utf-8")
    for file, text in found.items():
        assert text == (FOLDER / file).read_text(encoding="utf-8"), file


def test_the_golden_pages_show_every_section():
    page = (FOLDER / "distilled.html").read_text(encoding="utf-8")
    assert {"Guards", "Negatives in doubt", "Wins and losses"} <= set(re.findall(r"<h2>(.*?)</h2>", page))
    assert json.loads((FOLDER / "bare.json").read_text(encoding="utf-8"))["gaps"]
