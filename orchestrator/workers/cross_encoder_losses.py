"""The losses of a cross-encoder in one table: the library's own, and the two over a query's documents that it lacks.

Rows of their three forms become columns for the trainer here, each fault with file and line; documents' parts shuffled.
To add one, write its line in `LOSSES`: which form of rows it reads, what makes its module, which settings it has, and
what of a row's labels it cannot learn from.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from orchestrator.workers.folders import parse_all_rows
from orchestrator.workers.settings import COUNT, FACTOR, is_number, one_of, or_null

if TYPE_CHECKING:
    from torch import Tensor


PAIRS, LISTS, MARGINS = "cross-encoder-pairs", "cross-encoder-lists", "cross-encoder-margins"
RELEVANT = 0.5  # a label of at least this counts as relevant where only yes or no is known
# LambdaLoss and ListMLELoss call the model once for so many documents as a batch has queries, unless this is given;
# 0 and less is all at once: one call a step, whose gradients DistributedDataParallel sums when the step ends
ALL_AT_ONCE = -1
PAIRS_AT_ONCE = 32  # of cached_mnrl, where nothing is said
_SCHEMES = {
    "none": "NoWeightingScheme",
    "ndcg1": "NDCGLoss1Scheme",
    "ndcg2": "NDCGLoss2Scheme",
    "ndcg2pp": "NDCGLoss2PPScheme",
    "lambdarank": "LambdaRankScheme",
}


@dataclass(frozen=True)
class LossSettings:
    """What is minimised; `pos_weight` None is 1, `k` None is no cutoff, `mini_batch_size` None is all documents."""

    type: str
    graded: bool = False
    activation: Annotated[str, one_of("identity", "sigmoid")] = "identity"
    pos_weight: Annotated[float | None, or_null(FACTOR)] = None
    k: Annotated[int | None, or_null(COUNT)] = None
    weighting: Annotated[str, one_of(*_SCHEMES)] = "ndcg2pp"
    alpha: Annotated[float, FACTOR] = 1.0
    num_negatives: Annotated[int, COUNT] = 4
    scale: Annotated[float, FACTOR] = 10.0
    mini_batch_size: Annotated[int | None, or_null(COUNT)] = None


Labels = Sequence[float]
Formula = Callable[["Tensor", "Tensor", LossSettings], "Tensor"]
Build = Callable[[Any, LossSettings], Any]  # a CrossEncoder of one label, settings → the torch module of the loss


@dataclass(frozen=True)
class Loss:
    """One loss; `check` says what of a row's labels cannot be learnt from, or None.

    `answers`: the library's module reads columns of texts, a query, its answer and negatives, in place of lists.
    """

    form: str
    build: Build
    settings: tuple[str, ...] = ()
    check: Callable[[Labels, LossSettings], str | None] = field(default=lambda _labels, _settings: None)
    answers: bool = False


def _check_probabilities(labels: Labels, _settings: LossSettings) -> str | None:
    bad = [label for label in labels if not 0 <= label <= 1]
    return f"label is {bad[0]:g}; pointwise_bce learns probabilities, from 0 to 1" if bad else None


def _check_order(labels: Labels, settings: LossSettings) -> str | None:
    if any(first < second for first, second in pairwise(labels)):
        return f"{settings.type} learns the order of the documents, and they are not sorted by label, highest first"
    return None


def _check_answer(labels: Labels, settings: LossSettings) -> str | None:
    if labels[0] >= RELEVANT and all(label < RELEVANT for label in labels[1:]):
        return None
    return f"{settings.type} learns from one relevant document, the first, and others behind it"


def _check_distribution(labels: Labels, settings: LossSettings) -> str | None:
    if settings.graded:
        if min(labels) < 0 or not sum(labels) > 0:
            return "labels are read as a distribution: none may be below 0, and one must be above"
        return None
    relevant = sum(label >= RELEVANT for label in labels)
    if relevant != 1:
        return f"{relevant} documents are relevant; listwise_ce needs exactly one, or loss.graded: true"
    return None


def of_library(name: str) -> Build:
    """Return what makes the library's loss of this class; the settings of a loss are options of it."""

    def build(model: Any, settings: LossSettings) -> Any:
        import torch
        from sentence_transformers.cross_encoder import losses

        loss = LOSSES[settings.type]
        options = {key: getattr(settings, key) for key in loss.settings}
        if options.get("pos_weight") is not None:
            options["pos_weight"] = torch.tensor(float(options["pos_weight"]))
        if "activation" in options:
            sigmoid = options.pop("activation") == "sigmoid"
            options["activation_fn"] = torch.nn.Sigmoid() if sigmoid else torch.nn.Identity()
        if "weighting" in options:
            options["weighting_scheme"] = getattr(losses.lambda_loss, _SCHEMES[options.pop("weighting")])()
        if "mini_batch_size" in options:
            options["mini_batch_size"] = settings.mini_batch_size or (PAIRS_AT_ONCE if loss.answers else ALL_AT_ONCE)
        return getattr(losses, name)(model, **options)

    return build


