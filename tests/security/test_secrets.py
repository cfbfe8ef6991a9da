"""Tokens of the environment never stay in a run folder, and are never printed."""

from __future__ import annotations

import json
import os
import sys

import pytest

from orchestrator.cli.output import clean
from orchestrator.errors import StageFailedError
from orchestrator.logs.follow import LogFollower
from orchestrator.logs.scrub import CHUNK_BYTES, scrub_log
from orchestrator.plan import Command, Plan, Stage
from orchestrator.rundir import RunDir
from orchestrator.secrets import find_secret_values, has_credentials, has_token, redact_text
from orchestrator.supervise.loop import run_plan
from orchestrator.supervise.runs import follow_logs

TOKEN = "hf_" + "Ab3" * 12
PASSWORD = "correct-horse-battery"  # noqa: S105  (nobody's)
CHATTY = (
    "import os, sys\n"
    "print('token', os.environ['MY_TOKEN'], 'url', os.environ['MIRROR'], flush=True)\n"
    "sys.stderr.write('RuntimeError: refused password ' + os.environ['DB_PASSWORD'] + '\\n')\n"
    "sys.exit(int(sys.argv[1]))\n"
)


@pytest.fixture
def secrets(monkeypatch):
    monkeypatch.setenv("MY_TOKEN", TOKEN)
    monkeypatch.setenv("DB_PASSWORD", PASSWORD)
    monkeypatch.setenv("MIRROR", "https://me:pw-of-mine@mirror.example/x")


def run_chatty(folder, code: int) -> RunDir:
    """Run one stage that prints what it should not."""
    run = RunDir(folder / "run")
    stage = Stage("01-a", "work", "a", Command((sys.executable, "-c", CHATTY, str(code)), (), "."))
    plan = Plan("t", str(run.root), "reranker", "fake", False, {}, (stage,), ())
    run.root.mkdir()
    run.plan_json.write_text(plan.to_json(), encoding="utf-8")
    run_plan(plan, run, poll_s=0.02)
    return run


def read_all(folder) -> str:
    return "\n".join(path.read_text(encoding="utf-8") for path in folder.rglob("*") if path.is_file())


def test_no_file_of_a_finished_run_holds_a_secret_that_a_stage_has_printed(tmp_path, secrets):
    run = run_chatty(tmp_path, 0)
    text = read_all(run.root)
    assert [found for found in (TOKEN, PASSWORD, "pw-of-mine") if found in text] == []
    assert (
        run.stage("01-a").stdout_log.read_text()
        == f"token {'*' * len(TOKEN)} url https://{'*' * len('me:pw-of-mine')}@mirror.example/x\n"
    )


def test_neither_does_one_of_a_failed_run_nor_its_error(tmp_path, secrets):
    with pytest.raises(StageFailedError) as caught:
        run_chatty(tmp_path, 1)
    said = json.dumps([[problem.message, problem.hint] for problem in caught.value.problems])
    text = read_all(tmp_path / "run") + said
    assert "refused password" in said
    assert [found for found in (TOKEN, PASSWORD, "pw-of-mine") if found in text] == []


def test_a_line_is_redacted_while_the_stage_still_runs(tmp_path, secrets):
    log = tmp_path / "stages" / "01-a" / "stdout.log"
    log.parent.mkdir(parents=True)
    log.write_text(f"token {TOKEN}\n", encoding="utf-8")
    assert LogFollower(log).read_lines() == ["token ****"]
    assert [line.text for line in follow_logs(RunDir(tmp_path), follow=False)] == ["token ****"]


@pytest.mark.parametrize("place", [0, CHUNK_BYTES - 40, CHUNK_BYTES - 5, CHUNK_BYTES, 2 * CHUNK_BYTES - 12])
@pytest.mark.parametrize("secret", [TOKEN, PASSWORD])
def test_scrubbing_finds_a_secret_wherever_it_stands_and_keeps_every_other_byte(tmp_path, place, secret):
    log = tmp_path / "a.log"
    before, after = b"x" * max(0, place - 1) + b"\n" * (place > 0), b"\n" + b"y" * 100 + b"\xff\n"
    log.write_bytes(before + secret.encode() + after)
    assert scrub_log(log, [PASSWORD]) == 1
    assert log.read_bytes() == before + b"*" * len(secret) + after
    assert scrub_log(log, [PASSWORD]) == 0


def test_scrubbing_passes_over_what_is_not_there(tmp_path):
    assert scrub_log(tmp_path / "none.log", [PASSWORD]) == 0


def test_only_values_of_secret_names_are_secrets_and_short_ones_are_not():
    env = {"HF_TOKEN": TOKEN, "A_PASSWORD": "short", "PATH": "/usr/bin:/bin", "WANDB_API_KEY": "0123456789abcdef"}
    assert find_secret_values(env) == (TOKEN, "0123456789abcdef")


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("https://me:pw@host/x", "https://****@host/x"),
        ("https://token@host", "https://****@host"),
        ("https://host/a@b", "https://host/a@b"),
        ("mail me@host", "mail me@host"),
        ("git+ssh://git@host/x", "git+ssh://****@host/x"),
        (f"a {TOKEN} b", "a **** b"),
        ("hf_short", "hf_short"),
    ],
)  # fmt: skip
def test_urls_and_tokens_are_known_by_their_form(text, left):
    assert redact_text(text, ()) == left
    assert (has_credentials(text) or has_token(text)) == (text != left)


def test_what_is_printed_holds_no_secret_and_nothing_that_a_terminal_obeys(secrets):
    said = clean(f"a {os.environ['DB_PASSWORD']}\x1b]0;title\x07\x1b[2J\r\x9b31m\u202egnp.exe\ud800\nb\tc")
    assert said == "a ****\ufffd]0;title\ufffd\ufffd[2J\ufffd\ufffd31m\ufffdgnp.exe\ufffd\nb\tc"
