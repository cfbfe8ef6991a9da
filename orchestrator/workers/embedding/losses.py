"""The losses of an embedding model in one table: which class of the library each is, its rows and its settings.

Rows of their forms become columns for the trainer here, each fault with file and line; and what evaluates them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from pkgutil import resolve_name
from typing import Annotated, Any

from orchestrator.workers.environment import weight_options
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.folders import parse_all_rows
from orchestrator.workers.settings import AMOUNT, COUNT, FACTOR, TEXT, Rule, is_number, one_of, or_null, parse_settings
from orchestrator.workers.whole_weights import VECTORS, require_whole

GROUPS, SCORES, COMPARED = "embedding-groups", "embedding-scores", "embedding-pairs"
CLASSES = "embedding-classes"
_SIZES = Rule(
    "must be an object of sizes of vectors and their weights",
    lambda value: isinstance(value, dict) and bool(value) and all(str(size).isdigit() for size in value),
)
_LAYERS = "n_layers_per_step"
_AROUND = ("matryoshka_dims", _LAYERS)  # what the library's losses around others take
_SUM = ("plus", "weight")
_PARTS = Rule("must be a list of losses", lambda value: isinstance(value, list) and bool(value))


@dataclass(frozen=True)
class LossSettings:
    """What is minimised; of each loss only its own settings are read.

    `hard_negatives` None is as many as every row has, `matryoshka_dims` None the full vector only, `n_layers_per_step`
    None the last layer only. `guide` is a hub id or a folder. With `translations` the texts of a row mean the same.
    `plus` are losses that are added, each times its `weight`.
    """

    type: str
    scale: Annotated[float, FACTOR] = 20.0
    temperature: Annotated[float, FACTOR] = 1.0
    margin: Annotated[float, AMOUNT] = 0.0
    margin_strategy: Annotated[str, one_of("absolute", "relative")] = "absolute"
    distance_metric: Annotated[str, one_of("cosine", "euclidean", "manhattan")] = "cosine"
    similarity: Annotated[str | None, or_null(one_of("dot", "cosine"))] = None
    hard_negatives: Annotated[int | None, or_null(COUNT)] = None
    mini_batch_size: Annotated[int, COUNT] = 32
    guide: Annotated[str | None, or_null(TEXT)] = None
    contrast_anchors: bool = True
    contrast_positives: bool = True
    gather_across_devices: bool = False
    matryoshka_dims: Annotated[dict[str, float] | None, or_null(_SIZES)] = None
    n_layers_per_step: Annotated[int | None, or_null(COUNT)] = None
    translations: bool = False
    num_labels: Annotated[int | None, or_null(COUNT)] = None
    projection_dim: Annotated[int | None, or_null(COUNT)] = None
    mean_weight: Annotated[float, AMOUNT] = 1.0
    second_moment_weight: Annotated[float, AMOUNT] = 1.0
    aggregation: Annotated[str, one_of("mean", "sum")] = "mean"
    plus: Annotated[list[dict[str, Any]] | None, or_null(_PARTS)] = None
    weight: Annotated[float, FACTOR] = 1.0

    @property
    def added(self) -> list[LossSettings]:
        """The losses that are added. Raises WorkerError for settings that no loss has."""
        return [parse_settings(LossSettings, one, "loss.plus") for one in self.plus or ()]


Take = Callable[[LossSettings], Any]


@dataclass(frozen=True)
class Loss:
    """One loss: the library's class, the rows that it reads, and what of the settings each of its options takes.

    Settings that are not `elsewhere` are options of their own name. `vectors`: those of the guide are the labels.
    """

    name: str
    form: str
    settings: tuple[str, ...] = ()
    options: Mapping[str, Take] = field(default_factory=dict)
    in_batch: bool = False
    elsewhere: tuple[str, ...] = (
        "hard_negatives", "guide", *_AROUND, *_SUM, "distance_metric", "similarity", "translations",
    )  # fmt: skip
    vectors: bool = False

    def build(self, model: Any, settings: LossSettings) -> Any:
        """Return the torch module with what is added, within what trains sizes and layers.

        Raises WorkerError where it cannot.
        """
        from sentence_transformers.sentence_transformer import losses

        try:
            loss = self._make(model, settings)
            if self.form == CLASSES:  # keeps the model where the trainer does not look for one to share out
                del loss.sentence_embedder
            if settings.plus or self.form == CLASSES:
                parts = {one.type: (LOSSES[one.type]._make(model, one), one.weight) for one in settings.added}
                loss = add_losses(model, {settings.type: (loss, 1.0), **parts})
            sizes = {int(size): weight for size, weight in (settings.matryoshka_dims or {}).items()}
            around = [list(sizes), list(sizes.values())] if sizes else []
            if settings.n_layers_per_step is None:
                return losses.MatryoshkaLoss(model, loss, *around) if sizes else loss
            both = losses.Matryoshka2dLoss if sizes else losses.AdaptiveLayerLoss
            return both(model, loss, *around, n_layers_per_step=settings.n_layers_per_step)
        except ValueError as error:
            raise WorkerError(f"the loss {settings.type} is refused: {' '.join(str(error).split())}") from error

    def _make(self, model: Any, settings: LossSettings) -> Any:
        from sentence_transformers.sentence_transformer import losses

        options = {name: getattr(settings, name) for name in self.settings if name not in self.elsewhere}
        options |= {key: take(settings) for key, take in self.options.items()}
        if settings.guide is not None and not self.vectors:
            options["guide"] = load_guide(settings.guide, model)
        if settings.num_labels is not None:
            options["embedding_dimension"] = model.get_embedding_dimension()
        return getattr(losses, self.name)(model, **options)


def add_losses(model: Any, parts: Mapping[str, tuple[Any, float]]) -> Any:
    """Return the sum of losses, each with its weight, of the same vectors: a batch passes the model once."""
    from torch import nn

    class Sum(nn.Module):  # type: ignore[misc]
        """Takes the losses' own computation from vectors, as the library's examples do."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model
            self.parts = nn.ModuleDict({name: loss for name, (loss, _) in parts.items()})

        def forward(self, features: Any, labels: Any = None) -> Any:
            vectors = [self.model(one)["sentence_embedding"] for one in features]
            total: Any = 0
            for name, loss in self.parts.items():
                value = loss.compute_loss_from_embeddings(vectors, labels)
                total = total + parts[name][1] * (sum(value.values()) if isinstance(value, dict) else value)
            return total

    return Sum()