def ranknet(scores: Tensor, labels: Tensor, _settings: LossSettings) -> Tensor:
    """Return the sum over pairs with r_i < r_j of (r_j - r_i) · log(1 + exp(s_i - s_j)).

    Scores and labels of one query have the shape (documents,). RankNet (Burges et al. 2005,
    https://icml.cc/Conferences/2005/proceedings/papers/012_LearningToRank_BurgesEtAl.pdf) with each pair weighted by
    how far apart its labels are; equal labels make no pair.
    """
    from torch.nn.functional import softplus

    gaps = labels[None, :] - labels[:, None]  # [i, j]: r_j - r_i
    losses = softplus(scores[:, None] - scores[None, :])
    return (gaps.clamp(min=0) * losses).sum()


def listwise_softmax(scores: Tensor, labels: Tensor, settings: LossSettings) -> Tensor:
    """Return the cross-entropy of softmax(s) with the one positive, which is the document of the highest label.

    `graded`: with the labels divided by their sum (labels ≥ 0, one of them above).
    """
    from torch.nn.functional import cross_entropy

    target = labels / labels.sum() if settings.graded else labels.argmax()
    return cross_entropy(scores[None], target[None])


def of_formula(formula: Formula) -> Build:
    """Return what makes a loss of a formula over one query's documents: the mean over queries.

    The module's inputs are those of the library's list losses: queries, lists of documents of any length, and lists of
    labels. All documents of a batch pass the model at once, which is what DistributedDataParallel expects of a step.
    """

    def build(model: Any, settings: LossSettings) -> Any:
        import torch
        from sentence_transformers.util import batch_to_device

        class ListLoss(torch.nn.Module):  # type: ignore[misc]  # the trainer takes nothing but modules
            """Holds the model under the name by which the trainer replaces it with the distributed one."""

            def __init__(self) -> None:
                super().__init__()
                self.model = model

            def forward(
                self, inputs: list[Any], labels: list[Tensor], prompt: str | None = None, task: str | None = None
            ) -> Tensor:
                queries, lists = inputs
                pairs = [(query, text) for query, texts in zip(queries, lists, strict=True) for text in texts]
                features = batch_to_device(self.model.preprocess(pairs, prompt=prompt, task=task), self.model.device)
                # float32 also under autocast: differences of half precision scores are too coarse
                scores = self.model(features)["scores"].view(-1).float().split([len(texts) for texts in lists])
                truths = [truth.to(own.device).float() for own, truth in zip(scores, labels, strict=True)]
                losses = [formula(own, truth, settings) for own, truth in zip(scores, truths, strict=True)]
                return torch.stack(losses).mean()

            def get_config_dict(self) -> dict[str, str]:
                """Return what the model card says of the loss."""
                return {"formula": formula.__name__}

        return ListLoss()

    return build


_ANSWERS = ("num_negatives", "scale", "activation")
LOSSES = {
    "pointwise_bce": Loss(PAIRS, of_library("BinaryCrossEntropyLoss"), ("pos_weight",), _check_probabilities),
    "pointwise_mse": Loss(PAIRS, of_library("MSELoss"), ("activation",)),
    "pairwise_ranknet": Loss(LISTS, of_formula(ranknet)),
    "listwise_ce": Loss(LISTS, of_formula(listwise_softmax), ("graded",), _check_distribution),
    "lambda_loss": Loss(LISTS, of_library("LambdaLoss"), ("k", "weighting", "mini_batch_size")),
    "list_mle": Loss(LISTS, of_library("ListMLELoss"), ("mini_batch_size",), _check_order),
    "plist_mle": Loss(LISTS, of_library("PListMLELoss"), ("mini_batch_size",), _check_order),
    "list_net": Loss(LISTS, of_library("ListNetLoss"), ("mini_batch_size",)),
    "adr_mse": Loss(LISTS, of_library("ADRMSELoss"), ("alpha", "mini_batch_size")),
    "mnrl": Loss(LISTS, of_library("MultipleNegativesRankingLoss"), _ANSWERS, _check_answer, answers=True),
    "cached_mnrl": Loss(
        LISTS, of_library("CachedMultipleNegativesRankingLoss"), (*_ANSWERS, "mini_batch_size"), _check_answer,
        answers=True,
    ),
    "margin_mse": Loss(MARGINS, of_library("MarginMSELoss"), ("activation",)),
}  # fmt: skip


# the order of the keys is the order of the columns, which the losses go by
KEYS = {
    PAIRS: ("query", "document", "label"),
    LISTS: ("query", "documents", "labels"),
    MARGINS: ("query", "positive", "negative", "label"),
}
TEXTS = {PAIRS: ("document",), LISTS: ("documents",), MARGINS: ("positive", "negative")}
SHUFFLED_FROM_CHARS = 100  # FlagEmbedding/abc/finetune/reranker/AbsDataset.py: a document of more is cut
SHUFFLED_ORDERS = ((0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))


