"""Every loss in one registry: whose it is, which rows it reads, its settings, and what is true of its value.

A new loss is one entry of `LOSSES`, under its backend, its task and its name, so that several trainers may have a loss
of one name; where the library has none, its code stands in workers/cross_encoder_losses.py. What each loss computes
stands in docs/losses.md.

A batch may be split into smaller ones whose gradients are accumulated only where the objective stays. It stays where
the loss of a batch is the mean over its rows, each row's loss without the others: then the mean over 4 rows is the mean
of the means over 2 and 2. Sources: AbsRerankerModel.forward of FlagEmbedding 1.4.2, swift/loss of ms-swift 4.6.0,
sentence_transformers/cross_encoder/losses 6.2.0, workers/cross_encoder_losses.py.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

PAIRS, LISTS, MARGINS = "cross-encoder-pairs", "cross-encoder-lists", "cross-encoder-margins"
GROUPS, SCORES, COMPARED = "embedding-groups", "embedding-scores", "embedding-pairs"
Given = Any  # what a recipe says under `loss:`, a Loss of recipe/schema.py: here nothing needs pydantic
_NEAR = 0.7  # how alike two words are, of which one is meant to be the other
_INFINITE = float("inf")


@dataclass(frozen=True)
class Setting:
    """A setting of a loss: its value where the recipe gives none, what that means, the variable that carries it.

    One that is not `shown` is rendered only where the recipe gives it.
    """

    default: Any
    meaning: str = "shown, because ms-swift records it nowhere"
    variable: str = ""
    shown: bool = True


@dataclass(frozen=True)
class LossType:
    """One loss.

    `kinds` are the rows that it can learn from, `form` the writer of its rows. `obstacle` says why a smaller batch
    would change what is learnt (None: it would not). `candidates` is among how many a model without knowledge chooses,
    whose loss is then the logarithm of it; None where the loss is no such number. `texts` is how many texts one row
    puts through the model; None where the rows decide. Both take the loss, the train command's arguments, and how many
    rows one step has. `scores` are the bounds of a teacher's scores in place of labels, and why. `native` is its name
    in `--loss_type`, `scripts` are those that older scripts write there, `aliases` what other tools call it.
    """

    name: str
    backend: str
    task: str
    kinds: tuple[str, ...]
    form: str
    settings: Mapping[str, Setting] = field(default_factory=dict)
    obstacle: str | Callable[[Given], str | None] | None = None
    candidates: Callable[[Given, Mapping[str, Any], int], int | None] = lambda *_: None
    texts: Callable[[Given], int | None] = lambda _: 2
    scores: tuple[float, float, str] | None = None
    reads_logits: bool = True  # whether targets may lie outside 0 to 1, as a teacher's scores do
    learns: str = "label"  # where the recipe does not say: label or teacher
    contrasts: bool = False  # with one label in all rows there is nothing to learn
    labels: tuple[float, ...] = ()  # of pairs; empty: any
    most_positives: int | None = None
    needs_negatives: bool = False
    at_once: Callable[[Given], int | None] = lambda _: None  # texts that pass the model at once, where fewer than all
    in_batch: bool = False  # the other rows of a batch are negatives
    exact_negatives: bool = False  # a row with fewer negatives than hard_negatives is refused, and not filled up
    answers: bool = False  # a row is one relevant document and others; documents of other rows are negatives too
    adds: bool = False  # may be added to another loss; without kinds it may do nothing else
    has_weights: bool = False  # trains weights of its own beside the model's
    measured_by_loss: bool = False  # its rows' labels rank nothing
    native: str = ""
    scripts: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()


def _use_batch(loss: Given) -> str | None:
    return None if loss.use_batch is False else "the other rows of a batch are the negatives of infonce (use_batch)"


def _infonce_candidates(loss: Given, _: Mapping[str, Any], rows: int) -> int | None:
    if not loss.hard_negatives or loss.mrl_dims or loss.include_qq or loss.include_dd:
        return None
    return int(1 + loss.hard_negatives) * (1 if loss.use_batch is False else rows)


def _count_texts(loss: Given) -> int | None:
    return None if loss.hard_negatives is None else int(2 + loss.hard_negatives)


def _count_candidates(loss: Given, _: Mapping[str, Any], rows: int) -> int | None:
    around = loss.matryoshka_dims or loss.n_layers_per_step or loss.plus
    known = loss.hard_negatives is not None and not around
    return int(1 + loss.hard_negatives) * rows if known else None


def _ranked(name: str, settings: Mapping[str, Setting], aliases: tuple[str, ...]) -> LossType:
    """Return a loss of sentence-transformers to which the other rows of a batch are negatives."""
    cached = "mini_batch_size" in settings
    settings = settings if cached else {**settings, **_LAYERS, **(_SUM | _COMPARED_BY if name == "mnrl" else {})}
    return LossType(
        name, *_RANKED, settings, obstacle=f"the other rows of a batch are the negatives of {name}",
        candidates=_count_candidates if name in {"mnrl", "cached_mnrl"} else lambda *_: None,
        at_once=lambda loss: (loss.mini_batch_size or settings["mini_batch_size"].default) if cached else None,
        texts=_count_texts, labels=(1,), in_batch=True, exact_negatives=True, aliases=aliases, adds=name == "mnrl",
    )  # fmt: skip


_ALL_PAIRS = "{} compares every pair of a batch with every other"


def _split_groups(loss: Given) -> str | None:
    if (loss.max_positives or 1) > 1:
        return "with max_positives a row is several groups, and listwise is the mean over a batch's groups"
    if (loss.min_group_size or 0) > 2:  # noqa: PLR2004  (a positive and one negative: what every row has)
        return "min_group_size leaves groups out, and listwise is the mean over the others of a batch"
    return None


def _answered(name: str, settings: Mapping[str, Setting], alias: str) -> LossType:
    """Return a cross-encoder's loss to which documents of a batch's other rows are negatives too."""
    parts = settings.get("mini_batch_size")
    return LossType(
        name, *_CROSS_ENCODER, LISTS, settings, texts=lambda _: None, reads_logits=False, answers=True,
        at_once=lambda loss: (loss.mini_batch_size or parts.default) if parts else None,
        obstacle=f"other rows of a batch are negatives of {name}", aliases=(alias,),
    )  # fmt: skip


def _sampled_texts(loss: Given) -> int:
    return int(loss.max_positives or 1) * int(1 + (loss.max_negatives or _SAMPLES["max_negatives"].default))


def _one_positive(loss: Given, train: Mapping[str, Any], _: int) -> int | None:
    labels = find_target(loss) == "label" and not loss.graded
    return int(train["train_group_size"]) if labels and "train_group_size" in train else None


# The value that ms-swift 4.6 has is rendered where the recipe gives none: temperature was 0.01 before 3.12.
_INFONCE = {
    "temperature": Setting(0.1, variable="INFONCE_TEMPERATURE"),
    "use_batch": Setting(True, variable="INFONCE_USE_BATCH"),
    "hard_negatives": Setting(None, variable="INFONCE_HARD_NEGATIVES"),  # unset is all; int('None') would be its value
    "mask_fake_negative": Setting(False, variable="INFONCE_MASK_FAKE_NEGATIVE"),
    "fake_neg_margin": Setting(0.1, variable="INFONCE_FAKE_NEG_MARGIN"),
    "include_qq": Setting(False, variable="INFONCE_INCLUDE_QQ"),
    "include_dd": Setting(False, variable="INFONCE_INCLUDE_DD"),
}
_SIZES = {"mrl_dims": Setting(None)}
_SAMPLES = {
    "max_positives": Setting(1, variable="MAX_POSITIVE_SAMPLES"),
    "max_negatives": Setting(7, variable="MAX_NEGATIVE_SAMPLES"),
}
_LISTWISE = {
    "temperature": Setting(1.0, variable="LISTWISE_RERANKER_TEMPERATURE"),
    "min_group_size": Setting(2, variable="LISTWISE_RERANKER_MIN_GROUP_SIZE"),
}
_WEIGHTING = {"weighting": Setting("ndcg2pp", "NDCGLoss2++, the best of the LambdaLoss paper")}
_PARTS = {"mini_batch_size": Setting(None, "all documents of a batch pass the model at once")}
_ACTIVATION = {"activation": Setting("identity", "the raw score is compared")}
_EMBEDDING = ("swift", "embedding")
_RERANKER = ("swift", "reranker")
_GATHERED = {"gather_across_devices": Setting(False, "each process takes the negatives of its own rows")}
_SCALE = {"scale": Setting(20.0, "a temperature of 0.05")}
_SOME = {"hard_negatives": Setting(None, "as many of a row's negatives as every row has")}
_DIMS = {"matryoshka_dims": Setting(None, "vectors are trained at their full length only")}
# a loss that computes its gradients in parts has this not: it is called once for each layer
_LAYERS = {"n_layers_per_step": Setting(None, "the last layer's vectors are trained only", shown=False)}
_AROUND = _DIMS | _LAYERS
_SUM = {
    "plus": Setting(None, "the loss is minimised alone", shown=False),
    "weight": Setting(1.0, "it counts as much as the loss that it is added to", shown=False),
}
_COMPARED_BY = {"similarity": Setting("cosine", "vectors are compared by their direction", shown=False)}
_RANKING = _SCALE | _SOME | _GATHERED | _DIMS
_CACHED = {"mini_batch_size": Setting(32, "rows that pass the model at once: memory, and not what is learnt")}
_GUIDED = (
    {
        "guide": Setting(None),
        "temperature": Setting(0.01, "as GISTEmbed was trained"),
        "margin_strategy": Setting(
            "absolute", "a candidate is left out where the guide finds it as near as the positive"
        ),
        "margin": Setting(0.0, "a candidate is left out where the guide finds it as near as the positive"),
        "contrast_anchors": Setting(True, "the batch's other queries are negatives too"),
        "contrast_positives": Setting(True, "the batch's other documents are a positive's negatives too"),
    }
    | _SOME
    | _GATHERED
    | _DIMS
)
_DISTANCE = {
    "distance_metric": Setting("cosine", "a distance of 0 is one direction, 1 a right angle"),
    "margin": Setting(0.5, "pairs that do not belong together are pushed this far apart"),
}
_TRIPLET = {
    "distance_metric": Setting("euclidean", "between vectors as the model gives them"),
    "margin": Setting(5.0, "the negative is pushed this much farther away than the positive"),
}
_KL = {"temperature": Setting(1.0, "the teacher's distribution as its scores give it")}
_SIMILARITY = {"similarity": Setting("dot", "as cross-encoders' scores are taught; of unit vectors it is the cosine")}
_SENTENCES = ("sentence-transformers", "embedding")
_RANKED = (*_SENTENCES, ("group", "pair"), GROUPS)
_COMPARES = (*_SENTENCES, ("pair",), COMPARED)
_TAUGHT = (*_SENTENCES, ("group",), SCORES)
_CROSS_ENCODER = ("sentence-transformers", "reranker", ("labelled",))
_ANSWERS = {
    "num_negatives": Setting(4, "documents of the batch's other rows that a query is held against, drawn at random"),
    "scale": Setting(10.0, "what a score between 0 and 1 is multiplied by"),
    "activation": Setting("sigmoid", "scores between 0 and 1 are compared"),
}
_CACHED_PAIRS = {"mini_batch_size": Setting(32, "pairs that pass the model at once: memory, and not what is learnt")}
_PAIRS_ONLY = (*_EMBEDDING, ("pair",), "swift-embedding", _SIZES)

_ALL = (
    LossType(
        "infonce", *_EMBEDDING, ("group", "pair"), "swift-embedding", _INFONCE | _SIZES,
        obstacle=_use_batch, candidates=_infonce_candidates, labels=(1,), most_positives=1, in_batch=True,
        texts=lambda loss: None if loss.hard_negatives is None else 2 + loss.hard_negatives,
        scripts=("infonce",),
        aliases=("multiplenegativesranking", "cachedmultiplenegativesranking", "mnrl", "info_nce"),
    ),
    LossType(
        "cosine_similarity", *_PAIRS_ONLY,
        scripts=("cosine_similarity",), aliases=("cosinesimilarity",),
    ),
    LossType(  # the only one: its settings are arguments of the trainer
        "infonce", "flagembedding", "embedding", ("group",), "flagembedding",
        obstacle="the other rows of a batch are negatives too, of every one of FlagEmbedding's embedders",
    ),
    LossType("contrastive", *_PAIRS_ONLY, contrasts=True, labels=(0, 1), scripts=("contrastive",)),
    LossType(
        "online_contrastive", *_PAIRS_ONLY, contrasts=True, labels=(0, 1),
        obstacle="online_contrastive picks the hard pairs of a batch, and sums them",
        scripts=("online_contrastive",), aliases=("onlinecontrastive",),
    ),
    LossType(
        "pointwise", *_RERANKER, ("group",), "swift-reranker", _SAMPLES,
        obstacle="pointwise is the mean over a batch's documents, of which rows have different numbers",
        candidates=lambda *_: 2, texts=_sampled_texts, native="pointwise_reranker",
        scripts=("reranker", "generative_reranker", "pointwise_reranker"),
    ),
    LossType(
        "listwise", *_RERANKER, ("group",), "swift-reranker", _LISTWISE | _SAMPLES,
        obstacle=_split_groups, candidates=lambda loss, *_: 1 + (loss.max_negatives or 7), texts=_sampled_texts,
        needs_negatives=True, native="listwise_reranker",
        scripts=("listwise_reranker", "listwise_generative_reranker"),
    ),
    LossType(
        "pointwise_bce", *_CROSS_ENCODER, PAIRS,
        {"pos_weight": Setting(None, "positives weigh as much as the others")},
        texts=lambda _: 1, reads_logits=False, contrasts=True,
        candidates=lambda loss, *_: 2 if loss.target != "teacher" and loss.pos_weight in {None, 1} else None,
        scores=(0, 1, "learns a probability, from 0 to 1"), aliases=("binarycrossentropy", "bce", "point_ce"),
    ),
    LossType(
        "pointwise_mse", *_CROSS_ENCODER, PAIRS, _ACTIVATION,
        texts=lambda _: 1, contrasts=True, aliases=("mse", "point_mse"),
    ),
    LossType("pairwise_ranknet", *_CROSS_ENCODER, LISTS, texts=lambda _: None, aliases=("ranknet",)),
    LossType(
        "listwise_ce", *_CROSS_ENCODER, LISTS,
        {"graded": Setting(False, "one relevant document among others, not a distribution")},
        texts=lambda _: None, reads_logits=False, candidates=_one_positive,
        scores=(0, _INFINITE, "makes a distribution of them, and none may be negative"),
    ),
    LossType(
        "lambda_loss", *_CROSS_ENCODER, LISTS,
        {"k": Setting(None, "the whole list counts, not its first k places")} | _WEIGHTING | _PARTS,
        obstacle="lambda_loss is the mean over all pairs of documents in a batch, of which queries have different "
        "numbers",
        texts=lambda _: None, reads_logits=False, aliases=("lambda",),
        scores=(0, _INFINITE, "takes 2 to their power as gain, and none may be negative"),
    ),
    LossType("list_mle", *_CROSS_ENCODER, LISTS, _PARTS, texts=lambda _: None, aliases=("listmle",)),
    LossType("plist_mle", *_CROSS_ENCODER, LISTS, _PARTS, texts=lambda _: None),
    LossType("list_net", *_CROSS_ENCODER, LISTS, _PARTS, texts=lambda _: None),
    LossType(
        "adr_mse", *_CROSS_ENCODER, LISTS, {"alpha": Setting(1.0, "as Rank-DistiLLM was trained")} | _PARTS,
        obstacle="adr_mse is the mean over a batch's documents, of which queries have different numbers",
        texts=lambda _: None, aliases=("rankdistillm",),
    ),
    _answered("mnrl", _ANSWERS, "multiplenegativesranking"),
    _answered("cached_mnrl", _ANSWERS | _CACHED_PAIRS, "cachedmultiplenegativesranking"),
    LossType("margin_mse", *_CROSS_ENCODER, MARGINS, _ACTIVATION, learns="teacher", aliases=("marginmse",)),
    _ranked("mnrl", _RANKING, ("multiplenegativesranking", "infonce", "info_nce")),
    _ranked("cached_mnrl", _CACHED | _RANKING, ("cachedmultiplenegativesranking", "cmnrl")),
    _ranked("mnrl_symmetric", _RANKING, ("multiplenegativessymmetricranking",)),
    _ranked("cached_mnrl_symmetric", _CACHED | _RANKING, ("cachedmultiplenegativessymmetricranking",)),
    _ranked("gist", _GUIDED, ("gistembed",)),
    _ranked("cached_gist", _CACHED | _GUIDED, ("cachedgistembed",)),
    *(
        LossType(
            name, *_COMPARES, _SCALE | _AROUND | _SUM, obstacle=_ALL_PAIRS.format(name), contrasts=True, adds=True,
        )
        for name in ("cosent", "angle")
    ),
    LossType(
        "angle_triplet", *_SENTENCES, ("group",), GROUPS, _SCALE | _SOME | _AROUND, texts=_count_texts,
        obstacle=_ALL_PAIRS.format("angle_triplet"), needs_negatives=True, exact_negatives=True,
    ),
    LossType("cosine_similarity", *_COMPARES, _AROUND | _SUM, aliases=("cosinesimilarity",), adds=True),
    LossType(
        "softmax", *_COMPARES, {"num_labels": Setting(None)}, contrasts=True, has_weights=True, measured_by_loss=True,
        candidates=lambda loss, *_: loss.num_labels,
    ),
    LossType(
        "contrastive", *_COMPARES, _DISTANCE | _AROUND | _SUM, contrasts=True, labels=(0, 1), adds=True,
        aliases=("contrastiveloss",),
    ),
    LossType(
        "online_contrastive", *_COMPARES, _DISTANCE | _AROUND | _SUM, contrasts=True, labels=(0, 1), adds=True,
        obstacle="online_contrastive picks the hard pairs of a batch, and sums them", aliases=("onlinecontrastive",),
    ),
    LossType(
        "triplet", *_SENTENCES, ("group",), GROUPS, _TRIPLET | _AROUND | {"plus": _SUM["plus"]}, texts=lambda _: 3,
        needs_negatives=True, exact_negatives=True,
    ),
    LossType(
        "mse", *_SENTENCES, ("group",), GROUPS,
        {"guide": Setting(None), "translations": Setting(False, "each text has its own vector of the guide")}
        | _SOME | _AROUND,
        texts=_count_texts, exact_negatives=True,
    ),
    LossType(
        "embed_distill", *_SENTENCES, ("group",), GROUPS,
        {
            "guide": Setting(None),
            "translations": Setting(False, "each text has its own vector of the guide"),
            "distance_metric": Setting("cosine", "the directions of the two vectors are compared"),
            "projection_dim": Setting(None, "vectors are compared as they are, of one length"),
        }
        | _SOME,
        texts=_count_texts, exact_negatives=True, has_weights=True,
    ),
    LossType(
        "margin_mse", *_TAUGHT, _SIMILARITY | _SOME | _AROUND | _SUM, texts=_count_texts, learns="teacher",
        needs_negatives=True, exact_negatives=True, aliases=("marginmse",), adds=True,
    ),
    LossType(
        "distill_kl", *_TAUGHT, _KL | _SIMILARITY | _SOME | _AROUND | _SUM, texts=_count_texts, learns="teacher",
        needs_negatives=True, exact_negatives=True, aliases=("distillkldiv", "kl_div", "kldiv"), adds=True,
    ),
    LossType(
        "gor", *_SENTENCES, (), GROUPS,
        {
            "mean_weight": Setting(1.0, "the mean similarity of unrelated texts, squared, counts"),
            "second_moment_weight": Setting(1.0, "and so does how far its second moment lies above 1 / dimensions"),
            "aggregation": Setting("mean", "of queries, positives and negatives"),
            "weight": _SUM["weight"],
        },
        obstacle="gor compares every text of a batch with every other", adds=True,
        aliases=("globalorthogonalregularization",),
    ),
)  # fmt: skip
LOSSES = {(one.backend, one.task, one.name): one for one in _ALL}
DEFAULT_LOSSES = {
    ("swift", "reranker"): "pointwise",
    ("sentence-transformers", "reranker"): "pointwise_bce",
    ("flagembedding", "embedding"): "infonce",
}


def find_loss(backend: str, task: str, name: str) -> LossType | None:
    """Return the loss of that name; another trainer's where this one has none, which checks refuse; None for no loss's.

    A trainer of the same tool comes before the others.
    """
    found = LOSSES.get((backend, task, name))
    named = [] if found else [one for one in LOSSES.values() if one.name == name]
    return found or next((one for one in named if one.backend == backend), next(iter(named), None))


def find_losses(backend: str | None = None, task: str | None = None) -> list[LossType]:
    """Return the losses of a backend and a task; None stands for all."""
    return [one for one in LOSSES.values() if backend in {None, one.backend} and task in {None, one.task}]


def find_loss_of_form(name: str | None, form: str | None) -> LossType | None:
    """Return the loss of that name whose rows are written in that form, or in any where that says nothing."""
    named = [one for one in LOSSES.values() if one.name == name]
    return next((one for one in named if one.form == form), next(iter(named), None))


def list_names() -> list[str]:
    """Return the names that `loss:` may say, each once."""
    return list(dict.fromkeys(one.name for one in LOSSES.values()))


def list_losses(backend: str, task: str | None = None) -> tuple[str, ...]:
    """Return the names of a backend's losses, for one task or for all, each once."""
    return tuple(dict.fromkeys(one.name for one in find_losses(backend, task)))


