"""`orch check`, `orch doctor RECIPE` and `orch run` give one answer: the same exit code, the same words."""

from __future__ import annotations

import gzip
import importlib
import json
import shutil
from pathlib import Path

import pytest

from orchestrator import checks as preflight
from orchestrator.cli import main
from orchestrator.errors import RunFolderError
from orchestrator.machine import hardware
from tests.bad_input.case import GOOD, RECIPE, ROW, ROWS, BadInput, edited

ENDS_WITH = {"check": (), "doctor": (), "run": ("-o", "out")}
CONFIG = json.loads(str(GOOD["model/config.json"]))
LARGE = CONFIG | {
    "hidden_size": 8192, "intermediate_size": 28672, "num_attention_heads": 64, "num_hidden_layers": 80,
    "num_key_value_heads": 8, "rms_norm_eps": 1e-6, "vocab_size": 4,
}  # fmt: skip


def data(name: str, content: str | bytes) -> dict[str, str | bytes]:
    return {"recipe.yaml": RECIPE.replace("train.jsonl", name), name: content}


CASES = {  # what was found in a recipe, its data and its model: files, exit code, words
    "misspelt argument": (edited("learning_rate", "learning_rat"), 2, "learning_rat"),
    "argument of another version": (edited("  learning_rate: 1e-4", "  fp16: true"), 2, "fp16"),
    "no such model": (edited("./model", "./modle"), 4, "no such model folder"),
    "no weights": ({"model/model.safetensors": None}, 4, "holds no weights"),
    "fewer layers": ({"model/config.json": json.dumps(CONFIG | {"num_hidden_layers": 2})}, 4, "says 2 layers"),
    "no tokenizer": ({"model/tokenizer.json": None}, 4, "has no tokenizer"),
    "longer than the model": (
        {"model/config.json": json.dumps(CONFIG | {"max_position_embeddings": 64})}, 4, "reads 64 tokens at most",
    ),
    "code that nobody trusts": (
        {"model/config.json": json.dumps(CONFIG | {"auto_map": {"AutoModel": "code.Model"}}),
         "recipe.yaml": RECIPE.replace("backend: flagembedding", "backend: sentence-transformers\nloss: pointwise_bce")},
        2, "brings Python code along",
    ),
    "an Excel file": (data("train.xlsx", b"PK\x03\x04" + bytes(60)), 3, "broken-sheet"),
    "an Arrow file": (data("train.arrow", b"ARROW1\0\0" + bytes(60)), 3, "cannot read it"),
    "a broken bzip2": (data("train.jsonl", b"BZh91AY" + bytes(60)), 3, "not-readable"),
    "a table in GBK": (data("train.csv", "query,pos,neg\n红隼,一种鸟,一辆车\n".encode("gbk")), 3, "bad-utf-8"),
    "UTF-16": (data("train.jsonl", ROWS.encode("utf-16")), 3, "utf-16"),
    "a cut line": (data("train.jsonl", ROWS + "{\n"), 3, "not-json"),
    "no negatives": (data("train.jsonl", ROWS + ROW.replace('"a car", "a tree"', "")), 3, "no-negative"),
    "an empty file": (data("train.jsonl", ""), 3, "empty-file"),
    "evaluated on what is trained": (edited("eval.jsonl", "train.jsonl"), 3, "same-file"),
    "model and data": ({"model/tokenizer.json": None, **data("train.jsonl", "{\n")}, 4, "not-json"),
}  # fmt: skip


def ask(verb: str, folder: Path, capsys, *more: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        main([verb, str(folder / "recipe.yaml"), *ENDS_WITH[verb], *more])
    lines = capsys.readouterr().err.splitlines()
    return int(ended.value.code or 0), "\n".join(lines)


def write(files, folder: Path) -> None:
    BadInput("case", "", (), 0, "", "", "", files).write(folder)


@pytest.mark.parametrize("case", CASES)
def test_what_a_run_refuses_is_refused_by_all_three_in_the_same_words(case, tmp_path, monkeypatch, capsys):
    files, code, says = CASES[case]
    write(files, tmp_path)
    monkeypatch.chdir(tmp_path)
    answers = {verb: ask(verb, tmp_path, capsys) for verb in ENDS_WITH}
    assert answers["run"][0] == code, answers["run"]
    assert says in answers["run"][1]
    assert answers["check"] == answers["doctor"] == answers["run"]
    assert not (tmp_path / "out").exists()


def test_the_memory_of_the_gpus_is_asked_by_all_three(tmp_path, monkeypatch, capsys):
    write({"model/config.json": json.dumps(LARGE), "model/model.safetensors": None}, tmp_path)
    monkeypatch.chdir(tmp_path)
    small = hardware.parse_hardware("gpu:1:8g")
    monkeypatch.setattr(hardware, "find_hardware", lambda: small)
    answers = {verb: ask(verb, tmp_path, capsys) for verb in ENDS_WITH}
    assert "its weights alone take" in answers["run"][1]
    assert answers["check"] == answers["doctor"] == answers["run"]
    named = ask("check", tmp_path, capsys, "--hardware", "gpu:1:8g")
    assert "its weights alone take" in named[1]


def test_the_disk_is_asked_by_all_three(tmp_path, monkeypatch, capsys):
    write({}, tmp_path)
    monkeypatch.chdir(tmp_path)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=1024**2))
    answers = {verb: ask(verb, tmp_path, capsys) for verb in ENDS_WITH}
    assert "only 1 MiB are free" in answers["run"][1]
    assert answers["check"] == answers["doctor"] == answers["run"]


