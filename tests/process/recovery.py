"""One small run that faults are done to, and what must hold after each of them: `assert_recovers`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.logs.events import Event, Message, load_events
from orchestrator.machine.process import read_table
from orchestrator.machine.rundir import RunDir
from orchestrator.recipe.plan import Command, Plan, Resume, Stage
from orchestrator.run.folder import adopt_run
from orchestrator.run.loop import run_plan
from orchestrator.run.runs import summarise
from orchestrator.run.state import load_result, read_state
from orchestrator.run.stopping import StopTimeouts

if TYPE_CHECKING:
    from collections.abc import Callable

    from orchestrator.run.loop import RunOutcome

HERE = Path(__file__).parent
QUICK = StopTimeouts(2.0, 1.0, 3.0)
FIRST, TRAIN, LAST = "01-prepare", "02-train", "03-report"
STEPS = 6
MOMENTS = {
    "first stage": (FIRST, "pause.working"),
    "training": (TRAIN, "pause.saved-2"),
    "checkpoint save": (TRAIN, "pause.saving-4"),
    "last stage": (LAST, "pause.working"),
}
WAIT_S = 40.0


@dataclass
class FaultyRun:
    """A run of three stages, each a launcher with a worker in a session of its own, driven by a process of its own."""

    folder: RunDir
    plan: Plan
    driver: subprocess.Popen[str] | None = None

    def start(self, pause: str | None = None, **options) -> None:
        """Let another process drive the run, as `orch run` does; at the moment `pause` it waits for `go_on`."""
        self.folder.root.mkdir(parents=True, exist_ok=True)
        if pause:
            self.pause(pause)
        self.folder.plan_json.write_text(self.plan.to_json())
        adopt_run(self.folder)
        words = [sys.executable, str(HERE / "drive.py"), str(self.folder.root)]
        self.driver = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True, **options)

    def pause(self, moment: str) -> None:
        stage, file = MOMENTS[moment]
        self.folder.stage(stage).root.mkdir(parents=True, exist_ok=True)
        (self.folder.stage(stage).root / file).touch()

    def go_on(self) -> None:
        for file in self.folder.root.glob("stages/*/pause.*"):
            file.unlink()

    def go_on_when_adopted(self, event: Event) -> None:
        """Listen to the run that is resumed: what an earlier supervisor left waits until it is followed."""
        if isinstance(event, Message) and "still runs as process" in event.text:
            self.go_on()

    def end(self) -> tuple[int, str]:
        """Wait for the driver; return its exit code and what it said."""
        assert self.driver
        _, said = self.driver.communicate(timeout=WAIT_S)
        return self.driver.returncode, said

    def resume(self, **options) -> RunOutcome:
        return run_plan(self.plan, self.folder, timeouts=QUICK, poll_s=0.05, **options)

    def output(self, stage: str = TRAIN) -> Path:
        return self.folder.stage(stage).output

    def pid_of(self, target: str, stage: str) -> int:
        """Return the process of: orch, shell (Orch's own launcher), launcher (the stage's), worker."""
        assert self.driver
        if target == "orch":
            return self.driver.pid
        if target == "worker":
            return int(self.wait((self.output(stage) / "worker.pid").read_text))
        shell = self.wait(lambda: self._find_shell(stage))
        if target == "shell":
            return shell
        return self.wait(lambda: next(entry.pid for entry in read_table().values() if entry.parent == shell))

    def _find_shell(self, stage: str) -> int:
        state = read_state(self.folder)
        return state.child.pid if state and state.stage == stage and state.child else 0

    def reaches(self, moment: str) -> str:
        """Wait for a moment of the run; return the stage that runs then."""
        first, second = (self.output() / f"checkpoint-{step}" for step in (2, 4))
        conditions: dict[str, Callable[[], bool]] = {
            "first stage": (self.output(FIRST) / "worker.pid").exists,
            "training": (first / "trainer_state.json").exists,
            "checkpoint save": (second / "adapter_model.safetensors").exists,
            "last stage": (self.output(LAST) / "worker.pid").exists,
        }
        self.wait(conditions[moment])
        return MOMENTS[moment][0]

    def wait(self, condition):
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            try:
                if value := condition():
                    return value
            except (FileNotFoundError, StopIteration, AttributeError):
                pass
            assert self.driver is None or self.driver.poll() is None, f"it has ended: {self.end()}"
            time.sleep(0.02)
        raise AssertionError("waited in vain")

    def events(self) -> list[Event]:
        return list(load_events(self.folder.events_jsonl))

    def messages(self) -> list[str]:
        return [event.text for event in self.events() if isinstance(event, Message)]

    def finished_stages(self) -> dict[str, int]:
        """Return the stages that are done, with the time at which that was written."""
        results = {stage.name: self.folder.stage(stage.name) for stage in self.plan.stages}
        return {name: item.result_json.stat().st_mtime_ns for name, item in results.items() if load_result(item)}

    def processes(self) -> list[int]:
        """Return every process of this run, of whatever attempt, by the folder in its command line."""
        found = []
        for pid in read_table():
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            if f"{self.folder.root}/stages/".encode() in words and pid != os.getpid():
                found.append(pid)
        return found

    def result(self) -> tuple[object, bytes]:
        """Return the losses by step, and the final weights."""
        history = json.loads((self.output() / f"checkpoint-{STEPS}" / "trainer_state.json").read_text())["log_history"]
        return history, (self.output() / "adapter_model.safetensors").read_bytes()

    def clean_up(self) -> None:
        if self.driver and self.driver.poll() is None:
            self.driver.kill()
            self.driver.communicate()
        for pid in self.processes():
            os.kill(pid, signal.SIGKILL)


def make_run(
    root: Path,
    *,
    name: str = "run",
    step_s: float = 0.05,
    save_s: float = 0.3,
    work_s: float = 0.5,
    args=(),
    forked=False,
) -> FaultyRun:
    """Return a run whose first and last stage take `work_s`, and whose training `STEPS` steps and three saves.

    With `forked`, its stages are forks of a resident process where another process drives it.
    """
    folder = RunDir(root / name)
    output = folder.stage(TRAIN).output
    words = ["--output_dir", output, "--steps", STEPS, "--step_s", step_s, "--save_s", save_s, "--workers", 1, *args]
    argv = (sys.executable, str(HERE / "fake_trainer.py"), *map(str, words))
    checkpoints = Resume("--resume_from_checkpoint", f"stages/{TRAIN}/output")
    weights = f"stages/{TRAIN}/output/adapter_model.safetensors"
    train = Stage(TRAIN, "train", "", Command(argv), outputs=(weights,), resume=checkpoints)
    stages = (_make_work(folder, FIRST, work_s), train, _make_work(folder, LAST, work_s))
    recipe = {"forked": forked}
    return FaultyRun(folder, Plan("t", str(folder.root), "reranker", "fake", False, recipe, stages, ()))


def _make_work(folder: RunDir, name: str, work_s: float) -> Stage:
    file = folder.stage(name).output / "out.txt"
    command = Command((sys.executable, str(HERE / "fake_stage.py"), str(file), str(work_s)))
    return Stage(name, "work", "", command, outputs=(f"stages/{name}/output/out.txt",))


def assert_recovers(run: FaultyRun, undisturbed: tuple[object, bytes], **options) -> RunOutcome:
    """Resume a run after a fault: nothing done is repeated or lost, nobody is left, and the result is the same."""
    if "listener" not in options:
        run.go_on()
    before = run.finished_stages()
    outcome = run.resume(**options)
    after = run.finished_stages()
    assert {name: after.get(name) for name in before} == before, "a finished stage was lost, or ran again"
    assert {item.stage for item in outcome.stages if item.status == "skipped"} >= set(before)
    assert list(after) == [stage.name for stage in run.plan.stages]
    assert run.result() == undisturbed, "the resumed training is not the undisturbed one"
    assert run.processes() == [], "somebody was left"
    assert summarise(run.folder).status == "done"
    assert not list(run.folder.root.rglob("*.part"))
    return outcome
