"""What `orch serve --show` says of servers that Orch does not start: for each kind a way, or the reason why not."""

from __future__ import annotations

import json
import shlex

import pytest
import yaml

from orchestrator.backends.render import find_templates
from orchestrator.backends.scorers import SCORERS
from orchestrator.errors import PreflightError
from orchestrator.serving.artefact import load_artefact
from orchestrator.serving.server import Address, show_engine
from tests.serving.real_servers import PAGE, RECORD, build_table

ENGINES = yaml.safe_load((find_templates() / "serve" / "engines.yaml").read_text(encoding="utf-8"))
PACKAGED = {name for name, row in SCORERS.items() if row.get("packaged")}


def show(name, folder, model="my model"):
    return show_engine(name, load_artefact(folder, model, "/venv/bin/python"), Address("127.0.0.1", 8000))[0]


@pytest.mark.parametrize("name", sorted(set(ENGINES) - {"docker-compose"}))
def test_every_packaged_kind_has_a_way_or_a_reason(name):
    takes, cannot = set(ENGINES[name]["takes"]), set(ENGINES[name]["cannot"])
    assert takes | cannot == PACKAGED
    assert not takes & cannot


@pytest.mark.parametrize("name", sorted(ENGINES))
def test_what_is_shown_holds_the_folder_and_nothing_unfilled(package, name):
    folder = package("embedding", pooling="mean", dims=3)
    text = show(name, folder)
    assert str(folder) in text
    assert ("my model" in text) is ("name" in ENGINES[name]["text"].replace("hostname", ""))
    assert "$" not in text.replace("${ORCH_API_KEY", "")


def test_layers_behind_the_pooling_are_refused_where_a_server_drops_them(package):
    folder = package("embedding", pooling="mean", dims=3)
    assert "--pooling mean" in show("llama.cpp", folder)
    (folder / "modules.json").write_text('[{"path": "2_Dense", "type": "sentence_transformers.models.Dense"}]')
    with pytest.raises(PreflightError, match="drops the layers behind the pooling"):
        show("llama.cpp", folder)
    assert show("infinity", folder)


def test_the_export_of_an_llm_reranker_is_refused_by_a_server_that_writes_no_template(package):
    folder = package("cross-encoder")
    assert show("infinity", folder)
    (folder / "chat_template.jinja").write_text("{{ (messages | selectattr('role', 'equalto', 'document') | first) }}")
    with pytest.raises(PreflightError, match="joins the two texts itself"):
        show("infinity", folder)


@pytest.mark.parametrize(("said", "thinks"), [({}, "false"), ({"enable_thinking": True}, "true")])
def test_llama_cpp_is_told_whether_a_chat_model_thinks(package, said, thinks):
    """It says `enable_thinking` to every template; the packaged template's own default was trained."""
    text = show("llama.cpp", package("chat", template_args=said))
    assert f"--jinja --chat-template-kwargs '{{\"enable_thinking\": {thinks}}}'" in text


def test_a_name_with_a_quote_stays_one_word(package):
    text = show("tei", package("cross-encoder"))
    words = shlex.split(text.replace("\\\n", " "))
    assert words[words.index("--model-id") + 1].endswith("/cross-encoder/model")
    file = json.loads(show("xinference", package("embedding", dims=3), model='a "b"'))
    assert file["model_name"] == 'a "b"'
    assert file["dimensions"] == 3
    assert file["model_specs"][0]["model_uri"].startswith("file:///")


def test_the_composed_server_has_the_checked_command_a_health_check_and_no_key(package, monkeypatch):
    monkeypatch.setenv("ORCH_API_KEY", "sesame-open-the-door")
    text = show("docker-compose", package("cross-encoder"), model="mine")
    service = yaml.safe_load(text)["services"]["mine"]
    assert service["command"][:2] == ["--model", "/model"]
    assert service["command"][-2:] == ["--runner", "pooling"]
    assert "/health" in service["healthcheck"]["test"][-1]
    assert service["ports"] == ["127.0.0.1:8000:8000"]
    assert "sesame" not in text


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("llama.cpp", "cross-encoder", "order turned round"),
        ("tei", "chat", "encoders only"),
        ("docker-compose", "generative", "chat_template.jinja"),
        ("nginx", "chat", "known are infinity"),
    ],
)
def test_a_kind_that_a_server_cannot_take_is_refused_with_the_reason(package, name, kind, said):
    with pytest.raises(PreflightError) as caught:
        show(name, package(kind))
    problem = caught.value.problems[0]
    assert said in f"{problem.message} {problem.hint}"


def test_the_table_of_the_docs_is_the_record_of_the_real_servers():
    cells = json.loads(RECORD.read_text(encoding="utf-8"))["cells"]
    assert build_table(cells) in PAGE.read_text(encoding="utf-8")
    tried = {cell["kind"].partition(" ")[0] for cell in cells if cell["engine"] == "vllm" and cell["result"] == "equal"}
    assert tried == PACKAGED  # every packaged kind is served with equal numbers by a real server
