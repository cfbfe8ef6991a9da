"""The demos really fine-tune a real model, and their verdicts are better, with an interval that excludes zero."""

from __future__ import annotations

import json

import pytest

pytestmark = [pytest.mark.smoke, pytest.mark.timeout(1800)]


def read_report(run):
    return json.loads((run / "report.json").read_text(encoding="utf-8"))


def find_headline(report):
    return [item for item in report["comparisons"] if item["metric"] == "ndcg@10"]


def test_the_demo_is_better_than_the_model_as_its_authors_use_it_with_an_interval_that_excludes_zero(demo):
    report = read_report(demo)
    assert report["verdict"] == "better"
    [headline] = find_headline(report)
    assert headline["baseline"] == "native"
    assert headline["low"] > 0.1, headline
    assert headline["units"] == 80
    assert report["gate"]["passed"] is True


def test_the_demo_s_baseline_is_no_random_head(demo):
    [native] = [one for one in read_report(demo)["metrics"]["systems"] if one["id"] == "native"]
    assert native["means"]["ndcg@10"] > 0.3
    assert native["head"] is None


def test_the_demo_s_model_is_a_whole_sentence_transformer(demo):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(demo / "model"), device="cpu")
    query, right, wrong = model.encode(["Who cleared our web cache yesterday?", "Tundra writes down every thaw.",
                                        "Basalt bills by the hour."])  # fmt: skip
    assert model.similarity(query, right) > model.similarity(query, wrong)


def test_the_demo_of_a_reranker_is_better_than_the_untouched_cross_encoder(demo_reranker):
    report = read_report(demo_reranker)
    assert report["verdict"] == "better"
    headline = find_headline(report)
    assert [item["baseline"] for item in headline] == ["trained-format", "native"]
    assert headline[0]["low"] > 0.1, headline[0]
    assert headline[0]["units"] == 80
    assert report["gate"]["passed"] is True


def test_the_demo_of_a_reranker_reports_what_the_model_was_made_for_too(demo_reranker):
    systems = {system["id"]: system for system in read_report(demo_reranker)["metrics"]["systems"]}
    assert systems["trained-format"]["head"] == "new"
    assert "bi-encoder" in systems["native"]["label"]
    assert systems["native"]["means"]["ndcg@10"] > systems["trained-format"]["means"]["ndcg@10"]


def test_the_reranker_s_model_loads_in_both_libraries_with_one_score(demo_reranker):
    from FlagEmbedding import FlagReranker
    from sentence_transformers import CrossEncoder

    pairs = [
        ("Who cleared our web cache yesterday?", "Tundra writes down every thaw."),
        ("price of a server?", "Basalt bills by the hour."),
    ]
    native = FlagReranker(str(demo_reranker / "model"), use_fp16=False, devices="cpu").compute_score(pairs)
    portable = CrossEncoder(str(demo_reranker / "model"), device="cpu").predict(pairs).tolist()
    assert portable == pytest.approx(native, abs=1e-4)
