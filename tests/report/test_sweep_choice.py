"""The best setting of a sweep: chosen on one half of the rows, confirmed on the other, and held against the gate."""

from __future__ import annotations

import json
import shutil

import pytest

from orchestrator.errors import RunFolderError, StageFailedError
from orchestrator.evaluation.metrics import build_metrics
from orchestrator.machine.files import write_json
from orchestrator.machine.rundir import RunDir
from orchestrator.report.compare_runs import choose_setting, choose_trial, format_sweep
from orchestrator.run.folder import load_plan
from orchestrator.run.sweep import DONE, FAILED, Sweep, Trial, record_result, trial_dir


@pytest.fixture
def sweep(pristine_run, tmp_path):
    """Three trials of one seed: the tuned model, the untouched one in its place, and one that failed."""
    sweep = Sweep("r.yaml", ["loss"], 1, [])
    for loss in ("good", "none", "broken"):
        sweep.add({"loss": loss}, 42)
    for trial in sweep.trials[:2]:
        shutil.copytree(pristine_run, tmp_path / trial.run)
    run = trial_dir(tmp_path, sweep.trials[1])
    shutil.copy(
        run.stage("02-baseline-native").output / "scores.jsonl", run.stage("07-evaluate").output / "scores.jsonl"
    )
    for trial in sweep.trials[:2]:
        run = trial_dir(tmp_path, trial)
        write_json(run.metrics_json, metrics := build_metrics(run, load_plan(run)))
        write_json(run.report_json, {"gate": metrics["gate"]})
        trial.state = DONE
        record_result(tmp_path, sweep, trial)
    sweep.trials[2].state, sweep.trials[2].note = FAILED, "CUDA ran out of memory"
    return sweep


def test_the_winner_is_confirmed_on_the_half_that_did_not_choose_it(sweep, tmp_path):
    chosen = choose_trial(tmp_path, sweep)
    assert (chosen["rule"], chosen["chosen_from"], chosen["units"]) == ("confirmed", 2, 30)
    best = chosen["winner"]
    assert (best["set"], best["trials"], best["verdict"]) == ({"loss": "good"}, [0], "better")
    assert best["interval"][0] > 0
    assert best["difference"] != pytest.approx(sweep.trials[0].difference)  # of half of the rows
    assert chosen["not_worse"] == []


def test_the_gate_is_held_against_the_confirmed_number(sweep, tmp_path):
    [rule] = [one for one in choose_trial(tmp_path, sweep)["gate"]["rules"] if one["metric"] == "ndcg@10"]
    whole = json.loads(trial_dir(tmp_path, sweep.trials[0]).metrics_json.read_text())["gate"]["rules"]
    assert rule["passed"]
    assert rule["sentence"] != whole[0]["sentence"]  # other rows, other numbers


def test_a_small_set_is_corrected_and_not_halved(sweep, tmp_path, monkeypatch):
    monkeypatch.setattr("orchestrator.evaluation.choice.FEWEST_TO_SPLIT", 61)
    chosen = sweep.choice = choose_trial(tmp_path, sweep)
    assert (chosen["rule"], chosen["units"]) == ("corrected", 60)
    assert "too few to choose on one half" in "\n".join(format_sweep(sweep))


def test_one_setting_of_several_trainings_is_no_choice(sweep, tmp_path):
    runs = [trial_dir(tmp_path, trial) for trial in sweep.trials[:2]]
    chosen = choose_setting([runs])
    single = choose_setting([runs[:1]])
    assert (chosen["chosen_from"], chosen["rule"]) == (1, "corrected")
    assert chosen["interval"][0] < single["interval"][0] < single["interval"][1] < chosen["interval"][1]


def test_the_table_says_each_trial_and_what_one_seed_cannot_know(sweep, tmp_path):
    sweep.choice = choose_trial(tmp_path, sweep)
    text = "\n".join(format_sweep(sweep))
    assert "winner: loss=good (trials 000)" in text
    assert "chosen from 2 settings on one half of the evaluation set, confirmed on the other, 30 rows: better" in text
    assert "CUDA ran out of memory" in text
    assert "--seeds 3" in text
    assert "gate passed" in text
    assert "优胜：loss=good" in "\n".join(format_sweep(sweep, "zh"))


def test_trials_of_other_data_are_not_compared(sweep, tmp_path):
    path = trial_dir(tmp_path, sweep.trials[1]).metrics_json
    metrics = json.loads(path.read_text())
    metrics["eval"]["sha256"] = "0" * 64
    write_json(path, metrics)
    with pytest.raises(RunFolderError, match="different evaluation sets"):
        choose_trial(tmp_path, sweep)


def test_without_a_finished_trial_there_is_nothing_to_choose(tmp_path):
    trials = [Trial(0, "trials/000", {}, 1, state=FAILED, note="no such file")]
    with pytest.raises(StageFailedError, match="none of 1 trials") as caught:
        choose_trial(tmp_path, Sweep("r", [], 1, trials))
    assert caught.value.problems[0].hint == "no such file"


def test_without_a_baseline_nothing_is_chosen(sweep, tmp_path):
    run = RunDir(tmp_path / sweep.trials[0].run)
    metrics = json.loads(run.metrics_json.read_text())
    metrics["headline"]["baseline"] = None
    write_json(run.metrics_json, metrics)
    assert choose_trial(tmp_path, sweep) is None
