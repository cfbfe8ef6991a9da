"""Plans of small Python children, real or fake; nothing here imports a backend."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from orchestrator.machine import process
from orchestrator.machine.process import Child, Launch
from orchestrator.machine.rundir import RunDir
from orchestrator.recipe.plan import Command, Plan, Resume, Stage
from orchestrator.run.folder import adopt_run
from orchestrator.run.state import read_state
from orchestrator.run.stopping import Interrupts, StopTimeouts

HERE = Path(__file__).parent
BAD = HERE / "bad_children"
QUICK = StopTimeouts(1.0, 1.0, 3.0)


@pytest.fixture
def run_dir(tmp_path):
    return RunDir(tmp_path / "run")


@pytest.fixture
def make_stage():
    """A stage that runs a Python one-liner (or a script) and writes one file, unless told otherwise."""

    def make(name, code=None, *, script=None, args=(), outputs=None, kind="work", **more):
        output = f"stages/{name}/output/out.txt"
        words = [str(script), *map(str, args)] if script else ["-c", code or WRITE, output]
        argv = [sys.executable, *words]
        outputs = (output,) if outputs is None and not script else (outputs or ())
        env = more.pop("env", ())
        return Stage(name, kind, name, Command(tuple(argv), env, "."), outputs=tuple(outputs), **more)

    return make


WRITE = "import sys, pathlib; p = pathlib.Path(sys.argv[1]); p.parent.mkdir(exist_ok=True); p.write_text('done')"


@pytest.fixture
def make_plan(run_dir):
    def make(*stages, files=(), forked=False):
        recipe = {"forked": forked}
        return Plan("t", str(run_dir.root), "reranker", "fake", False, recipe, tuple(stages), tuple(files))

    return make


@pytest.fixture
def make_training(make_stage, run_dir):
    """The fake trainer as a stage that can be resumed."""

    def make(name="02-train", *, steps=10, step_s=0.1, workers=0, **more):
        output = run_dir.stage(name).output
        args = ["--output_dir", output, "--steps", steps, "--step_s", step_s, "--workers", workers]
        return make_stage(
            name,
            script=HERE / "fake_trainer.py",
            args=args,
            kind="train",
            outputs=(f"stages/{name}/output/adapter_model.safetensors",),
            resume=Resume("--resume_from_checkpoint", f"stages/{name}/output"),
            **more,
        )

    return make


@pytest.fixture
def pause(run_dir):
    """Let the fake trainer wait at a moment (`saved-2`) until `go_on` is called."""

    def pause(moment, stage="02-train"):
        run_dir.stage(stage).root.mkdir(parents=True, exist_ok=True)
        (run_dir.stage(stage).root / f"pause.{moment}").touch()

    return pause


@pytest.fixture
def go_on(run_dir):
    def go_on():
        for file in run_dir.root.glob("stages/*/pause.*"):
            file.unlink()

    return go_on


@pytest.fixture
def drive(run_dir):
    """Start run_plan in a process of its own; whatever is left of it and of its stages is killed afterwards."""
    started = []

    def start(plan, *args):
        run_dir.root.mkdir(exist_ok=True)
        run_dir.plan_json.write_text(plan.to_json())
        adopt_run(run_dir)
        driver = subprocess.Popen(
            [sys.executable, str(HERE / "drive.py"), str(run_dir.root), *map(str, args)],
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(driver)
        return driver

    yield start
    for driver in started:
        if driver.poll() is None:
            driver.kill()
        driver.communicate()
    state = read_state(run_dir)
    if state and state.child:
        process.signal_pids(process.find_members(state.child), signal.SIGKILL)


def wait_until(condition, timeout_s=15.0):
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        with contextlib.suppress(FileNotFoundError, AttributeError, ValueError):
            value = condition()
            if value:
                return value
        time.sleep(0.02)
    pytest.fail("waited in vain")


@pytest.fixture(name="wait_until")
def wait_until_fixture():
    return wait_until


@pytest.fixture
def child_of(run_dir):
    """The running stage's child, once it is on disk."""

    def find(stage="02-train"):
        def look():
            state = read_state(run_dir)
            return state.child if state and state.stage == stage and state.child and state.child.pid else None

        return wait_until(look)

    return find


