from __future__ import annotations

import json

import numpy as np
import pytest

from orchestrator.workers import score
from orchestrator.workers.embedding import score as embedding_score
from orchestrator.workers.embedding.score import find_nearest
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.score_store import find_entry
from orchestrator.workers.specs import parse_embedding_spec
from tests.workers.conftest import TOPICS, copy_with
from tests.workers.embedding_runs import (
    INSTRUCTION,
    SPEC,
    embed_alone,
    tune,
    write_eval_files,
    write_lines,
)

LONG = "The river bends twice before it meets the sea. " * 20


@pytest.fixture(scope="module")
def data(place):
    write_eval_files(place / "embedding-eval")
    return place / "embedding-eval"


def score_with(folder, model, data, corpus=None, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spec.json").write_text(json.dumps({**SPEC, **changes}), encoding="utf-8")
    named = {"model": model, "scoring": folder / "spec.json", "data": data, "corpus": corpus, "out": folder / "out"}
    arguments = [part for name, value in named.items() if value for part in (f"--{name}", str(value))]
    assert score.main([*arguments, "--device", "cpu"]) == 0
    rows = [json.loads(line) for line in (folder / "out" / "scores.jsonl").read_text(encoding="utf-8").splitlines()]
    return rows, json.loads((folder / "out" / "scoring.json").read_text(encoding="utf-8"))


def search_with(folder, model, data, **changes):
    return score_with(folder, model, data / "queries.jsonl", data / "corpus.jsonl", **changes)


def by_pair(rows):
    return {(row["qid"], row["docid"]): row["score"] for row in rows}


def test_a_bare_decoder_is_measured_at_its_end_token(tmp_path, decoder, data):
    rows, facts = search_with(tmp_path, decoder, data)
    corpus = [json.loads(line) for line in (data / "corpus.jsonl").read_text(encoding="utf-8").splitlines()]
    found = by_pair(rows)
    for index, name in enumerate(TOPICS):
        query = embed_alone(decoder, f"{INSTRUCTION}tell me of {name}")
        for document in corpus[:3]:
            expected = float(query @ embed_alone(decoder, document["text"]))
            assert abs(found[f"q{index:06d}", document["docid"]] - expected) < 1e-5
    assert len(rows) == facts["queries"] * facts["documents"] == 50
    assert (facts["modules"], facts["pooling"], facts["dims"]) == ("built", "lasttoken", 32)
    assert facts["prompts"] == {"query": INSTRUCTION, "document": ""}
    assert not facts["constant"]


def test_a_mark_stands_behind_queries_and_a_long_query_is_cut_before_it(tmp_path, decoder, data):
    rows, facts = search_with(tmp_path / "short", decoder, data, query_suffix=" Answer:")
    corpus = [json.loads(line) for line in (data / "corpus.jsonl").read_text(encoding="utf-8").splitlines()]
    query = embed_alone(decoder, f"{INSTRUCTION}tell me of {next(iter(TOPICS))} Answer:")
    assert abs(by_pair(rows)["q000000", corpus[0]["docid"]] - query @ embed_alone(decoder, corpus[0]["text"])) < 1e-5
    assert facts["texts_cut"] == 0

    write_lines(tmp_path / "queries.jsonl", [{"qid": "q", "query": LONG}])
    read = []
    for suffix in (" Answer:", " Refuse:"):
        files = (tmp_path / "queries.jsonl", data / "corpus.jsonl")
        rows, facts = score_with(tmp_path / suffix.strip(), decoder, *files, query_suffix=suffix, max_length=32)
        assert facts["texts_cut"] == 1
        read.append(by_pair(rows)["q", corpus[0]["docid"]])
    assert abs(read[0] - read[1]) > 1e-4  # both marks were read


def test_the_documents_of_a_query_come_best_first(tmp_path, decoder, data):
    rows, _ = search_with(tmp_path, decoder, data)
    for start in range(0, 50, 10):
        block = rows[start : start + 10]
        assert len({row["qid"] for row in block}) == 1
        assert [row["score"] for row in block] == sorted((row["score"] for row in block), reverse=True)


def test_a_tokenizer_that_appends_the_end_token_itself_gets_it_once(tmp_path, decoder, data):
    import shutil

    from orchestrator.workers.embedding.folder import append_end_token

    # the same weights, once with the tokenizer of Qwen3 and once with that of Qwen3-Embedding
    shutil.copytree(decoder, tmp_path / "appending")
    append_end_token(tmp_path / "appending")
    plain, appending = (
        search_with(tmp_path / str(i), m, data)[0] for i, m in enumerate((decoder, tmp_path / "appending"))
    )
    found, expected = by_pair(appending), by_pair(plain)
    assert max(abs(found[key] - expected[key]) for key in expected) < 1e-6


def test_a_tokenizer_with_code_of_its_own_gets_an_end_token_where_its_code_is_trusted(tmp_path, decoder):
    import shutil

    from orchestrator.workers.embedding.folder import append_end_token

    folder = tmp_path / "mine"
    shutil.copytree(decoder, folder)
    code = "from transformers import PreTrainedTokenizerFast\n\n\nclass Mine(PreTrainedTokenizerFast):\n    pass\n"
    (folder / "tokenization_mine.py").write_text(code)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    own = {"tokenizer_class": "Mine", "auto_map": {"AutoTokenizer": [None, "tokenization_mine.Mine"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | own))
    before = json.loads((folder / "tokenizer.json").read_text())["post_processor"]
    append_end_token(folder, trust_remote_code=True)
    assert json.loads((folder / "tokenizer.json").read_text())["post_processor"] != before


def test_a_text_that_is_cut_keeps_its_end_token_and_is_counted(tmp_path, decoder):
    pairs = write_lines(tmp_path / "pairs.jsonl", [{"pid": "p0", "text1": LONG, "text2": "short", "score": 1}])
    rows, facts = score_with(tmp_path, decoder, pairs)
    expected = float(embed_alone(decoder, INSTRUCTION + LONG) @ embed_alone(decoder, "short"))
    assert abs(rows[0]["score"] - expected) < 1e-5
    assert (facts["texts"], facts["texts_cut"], facts["max_length"]) == (2, 1, 64)


def test_pairs_get_the_cosine_of_their_texts_in_file_order(tmp_path, decoder, data):
    rows, facts = score_with(tmp_path, decoder, data / "pairs.jsonl")
    assert [row["pid"] for row in rows] == [f"p{index:06d}" for index in range(5)]
    for row, (name, text) in zip(rows, TOPICS.items(), strict=True):
        expected = float(embed_alone(decoder, INSTRUCTION + name) @ embed_alone(decoder, text))
        assert abs(row["score"] - expected) < 1e-5
    assert facts["kind"] == "pair"


def test_shorter_vectors_are_cut_and_brought_back_to_length_one(tmp_path, decoder, data):
    rows, facts = score_with(tmp_path, decoder, data / "pairs.jsonl", truncate_dim=8)
    first, second = (
        embed_alone(decoder, text)[:8] for text in (INSTRUCTION + next(iter(TOPICS)), next(iter(TOPICS.values())))
    )
    expected = float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))
    assert abs(rows[0]["score"] - expected) < 1e-5
    assert facts["dims"] == 8
    with pytest.raises(WorkerError, match="33, but its vectors have 32"):
        score_with(tmp_path, decoder, data / "pairs.jsonl", truncate_dim=33)


