"""Files of JSON that others have cut, changed or made: one reader, exit code 9 for run folders, 4 for model folders."""

from __future__ import annotations

import ast
import json
import os
import re
import signal
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

import orchestrator
from orchestrator.backends.models import load_config
from orchestrator.cli import orch
from orchestrator.errors import OrchError, StageFailedError
from orchestrator.logs.events import load_events
from orchestrator.machine.files import ABSENT, hash_path
from orchestrator.machine.json_files import DamagedJsonError, build_record, load_json, parse_json
from orchestrator.machine.rundir import RunDir
from orchestrator.recipe.plan import Command, Plan, Stage
from orchestrator.run.bundle import write_bundle
from orchestrator.run.folder import load_plan
from orchestrator.run.runs import list_runs
from orchestrator.run.state import load_holder, load_launch, load_result
from orchestrator.serving.artefact import load_artefact, parse_answers
from tests.security.test_terminal import list_modules

DEEP = "[" * 100_000
DAMAGED = {
    "empty": b"",
    "cut": b'{"name": "x", "sta',
    "bom": b'\xef\xbb\xbf{"name": "x"}',
    "list": b"[1, 2]",
    "number": b"7",
    "null": b"null",
    "text": b'"../../.."',
    "object": b"{}",
    "not-utf-8": b'{"name": "\xff"}',
    "nested-lists": DEEP.encode(),
    "nested-closed": (DEEP + "]" * 100_000).encode(),
    "nested-objects": b'{"a":' * 50_000,
    "nested-200": b'{"version": 1, "name": ' + b"[" * 200 + b"]" * 200 + b"}",
    "surrogate": b'{"name": "\\ud800", "status": "\\udfff"}',
    "1e999": b'{"status": "done", "started": 1e999, "version": 1e999, "t": 1e999}',
    "digits": b'{"status": "done", "started": ' + b"9" * 5000 + b"}",
    "digits-400": b'{"status": "done", "started": 1' + b"0" * 400 + b"}",
    "far-away": b'{"status": "done", "started": 1e300, "finished": -1e18}',
    "nan": b'{"status": "done", "started": NaN}',
    "types": b'{"name": 1, "status": [], "stages": "abc", "started": {}, "version": "x", "verdict": 7, "metrics": 3}',
}


def write_run(root: Path, name: str = "x-1") -> RunDir:
    run = RunDir(root / name)
    stage = Stage("01-a", "work", "a", Command(("true",), (), "."))
    run.root.mkdir(parents=True)
    run.plan_json.write_text(Plan("t", str(run.root), "reranker", "fake", False, {}, (stage,), ()).to_json())
    run.stage("01-a").root.mkdir(parents=True)
    state = {"status": "done", "started": 1.0, "finished": 2.0, "exit_code": 0, "version": 1}
    run.state_json.write_text(json.dumps(state))
    run.recipe_yaml.write_text("name: t\n")
    return run


FILES = ("plan.json", "state.json", "report.json", "metrics.json", "provenance.json", "lock", "events.jsonl",
         "stages/01-a/command.json", "stages/01-a/result.json", "data/ledger.json")  # fmt: skip
COMMANDS = (("ls",), ("show", "x-1"), ("show", "x-1", "--json"), ("logs", "x-1"), ("stop", "x-1"), ("bundle", "x-1"),
            ("compare", "x-1", "x-2"), ("compare", "x-2", "x-1"), ("reproduce", "x-1", "--dry-run"))  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGED)
@pytest.mark.parametrize("file", FILES)
def test_no_command_makes_a_traceback_of_a_damaged_run_folder(tmp_path, monkeypatch, file, damage):
    monkeypatch.chdir(tmp_path)
    run = write_run(tmp_path / "runs")
    write_run(tmp_path / "runs", "x-2")
    path = run.root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(DAMAGED[damage])
    for argv in COMMANDS:
        (tmp_path / "x-1.zip").unlink(missing_ok=True)
        done = CliRunner().invoke(orch, argv, standalone_mode=False)
        error = done.exception
        assert error is None or (isinstance(error, OrchError) and error.exit_code == 9), (argv, error)
        if argv == ("ls",):
            assert error is None
            assert "x-2" in done.output


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_run_whose_state_or_report_is_damaged_is_said_to_be(tmp_path, damage):
    run = write_run(tmp_path)
    write_run(tmp_path, "y-1")
    run.state_json.write_bytes(DAMAGED[damage])
    assert {row.name: row.status for row in list_runs(tmp_path)} == {"x-1": "damaged", "y-1": "done"}
    run.state_json.write_bytes(b'{"status": "done", "started": 1.0, "version": 1}')
    run.report_json.write_bytes(DAMAGED[damage])
    done = CliRunner().invoke(orch, ["show", str(run.root)], standalone_mode=False)
    assert done.exception.exit_code == 9
    assert "report.json is damaged" in done.exception.problems[0].message
    assert len(done.exception.problems[0].message) <= 500


