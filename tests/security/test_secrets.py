"""Tokens of the environment never stay in a run folder, and are never printed."""

from __future__ import annotations

import json
import os
import sys
import time

import pytest

from orchestrator.cli.output import clean, format_error
from orchestrator.errors import RecipeError, StageFailedError
from orchestrator.logs.follow import CHUNK_BYTES, MAX_PENDING_CHARS, LogFollower, scrub_log
from orchestrator.machine.rundir import RunDir
from orchestrator.machine.secrets import find_secret_values, has_credentials, has_token, redact_text
from orchestrator.recipe.plan import Command, Plan, Stage
from orchestrator.recipe.source import apply_overrides, parse_source
from orchestrator.run.loop import run_plan
from orchestrator.run.runs import follow_logs

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
    assert list(LogFollower(log).iter_lines()) == ["token ****"]
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
        ("http://u:pa/ss@proxy:80", "http://****@proxy:80"),
        ("http://u:pa'ss@proxy", "http://****@proxy"),
        ("https://me:p@ss@host/", "https://****@host/"),
        ("https://me:pw@host/a@b", "https://****@host/a@b"),
        ("https://:pw@host", "https://****@host"),
        ("docker://registry:5000/image@sha256:00", "docker://registry:5000/image@sha256:00"),
        ("http://[::1]:80/a@b", "http://[::1]:80/a@b"),
        (f"a {TOKEN} b", "a **** b"),
        ("id ASIA" + "A1" * 8, "id ****"),
        ("glpat-" + "x_-1" * 5, "****"),
        ("AIza" + "Sy" * 17 + "a", "****"),
        ("Bearer eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dBjftJeZ4CVP-mB92K27uhbU", "Bearer ****"),
        ("ms-01234567-89ab-cdef-0123-456789abcdef", "****"),
        ("dckr_pat_" + "a-B" * 9, "****"),
        ("npm_" + "aB3" * 12, "****"),
        ("x -----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY----- y", "x **** y"),
        ("ms-swift npm_config AIza eyJ.eyJ glpat", "ms-swift npm_config AIza eyJ.eyJ glpat"),
        ("hf_short", "hf_short"),
    ],
)  # fmt: skip
def test_urls_and_tokens_are_known_by_their_form(text, left):
    assert redact_text(text, ()) == left
    assert (has_credentials(text) or has_token(text)) == (text != left)


def test_what_is_printed_holds_no_secret_and_nothing_that_a_terminal_obeys(secrets):
    said = clean(f"a {os.environ['DB_PASSWORD']}\x1b]0;title\x07\x1b[2J\r\x9b31m\u202egnp.exe\ud800\nb\tc")
    assert said == "a ****\ufffd]0;title\ufffd\ufffd[2J\ufffd\ufffd31m\ufffdgnp.exe\ufffd\nb\tc"


SPLIT = [
    "correct-ho\x1b[0mrse-battery",
    "\x1b[31mcorrect-horse-\x1b[0;1mbattery\x1b[0m",
    "correct-\x1b]0;t\x07horse-battery",
    "cor\x00rect-horse-batter\x08y",
]


@pytest.mark.parametrize("text", SPLIT)
def test_a_secret_that_a_sequence_splits_is_found(tmp_path, secrets, text):
    log = tmp_path / "a.log"
    log.write_bytes(f"a {text} z\n".encode())
    assert "battery" not in redact_text(text, [PASSWORD])
    (line,) = LogFollower(log).iter_lines()
    assert (line[:2], line[-2:], "rse" in line) == ("a ", " z", False)
    assert scrub_log(log, [PASSWORD]) == 1
    assert (log.stat().st_size, b"rse" in log.read_bytes()) == (len(text.encode()) + 5, False)


@pytest.mark.parametrize("before", [MAX_PENDING_CHARS - n for n in (-3, 0, 1, 5, 17, 30)])
@pytest.mark.parametrize("secret", [TOKEN, PASSWORD, "https://me:pw-of-mine@mirror.example"])
def test_a_secret_at_the_joint_of_a_line_without_end_is_found(tmp_path, secrets, before, secret):
    log = tmp_path / "a.log"
    follower, seen = LogFollower(log), []
    text = "x" * (before - 1) + " " + secret + " " + "y" * 2 * MAX_PENDING_CHARS + "\n"
    for place in range(0, len(text), 1000):
        with log.open("a") as stream:
            stream.write(text[place : place + 1000])
        seen += follower.iter_lines()
    assert "".join(seen) == redact_text(text.rstrip(), [TOKEN, PASSWORD])
    assert max(map(len, seen)) < MAX_PENDING_CHARS + 2000


def test_a_private_key_is_taken_out_of_a_log_line_by_line(tmp_path):
    log = tmp_path / "a.log"
    log.write_text("a\n-----BEGIN PRIVATE KEY-----\nMIIEvQIB\nADANBg\n-----END PRIVATE KEY-----\nb\n")
    assert list(LogFollower(log).iter_lines()) == ["a", "****", "****", "****", "****", "b"]
    scrub_log(log, [])
    assert (log.read_text()[:2], log.read_text()[-3:], log.read_text().count("\n")) == ("a\n", "\nb\n", 6)
    assert "MII" not in log.read_text()


@pytest.mark.parametrize(
    "piece",
    [
        "https://a@b ",
        "hf_" + "a1" * 17 + " ",
        "://u:",
        "://",
        "-eyJ",
        "sk-",
        "-----BEGIN PRIVATE KEY-----",
        "\x1b[0m",
        "\x1b]",
        "correct-horse-battery ",
    ],
)
def test_the_time_for_a_log_grows_with_its_length_alone(tmp_path, piece):
    """A megabyte takes a second or two at most; the square of its length took minutes."""
    log = tmp_path / "a.log"
    log.write_text(piece * (1_000_000 // len(piece)))
    begun = time.process_time()
    scrub_log(log, [PASSWORD])
    assert time.process_time() - begun < 8


API_KEY = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    "written",
    [
        f"name: {API_KEY}",
        f"name: toy # {API_KEY}",
        f"train: {{run_name: 'x{API_KEY}y'}}",
        'name: "0123456789abcdef0123456789abcdef\\x30\\x31234567"',
        "name: >-\n  correct\n  horse\n  battery",
        f"{API_KEY}: 1",
        "data: [a, [b, {c: 'npm_" + "a1B" * 12 + "'}]]",
    ],
)
def test_a_recipe_that_holds_a_secret_is_refused_wherever_it_stands(monkeypatch, written):
    monkeypatch.setenv("WANDB_API_KEY", API_KEY)
    monkeypatch.setenv("DB_PWD", "correct horse battery")
    problems = parse_source(written, "r.yaml").problems
    assert len(problems) == 1
    assert ("secret of your environment" in problems[0].message) == ("npm_" not in written)
    assert "your shell" in problems[0].hint
    assert API_KEY not in f"{problems}"


@pytest.mark.parametrize("text", [f"train.run_name={API_KEY}", "name='correct\\u002dx'", f"train.{API_KEY}=1"])
def test_an_override_that_holds_a_secret_is_refused(monkeypatch, text):
    monkeypatch.setenv("WANDB_API_KEY", API_KEY)
    monkeypatch.setenv("DB_PWD", "correct-x")
    text = text.replace("'", '"')
    with pytest.raises(RecipeError, match="the value holds the value of [A-Z_]*, a secret") as caught:
        apply_overrides(parse_source("name: toy", "r.yaml"), (text,))
    assert API_KEY not in clean(format_error(caught.value))
