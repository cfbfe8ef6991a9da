"""Tell experiment trackers of a run: it is opened before the training, and its verdict and report come at the end.

The curves are sent by transformers' own callbacks, which take a run that is open already. Where a tracker cannot be
reached the run is written beside it, offline. One that fails, or does not answer in time, is left out with an
`orch-caution`: none ends a training. track/sent.json of the run folder says whose curves are where.

Sources: transformers/integrations/integration_utils.py (5.19); the clients of wandb 0.31, swanlab 0.10, mlflow 3.17,
trackio 0.43, tensorboard 2.21.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import secrets
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator.workers.environment import say
from orchestrator.workers.folders import write_text
from orchestrator.workers.launch import run_words

TRACKERS: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("trackers.json").read_text())
LIMIT_S = float(os.environ.get("ORCH_TRACK_LIMIT_S") or 60)  # for one thing that a tracker is asked
_STOPPED_S = 5.0  # for its last words after Ctrl-C: before the patience of whoever stops the stage ends


@dataclass(frozen=True)
class Target:
    """What a run is called in every tracker: `run` is its folder, and `id` is drawn once for it."""

    run: Path
    project: str
    group: str
    id: str

    @property
    def name(self) -> str:
        """The name of the run folder; of a sweep's trial, which is a number, behind that of the sweep."""
        return f"{self.group}-{self.run.name}" if self.run.parent.name == "trials" else self.run.name


@dataclass(frozen=True)
class Tracker:
    """A tracker with the run open in it, at `place`: two openings of one place see one another's curves.

    `log` takes a step and values by transformers' names for them, `tell` what track.json says, `add` a file, and
    `close`, which waits until all is sent, whether all went well. `writer` is for a callback that takes one.
    """

    place: str
    log: Callable[[int, Mapping[str, float]], Any]
    tell: Callable[[Mapping[str, Any]], Any]
    add: Callable[[Path], Any]
    close: Callable[[bool], Any]
    writer: Any = None


def open_tensorboard(at: Target, folder: Path, online: bool) -> Tracker:  # noqa: ARG001, FBT001
    """Write event files in the run folder: `tensorboard --logdir` takes the folder of many runs. It has no files."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder))

    def log(step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    def tell(told: Mapping[str, Any]) -> None:
        log(0, told["numbers"])
        rows = (f"| {name} | {value} |" for name, value in {**told["texts"], **told["config"]}.items())
        writer.add_text("orch", "\n".join(["| | |", "|---|---|", *rows]))

    def add(path: Path) -> None:
        if path.suffix == ".json":
            writer.add_text(path.name, f"```\n{path.read_text(encoding='utf-8')}\n```")

    return Tracker("track/tensorboard", log, tell, add, lambda _: writer.close(), writer)


def open_wandb(at: Target, folder: Path, online: bool) -> Tracker:  # noqa: FBT001
    """Open Weights & Biases. Console output, source and git stay here: they may hold rows of the data."""
    import wandb

    if not online:
        wandb.teardown()  # its service still holds the id of the opening that failed
    settings = wandb.Settings(console="off", disable_git=True, disable_code=True, init_timeout=LIMIT_S * 0.8)
    run = wandb.init(
        project=at.project, group=at.group, name=at.name, id=at.id, resume="allow", dir=str(folder),
        mode=None if online else "offline", settings=settings,
    )  # fmt: skip

    def tell(told: Mapping[str, Any]) -> None:
        run.config.update(told["config"], allow_val_change=True)
        run.summary.update({**told["numbers"], **told["texts"]})

    return Tracker(
        f"{at.project} {'offline' if run.offline else 'online'}",
        lambda step, values: run.log({**values, "train/global_step": step}),
        tell,
        lambda path: run.log_artifact(str(path), name=f"{at.id}-{path.name}", type="report"),
        lambda ok: run.finish(exit_code=int(not ok)),
    )


def open_swanlab(at: Target, folder: Path, online: bool) -> Tracker:  # noqa: FBT001
    """Open SwanLab; what is written offline, `swanlab sync` sends too. Console output and git stay here."""
    import swanlab

    settings = swanlab.Settings(terminal={"proxy_type": "none"}, probe={"git": False, "requirements": False})
    swanlab.init(
        project=at.project, group=at.group, name=at.name, id=at.id, resume="allow", log_dir=str(folder),
        mode=None if online else "offline", settings=settings,
    )  # fmt: skip

    def tell(told: Mapping[str, Any]) -> None:
        swanlab.config.update({**told["config"], **told["texts"], **told["numbers"]})
        swanlab.log({**told["numbers"], "headline": swanlab.Text(told["texts"]["headline"])})

    return Tracker(
        f"{at.project} {os.environ.get('SWANLAB_MODE', 'online') if online else 'offline'}",
        lambda step, values: swanlab.log(dict(values), step=step),
        tell,
        lambda path: swanlab.save(str(path), base_path=str(path.parent), policy="now"),
        lambda ok: swanlab.get_run() and swanlab.finish(state="success" if ok else "crashed"),
    )


def open_mlflow(at: Target, folder: Path, online: bool) -> Tracker:  # noqa: FBT001
    """Open the server of MLFLOW_TRACKING_URI, else files in the run folder. MLflow draws ids itself: a tag has ours."""
    import mlflow

    uri = os.environ.get("MLFLOW_TRACKING_URI") if online else folder.as_uri()
    if not uri:
        raise ConnectionError("MLFLOW_TRACKING_URI is not set")
    os.environ |= {} if online else {"MLFLOW_ALLOW_FILE_STORE": "true"}
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment(at.project)
    asked = {"experiment_names": [at.project], "filter_string": f"tags.orch_run = '{at.id}'", "output_format": "list"}
    found = next((run.info.run_id for run in mlflow.search_runs(**asked)), None)
    mlflow.start_run(run_id=found, run_name=at.name, tags={"orch_run": at.id, "group": at.group})

    def tell(told: Mapping[str, Any]) -> None:
        mlflow.log_params({f"orch.{name}": str(value)[:500] for name, value in told["config"].items()})
        mlflow.log_metrics({name.replace("@", "_at_"): value for name, value in told["numbers"].items()})
        mlflow.set_tags(told["texts"])

    def log(step: int, values: Mapping[str, float]) -> None:  # its callback has no folders of names
        names = {name: name.replace("eval/", "eval_").replace("train/", "") for name in values}
        mlflow.log_metrics({names[name]: value for name, value in values.items()}, step=step)

    place, end = re.sub(r"//[^/@]*@", "//", f"{uri} {at.project}"), mlflow.end_run
    return Tracker(place, log, tell, mlflow.log_artifact, lambda ok: end("FINISHED" if ok else "FAILED"))


def open_trackio(at: Target, folder: Path, online: bool) -> Tracker:  # noqa: ARG001, FBT001
    """Open Trackio's database (TRACKIO_DIR), or a Space (TRACKIO_SPACE_ID). It knows runs by their names alone."""
    import trackio

    name, quiet = f"{at.name}-{at.id[:6]}", {"embed": False, "auto_log_gpu": False, "auto_log_cpu": False}
    run = trackio.init(project=at.project, name=name, group=at.group, resume="allow", **quiet)
    trackio.init = lambda *_, **__: run  # transformers' callback does not look for an open one
    return Tracker(
        f"{at.project} {os.environ.get('TRACKIO_SPACE_ID') or 'here'}",
        lambda step, values: run.log({**values, "train/global_step": step}),
        lambda told: run.log({**told["config"], **told["texts"], **told["numbers"]}),
        lambda path: trackio.log_artifact(path, name=f"{at.id}-{path.name}", type="report"),
        lambda _: trackio.context_vars.current_run.get() and trackio.finish(),
    )