def load_guide(guide: str, model: Any) -> Any:
    """Return the guide on the model's device, frozen. Raises WorkerError for one that cannot be loaded or asked."""
    from sentence_transformers import SentenceTransformer

    require_whole(guide, VECTORS)
    try:
        weights = {"torch_dtype": "float32", **weight_options()}
        loaded = SentenceTransformer(guide, device=str(model.device), model_kwargs=weights)
    except (OSError, ValueError) as error:
        raise WorkerError(f"the guide {guide} cannot be loaded: {' '.join(str(error).split())}") from error
    if not hasattr(loaded, "tokenizer") or not hasattr(loaded.tokenizer, "get_vocab"):
        raise WorkerError(f"the guide {guide} has no tokenizer of transformers: its texts could not be written for it")
    return loaded.eval().requires_grad_(False)


def _take(key: str, place: str, names: Mapping[str | None, str]) -> Take:
    """Return what takes an object of the library, by the name that it has in its place for a setting's value."""
    return lambda settings: resolve_name(f"sentence_transformers.{place}{names[getattr(settings, key)]}")


# a loss that computes its gradients in parts has no layers: it is called once for each layer
_OWN = "sentence_transformer.losses:"
_RANKING = ("scale", "hard_negatives", "gather_across_devices", "matryoshka_dims")
_GUIDED = (
    "guide", "temperature", "margin_strategy", "margin", "contrast_anchors", "contrast_positives", "hard_negatives",
    "gather_across_devices", "matryoshka_dims",
)  # fmt: skip
_SPACES: dict[str | None, str] = {"cosine": "COSINE", "euclidean": "EUCLIDEAN", "manhattan": "MANHATTAN"}
_TRIPLETS = _take("distance_metric", f"{_OWN}TripletDistanceMetric.", _SPACES)
_PAIRS = _take("distance_metric", f"{_OWN}SiameseDistanceMetric.", _SPACES | {"cosine": "COSINE_DISTANCE"})
_BATCHES: dict[str | None, str] = {"cosine": "cosine_distance", "euclidean": "euclidean_distance"}
_BY_BATCH = {"distance_metric": _take("distance_metric", f"{_OWN}BatchHardTripletLossDistanceFunction.", _BATCHES)}
_DISTANCE = {"distance_metric": _PAIRS}
_SIMILAR: dict[str | None, str] = {"cosine": "cos_sim", "dot": "dot_score"}
_TAUGHT = {"similarity_fct": _take("similarity", "util:pairwise_", _SIMILAR | {None: "dot_score"})}
_TEACHER = ("similarity", "hard_negatives", *_AROUND, *_SUM)
_PAIR = ("distance_metric", "margin", *_AROUND, *_SUM)
LOSSES = {
    "mnrl": Loss(
        "MultipleNegativesRankingLoss", GROUPS, (*_RANKING, "similarity", _LAYERS, *_SUM),
        {"similarity_fct": _take("similarity", "util:", _SIMILAR | {None: "cos_sim"})}, in_batch=True,
    ),
    "cached_mnrl": Loss("CachedMultipleNegativesRankingLoss", GROUPS, ("mini_batch_size", *_RANKING), in_batch=True),
    "mnrl_symmetric": Loss("MultipleNegativesSymmetricRankingLoss", GROUPS, (*_RANKING, _LAYERS), in_batch=True),
    "cached_mnrl_symmetric": Loss(
        "CachedMultipleNegativesSymmetricRankingLoss", GROUPS, ("mini_batch_size", *_RANKING), in_batch=True
    ),
    "gist": Loss("GISTEmbedLoss", GROUPS, (*_GUIDED, _LAYERS), in_batch=True),
    "cached_gist": Loss("CachedGISTEmbedLoss", GROUPS, ("mini_batch_size", *_GUIDED), in_batch=True),
    "cosent": Loss("CoSENTLoss", COMPARED, ("scale", *_AROUND, *_SUM)),
    "angle": Loss("AnglELoss", COMPARED, ("scale", *_AROUND, *_SUM)),
    "angle_triplet": Loss("AnglELoss", GROUPS, ("scale", "hard_negatives", *_AROUND)),
    "cosine_similarity": Loss("CosineSimilarityLoss", COMPARED, (*_AROUND, *_SUM)),
    "softmax": Loss("SoftmaxLoss", COMPARED, ("num_labels",)),
    "contrastive": Loss("ContrastiveLoss", COMPARED, _PAIR, _DISTANCE),
    "online_contrastive": Loss("OnlineContrastiveLoss", COMPARED, _PAIR, _DISTANCE),
    "triplet": Loss(
        "TripletLoss", GROUPS, (*_AROUND, "distance_metric", "margin", "plus"),
        {"distance_metric": _TRIPLETS, "triplet_margin": lambda settings: settings.margin}, elsewhere=_PAIR,
    ),
    "batch_all_triplet": Loss("BatchAllTripletLoss", CLASSES, _PAIR[:-2], _BY_BATCH),
    "batch_hard_triplet": Loss("BatchHardTripletLoss", CLASSES, _PAIR[:-2], _BY_BATCH),
    "batch_semi_hard_triplet": Loss("BatchSemiHardTripletLoss", CLASSES, _PAIR[:-2], _BY_BATCH),
    "batch_hard_soft_margin_triplet": Loss("BatchHardSoftMarginTripletLoss", CLASSES, _PAIR[:1] + _AROUND, _BY_BATCH),
    "mse": Loss("MSELoss", GROUPS, ("guide", "translations", "hard_negatives", *_AROUND), vectors=True),
    "embed_distill": Loss(
        "EmbedDistillLoss", GROUPS, ("guide", "translations", "hard_negatives", "distance_metric", "projection_dim"),
        {"distance_metric": lambda settings: {"euclidean": "l2"}.get(settings.distance_metric, "cosine")}, vectors=True,
    ),
    "margin_mse": Loss("MarginMSELoss", SCORES, _TEACHER, _TAUGHT),
    "distill_kl": Loss("DistillKLDivLoss", SCORES, ("temperature", *_TEACHER), _TAUGHT),
    "gor": Loss(
        "GlobalOrthogonalRegularizationLoss", GROUPS, ("mean_weight", "second_moment_weight", "aggregation", "weight")
    ),
}  # fmt: skip


