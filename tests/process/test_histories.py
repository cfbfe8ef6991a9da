"""The supervisor, replayed: tables of what the child and the user do, on a fake clock, and what must come of it."""

from __future__ import annotations

import dataclasses
import signal

import pytest
from msgspec.structs import replace

from orchestrator.errors import DataError, InterruptedRunError, StageFailedError, StalledError, TakenAwayError
from orchestrator.logs.events import (
    Message,
    Progress,
    StageFinished,
    StageSkipped,
    StageStarted,
    Step,
    append_event,
    load_events,
)
from orchestrator.machine.files import write_json
from orchestrator.recipe.schema import Watch
from orchestrator.run import loop
from orchestrator.run.loop import run_plan
from orchestrator.run.runs import ask_to_stop
from orchestrator.run.state import LaunchRecord, load_result, read_state
from orchestrator.run.stopping import StopTimeouts
from orchestrator.run.watch import WRITTEN_BYTES

INT, TERM, KILL = signal.SIGINT, signal.SIGTERM, signal.SIGKILL
PATIENCE = StopTimeouts(20.0, 10.0, 5.0)


@pytest.fixture
def replay(make_stage, make_plan, run_dir, fake, clock, interrupts):
    def replay(history=(), user=(), *, stages=1, **more):
        fake.history = list(history)
        for seconds, action in user:
            clock.at(seconds, action)
        fields = {name: more.pop(name) for name in ("timeout_s", "flat_loss") if name in more}
        plan = make_plan(*(make_stage(f"{n:02d}-work", **fields) for n in range(1, stages + 1)))
        plan = replace(plan, recipe={"watch": more.pop("watch")} if "watch" in more else {})
        edges = {"clock": clock, "processes": fake, "interrupts": interrupts}
        return run_plan(plan, run_dir, timeouts=PATIENCE, **edges, **more)

    return replay


def writes(text="x"):
    def act(fake):
        path = fake.launch.cwd / fake.launch.argv[-1]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    return act


def ends(code, **more):
    return lambda fake: fake.end(code, **more)


def says(text):
    return lambda fake: fake.say(text)


WORKS = [(1, writes()), (2, ends(0))]


def finished(run_dir):
    return [event.status for event in load_events(run_dir.events_jsonl) if isinstance(event, StageFinished)]


def test_a_stage_that_ends_well_is_done(replay, run_dir):
    outcome = replay(WORKS)
    assert outcome.stages[0].status == "done"
    assert 2 <= outcome.stages[0].seconds < 2.5
    assert read_state(run_dir).status == "done"
    assert load_result(run_dir.stage("01-work")).exit_code == 0


def test_stages_run_one_after_the_other_and_a_second_call_skips_them(replay, run_dir, fake):
    replay(WORKS, stages=3)
    assert len(fake.launches) == 3
    outcome = replay(WORKS, stages=3)
    assert len(fake.launches) == 3
    assert {stage.status for stage in outcome.stages} == {"skipped"}
    assert sum(isinstance(event, StageSkipped) for event in load_events(run_dir.events_jsonl)) == 3


SWIFT_SAYS = "[INFO:swift] train_dataset: Dataset({\n    features: ['messages'],\n    num_rows: 22\n})\n"


@pytest.fixture
def train(make_stage, make_plan, run_dir, fake, clock, interrupts):
    def train(history, kept):
        fake.history = list(history)
        write_json(run_dir.ledger_json, {"sides": {"train": {"kept": kept}}})
        plan = make_plan(replace(make_stage("01-train"), counts_rows=True))
        return run_plan(plan, run_dir, clock=clock, processes=fake, interrupts=interrupts, timeouts=PATIENCE)

    return train


def test_a_trainer_that_loads_as_many_rows_as_the_ledger_kept_goes_on(train):
    assert train([(1, says(SWIFT_SAYS)), *WORKS], 22).stages[0].status == "done"


def test_a_trainer_that_never_says_how_many_rows_it_has_is_warned_about(train, run_dir):
    train(WORKS, 22)
    said = [event.text for event in load_events(run_dir.events_jsonl) if isinstance(event, Message)]
    assert [text for text in said if "nobody compared them" in text]


