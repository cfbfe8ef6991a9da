from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

import pytest

from orchestrator.errors import PreflightError
from orchestrator.workers.__main__ import WORKERS, main
from orchestrator.workers.failure import UnfitModelError
from tests.workers.conftest import WORKERS as FOLDER
from tests.workers.conftest import run_worker

if TYPE_CHECKING:
    from pathlib import Path


def test_an_unknown_worker_is_a_usage_error_that_names_the_known_ones(tmp_path):
    done = run_worker("paint", cwd=tmp_path)
    assert done.returncode == 2
    assert "package" in done.stderr
    assert "tiny_model" in done.stderr


def test_every_worker_answers_help_from_any_folder_without_loading_a_library(tmp_path):
    # modules that fail to import stand where the real ones would be found first
    for name in ("torch", "transformers", "FlagEmbedding", "sentence_transformers", "peft"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('imported too early')")
    for worker in WORKERS:
        done = run_worker_with_path(tmp_path, worker, "--help")
        assert done.returncode == 0, done.stderr
        assert f"workers {worker}" in done.stdout


def run_worker_with_path(folder: Path, *arguments: str):
    import os
    import subprocess

    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, str(FOLDER), *arguments]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=300
    )


def test_the_workers_do_not_see_their_own_files_as_top_level_modules(tmp_path):
    done = run_worker_with_path(tmp_path, "predict", "--model", "nowhere")
    assert done.returncode == 1
    assert done.stderr.startswith("predict: nowhere/scoring.json: the scoring spec cannot be read")
    assert "Traceback" not in done.stderr


def test_a_worker_that_refuses_its_model_ends_with_4(monkeypatch, capsys):
    def refuse(_):
        raise UnfitModelError("it lacks a tensor; take the whole model")

    monkeypatch.setattr("orchestrator.workers.inspect_model.main", refuse)
    assert main(["inspect_model"]) == PreflightError.exit_code
    assert capsys.readouterr().err == "inspect_model: it lacks a tensor; take the whole model\n"


def test_no_worker_file_has_the_name_of_a_standard_module():
    found = [path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("__")]
    assert len(found) > 10
    assert not set(found) & set(sys.stdlib_module_names)


def test_a_stub_stands_in_for_a_package_that_is_not_installed(tmp_path):
    # an `orchestrator` that must not be taken: the workers belong to the folder they are started from
    (tmp_path / "orchestrator").mkdir()
    (tmp_path / "orchestrator" / "__init__.py").write_text("raise RuntimeError('the wrong package')")
    done = run_worker_with_path(tmp_path, "score", "--help")
    assert done.returncode == 0, done.stderr


def test_predict_scores_pairs_from_standard_input_in_its_own_process(tmp_path, packaged_encoder):
    examples = json.loads((packaged_encoder / "scoring.json").read_text(encoding="utf-8"))["examples"]
    lines = "".join(json.dumps({key: row[key] for key in ("query", "document")}) + "\n" for row in examples)
    done = run_worker("predict", "--model", packaged_encoder, "--device", "cpu", cwd=tmp_path, stdin=lines)
    assert done.returncode == 0, done.stderr
    scores = [json.loads(line)["score"] for line in done.stdout.splitlines()]
    assert scores == pytest.approx([row["score"] for row in examples], abs=1e-4)
