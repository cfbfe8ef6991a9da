from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

from orchestrator.workers import merge, package
from orchestrator.workers.chat.encoding import (
    choose_template,
    find_non_thinking_prefix,
    join_turns,
    keeps_thinking,
    load_format,
    render_own,
)
from orchestrator.workers.chat.score import Answer, compare_answers, predict
from orchestrator.workers.engines.transformers import load_tokenizer
from orchestrator.workers.eval_files import BUILT, build_chat_probes, read_chat_rows
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.kinds.chat import check_tied
from orchestrator.workers.reranker.formats import encode_plain
from orchestrator.workers.specs import parse_chat_spec
from orchestrator.workers.weights import hash_file
from tests.workers.conftest import package_arguments, save_adapter
from tests.workers.pinned import check_pinned
from tests.workers.test_chat_score import SPEC, assistant, user


@dataclass(frozen=True)
class TunedChat:
    """What training leaves, as package_arguments wants it."""

    base: Path
    adapter: Path | None
    model: Path
    scoring: Path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("package-chat")


def write_json(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return path


def write_rows(path, conversations):
    lines = [
        {"id": f"r{number}", "messages": messages, "reference": reference, "source": "x", "line": number}
        for number, (messages, reference) in enumerate(conversations, start=1)
    ]
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def single(folder):
    rows = [([user("tell me of tea")], "Green tea is steamed."), ([user("北京？")], "北京是中国的首都。")]
    return write_rows(folder / "single.jsonl", rows)


@pytest.fixture(scope="module")
def multi(folder):
    rows = [([user("I am Ada."), assistant("Hello."), user("Who am I?")], "Ada.")]
    return write_rows(folder / "multi.jsonl", rows)


@pytest.fixture(scope="module")
def tuned(folder, train_file):
    """Return a chat model with an adapter and args.json as ms-swift leaves them, merged."""
    from orchestrator.workers import tiny_model

    base, adapter = folder / "base", folder / "checkpoint-2"
    assert tiny_model.main(["--like", "chat", "--texts", str(train_file), "--out", str(base)]) == 0
    save_adapter(base, adapter, scale=0.1)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (adapter / name).unlink(missing_ok=True)
    recorded = {
        "template": "qwen3",
        "system": None,
        "loss_scale": "default+ignore_empty_think",
        "task_type": "causal_lm",
    }
    write_json(adapter / "args.json", {**recorded, "add_non_thinking_prefix": True, "model": str(base)})
    assert merge.main(["--adapter", str(adapter), "--out", str(folder / "merged")]) == 0
    return TunedChat(base, adapter, folder / "merged", write_json(folder / "chat.json", SPEC))


@pytest.fixture(scope="module")
def packaged(folder, tuned, single):
    out = folder / "packaged"
    assert package.main(package_arguments(tuned, single, out, device="cpu")) == 0
    return out


def read_report(out):
    return json.loads((out.parent / f"{out.name}.verification.json").read_text(encoding="utf-8"))


def read_scoring(out):
    return json.loads((out / "scoring.json").read_text(encoding="utf-8"))


def test_the_package_is_whole_and_every_check_passed(packaged, tuned):
    names = {path.name for path in packaged.iterdir()}
    assert {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "chat_template.jinja",
        "generation_config.json",
    } <= names
    assert {"README.md", "scoring.json"} <= names
    assert "args.json" not in names
    assert hash_file(packaged / "model.safetensors") == hash_file(tuned.model / "model.safetensors")
    report = read_report(packaged)
    assert report["passed"]
    assert {check["name"] for check in report["checks"]} >= {
        "weights",
        "copied",
        "complete",
        "tied",
        "finite",
        "changed-weights",
        "merged",
        "merge-keeps-training",
        "same-answer",
        "chat-template",
        "stop",
    }


def test_what_is_written_is_what_is_pinned(packaged):
    check_pinned("chat-adapter", packaged, packaged.with_name("packaged.verification.json"))


def test_the_report_holds_the_answers_of_base_adapter_and_package(packaged):
    test = read_report(packaged)["test_prompt"]
    assert test["messages"] == [user("tell me of tea")]
    assert test["adapter"] == test["packaged"]
    assert test["base"] != test["packaged"]


def test_the_user_chooses_the_test_prompt(tuned, single, tmp_path):
    out = tmp_path / "out"
    assert package.main([*package_arguments(tuned, single, out, device="cpu"), "--test-prompt", "Why, {{ x }}?"]) == 0
    assert read_report(out)["test_prompt"]["messages"] == [user("Why, {{ x }}?")]
    assert read_scoring(out)["probes"][0]["messages"] == [user("Why, {{ x }}?")]


def test_the_packaged_template_asks_as_in_training_when_nothing_is_said_of_thinking(packaged, tuned):
    described = read_scoring(packaged)
    assert (described["chat_template"], described["trained_format"]) == ("orch", "ms-swift qwen3")
    assert "thinking is off" in described["chat_template_note"]
    tokenizer = load_tokenizer(str(packaged), trust_remote_code=False)
    trained = load_format(load_tokenizer(str(tuned.base), trust_remote_code=False), parse_chat_spec(SPEC, "x"))
    for probe in (probe for probe in BUILT if probe.origin == "built"):
        prompt = render_own(tokenizer, probe.messages, prompt=True)
        assert encode_plain(tokenizer, prompt) == trained.encode_prompt(probe.messages)
        whole = render_own(tokenizer, join_turns(probe.messages, probe.answer), prompt=False)
        assert encode_plain(tokenizer, whole) == trained.encode(probe.messages, probe.answer).ids
    thinking = render_own(tokenizer, [user("a")], prompt=True, enable_thinking=True)
    assert thinking.endswith("<|im_start|>assistant\n")


def test_the_example_answers_are_those_of_the_package(packaged):
    described = read_scoring(packaged)
    assert len(described["probes"]) == 2
    rows = [("a row", {"messages": probe["messages"]}) for probe in described["probes"]]
    answers, _ = predict(packaged, {**described, "max_new_tokens": 16}, rows, "cpu")
    assert [answer["answer"] for answer in answers] == [probe["answer"] for probe in described["probes"]]
    assert all(probe["least_margin"] > 0 for probe in described["probes"])


def test_every_file_but_card_and_description_is_hashed(packaged):
    hashed = read_scoring(packaged)["files"]
    assert {*hashed, "README.md", "scoring.json"} == {path.name for path in packaged.iterdir()}
    assert hashed["model.safetensors"] == hash_file(packaged / "model.safetensors")


def test_the_card_says_how_to_ask_and_its_code_runs(packaged):
    card = (packaged / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\npipeline_tag: text-generation\n")
    assert "<!-- orch:results -->" in card
    assert "vllm serve" in card
    assert "swift deploy --model path/to/this/folder --model_type qwen3 --template qwen3 " in card
    code = card.split("```python\n")[1].split("```", maxsplit=1)[0].replace("path/to/this/folder", str(packaged))
    exec(compile(code, "card", "exec"), {})  # noqa: S102  the card's own code


def test_generation_stops_where_training_ends_a_turn(packaged, tuned):
    stops = json.loads((packaged / "generation_config.json").read_text(encoding="utf-8"))["eos_token_id"]
    tokenizer = load_tokenizer(str(tuned.base), trust_remote_code=False)
    assert tokenizer.convert_tokens_to_ids("<|im_end|>") in (stops if isinstance(stops, list) else [stops])


def test_a_base_that_stops_elsewhere_gets_the_end_of_a_turn_too(tuned, single, tmp_path):
    model = shutil.copytree(tuned.model, tmp_path / "model")
    write_json(model / "generation_config.json", {"eos_token_id": 5, "temperature": 0.6})
    out = tmp_path / "out"
    assert package.main(package_arguments(tuned, single, out, model=model, device="cpu")) == 0
    config = json.loads((out / "generation_config.json").read_text(encoding="utf-8"))
    end = load_tokenizer(str(out), trust_remote_code=False).convert_tokens_to_ids("<|im_end|>")
    assert (config["eos_token_id"], config["temperature"]) == ([end, 5], 0.6)


def test_conversations_of_several_turns_get_a_template_that_keeps_the_think_block(tuned, multi, tmp_path):
    out = tmp_path / "out"
    assert package.main(package_arguments(tuned, multi, out, device="cpu")) == 0
    assert "written after ms-swift's template" in read_scoring(out)["chat_template_note"]
    check_pinned("chat-turns", out, tmp_path / "out.verification.json")
    tokenizer = load_tokenizer(str(out), trust_remote_code=False)
    trained = load_format(load_tokenizer(str(tuned.base), trust_remote_code=False), parse_chat_spec(SPEC, "x"))
    for probe in BUILT:
        whole = render_own(tokenizer, join_turns(probe.messages, probe.answer), prompt=False)
        assert encode_plain(tokenizer, whole) == trained.encode(probe.messages, probe.answer).ids


@pytest.mark.parametrize(
    ("template", "system", "kind"),
    [
        ("qwen3", None, "written"),
        ("qwen3", "Say {{ x }} \"it\" 'so'.", "written"),
        ("qwen2_5", None, "adjusted"),
        ("qwen3_nothinking", None, "base"),
        ("llama3_2", None, "written"),
        ("chatml", "S", "adjusted"),
    ],
)
def test_a_plain_base_gets_a_template_for_each_format(tuned, multi, template, system, kind):
    tokenizer = load_tokenizer(str(tuned.base), trust_remote_code=False)
    tokenizer.chat_template = (
        "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    )
    spec = parse_chat_spec({**SPEC, "template": template, "system": system}, "x")
    chosen = choose_template(
        tokenizer, load_format(tokenizer, spec), build_chat_probes(read_chat_rows(multi)), turns=True
    )
    assert (chosen.kind, chosen.exact, chosen.differs) == (kind, True, {"data": 0, "built": 0, "turns": 0})


@pytest.mark.parametrize(
    ("template", "prefix", "keeps"),
    [
        # what Template has in ms-swift 3.6, then 3.12, then 4
        ({"loss_scale": SimpleNamespace(name="default")}, "", True),
        ({"loss_scale": SimpleNamespace(name="last_round")}, "", False),
        ({"loss_scale": SimpleNamespace(base_strategy="default"), "add_non_thinking_prefix": True}, "<none>", True),
        ({"loss_scale": SimpleNamespace(base_strategy="last_round"), "add_non_thinking_prefix": False}, "", False),
        ({"_get_preserve_thinking": lambda: False, "add_non_thinking_prefix": True}, "<none>", False),
    ],
)
def test_a_template_of_every_ms_swift_says_what_it_does_with_thoughts(template, prefix, keeps):
    # 3.6 has no prefix in the meta either
    meta = SimpleNamespace(**({"non_thinking_prefix": "<none>"} if "add_non_thinking_prefix" in template else {}))
    found = SimpleNamespace(template_meta=meta, **template)
    assert find_non_thinking_prefix(found) == prefix
    assert keeps_thinking(found) is keeps


def test_a_merge_that_is_not_the_adapters_is_refused_and_leaves_a_report_only(tuned, single, tmp_path):
    from safetensors.torch import load_file, save_file

    model = shutil.copytree(tuned.model, tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    name = next(name for name in tensors if "down_proj" in name)
    tensors[name] = tensors[name] * 1.5
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    out = tmp_path / "out"
    with pytest.raises(WorkerError, match="merged: the merged model scores differently"):
        package.main(package_arguments(tuned, single, out, model=model, device="cpu"))
    assert not out.exists()
    assert not read_report(out)["passed"]
    check_pinned("chat-adapter.tampered", None, tmp_path / "out.verification.json")


def test_the_base_in_the_place_of_the_model_is_refused(tuned, single, tmp_path):
    arguments = package_arguments(tuned, single, tmp_path / "out", model=tuned.base, adapter=None, device="cpu")
    with pytest.raises(WorkerError, match="changed-weights"):
        package.main(arguments)


@pytest.mark.parametrize(
    ("layer", "change", "failed"),
    [
        ("down_proj", lambda one: one * float("nan"), "weights: weights are NaN or infinite"),
        ("down_proj", lambda one: one * 1e11, "weights: weights beyond 1e"),
        ("1.mlp.up_proj", lambda _: None, "complete: 1 weights are not in the files"),
        ("model.norm", lambda one: one * 0, "not-constant: all "),
    ],
    ids=["nan", "absurd", "missing", "constant"],
)
def test_a_damaged_model_is_refused(tuned, single, tmp_path, layer, change, failed):
    from safetensors.torch import load_file, save_file

    model = shutil.copytree(tuned.model, tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    changed = {name: change(one) if layer in name else one for name, one in tensors.items()}
    kept = {name: one for name, one in changed.items() if one is not None}
    save_file(kept, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WorkerError) as caught:
        package.main(package_arguments(tuned, single, tmp_path / "out", model=model, adapter=None, device="cpu"))
    assert failed in str(caught.value)


def test_a_model_that_was_trained_whole_needs_no_adapter(tuned, single, tmp_path):
    out = tmp_path / "out"
    assert package.main(package_arguments(tuned, single, out, adapter=None, device="cpu")) == 0
    names = {check["name"] for check in read_report(out)["checks"]}
    assert {"complete", "changed-weights", "chat-template"} <= names
    assert not {"merged", "same-answer"} & names
    check_pinned("chat-full", out, tmp_path / "out.verification.json")


def test_two_output_embeddings_where_one_is_said_are_found(tuned, tmp_path):
    from safetensors.torch import load_file, save_file

    assert check_tied(tuned.model, wanted=True, tied=True).passed
    assert "tie_word_embeddings True" in check_tied(tuned.model, wanted=True, tied=False).failure
    model = shutil.copytree(tuned.model, tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    for shift, passed in ((0.0, True), (0.1, False)):
        both = {**tensors, "lm_head.weight": tensors["model.embed_tokens.weight"] + shift}
        save_file(both, model / "model.safetensors", metadata={"format": "pt"})
        assert check_tied(model, wanted=True, tied=True).passed == passed


def test_a_spec_of_another_format_than_the_training_is_refused(tuned, single, tmp_path):
    scoring = write_json(
        tmp_path / "spec.json", {**SPEC, "system": "Rhyme.", "template_args": {"loss_scale": "last_round"}}
    )
    with pytest.raises(WorkerError) as caught:
        package.main(package_arguments(tuned, single, tmp_path / "out", scoring=scoring, device="cpu"))
    assert "system None in training, 'Rhyme.' in the scoring spec" in str(caught.value)
    assert "loss_scale 'default+ignore_empty_think' in training" in str(caught.value)


def test_answers_part_at_a_tie_or_not():
    first = Answer([1, 2], ended=True, top=({1: 5.0, 7: 1.0}, {2: 4.0, 3: 3.99}, {9: 6.0, 4: 5.0}))
    assert compare_answers(first, Answer([1, 2], ended=True), [9], 0.02) == (True, {"same": True})
    other = Answer([1, 3, 5], ended=True)
    agrees, tie = compare_answers(first, other, [9], 0.02)
    assert (agrees, tie["first_difference"], tie["tie"], compare_answers(first, other, [9], 0.005)[0]) == (
        True,
        1,
        True,
        False,
    )
    agrees, unranked = compare_answers(first, Answer([8], ended=False), [9], 100)
    assert (agrees, unranked["first_difference"], unranked["margin"]) == (False, 0, None)
    _, longer = compare_answers(first, Answer([1, 2, 4], ended=False), [9], 0.02)
    assert (longer["first_difference"], longer["margin"]) == (2, 1.0)
