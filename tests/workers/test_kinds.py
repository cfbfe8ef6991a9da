"""A kind of model from outside: a module with the functions of `Kind`, a template, and one row."""

# ruff: noqa: ARG002  the functions of a kind take what others need

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.workers import kinds, package
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.kinds import Described
from orchestrator.workers.verification_checks import Check
from tests.workers.conftest import package_arguments, write_spec

CARD = "# A {{ colour }} model from {{ base | code }}\n\n<!-- orch:results -->\n"


@dataclass(frozen=True)
class Painter:
    """A kind whose models have a colour."""

    seen: str = "green"

    def parse(self, request):
        return SimpleNamespace(trust_remote_code=False, colour=request.raw_spec["colour"])

    def prepare(self, request, spec, folder):
        (folder / "colour.txt").write_text(spec.colour, encoding="utf-8")
        return spec

    def observe(self, subject):
        return SimpleNamespace(missing=(), colour=self.seen)

    def compare(self, subject, seen, scan):
        same = seen.colour == subject.colour
        return [Check("colour", same, f"it is {seen.colour}, and was trained to be {subject.colour}", {"looked": 1})]

    def report(self, subject, seen):
        return {"probes": [seen.colour]}

    def describe(self, subject, seen, report):
        return Described("painting", {"colour": subject.colour}, {"colour_seen": report["probes"][0]})


@pytest.fixture
def trained(tuned_decoder, tmp_path, monkeypatch):
    """Return a model whose spec is of a kind that this file adds."""
    cards = shutil.copytree(package.CARDS, tmp_path / "cards")
    (cards / "painting.md.jinja").write_text(CARD, encoding="utf-8")
    monkeypatch.setattr(package, "CARDS", cards)
    monkeypatch.setitem(kinds.KINDS, "painting", "painter")
    monkeypatch.setitem(sys.modules, "orchestrator.workers.kinds.painter", Painter())
    write_spec(tmp_path / "spec.json", scorer="painting", colour="green")
    return SimpleNamespace(**{**vars(tuned_decoder), "adapter": None, "scoring": tmp_path / "spec.json"})


def test_a_kind_is_packaged_by_the_one_driver(trained, eval_file, tmp_path):
    assert package.main(package_arguments(trained, eval_file, tmp_path / "out", device="cpu")) == 0
    assert (tmp_path / "out" / "README.md").read_text(encoding="utf-8") == (
        "# A green model from `decoder`\n\n<!-- orch:results -->\n"
    )
    described = json.loads((tmp_path / "out" / "scoring.json").read_text(encoding="utf-8"))
    assert (described["scorer"], described["base_model"], described["colour_seen"]) == ("painting", "decoder", "green")
    assert {"colour.txt", "model.safetensors"} <= {*described["files"]}
    report = json.loads((tmp_path / "out.verification.json").read_text(encoding="utf-8"))
    assert [check["name"] for check in report["checks"]] == ["weights", "complete", "colour"]
    assert report["passed"]


def test_a_kind_whose_check_fails_leaves_a_report_only(trained, eval_file, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "orchestrator.workers.kinds.painter", Painter("red"))
    with pytest.raises(WorkerError, match="colour: it is red, and was trained to be green"):
        package.main(package_arguments(trained, eval_file, tmp_path / "out", device="cpu"))
    assert not (tmp_path / "out").exists()
    assert not json.loads((tmp_path / "out.verification.json").read_text(encoding="utf-8"))["passed"]


def test_every_scorer_names_a_kind_that_is_there():
    folder = Path(kinds.__file__).parent
    assert {name for name in kinds.KINDS.values() if not (folder / f"{name}.py").is_file()} == set()
