"""Stages that are forks of a resident process: what a plain start makes of them, and whatever happens to the resident."""

from __future__ import annotations

import json
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from orchestrator.errors import InterruptedRunError, StageFailedError
from orchestrator.logs.events import Message, StageStarted, load_events
from orchestrator.machine import process
from orchestrator.machine.places import WORKERS
from orchestrator.recipe.plan import Command, Stage
from orchestrator.run import launching
from orchestrator.run.launching import Residents
from orchestrator.run.loop import run_plan
from orchestrator.run.stopping import Interrupts, StopTimeouts
from orchestrator.workers import __main__ as workers_main

HERE = Path(__file__).parent
SCRIPT = HERE / "show_itself.py"
FAKE_TORCH = """
import sys, types
sys.modules["torch"] = types.SimpleNamespace(_C=types.SimpleNamespace(_cuda_isInBadFork=lambda: True))
"""
SECRET = "hf_thisisasecretthatnobodymaykeep"  # noqa: S105

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere every stage starts alone")


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """A folder of modules that stages, and residents, can import."""
    folder = tmp_path / "modules"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder


@pytest.fixture
def show(make_stage):
    def show(name="01-show", *args, **more):
        env = (("PYTHONFAULTHANDLER", "1"), ("PYTHONUNBUFFERED", "1"), *more.pop("env", ()))
        return make_stage(name, script=SCRIPT, args=(f"stages/{name}/output/out.json", *args), env=env, **more)

    return show


@pytest.fixture
def run(make_plan, run_dir):
    """Run stages as forks of what has imported `imports`; with None, alone."""

    def run(*stages, imports=("numpy",), **more):
        with Residents({str(SCRIPT): tuple(imports or ())} if imports is not None else {}) as residents:
            more = {"timeouts": StopTimeouts(2.0, 1.0, 3.0), "poll_s": 0.02, "residents": residents} | more
            return run_plan(make_plan(*stages), run_dir, **more)

    return run


def said(run_dir, name="01-show"):
    return json.loads((run_dir.stage(name).output / "out.json").read_text())


def warnings_of(run_dir):
    return [event.text for event in load_events(run_dir.events_jsonl) if isinstance(event, Message)]


def find_residents(parent=None):
    """Return the resident processes below this one, or another."""
    found = psutil.Process(parent).children(recursive=True)
    living = [one for one in found if one.status() != psutil.STATUS_ZOMBIE]
    return [one for one in living if "resident" in one.cmdline()[:3]]


def on_start(act, stage="01-show"):
    def listener(event):
        if isinstance(event, StageStarted) and event.stage == stage:
            act()

    return listener


