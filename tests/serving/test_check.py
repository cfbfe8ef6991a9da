"""What may differ between a stored number and a served one, and what may not."""

from __future__ import annotations

import pytest

from orchestrator.serving.artefact import load_artefact
from orchestrator.serving.check import check_server, format_table, sigmoid


class Says:
    """A client that answers from a table instead of a server."""

    def __init__(self, answer):
        self.answer = answer
        self.asked = []

    def embed(self, text):
        self.asked.append(text)
        return self.answer

    def chat(self, messages, max_tokens):
        self.asked.append((messages, max_tokens))
        return self.answer

    def score_as_chat(self, query, document, instruction):
        self.asked.append((query, document, instruction))
        return self.answer

    def rerank(self, query, document):
        self.asked.append((query, document))
        return self.answer

    def embed_side(self, *_):
        return None


def check(folder, answer, backend="swift"):
    client = Says(answer)
    return check_server(load_artefact(folder, "mine", "python"), backend, client), client.asked


@pytest.mark.parametrize(("score", "served", "passed"), [(2.0, 2.003, True), (2.0, 2.02, False), (-15, -9, False)])
def test_scores_are_compared_as_logits_would_be(package, score, served, passed):
    folder = package("generative", probes=[{"query": "q", "document": "d", "score": score}])
    assert check(folder, sigmoid(served))[0].passed is passed


def test_half_precision_may_differ_in_the_second_digit(package):
    probes = [{"query": "q", "document": "d", "score": 2.0}]
    folder = package("generative", probes=probes, dtype="bfloat16", probes_dtype="float32")
    assert check(folder, sigmoid(2.06))[0].passed
    assert not check(folder, sigmoid(2.6))[0].passed


def test_a_query_vector_is_asked_with_its_prompt_and_a_documents_without(package):
    checked, asked = check(package("embedding"), [3.0, 0.0, 25.0])
    assert asked == ["Instruct: Find it\nQuery:a", "four"]
    assert [row.passed for row in checked.rows] == [True, False]


def test_a_query_vector_is_asked_with_what_stands_behind_the_query(package):
    _, asked = check(package("embedding", query_suffix=" =>"), [3.0, 0.0, 25.0])
    assert asked == ["Instruct: Find it\nQuery:a =>", "four"]


def test_length_does_not_matter_and_a_longer_vector_is_cut(package):
    folder = package("embedding", probes=[{"text": "x", "vector": [0.6, 0.8]}])
    checked, _ = check(folder, [3.0, 4.0, 12.0])
    assert checked.passed
    assert checked.rows[0].max_abs == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("answer", [[0.6], [float("nan"), 0.8], [-0.6, -0.8]])
def test_a_short_a_broken_and_an_opposite_vector_fail(package, answer):
    folder = package("embedding", probes=[{"text": "x", "vector": [0.6, 0.8]}])
    checked, _ = check(folder, answer)
    assert not checked.passed
    assert len(format_table(checked)) == 2


def test_an_empty_thought_in_front_of_an_answer_is_no_difference(package):
    checked, asked = check(package("chat"), "<think>\n\n</think>\n\nHI")
    assert checked.passed
    assert asked == [([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}], 8)]


def test_vllm_is_sent_the_instructions_of_a_cross_encoder_in_front_of_the_texts(package):
    folder = package("cross-encoder", query_instruction="A: ", passage_instruction="B: ")
    checked, asked = check(folder, 0.0, backend="vllm")
    assert asked == [("A: q", "B: d")]
    assert checked.passed


def test_vllm_is_sent_bare_texts_where_the_folders_chat_template_writes_the_instructions(package):
    folder = package("flag-llm-reranker", query_instruction="A: ", passage_instruction="B: ")
    assert check(folder, 0.0, backend="vllm")[1] == [("q", "d")]


def test_swift_is_sent_the_instruction_as_the_system_message(package):
    _, asked = check(package("generative", instruction="Find it"), 0.5)
    assert asked == [("q", "d", "Find it")]


def test_an_answer_that_was_hardly_preferred_may_turn_out_otherwise(package):
    probe = {"messages": [{"role": "user", "content": "hi"}], "answer": "HELLO", "least_margin": 0.01}
    folder = package("chat", probes=[probe], dtype="bfloat16")
    assert check(folder, "HELP")[0].passed
    path = folder / "scoring.json"
    path.write_text(path.read_text(encoding="utf-8").replace("bfloat16", "float32"), encoding="utf-8")
    checked, _ = check(folder, "HELP")
    assert not checked.passed
    assert checked.rows[0].difference == pytest.approx(2 / 5)


def test_vllm_is_asked_for_raw_scores(package):
    folder = package("cross-encoder", examples=[{"query": "q", "document": "d", "score": 3.0}])
    checked, _ = check(folder, 3.0, backend="vllm")
    assert checked.passed
    assert checked.scale == "score"
    checked, _ = check(folder, sigmoid(3.0), backend="vllm")
    assert not checked.passed
    assert "puts a sigmoid over the score" in checked.reason
