"""The only place that knows a run folder's file names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any


class _Below:
    """The path of that name below the `root` of whoever has it."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, folder: Any, _kind: type | None = None) -> Path:
        return Path(folder.root / self._name)


@dataclass(frozen=True)
class StageDir:
    """File names inside `stages/NN-name/`."""

    root: Path

    command_sh = _Below("command.sh")  # the stage's command, to be run again by hand
    command_json = _Below("command.json")  # what was launched: argv, env, attempt, resumed checkpoint
    stdout_log = _Below("stdout.log")  # appended attempt by attempt, as stderr.log is
    stderr_log = _Below("stderr.log")
    exit_code = _Below("exit_code")  # written by the launcher even when Orch is gone
    result_json = _Below("result.json")  # written last: its presence with the right digest is what "done" means
    stacks_txt = _Below("stacks.txt")  # where the processes stood each time that the stage had stalled, from py-spy
    output = _Below("output")  # the backend's or worker's own folder


@dataclass(frozen=True)
class RunDir:
    """File names inside one run folder."""

    root: Path

    recipe_yaml = _Below("recipe.yaml")  # the recipe as given
    plan_json = _Below("plan.json")  # the plan as data
    seal = _Below("plan.seal")  # what tells its maker that the plan is of their own making
    run_sh = _Below("run.sh")  # the whole run as a script that needs no Orch process
    provenance_json = _Below("provenance.json")  # versions, hashes, hardware, git
    events_jsonl = _Below("events.jsonl")  # what happened, one event a line
    state_json = _Below("state.json")  # the run's state and the running stage's process identity
    lock = _Below("lock")  # held (flock) by the one supervisor of this folder
    stop_asked = _Below("stop")  # the user has asked to stop: signals that follow are not a scheduler's
    job = _Below("job")  # of a run that an engine repeats: its script, ids of its jobs, what the engine wrote
    job_ids = _Below("job/ids")  # ENGINE ID, a line each, the last one counts
    excluded_nodes = _Below("excluded_nodes")  # machines at fault, a line each: the next attempt goes elsewhere
    metrics_json = _Below("metrics.json")  # measures of every system, query by query, and the comparisons
    report_html = _Below("report.html")  # the verdict for people
    report_json = _Below("report.json")  # the verdict for programs
    track_json = _Below("track.json")  # what experiment trackers are told
    loss_curve_png = _Below("loss_curve.png")  # the training loss, drawn
    reproduction_json = _Below("reproduction.json")  # how a run that repeats another one compares with it
    data = _Below("data")  # prepared data, ledger and statistics
    train_jsonl = _Below("data/train.jsonl")  # what the backend reads
    train_sources = _Below("data/train")  # the same rows, a file for each data set whose rows make batches of their own
    eval_jsonl = _Below("data/eval.jsonl")  # canonical rows that every system is scored on
    validation_jsonl = _Below("data/validation.jsonl")  # what the trainer evaluates on while it trains, in its own form
    corpus_jsonl = _Below("data/corpus.jsonl")  # documents that every query of the evaluation set is searched in
    ledger_json = _Below("data/ledger.json")  # rows in = kept + each reason for dropping
    stats_json = _Below("data/stats.json")  # statistics of the kept rows
    model = _Below("model")  # the packaged artefact

    def export(self, form: str) -> Path:
        """Return the folder of the packaged model in another form."""
        return self.root / "export" / form

    def guard(self, name: str) -> Path:
        """Return the folder of a guard's prepared data, whose files are named as those of `data`."""
        return self.data / "guard" / name

    def stage(self, name: str) -> StageDir:
        """Return the file names of one stage."""
        return StageDir(self.root / "stages" / name)
