"""Faults that are really done to trainings, on the real backends with tiny models and on a fake trainer.

`python benchmarks/faults.py [--backend NAME …] [--fault NAME …] [--work FOLDER]` prints a table, fault × backend →
recovered, what was lost, seconds, and keeps it in benchmarks/faults.json, benchmarks/README.md and, its total, in the
READMEs; a part replaces its part.
Each backend runs its recipe's smoke once, undisturbed: the reference. Then, for each fault, the training alone starts
again in that run folder, meets the fault, and `orch resume` must end it with the reference's loss at every step and the
same sha256 of the weights, repeat no finished stage and leave no process. Full disks, memory limits and read-only
folders need root.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.logs.events import Step, load_events
from orchestrator.machine import process
from orchestrator.machine.process import read_table, with_descendants
from orchestrator.machine.rundir import RunDir
from orchestrator.recipe.plan import plan_from_json
from orchestrator.run.folder import adopt_run
from orchestrator.run.state import is_supervised, read_state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "faults.json"
TOTAL = "{} of {} recovered from, {} not."
# The pages that the outcomes stand in: the table, or the total alone, in the page's language.
TABLE_PAGE = ROOT / "benchmarks" / "README.md"
TOTALS = {ROOT / "README.md": TOTAL, ROOT / "README.zh-CN.md": "{1} 项中恢复 {0} 项，未恢复 {2} 项。"}
BEGIN, END = "<!-- faults -->", "<!-- /faults -->"
ORCH = str(Path(sys.executable).parent / "orch")
RECIPES = {
    "flagembedding": "qwen3_reranker",
    "swift": "qwen3_embedding_lora",
    "sentence-transformers": "bge_pointwise",
    "sentence-transformers, embedding": "minilm_embedding",
    "flagembedding, embedding": "bge_embedding",
    "sentence-transformers, LoRA": "reranker_lora",
}
FAKE = "fake trainer"
BACKENDS = (FAKE, *RECIPES)
STALL_S = {FAKE: 5}  # seconds of silence; the real trainers import for longer on a busy machine
DEFAULT_STALL_S = 60
STOPPED, FAILED, STALLED, BUSY, KILLED = 130, 6, 7, 9, -signal.SIGKILL
PAGE_BYTES = 4096
SAVE_TRIES = 6
ENDING_S = 5.0  # a resident process that is told to end, and the trackers of its libraries
MARK = "ORCH_FAULTS_RUN"  # in the environment of all that a case starts
MEMORY_GROUP = Path("/sys/fs/cgroup/memory")


class LostError(Exception):
    """A fault was not recovered from: what was lost, in one sentence."""


@dataclass
class Outcome:
    fault: str
    backend: str
    recovered: bool
    lost: str = "nothing"
    repeated_steps: int = 0
    seconds: float = 0.0


@dataclass
class Case:
    """A finished run folder whose plan ends with its training, and what that training came to undisturbed."""

    backend: str
    run: RunDir
    stage: str
    last_step: int
    losses: dict[int, float]
    weights: dict[str, str]
    orch: subprocess.Popen[str] | None = None
    wait_s: float = 300.0

    @property
    def folder(self) -> Path:
        return self.run.stage(self.stage).root

    @property
    def output(self) -> Path:
        return self.folder / "output"

    @property
    def kept(self) -> Path:
        """The reference's stage folder: outside the run, so that nothing of it is taken for an attempt."""
        return self.run.root.with_name(f"{self.run.root.name}.{self.stage}")

    def checkpoint(self, step: int) -> Path:
        return self.output / f"checkpoint-{step}"

    def reset(self, *, finished: bool = False) -> None:
        """Make the training undone, or done with its result unwritten."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.run.events_jsonl.unlink(missing_ok=True)
        if finished:
            shutil.copytree(self.kept, self.folder, symlinks=True)
            for name in ("result.json", "exit_code"):
                (self.folder / name).unlink()

    def start(self, *argv: str, **options: Any) -> None:
        """Start `orch resume`; its messages are read when it has ended."""
        words = [*argv, ORCH, "resume", str(self.run.root), "--json"]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL} | options
        env = os.environ | {MARK: str(self.run.root)}
        self.orch = subprocess.Popen(words, text=True, env=env, start_new_session=True, **streams)

    def end(self, expected: int, words: str = "") -> None:
        """Wait for `orch`; it must end with this code and one message that holds these words."""
        assert self.orch
        out, err = self.orch.communicate(timeout=self.wait_s)
        text = (err or "") + (out or "")
        check(self.orch.returncode == expected, f"exit code {self.orch.returncode}, not {expected}: {said(out, err)}")
        check("Traceback" not in text and "a bug in Orch" not in text, f"a traceback: {said(out, err)}")
        check(words in text, f"it does not say {words!r}: {said(out, err)}")

    def wait(self, condition: Callable[[], Any], what: str, every_s: float = 0.005) -> Any:
        end = time.monotonic() + self.wait_s
        while time.monotonic() < end:
            with contextlib.suppress(OSError, ValueError, AttributeError, StopIteration):
                if value := condition():
                    return value
            if self.orch and self.orch.poll() is not None:
                raise LostError(f"it ended before {what} with {self.orch.returncode}: {said(*self.orch.communicate())}")
            time.sleep(every_s)
        raise LostError(f"waited in vain for {what}")

    def wait_for_checkpoint(self, step: int | None = None) -> None:
        state = self.checkpoint(step or self.first_step) / "trainer_state.json"
        self.wait(lambda: json.loads(state.read_text()), "the first checkpoint")
        time.sleep(0.3)

    @property
    def first_step(self) -> int:
        return min(int(path.name.split("-")[1]) for path in (self.kept / "output").glob("checkpoint-*"))

    def child(self) -> process.Child:
        def find() -> process.Child | None:
            state = read_state(self.run)
            return state.child if state and state.stage == self.stage and state.child and state.child.pid else None

        found: process.Child = self.wait(find, "the training's process")
        return found

    def launcher(self) -> int:
        shell = self.child().pid
        found: int = self.wait(lambda: next(row.pid for row in read_table().values() if row.parent == shell), "it")
        return found

    def worker(self) -> int:
        """Return the process that trains: the one that has worked most among the launcher and its descendants."""
        members = with_descendants(read_table(), {self.launcher()})
        return max(members, key=_cpu_ticks)

    def left(self) -> list[int]:
        """Return every process of this run, `orch` and what it started: they have its environment, and no other has."""
        words = f"{MARK}={self.run.root}\0".encode()
        return [pid for pid in read_table() if words in _read(pid, "environ")]

    def require_none_left(self) -> None:
        """Raise LostError where a process outlives `orch`; one that is ending has a moment for it."""
        end = time.monotonic() + ENDING_S
        while (pids := self.left()) and time.monotonic() < end:
            time.sleep(0.05)
        named = [b" ".join(_read(pid, "cmdline").split(b"\0")).decode(errors="replace")[:200] for pid in pids]
        check(not pids, f"processes {pids} were left: {named}")

    def resume(self) -> float:
        """Resume, and compare with the reference; return the seconds that it took."""
        before = {path: path.stat().st_mtime_ns for path in self.run.root.glob("stages/*/result.json")}
        begin = time.monotonic()
        self.start()
        self.end(0)
        seconds = time.monotonic() - begin
        check(all(path.stat().st_mtime_ns == at for path, at in before.items()), "a finished stage ran again")
        losses, weights = load_losses(self.output, self.last_step), hash_weights(self.output, self.last_step)
        wrong = sorted(step for step, loss in self.losses.items() if losses.get(step) != loss)
        check(not wrong, f"other losses at steps {wrong[:5]}")
        check(weights == self.weights, "other weights")
        self.require_none_left()
        return seconds

    def repeated_steps(self) -> int:
        """Return how many optimizer steps were taken twice."""
        taken, repeated = 0, 0
        for event in load_events(self.run.events_jsonl):
            if isinstance(event, Step) and event.step and event.loss is not None:
                repeated, taken = repeated + (event.step <= taken), max(taken, event.step)
        return repeated


def check(holds: object, lost: str) -> None:
    if not holds:
        raise LostError(lost)


def said(out: str | None, err: str | None) -> str:
    """Return the end of what `orch` said, as one line."""
    return " ".join(((err or "") + (out or "")).split())[-400:]


def load_losses(output: Path, last_step: int) -> dict[int, float]:
    state = json.loads((output / f"checkpoint-{last_step}" / "trainer_state.json").read_text())
    return {row["step"]: row["loss"] for row in state["log_history"] if "loss" in row}


def hash_weights(output: Path, last_step: int) -> dict[str, str]:
    """Return the sha256 of the final weights: what lies on top, and the last checkpoint's."""
    files = [*output.glob("*.safetensors"), *(output / f"checkpoint-{last_step}").glob("*.safetensors")]
    return {str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _read(pid: int, name: str) -> bytes:
    """Return a file of the process in /proc, with a NUL behind each word; nothing where there is none, or no right."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/{name}").read_bytes()
    return b""


def _cpu_ticks(pid: int) -> int:
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])
    return 0


# --- the faults: each does its harm, sees one clear end, and leaves a run to resume


def signal_orch(number: signal.Signals) -> Callable[[Case], None]:
    def do(case: Case) -> None:
        case.start()
        case.wait_for_checkpoint()
        assert case.orch
        case.orch.send_signal(number)
        if number == signal.SIGKILL:
            case.orch.communicate()
            check(case.orch.returncode == KILLED, "it ended by itself")
            return  # what it leaves is followed to its end by the next
        case.end(STOPPED, "stopped at")
        case.require_none_left()

    return do


def kill_orch_and_worker(case: Case) -> None:
    case.start()
    case.wait_for_checkpoint()
    assert case.orch
    case.orch.kill()
    os.kill(case.worker(), signal.SIGKILL)
    case.orch.communicate()


def signal_training(target: str, number: signal.Signals) -> Callable[[Case], None]:
    def do(case: Case) -> None:
        case.start()
        case.wait_for_checkpoint()
        os.kill(case.launcher() if target == "launcher" else case.worker(), number)
        case.end(FAILED, case.stage)
        case.require_none_left()

    return do


def kill_in_a_save(case: Case) -> None:
    """Kill the worker while the second checkpoint is there and its trainer_state.json is not.

    A tiny model is saved within milliseconds: where the save was over before the kill, the training begins again.
    """
    folder = next_checkpoint(case)
    for _ in range(SAVE_TRIES):
        case.start()
        case.wait(case.checkpoint(case.first_step).exists, "the first checkpoint")
        worker = case.worker()
        case.wait(folder.exists, "the second checkpoint", every_s=0.0005)
        os.kill(worker, signal.SIGSTOP)
        caught = not (folder / "trainer_state.json").exists()
        os.kill(worker, signal.SIGKILL)
        case.end(FAILED, case.stage)
        if caught:
            return
        case.reset()
    raise LostError(f"(the save was over before the kill, {SAVE_TRIES} times: nothing was tested)")


def next_checkpoint(case: Case) -> Path:
    steps = sorted(int(path.name.split("-")[1]) for path in (case.kept / "output").glob("checkpoint-*"))
    return case.checkpoint(steps[1])


def suspend_worker(case: Case) -> None:
    plan = json.loads(case.run.plan_json.read_text())
    plan["recipe"].setdefault("watch", {})["stall_timeout_s"] = STALL_S.get(case.backend, DEFAULT_STALL_S)
    case.run.plan_json.write_text(plan_from_json(json.dumps(plan)).to_json())
    adopt_run(case.run)
    case.start()
    case.wait_for_checkpoint()
    os.kill(case.worker(), signal.SIGSTOP)
    case.end(STALLED, case.stage)
    case.require_none_left()


def damage_newest(do: Callable[[Path], None]) -> Callable[[Case], None]:
    """Let a training end, lose its result, and damage its last checkpoint."""

    def damage(case: Case) -> None:
        case.reset(finished=True)
        do(case.checkpoint(case.last_step))

    return damage


def cut_weights(checkpoint: Path) -> None:
    for path in checkpoint.glob("*.safetensors"):
        os.truncate(path, path.stat().st_size // 2)


def flip_a_bit(checkpoint: Path) -> None:
    """Flip one bit in the optimizer's state, or in DeepSpeed's, whose archives have checksums."""
    path = max(
        (*checkpoint.glob("optimizer.pt"), *checkpoint.glob("*/*_states.pt")), key=lambda path: path.stat().st_size
    )
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_optimizer(checkpoint: Path) -> None:
    for path in (*checkpoint.glob("optimizer.pt"), *checkpoint.glob("*/*_states.pt")):
        os.truncate(path, path.stat().st_size // 2)


def lose_random_state(checkpoint: Path) -> None:
    for path in checkpoint.glob("rng_state*.pth"):
        path.unlink()


def damage_state(case: Case) -> None:
    """Kill `orch`, and overwrite the file in which it kept its training's process."""
    signal_orch(signal.SIGKILL)(case)
    case.run.state_json.write_text('{"status": "runn')


def fill_disk(case: Case) -> None:
    """Give the training a file system that the second checkpoint does not fit on, and let it grow afterwards."""
    last = size_on_disk(case.kept / "output" / f"checkpoint-{case.last_step}")
    tops = sum(size_on_disk(path) for path in (case.kept / "output").iterdir() if path.is_file())
    size = size_on_disk(case.kept) - tops - last // 2
    case.folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "orch", case.folder], check=True)
    case.start()
    case.end(FAILED, "disk is full")
    case.require_none_left()
    subprocess.run(["mount", "-o", "remount,size=1g", case.folder], check=True)


