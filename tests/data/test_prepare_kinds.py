"""The prepare stage for the three kinds and their forms; ranking rows for FlagEmbedding stand in test_prepare.py."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

relaxed = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
EMBEDDING = ("--form", "swift-embedding")
PAIRS = ("--form", "swift-embedding", "--kind", "pair")
CHATS = ("--form", "swift-chat", "--kind", "chat")


def answered(number, **more):
    return {"query": f"question {number}", "response": f"answer {number}"} | more


def scored(number, score=None):
    return {
        "sentence1": f"first {number}",
        "sentence2": f"second {number}",
        "score": number % 2 if score is None else score,
    }


def talked(number, **more):
    return {"instruction": f"do {number}", "input": "", "output": f"done {number}"} | more


def question(row):
    return row["messages"][0]["content"]


@pytest.mark.parametrize(
    ("options", "build", "names"),
    [
        (("--form", "swift-embedding", "--corpus"), answered, ["corpus.jsonl", "eval.jsonl"]),
        (("--form", "swift-reranker"), lambda n: answered(n, rejected_response="no"), ["eval.jsonl"]),
        (PAIRS, scored, ["eval.jsonl"]),
        (CHATS, talked, ["eval.jsonl"]),
    ],
)
def test_every_kind_has_its_files_and_its_ledger_says_how_many_rows_they_hold(stage, files, options, build, names):
    train = files.lines("t.jsonl", *[build(number) for number in range(60)])
    assert stage("--train", train, "--eval-ratio", 0.2, "--validation-ratio", 0.2, *options) == 0
    assert stage.names() == sorted([*names, "ledger.json", "stats.json", "train.jsonl", "validation.jsonl"])
    sides = stage.json("ledger.json")["sides"]
    for name in ("train", "eval", "validation"):
        assert sides[name]["kept"] == len(stage.lines(f"{name}.jsonl")) > 0
    moved = sides["train"]["moved_to_eval"], sides["train"]["moved_to_validation"]
    assert moved == (sides["eval"]["kept"], sides["validation"]["kept"])
    assert sides["train"]["kept"] + sum(moved) == 60


def test_prompts_of_rows_that_a_search_of_a_corpus_does_not_use_are_said(stage, files):
    rows = [{"query": f"q{n}", "pos": [f"p{n}"], "neg": [f"n{n}"], "prompt": f"task {n % 2}: "} for n in range(6)]
    sides = ("--train", files.lines("t.jsonl", *rows[:4]), "--eval", files.lines("e.jsonl", *rows[4:]))
    assert stage(*sides, "--form", "flagembedding", "--corpus") == 0
    (warned,) = stage.json("ledger.json")["warnings"]
    assert (warned["code"], warned["count"]) == ("prompts-not-measured", 6)
    assert "queries are measured with the one prompt that the package has" in stage.stderr
    assert [row["prompt"] for row in stage.lines("train.jsonl")] == ["task 0: ", "task 1: "] * 2
    assert stage(*sides, "--form", "flagembedding") == 0  # candidates are measured with each row's own
    assert not stage.json("ledger.json")["warnings"]
    assert [row["prompt"] for row in stage.lines("eval.jsonl")] == ["task 0: ", "task 1: "]


def test_a_query_is_never_on_two_sides(stage, files):
    rows = [answered(number, query=f"Question {number // 2} ") for number in range(100)]
    argv = ("--eval-ratio", 0.2, "--validation-ratio", 0.3, *EMBEDDING)
    stage("--train", files.lines("t.jsonl", *rows), *argv)
    sides = [{question(row) for row in stage.lines(f"{name}.jsonl")} for name in ("train", "validation")]
    sides.append({row["query"] for row in stage.lines("eval.jsonl")})
    assert all(sides)
    assert sum(map(len, sides)) == len(set.union(*sides)) == 50


@pytest.mark.parametrize("ratio", [0.0001, 0.9999])
@pytest.mark.parametrize("eval_ratio", [None, 0.0001])
def test_a_validation_ratio_that_would_leave_a_side_empty_gives_it_one_query(stage, files, ratio, eval_ratio):
    train = files.lines("t.jsonl", *[answered(number) for number in range(20)])
    split = ("--eval-ratio", eval_ratio) if eval_ratio else ()
    assert stage("--train", train, "--validation-ratio", ratio, *split, *EMBEDDING) == 0
    sides = stage.json("ledger.json")["sides"]
    assert min(sides["train"]["kept"], sides["validation"]["kept"]) == 1
    assert sum(side["kept"] for side in sides.values()) == 20


def test_one_training_query_cannot_give_a_validation_side(stage, files):
    assert stage("--train", files.lines("t.jsonl", answered(1)), "--validation-ratio", 0.5, *EMBEDDING) == 3
    assert stage.stderr.startswith("too-few-queries: all usable rows have one query, so that no validation can be")


def test_fewer_validation_rows_than_a_batch_end_with_code_3(stage, files):
    train = files.lines("t.jsonl", *[answered(number) for number in range(30)])
    argv = ("--train", train, "--validation-ratio", 0.0001, *EMBEDDING, "--min-validation")
    assert stage(*argv, 1) == 0
    assert stage(*argv, 2) == 3
    assert stage.stderr.startswith(
        "too-few-validation-rows: 1 validation rows are left, and the trainer takes 2 an evaluation batch; "
        "with fewer ms-swift dies of KeyError eval_loss — lower per_device_eval_batch_size"
    )
    assert stage.names() == ["ledger.failed.json"]


def test_a_limit_of_training_rows_limits_validation_rows_by_the_ratio(stage, files):
    train = files.lines("t.jsonl", *[answered(number) for number in range(200)])
    argv = ("--train", train, "--validation-ratio", 0.5, "--limit-train", 10, *EMBEDDING)
    stage(*argv)
    assert len(stage.lines("validation.jsonl")) == 5
    stage(*argv, "--min-validation", 8)
    assert len(stage.lines("validation.jsonl")) == 8


def test_the_corpus_holds_each_document_once_and_queries_are_merged(stage, files):
    evaluation = files.lines(
        "e.jsonl",
        {"query": "Where?", "pos": ["here"], "neg": ["there", "nowhere"]},
        {"query": "who", "pos": ["they", "there "], "neg": ["here"]},
        {"query": "where? ", "pos": ["home"], "neg": ["they"]},
    )
    train = files.lines("t.jsonl", answered(1))
    assert stage("--train", train, "--eval", evaluation, "--corpus", *EMBEDDING) == 0
    corpus = {row["docid"]: row["text"] for row in stage.lines("corpus.jsonl")}
    assert sorted(corpus.values()) == ["here", "home", "nowhere", "there", "they"]
    assert list(corpus) == [f"d{number:06d}" for number in range(1, 6)]
    found = stage.lines("eval.jsonl")
    assert [(row["qid"], row["query"], row["line"]) for row in found] == [
        ("q000001", "Where?", 1),
        ("q000002", "who", 2),
    ]
    assert [{corpus[docid] for docid in row["relevant"]} for row in found] == [{"here", "home"}, {"they", "there"}]
    assert stage.json("ledger.json")["sides"]["eval"]["kept"] == 3


def test_the_order_of_the_corpus_tells_no_label_and_is_the_same_every_time(stage, files):
    rows = [{"query": f"q{n}", "pos": [f"right {n}"], "neg": [f"wrong {n}"]} for n in range(100)]
    argv = (
        "--train",
        files.lines("t.jsonl", answered(1)),
        "--eval",
        files.lines("e.jsonl", *rows),
        "--corpus",
        *EMBEDDING,
    )
    stage(*argv)
    first = (stage.out / "corpus.jsonl").read_bytes()
    early = sum(row["text"].startswith("right") for row in stage.lines("corpus.jsonl")[:100])
    assert 30 < early < 70
    stage(*argv)
    assert (stage.out / "corpus.jsonl").read_bytes() == first
    stage(*argv, "--seed", 7)
    assert (stage.out / "corpus.jsonl").read_bytes() != first


def test_eval_rows_of_pairs_and_conversations_have_their_own_forms_without_the_instruction(stage, files):
    train, evaluation = files.lines("t.jsonl", scored(1)), files.lines("e.jsonl", scored(2, 0.5))
    assert stage("--train", train, "--eval", evaluation, "--instruction", "Find.", *PAIRS) == 0
    row = {"pid": "p000001", "text1": "first 2", "text2": "second 2", "score": 0.5, "source": "e.jsonl", "line": 1}
    assert stage.lines("eval.jsonl") == [row]
    assert question(stage.lines("train.jsonl")[0]) == "Instruct: Find.\nQuery:first 1"
    stage("--train", files.lines("t.jsonl", talked(1)), "--eval", files.lines("e.jsonl", talked(2, system="S")), *CHATS)
    asked = [{"role": "system", "content": "S"}, {"role": "user", "content": "do 2"}]
    row = {"id": "r000001", "messages": asked, "reference": "done 2", "source": "e.jsonl", "line": 1}
    assert stage.lines("eval.jsonl") == [row]


def test_without_a_corpus_eval_queries_without_negatives_are_warned_about(stage, files):
    argv = ("--train", files.lines("t.jsonl", answered(1)), "--eval", files.lines("e.jsonl", answered(2)), *EMBEDDING)
    stage(*argv)
    assert "warning: nothing-to-rank: eval queries without a negative: 1;" in stage.stderr
    stage(*argv, "--corpus")
    assert stage.stderr == ""


def test_the_first_row_with_negatives_goes_in_front_of_those_without(stage, files):
    rows = [answered(1), answered(2), answered(3, rejected_response="no"), answered(4)]
    stage("--train", files.lines("t.jsonl", *rows), *EMBEDDING)
    assert [question(row)[-1] for row in stage.lines("train.jsonl")] == ["3", "1", "2", "4"]


def test_the_ledger_of_a_run_without_validation_says_nothing_of_it(stage, files):
    stage("--train", files.lines("t.jsonl", answered(1)), *EMBEDDING)
    assert set(stage.json("ledger.json")["sides"]["train"]) == {"files", "rows_in", "kept", "moved_to_eval", "dropped"}


def test_a_table_with_other_names_can_be_trained_on(stage, files):
    train = files.raw("t.csv", "text_a,text_b,similarity\nq,p,0.5\nr,s,1\n")
    columns = ("--columns", "sentence1=text_a", "sentence2=text_b", "score=similarity")
    assert stage("--train", train, *PAIRS, *columns) == 0
    assert [row["label"] for row in stage.lines("train.jsonl")] == [0.5, 1.0]


def test_a_leak_is_found_by_the_first_text_whatever_the_kind(stage, files):
    for options, build in ((PAIRS, scored), (CHATS, talked)):
        train = files.lines("t.jsonl", *[build(number) for number in range(5)])
        stage("--train", train, "--eval", files.lines("e.jsonl", build(3)), *options)
        assert stage.json("ledger.json")["sides"]["train"]["dropped"] == {"query-also-in-eval": 1}


def test_equal_rows_in_other_shapes_are_duplicates(stage, files):
    rows = [{"query": "q", "response": "p", "label": 1}, {"sentence1": "q", "sentence2": "p", "score": 1.0}]
    stage("--train", files.lines("t.jsonl", *rows), *PAIRS)
    assert stage.json("ledger.json")["sides"]["train"]["dropped"] == {"duplicate": 1}


def test_statistics_are_of_the_rows_kind(stage, files):
    stage("--train", files.lines("t.jsonl", *[scored(number) for number in range(4)]), *PAIRS)
    stats = stage.json("stats.json")
    assert (stats["version"], stats["kind"]) == (1, "pair")
    assert stats["train"]["scores"] == {
        "min": 0.0,
        "mean": 0.5,
        "max": 1.0,
        "distinct": [{"score": 0.0, "rows": 2}, {"score": 1.0, "rows": 2}],
    }
    stage("--train", files.lines("t.jsonl", *[scored(number, number / 30) for number in range(30)]), *PAIRS)
    assert stage.json("stats.json")["train"]["scores"]["distinct"] is None
    stage("--train", files.lines("t.jsonl", talked(1), talked(2, history=[["a", "b"]], system="S")), *CHATS)
    found = stage.json("stats.json")["train"]
    assert (found["rows"], found["turns"], found["with_system"], found["answer_chars"]["max"]) == (2, 3, 1, 6)
    assert found["scripts"] == {"latin": 7}


@pytest.fixture
def tokenizer(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    found = tokenizers.Tokenizer(tokenizers.models.WordLevel({"?": 0}, unk_token="?"))  # noqa: S106 - no password
    found.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    found.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_rows_that_the_trainer_would_delete_are_bad(stage, files, tokenizer):
    train = files.lines("t.jsonl", *[answered(1), answered(2, response="w " * 8), answered(3, response="w " * 7)])
    argv = ("--train", train, *EMBEDDING, "--tokenizer", tokenizer, "--max-tokens", 8, "--truncation")
    assert stage(*argv, "drop") == 3
    assert f"{train}:2: too-long: more than 8 tokens: 1 document (1 tokens beyond)" in stage.stderr
    assert stage(*argv, "drop", "--max-dropped", 1) == 0
    assert [question(row) for row in stage.lines("train.jsonl")] == ["question 1", "question 3"]
    stats = stage.json("stats.json")["train"]
    assert (stats["rows"], stats["tokens"]["documents_cut"]) == (2, 0)
    assert stage(*argv, "cut") == 0
    assert "texts-cut: texts are longer than the lengths allow and will be cut: train 0 queries, 1 doc" in stage.stderr


def test_limits_count_only_what_is_not_too_long(stage, files, tokenizer):
    rows = [answered(number, response="w " * (20 if number % 2 else 1)) for number in range(10)]
    argv = ("--tokenizer", tokenizer, "--max-tokens", 8, "--truncation", "drop", "--max-dropped", 9)
    stage("--train", files.lines("t.jsonl", *rows), *EMBEDDING, *argv, "--limit-train", 4)
    assert [question(row) for row in stage.lines("train.jsonl")] == [f"question {number}" for number in (0, 2, 4, 6)]


def test_long_eval_rows_stay(stage, files, tokenizer):
    evaluation = files.lines("e.jsonl", talked(1, output="w " * 90))
    argv = ("--tokenizer", tokenizer, "--max-tokens", 30, "--truncation", "drop")
    assert stage("--train", files.lines("t.jsonl", talked(2)), "--eval", evaluation, *CHATS, *argv) == 0
    assert len(stage.lines("eval.jsonl")) == 1


@pytest.mark.parametrize(
    "argv",
    [
        ("--form", "swift-chat"),
        ("--form", "swift-reranker", "--kind", "pair"),
        ("--form", "flagembedding", "--kind", "chat"),
        (*PAIRS, "--corpus"),
        (*EMBEDDING, "--columns", "query"),
        (*EMBEDDING, "--columns", "query=a", "query=b"),
        (*EMBEDDING, "--min-validation", "3"),
        (*EMBEDDING, "--validation-ratio", "1"),
        (*EMBEDDING, "--loss", "nobodys"),
        (*EMBEDDING, "--max-tokens", "9", "--query-max-len", "9", "--passage-max-len", "9"),
    ],
)
def test_an_argument_that_makes_no_sense_ends_with_code_2(stage, files, argv):
    with pytest.raises(SystemExit) as caught:
        stage("--train", files.lines("t.jsonl", answered(1)), *argv)
    assert caught.value.code == 2


@pytest.mark.parametrize(("marks", "code"), [((True, True), 0), ((True, False), 3), ((False, False), 0)])
def test_samples_are_never_mixed_with_real_rows(stage, files, marks, code):
    rows = [answered(number) | ({"sample": True} if mark else {}) for number, mark in enumerate(marks)]
    assert stage("--train", files.lines("t.jsonl", *rows), *EMBEDDING) == code
    assert ("samples-only" in stage.stderr, "samples-mixed-in" in stage.stderr) == (all(marks), code == 3)


rows = st.lists(
    st.builds(answered, st.integers(0, 9))
    | st.builds(lambda n: answered(n, rejected_response=["no"]), st.integers(0, 9))
    | st.builds(scored, st.integers(0, 9))
    | st.builds(talked, st.integers(0, 9)),
    min_size=1,
    max_size=12,
)


@relaxed
@given(rows, st.sampled_from([EMBEDDING, PAIRS, CHATS]), st.sampled_from([None, 0.3]), st.sampled_from([None, 0.4]))
def test_no_row_is_lost_whatever_the_kind_and_the_split(stage, files, rows, options, eval_ratio, validation_ratio):
    argv = [*options, "--max-dropped", 99]
    argv += ["--eval-ratio", eval_ratio] if eval_ratio else []
    argv += ["--validation-ratio", validation_ratio] if validation_ratio else []
    code = stage("--train", files.lines("t.jsonl", *rows), *argv)
    ledger = stage.json("ledger.failed.json" if code else "ledger.json")
    accounted = sum(side["kept"] + sum(side["dropped"].values()) for side in ledger["sides"].values())
    assert accounted == len(rows)
    if code == 0:
        written = sum(len(stage.lines(f"{name}.jsonl")) for name in ledger["sides"])
        assert written == sum(side["kept"] for side in ledger["sides"].values())
