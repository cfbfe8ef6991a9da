"""A verb is added in two places: a module beside the others, and its row in the list of commands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator import cli


@pytest.fixture(autouse=True)
def greet(monkeypatch):
    monkeypatch.setattr(cli, "__path__", [*cli.__path__, str(Path(__file__).with_name("verb"))])
    monkeypatch.setitem(cli._COMMANDS, "greet", ("greet_commands", "Greet somebody."))


def call(capsys, *argv):
    with pytest.raises(SystemExit) as ended:
        cli.main(list(argv))
    said = capsys.readouterr()
    return ended.value.code, said.out, said.err


def test_a_new_verb_is_listed_and_answers_people(capsys):
    assert "Greet somebody." in call(capsys, "--help")[1]
    assert call(capsys, "greet", "you") == (0, "hello, you\n", "")


def test_a_new_verb_answers_programs_in_the_envelope_of_the_others(capsys):
    code, out, _ = call(capsys, "greet", "you", "--json")
    assert (code, json.loads(out)) == (0, {"version": 1, "command": "greet", "ok": True, "data": {"name": "you"}})


def test_a_new_verb_ends_with_the_code_of_its_result_or_of_its_error(capsys):
    assert call(capsys, "greet", "later")[0] == 8
    code, _, err = call(capsys, "greet", "nobody")
    assert (code, err) == (3, "data: there is nobody to greet\n    → name somebody\n")
    assert json.loads(call(capsys, "greet", "nobody", "--json")[1])["error"]["exit_code"] == 3