KEYS = {
    GROUPS: ("query", "positive", "negatives"),
    SCORES: ("query", "positive", "negatives", "scores"),
    COMPARED: ("text1", "text2", "label"),
    CLASSES: ("text", "label"),
}
QUERIES = ("query", "text1", "text")  # the columns that are read as queries; all others are documents
LABEL = "label"


@dataclass(frozen=True)
class Rows:
    """A file's rows: `columns` are what the trainer reads, `raw` the rows as they stand in the file."""

    columns: dict[str, list[Any]]
    raw: list[dict[str, Any]]
    form: str
    negatives: int = 0
    classes: int | None = None

    @property
    def count(self) -> int:
        """How many rows there are."""
        return len(self.raw)

    def describe(self, side: str) -> str:
        """Return the log's line about what was loaded."""
        first = {COMPARED: "text1", CLASSES: LABEL}.get(self.form, "query")
        what = {"text1": "first texts", LABEL: "classes"}.get(first, "queries")
        each = f" with {self.negatives} negatives each" if self.negatives else ""
        return f"{side}: {self.count} rows{each}, {len(set(self.columns[first]))} {what}"


def load_rows(path: Path, loss: LossSettings, most: int | None = None) -> Rows:
    """Return a file's rows. Raises WorkerError with the first bad lines.

    Every row has as many negatives as `hard_negatives` says, else as the row with the fewest has, and never more than
    `most`.
    """
    form = LOSSES[loss.type].form
    rows = parse_all_rows(path, lambda row: parse_row(row, form, loss))
    if form == COMPARED:
        return Rows({key: [row[key] for row in rows] for key in KEYS[form]}, rows, form, classes=loss.num_labels)
    if form == CLASSES:
        numbers = {label: number for number, label in enumerate(sorted({row[LABEL] for row in rows}))}
        texts, labels = [row["text"] for row in rows], [numbers[row[LABEL]] for row in rows]
        return Rows({"text": texts, LABEL: labels}, rows, form, classes=len(numbers))
    fewest = min(len(row["negatives"]) for row in rows)
    count = loss.hard_negatives or fewest
    count = count if most is None else min(count, most)
    if fewest < count:
        raise WorkerError(f"{path}: a row has {fewest} negatives, and every row must have {count}")
    columns = {key: [row[key] for row in rows] for key in ("query", "positive")}
    columns |= {f"negative_{place + 1}": [row["negatives"][place] for row in rows] for place in range(count)}
    if form == SCORES:
        columns[LABEL] = [row["scores"][: count + 1] for row in rows]
    return Rows(columns, rows, form, count)


