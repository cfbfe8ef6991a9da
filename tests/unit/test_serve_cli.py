"""`orch serve` and `orch merge` as far as nothing is started: what they print, refuse and mean by a name."""

from __future__ import annotations

import json
import sys

import pytest

from orchestrator.cli import main
from orchestrator.plan import Command, Plan, Stage


@pytest.fixture
def run(tmp_path):
    """A finished run of an embedding model by ms-swift, without weights."""
    root = tmp_path / "runs" / "mine-20260101-000000-aaaa"
    model = root / "model"
    model.mkdir(parents=True)
    spec = {
        "version": 1, "scorer": "embedding", "dtype": "float32", "tool": "swift", "model_type": "qwen3_emb",
        "template": "qwen3_emb", "task_type": "embedding",
    }  # fmt: skip
    (model / "scoring.json").write_text(json.dumps(spec), encoding="utf-8")
    package = Stage("06-package", "package", "p", Command((sys.executable, "/orch/workers", "package")))
    plan = Plan("mine", str(root), "embedding", "swift", False, {}, (package,), ())
    (root / "plan.json").write_text(plan.to_json(), encoding="utf-8")
    return root


def call(capsys, *argv):
    with pytest.raises(SystemExit) as ended:
        main(list(argv))
    said = capsys.readouterr()
    return ended.value.code, said.out, said.err


def test_a_dry_run_prints_the_command_of_a_run_and_starts_nothing(capsys, run):
    code, out, err = call(capsys, "serve", run.name[:6], "--runs", str(run.parent), "--dry-run", "--backend", "swift")
    assert code == 0
    assert out.splitlines()[:2] == [
        "env HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1 \\",
        f"  {sys.executable} -m swift.cli.deploy \\",
    ]
    assert "  --served_model_name mine \\" in out.splitlines()
    assert err == ""


def test_a_dry_run_names_vllm_though_it_is_not_installed(capsys, run):
    code, out, _ = call(capsys, "serve", str(run), "--dry-run", "--backend", "vllm", "--port", "9000", "--json")
    data = json.loads(out)["data"]
    assert code == 0
    assert data["argv"][1:3] == ["serve", str(run / "model")]
    assert data["port"] == 9000


def test_other_machines_without_a_key_is_a_warning(capsys, run, monkeypatch):
    argv = ["serve", str(run), "--dry-run", "--backend", "swift", "--host", "192.0.2.7"]
    monkeypatch.delenv("ORCH_API_KEY", raising=False)
    assert "no API key" in call(capsys, *argv)[2]
    monkeypatch.setenv("ORCH_API_KEY", "sesame")
    _, out, err = call(capsys, *argv)
    assert "no API key" not in err
    assert "sesame" not in out + err


def test_a_folder_without_scoring_json_is_no_artefact(capsys, tmp_path):
    code, _, err = call(capsys, "serve", str(tmp_path), "--dry-run")
    assert code == 9
    assert "neither a run nor a packaged model" in err


def test_a_run_that_is_not_packaged_yet_says_how_to_finish_it(capsys, run):
    (run / "model" / "scoring.json").unlink()
    code, _, err = call(capsys, "serve", str(run), "--dry-run")
    assert code == 9
    assert "orch resume" in err


def test_merging_an_adapter_needs_a_folder_for_the_result(capsys, tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}", encoding="utf-8")
    code, _, err = call(capsys, "merge", str(tmp_path))
    assert code == 2
    assert "needs -o" in err


def test_an_adapter_whose_base_is_on_another_machine_names_it(capsys, tmp_path):
    config = {"base_model_name_or_path": "/elsewhere/Qwen3"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    code, _, err = call(capsys, "merge", str(tmp_path), "-o", str(tmp_path / "out"))
    assert code == 4
    assert "/elsewhere/Qwen3" in err
    assert "--base" in err


def test_an_existing_folder_is_not_merged_into(capsys, tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}", encoding="utf-8")
    code, _, err = call(capsys, "merge", str(tmp_path), "-o", str(tmp_path))
    assert code == 9
    assert "exists already" in err
