"""`orch serve` and `orch merge` as far as nothing is started: what they print, refuse and mean by a name."""

from __future__ import annotations

import json
import sys

import pytest

from orchestrator.cli import main
from orchestrator.machine.rundir import RunDir
from orchestrator.recipe.plan import Command, Plan, Stage
from orchestrator.run.folder import adopt_run
from orchestrator.serving import server
from tests.checks.model_folders import CONFIG, Folder, list_decoder, write_safetensors


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
    adopt_run(RunDir(root))
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
        "env HF_HUB_OFFLINE=1 PYTHONSAFEPATH=1 PYTHONUNBUFFERED=1 \\",
        f"  {sys.executable} -m swift.cli.deploy \\",
    ]
    assert "  --served_model_name mine \\" in out.splitlines()
    assert err == ""


def test_a_dry_run_names_vllm_though_it_is_not_installed(capsys, run):
    code, out, _ = call(capsys, "serve", str(run), "--dry-run", "--backend", "vllm", "--port", "9000", "--json")
    data = json.loads(out)["data"]
    assert code == 0
    assert data["argv"][1:5] == ["-m", "vllm.entrypoints.openai.api_server", "--model", str(run / "model")]
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


def write_adapter(folder, base):
    folder.mkdir(parents=True)
    config = {"base_model_name_or_path": str(base), "task_type": "CAUSAL_LM"}
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    write_safetensors(folder / "adapter_model.safetensors", {"x.lora_B.weight": (2, 2)})
    return folder


def write_base(folder):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    return Folder(folder).weights(list_decoder()).tokenizer()


def test_a_base_model_that_is_not_whole_is_refused_before_the_merge(capsys, tmp_path):
    base = write_base(tmp_path / "base").remove("tokenizer.json").config(num_hidden_layers=3)
    out = tmp_path / "out"
    code, _, err = call(capsys, "merge", str(write_adapter(tmp_path / "adapter", base.path)), "-o", str(out))
    assert code == 4
    assert "has no tokenizer" in err
    assert "config.json says 3 layers, and the files hold 2" in err
    assert not out.exists()


@pytest.mark.parametrize("option", ["--trust-remote-code", "--allow-pickle"])
def test_what_a_recipe_says_is_no_option_of_a_runs_merge(capsys, run, option):
    code, _, err = call(capsys, "merge", str(run), option)
    assert code == 2
    assert f"{option} goes with an adapter folder" in err


def test_a_base_model_on_a_hub_is_refused_offline(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))
    adapter = write_adapter(tmp_path / "adapter", "owner/base")
    code, _, err = call(capsys, "merge", str(adapter), "-o", str(tmp_path / "out"))
    assert code == 4
    assert "owner/base is not on this machine" in err


@pytest.mark.parametrize("damage", ["cut", "absent", "pickled"])
def test_an_adapter_that_is_not_whole_is_refused_before_its_base_is_looked_at(capsys, tmp_path, damage):
    adapter = write_adapter(tmp_path / "adapter", tmp_path)
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    weights = adapter / "adapter_model.safetensors"
    if damage == "cut":
        weights.write_bytes(weights.read_bytes()[:-1])
    elif damage == "absent":
        weights.unlink()
    else:
        weights.rename(adapter / "adapter_model.bin")
    code, _, err = call(capsys, "merge", str(adapter), "-o", str(tmp_path / "out"))
    assert code == 4
    assert {"cut": "is not whole", "absent": "is not there", "pickled": "as a pickle only"}[damage] in err


@pytest.mark.parametrize("argv", [("predict", "-q", "a", "--vectors"), ("serve", "--check", "--backend", "swift")])
def test_a_packaged_model_without_weights_is_refused_before_anything_is_started(capsys, run, monkeypatch, argv):
    monkeypatch.setattr(server, "find_server_versions", lambda *_, **__: {"swift": "4.6.0"})
    (run / "model" / "config.json").write_text('{"model_type": "qwen3"}', encoding="utf-8")
    code, _, err = call(capsys, argv[0], str(run), *argv[1:])
    assert code == 4
    assert f"{run / 'model'} holds no weights" in err


def test_a_dry_run_asks_nothing_of_the_weights(capsys, run):
    assert call(capsys, "serve", str(run), "--dry-run", "--backend", "swift")[0] == 0
