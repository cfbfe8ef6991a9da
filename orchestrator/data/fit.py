"""Whether the loss can learn from the data: a training that would end without an error and learn nothing is refused."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from struct import Struct
from typing import Literal

from orchestrator.data.digests import DigestMap, DigestSet, digest, document_key, query_key
from orchestrator.data.forms import find_sides, find_targets
from orchestrator.data.ledger import Findings
from orchestrator.data.reasons import Fault, RepeatedProblems, problem_of
from orchestrator.data.rows import records
from orchestrator.data.rows.records import RELEVANT, LabelledGroup, RankingGroup, Record, ScoredPair, draw_documents
from orchestrator.data.rows.texts import build_fault
from orchestrator.errors import Problem, Where
from orchestrator.recipe.losses import COMPARED, LISTS, MARGINS, LossType, find_loss_of_form

Target = Literal["label", "teacher"]
_DIVIDE = "orch data convert --divide-score 5"
_TWO_CLASSES = "name two classes or more, each of two texts or more"
_OTHERS = "labels 0 and 1: contrastive or online_contrastive; other scores: cosine_similarity"


@dataclass(frozen=True)
class LossRequirements:
    """What the trainer's settings ask of the training rows.

    Of labelled groups: `target` is what is learnt, `form` how the rows are written, and of a group with more than
    `group_size` documents so many are drawn by `seed`.
    """

    loss: str | None = None
    in_batch_negatives: bool = True
    hard_negatives: int | None = None
    max_positives: int | None = None
    max_negatives: int | None = None
    graded: bool = False
    target: Target = "label"
    form: str | None = None
    group_size: int | None = None
    seed: int = 42
    translations: bool = False
    num_labels: int | None = None


class LossFit:
    """Looks at every training and validation row, and says at the end what does not fit."""

    def __init__(self, requirements: LossRequirements, *, takes_scores: bool = True) -> None:
        """Start with nothing seen; `takes_scores`: the form has a place for teacher scores."""
        self._required = requirements
        self.loss: LossType | None = find_loss_of_form(requirements.loss, requirements.form)
        self._takes_scores = takes_scores
        self._misfits = RepeatedProblems()
        self._labels: set[float] = set()
        self._classes: dict[str, int] = {}  # of each class how many texts it has
        self._scored = False
        self._bare = RepeatedProblems()  # rows without negatives
        self._has_negatives = False

    @property
    def takes_batch(self) -> bool:
        """Whether the other rows of a batch are negatives."""
        return self.loss is not None and self.loss.in_batch and self._required.in_batch_negatives

    def find_fault(self, record: Record) -> Fault | None:
        """Return why this one row must be left out, or None."""
        loss = self.loss
        if isinstance(record, LabelledGroup) and self._required.loss == "listwise_ce" and not self._required.graded:
            if (relevant := len(find_sides(record)[0])) == 1:
                return None
            what = f"{relevant} relevant documents (label {RELEVANT:g} or more)"
            return build_fault("not-one-relevant", f"the query has {what}, and listwise_ce takes one")
        if not isinstance(record, RankingGroup):
            return None
        if loss and loss.most_positives == 1 and len(record.positives) > 1:
            message = f"the row has {len(record.positives)} positives; swift trains on the first and ignores the others"
            return build_fault("several-positives", message)
        if loss and loss.needs_negatives and not record.negatives:
            why = f"{loss.name} needs one" if loss.exact_negatives else "a list of one has no order"
            return build_fault("no-negative", f"the row has no negatives, and {why}")
        return None

    def find_useless(self, record: Record) -> tuple[str, str] | None:
        """Return the code and the sentence of a group from which nothing can be learnt, and no fault, or None."""
        if not isinstance(record, LabelledGroup):
            return None
        form, has_relevant = self._required.form, bool(find_sides(record)[0])
        if self.loss is not None and self.loss.answers:
            return None if has_relevant else ("one-side", "no document of the query is relevant")
        if form not in {LISTS, MARGINS}:
            return None
        if len(record.documents) == 1:
            return "one-document", "the query has one document, and there is nothing to compare it with"
        is_taught = form == LISTS and self._required.target == "teacher"
        targets = find_targets(record, "teacher") if is_taught else record.labels
        if len(set(targets)) == 1:
            what = "teacher score" if is_taught else "label"
            return "one-label", f"all documents of the query have the {what} {targets[0]:g}"
        if form == MARGINS and not all(find_sides(record)):
            return "one-side", f"the labels of the query's documents all lie on one side of {RELEVANT:g}"
        return None

    def draw(self, path: str, record: Record, findings: Findings) -> Record:
        """Return the record with no more documents than a group of the trainer takes."""
        size = self._required.group_size
        if size is None or not isinstance(record, LabelledGroup) or len(record.documents) <= size:
            return record
        message = f"queries with more than {size} documents: {{n}}; {size} of each are drawn"
        findings.warn("documents-drawn", message, example=f"{path}:{record.line}")
        return draw_documents(record, size, self._required.seed)

    def note_labels(self, record: Record) -> None:
        """Look at the labels of one training row, kept or over a limit: the whole data are to have two."""
        contrasts = self.loss is not None and self.loss.contrasts
        if isinstance(record, ScoredPair):
            if len(self._labels) <= 1 and contrasts:
                self._labels.add(record.score)
        elif isinstance(record, records.ClassText):
            self._classes[record.label] = self._classes.get(record.label, 0) + 1
        elif isinstance(record, LabelledGroup):
            self._scored |= record.scores is not None
            if len(self._labels) <= 1 and contrasts:
                self._labels.update(find_targets(record, self._required.target))

    def note(self, path: str, record: Record, findings: Findings) -> None:
        """Look at one row that is kept."""
        for code, reason, remedy in self._find_misfits(record):
            problem = problem_of(code, reason, hint=remedy, where=Where(path, record.line))
            self._misfits.note((code, remedy), problem)  # not by the reason, which may hold the row's own score
        if isinstance(record, RankingGroup):
            self._note_group(path, record, findings)
        elif isinstance(record, LabelledGroup) and record.scores is not None:
            self._warn_scores(f"{path}:{record.line}", findings, "a loss of labels")

    def problems(self) -> list[Problem]:
        """Return one problem for each reason, at the first row that has it."""
        misfits = self._misfits.problems()
        # the columns of a batch are those that every row has
        bare = self._bare.problems() if self._has_negatives and not misfits else []
        lone = find_lone_texts(self._classes)
        classes = [problem_of("loss-misfit", lone, hint=_TWO_CLASSES)] if lone else []
        return [*misfits, *self._find_one_label(), *classes, *bare]

    def _find_one_label(self) -> list[Problem]:
        """Return that all training rows have one label, where the loss could only learn to say it always."""
        if len(self._labels) != 1:
            return []
        [label] = self._labels
        message = f"every training pair has the label {label:g}: {self._required.loss} has nothing to contrast"
        hint = "add documents with another label"
        if self._scored and self._required.target == "label":
            hint += ", or read the scores as labels: data.scores_as_labels: true (--scores-as-labels)"
        return [problem_of("one-label-only", message, hint=hint)]

    def _note_group(self, path: str, group: RankingGroup, findings: Findings) -> None:
        required, place = self._required, f"{path}:{group.line}"
        exact = self.loss is not None and self.loss.exact_negatives
        self._has_negatives |= bool(group.negatives)
        if exact and not group.negatives:
            reason = "the row has no negatives, and others have some: none could be used"
            remedy = "give every row as many (orch data mine), or leave them out of all"
            self._bare.note("", problem_of("loss-misfit", reason, hint=remedy, where=Where(path, group.line)))
        if group.positive_scores is not None:
            self._warn_scores(place, findings)
        if required.hard_negatives and not exact and 0 < len(group.negatives) < required.hard_negatives:
            message = f"rows with fewer negatives than {required.hard_negatives}: {{n}}; swift repeats some of theirs"
            findings.warn("few-negatives", message, example=place)
        limits = ((group.positives, required.max_positives), (group.negatives, required.max_negatives))
        if any(limit is not None and len(texts) > limit for texts, limit in limits):
            named = ((required.max_positives, "positives"), (required.max_negatives, "negatives"))
            shown = " and ".join(f"{limit} {what}" for limit, what in named if limit is not None)
            message = f"rows with more documents than a step takes ({shown}): {{n}}; swift draws anew in each epoch"
            findings.warn("documents-sampled", message, example=place)

    def _warn_scores(self, place: str, findings: Findings, what: str = "this trainer") -> None:
        if not self._takes_scores:
            message = f"rows with teacher scores, which {what} does not take: {{n}}"
            findings.warn("scores-not-used", message, example=place)

    def _find_misfits(self, record: Record) -> Iterator[tuple[str, str, str]]:
        """Yield (code, reason, remedy) of whatever makes the loss unfit for a row."""
        loss = self.loss
        if loss is None:
            return
        if isinstance(record, ScoredPair):
            yield from self._find_pair_misfits(loss, record.score)
        elif isinstance(record, RankingGroup):
            yield from self._find_group_misfits(loss, record)
        elif isinstance(record, LabelledGroup):
            if self._required.target == "teacher" and record.scores is not None and loss.scores is not None:
                low, high, why = loss.scores
                outside = next((score for score in record.scores if not low <= score <= high), None)
                if outside is not None:
                    reason = f"the row has the teacher score {outside:g}, and {loss.name} {why}"
                    yield "score-out-of-range", reason, "pointwise_mse, pairwise_ranknet and list_mle take any scores"
        elif not isinstance(record, records.ClassText):
            yield "loss-misfit", f"{loss.name} takes groups or pairs, and this is a conversation", "leave the loss out"

    def _find_pair_misfits(self, loss: LossType, score: float) -> Iterator[tuple[str, str, str]]:
        if "pair" not in loss.kinds:
            yield "loss-misfit", f"{loss.name} takes queries with documents, and this is a pair with a score", _OTHERS
        elif loss.labels == (1,):
            if score != 1:
                yield "loss-misfit", f"the row has the label {score:g}, which corrupts {loss.name}'s groups", _OTHERS
            yield from self._find_no_negatives(loss)
        elif loss.labels == (0, 1) and score not in {0, 1}:
            reason = f"the row has the label {score:g}, and {loss.name} knows 0 and 1 only"
            advice = "cosine_similarity fits scores between -1 and 1"
            if not -1 <= score <= 1:  # a class of NLI, or a score from 0 to 5
                advice = f"write 1 for texts that belong together and 0 for others; of scores, {advice}: {_DIVIDE}"
            yield "loss-misfit", reason, advice
        elif self._required.num_labels and score not in range(self._required.num_labels):
            reason = f"the row has the label {score:g}, and the classes are 0 to {self._required.num_labels - 1}"
            yield "loss-misfit", reason, "number the classes from 0, or say how many there are: loss.num_labels"
        elif loss.name == "cosine_similarity" and not -1 <= score <= 1:
            reason = "the row's score lies outside -1 to 1, where no cosine can be"
            yield "score-out-of-range", f"{reason} ({score:g})", _DIVIDE

    def _find_group_misfits(self, loss: LossType, group: RankingGroup) -> Iterator[tuple[str, str, str]]:
        if "group" not in loss.kinds:
            reason = f"{loss.name} learns from labels, and the row has none"
            fitting = "mnrl" if loss.form == COMPARED else "infonce"
            yield "loss-misfit", reason, f"{fitting} fits queries with positives and negatives"
        elif self._required.translations and group.negatives:
            reason = "with translations the texts of a row mean the same, and the row has negatives"
            yield "loss-misfit", reason, "remove neg from the rows, or translations from the loss"
        elif loss.exact_negatives:
            asked, has = self._required.hard_negatives or 0, len(group.negatives)
            if has < asked:
                reason = f"the row has {has} negatives, and hard_negatives asks for {asked}"
                yield "loss-misfit", reason, "lower hard_negatives, or add negatives: orch data mine"
        elif loss.in_batch and not group.negatives:
            yield from self._find_no_negatives(loss)

    def _find_no_negatives(self, loss: LossType) -> Iterator[tuple[str, str, str]]:
        if loss.exact_negatives:
            if self._required.hard_negatives:
                reason = f"a pair has no negatives, and hard_negatives asks for {self._required.hard_negatives}"
                yield "loss-misfit", reason, "remove hard_negatives: the batch's other texts are negatives"
            return
        if not self._required.in_batch_negatives:
            reason = f"the row has no negatives, and {loss.name} may not take those of its batch: loss 0, gradient 0"
            yield "loss-misfit", reason, "use in-batch negatives (INFONCE_USE_BATCH), or add negatives to every row"
        elif self._required.hard_negatives:  # swift/loss/embedding.py: assert negatives > 0
            reason = f"the row has no negatives, and with INFONCE_HARD_NEGATIVES {loss.name} needs one at least"
            yield "loss-misfit", reason, "unset INFONCE_HARD_NEGATIVES, or add negatives to every row"


def find_lone_texts(classes: Mapping[str, int]) -> str | None:
    """Return that texts have no other one of their class to be drawn to, or no other class to be parted from, or None.

    `classes` says how many training texts each class has.
    """
    lone = [label for label, count in classes.items() if count == 1]
    if len(classes) != 1 and not lone:
        return None
    return f"of {len(classes)} classes {len(lone)} have one training text: {', '.join(lone[:5]) or 'none'}"


def explain_unmeasurable(record: Record, *, corpus: bool) -> str | None:
    """Return the warning about a query that all models rank equally well, or None; in it {n} counts the queries."""
    if isinstance(record, RankingGroup) and not record.negatives and not corpus:
        return "eval queries without a negative: {n}; any model ranks them perfectly"
    if not isinstance(record, LabelledGroup):
        return None
    if corpus:
        return None if record.answers else "eval queries without a relevant document: {n}; no model finds any"
    if len(set(record.labels)) == 1:
        return "eval queries whose documents all have one label: {n}; every model ranks them alike"
    return None


_PAIR = Struct("<QQ")  # as long as a digest
# decisions/0029
REFUSED_SHARE = 0.05
WARNED_SHARE = 0.005


class InBatchNegatives:
    """Counts how many of a batch's other documents would be answers too, where a loss takes them for wrong ones.

    `infonce` takes every document of the batch's other rows as a negative of a row's query. Where few positives serve
    many rows, as with labels of a classification, or where a query stands in many rows, a good part of these negatives
    answers the query. Neither ms-swift's sampler nor its mask for fake negatives keeps them out: the mask leaves out
    what scores above the positive, and the positive itself scores as high as it does (swift/loss/embedding.py, 4.6.0).
    It takes some 100 bytes a document and 150 a row.
    """

    def __init__(self, loss: LossType) -> None:
        self.loss = loss
        self._documents, self._queries = DigestMap(), DigestMap()
        self._met = array("Q")  # of each document, how often it stands in a row
        self._rows = array("Q")  # of each query, in how many rows it stands
        self._pairs_seen = DigestSet()
        self._pairs = array("Q")  # a query's number, its positive's number, and so on: each pair once
        self._without_negatives = 0

    def add(self, record: Record) -> None:
        """Count one row: its query, its one positive, its negatives."""
        if isinstance(record, RankingGroup):
            query, positive, negatives = record.query, record.positives[0], record.negatives
        elif isinstance(record, ScoredPair):
            query, positive, negatives = record.text1, record.text2, ()
        else:
            return
        self._without_negatives += not negatives
        number = self._count(self._queries, self._rows, digest((query_key(query),)))
        answer = self._count(self._documents, self._met, digest((document_key(positive),)))
        for text in negatives:
            self._count(self._documents, self._met, digest((document_key(text),)))
        if self._pairs_seen.add(_PAIR.pack(number, answer)):
            self._pairs.extend((number, answer))

    @staticmethod
    def _count(numbers: DigestMap, counts: array[int], key: bytes) -> int:
        number = numbers.put(key, len(counts))
        if number == len(counts):
            counts.append(0)
        counts[number] += 1
        return number

    @property
    def share(self) -> float:
        """The expected share, among the documents of a row's batch that are not its own, of those that answer it.

        Every row is as likely in a batch as any other. Of two rows, each document of the one answers the query of the
        other where some row has it as a positive of that query.
        """
        rows, documents = sum(self._rows), sum(self._met)
        if rows < 2:  # noqa: PLR2004 - a batch of one
            return 0.0
        pairs = zip(self._pairs[::2], self._pairs[1::2], strict=True)
        answers = sum(self._rows[query] * self._met[document] for query, document in pairs)
        return (answers - rows) / (documents * (rows - 1))  # without each row's own positive, and its own documents

    def finish(self, findings: Findings) -> list[Problem]:
        """Return the problem of data whose share is too large; warn of one that is not small."""
        share = self.share
        if share < WARNED_SHARE:
            return []
        positives = len({*self._pairs[1::2]})
        what = (
            f"{share:.1%} of the negatives that {self.loss.name} takes from a row's batch answer its query: "
            f"{sum(self._rows)} rows have {positives} different positives and {len(self._rows)} different queries"
        )
        if share < REFUSED_SHARE:
            if self.loss.exact_negatives:  # its sampler keeps what a batch has already out of it
                return []
            findings.warn("some-false-negatives", what)
            return []
        hint = "labels of a classification: pairs with labels 1 and 0, and loss: contrastive"
        if self.loss.exact_negatives:
            hint += "; or give every row negatives (orch data mine), and loss: triplet"
        elif self._without_negatives:
            hint += "; or give every row negatives (orch data mine), and loss: {type: infonce, use_batch: false}"
        else:
            hint = f"loss: {{type: infonce, use_batch: false}} learns from each row's own negatives; {hint}"
        return [problem_of("false-negatives", what, hint=hint)]
