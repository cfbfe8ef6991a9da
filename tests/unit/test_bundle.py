"""What goes into a run's archive, and above all what does not."""

from __future__ import annotations

import json
import zipfile

import pytest
from click.testing import CliRunner

from orchestrator.cli import orch
from orchestrator.errors import RunFolderError
from orchestrator.logs.row_texts import LEFT_OUT
from orchestrator.machine.rundir import RunDir
from orchestrator.run.bundle import HEAD_BYTES, TAIL_BYTES, write_bundle

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
        "data/ledger.json": '{"dropped_rows": []}',
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


TEXTS = [
    "How do bees make honey \\ in winter?",
    'a text of\nseveral lines, "quoted" here and there\nand a third line of it',
    "Wie süß: 蜜蜂在冬天怎么酿造蜂蜜，又怎么保存它们的食物呢？",
    "\tan answer that a model has learnt by heart  ",
]
SYSTEM = "You are a helpful assistant of the recipe's own."
LATE = "a document that was dropped for it is on both sides"


@pytest.fixture
def talkative(run):
    """A run whose every file quotes its rows in its own way."""
    rows = [{"query": TEXTS[0], "pos": [TEXTS[1]]}, {"messages": [{"content": SYSTEM}, {"content": TEXTS[2]}]}]
    run.train_jsonl.write_text("".join(json.dumps(row) + "\n" for row in rows))
    guard = run.guard("chats")
    guard.mkdir(parents=True)
    (guard / "eval.jsonl").write_text(json.dumps({"document": TEXTS[3]}, ensure_ascii=False) + "\n")
    run.recipe_yaml.write_text(f"name: demo\ntrain: {{system: {SYSTEM}}}\n")
    package = run.stage("06-package").output
    package.mkdir(parents=True)
    probes = [{"origin": "data", "query": text[:80], "score": 1.5} for text in [*TEXTS, LATE]]
    check = {"name": "tokens", "passed": False, "failure": f"other tokens, such as {TEXTS[0]!r}"}
    report = {"passed": False, "checks": [check], "probes": probes, "test_prompt": {"text": LATE, "answer": LATE}}
    (package / "verification.json").write_text(json.dumps(report))
    for number, write in enumerate([str, repr, json.dumps, lambda text: json.dumps(text, ensure_ascii=False)]):
        folder = run.stage(f"0{number}-work")
        folder.root.mkdir(parents=True, exist_ok=True)
        folder.stdout_log.write_text(f"asks {SYSTEM}\n" + "".join(f"| row: {write(text)} | ends\n" for text in TEXTS))
    run.stage("00-work").stderr_log.write_text(f'dropped: train.jsonl:3: twice: the document "{LATE[:39]}…" — x\n')
    dropped = [{"line": 3, "reason": "twice", "detail": f'the document "{LATE[:39]}…" is twice'}]
    run.ledger_json.write_text(json.dumps({"dropped_rows": dropped}))
    run.events_jsonl.write_text(json.dumps({"type": "message", "text": f"it said: {TEXTS[2]}"}) + "\n")
    return run


def test_no_text_of_the_data_is_anywhere_in_the_archive(talkative, tmp_path):
    bundle = write_bundle(talkative, tmp_path / "x.zip")
    with zipfile.ZipFile(bundle.path) as archive:
        all_of_it = "\n".join(archive.read(name).decode() for name in archive.namelist())
    for text in [*TEXTS, LATE]:
        for line in filter(None, (line.strip() for line in text.splitlines())):
            for form in (line, repr(line)[1:-1], json.dumps(line)[1:-1], json.dumps(line, ensure_ascii=False)[1:-1]):
                assert form[:20] not in all_of_it, form
    assert "several lines, " not in all_of_it


def test_what_is_no_row_stays_in_the_archive(talkative, tmp_path):
    path = write_bundle(talkative, tmp_path / "x.zip").path
    assert read(path, "stages/00-work/stdout.log").startswith(f"asks {SYSTEM}\n| row: {LEFT_OUT} | ends\n")
    report = json.loads(read(path, "stages/06-package/output/verification.json"))
    assert report["probes"][0] == {"origin": "data", "query": LEFT_OUT, "score": 1.5}
    assert report["checks"][0]["failure"] == f"other tokens, such as '{LEFT_OUT}'"
    ledger = json.loads(read(path, "data/ledger.json"))
    assert ledger["dropped_rows"][0]["detail"] == f'the document "{LEFT_OUT}" is twice'
    assert json.loads(read(path, "events.jsonl"))["text"] == f"it said: {LEFT_OUT}"


def test_with_data_everything_stands_as_it_is(talkative, tmp_path):
    path = write_bundle(talkative, tmp_path / "x.zip", with_data=True).path
    assert LATE in read(path, "stages/06-package/output/verification.json")
    assert TEXTS[2] in read(path, "stages/00-work/stdout.log")


def test_links_beside_the_archive_are_never_followed(run, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (tmp_path / ".x.zip.part").symlink_to(victim)
    (tmp_path / "y.zip").symlink_to(tmp_path / "nowhere")
    write_bundle(run, tmp_path / "x.zip")
    with pytest.raises(RunFolderError, match="exists"):
        write_bundle(run, tmp_path / "y.zip")
    assert victim.read_text() == "precious"
    assert not (tmp_path / "x.zip").is_symlink()