@dataclass(frozen=True)
class Rows:
    """The columns of a file in its order, all of one length; `shuffled` counts documents whose parts changed places."""

    columns: dict[str, list[Any]]
    form: str
    shuffled: int = 0

    @property
    def count(self) -> int:
        """How many rows there are."""
        return len(self.columns["query"])

    @property
    def documents(self) -> int:
        """How many documents there are, in all rows together."""
        return sum(len(documents) for _, documents, _ in self.lists())

    def answers(self) -> dict[str, list[str]]:
        """Return columns of one text each: query, answer, and as many negatives as every row has."""
        lists = self.columns["documents"]
        names = ["positive", *(f"negative_{place}" for place in range(1, min(map(len, lists))))]
        return {"query": self.columns["query"]} | {
            name: [documents[place] for documents in lists] for place, name in enumerate(names)
        }

    def describe(self, side: str) -> str:
        """Return the log's line about what was loaded."""
        documents = f" with {self.documents} documents" if self.form == LISTS else ""
        shuffled = f", the parts of {self.shuffled} documents changed places" if self.shuffled else ""
        return f"{side}: {self.count} rows{documents}, {len(set(self.columns['query']))} queries{shuffled}"

    def lists(self) -> Iterator[tuple[str, list[str], list[float]]]:
        """Yield query, documents and labels of every row; a positive has the label 1, a negative 0."""
        for query, *texts in zip(*self.columns.values(), strict=True):
            if self.form == LISTS:
                yield query, *texts
            elif self.form == PAIRS:
                yield query, texts[:1], texts[1:]
            else:
                yield query, texts[:2], [1.0, 0.0]


def load_rows(path: Path, loss: LossSettings) -> Rows:
    """Return a file's rows, labels as floats. Raises WorkerError with the first bad lines."""
    form = LOSSES[loss.type].form
    rows = parse_all_rows(path, lambda row: parse_row(row, form, loss))
    return Rows({key: [row[key] for row in rows] for key in KEYS[form]}, form)


def parse_row(row: Any, form: str, loss: LossSettings) -> dict[str, Any]:
    """Return the row of a line's JSON. Raises ValueError, which says what is wrong with it."""
    if not isinstance(row, dict) or set(row) != set(KEYS[form]):
        raise ValueError(f"a row of {form} is an object of {', '.join(KEYS[form])}")
    if form == LISTS and not (isinstance(row["documents"], list) and row["documents"]):
        raise ValueError("documents must be a list of at least one text")
    listed = {f"documents[{place}]": text for place, text in enumerate(row.get("documents", ()))}
    for name, text in {"query": row["query"], **(listed or {key: row[key] for key in TEXTS[form]})}.items():
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{name} must be a text that is not empty")
    key = "labels" if form == LISTS else "label"
    labels = row[key] if form == LISTS else [row[key]]
    if not isinstance(labels, list) or (form == LISTS and len(labels) != len(row["documents"])):
        raise ValueError(f"labels must be a list of {len(row['documents'])} numbers, one a document")
    if bad := [label for label in labels if not is_number(label) or not math.isfinite(label)]:
        raise ValueError(f"{key} {'hold' if form == LISTS else 'is'} {bad[0]!r}; it must be a finite number")
    labels = [float(label) for label in labels]
    if problem := LOSSES[loss.type].check(labels, loss):
        raise ValueError(problem)
    return {**row, key: labels if form == LISTS else labels[0]}


def shuffle_parts(rows: Rows, ratio: float, seed: int) -> Rows:
    """Return the rows with the thirds of some documents in another order, as FlagEmbedding's `shuffle_ratio`.

    Each document of more than 100 characters is drawn with probability `ratio`, once and for the whole training. Unlike
    FlagEmbedding's, the new order is never the old one, so that what is counted was changed.
    """
    if not ratio:
        return rows
    draw = random.Random(seed)  # noqa: S311  no secret
    shuffled = 0

    def change(text: str) -> str:
        nonlocal shuffled
        if len(text) <= SHUFFLED_FROM_CHARS or draw.random() >= ratio:
            return text
        shuffled += 1
        size = len(text) // 3 + 1
        parts = [text[start : start + size] for start in range(0, len(text), size)]
        return " ".join(parts[index] for index in draw.choice(SHUFFLED_ORDERS))

    columns = dict(rows.columns)
    for key in TEXTS[rows.form]:
        columns[key] = [
            [change(text) for text in value] if rows.form == LISTS else change(value) for value in rows.columns[key]
        ]
    return replace(rows, columns=columns, shuffled=shuffled)


def build_ranking_samples(rows: Rows) -> list[dict[str, Any]]:
    """Return CrossEncoderRerankingEvaluator's samples: queries with both relevant and other documents.

    Rows of one query are put together. There are none where a label lies outside [0, 1]: a teacher's scores say nothing
    of what is relevant.
    """
    relevant: dict[str, dict[str, None]] = {}
    others: dict[str, dict[str, None]] = {}
    for query, documents, labels in rows.lists():
        for document, label in zip(documents, labels, strict=True):
            if not 0 <= label <= 1:
                return []
            (relevant if label >= RELEVANT else others).setdefault(query, {})[document] = None
    return [
        {"query": query, "positive": list(documents), "negative": list(others[query])}
        for query, documents in relevant.items()
        if query in others
    ]
