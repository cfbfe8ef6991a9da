"""A sweep of small Python children: what is shared, what a failure and a stop leave, and what goes on afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from dataclasses import dataclass

import pytest

from orchestrator.errors import InterruptedRunError, PreflightError, RunFolderError, TakenAwayError
from orchestrator.machine.hardware import CPU, Hardware
from orchestrator.machine.rundir import RunDir
from orchestrator.plan.sweep import Budget, Planned
from orchestrator.recipe.plan import Command, Plan, Stage
from orchestrator.run.state import held_lock
from orchestrator.run.stopping import Interrupts
from orchestrator.run.study import STORAGE, Pruner
from orchestrator.run.sweep import DONE, FAILED, PRUNED, STOPPED, load_sweep
from orchestrator.run.sweeping import Runner, Trials, share_gpus

PREPARE = """
import pathlib, sys
rows, out, count = map(pathlib.Path, sys.argv[1:])
with count.open("a") as stream: stream.write("x")
out.parent.mkdir(exist_ok=True)
out.write_text(rows.read_text())
"""
TRAIN = """
import os, pathlib, signal, sys
what, out, count = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
with count.open("a") as stream: stream.write(what)
if what == "b": raise SystemExit("it cannot learn")
if what == "s" and count.read_text().count("s") == 1:
    os.kill(int(sys.argv[4]), signal.SIGINT)
    import time; time.sleep(60)
out.parent.mkdir(parents=True, exist_ok=True)
out.write_text(what)
"""


BESIDE = """
import os, signal, sys, time
from pathlib import Path
from orchestrator.machine.rundir import RunDir
from orchestrator.run.state import RunState, write_state
run, what, trained = RunDir(Path(sys.argv[1])), sys.argv[2], Path(sys.argv[3])
run.root.mkdir(parents=True)
run.plan_json.write_text("{}")
with trained.open("a") as stream: stream.write(what)
def end(status, code, message=None):
    write_state(run, RunState(status, 1.0, message=message, exit_code=code))
    raise SystemExit(code)
for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 75)):
    signal.signal(number, lambda *_, code=code: end("interrupted", code, "stopped"))
if what == "g": trained.with_name("gpus").write_text(os.environ["CUDA_VISIBLE_DEVICES"])
if what == "s":
    os.kill(int(sys.argv[4]), signal.SIGINT)
    time.sleep(60)