def test_a_trainer_that_leaves_rows_out_is_stopped_at_once(train, fake, run_dir):
    with pytest.raises(DataError, match="loaded 22 train rows, and 24 were prepared"):
        train([(1, says(SWIFT_SAYS)), (3000, writes()), (3001, ends(0))], 24)
    assert fake.signals
    assert finished(run_dir) == ["failed"]


def test_a_trainer_that_leaves_rows_out_and_ends_before_it_is_seen_has_failed_too(train):
    def all_at_once(fake):
        for act in (says(SWIFT_SAYS), writes(), ends(0)):
            act(fake)

    with pytest.raises(DataError, match="loaded 22 train rows"):
        train([(1, all_at_once)], 24)


def test_exit_code_0_without_the_output_is_a_failure(replay, run_dir):
    with pytest.raises(StageFailedError, match="exit code 0 but did not write stages/01-work/output/out"):
        replay([(1, ends(0))])
    assert finished(run_dir) == ["failed"]
    assert load_result(run_dir.stage("01-work")) is None


def test_a_failed_stage_ends_the_run_and_keeps_the_evidence(replay, run_dir, fake):
    with pytest.raises(StageFailedError) as caught:
        replay([(1, says("KeyError: 'neg'")), (2, ends(1))], stages=2)
    problem = caught.value.problems[0]
    assert problem.message == "01-work ended with exit code 1: a training row has no `neg`\n  KeyError: 'neg'"
    assert problem.where.path.endswith("01-work/stdout.log")
    assert problem.where.line == 1
    assert len(fake.launches) == 1
    assert read_state(run_dir).reason == "failed"
    assert read_state(run_dir).exit_code == 6


@pytest.mark.parametrize(
    ("ending", "oom_kills", "status"),
    [
        (ends(137), 0, "killed"),
        (ends(137), 1, "out-of-memory"),
        (ends(137, write=False), 0, "killed"),
        (ends(143), 0, "killed"),
        (ends(7), 0, "failed"),
        (ends(7), 1, "failed"),
    ],
)
def test_reasons_are_told_apart(replay, run_dir, ending, oom_kills, status):
    def end(fake):
        fake.oom_kills += oom_kills
        ending(fake)

    with pytest.raises(StageFailedError):
        replay([(1, end)])
    assert finished(run_dir) == [status]


def test_cuda_out_of_memory_is_out_of_memory(replay, run_dir):
    with pytest.raises(StageFailedError, match="GPU has not enough memory"):
        replay([(1, says("torch.OutOfMemoryError: CUDA out of memory.")), (2, ends(1))])
    assert finished(run_dir) == ["out-of-memory"]


def test_a_stage_over_its_time_is_stopped(replay, run_dir, fake):
    with pytest.raises(StalledError, match="longer than its limit of 5 s"):
        replay([(100, ends(0))], timeout_s=5.0)
    assert finished(run_dir) == ["timed-out"]
    assert fake.signals[0][2] == INT


def test_a_silent_stage_is_stopped_and_a_talking_one_is_not(replay, run_dir):
    talk = [(seconds, says(f"line {seconds}")) for seconds in range(1, 60, 5)]
    replay([*talk, (60, writes()), (61, ends(0))], stall_s=10.0)
    assert finished(run_dir) == ["done"]


def test_a_stalled_stage_is_stopped(replay, run_dir):
    with pytest.raises(StalledError, match="said nothing new for 10 s, since .+: it was stopped"):
        replay([(1, says("last words"))], stall_s=10.0)
    assert finished(run_dir) == ["stalled"]
    assert read_state(run_dir).exit_code == 7


def draws(done, seconds):
    return says(f"\r {10 * done}%|███       | {done}/10 [00:{seconds:02d}<00:07,  1.00it/s]")


def test_a_bar_that_only_redraws_itself_is_a_stall_and_the_error_says_since_when_and_where(replay):
    redraws = [(seconds, draws(3, seconds)) for seconds in range(5, 40)]
    with pytest.raises(StalledError, match="said nothing new for 10 s, since .+ at 3 of 10: it was stopped"):
        replay([(1, draws(2, 1)), *redraws, (60, writes()), (61, ends(0))], stall_s=10.0)


def test_a_bar_that_moves_slowly_is_life(replay, run_dir):
    moves = [(9 * done, draws(done, done)) for done in range(1, 11)]
    replay([*moves, (95, writes()), (96, ends(0))], stall_s=10.0)
    assert finished(run_dir) == ["done"]