def test_a_folder_that_says_how_it_pools_is_measured_so(tmp_path, encoder, data):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    transformer = Transformer(str(encoder))
    own = SentenceTransformer(modules=[transformer, Pooling(32, "mean")], device="cpu")
    own.save_pretrained(str(tmp_path / "own"))
    rows, facts = score_with(tmp_path, tmp_path / "own", data / "pairs.jsonl", query_prompt="")
    vectors = own.encode(["Paris", TOPICS["Paris"]], normalize_embeddings=True)
    assert abs(rows[0]["score"] - float(vectors[0] @ vectors[1])) < 1e-5
    assert (facts["modules"], facts["pooling"]) == ("own", "mean")


def test_a_search_in_parts_finds_what_a_search_at_once_finds(monkeypatch):
    generator = np.random.default_rng(1)
    # few different values: equal cosines everywhere
    queries, documents = (generator.integers(-1, 2, (count, 4)).astype(np.float32) for count in (5, 200))
    whole = queries @ documents.T
    monkeypatch.setattr(embedding_score, "QUERIES_AT_ONCE", 2)
    monkeypatch.setattr(embedding_score, "DOCUMENTS_AT_ONCE", 17)
    for count in (1, 10, 50, 500):
        for row, (positions, scores) in enumerate(find_nearest(queries, documents, count)):
            expected = np.argsort(-whole[row], kind="stable")[:count]
            assert positions.tolist() == expected.tolist()
            assert scores.tolist() == whole[row][expected].tolist()