while what in "12" and not {"1", "2"} <= set(trained.read_text()): time.sleep(0.05)  # both run at once, or never end
if what == "b": end("failed", 6, "02-train: it cannot learn")
if what == "t": end("interrupted", 75, "the node is gone")
end("done", 8 if what == "m" else 0)
"""


@dataclass(frozen=True)
class Line:
    """What another process is started with."""

    argv: tuple[str, ...]

    def words(self):
        return self.argv


class FakeTrials(Trials):
    """Trials of two small commands: `what` says what the training does, `rows` which file is prepared."""

    def plan(self, trial):
        run, place = self.run(trial), self.folder.parent
        rows = str(place / trial.set.get("rows", "a.jsonl"))
        prepare = [sys.executable, "-c", PREPARE, rows, str(run.train_jsonl), str(place / "prepared")]
        out = run.stage("02-train").output / "weights"
        train = [
            sys.executable,
            "-c",
            TRAIN,
            trial.set["what"],
            str(out),
            str(place / "trained"),
            str(os.getpid()),
        ]
        stages = (
            Stage(
                "01-prepare",
                "prepare",
                "Prepare",
                Command(tuple(prepare), (), "."),
                inputs=(rows,),
                outputs=("data/train.jsonl",),
            ),
            Stage(
                "02-train",
                "train",
                "Train",
                Command(tuple(train), (), "."),
                inputs=("data/train.jsonl",),
                outputs=(str(out),),
            ),
        )
        return Plan("t", str(run.root), "reranker", "fake", False, {}, stages, ())

    def line(self, trial):
        words = (str(self.run(trial).root), trial.set["what"], str(self.folder.parent / "trained"), str(os.getpid()))
        return Line((sys.executable, "-c", BESIDE, *words))


@pytest.fixture
def sweep_of(tmp_path):
    """Return what runs a sweep over settings in one folder, again and again."""
    for name in ("a", "b", "same"):
        (tmp_path / f"{name}.jsonl").write_text("b" if name == "b" else "a")
    (tmp_path / "r.yaml").write_text("name: t\n")

    def run(*settings, budget=None, study=None, optuna=None, shares=(), listen=None, tell=None):
        asked = dict.fromkeys(("random", "optuna"), None) | {"set": [], "seeds": 1, "smoke": False, "hardware": "cpu"}
        asked["recipe_sha256"] = "1"
        parameters = dict.fromkeys(settings[0], ()) if optuna is None else {"what": ("1", "s", "3")}
        asked["optuna"], settings = optuna, settings if optuna is None else ()
        budget = budget or Budget()
        planned = Planned("t", tmp_path / "r.yaml", (), CPU, parameters, settings, 1, 42, budget, optuna, True, asked)
        trials = FakeTrials.take_up(planned, tmp_path / "sweep")
        said = []
        quiet = contextlib.nullcontext(lambda _: None)
        listen, tell = listen or (lambda *_: quiet), tell or said.append
        runner = Runner(trials, listen, tell, warm=False, study=study)
        runner.run_beside(list(shares)) if shares else runner.run()
        trials.sweep.said = said
        return trials.sweep

    return run


def count(tmp_path, name):
    return (tmp_path / name).read_text()


def test_what_is_prepared_is_shared_by_content(sweep_of, tmp_path):
    sweep = sweep_of(
        {"what": "1", "rows": "a.jsonl"}, {"what": "2", "rows": "a.jsonl"}, {"what": "3", "rows": "b.jsonl"}
    )
    assert [trial.state for trial in sweep.trials] == [DONE] * 3
    assert count(tmp_path, "prepared") == "xx"  # the rows of the third are others
    first, second, third = (RunDir(tmp_path / "sweep" / trial.run) for trial in sweep.trials)
    assert second.train_jsonl.stat().st_ino == first.train_jsonl.stat().st_ino
    assert third.train_jsonl.read_text() == "b"
    assert "taken from" in second.events_jsonl.read_text()


def test_other_content_in_a_file_of_one_name_is_not_shared(sweep_of, tmp_path):
    sweep_of({"what": "1"}, {"what": "2"}, budget=Budget(trials=1))
    (tmp_path / "a.jsonl").write_text("changed")
    sweep = sweep_of({"what": "1"}, {"what": "2"})
    assert count(tmp_path, "prepared") == "xx"
    assert RunDir(tmp_path / "sweep" / sweep.trials[1].run).train_jsonl.read_text() == "changed"


def test_a_failed_trial_is_counted_and_does_not_end_the_sweep(sweep_of, tmp_path):
    sweep = sweep_of({"what": "1"}, {"what": "b"}, {"what": "3"})
    assert [trial.state for trial in sweep.trials] == [DONE, FAILED, DONE]
    assert "02-train" in sweep.trials[1].note
    assert any("trial 1 failed" in text for text in sweep.said)
    sweep_of({"what": "1"}, {"what": "b"}, {"what": "3"})
    assert count(tmp_path, "trained") == "1b3"  # nothing is repeated, what was wrong neither


def test_a_stop_leaves_what_goes_on_without_repeating_a_finished_trial(sweep_of, tmp_path):
    settings = ({"what": "1"}, {"what": "s"}, {"what": "3"})
    with pytest.raises(InterruptedRunError, match="trials/001") as caught:
        sweep_of(*settings)
    assert caught.value.problems[0].hint.endswith(f"`orch resume {tmp_path / 'sweep'}`")
    assert [trial.state for trial in load_sweep(tmp_path / "sweep").trials] == [DONE, STOPPED, "waiting"]
    sweep = sweep_of(*settings)
    assert [trial.state for trial in sweep.trials] == [DONE] * 3
    assert count(tmp_path, "trained") == "1ss3"


def test_a_trial_whose_folder_was_half_written_begins_anew(sweep_of, tmp_path):
    half = tmp_path / "sweep" / "trials" / "000"
    half.mkdir(parents=True)
    (half / "run.sh").write_text("#!/bin/sh\n")
    assert sweep_of({"what": "1"}).trials[0].state == DONE


def test_a_sweep_without_its_state_takes_up_its_trials(sweep_of, tmp_path):
    sweep_of({"what": "1"}, {"what": "2"})
    (tmp_path / "sweep" / "sweep.json").unlink()
    assert [trial.state for trial in sweep_of({"what": "1"}, {"what": "2"}).trials] == [DONE, DONE]
    assert count(tmp_path, "trained") == "12"


def test_two_sweeps_on_one_folder_are_refused(sweep_of, tmp_path):
    (tmp_path / "sweep").mkdir()
    with held_lock(RunDir(tmp_path / "sweep")), pytest.raises(RunFolderError, match="busy") as caught:
        sweep_of({"what": "1"})
    assert "the same command then goes on" in caught.value.problems[0].hint


def test_a_budget_leaves_the_rest_waiting(sweep_of):
    sweep = sweep_of({"what": "1"}, {"what": "2"}, budget=Budget(trials=1))
    assert [trial.state for trial in sweep.trials] == [DONE, "waiting"]
    assert any("budget of 1 trials" in text for text in sweep.said)
    sweep = sweep_of({"what": "1"}, {"what": "2"}, {"what": "3"}, budget=Budget(hours=1e-9))
    assert [trial.state for trial in sweep.trials] == [DONE, "waiting", "waiting"]  # no time is left


@contextlib.contextmanager
def stopped_behind(number):
    """Signal this process when a trial's listener lets go: between that trial and the next."""
    yield lambda _event: None
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("budget", [Budget(), Budget(trials=1), Budget(hours=1e-9)])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_between_two_trials_is_heard_before_the_budget_is_asked(sweep_of, tmp_path, budget, number):
    with pytest.raises(InterruptedRunError, match="trials/001") as caught:
        sweep_of({"what": "1"}, {"what": "2"}, budget=budget, listen=lambda *_: stopped_behind(number))
    assert caught.value.problems[0].hint.endswith(f"`orch resume {tmp_path / 'sweep'}`")
    assert [trial.state for trial in load_sweep(tmp_path / "sweep").trials] == [DONE, "waiting"]


