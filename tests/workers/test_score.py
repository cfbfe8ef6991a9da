from __future__ import annotations

import json
import math

import pytest

from orchestrator.workers import score
from orchestrator.workers.batches import Reader
from orchestrator.workers.eval_files import Candidate, read_candidates
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.reranker.formats import NATIVE_PREFIX, NATIVE_SUFFIX, REFERENCES, write_native
from orchestrator.workers.reranker.score import score_candidates
from orchestrator.workers.reranker.scoring import Scorer
from orchestrator.workers.specs import DEFAULT_INSTRUCTION
from tests.workers.conftest import load_spec, write_spec


def score_with(folder, model, data, **spec):
    arguments = {
        "model": model,
        "scoring": write_spec(folder / "spec.json", **spec),
        "data": data,
        "out": folder / "out",
    }
    code = score.main([part for name, value in arguments.items() for part in (f"--{name}", str(value))])
    rows = [json.loads(line) for line in (folder / "out" / "scores.jsonl").read_text().splitlines()]
    return code, rows, json.loads((folder / "out" / "scoring.json").read_text())


def fake(value=len, calls=None):
    def run(keys):
        if calls is not None:
            calls.extend({(len(keys), key.prompt) for key in keys})
        return [float(value(key.query + key.document)) for key in keys]

    return Scorer(Reader(lambda keys: [len(key.query + key.document) for key in keys], run, 8, 2))


def test_flagembedding_scores_equal_the_oracle_in_file_order(tmp_path, decoder, eval_file):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    code, rows, facts = score_with(tmp_path, decoder, eval_file)
    candidates = read_candidates(eval_file)
    assert code == 0
    assert [(row["qid"], row["docid"]) for row in rows] == [(found.qid, found.docid) for found in candidates]
    spec = load_spec(tmp_path / "spec.json")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(decoder), AutoTokenizer.from_pretrained(decoder)
    expected = REFERENCES["flag-llm-reranker", "flagembedding"].score(
        model, tokenizer, spec, [(found.query, found.document) for found in candidates]
    )
    assert max(abs(row["score"] - one) for row, one in zip(rows, expected, strict=True)) < 1e-4
    assert max(expected) - min(expected) > 0.1
    assert (facts["groups"], facts["pairs"], facts["spec"]["name"]) == (5, 25, "trained-format")


def test_qwen3_native_reads_yes_against_no_after_the_official_prompt(tmp_path, decoder, eval_file):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _, rows, _ = score_with(tmp_path, decoder, eval_file, scorer="qwen3-native", max_length=2048)
    tokenizer, model = AutoTokenizer.from_pretrained(decoder), AutoModelForCausalLM.from_pretrained(decoder)
    found = read_candidates(eval_file)[3]
    # the model card's own way: prefix and suffix tokenized apart from the pair
    prefix = (
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
        'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
    )
    suffix = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    instruction = "Given a web search query, retrieve relevant passages that answer the query"
    body = f"<Instruct>: {instruction}\n<Query>: {found.query}\n<Document>: {found.document}"
    ids = [token for part in (prefix, body, suffix) for token in tokenizer(part, add_special_tokens=False)["input_ids"]]
    with torch.inference_mode():
        logits = model(torch.tensor([ids])).logits[0, -1]
    yes, no = tokenizer.convert_tokens_to_ids(["yes", "no"])
    assert abs(rows[3]["score"] - float(logits[yes] - logits[no])) < 1e-4


def test_the_native_template_keeps_an_instruction_with_braces_as_it_is(decoder):
    from transformers import AutoTokenizer

    messages = [{"role": "query", "content": "q {{"}, {"role": "document", "content": "d"}]
    template = write_native('say "{{ 1 }}"').template
    text = AutoTokenizer.from_pretrained(decoder).apply_chat_template(messages, tokenize=False, chat_template=template)
    assert '<Instruct>: say "{{ 1 }}"\n<Query>: q {{\n<Document>: d<|im_end|>' in text


def test_a_cross_encoder_without_a_head_gets_the_same_one_every_time(tmp_path, encoder, eval_file):
    first, again = (score_with(tmp_path, encoder, eval_file, scorer="cross-encoder") for _ in range(2))
    assert first[1] == again[1]
    assert first[2]["head"] == "new"


def test_a_bi_encoder_gives_cosines(tmp_path, encoder, eval_file):
    _, rows, _ = score_with(tmp_path, encoder, eval_file, scorer="bi-encoder")
    assert all(-1.0001 <= row["score"] <= 1.0001 for row in rows)
    assert len({round(row["score"], 6) for row in rows}) > 5


def test_graded_labels_change_no_score(tmp_path, encoder, eval_file):
    groups = [json.loads(line) for line in eval_file.read_text(encoding="utf-8").splitlines()]
    for document in (document for group in groups for document in group["documents"]):
        document["label"] = 0.25 + document["label"] / 2
    graded = tmp_path / "graded.jsonl"
    graded.write_text("".join(json.dumps(group) + "\n" for group in groups), encoding="utf-8")
    first, second = (score_with(tmp_path, encoder, data, scorer="cross-encoder") for data in (eval_file, graded))
    assert first[1] == second[1]


def test_equal_pairs_are_scored_once_and_calls_never_mix_prompts():
    calls = []
    candidates = [
        Candidate("q", str(number), "query", "d" * (number % 3), "p" if number > 7 else None) for number in range(12)
    ]
    scores = score_candidates(fake(calls=calls), candidates)
    assert scores == [5.0 + number % 3 for number in range(12)]
    assert sum(count for count, _ in calls) == 6
    assert {prompt for _, prompt in calls} == {None, "p"}