def test_a_model_that_gives_nan_is_refused(tmp_path, decoder, data):
    trained = tune(decoder, tmp_path)
    broken = copy_with(trained, tmp_path / "m", lambda name, one: one * float("nan") if "q_proj" in name else one)
    with pytest.raises(WorkerError, match=r"NaN, infinity or zero for \d+ of 10 texts"):
        score_with(tmp_path, broken.model, data / "pairs.jsonl")


def test_a_tokenizer_that_puts_its_own_tokens_around_texts_is_refused_for_the_last_token(tmp_path, encoder, data):
    with pytest.raises(WorkerError, match="has no token <\\|endoftext\\|>"):
        score_with(tmp_path, encoder, data / "pairs.jsonl")


def test_queries_without_a_corpus_and_rows_of_another_kind_are_refused(tmp_path, decoder, data, eval_file):
    with pytest.raises(WorkerError, match="need --corpus"):
        score_with(tmp_path, decoder, data / "queries.jsonl")
    with pytest.raises(WorkerError, match='eval.jsonl:1: not an object with the texts "docid", "text"'):
        score_with(tmp_path, decoder, data / "queries.jsonl", eval_file)
    twice = write_lines(tmp_path / "twice.jsonl", [{"docid": "d", "text": "a"}, {"docid": "d", "text": "b"}])
    with pytest.raises(WorkerError, match="twice.jsonl:2: docid d appears twice"):
        score_with(tmp_path, decoder, data / "queries.jsonl", twice)


def test_every_bad_value_of_a_spec_is_named(tmp_path):
    bad = {**SPEC, "pooling": "first", "max_length": 0, "batch_size": True, "mrl_dims": [0], "query_prompt": None}
    with pytest.raises(WorkerError) as caught:
        parse_embedding_spec(bad, "spec.json")
    assert len(caught.value.problems) == 5
    assert all(problem.startswith("spec.json: ") for problem in caught.value.problems)
    with pytest.raises(WorkerError, match="version 2"):
        parse_embedding_spec({**SPEC, "version": 2}, "spec.json")


def test_scores_are_kept_under_the_contents_of_the_corpus(tmp_path, decoder, data):
    other = tmp_path / "corpus.jsonl"
    other.write_text((data / "corpus.jsonl").read_text(encoding="utf-8").replace("Paris", "Lyon"), encoding="utf-8")
    entries = [
        find_entry(tmp_path, str(decoder), SPEC, data / "queries.jsonl", "cpu", corpus)
        for corpus in (None, data / "corpus.jsonl", other)
    ]
    assert len(set(entries)) == 3


def test_scores_of_an_untouched_model_come_back_from_the_cache(tmp_path, decoder, data, capsys):
    (tmp_path / "spec.json").write_text(json.dumps(SPEC), encoding="utf-8")
    for out in ("first", "second"):
        arguments = {"model": decoder, "scoring": tmp_path / "spec.json", "data": data / "queries.jsonl"}
        arguments |= {"corpus": data / "corpus.jsonl", "out": tmp_path / out, "cache": tmp_path / "cache"}
        assert score.main([part for name, value in arguments.items() for part in (f"--{name}", str(value))]) == 0
    assert "scored before" in capsys.readouterr().out
    assert (tmp_path / "first" / "scores.jsonl").read_text() == (tmp_path / "second" / "scores.jsonl").read_text()