def test_a_fork_is_the_process_that_a_plain_start_makes(run, show, run_dir, modules, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setenv("ODD", "é 文 a=b 'x'")
    (modules / "heard.py").write_text("print('imported')")
    stage = show("01-show", "0", "a b", "文")
    run(stage, imports=None)
    alone = said(run_dir)
    run_dir.stage("01-show").result_json.unlink()
    run_dir.stage("01-show").exit_code.unlink()
    run(stage, imports=("numpy", "heard"))
    forked = said(run_dir)

    def without_token(facts):
        mark = process.TOKEN_VARIABLE
        environ = [entry for entry in facts["environ"] if entry[0] != mark]
        return facts | {"environ": environ, "shown": [word for word in facts["shown"] if not word.startswith(mark)]}

    assert run_dir.stage("01-show").stdout_log.read_text() == "imported\n", "it was no fork"
    expected = without_token(alone["facts"])
    for name, value in without_token(forked["facts"]).items():
        assert value == expected[name]
    assert SECRET in str(forked["facts"]["environ"])
    assert forked["drawn"][0] != alone["drawn"][0]
    assert find_residents() == []


def test_two_forks_draw_other_numbers(run, show, run_dir):
    run(show("01-show"), show("02-show"))
    first, second = said(run_dir)["drawn"], said(run_dir, "02-show")["drawn"]
    assert first[0] != second[0]
    assert first[1] != second[1]


@pytest.mark.parametrize(("how", "code"), [("3", 3), ("raise", 1), ("interrupt", 130), ("kill", 137)])
def test_the_exit_code_and_what_it_says_are_those_of_a_plain_start(run, show, run_dir, how, code):
    texts = []
    for imports in (None, ("numpy",)):
        with pytest.raises(StageFailedError):
            run(show("01-show", how), imports=imports)
        folder = run_dir.stage("01-show")
        assert folder.exit_code.read_text() == f"{code}\n"
        texts.append(folder.stderr_log.read_text())
        folder.stderr_log.unlink()
    last = [text.splitlines()[-1:] for text in texts]
    assert last[0] == last[1]


def test_the_resident_is_told_no_secret_and_the_stage_is_found_by_its_token(
    run, show, run_dir, wait_until, monkeypatch
):
    monkeypatch.setenv("HF_TOKEN", SECRET)
    seen = {}

    def look():
        wait_until(lambda: said(run_dir))
        (resident,) = find_residents()
        seen["resident"] = str(resident.environ()), resident.memory_info().rss
        launcher = next(e.pid for e in load_events(run_dir.events_jsonl) if isinstance(e, StageStarted))
        seen["parent"] = psutil.Process(launcher).ppid()
        token = psutil.Process(launcher).environ()[process.TOKEN_VARIABLE]
        seen["found"] = process.find_with_env(f"{process.TOKEN_VARIABLE}={token}")
        seen["expected"] = tuple(sorted((launcher, psutil.Process(launcher).children()[0].pid)))
        seen["dumps"] = [process.has_faulthandler(pid) for pid in seen["expected"]]
        (run_dir.stage("01-show").root / "go").touch()

    run(show("01-show", "wait"), listener=on_start(look))
    assert SECRET not in seen["resident"][0]
    assert seen["parent"] == os.getpid(), "nobody else can learn how it ends"
    assert seen["found"] == seen["expected"]
    assert seen["dumps"] == [False, True]  # the launcher's stacks say nothing


def test_a_resident_that_is_killed_takes_no_stage_along(run, show, run_dir):
    def kill():
        (resident,) = find_residents()
        resident.kill()
        (run_dir.stage("01-show").root / "go").touch()

    outcome = run(show("01-show", "wait"), show("02-show"), listener=on_start(kill))
    assert [stage.exit_code for stage in outcome.stages] == [0, 0]
    (warning,) = warnings_of(run_dir)
    assert "started alone" in warning
    assert len([e for e in load_events(run_dir.events_jsonl) if isinstance(e, StageStarted)]) == 2


def test_a_resident_that_hangs_is_given_up(run, show, run_dir, modules, monkeypatch):
    monkeypatch.setattr(launching, "START_S", 0.5)
    (modules / "hangs.py").write_text("import time\ntime.sleep(600)")
    outcome = run(show(), show("02-show"), imports=("hangs",))
    assert [stage.exit_code for stage in outcome.stages] == [0, 0]
    (warning,) = warnings_of(run_dir)  # the next stage does not wait for it again
    assert "has not answered" in warning
    assert find_residents() == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("import threading, time\nthreading.Thread(target=time.sleep, args=[600], daemon=True).start()", "threads"),
        ("raise RuntimeError('no such device')", "no such device"),
        ("import missing_part", "missing_part"),
        ("raise MemoryError", "MemoryError"),
        ("import os\nos._exit(1)", "it has ended"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "it has ended"),
        (FAKE_TORCH, "CUDA"),
    ],
)
def test_what_must_not_be_forked_is_not(run, show, run_dir, modules, text, why):
    (modules / "bad.py").write_text(text)
    outcome = run(show(), imports=("bad",))
    assert outcome.exit_code == 0
    (warning,) = warnings_of(run_dir)
    assert why in warning
    assert find_residents() == []


def test_a_library_that_is_not_installed_is_not_missed(run, show, run_dir):
    run(show(), imports=("no_such_library.part", "numpy"))
    assert warnings_of(run_dir) == []