def test_a_folder_that_is_a_link_to_nowhere_or_a_pipe_is_no_end_of_ls(tmp_path):
    write_run(tmp_path, "y-1")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "plan.json").symlink_to(tmp_path / "nowhere")
    pipe = write_run(tmp_path, "b")
    pipe.state_json.unlink()
    os.mkfifo(pipe.state_json)
    assert {row.name: row.status for row in list_runs(tmp_path)} == {"a": "planned", "b": "damaged", "y-1": "done"}
    assert CliRunner().invoke(orch, ["show", "last", "--runs", str(tmp_path)]).exit_code in {0, 9}


@pytest.mark.parametrize(
    ("key", "value"),
    [("inputs", "../../.."), ("outputs", "x"), ("argv", "rm"), ("inputs", {"a": 1}), ("timeout_s", "x"), ("name", 3)],
)
def test_a_plan_with_another_type_at_a_key_is_refused(tmp_path, key, value):
    run = write_run(tmp_path)
    raw = json.loads(run.plan_json.read_text())
    place = raw["stages"][0]
    (place["command"] if key == "argv" else place)[key] = value
    run.plan_json.write_text(json.dumps(raw))
    with pytest.raises(OrchError, match="plan.json cannot be read"):
        load_plan(run)


@pytest.mark.parametrize("damage", DAMAGED)
def test_what_a_supervisor_reads_is_absent_where_it_is_damaged(tmp_path, damage):
    run = write_run(tmp_path)
    for path in (run.lock, run.stage("01-a").command_json, run.stage("01-a").result_json):
        path.write_bytes(DAMAGED[damage])
    run.events_jsonl.write_bytes(DAMAGED[damage] + b"\n")
    assert load_holder(run) is None
    assert load_launch(run.stage("01-a")) is None
    assert load_result(run.stage("01-a")) is None
    assert list(load_events(run.events_jsonl)) == []


@pytest.mark.parametrize("damage", sorted(DAMAGED.keys() - {"object", "types", "far-away", "nan"}))
def test_a_damaged_config_of_a_model_is_refused_with_code_4(tmp_path, damage):
    (tmp_path / "config.json").write_bytes(DAMAGED[damage])
    with pytest.raises(OrchError, match="config.json") as caught:
        load_config(tmp_path)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("text", ['{"a": [1, 2.5, "é", null, true], "b": {"c": -1e-9}}', "0", '"\\ud83d\\ude00"'])
def test_what_is_whole_is_read_as_it_is(text):
    assert parse_json(text) == parse_json(text.encode()) == json.loads(text)


def test_constants_pass_where_they_are_asked_for(tmp_path):
    (tmp_path / "a").write_text('{"limit": [0.0, Infinity]}')
    assert load_json(tmp_path / "a", constants=True)["limit"][1] == float("inf")
    with pytest.raises(DamagedJsonError, match="Infinity"):
        load_json(tmp_path / "a")


@dataclass(frozen=True)
class _Record:
    a: tuple[str, ...]
    b: int | None
    c: dict[str, float]
    d: tuple[int, str]


@pytest.mark.parametrize(
    ("values", "fits"),
    [
        ((["x"], 1, {"k": 1}, [1, "x"]), True),
        (([], None, {}, [1, "x"]), True),
        (("x", 1, {}, [1, "x"]), False),
        (({"x": 1}, 1, {}, [1, "x"]), False),
        (([1], 1, {}, [1, "x"]), False),
        (([], True, {}, [1, "x"]), False),
        (([], 1, {"k": "v"}, [1, "x"]), False),
        (([], 1, {}, [1, 2]), False),
        (([], 1, {}, [1]), False),
    ],
)
def test_types_are_required_as_they_are_written(values, fits):
    raw = dict(zip("abcd", values, strict=True))
    if fits:
        assert json.loads(json.dumps(asdict(build_record(_Record, raw)))) == raw
    else:
        with pytest.raises(DamagedJsonError):
            build_record(_Record, raw)


