"""Put the same input to Orch: recipe, plan, preflight and the prepare stage, in this process, up to the first refusal."""

from __future__ import annotations

import contextlib
import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from orchestrator.checks import require_runnable
from orchestrator.data import prepare
from orchestrator.errors import OrchError
from orchestrator.logs.health import LossHealth, LossProblem, LossRules
from orchestrator.machine.files import write_text
from orchestrator.machine.hardware import CPU
from orchestrator.plan.jobs import build_job
from orchestrator.plan.load import load_recipe
from orchestrator.plan.pipeline import build_plan

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from orchestrator.backends.protocol import Job
    from orchestrator.logs.events import Step
    from orchestrator.recipe.plan import Plan
    from tests.traps.native import Ended, Native


@dataclass(frozen=True)
class Answer:
    """What Orch makes of an input: an exit code and words, or a plan and prepared data."""

    code: int
    text: str
    plan: Plan | None = None
    job: Job | None = None

    def trains_with(self, flag: str) -> list[str]:
        """Return the words that follow a flag of the train command."""
        argv = list(self.plan.stage("train").command.argv)
        rest = argv[argv.index(f"--{flag}") + 1 :]
        end = next((place for place, word in enumerate(rest) if word.startswith("--")), len(rest))
        return rest[:end]

    @property
    def ledger(self) -> dict[str, Any]:
        return json.loads((self.job.run_dir / "data" / "ledger.json").read_text(encoding="utf-8"))

    @property
    def train_rows(self) -> list[dict[str, Any]]:
        text = (self.job.run_dir / "data" / "train.jsonl").read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]


def ask_orch(folder: Path, recipe: dict[str, Any] | str, *, run_dir: Path | None = None) -> Answer:
    """Return what `orch run` would say before the first long stage."""
    path = folder / "recipe.yaml"
    path.write_text(recipe if isinstance(recipe, str) else yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    try:
        job = build_job(load_recipe(path, ()), run_dir or folder / "run", CPU)
        plan = build_plan(job)
        require_runnable(job, plan)
    except OrchError as error:
        return Answer(error.exit_code, "\n".join(f"{one.where}: {one.message}\n{one.hint}" for one in error.problems))
    argv = plan.stage("prepare").command.argv
    assert argv[1:3] == ("-m", "orchestrator.data.prepare")
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        code = prepare.main(argv[3:])
    return Answer(code, said.getvalue(), plan, job)


def run_worker_stage(
    native: Native, answer: Answer, *, after: str = "", kind: str = "", more: Sequence[str] = ()
) -> Ended:
    """Run one of Orch's own workers, the stage of that kind or the one after, in a fork of the warm process."""
    for file in answer.plan.files:
        write_text(answer.job.run_dir / file.path, file.text)
    kinds = [stage.kind for stage in answer.plan.stages]
    argv = answer.plan.stages[kinds.index(kind) if kind else kinds.index(after) + 1].command.argv
    place = next(number for number, word in enumerate(argv) if word.endswith("/orchestrator/workers"))
    return native.call("orchestrator.workers", [*argv[place + 1 :], *more])


def find_loss_problem(steps: Sequence[Step]) -> LossProblem | None:
    """Return the first problem for which Orch ends a training with these logged steps, or None."""
    health = LossHealth(LossRules())
    return next((found for step in steps if (found := health.add(step)) and found.stops), None)
