"""One door to the terminal: what is printed is clean there, and data is as it is in a file or a pipe."""

from __future__ import annotations

import ast
import io
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

import orchestrator
from orchestrator.cli import orch
from orchestrator.cli.progress import LivePanel, PlainLines
from orchestrator.logs.events import Message, StageFinished, StageStarted
from orchestrator.machine import terminal
from orchestrator.machine.rundir import RunDir
from orchestrator.recipe.plan import Command, Plan, Stage

ROOT = Path(orchestrator.__file__).parent
EVIL = "d\x1b]0;owned\x07\x1b[2J\x9b31m\u202e"
OBEYED = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
# Who may write to a standard stream: the door itself. Workers are islands: what they say goes to a log or a pipe.
DOOR = {"terminal.py"}


def list_modules():
    found = [path for path in ROOT.rglob("*.py") if "workers" not in path.relative_to(ROOT).parts]
    assert len(found) > 100
    return found


def find_prints(path: Path) -> list[str]:
    """Return the calls of a module that print, with their lines."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if re.fullmatch(
                r"print|(click\.)?(echo|secho|echo_via_pager)|(rich\.)?print"
                r"|sys\.(__)?std(out|err)(__)?(\.buffer)?\.write(lines)?|os\.write|error\.show",
                called,
            ):
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node)}")
    return found


ALLOWED = (
    "os.write(descriptor, ",  # the lock
    "os.write(target, ",  # what a server that was started says itself
    "error.show(said)",  # into a text, which is cleaned
)


def test_nobody_prints_past_the_door():
    found = [line for path in list_modules() if path.name not in DOOR for line in find_prints(path)]
    assert [line for line in found if not any(allowed in line for allowed in ALLOWED)] == []


def test_a_call_that_goes_round_the_door_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    for text in ("print(1)", "import click\nclick.echo('x')", "import sys\nsys.stderr.write('x')", "secho('x')"):
        (tmp_path / "a.py").write_text(text)
        assert find_prints(tmp_path / "a.py"), text


def test_consoles_get_texts_that_are_clean():
    """A rich console writes what it is given: the two modules that have one clean every text."""
    users = [path for path in list_modules() if re.search(r"\bConsole\(", path.read_text(encoding="utf-8"))]
    assert {path.name for path in users} == {"progress.py", "environment_commands.py"}
    for path in users:
        texts = re.findall(r"\bText\((?!clean\(|\"\"|_MARKS|mark|self\.view\.words)([^)]*)", path.read_text())
        assert texts == [], path


def on_terminal(*argv: str, stdin: str | None = None, env: dict[str, str] | None = None) -> str:
    """Return all that a command writes to a terminal."""
    master, slave = pty.openpty()
    command = [sys.executable, "-c", "from orchestrator.cli import main; main()", *argv]
    done = subprocess.Popen(
        command,
        stdin=subprocess.PIPE if stdin else slave,
        stdout=slave,
        stderr=slave,
        env={**os.environ, **(env or {})},
    )
    os.close(slave)
    if stdin and done.stdin:
        done.stdin.write(stdin.encode())
        done.stdin.close()
    said = b""
    while True:
        try:
            chunk = os.read(master, 65536)
        except OSError:
            break
        if not chunk:
            break
        said += chunk
    done.wait()
    os.close(master)
    return said.decode(errors="replace").replace("\r\n", "\n")


@pytest.fixture
def hostile_run(tmp_path):
    """A run folder whose names and logs are escape sequences."""
    run = RunDir(tmp_path / "runs" / "x-1")
    stage = Stage(f"01-{EVIL}", "work", EVIL, Command((sys.executable, "-c", ""), (), "."))
    plan = Plan("t", str(run.root), "reranker", "fake", False, {}, (stage,), ())
    folder = run.root / "stages" / f"01-{EVIL}"
    folder.mkdir(parents=True)
    (folder / "stdout.log").write_bytes(b"a\x1b[31mred\x1b[0m\r 50%\r\n\n\xff\xfe caf\xc3\xa9\nlast")
    run.plan_json.write_text(plan.to_json())
    return run


@pytest.mark.parametrize(
    "argv",
    [
        ("logs", "x-1"),
        ("show", "x-1"),
        ("ls",),
        ("stop", "x-1"),
        ("check", f"{EVIL}/r.yaml"),
        ("init", f"{EVIL}/r.yaml"),
        ("init", f"{EVIL}.yaml"),
        ("data", "convert", f"{EVIL}.jsonl", "-o", "out.jsonl"),
        ("bundle", "x-1", "-o", f"{EVIL}.zip"),
        ("env", "create", "flagembedding", "--path", EVIL, "--dry-run"),
        ("compare", "x-1", EVIL),
        (EVIL,),
        ("render", "r.yaml", f"--{EVIL}"),
    ],
    ids=lambda argv: " ".join(argv[:2]).encode("unicode_escape").decode(),
)
def test_no_command_commands_the_terminal(tmp_path, monkeypatch, hostile_run, argv):
    monkeypatch.chdir(tmp_path)
    Path(f"{EVIL}.jsonl").write_text('{"query": "q", "pos": ["a"], "neg": ["b"]}\n')
    said = on_terminal(*argv)
    assert said.strip()
    assert OBEYED.findall(said) == [], said


def test_logs_in_a_pipe_are_the_log_s_own_bytes(tmp_path, monkeypatch, hostile_run):
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-c", "from orchestrator.cli import main; main()", "logs", "x-1"]
    done = subprocess.run(command, capture_output=True, check=True)
    assert done.stdout == (hostile_run.root / "stages" / f"01-{EVIL}" / "stdout.log").read_bytes()
    assert b"\x1b" not in done.stderr


def test_logs_in_a_pipe_hold_no_secret(tmp_path, monkeypatch, hostile_run):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DB_PASSWORD", "correct-horse-battery")
    log = hostile_run.root / "stages" / f"01-{EVIL}" / "stdout.log"
    log.write_bytes(b"\x1b[1mx\x1b[0m correct-ho\x1b[0mrse-battery\r\n\n" + b"y" * 65530 + b"correct-horse-battery\xff")
    command = [sys.executable, "-c", "from orchestrator.cli import main; main()", "logs", "x-1"]
    done = subprocess.run(command, capture_output=True, check=True)
    assert done.stdout == b"\x1b[1mx\x1b[0m ****\r\n\n" + b"y" * 65530 + b"****\xff"


def test_json_is_faithful_and_safe(capsys):
    value = {"text": f"{EVIL} \ud800 é", EVIL: [1, None]}
    terminal.print_data(value)
    said = capsys.readouterr().out
    assert json.loads(said) == value
    assert not OBEYED.search(said)


def test_data_in_a_pipe_is_as_it_is_and_words_for_people_are_clean(capfdbinary):
    terminal.hand_on(EVIL + "\udcff")
    terminal.say(EVIL)
    out = capfdbinary.readouterr().out
    assert out.startswith(EVIL.encode() + b"\xff\n")
    assert b"\x1b" not in out[len(EVIL.encode()) + 2 :]


ANSWERS = {
    "reranker": (
        [{"query": EVIL, "document": "d"}, {"query": "q", "document": EVIL}],
        [{"score": 1.0}, {"score": 2.0}],
    ),
    "chat": ([{"prompt": EVIL}, {"prompt": "b"}], [{"answer": EVIL}, {"answer": "b"}]),
}


@pytest.mark.parametrize("kind", ANSWERS)
def test_predict_shows_documents_queries_and_answers_cleaned(monkeypatch, kind):
    from orchestrator.cli.model_commands import show_answers

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    rows, answers = ANSWERS[kind]
    if kind == "reranker":
        answers = [{**row, **answer} for row, answer in zip(rows, answers, strict=True)]
    monkeypatch.setattr(sys, "stdout", Terminal())
    show_answers(kind, rows, answers, vectors=False)
    shown = sys.stdout.getvalue().replace("\x1b[1m", "").replace("\x1b[0m", "")
    assert "owned" in shown
    assert not OBEYED.search(shown)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO()))
    show_answers(kind, rows, answers, vectors=False)
    assert EVIL.encode() in sys.stdout.buffer.getvalue()


def test_progress_is_clean(hostile_run, capsys):
    from orchestrator.run.folder import load_plan

    plan = load_plan(hostile_run)
    name = plan.stages[0].name
    events = [StageStarted(name, 1, 1), Message("info", EVIL, name), StageFinished(name, EVIL, 1, 1.0)]
    text = io.StringIO()
    panel = LivePanel(plan, Console(file=text, force_terminal=False, width=200))
    for event in events:
        PlainLines(plan)(event)
        panel(event)
        panel.console.print(panel._draw())
    said = text.getvalue() + "".join(capsys.readouterr())
    assert "owned" in said
    assert not OBEYED.search(said)


def test_a_usage_error_is_clean():
    said = on_terminal("ls", f"--x{EVIL}")
    assert "No such option" in said
    assert not OBEYED.search(said)
    assert CliRunner().invoke(orch, ["ls", "--json"]).exit_code == 0
