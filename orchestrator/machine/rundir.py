"""The only place that knows a run folder's file names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from orchestrator.machine.files import PART_PATTERN, write_bytes, write_json, write_text

__all__ = ["PART_PATTERN", "RunDir", "StageDir", "write_bytes", "write_json", "write_text"]


@dataclass(frozen=True)
class StageDir:
    """File names inside `stages/NN-name/`."""

    root: Path

    @property
    def command_sh(self) -> Path:
        """The stage's replayable command."""
        return self.root / "command.sh"

    @property
    def command_json(self) -> Path:
        """What was launched: argv, env, attempt, resumed checkpoint."""
        return self.root / "command.json"

    @property
    def stdout_log(self) -> Path:
        """The child's standard output, appended attempt by attempt."""
        return self.root / "stdout.log"

    @property
    def stderr_log(self) -> Path:
        """The child's standard error, appended attempt by attempt."""
        return self.root / "stderr.log"

    @property
    def exit_code(self) -> Path:
        """The child's exit code, written by its launcher even when Orch is gone."""
        return self.root / "exit_code"

    @property
    def result_json(self) -> Path:
        """Written last: its presence with the right digest is what "done" means."""
        return self.root / "result.json"

    @property
    def stacks_txt(self) -> Path:
        """Where the processes stood each time that the stage had stalled, as py-spy saw them."""
        return self.root / "stacks.txt"

    @property
    def output(self) -> Path:
        """The backend's or worker's own folder."""
        return self.root / "output"


@dataclass(frozen=True)
class RunDir:
    """File names inside one run folder."""

    root: Path

    @property
    def recipe_yaml(self) -> Path:
        """The recipe as given."""
        return self.root / "recipe.yaml"

    @property
    def plan_json(self) -> Path:
        """The plan as data."""
        return self.root / "plan.json"

    @property
    def seal(self) -> Path:
        """What tells its maker that the plan is of their own making."""
        return self.root / "plan.seal"

    @property
    def run_sh(self) -> Path:
        """The whole run as a script that needs no Orch process."""
        return self.root / "run.sh"

    @property
    def provenance_json(self) -> Path:
        """Versions, hashes, hardware, git."""
        return self.root / "provenance.json"

    @property
    def events_jsonl(self) -> Path:
        """What happened, one event a line."""
        return self.root / "events.jsonl"

    @property
    def state_json(self) -> Path:
        """The run's state and the running stage's process identity."""
        return self.root / "state.json"

    @property
    def lock(self) -> Path:
        """Held (flock) by the one supervisor of this folder."""
        return self.root / "lock"

    @property
    def metrics_json(self) -> Path:
        """Measures of every system, query by query, and the comparisons."""
        return self.root / "metrics.json"

    @property
    def report_html(self) -> Path:
        """The verdict for people."""
        return self.root / "report.html"

    @property
    def report_json(self) -> Path:
        """The verdict for programs."""
        return self.root / "report.json"

    @property
    def loss_curve_png(self) -> Path:
        """The training loss, drawn."""
        return self.root / "loss_curve.png"

    @property
    def reproduction_json(self) -> Path:
        """How a run that repeats another one compares with it."""
        return self.root / "reproduction.json"

    @property
    def data(self) -> Path:
        """Prepared data, ledger and statistics."""
        return self.root / "data"

    @property
    def train_jsonl(self) -> Path:
        """What the backend reads."""
        return self.data / "train.jsonl"

    @property
    def eval_jsonl(self) -> Path:
        """Canonical ranking groups that every system is scored on."""
        return self.data / "eval.jsonl"

    @property
    def validation_jsonl(self) -> Path:
        """Rows that the trainer evaluates on while it trains, in its own form."""
        return self.data / "validation.jsonl"

    @property
    def corpus_jsonl(self) -> Path:
        """Documents that every query of the evaluation set is searched in."""
        return self.data / "corpus.jsonl"

    @property
    def ledger_json(self) -> Path:
        """Rows in = kept + each reason for dropping."""
        return self.data / "ledger.json"

    @property
    def stats_json(self) -> Path:
        """Statistics of the kept rows."""
        return self.data / "stats.json"

    @property
    def model(self) -> Path:
        """The packaged artefact."""
        return self.root / "model"

    def guard(self, name: str) -> Path:
        """Return the folder of a guard's prepared data, whose files are named as those of `data`."""
        return self.data / "guard" / name

    def stage(self, name: str) -> StageDir:
        """Return the file names of one stage."""
        return StageDir(self.root / "stages" / name)