@pytest.fixture
def spawn(tmp_path):
    """Spawn one bad child and wait until it says that it is ready."""
    children = []

    def start(script, *args, ready="ready"):
        folder = tmp_path / f"child-{len(children)}"
        folder.mkdir()
        argv = (sys.executable, str(BAD / script), *map(str, args))
        paths = (folder / name for name in ("stdout.log", "stderr.log", "exit_code"))
        launch = Launch(argv, dict(os.environ), folder, *paths, token=f"test-{folder}")
        child = process.spawn(launch)
        children.append(child)
        if ready:
            wait_until(lambda: ready in launch.stdout.read_text())
        return child, launch

    yield start
    for child in children:
        process.signal_pids(process.find_members(child), signal.SIGKILL)
        process.reap(child)


@dataclass
class FakeClock:
    """Time that passes only when somebody sleeps; `schedule` says what happens when."""

    now: float = 1000.0
    schedule: list = field(default_factory=list)

    def at(self, seconds, action):
        self.schedule.append((1000.0 + seconds, action))

    def time(self):
        return self.now

    monotonic = time

    def sleep(self, seconds):
        self.now += seconds
        due = [item for item in self.schedule if item[0] <= self.now]
        for item in due:
            self.schedule.remove(item)
            item[1]()


@dataclass
class FakeProcesses:
    """One child at a time, whose life is a table of (seconds after its start, what it does)."""

    clock: FakeClock
    history: list = field(default_factory=list)
    dies_of: tuple = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
    signals: list = field(default_factory=list)
    launches: list = field(default_factory=list)
    strays: set = field(default_factory=set)
    oom_kills: int = 0
    written: int = 0
    alive: bool = False
    code: int | None = None

    def spawn(self, launch):
        self.launches.append(launch)
        self.alive, self.code = True, None
        self.launch = launch
        for seconds, action in self.history:
            self.clock.at(self.clock.now - 1000.0 + seconds, lambda action=action: action(self))
        return Child(50 + len(self.launches), 50 + len(self.launches), "s", launch.token)

    def end(self, code, *, write=True):
        self.alive, self.code = False, code
        if write:
            self.launch.exit_code.write_text(str(code))

    def say(self, text):
        with self.launch.stdout.open("a") as stream:
            stream.write(text + "\n")

    def reap(self, _child):
        code, self.code = self.code, None
        return code

    def is_alive(self, _pid, start):
        return self.alive and start == "s"

    def find_with_env(self, _variable):
        return ()

    def find_members(self, child):
        return ((child.pid,) if self.alive else ()) + tuple(sorted(self.strays))

    def signal_group(self, _child, number):
        self.signals.append((round(self.clock.now - 1000.0, 1), "group", number))
        self._take(number)

    def signal_pids(self, pids, number):
        if number != signal.SIGCONT:
            self.signals.append((round(self.clock.now - 1000.0, 1), pids, number))
        self._take(number)
        if number == signal.SIGKILL:
            self.strays.clear()

    def _take(self, number):
        if self.alive and number in self.dies_of:
            self.end(128 + number, write=number != signal.SIGKILL)

    def count_oom_kills(self):
        return self.oom_kills

    def count_written_bytes(self, child):
        return dict.fromkeys(self.find_members(child), self.written)

    def find_suspended(self, _pids):
        return ()

    def find_spy(self, _python):
        return None

    def has_faulthandler(self, _pid):
        return False


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def fake(clock):
    return FakeProcesses(clock)


@pytest.fixture
def interrupts():
    return Interrupts()