def test_nobody_reads_a_file_of_json_past_the_door():
    """json.loads stays for texts of our own, of workers and of probes; a file is read by json_files."""
    found = []
    for path in list_modules():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in {"json.load", "json.loads"}:
                text = ast.unparse(node)
                if re.search(r"json\.load\(|read_text|read_bytes|\.read\(|open\(", text) and not re.search(
                    "__file__|_SNAPSHOT", text
                ):
                    found.append(f"{path.relative_to(Path(orchestrator.__file__).parent)}:{node.lineno}: {text}")
    assert found == []


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("reranker", '{"score": 1}\n'),
        ("reranker", '{"score": 1}\n{"point": 1}\n'),
        ("reranker", "[1, 2]"),
        ("reranker", "[" * 100_000),
        ("chat", ""),
        ("vectors", '{"vector": []}'),
        ("embedding", '[{"query": "other", "document": "d", "score": 1}]'),
    ],
)
def test_answers_to_other_rows_than_asked_are_no_traceback(kind, text):
    rows = [{"query": "q", "document": "d"}, {"query": "q", "document": "e"}]
    with pytest.raises(StageFailedError, match="answers"):
        parse_answers(text, rows, kind)


@pytest.mark.parametrize("damage", ["cut", "nested-lists", "surrogate", "1e999", "not-utf-8"])
def test_a_damaged_scoring_json_is_the_run_s_fault_or_the_model_s(tmp_path, damage):
    (tmp_path / "scoring.json").write_bytes(DAMAGED[damage])
    with pytest.raises(OrchError, match="cannot be read") as caught:
        load_artefact(tmp_path, "x", "python")
    assert caught.value.exit_code == 4
    model = write_run(tmp_path).model
    model.mkdir()
    (model / "scoring.json").write_bytes(DAMAGED[damage])
    with pytest.raises(OrchError, match="cannot be read") as caught:
        load_artefact(model, "x", "python")
    assert caught.value.exit_code == 9


PLACES = (*FILES, "stages/01-a/stdout.log", "stages/01-a/stderr.log", "stages/01-a/exit_code", "data/eval.jsonl",
          "model/config.json", "model/tokenizer_config.json", "model/chat_template.jinja", "plan.seal", "recipe.yaml",
          "model/model.safetensors")  # fmt: skip
READERS = (*COMMANDS, ("serve", "x-1/model", "--dry-run"), ("evaluate", "--model", "x-1/model", "--data", "d.jsonl"))


@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize("file", PLACES)
def test_no_command_waits_for_a_pipe_or_reads_a_device_without_end(tmp_path, monkeypatch, file, kind):
    runs = tmp_path / "runs"
    run = write_run(runs)
    write_run(runs, "x-2")
    run.model.mkdir()
    (run.model / "scoring.json").write_text('{"scorer": "chat", "tool": "swift", "model_type": "a", "template": "a"}')
    (run.model / "config.json").write_text("{}")
    monkeypatch.chdir(runs)
    (runs / "d.jsonl").write_text('{"query": "a", "pos": ["b"], "neg": ["c"]}\n')
    path = run.root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")

    def give_up(*_: object) -> None:
        raise AssertionError("it hangs")

    before = signal.signal(signal.SIGALRM, give_up)
    try:
        for argv in READERS:
            signal.alarm(5)
            told = [*argv, "--runs", str(runs)] if argv[0] in {name for name, *_ in COMMANDS} else list(argv)
            error = CliRunner().invoke(orch, told, standalone_mode=False).exception
            assert error is None or (isinstance(error, OrchError) and error.exit_code in {3, 4, 9}), (argv, error)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_a_pipe_among_hashed_files_is_passed_over(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    assert hash_path(tmp_path / "pipe") == ABSENT
    (tmp_path / "zero").symlink_to("/dev/zero")
    assert hash_path(tmp_path / "zero") == ABSENT
    hash_path(tmp_path)


def test_a_bundle_of_a_run_whose_data_lies_elsewhere_is_refused(tmp_path):
    run = write_run(tmp_path)
    run.data.symlink_to("/")
    with pytest.raises(OrchError, match="data is a link"):
        write_bundle(run, tmp_path / "x.zip")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", ["qwen3", "--external_plugins", "x.py"]),
        ("template", {"a": 1}),
        ("system", 7),
        ("dtype", []),
        ("template_args", True),
        ("template_args", {"enable_thinking": ["true", "--host"]}),
    ],
)
def test_a_scoring_json_whose_words_are_none_is_the_model_s_fault(tmp_path, key, value):
    spec = {"scorer": "chat", "tool": "swift", "model_type": "a", "template": "b", key: value}
    (tmp_path / "scoring.json").write_text(json.dumps(spec))
    with pytest.raises(OrchError, match=f"{key} is") as caught:
        load_artefact(tmp_path, "x", "python")
    assert caught.value.exit_code == 4