def describe_losses() -> str:
    """Return whose each loss is, as one sentence."""
    owners = dict.fromkeys((facts.backend, facts.task) for facts in LOSSES.values())
    return "; ".join(f"{backend}, {task}: {', '.join(list_losses(backend, task))}" for backend, task in owners)


def list_settings(facts: LossType | None) -> list[str]:
    """Return the settings of a loss, `target` first where there is a choice; none for what is no loss."""
    if facts is None:
        return []
    return [*(["target"] if "labelled" in facts.kinds else []), *facts.settings]


def list_variables(backend: str) -> dict[str, str]:
    """Return the environment variables that carry settings of a backend's losses, each with the setting's name."""
    settings = (item for facts in find_losses(backend) for item in facts.settings.items())
    return {setting.variable: name for name, setting in settings if setting.variable}


def list_script_names(backend: str, task: str | None = None) -> dict[str, str]:
    """Return what older scripts write as `--loss_type` of a backend → the loss."""
    return {old: facts.name for facts in find_losses(backend, task) for old in facts.scripts}


def find_target(loss: Given) -> str:
    """Return what is learnt: label or teacher."""
    return str(loss.target or loss.facts.learns)


def find_own_loss(name: str, backend: str, task: str | None = None) -> str | None:
    """Return what to say for a loss that no recipe knows: another tool's name of it, or one that is near.

    Only what the backend has is named, for the task where it is given; None where it has nothing of the kind.
    """
    own = find_losses(backend, task) or find_losses()
    plain = name.lower().replace("-", "_").removesuffix("loss").rstrip("_")
    known = {alias: one.name for one in own for alias in (*one.aliases, *one.scripts)}
    known |= {one.name: one.name for one in own}
    known |= {one.name.removesuffix("_loss").replace("_", ""): one.name for one in own}
    found = known.get(plain) or known.get(plain.replace("_", ""))
    if found:
        return f"say {found}"
    near = difflib.get_close_matches(plain, [one.name for one in own], n=1, cutoff=_NEAR)
    return f"did you mean {near[0]!r}?" if near else None