def parse_row(row: Any, form: str, loss: LossSettings) -> dict[str, Any]:
    """Return the row of a line's JSON. Raises ValueError, which says what is wrong with it."""
    negatives = row.get("negatives", []) if isinstance(row, dict) else None
    if not isinstance(negatives, list) or set(row) != set(KEYS[form]):
        raise ValueError(f"a row of {form} is an object of {', '.join(KEYS[form])}, negatives a list")
    texts = {name: row[name] for name in KEYS[form] if form == CLASSES or name not in {"negatives", "scores", LABEL}}
    texts |= {f"negatives[{place}]": text for place, text in enumerate(negatives)}
    for name, text in texts.items():
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"{name} must be a text that is not empty")
    if loss.translations and negatives:
        raise ValueError(f"with translations a row's texts mean the same, and it has {len(negatives)} negatives")
    if loss.type == "triplet" and len(negatives) != 1:
        raise ValueError(f"triplet learns from one negative, and the row has {len(negatives)}")
    numbers = row.get("scores", [row[LABEL]] if form == COMPARED else [])
    wanted = len(negatives) + 1 if form == SCORES else len(numbers)
    if not isinstance(numbers, list) or len(numbers) != wanted:
        raise ValueError(f"scores must be {wanted} numbers, the positive's first")
    if bad := [number for number in numbers if not is_number(number) or not math.isfinite(number)]:
        raise ValueError(f"{bad[0]!r} is no finite number, and the row is learnt from it")
    if loss.num_labels and row[LABEL] not in range(loss.num_labels):
        raise ValueError(f"{row[LABEL]!r} is none of the {loss.num_labels} classes, which are numbered from 0")
    if (form == SCORES or loss.type == "angle_triplet") and not negatives:
        raise ValueError(f"{loss.type} compares documents, and the row has no negatives")
    return {**row}


