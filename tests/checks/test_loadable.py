"""Models that a command names are checked like those of a recipe: files, hub, code, pickles, and whether they load."""

from __future__ import annotations

import json
import sys

import pytest
from msgspec.structs import replace

from orchestrator.backends.models import BaseModel
from orchestrator.checks.model_loading import ALLOW_PICKLE, NamedModel, Permissions, find_loadable, require_loadable
from orchestrator.errors import PreflightError, Problem

HUB_ID = "owner/reranker"
CODE = {"auto_map": {"AutoModel": "modeling_mine.Mine"}}


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(ALLOW_PICKLE, raising=False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


@pytest.fixture
def python(tmp_path):
    """Return a program that stands for a Python: it ends with this code and says this."""

    def python(code: int, said: str) -> str:
        path = tmp_path / "python"
        asked = tmp_path / "asked"
        stream = "" if code == 0 else " >&2"
        path.write_text(
            f"#!/bin/sh\n[ \"$2\" = inspect_model ] || exit 1\necho asked >> {asked}\necho '{said}'{stream}\nexit {code}\n"
        )
        path.chmod(0o755)
        return str(path)

    return python


@pytest.fixture
def loads(python):
    return python(0, "{}")


@pytest.fixture
def hub(start_hub, monkeypatch):
    """Start a hub that gives this config.json, and these files beside it."""

    def start(config: dict[str, object], *files: str) -> BaseModel:
        listing = {"siblings": [{"rfilename": name, "size": 1} for name in files]}

        def answer(_method: str, path: str) -> tuple[int, bytes]:
            return 200, json.dumps(listing if path.startswith("/api/") else config).encode()

        monkeypatch.setenv("HF_ENDPOINT", start_hub(answer))
        return BaseModel(HUB_ID, HUB_ID, None, "encoder", "cross-encoder")

    return start


def refuse(*named: NamedModel) -> list[tuple[str, str]]:
    with pytest.raises(PreflightError) as raised:
        require_loadable(named)
    return [(problem.message, problem.hint or "") for problem in raised.value.problems]


def test_a_whole_folder_that_loads_passes_and_is_asked_about_once(folder, loads, tmp_path):
    for _ in range(2):
        require_loadable([NamedModel(folder.model(), loads)])
    assert (tmp_path / "asked").read_text() == "asked\n"


def test_every_model_is_checked_and_nothing_is_started_for_those_that_are_broken(folder, loads, tmp_path):
    folder.remove("tokenizer.json").remove("model.safetensors")
    found = refuse(*[NamedModel(folder.model(), loads)] * 2)
    assert ["holds no weights" in message for message, _ in found] == [True, False]
    assert "has no tokenizer" in found[1][0]
    assert not (tmp_path / "asked").exists()


def test_pickles_are_refused_until_an_option_or_the_environment_allows_them(folder, loads, monkeypatch):
    folder.remove("model.safetensors").write("pytorch_model.bin", "x")
    ((message, hint),) = refuse(NamedModel(folder.model(), loads))
    assert "pickles only" in message
    assert "--allow-pickle" in hint
    require_loadable([NamedModel(folder.model(), loads, permissions=Permissions(allow_pickle=True))])
    monkeypatch.setenv(ALLOW_PICKLE, "1")
    require_loadable([NamedModel(folder.model(), loads)])
    assert Permissions().env == {ALLOW_PICKLE: "1"}


def test_a_head_that_is_not_there_matters_where_the_model_is_asked_for_words(folder, loads):
    folder.config(tie_word_embeddings=False)
    require_loadable([NamedModel(folder.model(), loads)])
    ((message, _),) = refuse(NamedModel(folder.model(), loads, use="words"))
    assert "lm_head" in message


def test_code_that_transformers_wants_to_run_is_refused_with_the_option_that_trusts_it(folder, python, tmp_path):
    wanting = python(1, "ValueError: The repository m contains custom code which must be executed")
    ((message, hint),) = refuse(NamedModel(folder.config(**CODE).model(), wanting))
    assert "brings Python code along, and does not load without it" in message
    assert "--trust-remote-code" in hint
    assert (tmp_path / "asked").read_text() == "asked\n"  # PyTorch would not change that


def test_code_that_transformers_does_not_need_is_let_through(folder, loads):
    require_loadable([NamedModel(folder.config(**CODE).model(), loads)])


def test_what_does_not_load_is_said_in_the_words_of_its_library(folder, python):
    ((message, hint),) = refuse(NamedModel(folder.model(), python(1, "its tokenizer does not load: no such class")))
    assert message == "its tokenizer does not load: no such class"
    assert "download the model again" in hint


def test_offline_a_model_of_a_hub_is_refused_unasked(monkeypatch, loads):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    ((message, hint),) = refuse(NamedModel(BaseModel(HUB_ID, HUB_ID, None, "encoder", None), loads))
    assert f"{HUB_ID} is not on this machine, and HF_HUB_OFFLINE forbids" in message
    assert "name a folder" in hint
    assert "--smoke" not in hint


def test_a_hub_that_cannot_be_reached_is_named(monkeypatch, loads):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    ((message, _),) = refuse(NamedModel(BaseModel(HUB_ID, HUB_ID, None, "encoder", None), loads))
    assert "http://127.0.0.1:1 cannot be reached" in message


def test_a_model_of_a_hub_is_judged_by_its_config_before_the_download(hub, loads):
    model = hub({"architectures": ["BertModel"], **CODE}, "model.safetensors")
    seen = []

    def find_misfit(found: BaseModel) -> Problem:
        seen.append(found.architectures)
        return Problem("no head", "another model")

    (code, _), (misfit, _) = refuse(NamedModel(model, loads, find_misfit=find_misfit))
    assert (code, misfit) == (f"{HUB_ID} brings Python code along", "no head")
    assert seen == [("BertModel",)]
    require_loadable([NamedModel(replace(model, trust_remote_code=True), loads)])


def test_a_model_of_a_hub_with_pickles_only_is_refused_with_the_option(hub, loads):
    ((message, hint),) = refuse(NamedModel(hub({}, "pytorch_model.bin"), loads))
    assert "has no safetensors on the hub" in message
    assert hint.endswith("or give --allow-pickle")


def test_a_folder_of_unknown_family_can_be_loaded_all_the_same(folder):
    found = find_loadable(str(folder.config(architectures=["OddModel"]).path), trust_remote_code=True)
    assert (found.folder, found.trust_remote_code) == (folder.path, True)


def test_checking_models_imports_no_ml_library():
    from orchestrator.machine.process import run

    program = (
        "import sys; import orchestrator.checks.model_loading\n"
        "print([name for name in ('torch', 'transformers', 'numpy') if name in sys.modules])"
    )
    assert run((sys.executable, "-c", program), 120.0).stdout.strip() == "[]"


def test_the_python_that_looks_at_pickles_is_told_that_they_are_allowed(folder):
    allowed = NamedModel(folder.model(), "python", {"A": "1"}, Permissions(allow_pickle=True))
    assert allowed.variables == {"A": "1", ALLOW_PICKLE: "1"}


@pytest.mark.parametrize("architecture", ["BertModel", "Qwen3ForCausalLM", "NobodyKnows"])
def test_a_model_of_any_family_is_found_without_a_word_of_it(folder, architecture):
    folder.config(architectures=[architecture], model_type=architecture[:4].lower())
    assert find_loadable(str(folder.path), trust_remote_code=False).folder == folder.path
