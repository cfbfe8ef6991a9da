"""The only place that knows a run folder's file names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


class _Under:
    """The path of that name below the `root` of whoever has it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, folder: Any, _kind: type | None = None) -> Path:
        return Path(folder.root / self._name)


@dataclass(frozen=True)
class StageDir:
    """File names inside `stages/NN-name/`."""

    root: Path

    command_sh = _Under("command.sh")  # the stage's command, to be run again by hand
    command_json = _Under("command.json")  # what was launched: argv, env, attempt, resumed checkpoint
    stdout_log = _Under("stdout.log")  # appended attempt by attempt, as stderr.log is
    stderr_log = _Under("stderr.log")
    exit_code = _Under("exit_code")  # written by the launcher even when Orch is gone
    result_json = _Under("result.json")  # written last: its presence with the right digest is what "done" means
    stacks_txt = _Under("stacks.txt")  # where the processes stood each time that the stage had stalled, from py-spy
    output = _Under("output")  # the backend's or worker's own folder


@dataclass(frozen=True)
class RunDir:
    """File names inside one run folder."""

    root: Path

    recipe_yaml = _Under("recipe.yaml")  # the recipe as given
    plan_json = _Under("plan.json")  # the plan as data
    seal = _Under("plan.seal")  # what tells its maker that the plan is of their own making
    run_sh = _Under("run.sh")  # the whole run as a script that needs no Orch process
    provenance_json = _Under("provenance.json")  # versions, hashes, hardware, git
    events_jsonl = _Under("events.jsonl")  # what happened, one event a line
    state_json = _Under("state.json")  # the run's state and the running stage's process identity
    lock = _Under("lock")  # held (flock) by the one supervisor of this folder
    stop_requested = _Under("stop")  # the user has asked to stop: signals that follow are not a scheduler's
    job = _Under("job")  # of a run that an engine repeats: its script, ids of its jobs, what the engine wrote
    job_ids = _Under("job/ids")  # ENGINE ID, a line each, the last one counts
    excluded_nodes = _Under("excluded_nodes")  # machines at fault, a line each: the next attempt goes elsewhere
    metrics_json = _Under("metrics.json")  # measures of every system, query by query, and the comparisons
    report_html = _Under("report.html")  # the verdict for people
    report_json = _Under("report.json")  # the verdict for programs
    track_json = _Under("track.json")  # what experiment trackers are told
    loss_curve_png = _Under("loss_curve.png")  # the training loss, drawn
    reproduction_json = _Under("reproduction.json")  # how a run that repeats another one compares with it
    data = _Under("data")  # prepared data, ledger and statistics
    train_jsonl = _Under("data/train.jsonl")  # what the backend reads
    train_sources = _Under("data/train")  # the same rows, a file for each data set whose rows make batches of their own
    eval_jsonl = _Under("data/eval.jsonl")  # canonical rows that every system is scored on
    validation_jsonl = _Under("data/validation.jsonl")  # what the trainer evaluates on while it trains, in its own form
    corpus_jsonl = _Under("data/corpus.jsonl")  # documents that every query of the evaluation set is searched in
    ledger_json = _Under("data/ledger.json")  # rows in = kept + each reason for dropping
    stats_json = _Under("data/stats.json")  # statistics of the kept rows
    model = _Under("model")  # the packaged artefact

    def export(self, form: str) -> Path:
        """Return the folder of the packaged model in another form."""
        return self.root / "export" / form

    def guard(self, name: str) -> Path:
        """Return the folder of a guard's prepared data, whose files are named as those of `data`."""
        return self.data / "guard" / name

    def stage(self, name: str) -> StageDir:
        """Return the file names of one stage."""
        return StageDir(self.root / "stages" / name)
