from __future__ import annotations

import json
import sys

import pytest

from orchestrator.workers import export_model
from orchestrator.workers.failure import WorkerError
from tests.workers.conftest import run_worker, save_adapter

WRITER = """
import argparse, shutil, sys
from pathlib import Path
if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--from", dest="source")
    parser.add_argument("--output_dir", type=Path)
    parser.add_argument("--without", nargs="*", default=[])
    parser.add_argument("--then", default="return")
    options = parser.parse_args()
    assert not options.output_dir.exists()
    if options.then != "skip":
        shutil.copytree(options.source, options.output_dir)
    for name in options.without:
        (options.output_dir / name).unlink()
    if options.then == "exit":
        sys.exit(3)
    if options.then == "raise":
        raise ValueError("no room")
    if options.then == "empty":
        (options.output_dir / "config.json").write_text("")
    if options.then == "say":
        sys.exit("words")
    sys.exit(0)
"""


@pytest.fixture(autouse=True)
def writer(tmp_path, monkeypatch):
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "folder_writer.py").write_text(WRITER)
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))


@pytest.fixture
def out(tmp_path):
    (tmp_path / "stage").mkdir()
    return tmp_path / "stage" / "model"


def run(out, source, *more, options=()):
    written = ["folder_writer", "--from", str(source), "--output_dir", "{fresh}", *more]
    return export_model.main(["--out", str(out), *map(str, options), "--", *written])


def test_a_module_writes_into_a_folder_that_gets_its_name_at_the_end(out, decoder):
    argv = list(sys.argv)
    assert run(out, decoder, options=["--require", "tokenizer.json", "generation_config.json"]) == 0
    assert {path.name for path in out.iterdir()} == {path.name for path in decoder.iterdir()}
    assert [path.name for path in out.parent.iterdir()] == ["model"]
    assert sys.argv == argv


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--then", "raise"], "folder_writer failed: ValueError: no room"),
        (["--then", "say"], "folder_writer: words"),
        (["--then", "skip"], "wrote no folder"),
        (["--then", "empty"], "config.json"),
        (["--without", "config.json"], "left config.json out"),
        (["--without", "model.safetensors"], "no \\*.safetensors"),
        (["--without", "tokenizer.json"], "left tokenizer.json out"),
    ],
)
def test_half_a_model_is_refused_and_nothing_is_left(out, decoder, more, words):
    with pytest.raises(WorkerError, match=words):
        run(out, decoder, *more, options=["--require", "tokenizer.json"])
    assert not list(out.parent.iterdir())


def test_weights_that_are_not_finite_are_refused(out, decoder, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    broken = shutil.copytree(decoder, tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    tensors[min(tensors)][0] = float("nan")
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WorkerError, match="diverged"):
        run(out, broken)
    assert not out.exists()


def test_the_modules_exit_code_is_passed_on(out, decoder, capsys):
    assert run(out, decoder, "--then", "exit") == 3
    assert "folder_writer ended with exit code 3" in capsys.readouterr().err
    assert not list(out.parent.iterdir())


def test_a_folder_that_exists_is_kept_unless_it_is_to_be_replaced(out, decoder):
    out.mkdir()
    (out / "old").write_text("")
    with pytest.raises(WorkerError, match="exists already: choose another or remove it"):
        run(out, decoder)
    with pytest.raises(WorkerError):
        run(out, decoder, "--then", "raise", options=["--replace"])
    assert [path.name for path in out.iterdir()] == ["old"]
    assert run(out, decoder, options=["--replace"]) == 0
    assert (out / "config.json").is_file()
    assert not (out / "old").exists()


def test_a_forgotten_tokenizer_is_added(out, decoder):
    forgot = ["--without", "tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"]
    assert run(out, decoder, *forgot, options=["--tokenizer-from", decoder, "--require", "tokenizer.json"]) == 0
    assert (out / "tokenizer.json").read_bytes() == (decoder / "tokenizer.json").read_bytes()


def test_the_arguments_must_name_the_folder_and_the_module_must_be_there(out, decoder):
    with pytest.raises(WorkerError, match="holds {fresh}"):
        export_model.main(["--out", str(out), "--", "folder_writer", "--output_dir", "x"])
    with pytest.raises(WorkerError, match="no module not_installed.cli"):
        export_model.main(["--out", str(out), "--", "not_installed.cli", "{fresh}"])
    with pytest.raises(SystemExit):
        export_model.main(["--out", str(out)])


def test_an_untrained_adapter_is_refused_before_anything_runs(out, decoder, tmp_path):
    save_adapter(decoder, tmp_path / "checkpoint-1", scale=0)
    with pytest.raises(WorkerError, match="every lora_B is zero"):
        export_model.main(
            ["--out", str(out), "--", "folder_writer", "--adapters", str(tmp_path / "checkpoint-1"), "{fresh}"]
        )
    assert not out.exists()


def test_swifts_export_runs_inside_and_says_which_checkpoint_it_merges(tmp_path, decoder, out):
    save_adapter(decoder, tmp_path / "checkpoint-7", scale=0.1)
    (tmp_path / "best").symlink_to("checkpoint-7")
    arguments = ["--model", decoder, "--model_type", "qwen3", "--template", "qwen3"]
    arguments += ["--adapters", tmp_path / "best", "--merge_lora", "true", "--output_dir", "{fresh}"]
    done = run_worker(
        "fresh", "--out", out, "--require", "tokenizer.json", "--", "swift.cli.export", *arguments, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "merging checkpoint-7 (best)" in done.stdout
    assert json.loads((out / "config.json").read_text(encoding="utf-8"))["architectures"] == ["Qwen3ForCausalLM"]
    assert [path.name for path in out.parent.iterdir()] == ["model"]