def test_an_interrupt_while_libraries_are_imported_ends_the_run(run, show, run_dir, modules, wait_until):
    (modules / "slow.py").write_text("import time\ntime.sleep(600)")
    interrupts = Interrupts()

    def interrupt():
        wait_until(find_residents)
        interrupts.add(signal.SIGINT, 0.0)

    with ThreadPoolExecutor() as pool:
        interrupted = pool.submit(interrupt)
        with pytest.raises(InterruptedRunError):
            run(show("01-show", "wait"), imports=("slow",), interrupts=interrupts)
        interrupted.result()
    assert warnings_of(run_dir) == []
    assert find_residents() == []


@pytest.mark.parametrize("slow", [False, True], ids=["ready", "importing"])
def test_the_resident_ends_with_orch_and_the_stage_goes_on(
    make_plan, make_training, run_dir, drive, child_of, wait_until, pause, go_on, slow
):
    pause("saved-2")
    stages = [make_training()]
    if slow:  # it belongs to the next stage, and imports while this one runs
        stages.append(make_training("03-train", env=(("ANOTHER", "1"),)))
    driver = drive(make_plan(*stages, forked=True))
    child = child_of()
    wait_until(lambda: len(find_residents(driver.pid)) == 1 + slow)
    residents = find_residents(driver.pid)
    driver.kill()
    driver.wait()
    psutil.wait_procs(residents, timeout=10)
    assert [one for one in residents if one.is_running() and one.status() != psutil.STATUS_ZOMBIE] == []
    assert process.is_alive(child.pid, child.start)
    go_on()
    wait_until(lambda: not process.is_alive(child.pid, child.start))
    assert run_dir.stage("02-train").exit_code.read_text() == "0\n"


def test_the_next_resident_is_there_beside_a_stage_and_gone_when_nobody_needs_it(run, show, run_dir):
    seen = []
    other = {"env": (("ANOTHER", "1"),)}
    stages = [show("01-show"), show("02-show"), show("03-show", **other), show("04-show", **other)]

    def look(event):
        if isinstance(event, StageStarted):
            seen.append(len(find_residents()))

    run(*stages, listener=look)
    assert seen == [1, 2, 1, 1]
    assert warnings_of(run_dir) == []


def test_only_a_worker_in_one_process_is_a_fork():
    def kind(*words, imports=None):
        stage = Stage("s", "k", "t", Command((sys.executable, *words)))
        return Residents({"": ("torch",), "swift.cli.sft": ("swift",)} if imports is None else imports)._find_kind(
            stage
        )

    workers = str(WORKERS)
    plain = kind(workers, "score", "--model", "m")
    assert plain == kind(workers, "package", "--model", "m")
    assert kind(workers, "launch", "--nproc_per_node", "1", workers, "train_embedding") != plain
    assert kind(workers, "launch", "--nproc_per_node", "2", workers, "train_embedding") is None
    assert kind("-m", "swift.cli.sft", "--model", "m").modules == ("swift",)
    assert kind("-m", "orchestrator.data.prepare") is None
    assert kind("-c", "pass") is None
    assert kind(workers, "score", imports={}) is None
    assert launching.NATIVE == workers_main.NATIVE


def test_where_the_system_has_no_such_thing_stages_start_alone(run, show, run_dir, monkeypatch):
    monkeypatch.setattr(process, "_ON_LINUX", False)
    run(show())
    assert warnings_of(run_dir) == []
    assert find_residents() == []


def test_signals_reach_a_fork(run, show, run_dir, wait_until):
    interrupts = Interrupts()

    def interrupt():
        wait_until(lambda: said(run_dir))
        interrupts.add(signal.SIGINT, 0.0)

    with pytest.raises(InterruptedRunError):
        run(show("01-show", "wait"), listener=on_start(interrupt), interrupts=interrupts)
    assert "KeyboardInterrupt" in run_dir.stage("01-show").stderr_log.read_text()
    assert not run_dir.stage("01-show").exit_code.exists()