TALK = [(seconds, says("waiting for the lock")) for seconds in range(5, 300, 5)]


def test_talk_without_a_step_is_life_for_ten_times_as_long_only(replay, clock):
    with pytest.raises(StalledError, match="made no step for 100 s"):
        replay([(1, draws(3, 1)), *TALK, (300, writes()), (301, ends(0))], stall_s=10.0)
    assert 1100 < clock.now < 1110


def test_talk_is_life_in_a_stage_that_has_no_steps(replay, run_dir):
    replay([*TALK, (300, writes()), (301, ends(0))], stall_s=10.0)
    assert finished(run_dir) == ["done"]


def downloads(bytes_a_time):
    def act(fake):
        fake.written += bytes_a_time

    return act


def test_a_silent_stage_that_writes_to_disk_lives(replay, run_dir):
    """A download without a terminal and the save of a large checkpoint say nothing."""
    download = [(seconds, downloads(WRITTEN_BYTES)) for seconds in range(50, 5000, 50)]
    replay([*download, (5000, writes()), (5001, ends(0))], stall_s=100.0)
    assert finished(run_dir) == ["done"]


def test_what_a_tracker_writes_is_no_life(replay, clock):
    with pytest.raises(StalledError, match="said nothing new for 100 s"):
        replay([(seconds, downloads(1000)) for seconds in range(5, 5000, 5)], stall_s=100.0)
    assert clock.now < 1200


def test_time_in_which_the_supervisor_itself_was_suspended_is_no_silence(replay, run_dir, clock):
    def thaw():
        clock.now += 5000

    replay([(1, says("begins")), (5500, writes()), (5501, ends(0))], [(30, thaw)], watch={"stall_timeout_s": 1000})
    assert finished(run_dir) == ["done"]


def test_the_recipe_says_when_a_stage_has_stalled_and_may_say_never(replay, run_dir):
    with pytest.raises(StalledError, match="for 7 s"):
        replay([], watch={"stall_timeout_s": 7})
    replay([(9000, writes()), (9001, ends(0))], watch={"stall_timeout_s": None}, poll_s=5)
    assert finished(run_dir) == ["stalled", "done"]


def test_a_plan_that_is_older_than_the_watch_has_its_defaults(replay):
    with pytest.raises(StalledError, match="for 3600 s"):
        replay([])


def logs(loss, grad_norm="1.0"):
    return says(f"{{'loss': '{loss}', 'grad_norm': '{grad_norm}', 'learning_rate': '2e-05'}}")


DIVERGES = [(1, logs(2.1)), *((n, logs(0, "nan")) for n in range(2, 9)), (20, writes()), (21, ends(0))]


def test_a_training_that_diverges_is_stopped_with_the_reason_and_the_remedy(replay, run_dir, fake):
    with pytest.raises(StageFailedError, match="gradient norm of nan .learning rate 2e-05.: it is NaN") as caught:
        replay(DIVERGES, watch={"reports": 3})
    assert (fake.signals[0][0] < 5, fake.signals[0][2]) == (True, INT)
    assert "lower learning_rate" in caught.value.problems[0].hint
    assert "watch: {diverged: warn}" in caught.value.problems[0].hint
    assert finished(run_dir) == ["diverged"]
    assert (read_state(run_dir).reason, read_state(run_dir).exit_code) == ("diverged", 6)


def test_a_training_that_diverged_and_ended_with_exit_code_0_before_it_is_seen_has_failed_too(replay, run_dir):
    def all_at_once(fake):
        for _, act in DIVERGES:
            act(fake)

    with pytest.raises(StageFailedError, match="it is NaN"):
        replay([(1, all_at_once)])
    assert finished(run_dir) == ["diverged"]


def test_a_training_that_diverged_and_ended_with_exit_code_0_while_nobody_watched_is_not_done(replay, run_dir):
    replay(WORKS)
    folder = run_dir.stage("01-work")
    folder.result_json.unlink()
    folder.exit_code.write_text("0")
    folder.stdout_log.write_text("{'loss': '0', 'grad_norm': 'nan'}\n" * 5)
    outcome = replay(WORKS)
    assert (outcome.stages[0].status, outcome.stages[0].attempts) == ("done", 2)
    said = [event.text for event in load_events(run_dir.events_jsonl) if isinstance(event, Message)]
    assert [text for text in said if text.startswith("ended unseen, and is not done: the loss is logged as 0")]