def size_on_disk(path: Path) -> int:
    """Return the bytes that a file or a folder takes in whole pages, as in a tmpfs."""
    files = [item for item in (path, *path.rglob("*")) if item.is_file()]
    return sum(-(-item.stat().st_size // PAGE_BYTES) * PAGE_BYTES for item in files)


def two_at_once(case: Case) -> None:
    case.start()
    first = case.orch
    case.wait_for_checkpoint()
    case.start()
    case.end(BUSY, "busy")
    case.orch = first
    case.end(0)
    check(not is_supervised(case.run), "the lock is still held")


def read_only(case: Case) -> None:
    case.start()
    case.wait_for_checkpoint()
    assert case.orch
    case.orch.terminate()
    case.end(STOPPED, "stopped at")
    with read_only_mount(case.run.root):
        case.start()
        case.end(BUSY, "Read-only file system")


@contextlib.contextmanager
def read_only_mount(folder: Path) -> Iterator[None]:
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def close_terminal(case: Case) -> None:
    """Run in a terminal of its own, and close it: a hangup, and an error for whatever is still written."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(ORCH, [ORCH, "resume", str(case.run.root)], os.environ | {MARK: str(case.run.root)})  # noqa: S606
    os.set_blocking(terminal, False)
    saved = case.checkpoint(case.first_step) / "trainer_state.json"
    while not saved.exists():
        with contextlib.suppress(BlockingIOError):
            os.read(terminal, 1 << 16)  # an OSError when it has ended before
        time.sleep(0.02)
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    check(os.waitstatus_to_exitcode(status) == STOPPED, f"status {status}")
    case.require_none_left()


def limit_memory(case: Case) -> None:
    """Let the kernel kill for memory: a control group too small for the training, large enough for `orch`."""
    group = MEMORY_GROUP / f"orch-faults-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str((100 if case.backend == FAKE else 300) << 20))
        case.start("/bin/sh", "-c", f'echo $$ >{group}/cgroup.procs; exec "$@"', "sh")
        case.end(FAILED, "memory")
        case.require_none_left()
    finally:
        time.sleep(0.2)
        group.rmdir()


FAULTS: dict[str, Callable[[Case], None]] = {
    "SIGINT to orch": signal_orch(signal.SIGINT),
    "SIGTERM to orch": signal_orch(signal.SIGTERM),
    "SIGHUP to orch": signal_orch(signal.SIGHUP),
    "SIGKILL to orch": signal_orch(signal.SIGKILL),
    "SIGKILL to orch and worker": kill_orch_and_worker,
    "SIGTERM to the launcher": signal_training("launcher", signal.SIGTERM),
    "SIGKILL to the launcher": signal_training("launcher", signal.SIGKILL),
    "SIGTERM to the worker": signal_training("worker", signal.SIGTERM),
    "SIGKILL to the worker": signal_training("worker", signal.SIGKILL),
    "SIGKILL in a checkpoint's save": kill_in_a_save,
    "SIGSTOP of the worker": suspend_worker,
    "terminal closed": close_terminal,
    "newest checkpoint cut off": damage_newest(cut_weights),
    "its optimizer cut off": damage_newest(cut_optimizer),
    "a bit of its optimizer flipped": damage_newest(flip_a_bit),
    "its random state lost": damage_newest(lose_random_state),
    "training over, result lost": damage_newest(lambda _checkpoint: None),
    "state.json damaged": damage_state,
    "disk full": fill_disk,
    "memory limit": limit_memory,
    "two runs at once": two_at_once,
    "run folder read-only": read_only,
}
NEED_ROOT = frozenset({"disk full", "memory limit", "run folder read-only"})


def build_case(backend: str, work: Path) -> Case:
    """Run the backend's smoke once, undisturbed, unless it is there; cut its plan behind the training."""
    run = RunDir(work / RECIPES.get(backend, "fake"))
    if not run.report_json.exists():
        print(f"{backend}: the undisturbed run", file=sys.stderr, flush=True)
        _run_fake(run) if backend == FAKE else _run_smoke(backend, run)
    plan = json.loads(run.plan_json.read_text())
    number, stage = next((number, stage) for number, stage in enumerate(plan["stages"]) if stage["kind"] == "train")
    plan["stages"] = plan["stages"][: number + 1]
    plan["recipe"].setdefault("launch", {})["stop_patience_s"] = 10
    plan["recipe"].pop("watch", None)
    run.plan_json.write_text(plan_from_json(json.dumps(plan)).to_json())
    adopt_run(run)
    output = run.stage(stage["name"]).output
    kept = run.root.with_name(f"{run.root.name}.{stage['name']}")
    if not kept.exists():
        shutil.copytree(output.parent, kept, symlinks=True)
    last = max(int(path.name.split("-")[1]) for path in (kept / "output").glob("checkpoint-*"))
    kept_output = kept / "output"
    losses, weights = load_losses(kept_output, last), hash_weights(kept_output, last)
    return Case(backend, run, stage["name"], last, losses, weights)


def _run_smoke(backend: str, run: RunDir) -> None:
    recipe = ROOT / "recipes" / f"{RECIPES[backend]}.yaml"
    subprocess.run([ORCH, "run", str(recipe), "--smoke", "-o", str(run.root)], check=True, stdout=subprocess.DEVNULL)


def _run_fake(run: RunDir) -> None:
    sys.path.insert(0, str(ROOT))
    from tests.process.recovery import make_run

    made = make_run(run.root.parent, name=run.root.name, step_s=0.6, work_s=0.1, args=["--grab_mb", 40])
    made.resume()
    run.report_json.write_text("{}")


def measure(case: Case, fault: str) -> Outcome:
    outcome = Outcome(fault, case.backend, recovered=False)
    case.reset()
    try:
        FAULTS[fault](case)
        outcome.seconds = round(case.resume(), 1)
        outcome.recovered, outcome.repeated_steps = True, case.repeated_steps()
    except (LostError, OSError, subprocess.SubprocessError) as error:
        outcome.lost = str(error)
    finally:
        if case.orch and case.orch.poll() is None:
            case.orch.kill()
            case.orch.communicate()
        process.signal_pids(tuple(case.left()), signal.SIGKILL)
        while os.path.ismount(case.folder):
            subprocess.run(["umount", "-l", case.folder], check=True)
    return outcome


def write_results(outcome: Outcome) -> list[Outcome]:
    """Put this outcome in the place of an earlier one, and return all."""
    merged = {(row.fault, row.backend): row for row in [*load_results(), outcome]}
    rows = [merged[fault, backend] for fault in FAULTS for backend in BACKENDS if (fault, backend) in merged]
    RESULTS.write_text(json.dumps([asdict(row) for row in rows], indent=1, ensure_ascii=False) + "\n")
    return rows


def build_table(outcomes: list[Outcome]) -> str:
    """Return the Markdown table, with the total under it."""

    def cell(fault: str, backend: str) -> str:
        row = next((row for row in outcomes if (row.fault, row.backend) == (fault, backend)), None)
        if row is None:
            return "not run"
        if not row.recovered:
            return f"**lost**: {row.lost.splitlines()[0]}"
        steps = "step" if row.repeated_steps == 1 else "steps"
        return f"{row.seconds:.0f} s" + (f", {row.repeated_steps} {steps} again" if row.repeated_steps else "")

    shown = [backend for backend in BACKENDS if any(row.backend == backend for row in outcomes)]
    lines = [f"| fault | {' | '.join(shown)} |", f"|---|{'---|' * len(shown)}"]
    lines += [f"| {fault} | {' | '.join(cell(fault, backend) for backend in shown)} |" for fault in FAULTS]
    return "\n".join([*lines, "", count_outcomes(outcomes, TOTAL)])


def count_outcomes(outcomes: list[Outcome], total: str) -> str:
    lost = sum(not row.recovered for row in outcomes)
    return total.format(len(outcomes) - lost, len(outcomes), lost)


def list_pages(outcomes: list[Outcome]) -> dict[Path, str]:
    """Return what belongs between the marks of each page."""
    totals = {page: count_outcomes(outcomes, total) for page, total in TOTALS.items()}
    return {TABLE_PAGE: build_table(outcomes), **totals}


def write_pages(outcomes: list[Outcome]) -> None:
    """Put what was kept in its place in the pages that have one."""
    for page, text in list_pages(outcomes).items():
        head, rest = page.read_text(encoding="utf-8").split(BEGIN)
        page.write_text(f"{head}{BEGIN}\n\n{text}\n\n{END}{rest.split(END)[1]}", encoding="utf-8")


def load_results() -> list[Outcome]:
    return [Outcome(**row) for row in json.loads(RESULTS.read_text())] if RESULTS.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", action="append", choices=BACKENDS, help="only this one (repeatable)")
    parser.add_argument("--fault", action="append", choices=FAULTS, help="only this one (repeatable)")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "faults", help="where the runs are made, and kept")
    parser.add_argument("--wait", type=float, default=300.0, help="seconds for each thing that is waited for")
    parser.add_argument("--table", action="store_true", help="run nothing: write the tables of what was run")
    args = parser.parse_args()
    outcomes = load_results()
    if args.table:
        write_pages(outcomes)
        return
    args.work.mkdir(parents=True, exist_ok=True)
    # a script's job in the background, or under nohup, ignores these, and so would everything that it starts
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    for backend in args.backend or BACKENDS:
        case = build_case(backend, args.work.resolve())
        case.wait_s = args.wait
        for fault in args.fault or FAULTS:
            if fault in NEED_ROOT and os.geteuid() != 0:
                print(f"{fault}: needs root, left out", file=sys.stderr)
                continue
            begin = time.monotonic()
            outcome = measure(case, fault)
            outcomes = write_results(outcome)
            seconds = time.monotonic() - begin
            result = f"{outcome.seconds:.0f} s" if outcome.recovered else f"lost: {outcome.lost}"
            print(f"{backend}: {fault}: {result} (all in all {seconds:.0f} s)", file=sys.stderr, flush=True)
    write_pages(outcomes)
    print(build_table(outcomes))


if __name__ == "__main__":
    main()
