"""Permissions come from who types the command, or from the recipe: never from the folder that is judged."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from orchestrator.cli import main
from orchestrator.workers import score
from orchestrator.workers.chat import score as chat_score

SPECS = {
    "cross-encoder": {"scorer": "cross-encoder", "dtype": "float32"},
    "embedding": {"scorer": "embedding", "dtype": "float32", "tool": "swift", "model_type": "bert", "template": "bert"},
    "chat": {"scorer": "chat", "dtype": "float32", "tool": "swift", "model_type": "qwen3", "template": "qwen3"},
}
ASK = {
    "cross-encoder": ("-q", "how", "-d", "honey"),
    "embedding": ("-q", "how", "-d", "honey"),
    "chat": ("-p", "how"),
}


def call(capsys, *argv: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(map(str, argv)))
    said = capsys.readouterr()
    return int(ended.value.code or 0), said.out, said.err


@pytest.fixture
def evil(tmp_path):
    """Return how to make a packaged folder that brings code, and allows itself to have it run."""

    def make(kind: str) -> tuple[Path, Path]:
        folder, pwned = tmp_path / "evil", tmp_path / "pwned"
        folder.mkdir()
        (folder / "evil.py").write_text(f"open({str(pwned)!r}, 'w').close()\n")
        auto_map = {"AutoConfig": "evil.Config", "AutoModel": "evil.Model", "AutoTokenizer": ["evil.T", None]}
        (folder / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": auto_map}))
        spec = {"version": 1, **SPECS[kind], "trust_remote_code": True, "allow_pickle": True}
        (folder / "scoring.json").write_text(json.dumps(spec))
        return folder, pwned

    return make


@pytest.mark.parametrize("kind", SPECS)
def test_predict_runs_no_code_of_a_folder_that_trusts_itself(evil, capsys, kind):
    folder, pwned = evil(kind)
    code, out, err = call(capsys, "predict", folder, *ASK[kind])
    assert (code, out) == (4, "")
    assert "brings Python code of its own (evil.py)" in err
    assert "--trust-remote-code" in err
    assert not pwned.exists()


@pytest.mark.parametrize("words", [(), ("--dry-run",), ("--check",)])
def test_serve_runs_no_code_of_a_folder_that_trusts_itself(evil, capsys, words):
    folder, pwned = evil("embedding")
    code, out, err = call(capsys, "serve", folder, "--backend", "swift", *words)
    assert (code, out) == (4, "")
    assert "--trust-remote-code" in err
    assert not pwned.exists()


def test_who_types_the_command_may_trust_the_folder(evil, capsys):
    folder, _ = evil("chat")
    code, out, _ = call(capsys, "serve", folder, "--backend", "vllm", "--dry-run", "--trust-remote-code")
    assert code == 0
    assert "--trust-remote-code" in out


@pytest.mark.parametrize(("words", "trusted"), [((), False), (("--trust-remote-code",), True)])
def test_the_worker_asks_its_command_and_not_the_folder(evil, monkeypatch, capsys, words, trusted):
    folder, _ = evil("chat")
    seen = []
    monkeypatch.setattr(chat_score, "predict", lambda _model, raw, _rows, _device: seen.append(raw) or ([], {}))
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert score.predict(["--model", str(folder), *words]) == 0
    assert [raw["trust_remote_code"] for raw in seen] == [trusted]