def test_what_the_prepare_stage_warns_of_is_said_by_all_three_before_it_runs(tmp_path, monkeypatch, capsys):
    from orchestrator.cli import run_commands

    def refuse(*_args, **_more):
        raise RunFolderError("as far as this")

    monkeypatch.setattr(run_commands, "create_run", refuse)
    monkeypatch.setattr(preflight, "CHECKS", [check for check in preflight.CHECKS if check.kind != "ask"])
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    write(data("train.jsonl", ROWS + ROW.replace("{", '{"stars": 5, ', 1)), tmp_path)
    for _ in range(2):  # the second time, the verdict is remembered
        said = {verb: ask(verb, tmp_path, capsys)[1] for verb in ENDS_WITH}
        for verb, text in said.items():
            assert 'note: unknown-keys: keys that are not used (in how many rows): "stars" (1)' in text, verb
    with pytest.raises(SystemExit):
        main(["doctor", str(tmp_path / "recipe.yaml"), "--json"])
    advice = json.loads(capsys.readouterr().out)["data"]["advice"]
    assert any(one["message"].startswith("unknown-keys: ") and one["hint"] for one in advice)


def test_rows_of_large_files_are_looked_at_too(tmp_path, monkeypatch, capsys):
    from orchestrator.checks import data_files

    monkeypatch.setattr(data_files, "SMALL_BYTES", 10)
    monkeypatch.setattr(preflight, "CHECKS", [check for check in preflight.CHECKS if check.kind != "ask"])
    monkeypatch.chdir(tmp_path)
    write(data("train.jsonl", ROWS + "{\n"), tmp_path)
    code, said = ask("check", tmp_path, capsys)
    assert (code, "train.jsonl:9: not-json" in said) == (3, True)
    (tmp_path / "train.jsonl").write_bytes(gzip.compress(ROWS.replace("car", "caf\xe9").encode("latin-1")))
    assert "bad-utf-8" in ask("check", tmp_path, capsys)[1]
    # what may be dropped is no reason to refuse
    (tmp_path / "train.jsonl").write_text(ROWS + "{\n")
    assert "not-json" not in ask("check", tmp_path, capsys, "--set", "data.max_dropped=1")[1]


def test_another_machine_is_not_asked_for_what_this_one_lacks(tmp_path, monkeypatch, capsys):
    write({}, tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(preflight, "CHECKS", [check for check in preflight.CHECKS if check.kind != "ask"])
    assert "WORLD_SIZE" in ask("check", tmp_path, capsys)[1]
    assert "WORLD_SIZE" not in ask("check", tmp_path, capsys, "--hardware", "gpu")[1]


def test_another_machine_may_have_the_packages_that_a_recipe_asks_for(tmp_path, monkeypatch, capsys):
    write(edited("  learning_rate: 1e-4", "  learning_rate: 1e-4\n  use_flash_attn: true\n  lora_rank: 8"), tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(preflight, "CHECKS", [check for check in preflight.CHECKS if check.kind != "ask"])
    assert "use_flash_attn" in ask("check", tmp_path, capsys)[1]
    assert "flash" not in ask("check", tmp_path, capsys, "--hardware", "gpu")[1]


def test_every_check_and_every_advice_of_the_room_is_asked_once():
    written = set()
    for path in Path(preflight.__file__).parent.glob("*.py"):
        module = importlib.import_module(
            f"orchestrator.checks.{path.stem}" if path.stem != "__init__" else "orchestrator.checks"
        )
        names = [name for name in vars(module) if name.startswith(("check_", "advise_"))]
        found = [getattr(module, name) for name in names]
        written |= {one for one in found if getattr(one, "__module__", "").startswith("orchestrator.checks")}
    asked = [check.find for check in preflight.CHECKS]
    assert len(asked) > 20
    assert len(set(asked)) == len(asked)
    assert set(asked) == written
