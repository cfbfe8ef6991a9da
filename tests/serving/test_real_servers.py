"""ms-swift really serves each kind of model on a CPU, with the numbers that its own engine gives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.smoke

HERE = Path(__file__).resolve().parent
KINDS = ("embedding", "generative", "chat")
KEYED = "chat"  # served by the worker that hands swift a key
ENV = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}


@pytest.fixture(scope="module")
def packages(tiny_decoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("served") / "packages"
    done = subprocess.run(
        [sys.executable, str(HERE / "make_packages.py"), str(tiny_decoder), str(place)],
        capture_output=True, text=True, check=False, env=ENV, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return place


@pytest.fixture(scope="module")
def checks(packages: Path) -> dict[str, tuple[int, str, str]]:
    """Return exit code, standard output and standard error of `orch serve --check --json` by kind."""
    program = "from orchestrator.cli import main; main()"
    started = {
        kind: subprocess.Popen(
            [sys.executable, "-c", program, "serve", str(packages / kind), "--backend", "swift", "--check", "--json"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={**ENV, "ORCH_API_KEY": "sesame"} if kind == KEYED else ENV,
        )
        for kind in KINDS
    }  # fmt: skip
    done = {}
    for kind, child in started.items():
        out, err = child.communicate(timeout=300)
        done[kind] = (child.returncode, out, err)
    return done


@pytest.mark.parametrize("kind", KINDS)
def test_swift_serves_what_its_engine_says(checks, kind):
    code, out, err = checks[kind]
    assert code == 0, err + out
    check = json.loads(out)["data"]["check"]
    assert check["passed"]
    assert ("deploy_with_key" in json.loads(out)["data"]["argv"]) is (kind == KEYED)
    assert "sesame" not in out + err
    assert len(check["rows"]) >= 2


def test_the_scores_are_a_sigmoid_of_the_stored_ones(packages, checks):
    spec = json.loads((packages / "generative" / "scoring.json").read_text(encoding="utf-8"))
    rows = json.loads(checks["generative"][1])["data"]["check"]["rows"]
    assert len({row["got"] for row in rows}) > 1
    assert all(0 < float(row["got"]) < 1 for row in rows)
    assert any(abs(float(row["got"]) - probe["score"]) > 0.01 for row, probe in zip(rows, spec["probes"], strict=True))