def test_a_training_that_diverges_goes_on_where_the_recipe_only_warns(replay, run_dir):
    replay(DIVERGES, watch={"diverged": "warn"})
    assert finished(run_dir) == ["done"]
    said = [event.text for event in load_events(run_dir.events_jsonl) if isinstance(event, Message)]
    assert len([text for text in said if "it is NaN" in text]) == 1


def learns_nothing(step):
    return says(f"{{'loss': '2.0794', 'global_step/max_steps': '{step}/100'}}")


def test_a_flat_training_is_stopped_where_the_recipe_says_so(replay, run_dir):
    history = [(n, learns_nothing(n)) for n in range(1, 101)]
    with pytest.raises(StageFailedError, match=r"stayed at 2.079 from step 20 on"):
        replay(history, watch={"flat": "stop"}, flat_loss=2.0794415)
    assert finished(run_dir) == ["flat"]


@pytest.fixture
def press(interrupts, clock):
    return lambda: interrupts.add(INT, clock.now)


def test_one_ctrl_c_stops_in_order(replay, run_dir, fake, press):
    with pytest.raises(InterruptedRunError) as caught:
        replay([], [(5, press)], stages=2)
    assert [number for _, _, number in fake.signals] == [INT]
    assert "orch resume" in caught.value.problems[0].hint
    assert finished(run_dir) == ["stopped"]
    assert read_state(run_dir).status == "interrupted"
    assert len(fake.launches) == 1