OPENERS: dict[str, Callable[[Target, Path, bool], Tracker]] = {
    "tensorboard": open_tensorboard, "swanlab": open_swanlab, "wandb": open_wandb, "mlflow": open_mlflow,
    "trackio": open_trackio,
}  # fmt: skip


def attempt(act: Callable[[], Any], failed: str, seconds: float = LIMIT_S) -> bool:
    """Tell whether it could be done in time; `failed` says the caution, where {} is what was wrong."""

    def end(*_: object) -> None:
        raise TimeoutError(f"no answer within {seconds:g} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        act()
    except Exception as error:  # noqa: BLE001  whatever a tracker raises
        say("caution", failed.format(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"))
        return False
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return True


def leave_after(seconds: float, code: int) -> None:
    """End this process after so many seconds, whatever a library still waits for."""
    last = threading.Timer(seconds, os._exit, (code,))
    last.daemon = True
    last.start()


def open_trackers(at: Target, names: Sequence[str]) -> dict[str, Tracker]:
    """Return those that have the run open: at their servers, or offline in the run folder."""
    found: dict[str, Tracker] = {}
    for name in names:
        row, folder = TRACKERS[name], at.run / "track" / name
        try:
            importlib.import_module(row["module"])  # with no limit: half an import would spoil the training
        except Exception as error:  # noqa: BLE001
            say("caution", f"{name}: {error}; {sys.executable} -m pip install {row['packages'][0]}")
            continue
        folder.mkdir(exist_ok=True)
        ways = (True, False) if row["offline"] else (True,)
        for online in ways:
            later = f"it is written to {folder}; once that is mended, `orch track {at.run}` sends it"
            failed = f"{name}: {{}}; {later if online is not ways[-1] else 'it hears nothing of this run'}"
            if attempt(lambda: found.update({name: OPENERS[name](at, folder, online)}), failed):  # noqa: B023  at once
                break
    return found


def guard_callbacks(asked: Sequence[str], opened: Mapping[str, Tracker]) -> set[str]:
    """Have transformers' callbacks of these trackers use the open runs, and none of them end the training.

    A trainer whose report_to takes one name gets the callbacks of the others here. Returns the trackers whose callbacks
    have not failed so far, which changes while it trains.
    """
    from transformers.integrations import INTEGRATION_TO_CALLBACK
    from transformers.trainer_callback import CallbackHandler

    names = {TRACKERS[name]["callback"]: name for name in asked}
    whole: set[str] = set()
    add, begin = CallbackHandler.add_callback, CallbackHandler.__init__

    def guard(name: str, act: Callable[..., Any], *given: Any, **named: Any) -> None:
        if name in whole and not attempt(lambda: act(*given, **named), f"{name} hears no more of this run: {{}}"):
            whole.remove(name)

    def add_guarded(handler: Any, callback: Any) -> None:
        name = names.get((callback if isinstance(callback, type) else type(callback)).__name__, "")
        if not name or name in opened:
            add(handler, callback)
        if name in opened:
            one = handler.callbacks[-1]
            vars(one).update({"tb_writer": opened[name].writer} if opened[name].writer else {})
            acts = {event: partial(guard, name, getattr(one, event)) for event in dir(one) if event.startswith("on_")}
            vars(one).update(acts)
            whole.add(name)

    def begin_guarded(handler: Any, *given: Any, **named: Any) -> None:
        begin(handler, *given, **named)
        for name in sorted((opened.keys() - whole) & INTEGRATION_TO_CALLBACK.keys()):
            handler.add_callback(INTEGRATION_TO_CALLBACK[name])

    CallbackHandler.add_callback, CallbackHandler.__init__ = add_guarded, begin_guarded
    return whole


def read_sent(run: Path) -> dict[str, str]:
    """Return the place of each tracker that has the curves."""
    path = run / "track" / "sent.json"
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def close_trackers(run: Path, opened: Mapping[str, Tracker], whole: set[str], *, ok: bool) -> None:
    """End the runs, and write down the places of those that have the whole curves."""
    for name, tracker in opened.items():
        done = attempt(lambda: tracker.close(ok), f"{name} may lack the end: {{}}", LIMIT_S if ok else _STOPPED_S)  # noqa: B023
        if done and name in whole:
            write_text(run / "track" / "sent.json", json.dumps(read_sent(run) | {name: tracker.place}))


def read_options(worker: str, argv: list[str]) -> tuple[Target, list[str]]:
    """Return what the run is called, and the trackers; whoever asks first draws the run's id."""
    parser = argparse.ArgumentParser(prog=f"workers {worker}", description=__doc__, allow_abbrev=False)
    parser.add_argument("--run", type=Path, required=True, help="the run folder")
    parser.add_argument("--to", type=lambda text: text.split(","), required=True, help="trackers, with commas")
    parser.add_argument("--project", required=True, help="the project (MLflow: the experiment)")
    parser.add_argument("--group", required=True, help="what the run belongs to")
    options = parser.parse_args(argv)
    path = options.run / "track" / "id"
    if not path.is_file():
        write_text(path, secrets.token_hex(8))
    return Target(options.run, options.project, options.group, path.read_text().strip()), options.to


def train(argv: list[str]) -> int:
    """Train, by the words behind the options (-m MODULE … or SCRIPT …), with the trackers open."""
    own = next((at for at in range(0, len(argv), 2) if not argv[at].startswith("--")), len(argv))
    target, names = read_options("track_training", argv[:own])
    opened = open_trackers(target, names) if os.environ.get("RANK", "0") == "0" else {}
    whole, code = guard_callbacks(names, opened), 1
    try:
        run_words(argv[own:])
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise
    finally:
        close_trackers(target.run, opened, set() if code else whole, ok=code == 0)
        leave_after(LIMIT_S, code)
    return 0


def main(argv: list[str]) -> int:
    """Send track.json of the run folder (verdict, settings, report), and the curves to those that lack them."""
    target, names = read_options("track", argv)
    told = json.loads((target.run / "track.json").read_text(encoding="utf-8"))
    leave_after(4 * LIMIT_S * len(names), 0)

    def send(tracker: Tracker, curves: list[tuple[int, dict[str, float]]]) -> None:
        for step, values in curves:
            tracker.log(step, values)
        tracker.tell(told)
        for path in (target.run / name for name in told["files"]):
            if path.is_file():
                tracker.add(path)

    for name, tracker in open_trackers(target, names).items():
        curves = [] if read_sent(target.run).get(name) == tracker.place else told["curves"]
        sent = attempt(partial(send, tracker, curves), f"{name} lacks the verdict: {{}}")
        close_trackers(target.run, {name: tracker}, {name} if sent else set(), ok=True)
        if sent:
            say("note", f"{name} has the verdict of {target.name} ({tracker.place})")
    os._exit(0)  # at its end a library would wait for what it could not send
