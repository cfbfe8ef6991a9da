from __future__ import annotations

import json

import pytest

from orchestrator.errors import RunFolderError
from orchestrator.machine.rundir import RunDir
from orchestrator.report.page import _facts
from orchestrator.report.record import load_record, parse_checks
from orchestrator.run.folder import load_plan


def test_checks_keep_their_numbers_apart_from_their_words():
    (check,) = parse_checks({"checks": [{"name": "merged", "passed": True, "max_difference": 1e-6, "missing": []}]})
    assert (check.name, check.passed, check.numbers) == (
        "the merged model gives what the base model gives with the adapter",
        True,
        {"max_difference": 1e-6},
    )


def test_the_failure_of_a_check_is_its_detail():
    (check,) = parse_checks({"checks": [{"name": "x", "passed": False, "failure": "it broke"}]})
    assert (check.passed, check.detail) == (False, "it broke")


def test_checks_may_be_an_object_by_name():
    checks = parse_checks({"checks": {"is_finite": True, "is_small": {"ok": False, "numbers": {"n": 3}}}})
    assert [(check.name, check.passed, dict(check.numbers)) for check in checks] == [
        ("is finite", True, {}),
        ("is small", False, {"n": 3}),
    ]


@pytest.mark.parametrize("raw", [{}, {"checks": None}, {"checks": "yes"}, {"checks": [1, 2]}])
def test_an_unknown_form_of_verification_has_no_checks(raw):
    assert parse_checks(raw) == ()


def test_a_stage_without_a_result_has_no_time(run):
    timings = load_record(run, load_plan(run)).timings
    assert (timings[3].seconds, timings[-1].seconds) == (412.6, None)


def test_the_ledger_names_further_training_sets_and_guards(run):
    def write(folder, sides, warnings=()):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "ledger.json").write_text(json.dumps({"sides": sides, "warnings": list(warnings)}))

    write(run.data, {"train": {"rows_in": 3, "kept": 3, "dropped": {}}})
    left_over = {"code": "rows-left-over", "message": "1 of 5 training rows"}
    empty, kept = {"rows_in": 0, "kept": 0, "dropped": {}}, {"rows_in": 5, "kept": 4, "dropped": {"duplicate": 1}}
    write(run.train_sources / "titles", {"train": kept, "eval": empty}, [left_over])
    write(run.guard("news"), {"eval": {"rows_in": 2, "kept": 2, "dropped": {}}})
    record = load_record(run, load_plan(run))
    assert {name: side["kept"] for name, side in record.ledger["sides"].items()} == {
        "train": 3, "training set titles": 4, "guard news": 2,
    }  # fmt: skip
    assert record.ledger["warnings"][-1]["message"] == "training set titles: 1 of 5 training rows"
    assert ("Trained on", "7 rows") in list(_facts(record, {"eval": None}))


def test_a_run_without_a_ledger_has_none(run):
    run.ledger_json.unlink(missing_ok=True)
    assert load_record(run, load_plan(run)).ledger is None


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunFolderError, match="not a run folder"):
        load_plan(RunDir(tmp_path))


def test_a_damaged_plan_is_refused(run):
    run.plan_json.write_text('{"name": "x"')
    with pytest.raises(RunFolderError, match=r"plan\.json cannot be read"):
        load_plan(run)
