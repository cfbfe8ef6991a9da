from __future__ import annotations

import argparse
import json
import math
from dataclasses import replace

import pytest

from orchestrator.workers import score
from orchestrator.workers.chat import score as chat_score
from orchestrator.workers.chat.encoding import Encoded, load_format, load_own_format
from orchestrator.workers.chat.score import ChatModel, cut_encoded, take_batches
from orchestrator.workers.engines.transformers import load_tokenizer, load_whole
from orchestrator.workers.eval_files import BUILT, read_chat_rows
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.specs import parse_chat_spec

SPEC = {
    "version": 1,
    "scorer": "chat",
    "name": "trained-format",
    "label": "tuned",
    "dtype": "float32",
    "batch_size": 4,
    "max_length": 256,
    "max_new_tokens": 8,
    "generate": 3,
    "tool": "swift",
    "model_type": "qwen3",
    "template": "qwen3",
}


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


ROWS = [
    ([user("tell me of tea")], "Green tea is steamed."),
    ([user("北京在哪里？")], "北京是中国的首都。"),
    ([{"role": "system", "content": "Be brief."}, user("rust?")], "Safe."),
    ([user("My name is Ada."), assistant("Hello Ada."), user("What is my name?")], "Ada, of course."),
    ([user("cells " * 30)], "Mitochondria make ATP in cells! " * 4),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("chat-score")


@pytest.fixture(scope="module")
def chat_model(folder, train_file):
    from orchestrator.workers import tiny_model

    out = folder / "chat"
    assert tiny_model.main(["--like", "chat", "--texts", str(train_file), "--out", str(out)]) == 0
    return out


@pytest.fixture(scope="module")
def rows_file(folder):
    path = folder / "eval.jsonl"
    lines = [
        {"id": f"r{number}", "messages": messages, "reference": reference, "source": "x", "line": number}
        for number, (messages, reference) in enumerate(ROWS, start=1)
    ]
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def tokenizer(chat_model):
    return load_tokenizer(str(chat_model), trust_remote_code=False)


@pytest.fixture(scope="module")
def trained(tokenizer):
    return load_format(tokenizer, parse_chat_spec(SPEC, "x"))


def run(model, data, out, spec=SPEC, **more):
    given = {"scoring": "spec.json", "device": "cpu", "batch_size": None, "cache": None, "corpus": None, **more}
    score.run(argparse.Namespace(model=str(model), data=data, out=out, **given), spec)
    scores = [json.loads(line) for line in (out / "scores.jsonl").read_text(encoding="utf-8").splitlines()]
    return scores, json.loads((out / "scoring.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def scored(folder, chat_model, rows_file):
    return run(chat_model, rows_file, folder / "scores")


def show_targets(tokenizer, encoded):
    return tokenizer.decode([encoded.ids[target] for target in encoded.targets])


def test_the_format_of_training_has_an_empty_think_block_without_loss(tokenizer, trained):
    encoded = trained.encode([user("a?")], "Yes.")
    assert tokenizer.decode(encoded.ids) == (
        "<|im_start|>user\na?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\nYes.<|im_end|>\n"
    )
    assert show_targets(tokenizer, encoded) == "Yes.<|im_end|>\n"
    assert encoded.targets == list(range(encoded.targets[0], len(encoded.ids)))


def test_a_thought_in_an_answer_has_a_loss_and_gets_no_empty_block(tokenizer, trained):
    encoded = trained.encode([user("a?")], "<think>\nso\n</think>\n\nYes.")
    assert show_targets(tokenizer, encoded) == "<think>\nso\n</think>\n\nYes.<|im_end|>\n"


def test_white_space_before_an_answer_has_no_loss(tokenizer, trained):
    assert show_targets(tokenizer, trained.encode([user("a?")], "\n Yes.")) == "Yes.<|im_end|>\n"


@pytest.mark.parametrize("answer", ["a", "Four.", "", "aa", "<think>a</think>b", "Hello Ada."])
def test_of_several_turns_only_the_last_answer_is_scored(tokenizer, trained, answer):
    messages = [user("hi"), assistant("Hello Ada."), user("and?")]
    encoded = trained.encode(messages, answer)
    assert show_targets(tokenizer, encoded) == f"{answer}<|im_end|>\n"
    assert tokenizer.decode(encoded.ids).count("<think>\n\n</think>\n\n") == 2 - answer.startswith("<think>")


def test_ms_swift_learns_what_the_prepared_marks_say(folder, tokenizer, trained, monkeypatch):
    from swift.dataset import load_dataset

    from orchestrator.data.prepare import main

    monkeypatch.setenv("MODELSCOPE_CACHE", str(folder / "modelscope"))
    turns = [user("hi"), assistant("Wrong.") | {"weight": 0}, user("no"), assistant("Right.")]
    rows = [
        [user("plain"), assistant("First."), user("more"), assistant("Second.")],
        turns,
        [user("other"), assistant("Good."), user("and"), assistant("Bad.") | {"train": False}],
    ]
    file, out = folder / "marked.jsonl", folder / "marked"
    file.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows), encoding="utf-8")
    (folder / "held.jsonl").write_text(json.dumps({"messages": [user("e"), assistant("E.")]}), encoding="utf-8")
    argv = ["--train", str(file), "--eval", str(folder / "held.jsonl"), "--kind", "chat", "--form", "swift-chat"]
    assert main([*argv, "--out", str(out)]) == 0
    data, _ = load_dataset(str(out / "train.jsonl"), num_proc=1)
    learnt = []
    for row in data:
        encoded = trained.template.encode(dict(row))
        learnt.append(tokenizer.decode([label for label in encoded["labels"] if label >= 0]))
    assert sorted(learnt) == ["First.<|im_end|>\nSecond.<|im_end|>\n", "Good.<|im_end|>\n", "Right.<|im_end|>\n"]


def test_the_models_own_template_gives_the_ids_of_training_with_thinking_off(tokenizer, trained):
    own = load_own_format(tokenizer, None)
    for probe in (probe for probe in BUILT if probe.origin == "built"):
        ours, theirs = own.encode(probe.messages, probe.answer), trained.encode(probe.messages, probe.answer)
        assert (ours.ids, ours.targets[0]) == (theirs.ids, theirs.targets[0])
    assert own.stop_id == trained.stop_id == tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_the_system_prompt_of_the_spec_is_for_conversations_without_one(tokenizer):
    spec = replace(parse_chat_spec(SPEC, "x"), system="Rhyme.")
    for chat in (load_format(tokenizer, spec), load_own_format(tokenizer, "Rhyme.")):
        assert tokenizer.decode(chat.encode_prompt([user("a")])).startswith("<|im_start|>system\nRhyme.<|im_end|>\n")
        given = chat.encode_prompt([{"role": "system", "content": "Don't."}, user("a")])
        assert tokenizer.decode(given).startswith("<|im_start|>system\nDon't.<|im_end|>\n<|im_start|>user")


def test_a_spec_without_a_tool_is_scored_in_the_models_own_template(folder, chat_model, rows_file, scored):
    plain = {key: value for key, value in SPEC.items() if key not in {"tool", "template", "model_type"}}
    scores, facts = run(chat_model, rows_file, folder / "plain", plain)
    assert facts["format"] == "own chat template"
    # the rows of one turn: of earlier turns this template drops the think block, which training keeps
    for row in (0, 1, 2, 4):
        assert scores[row]["nll"] == pytest.approx(scored[0][row]["nll"], rel=1e-5)


def test_the_nll_is_that_of_a_plain_run_without_padding(chat_model, trained, rows_file, scored):
    import torch

    model = load_whole(chat_model, "CAUSAL_LM", "float32", "cpu", trust_remote_code=False).requires_grad_(False)
    for row, line in zip(read_chat_rows(rows_file), scored[0], strict=True):
        encoded = trained.encode(row.messages, row.reference)
        logits = torch.log_softmax(model(input_ids=torch.tensor([encoded.ids])).logits[0].float(), dim=-1)
        expected = -sum(float(logits[target - 1, encoded.ids[target]]) for target in encoded.targets)
        assert (line["id"], line["tokens"]) == (row.id, len(encoded.targets))
        assert line["nll"] == pytest.approx(expected, rel=1e-4)


def test_the_loss_is_the_one_that_the_trainer_computes(chat_model, trained, tokenizer, rows_file):
    import torch

    model = load_whole(chat_model, "CAUSAL_LM", "float32", "cpu", trust_remote_code=False).requires_grad_(False)
    row = read_chat_rows(rows_file)[0]
    batch = trained.template.encode({"messages": [*row.messages, assistant(row.reference)]})
    inputs = {key: torch.tensor([batch[key]]) for key in ("input_ids", "labels")}
    expected = float(model(**inputs).loss)
    encoded = trained.encode(row.messages, row.reference)
    found = ChatModel(model, tokenizer).sum_nll([encoded])[0] / len(encoded.targets)
    assert found == pytest.approx(expected, rel=1e-5)


def test_the_first_rows_get_an_answer_and_the_facts_count_them(scored):
    scores, facts = scored
    assert [line["generation"] is None for line in scores] == [False, False, False, True, True]
    assert (facts["generations"], facts["rows"], facts["max_new_tokens"]) == (3, 5, 8)
    assert facts["tokens"] == sum(line["tokens"] for line in scores)
    assert facts["loss"] == pytest.approx(sum(line["nll"] for line in scores) / facts["tokens"])
    assert 0 <= facts["hit_max_new_tokens"] <= 3
    assert facts["versions"]["transformers"]
    # only the conversation of several turns differs: this template leaves the think block out of earlier answers
    assert facts["other_prompts_in_own_template"] == 1


def test_answers_in_a_padded_batch_are_those_of_each_prompt_alone(chat_model, trained, tokenizer, rows_file):
    import torch

    model = load_whole(chat_model, "CAUSAL_LM", "float32", "cpu", trust_remote_code=False)
    prompts = [trained.encode_prompt(row.messages) for row in read_chat_rows(rows_file)]
    together = ChatModel(model, tokenizer, trained.stop_id).answer(prompts, 8, batch_size=5)
    for prompt, answer in zip(prompts, together, strict=True):
        ids = list(prompt)
        for _ in range(8):
            ids.append(int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        assert answer.ids == ids[len(prompt) :]
        assert not answer.ended
    # with that token as the end, the answer stops in front of it
    ended = ChatModel(model, tokenizer, together[0].ids[3]).answer(prompts[:1], 8)[0]
    assert ended.ended
    assert ended.ids == together[0].ids[: together[0].ids.index(together[0].ids[3])]


def test_a_long_prompt_is_cut_on_the_left_and_a_long_answer_on_the_right():
    encoded = Encoded(list(range(10)), [6, 7, 8, 9])
    assert cut_encoded(encoded, 10).taken_from is None
    shorter = cut_encoded(encoded, 6)
    assert (shorter.ids, shorter.targets, shorter.taken_from) == (
        [4, 5, 6, 7, 8, 9],
        [2, 3, 4, 5],
        "prompt",
    )
    shortest = cut_encoded(encoded, 3)
    assert (shortest.ids, shortest.targets, shortest.taken_from) == ([5, 6, 7], [1, 2], "reference")


def test_cut_rows_are_counted(folder, chat_model, trained, rows_file):
    scores, facts = run(chat_model, rows_file, folder / "cut", {**SPEC, "max_length": 20, "generate": 0})
    cuts = [cut_encoded(trained.encode(*row), 20) for row in ROWS]
    taken = [cut.taken_from for cut in cuts]
    assert {"prompt", "reference"} <= set(taken)
    assert (facts["prompts_cut"], facts["references_cut"]) == (taken.count("prompt"), taken.count("reference"))
    assert facts["longest"] == 20
    assert [line["tokens"] for line in scores] == [len(cut.targets) for cut in cuts]
    assert all(line["generation"] is None and math.isfinite(line["nll"]) for line in scores)


def test_batches_are_bounded_by_rows_and_by_logits_and_the_longest_comes_first():
    encoded = [Encoded(list(range(length)), [1]) for length in (5, 9, 7, 3)]
    assert list(take_batches(encoded, 2, vocabulary=1000)) == [[1, 2], [0, 3]]
    # 9 scored positions of a vocabulary of 2**25 are more than a batch may hold
    assert list(take_batches(encoded, 4, vocabulary=2**25)) == [[1], [2], [0], [3]]


def test_the_same_scores_are_taken_from_the_cache(folder, chat_model, rows_file, scored, capsys):
    first, _ = run(chat_model, rows_file, folder / "one", {**SPEC, "generate": 0}, cache=folder / "cache")
    again, facts = run(chat_model, rows_file, folder / "two", {**SPEC, "generate": 0}, cache=folder / "cache")
    assert first == again
    assert "from_cache" in facts
    assert "scored before" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"scorer": "cross-encoder"}, "known are chat"),
        ({"max_length": 1}, "max_length is 1"),
        ({"generate": -1}, "generate is -1"),
        ({"system": 3}, "a text or null"),
        ({"template": None}, "name ms-swift's template"),
        ({"tool": "x"}, "known are None, swift"),
        ({"template_args": {"lossscale": 1}}, "'lossscale': 1}; .* known are"),
        ({"dtype": "int8"}, "known are float32"),
    ],
)
def test_a_bad_spec_is_refused_with_what_is_wrong(changes, words):
    with pytest.raises(WorkerError, match=words):
        parse_chat_spec({**SPEC, **changes}, "spec.json")


