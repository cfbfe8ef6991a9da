from __future__ import annotations

import dataclasses
import json
import shutil

import msgspec
import pytest

from orchestrator.evaluation.metrics import build_metrics
from orchestrator.logs.events import EventLog
from orchestrator.logs.live import parse_line
from orchestrator.machine.rundir import RunDir
from orchestrator.report.publish import build_missing, build_warnings
from orchestrator.report.record import Check, LossPoint, TrainingLog, load_record
from orchestrator.run.folder import load_plan


@pytest.fixture(scope="module")
def whole(pristine_run):
    run = RunDir(pristine_run)
    plan = load_plan(run)
    return load_record(run, plan), build_metrics(run, plan)


def cautions(whole, *, metrics=None, **changed):
    record, measured = whole
    return "\n".join(build_warnings(dataclasses.replace(record, **changed), {**measured, **(metrics or {})}))


def with_system(whole, **changed):
    first, *rest = whole[1]["systems"]
    return {"systems": [{**first, **changed}, *rest]}


def test_a_whole_run_has_only_cautions_about_its_data(whole):
    assert len(cautions(whole).splitlines()) == 3


def test_duplicates_are_told(whole):
    assert "9 rows of the train data repeated another" in cautions(whole)


def test_cut_tokens_are_told_once(whole):
    ledger = json.loads(json.dumps(whole[0].ledger))
    ledger["warnings"] = [{"code": "texts-cut", "message": "4 texts are longer than the lengths"}]
    text = cautions(whole, ledger=ledger)
    assert ("4 texts are longer" in text, "188 tokens" in text) == (True, False)


def test_few_queries_make_a_wide_interval(whole):
    evaluation = {**whole[1]["eval"], "units": 29}
    assert "Only 29 queries measured: the interval is wide" in cautions(whole, metrics={"eval": evaluation})


def test_thirty_queries_are_not_few(whole):
    assert "interval is wide" not in cautions(whole, metrics={"eval": {**whole[1]["eval"], "units": 30}})


def test_queries_without_a_relevant_document_are_told(whole):
    evaluation = {**whole[1]["eval"], "queries_without_relevant": 2}
    assert "2 queries of 60 have no relevant document" in cautions(whole, metrics={"eval": evaluation})


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"constant": True}, "every document got the same score"),
        ({"missing_queries": ["q1"]}, "1 of 60 queries have no scores and count 0"),
        ({"head": "new"}, "it ranks at random"),
        ({"tied_queries": 4}, "in 4 of 60 queries documents with different labels share a score"),
        ({"tied_queries": 4, "sampled_queries": 1}, "for 1 of them the mean of 500 random orders"),
    ],
)
def test_what_weakens_a_system_is_told(whole, changed, words):
    assert words in cautions(whole, metrics=with_system(whole, **changed))


def test_a_failed_check_comes_first(whole):
    text = cautions(whole, checks=(Check("merged", passed=False, detail="it differs"),))
    assert text.startswith("The packaged model failed a check: merged. it differs")


def test_an_approximate_chat_template_is_told(whole):
    check = Check("sentence-transformers", passed=True, detail="", numbers={"agrees": False})
    assert "approximately" in cautions(whole, checks=(check,))


def test_a_diverged_training_is_told(whole):
    text = cautions(whole, training=TrainingLog((LossPoint(1, 1.0, None), LossPoint(2, None, None))))
    assert "not a number at 1 logged step" in text


def test_a_validation_loss_that_is_not_a_number_is_told(whole):
    log = TrainingLog((LossPoint(1, 1.0, None),), (LossPoint(1, None),))
    assert "validation loss is not a number at 1 evaluation." in cautions(whole, training=log)


def test_a_loss_stuck_at_zero_is_told(whole):
    assert "exactly 0" in cautions(whole, training=TrainingLog((LossPoint(1, 1.0, None), LossPoint(2, 0.0, None))))


def test_a_smoke_run_says_what_it_is(whole):
    assert "smoke run" in cautions(whole, plan=msgspec.structs.replace(whole[0].plan, smoke=True))


def test_a_ledger_that_does_not_add_up_is_told(whole):
    ledger = json.loads(json.dumps(whole[0].ledger))
    ledger["sides"]["train"]["kept"] -= 1
    assert "does not add up" in cautions(whole, ledger=ledger)


def test_a_whole_run_has_no_gaps(whole):
    assert build_missing(*whole) == []


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"training": TrainingLog()}, "no loss curve"),
        ({"checks": ()}, "was not verified"),
        ({"stats": None}, "data/stats.json is missing"),
        ({"recipe_text": None}, "recipe.yaml is missing"),
    ],
)
def test_a_missing_piece_is_a_stated_gap(whole, changed, words):
    assert words in "\n".join(build_missing(dataclasses.replace(whole[0], **changed), whole[1]))


def test_what_a_stage_went_on_without_is_told_once(tmp_path, pristine_run):
    run = RunDir(shutil.copytree(pristine_run, tmp_path / "run"))
    said = "the training goes on without last_logits: Model of this transformers has no logits_to_keep"
    events = EventLog(run.events_jsonl, lambda: 1.0)
    for event in (parse_line(f"orch-{kind} {said}") for kind in ("caution", "note", "caution")):
        events.emit(dataclasses.replace(event, stage="05-train"))
    plan = load_plan(run)
    assert build_warnings(load_record(run, plan), build_metrics(run, plan)).count(f"05-train: {said}") == 1