def find_batch_obstacle(loss: Given | None, train: Mapping[str, Any]) -> str | None:
    """Return why a smaller batch would change what is learnt, as a sentence; None where it would not.

    Without a loss: FlagEmbedding's softmax over each group, and an LLM's mean over the tokens of a whole step.
    """
    if _is_positive(train.get("router_aux_loss_coef")):
        return "router_aux_loss_coef balances the experts over the rows of a batch"
    if loss is None:
        return None
    obstacles = [one.facts.obstacle for one in loss.parts]
    found = (obstacle(loss) if callable(obstacle) else obstacle for obstacle in obstacles)
    return next((obstacle for obstacle in found if obstacle), None)


def find_constant_loss(loss: Given | None, train: Mapping[str, Any], rows: int) -> float | None:
    """Return the loss of a model that scores everything alike, where that is one number: ln of the candidates.

    None for losses that measure distances, that learn a teacher's scores, or whose groups differ in size: there the
    number depends on the data, or is where a good training may end. `rows` are those of one step's batch.
    """
    return log_of(loss.facts.candidates(loss, train, rows)) if loss else None


def log_of(candidates: int | None) -> float | None:
    """Return the logarithm of a number of candidates, None where there is no choice between them."""
    return math.log(candidates) if candidates and candidates > 1 else None


def _is_positive(value: object) -> bool:
    try:
        return float(str(value)) > 0
    except ValueError:
        return False