def test_an_unknown_template_is_refused(tokenizer):
    with pytest.raises(WorkerError, match="no template 'qwen33'"):
        load_format(tokenizer, parse_chat_spec({**SPEC, "template": "qwen33"}, "x"))


def test_rows_of_another_kind_are_refused(tmp_path):
    path = tmp_path / "eval.jsonl"
    path.write_text('{"qid": "q1", "query": "x", "documents": []}\n')
    with pytest.raises(WorkerError, match="eval.jsonl:1: not"):
        read_chat_rows(path)
    path.write_text("\n")
    with pytest.raises(WorkerError, match="nothing to score"):
        read_chat_rows(path)
    row = {"id": ["a"], "messages": [user("x")], "reference": "y"}
    path.write_text(f"{json.dumps(row)}\n{json.dumps(row)}\n")
    with pytest.raises(WorkerError, match=r"eval.jsonl:2: id \['a'\] appears twice"):
        read_chat_rows(path)


def test_prompts_and_conversations_are_answered(chat_model):
    plain = {"version": 1, "scorer": "chat", "max_length": 128, "max_new_tokens": 4}
    rows = [{"prompt": "tea?"}, {"messages": [user("tea?")]}, {"messages": [user("a"), assistant("b"), user("c")]}]

    def ask(*rows):
        return chat_score.predict(chat_model, plain, [(f"line {n}", row) for n, row in enumerate(rows, 1)], "cpu")[0]

    answers = ask(*rows)
    assert [set(answer) for answer in answers] == [{"answer"}] * 3
    assert answers[0] == answers[1]
    assert ask() == []
    with pytest.raises(WorkerError, match="line 1: not"):
        ask({"query": "x"})
    with pytest.raises(WorkerError, match="where the user's is wanted"):
        ask({"messages": [user("a"), assistant("b")]})
