"""What goes into a run's archive, and above all what does not."""

from __future__ import annotations

import json
import zipfile

import pytest
from click.testing import CliRunner

from orchestrator.bundle import HEAD_BYTES, TAIL_BYTES, write_bundle
from orchestrator.cli import orch
from orchestrator.errors import RunFolderError
from orchestrator.logs.quoted_rows import LEFT_OUT
from orchestrator.rundir import RunDir

ROWS = "a sentence of the user's"


@pytest.fixture
def run(tmp_path):
    """A run folder with a file of each sort."""
    root = tmp_path / "runs" / "demo-1"
    texts = {
        "recipe.yaml": "name: demo\n",
        "plan.json": "{}",
        "provenance.json": "{}",
        "events.jsonl": "{}\n",
        "report.html": ROWS,
        "metrics.json": ROWS,
        "data/train.jsonl": ROWS,
        "data/ledger.json": "{}",
        "model/config.json": "{}",
        "model/model.safetensors": "weights",
        "stages/02-train/stdout.log": "token hf_secretsecretsecret\n" + "x" * 100,
        "stages/02-train/stderr.log": f"[INFO:swift] [INPUT] <user>\n{ROWS}\n[INFO:swift] max_length: 64\n",
        "stages/02-train/command.json": "{}",
        "stages/02-train/output/checkpoint-8/trainer_state.json": "{}",
        "stages/02-train/output/checkpoint-8/optimizer.pt": "state",
        "stages/02-train/output/something-new.json": ROWS,
        "stages/06-evaluate/output/scores.jsonl": ROWS,
    }
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return RunDir(root)


def names(path):
    with zipfile.ZipFile(path) as archive:
        return {name.removeprefix("demo-1/") for name in archive.namelist()}


def read(path, name):
    return zipfile.ZipFile(path).read(f"demo-1/{name}").decode()


def test_rows_and_weights_stay_out(run, tmp_path):
    bundle = write_bundle(run, tmp_path / "x.zip")
    assert names(bundle.path) == {
        "recipe.yaml", "plan.json", "provenance.json", "events.jsonl", "data/ledger.json", "model/config.json",
        "stages/02-train/stdout.log", "stages/02-train/stderr.log", "stages/02-train/command.json",
        "stages/02-train/output/checkpoint-8/trainer_state.json", "bundle.json",
    }  # fmt: skip
    assert ROWS.encode() not in b"".join(
        zipfile.ZipFile(bundle.path).read(name) for name in zipfile.ZipFile(bundle.path).namelist()
    )
    assert bundle.left_out == 7
    manifest = json.loads(zipfile.ZipFile(bundle.path).read("demo-1/bundle.json"))
    assert manifest["left_out"] == {"files": 7, "bytes": bundle.left_out_bytes}


def test_rows_come_along_when_they_are_asked_for_and_weights_never(run, tmp_path):
    found = names(write_bundle(run, tmp_path / "x.zip", with_data=True).path)
    assert {"report.html", "metrics.json", "data/train.jsonl", "stages/06-evaluate/output/scores.jsonl"} <= found
    assert not {name for name in found if name.endswith((".safetensors", ".pt", "something-new.json"))}
    assert ROWS in read(tmp_path / "x.zip", "stages/02-train/stderr.log")


def test_what_a_trainer_prints_around_a_row_is_kept(run, tmp_path):
    write_bundle(run, tmp_path / "x.zip")
    text = read(tmp_path / "x.zip", "stages/02-train/stderr.log")
    assert text == f"[INFO:swift] [INPUT] {LEFT_OUT}\n[INFO:swift] max_length: 64\n"


def test_a_long_log_keeps_its_beginning_and_its_end(run, tmp_path):
    log = run.stage("02-train").stderr_log
    log.write_bytes(b"first\n" + b"." * (HEAD_BYTES + TAIL_BYTES) + b"\nlast")
    bundle = write_bundle(run, tmp_path / "x.zip")
    entry = next(entry for entry in bundle.entries if entry.path.endswith("stderr.log"))
    text = zipfile.ZipFile(bundle.path).read(entry.path)
    assert entry.cut
    assert text.startswith(b"first")
    assert text.endswith(b"last")
    assert len(text) == HEAD_BYTES + TAIL_BYTES + len(b"\n[...]\n")


def test_secrets_and_the_home_folder_are_blotted_out(run, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecretsecret")
    monkeypatch.setenv("HOME", "/home/somebody")
    run.stage("02-train").command_json.write_text('{"cwd": "/home/somebody/project"}')
    archive = zipfile.ZipFile(write_bundle(run, tmp_path / "x.zip").path)
    assert b"hf_secret" not in archive.read("demo-1/stages/02-train/stdout.log")
    assert archive.read("demo-1/stages/02-train/command.json") == b'{"cwd": "~/project"}'


def test_links_are_not_followed(run, tmp_path):
    outside = tmp_path / "private"
    outside.write_text("private")
    run.state_json.symlink_to(outside)
    assert "state.json" not in names(write_bundle(run, tmp_path / "x.zip").path)


def test_an_archive_is_never_overwritten_and_never_half_there(run, tmp_path):
    target = tmp_path / "x.zip"
    write_bundle(run, target)
    with pytest.raises(RunFolderError, match="exists"):
        write_bundle(run, target)
    with pytest.raises(RunFolderError, match="cannot be written"):
        write_bundle(run, tmp_path / "x.zip" / "inside.zip")
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "x.zip"}


def test_the_command_says_what_it_left_out(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(orch, ["bundle", "demo-1"])
    assert done.exit_code == 0
    assert "demo-1.zip: 10 files" in done.stdout
    assert "7 files (0.0 MB) are left out: weights, rows, caches" in done.stdout
    assert "look through them" in done.stderr
    data = json.loads(CliRunner().invoke(orch, ["bundle", "demo-1", "-o", "other.zip", "--json"]).stdout)["data"]
    assert data["path"] == str(tmp_path / "other.zip")
    assert len(data["files"]) == 10