def test_a_schedulers_term_takes_the_run_away(replay, run_dir, interrupts, clock, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with pytest.raises(TakenAwayError) as caught:
        replay([], [(5, lambda: interrupts.add(TERM, clock.now))])
    assert "orch resume" in caught.value.problems[0].hint
    assert finished(run_dir) == ["stopped"]
    state = read_state(run_dir)
    assert (state.status, state.exit_code) == ("interrupted", 75)


def test_usr1_says_that_the_time_is_nearly_over(replay, interrupts, clock):
    with pytest.raises(TakenAwayError):
        replay([], [(5, lambda: interrupts.add(signal.SIGUSR1, clock.now))])


def test_a_stage_that_dies_of_the_schedulers_signal_has_not_failed(replay, run_dir, interrupts, clock, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")

    def take(child):
        interrupts.add(TERM, clock.now)
        child.end(143)

    with pytest.raises(TakenAwayError):
        replay([(5, take)])
    assert finished(run_dir) == ["stopped"]


def test_a_stage_that_ends_well_at_that_moment_is_done(replay, run_dir, interrupts, clock):
    def take(child):
        interrupts.add(signal.SIGUSR1, clock.now)
        ends(0)(child)

    with pytest.raises(TakenAwayError, match="at 02-work"):
        replay([(4, writes()), (5, take)], stages=2)
    assert finished(run_dir) == ["done"]


def test_a_user_who_stops_the_job_of_a_scheduler_has_stopped_it(replay, run_dir, interrupts, clock, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "7")

    def stop():
        ask_to_stop(run_dir)
        interrupts.add(TERM, clock.now)

    with pytest.raises(InterruptedRunError):
        replay([], [(5, stop)])


def test_word_to_stop_of_an_earlier_attempt_is_forgotten(replay, run_dir, interrupts, clock):
    ask_to_stop(run_dir)
    with pytest.raises(TakenAwayError):
        replay([], [(5, lambda: interrupts.add(signal.SIGUSR1, clock.now))])


def test_a_child_that_ignores_signals_climbs_the_ladder(replay, fake, press):
    fake.dies_of = (KILL,)
    with pytest.raises(InterruptedRunError):
        replay([], [(5, press)])
    times = [(number, round(seconds)) for seconds, _, number in fake.signals]
    assert times == [(INT, 5), (TERM, 25), (KILL, 35)]


def test_a_second_ctrl_c_kills_at_once(replay, fake, press):
    fake.dies_of = (KILL,)
    with pytest.raises(InterruptedRunError):
        replay([], [(5, press), (7, press)])
    times = [(number, round(seconds)) for seconds, _, number in fake.signals]
    assert times == [(INT, 5), (KILL, 7)]


def test_a_hangup_right_after_a_signal_is_not_a_second_one(replay, fake, press, interrupts, clock):
    with pytest.raises(InterruptedRunError):
        replay([], [(5, press), (5.1, lambda: interrupts.add(signal.SIGHUP, clock.now))])
    assert [number for _, _, number in fake.signals] == [INT]


def test_a_stage_that_answers_ctrl_c_with_exit_code_0_is_not_done(replay, run_dir, fake, press):
    with pytest.raises(InterruptedRunError):
        replay([(1, writes("half")), (5.3, ends(0))], [(5, press)])
    fake.dies_of = ()
    assert load_result(run_dir.stage("01-work")) is None
    assert not run_dir.stage("01-work").exit_code.exists()


def test_ctrl_c_between_stages_starts_no_further_one(replay, fake, press):
    with pytest.raises(InterruptedRunError, match="stopped at 02-work"):
        replay(WORKS, [(2, press)], stages=2)
    assert len(fake.launches) == 1


def test_workers_that_outlive_their_launcher_are_ended_and_named(replay, run_dir, fake):
    fake.history = []

    def die(fake):
        fake.strays.add(99)
        fake.end(137, write=False)

    with pytest.raises(StageFailedError):
        replay([(1, die)])
    assert fake.strays == set()
    assert ((99,), KILL) in [(pids, number) for _, pids, number in fake.signals]
    texts = [event.text for event in load_events(run_dir.events_jsonl) if isinstance(event, Message)]
    assert any("99" in text and "outlived" in text for text in texts)


def test_progress_becomes_events(replay, run_dir):
    replay([(1, says("orch-progress 1/4")), (3, says("orch-progress 4/4")), *WORKS[:1], (4, ends(0))])
    bars = [event for event in load_events(run_dir.events_jsonl) if isinstance(event, Progress)]
    assert [(bar.done, bar.total, bar.stage) for bar in bars] == [(1, 4, "01-work"), (4, 4, "01-work")]


def test_a_bug_in_a_listener_leaves_no_child_behind(replay, fake):
    def listener(event):
        if isinstance(event, StageStarted):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        replay([], listener=listener)
    assert not fake.alive


def test_a_done_code_other_than_0_counts_as_done_and_is_the_runs_code(
    make_stage, make_plan, run_dir, fake, clock, interrupts
):
    fake.history = [(1, writes()), (2, ends(8))]
    plan = make_plan(make_stage("01-report", done_codes=(0, 8)))
    for status in ("done", "skipped"):
        outcome = run_plan(plan, run_dir, clock=clock, processes=fake, interrupts=interrupts)
        assert (outcome.exit_code, outcome.stages[0].status) == (8, status)


def test_orchs_own_stages_end_with_their_own_error(make_plan, run_dir, fake, clock, interrupts):
    from orchestrator.errors import DataError
    from orchestrator.recipe.plan import Command, Stage

    def refuse(fake):
        fake.launch.stderr.write_text("warning: two rows are alike\ntrain.jsonl:3: no negatives — add one\n")
        fake.end(3)

    fake.history = [(1, refuse)]
    stage = Stage("01-prepare", "prepare", "", Command(("py", "-m", "orchestrator.data.prepare")), outputs=("data",))
    with pytest.raises(DataError) as caught:
        run_plan(make_plan(stage), run_dir, clock=clock, processes=fake, interrupts=interrupts)
    said = [(problem.message, problem.hint) for problem in caught.value.problems]
    assert said == [("train.jsonl:3: no negatives", "add one")]


def test_a_training_that_goes_on_from_a_checkpoint_is_judged_by_what_it_logged_before(make_plan, make_stage, run_dir):
    stage = make_stage("01-train")
    folder = run_dir.stage(stage.name)
    folder.root.mkdir(parents=True)
    append_event(run_dir.events_jsonl, Step(loss=0.4, stage=stage.name))
    folder.stdout_log.write_text("{'loss': '0.0', 'grad_norm': '0.0'}\n" * 9)
    run = loop._Run(make_plan(stage), run_dir, None, None, Watch(), 0.2, None)
    record = LaunchRecord((), (), ".", "", 2, "", 0.0)
    fresh, resumed = run.log(stage, record), run.log(stage, dataclasses.replace(record, resumed_from="checkpoint-4"))
    for log in (fresh, resumed):
        log.read_events(0.0, at_end=True)
    assert fresh.fatal
    assert resumed.fatal is None