def build_evaluator(rows: Rows, query_prompt: str, document_prompt: str, batch_size: int) -> Any:
    """Return what finds the best checkpoint: nDCG of the queries over all documents, or Spearman of the pairs.

    Of texts with classes every second one of a class searches the others for those of its class. None where no order
    can be measured: pairs have one label or classes, or no class has two texts.
    """
    from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator

    if rows.form != COMPARED:
        return _rank(rows, query_prompt, document_prompt, batch_size)
    labels = rows.columns[LABEL]
    if rows.classes or len(set(labels)) == 1:
        return None
    return EmbeddingSimilarityEvaluator(
        [query_prompt + text for text in rows.columns["text1"]],
        [document_prompt + text for text in rows.columns["text2"]],
        labels,
        batch_size=batch_size,
        main_similarity="cosine",
        similarity_fn_names=["cosine"],
        name="validation",
        write_csv=False,
    )


def _rank(rows: Rows, query_prompt: str, document_prompt: str, batch_size: int) -> Any:
    from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator
    from sentence_transformers.util import cos_sim

    asked = [(row["query"], [row["positive"]]) for row in rows.raw if rows.form != CLASSES]
    texts = [text for row in rows.raw if asked for text in (row["positive"], *row["negatives"])]
    members: dict[str, list[str]] = {}
    for row in rows.raw if rows.form == CLASSES else ():
        members.setdefault(row[LABEL], []).append(row["text"])
    for found in members.values():
        texts += found[::2]
        asked += [(query, found[::2]) for query in found[1::2]]
    if not asked:
        return None
    corpus = {text: f"d{place}" for place, text in enumerate(dict.fromkeys(texts))}
    queries = {text: f"q{place}" for place, text in enumerate(dict.fromkeys(query for query, _ in asked))}
    relevant: dict[str, set[str]] = {}
    for query, found in asked:
        relevant.setdefault(queries[query], set()).update(corpus[text] for text in found)
    return InformationRetrievalEvaluator(
        {name: text for text, name in queries.items()},
        {name: text for text, name in corpus.items()},
        relevant,
        batch_size=batch_size,
        name="validation",
        write_csv=False,
        accuracy_at_k=[1],
        precision_recall_at_k=[10],
        score_functions={"cosine": cos_sim},
        main_score_function="cosine",
        query_prompt=query_prompt,
        corpus_prompt=document_prompt,
    )
