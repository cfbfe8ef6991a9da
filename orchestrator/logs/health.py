"""Logged losses → what is wrong with the training, if anything: it has diverged, or it learns nothing.

A trainer of Hugging Face replaces NaN losses in its log (`logging_nan_inf_filter`), so a diverged training shows loss 0
for ever and ends with exit code 0; the gradient norm tells the truth where it is logged. It also rounds: a tiny loss is
logged as 0 beside a gradient that is not, and that training is well.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

from orchestrator.logs.events import Step

ROUNDED_BELOW = 0.01  # transformers logs losses with 4 digits: one that has come below this may be 0 at the next report
GRADIENT_REPORTS = 20  # infinite gradients alone: fp16's loss scaling begins with some, and skips these steps
# A loss is flat late only: with a new head, and in warm-up, every training begins there. A model that tells documents
# apart at all has a loss that varies by more than this from report to report, whatever its mean.
FLAT_TOLERANCE = 0.005
FLAT_SHARE = 0.2  # of all steps: before this nothing is judged, and so long the loss must stay
FLAT_FACTOR = 4  # times `reports`
_GIVE_NEGATIVES = "give every row a negative, or let the other rows of a batch be negatives (loss: {use_batch: true})"
_LOWER = "start a new run with a lower learning_rate or a longer warm-up, max_grad_norm: 1.0, or in float32"


@dataclass(frozen=True)
class LossRules:
    """What the recipe asks for: `diverged` stop or warn, `flat` stop, warn or ignore, after so many `reports`."""

    diverged: str = "stop"
    flat: str = "warn"
    reports: int = 5
    flat_loss: float | None = None


@dataclass(frozen=True)
class LossProblem:
    """What the losses show. `kind`: diverged or flat; `stops`: the recipe wants the training ended for it."""

    kind: str
    message: str
    remedy: str
    stops: bool = False


@dataclass
class _Streak:
    """The newest reports in a row that show one thing, and the look at the log that brought the first of them."""

    reports: list[Step] = field(default_factory=list)
    since: int = 0

    def take(self, step: Step, look: int, *, shown: bool) -> None:
        """Lengthen the row by a report that shows it, or end it."""
        if not (shown and self.reports):
            self.reports, self.since = [step] if shown else [], look
        elif _is_behind(step, self.reports[-1]):
            self.reports.append(step)


class LossHealth:
    """Takes a training's logged steps one by one, and says each problem once, when it is certain."""

    def __init__(self, rules: LossRules) -> None:
        self._rules = rules
        self._bad = _Streak()  # without a usable loss
        self._wild = _Streak()  # without a finite gradient norm
        self._flat = _Streak()
        self._lowest = math.inf  # of the losses that were above 0
        self._said: set[str] = set()
        self._look = 0
        self._last: Step | None = None

    def remember(self, losses: Iterable[float]) -> None:
        """Take note of losses, also of earlier attempts: who goes on from there may have nothing left to learn."""
        self._lowest = min([self._lowest, *(loss for loss in losses if math.isfinite(loss) and loss > 0)])

    def add(self, step: Step, look: int | None = None) -> LossProblem | None:
        """Return what `step` brings to light.

        `look` counts the looks at the log: reports that all came in one may be a text that the trainer prints, so they
        count when the next look brings another one, or at the `end`. None: each report is a look of its own.
        """
        if step.loss is None:
            return None
        self._look = self._look + 1 if look is None else look
        self._last = step
        is_wild = step.grad_norm is not None and not math.isfinite(step.grad_norm)
        self._wild.take(step, self._look, shown=is_wild)
        self._bad.take(step, self._look, shown=self._is_bad(step.loss, step.grad_norm))
        self._flat.take(step, self._look, shown=self._is_flat(step))
        self.remember([step.loss])
        return self._find_problem()

    def _find_problem(self) -> LossProblem | None:
        if self._last is None or self._last.loss is None:
            return None
        return self._find_divergence(self._last, self._last.loss) or self._find_flatness()

    def end(self) -> LossProblem | None:
        """Return what the last reports show once no other can come."""
        self._look += 1
        return self._find_problem()

    def _is_bad(self, loss: float, grad_norm: float | None) -> bool:
        if not math.isfinite(loss):
            return True
        if loss != 0 or (grad_norm is not None and not math.isfinite(grad_norm)):
            return loss == 0
        if grad_norm is None:  # an old trainer, or max_grad_norm: 0
            return self._lowest > ROUNDED_BELOW
        return grad_norm == 0 and self._lowest == math.inf  # else rounded, or every row is fitted

    def _find_divergence(self, step: Step, loss: float) -> LossProblem | None:
        reports, stops = self._rules.reports, self._rules.diverged == "stop"
        bad, wild = self._bad.reports, self._wild.reports
        if len(bad) >= reports and (reports == 1 or self._bad.since < self._look) and "bad" not in self._said:
            remedy = _LOWER
            if bad[-1].loss == 0 and bad[-1].grad_norm == 0:
                remedy = _GIVE_NEGATIVES
            return self._say("bad", LossProblem("diverged", self._describe_bad(loss), remedy, stops))
        if len(wild) >= GRADIENT_REPORTS and self._wild.since < self._look and "wild" not in self._said:
            return self._say("wild", LossProblem("diverged", self._describe_wild(step), _LOWER, stops))
        if len(bad) == 1 and not math.isfinite(loss):
            message = f"the loss is {loss}{_at(step)}: the training seems to diverge"
            return self._say("first", LossProblem("diverged", message, _LOWER))
        if len(wild) == reports:
            return self._say("gradient", LossProblem("diverged", self._describe_wild(step), _LOWER))
        return None

    def _describe_bad(self, loss: float) -> str:
        bad, wild = self._bad.reports, self._wild.reports
        first = wild[0] if len(wild) > len(bad) else bad[0]  # NaN gradients come before the loss that is logged as 0
        since = f"{_at(first)} on, in {len(bad)} reports" if first.step is not None else f"{_at(first)}"
        if not math.isfinite(loss):
            return f"the loss is {loss}{since}: the training has diverged"
        if wild:
            return f"the loss is logged as 0 with a gradient norm of {wild[-1].grad_norm}{since}: it is NaN"
        if bad[-1].grad_norm == 0:
            return f"the loss and its gradient are exactly 0{since}: nothing is learnt"
        return f"the loss is exactly 0{since}: NaN is logged so, and rows without a negative give it"

    def _describe_wild(self, step: Step) -> str:
        wild = self._wild.reports
        return f"the gradient norm is {step.grad_norm}{_at(wild[0])} on, in {len(wild)} reports: the training diverges"

    def _is_flat(self, step: Step) -> bool:
        level = self._rules.flat_loss
        if level is None or self._rules.flat == "ignore" or step.loss is None:
            return False
        if step.step is None or not step.max_steps or step.step < FLAT_SHARE * step.max_steps:
            return False
        return abs(step.loss - level) <= FLAT_TOLERANCE * level

    def _find_flatness(self) -> LossProblem | None:
        flat = self._flat.reports
        if len(flat) < FLAT_FACTOR * self._rules.reports or self._flat.since == self._look:
            return None
        first, last = flat[0], flat[-1]
        if (last.step or 0) - (first.step or 0) < FLAT_SHARE * (last.max_steps or 0):
            return None
        message = (
            f"the loss has stayed at {self._rules.flat_loss:.4g}{_at(first)} on, in {len(flat)} reports: that is "
            "the loss of a model that scores everything alike, so nothing is learnt"
        )
        remedy = (
            "raise learning_rate; with LoRA see that target_modules name layers of this model; look at the data: are "
            "the labels right, and do positives differ from negatives?"
        )
        return self._say("flat", LossProblem("flat", message, remedy, self._rules.flat == "stop"))

    def _say(self, what: str, problem: LossProblem) -> LossProblem | None:
        if what in self._said:
            return None
        self._said.add(what)
        return problem


def _is_behind(step: Step, last: Step) -> bool:
    """Tell whether a report stands behind the last one, as one that says where it stands must."""
    pairs = ((last.step, step.step), (last.epoch, step.epoch))
    known = [after > before for before, after in pairs if before is not None and after is not None]
    return any(known) or not known


def _at(step: Step) -> str:
    rate = "" if step.learning_rate is None else f" (learning rate {step.learning_rate:.3g})"
    return rate if step.step is None else f" from step {step.step}{rate}"