def test_a_scheduler_that_stops_a_sweep_between_two_trials_takes_it_away(sweep_of, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with pytest.raises(TakenAwayError, match="trials/001"):
        sweep_of({"what": "1"}, {"what": "2"}, listen=lambda *_: stopped_behind(signal.SIGTERM))


def test_a_stop_behind_the_last_trial_ends_nothing(sweep_of):
    sweep = sweep_of({"what": "1"}, listen=lambda *_: stopped_behind(signal.SIGINT))
    assert [trial.state for trial in sweep.trials] == [DONE]


def test_what_the_machine_lacks_for_the_moment_fails_no_trial(sweep_of, tmp_path, monkeypatch):
    plan = FakeTrials.plan

    def refuse(self, trial):
        if (self.folder / "trials").exists():
            raise PreflightError("the disk is full")
        return plan(self, trial)

    settings = ({"what": "1"}, {"what": "2"})
    with monkeypatch.context() as patched:
        patched.setattr(FakeTrials, "plan", refuse)
        with pytest.raises(PreflightError):
            sweep_of(*settings)
    assert [trial.state for trial in load_sweep(tmp_path / "sweep").trials] == [DONE, "waiting"]
    assert [trial.state for trial in sweep_of(*settings).trials] == [DONE, DONE]


TWO = ({}, {})


def test_trials_run_at_once_and_one_that_fails_does_not_end_the_sweep(sweep_of, tmp_path):
    sweep = sweep_of({"what": "1"}, {"what": "2"}, {"what": "b"}, {"what": "m"}, shares=TWO)
    assert [trial.state for trial in sweep.trials] == [DONE, DONE, FAILED, DONE]  # a missed gate is an end, too
    assert sweep.trials[2].note == "02-train: it cannot learn"
    assert sorted(count(tmp_path, "trained")) == ["1", "2", "b", "m"]
    assert load_sweep(tmp_path / "sweep").seconds > 0


def test_a_trial_beside_others_sees_its_own_gpus(sweep_of, tmp_path):
    sweep = sweep_of({"what": "g"}, shares=[{"CUDA_VISIBLE_DEVICES": "2,3"}])
    assert (tmp_path / "gpus").read_text() == "2,3"
    assert any("on CUDA_VISIBLE_DEVICES=2,3" in text for text in sweep.said)


def test_what_is_taken_from_one_trial_ends_the_sweep_behind_those_that_run(sweep_of, tmp_path):
    with pytest.raises(TakenAwayError, match="trials/000: the node is gone"):
        sweep_of({"what": "t"}, {"what": "m"}, {"what": "3"}, shares=[{}])
    assert [trial.state for trial in load_sweep(tmp_path / "sweep").trials] == [STOPPED, "waiting", "waiting"]


def test_a_stop_reaches_every_trial_that_runs(sweep_of, tmp_path):
    with pytest.raises(InterruptedRunError, match="trials/00"):
        sweep_of({"what": "1"}, {"what": "s"}, {"what": "3"}, shares=TWO)
    assert [trial.state for trial in load_sweep(tmp_path / "sweep").trials] == [STOPPED, STOPPED, "waiting"]
    assert "3" not in count(tmp_path, "trained")


@pytest.mark.parametrize("budget", [Budget(), Budget(trials=1)])
def test_a_stop_between_trials_at_once_is_heard_before_the_budget_is_asked(sweep_of, tmp_path, budget):
    def stop(text):
        if "is done" in text:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(InterruptedRunError, match="trials/001"):
        sweep_of({"what": "m"}, {"what": "m"}, budget=budget, shares=[{}], tell=stop)
    assert [trial.state for trial in load_sweep(tmp_path / "sweep").trials] == [DONE, "waiting"]


@pytest.mark.parametrize(
    ("visible", "at_once", "shares"),
    [(None, 2, ["0,1", "2,3"]), ("4,5,6", 2, ["4", "5"]), (None, 4, ["0", "1", "2", "3"])],
)
def test_gpus_are_shared_evenly(monkeypatch, visible, at_once, shares):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    found = share_gpus(Hardware("cuda", 4), at_once)
    assert [share["CUDA_VISIBLE_DEVICES"] for share in found] == shares


def test_more_trials_at_once_than_gpus_are_refused_and_on_a_cpu_they_share_it(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(PreflightError, match="3 trials at once have 2 GPUs") as caught:
        share_gpus(Hardware("cuda", 2), 3)
    assert caught.value.problems[0].hint == "say --parallel 2"
    assert share_gpus(CPU, 3) == [{}, {}, {}]


def test_a_folder_of_something_else_is_refused(sweep_of, tmp_path):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "thesis.tex").touch()
    with pytest.raises(RunFolderError, match="not empty"):
        sweep_of({"what": "1"})


def test_optuna_asks_for_trials_until_it_has_had_all_and_goes_on_after_a_stop(sweep_of, tmp_path):
    for _ in range(2):  # a training that stops the sweep does so once
        with contextlib.suppress(InterruptedRunError):
            sweep = sweep_of(optuna=5)
    assert [trial.state for trial in sweep.trials] == [DONE] * 5
    trained = count(tmp_path, "trained")
    assert len(trained.replace("ss", "s", 1)) == 5
    assert {trial.set["what"] for trial in sweep.trials} <= {"1", "s", "3"}
    assert (tmp_path / "sweep" / STORAGE).exists()


class FakeTrial:
    def __init__(self, bad_at):
        self.bad_at, self.reported = bad_at, []

    def report(self, value, step):
        self.reported.append((value, step))

    def should_prune(self):
        return len(self.reported) >= self.bad_at


def test_a_pruner_stops_a_training_through_the_supervisor(sweep_of, tmp_path, monkeypatch):
    """The second training logs a validation loss that promises nothing: it is stopped, and the third still runs."""
    talk = (
        TRAIN + "\nprint({'eval_loss': 2.5, 'epoch': 1.0}, flush=True)\nif what == 'p': import time; time.sleep(60)\n"
    )
    monkeypatch.setattr(sys.modules[__name__], "TRAIN", talk)

    class FakeStudy:
        def ask(self, _sweep):
            return None

        def tell(self, *_words):
            pass

        def follow(self, _sweep, trial, interrupts):
            return Pruner(FakeTrial(1 if trial.set["what"] == "p" else 9), interrupts)

    sweep = sweep_of({"what": "1"}, {"what": "p"}, {"what": "3"}, study=FakeStudy())
    assert [trial.state for trial in sweep.trials] == [DONE, PRUNED, DONE]
    assert "validation loss 2.5 after evaluation 1" in sweep.trials[1].note


def test_a_pruner_reports_each_evaluation_as_better_the_larger():
    from orchestrator.logs.events import Message

    trial, interrupts = FakeTrial(3), Interrupts()
    pruner = Pruner(trial, interrupts)
    for text in ("eval_loss 2.0, eval_runtime 1", "trained in 3 s", "eval_loss 1e-1", "eval_loss nan"):
        pruner(Message("info", text, "04-train"))
        pruner(Message("info", text, "03-baseline"))
    assert [round(value, 6) for value, _ in trial.reported[:2]] == [-2.0, -0.1]
    assert [step for _, step in trial.reported] == [1, 2, 3]
    assert interrupts.count == 1
    assert pruner.why