def test_nan_scores_are_refused_with_their_number():
    candidates = [Candidate("q", str(number), "query", "d" * number) for number in range(5)]
    broken = fake(value=lambda text: math.nan if len(text) > 7 else 1.0)
    with pytest.raises(WorkerError, match="NaN or infinity for 2 of 5 pairs"):
        score_candidates(broken, candidates)


def test_a_rows_own_prompt_changes_its_score(tmp_path, decoder, eval_file):
    groups = [json.loads(line) for line in eval_file.read_text(encoding="utf-8").splitlines()]
    groups[1]["prompt"] = "Is B about A? Yes or No."
    data = tmp_path / "eval.jsonl"
    data.write_text("".join(json.dumps(group) + "\n" for group in groups))
    _, plain, _ = score_with(tmp_path, decoder, eval_file)
    _, prompted, _ = score_with(tmp_path, decoder, data)
    changed = {
        one["qid"] for one, other in zip(plain, prompted, strict=True) if abs(one["score"] - other["score"]) > 1e-3
    }
    assert changed == {"q1"}


@pytest.mark.parametrize("damage", ["empty", "twice", "nothing", "same-docid"])
def test_a_damaged_eval_file_is_refused(tmp_path, damage):
    document = {"docid": "a", "text": "t", "label": 1}
    group = {"qid": "q", "query": "x", "documents": [document]}
    lines = {
        "empty": [{**group, "documents": []}],
        "twice": [group, group],
        "nothing": [],
        "same-docid": [{**group, "documents": [document, document]}],
    }[damage]
    (tmp_path / "eval.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.raises(WorkerError):
        read_candidates(tmp_path / "eval.jsonl")


@pytest.fixture(scope="module")
def score_head(place, decoder):
    """The tiny decoder with a trained head of one label and a chat template."""
    import shutil

    import torch
    from transformers import AutoModelForSequenceClassification

    from orchestrator.workers.folders import set_chat_template

    folder = place / "score-head"
    shutil.copytree(decoder, folder)
    torch.manual_seed(5)
    AutoModelForSequenceClassification.from_pretrained(decoder, num_labels=1).save_pretrained(folder)
    chat = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    set_chat_template(folder, chat + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
    return folder


def score_by_head(folder, texts):
    """Return the head's logit at the end of each text, as transformers gives it for one alone."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    with torch.inference_mode():
        ids = [tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"] for text in texts]
        return [float(model(one).logits[0, 0]) for one in ids]


def test_a_reward_model_is_asked_by_its_own_chat_template(tmp_path, score_head, eval_file):
    plain = {"query_instruction": None, "passage_instruction": None}
    _, rows, facts = score_with(tmp_path, score_head, eval_file, scorer="reward-model", **plain)
    found = read_candidates(eval_file)
    texts = [
        f"<|im_start|>user\n{one.query}<|im_end|>\n<|im_start|>assistant\n{one.document}<|im_end|>\n" for one in found
    ]
    expected = score_by_head(score_head, texts)
    assert max(abs(row["score"] - one) for row, one in zip(rows, expected, strict=True)) < 1e-4
    assert max(expected) - min(expected) > 0.01
    assert facts["head"] == "pretrained"


def test_a_head_in_qwen3_reranker_s_prompt_is_the_head_and_not_the_word_yes(tmp_path, score_head, eval_file):
    _, rows, _ = score_with(tmp_path, score_head, eval_file, scorer="qwen3-score-head", max_length=2048)
    found = read_candidates(eval_file)[3]
    body = f"<Instruct>: {DEFAULT_INSTRUCTION}\n<Query>: {found.query}\n<Document>: {found.document}"
    assert abs(rows[3]["score"] - score_by_head(score_head, [NATIVE_PREFIX + body + NATIVE_SUFFIX])[0]) < 1e-4


def test_a_scorer_that_asks_for_a_word_never_leaves_a_head_out(tmp_path, score_head, eval_file):
    with pytest.raises(WorkerError, match="has a head that scores, and qwen3-native would leave it out"):
        score_with(tmp_path, score_head, eval_file, scorer="qwen3-native")


def test_a_pair_beyond_the_positions_is_cut_and_counted(tmp_path, encoder, eval_file):
    long = tmp_path / "long.jsonl"
    row = json.loads(eval_file.read_text(encoding="utf-8").splitlines()[0])
    row["documents"][0]["text"] = "tea " * 2000
    long.write_text(json.dumps(row) + "\n", encoding="utf-8")
    _, _, facts = score_with(tmp_path, encoder, long, scorer="cross-encoder", max_length=4096)
    assert (facts["pairs_counted"], facts["pairs_cut"], facts["reads_tokens"]) == (5, 1, 512)


def test_a_model_that_is_asked_tells_orch_what_it_cut(tmp_path, score_head, capsys):
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(score_head, folder)
    (folder / "scoring.json").write_text(json.dumps({"scorer": "reward-model", "max_length": 40}), encoding="utf-8")
    (tmp_path / "rows").write_text(json.dumps({"query": "tea", "document": "tea " * 200}) + "\n", encoding="utf-8")
    assert score.predict(["--model", str(folder), "--rows", str(tmp_path / "rows"), "--device", "cpu"]) == 0
    facts, answer = capsys.readouterr().out.splitlines()
    assert json.loads(facts.removeprefix("orch-facts "))["pairs_cut"] == 1
    assert "score" in json.loads(answer)
