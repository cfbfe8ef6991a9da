"""The demo really fine-tunes a real model, and its verdict is better, with an interval that excludes zero."""

from __future__ import annotations

import json

import pytest

pytestmark = [pytest.mark.smoke, pytest.mark.timeout(1800)]


def test_the_demo_is_better_than_the_untouched_cross_encoder_with_an_interval_that_excludes_zero(demo):
    report = json.loads((demo / "report.json").read_text(encoding="utf-8"))
    assert report["verdict"] == "better"
    headline = [item for item in report["comparisons"] if item["metric"] == "ndcg@10"]
    assert [item["baseline"] for item in headline] == ["trained-format", "native"]
    assert headline[0]["low"] > 0.1, headline[0]
    assert headline[0]["units"] == 80


def test_the_demo_reports_what_the_model_was_made_for_too(demo):
    report = json.loads((demo / "report.json").read_text(encoding="utf-8"))
    systems = {system["id"]: system for system in report["metrics"]["systems"]}
    assert systems["trained-format"]["head"] == "new"
    assert "bi-encoder" in systems["native"]["label"]
    assert systems["native"]["means"]["ndcg@10"] > systems["trained-format"]["means"]["ndcg@10"]


def test_the_gate_of_the_demo_is_passed(demo):
    gate = json.loads((demo / "report.json").read_text(encoding="utf-8"))["gate"]
    assert gate["passed"] is True


def test_the_demo_s_model_loads_in_both_libraries_with_one_score(demo):
    from FlagEmbedding import FlagReranker
    from sentence_transformers import CrossEncoder

    pairs = [
        ("Who cleared our web cache yesterday?", "Tundra writes down every thaw."),
        ("price of a server?", "Basalt bills by the hour."),
    ]
    native = FlagReranker(str(demo / "model"), use_fp16=False, devices="cpu").compute_score(pairs)
    portable = CrossEncoder(str(demo / "model"), device="cpu").predict(pairs).tolist()
    assert portable == pytest.approx(native, abs=1e-4)
