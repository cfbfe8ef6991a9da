"""Optuna's part in a sweep: it chooses each setting by how the earlier ones came out, and prunes trainings."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import PreflightError, RunFolderError, Where
from orchestrator.logs.events import Event, Message
from orchestrator.plan.sweep import SEED, Choices, Planned, Range, Setting
from orchestrator.run.resume import TRAIN
from orchestrator.run.stopping import Interrupts
from orchestrator.run.sweep import DONE, PRUNED, Sweep, Trial, is_over

_EVAL_LOSS = re.compile(r"\beval_loss ([-+]?[0-9]+(?:\.[0-9]*)?(?:e[-+]?[0-9]+)?|nan|inf)")
STORAGE = "optuna.journal"


class Study:
    """A search of Optuna's, which has settings to ask for and hears what each came to.

    Its storage is a journal in the sweep's folder; without it, it is made anew from sweep.json. A setting is worth the
    mean of its trainings' metric; what is better is larger, also for the pruner, which sees the loss with its sign
    turned, after each evaluation of the setting's first training.
    """

    def __init__(self, folder: Path, planned: Planned) -> None:
        """Open the study, or begin it. Raises PreflightError without Optuna, RunFolderError for a damaged storage."""
        try:
            import optuna
            import optuna.storages.journal
        except ImportError:
            hint = "pip install 'orch-finetune[sweep]', or search by --random N"
            raise PreflightError("--optuna needs Optuna, which is not installed", hint=hint) from None
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna, self._count, self._choices = optuna, planned.optuna or 0, planned.parameters
        self._sign = 1 if planned.higher_is_better else -1
        path = folder / STORAGE
        try:
            storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(path)))
            self._study = optuna.create_study(
                study_name="sweep", storage=storage, direction="maximize", load_if_exists=True,
                sampler=optuna.samplers.TPESampler(seed=SEED), pruner=optuna.pruners.MedianPruner(),
            )  # fmt: skip
        except Exception as error:  # whatever its parser stumbles over
            hint = "remove it: it is made anew from sweep.json"
            message = f"Optuna's storage cannot be read: {type(error).__name__}: {error}"
            raise RunFolderError(message, hint=hint, where=Where(str(path))) from error

    def _distribution(self, choices: Choices) -> Any:
        kinds = self._optuna.distributions
        if not isinstance(choices, Range):
            return kinds.CategoricalDistribution([json.dumps(value) for value in choices])
        kind = kinds.IntDistribution if choices.is_whole else kinds.FloatDistribution
        return kind(choices.low, choices.high, log=choices.log)

    def _read(self, params: Mapping[str, Any]) -> Setting:
        return {
            key: params[key] if isinstance(one, Range) else json.loads(params[key])
            for key, one in self._choices.items()
        }

    def ask(self, sweep: Sweep) -> Setting | None:
        """Return the next setting, None after the last one. One that a killed sweep had asked for is taken first."""
        settings = sweep.settings()
        create, state = self._optuna.trial.create_trial, self._optuna.trial.TrialState
        distributions = {key: self._distribution(choices) for key, choices in self._choices.items()}
        for trials in settings[len(self._study.trials) :]:  # its storage was removed
            params = {
                key: trials[0].set[key] if isinstance(one, Range) else json.dumps(trials[0].set[key])
                for key, one in self._choices.items()
            }
            self._study.add_trial(create(state=state.RUNNING, params=params, distributions=distributions))
            self.tell(sweep, trials[0].setting)
        if len(settings) >= self._count:
            return None
        known = self._study.trials
        if len(known) > len(settings):
            return self._read(known[len(settings)].params)
        return self._read(self._study.ask(distributions).params)

    def tell(self, sweep: Sweep, setting: int) -> None:
        """Say what a setting came to, once all of its trainings are over."""
        trials = sweep.settings()[setting]
        if not all(map(is_over, trials)):
            return
        state = self._optuna.trial.TrialState
        values = [trial.metric for trial in trials if trial.state == DONE and trial.metric is not None]
        if values:
            self._study.tell(setting, self._sign * sum(values) / len(values), skip_if_finished=True)
        else:
            pruned = any(trial.state == PRUNED for trial in trials)
            self._study.tell(setting, state=state.PRUNED if pruned else state.FAIL, skip_if_finished=True)

    def follow(self, sweep: Sweep, trial: Trial, interrupts: Interrupts) -> Pruner | None:
        """Return what prunes a training; None for the further ones of a setting."""
        if sweep.settings()[trial.setting][0] is not trial:
            return None
        found = self._study.trials[trial.setting]
        return Pruner(self._optuna.trial.Trial(self._study, found._trial_id), interrupts)  # noqa: SLF001


@dataclass
class Pruner:
    """Hears a training's validation losses, and has the supervisor stop it where they promise nothing.

    It reports to Optuna's `trial`, and stops by counting one of the `interrupts`.
    """

    trial: Any
    interrupts: Interrupts
    count: int = 0
    why: str | None = None

    def __call__(self, event: Event) -> None:
        """Take in one event."""
        if not isinstance(event, Message) or TRAIN not in event.stage or self.why:
            return
        if found := _EVAL_LOSS.search(event.text):
            self.count += 1
            loss = float(found[1])
            self.trial.report(-loss, self.count)
            if self.trial.should_prune():
                self.why = f"validation loss {loss:.4g} after evaluation {self.count}: the median was better"
                self.interrupts.count += 1
