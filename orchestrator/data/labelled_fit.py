"""What the losses of cross-encoders ask of a labelled group, and which groups they can learn nothing from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from orchestrator.data.reasons import Fault
from orchestrator.data.rows.labelled import LabelledGroup
from orchestrator.data.rows.texts import build_fault
from orchestrator.data.writing.cross_encoder_rows import find_sides, find_targets
from orchestrator.recipe.relevance import RELEVANT

Target = Literal["label", "teacher"]
PAIRS, LISTS, MARGINS = "cross-encoder-pairs", "cross-encoder-lists", "cross-encoder-margins"
# Loss → the form of rows that it reads.
LOSS_FORMS = {
    "pointwise_bce": PAIRS,
    "pointwise_mse": PAIRS,
    "pairwise_ranknet": LISTS,
    "listwise_ce": LISTS,
    "lambda_loss": LISTS,
    "list_mle": LISTS,
    "margin_mse": MARGINS,
}
# What a teacher's scores must be where they stand in for labels: the lowest, the highest, and why.
_BOUNDS: dict[str, tuple[float, float, str]] = {
    "pointwise_bce": (0, 1, "learns a probability, from 0 to 1"),
    "listwise_ce": (0, float("inf"), "makes a distribution of them, and none may be negative"),
    "lambda_loss": (0, float("inf"), "takes 2 to their power as gain, and none may be negative"),
}


def find_useless(group: LabelledGroup, form: str | None, target: Target) -> tuple[str, str] | None:
    """Return the code and the sentence of a group that a list or margin loss can learn nothing from, or None."""
    if form not in {LISTS, MARGINS}:
        return None
    if len(group.documents) == 1:
        return "one-document", "the query has one document, and there is nothing to compare it with"
    if form == LISTS:
        targets = find_targets(group, target)
        if len(set(targets)) == 1:
            what = "label" if target == "label" else "teacher score"
            return "one-label", f"all documents of the query have the {what} {targets[0]:g}"
        return None
    if len(set(group.labels)) == 1:
        return "one-label", f"all documents of the query have the label {group.labels[0]:g}"
    if not all(find_sides(group)):
        return "one-side", f"the labels of the query's documents all lie on one side of {RELEVANT:g}"
    return None


def find_relevant_fault(group: LabelledGroup, loss: str | None, *, graded: bool) -> Fault | None:
    """Return the fault of a group without exactly one relevant document, where the loss asks for that."""
    if loss != "listwise_ce" or graded:
        return None
    relevant = len(find_sides(group)[0])
    if relevant == 1:
        return None
    message = f"the query has {relevant} relevant documents (label {RELEVANT:g} or more), and listwise_ce takes one"
    return build_fault("not-one-relevant", message)


def find_score_misfits(group: LabelledGroup, loss: str, target: Target) -> Iterator[tuple[str, str, str]]:
    """Yield (code, reason, remedy) where the teacher's scores cannot be what the loss learns."""
    if target != "teacher" or group.scores is None or loss not in _BOUNDS:
        return
    low, high, why = _BOUNDS[loss]
    outside = next((score for score in group.scores if not low <= score <= high), None)
    if outside is not None:
        reason = f"the row has the teacher score {outside:g}, and {loss} {why}"
        yield "score-out-of-range", reason, "pointwise_mse, pairwise_ranknet and list_mle take any scores"
