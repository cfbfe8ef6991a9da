"""What a recipe may say: frozen pydantic models, and the JSON Schema that editors use. keys.yaml describes each key."""

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, model_validator

from orchestrator.machine.json_files import load_json
from orchestrator.machine.places import WORKERS
from orchestrator.machine.tables import load_record
from orchestrator.recipe.losses import (
    DEFAULT_LOSSES,
    LossType,
    describe_losses,
    find_loss,
    find_target,
    list_losses,
    list_names,
    list_script_names,
)
from orchestrator.recipe.registry import TOOLS, OneOf


def _load_descriptions() -> dict[str, dict[str, str]]:
    return load_record(Path(__file__).with_name("keys.yaml"), dict[str, dict[str, str]])


class Part(BaseModel):
    """A mapping of a recipe: each of its keys is a field here, and has its description in keys.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, defer_build=True)
    lists: ClassVar[frozenset[str]] = frozenset()  # keys where one text stands for a list of it
    # keys where a text stands for a mapping, and its key in that
    words: ClassVar[Mapping[str, str]] = MappingProxyType({})
    short: ClassVar[str | None] = None  # the key whose text or list may stand in the place of the whole mapping

    @model_validator(mode="before")
    @classmethod
    def _write_out(cls, value: Any) -> Any:
        value = {cls.short: value} if cls.short and isinstance(value, str | list) else value
        if not isinstance(value, dict):
            return value
        texts = {key: item for key, item in value.items() if isinstance(item, str)}
        lists = {key: [item] for key, item in texts.items() if key in cls.lists}
        return value | lists | {key: {cls.words[key]: item} for key, item in texts.items() if key in cls.words}

    @classmethod
    def describe_key(cls, name: str) -> str | None:
        """Return what may stand under a key of this part, None where nothing describes it."""
        tables = (_load_descriptions().get(one.__name__, {}) for one in cls.__mro__)
        return next((found for table in tables if (found := table.get(name))), None)

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> dict[str, Any]:
        """Return pydantic's own schema of the part, with the descriptions of its keys."""
        schema: dict[str, Any] = handler(core_schema)
        for name, own in handler.resolve_ref_schema(schema).get("properties", {}).items():
            if (found := cls.describe_key(name)) is not None:
                own["description"] = found
        return schema


class Prompts(Part):
    """What stands in front of the texts of an embedding model, blanks included; empty text: nothing."""

    query: str | None = None
    document: str | None = None


class Dense(Part):
    """A new layer behind the pooling of an embedding model, which makes its vectors shorter or longer."""

    out_features: int = Field(ge=1)
    activation: Literal["tanh", "identity"] = "tanh"


class ModelRef(Part):
    """The base model: a hub id or folder (`path`), or a model that a Python package carries (`package`)."""

    path: str | None = Field(None, min_length=1)
    package: str | None = Field(None, min_length=1)
    revision: str | None = Field(None, pattern=r"^[\w./-]+$")
    family: Literal["decoder", "encoder"] | None = None
    native: (
        Literal["qwen3-native", "cross-encoder", "bi-encoder", "flag-llm-reranker", "qwen3-score-head", "reward-model"]
        | None
    ) = None
    model_type: str | None = Field(None, min_length=1)
    template: str | None = Field(None, min_length=1)
    pooling: Literal["cls", "mean", "lasttoken", "max", "mean_sqrt_len_tokens", "weightedmean"] | None = None
    normalize: bool | None = None
    prompts: Prompts | None = None
    dense: Dense | None = None
    layers: tuple[int, ...] | None = Field(None, min_length=1)
    trust_remote_code: bool = False
    allow_pickle: bool = False

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.path is None) == (self.package is None):
            raise ValueError("give the model by path or by package, one of the two")
        return self

    @property
    def changes(self) -> list[str]:
        """The keys that say how the model is changed before it is trained."""
        return [name for name in ("dense", "layers") if getattr(self, name) is not None]

    @property
    def name(self) -> str:
        """What people call this model."""
        return self.path or self.package or ""


class Teacher(ModelRef):
    """A stronger model that scores the training rows before the training, and is measured beside the tuned one."""

    instruction: str | None = Field(None, min_length=1)
    max_length: int = Field(512, ge=8)
    batch_size: int | None = Field(None, ge=1)


def require_encoding(name: str | None) -> str | None:
    """Return Python's name of an encoding, None or auto. Raises ValueError for a name of none."""
    if name not in {None, "auto"}:
        try:
            "a".encode(str(name))
        except (LookupError, ValueError):
            known = "gb18030, big5, shift_jis, latin_1, utf_16 … or auto"
            raise ValueError(f"{name} is no encoding: say {known}") from None
    return name


class Loss(Part):
    """What the trainer minimises; each setting that the loss has is rendered, whether the recipe gives it or not."""

    type: Annotated[str, OneOf(list_names)]
    target: Literal["label", "teacher"] | None = None
    graded: bool | None = None
    activation: Literal["identity", "sigmoid"] | None = None
    pos_weight: float | None = Field(None, gt=0)
    k: int | None = Field(None, ge=1)
    weighting: Literal["none", "ndcg1", "ndcg2", "ndcg2pp", "lambdarank"] | None = None
    num_negatives: int | None = Field(None, ge=1)
    alpha: float | None = Field(None, gt=0)
    mini_batch_size: int | None = Field(None, ge=1)
    num_labels: int | None = Field(None, ge=2)
    projection_dim: int | None = Field(None, ge=1)
    mean_weight: float | None = Field(None, ge=0)
    second_moment_weight: float | None = Field(None, ge=0)
    aggregation: Literal["mean", "sum"] | None = None
    temperature: float | None = Field(None, gt=0)
    scale: float | None = Field(None, gt=0)
    margin: float | None = Field(None, ge=0)
    margin_strategy: Literal["absolute", "relative"] | None = None
    guide: str | None = Field(None, min_length=1)
    translations: bool | None = None
    contrast_anchors: bool | None = None
    contrast_positives: bool | None = None
    gather_across_devices: bool | None = None
    distance_metric: Literal["cosine", "euclidean", "manhattan"] | None = None
    similarity: Literal["dot", "cosine"] | None = None
    matryoshka_dims: dict[int, float] | None = Field(None, min_length=1)
    n_layers_per_step: int | None = Field(None, ge=1)
    plus: tuple["Loss", ...] | None = Field(None, min_length=1)
    weight: float | None = Field(None, gt=0)
    use_batch: bool | None = None
    hard_negatives: int | None = Field(None, ge=1)
    mask_fake_negative: bool | None = None
    fake_neg_margin: float | None = None
    include_qq: bool | None = None
    include_dd: bool | None = None
    mrl_dims: dict[int, float] | None = Field(None, min_length=1)
    min_group_size: int | None = Field(None, ge=2)
    max_positives: int | None = Field(None, ge=1)
    max_negatives: int | None = Field(None, ge=1)
    _owner: tuple[str, str] = PrivateAttr(("", ""))  # backend and task, of whose losses it is one

    @classmethod
    def describe_key(cls, name: str) -> str | None:
        """Return what may stand under a key; under `type` the losses of the registry."""
        return describe_losses() if name == "type" else super().describe_key(name)

    @model_validator(mode="before")
    @classmethod
    def _sizes(cls, value: Any) -> Any:
        for name in ("mrl_dims", "matryoshka_dims"):
            if isinstance(value, dict) and isinstance(value.get(name), list):
                value = {**value, name: dict.fromkeys(value[name], 1.0)}
        if isinstance(value, dict) and isinstance(value.get("plus"), list):
            value = {**value, "plus": [{"type": one} if isinstance(one, str) else one for one in value["plus"]]}
        return value

    @property
    def parts(self) -> tuple["Loss", ...]:
        """The loss itself, and those that are added to it."""
        return (self, *(self.plus or ()))

    @property
    def facts(self) -> LossType:
        """What is known of its type: as its owner has it, or, without one, the first trainer that has it."""
        found = find_loss(*self._owner, self.type)
        if found is None:
            raise KeyError(self.type)
        return found

    def of(self, backend: str, task: str) -> Self:
        """Return the loss, told whose it is."""
        self._owner = (backend, task)
        for one in self.plus or ():
            one.of(backend, task)
        return self


class TrainSet(Part):
    """Further training rows, whose batches are their own and have a loss of their own."""

    lists, words = frozenset({"files"}), MappingProxyType({"loss": "type"})
    files: tuple[str, ...] = Field(min_length=1)
    loss: Loss


def named_folders(what: str) -> AfterValidator:
    """Return a validator of a mapping, which raises ValueError for a key that cannot be a folder's name."""

    def check(found: dict[str, Any]) -> dict[str, Any]:
        for name in found:
            if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}", name):
                raise ValueError(f"{what}: {name!r} cannot name a folder: use letters, digits, '_' and '-'")
        return found

    return AfterValidator(check)


class Data(Part):
    """Training and evaluation files, and what may be dropped from them."""

    lists = frozenset({"train", "eval", "ignore"})
    train: tuple[str, ...] = Field(min_length=1)
    more: Annotated[dict[str, TrainSet], named_folders("more")] = Field(default_factory=dict)
    eval: tuple[str, ...] | None = Field(None, min_length=1)
    eval_ratio: float | None = Field(None, gt=0, lt=1)
    validation_ratio: float | None = Field(None, gt=0, lt=1)
    columns: dict[str, str] = Field(default_factory=dict)
    ignore: tuple[str, ...] = ()
    encoding: Annotated[str | None, AfterValidator(require_encoding)] = None
    instruction: str | None = Field(None, min_length=1)
    min_label: float | None = None
    max_label: float | None = None
    scores_as_labels: bool | None = None
    max_dropped: int = Field(0, ge=0)
    overlap: Literal["drop", "keep"] = "drop"
    seed: int = 42

    @model_validator(mode="after")
    def _agree(self) -> Self:
        if (self.eval is None) == (self.eval_ratio is None):
            raise ValueError("say what to measure on: eval (files) or eval_ratio (a share of train), one of the two")
        if self.overlap == "keep" and self.eval is None:
            raise ValueError("overlap: keep is about queries that eval has too; eval_ratio puts none on both sides")
        if self.max_label is None:
            if self.min_label is not None:
                raise ValueError("min_label needs max_label: labels are scaled from the one to the other")
        elif self.max_label <= (self.min_label or 0):
            raise ValueError("max_label must lie above min_label")
        return self


def choose_loss(backend: str, task: str, given: Loss | None, train: Mapping[str, Any]) -> Loss | None:
    """Return the loss that is minimised: the recipe's, an old script's `loss_type`, or the backend's default.

    None where a trainer has only one loss, and for an embedding model without one, which is refused.
    """
    if given is not None:
        return given.of(backend, task)
    old = list_script_names(backend).get(str(train.get("loss_type"))) if list_losses(backend, task) else None
    kind = old or DEFAULT_LOSSES.get((backend, task))
    return Loss.model_validate({"type": kind}).of(backend, task) if kind else None


class Guard(Part):
    """Other data that a fine-tuned model must not get worse on."""

    lists, short = frozenset({"data"}), "data"
    data: tuple[str, ...] = Field(min_length=1)
    gate: dict[str, str] = Field(default_factory=dict)


class Evaluate(Part):
    """How models are measured."""

    metrics: tuple[str, ...] | None = Field(None, min_length=1)
    baselines: tuple[Literal["native", "trained-format"], ...] = ("native", "trained-format")
    instruction: str | None = None
    batch_size: int | None = Field(None, ge=1)
    generate: int = Field(32, ge=0)
    max_new_tokens: int = Field(128, ge=1)
    test_prompt: str | None = Field(None, min_length=1)
    guard: Annotated[dict[str, Guard], named_folders("guard")] = Field(default_factory=dict)
    seed: int = 42


class Export(Part):
    """Other forms that the packaged model is written in, each measured against it."""

    lists, short = frozenset({"forms"}), "forms"
    forms: tuple[Annotated[str, OneOf(lambda: load_json(WORKERS / "exports.json")["forms"])], ...]
    gate: dict[str, str] = Field(default_factory=dict)
    python: str | None = None


class Rendezvous(Part):
    """Where the processes of several hosts meet."""

    backend: Literal["static"] = "static"
    endpoint: str | None = Field(None, pattern=r"^[A-Za-z0-9_.-]+:[0-9]{1,5}$")


class Launch(Part):
    """Where and how the backend's processes run."""

    nproc_per_node: int | Literal["auto"] = "auto"
    distributed: Literal["ddp", "deepspeed", "fsdp"] | None = None
    strategy: Literal["ddp", "fsdp"] | None = None
    keep_global_batch: bool = False
    nnodes: Annotated[int, Field(ge=1)] | Literal["auto"] = 1
    node_rank: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    rdzv: Rendezvous = Field(default_factory=Rendezvous.model_construct)
    local_addr: str | None = None
    interface: str | None = None
    ddp_timeout_s: int | None = Field(None, ge=1)
    env: dict[str, str] = Field(default_factory=dict)
    python: str | None = None
    timeout_s: float | None = Field(None, gt=0)
    stop_patience_s: float = Field(15.0, ge=0)

    @model_validator(mode="after")
    def _positive(self) -> Self:
        if isinstance(self.nproc_per_node, int) and self.nproc_per_node < 1:
            raise ValueError("nproc_per_node is at least 1")
        if self.strategy and self.distributed:
            raise ValueError("strategy is the old name of distributed: keep distributed")
        return self

    @property
    def shared_by(self) -> str | None:
        """How the recipe says that processes share a training: by `distributed`, or by its old name."""
        return self.distributed or self.strategy


class Watch(Part):
    """What ends a stage that makes no progress, and what is done about a training that learns nothing."""

    stall_timeout_s: float | None = Field(3600.0, gt=0)
    diverged: Literal["stop", "warn"] = "stop"
    flat: Literal["stop", "warn", "ignore"] = "warn"
    reports: int = Field(5, ge=1)
    on_oom: Literal["fail", "retry"] = "fail"


class Cluster(Part):
    """What a job asks its engine for: in a recipe, and as a profile of clusters.yaml."""

    lists = frozenset({"setup", "extra"})
    profile: str | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    time: Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, int) else value)] | None = Field(
        None, pattern=r"^(\d+|\d+:\d\d(:\d\d)?|\d+-\d+(:\d\d(:\d\d)?)?)$"
    )
    nodes: int = Field(1, ge=1)
    gpus: int | None = Field(None, ge=0)
    gres: str | None = None
    cpus: int | None = Field(None, ge=1)
    mem: str | None = None
    constraint: str | None = None
    setup: tuple[str, ...] = ()
    container: str | None = None
    venv: str | None = None
    shared: str | None = None
    extra: tuple[str, ...] = ()
    warn_s: int = Field(120, ge=1)
    requeues: int = Field(50, ge=0)


class Search(Part):
    """What `orch sweep` tries; each key is an option of the same name, which goes before it."""

    set: dict[str, Any] = Field(default_factory=dict)
    seeds: int = Field(1, ge=1)
    random: int | None = Field(None, ge=1)
    optuna: int | None = Field(None, ge=1)
    max_trials: int | None = Field(None, ge=1)
    max_hours: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _one_search(self) -> Self:
        if self.random and self.optuna:
            raise ValueError("random and optuna are two ways to search: keep one")
        return self


class Track(Part):
    """Experiment trackers that are told of the run."""

    lists, short = frozenset({"to"}), "to"
    to: tuple[Annotated[str, OneOf(lambda: load_json(WORKERS / "trackers.json"))], ...] = Field(min_length=1)
    project: str = Field("orch", pattern=r"^[A-Za-z0-9][\w.-]*$", max_length=100)
    report: bool = True


class Recipe(Part):
    """One fine-tuning job, from data to verdict."""

    words = MappingProxyType({"model": "path", "teacher": "path", "loss": "type", "cluster": "profile"})
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    task: Literal["reranker", "embedding", "sft"]
    backend: Annotated[str, OneOf(lambda: TOOLS)]
    model: ModelRef
    data: Data
    teacher: Teacher | None = None
    loss: Loss | None = None
    train: dict[str, Any] = Field(default_factory=dict)
    deepspeed: str | None = None
    speedups: Literal["auto", "none"] | Annotated[tuple[str, ...], Field(min_length=1)] = "auto"
    deterministic: bool = False
    checkpoint: Literal["best", "last"] | int | None = None
    merge: bool = True
    evaluate: Evaluate = Evaluate.model_construct()
    gate: dict[str, str] = Field(default_factory=dict)
    export: Export | None = None
    track: Track | None = None
    launch: Launch = Launch.model_construct()
    watch: Watch = Watch.model_construct()
    cluster: Cluster = Cluster.model_construct()
    sweep: Search = Search.model_construct()

    @model_validator(mode="after")
    def _labels_or_teacher(self) -> Self:
        by_teacher = self.loss is not None and find_target(self.loss.of(self.backend, self.task)) == "teacher"
        if self.data.scores_as_labels and (self.teacher is not None or by_teacher):
            raise ValueError("data.scores_as_labels: true leaves no scores for a teacher: remove it, or the teacher")
        return self


def list_parts(part: type[Part], key: tuple[str, ...] = ()) -> dict[tuple[str | int, ...], type[Part]]:
    """Return the part and those that stand in it, each by the path of keys that leads to it from `key` on."""
    found: dict[tuple[str | int, ...], type[Part]] = {key: part}
    for name, own in part.model_fields.items():
        kinds = get_args(own.annotation) if isinstance(own.annotation, UnionType) else (own.annotation,)
        for kind in kinds:
            found |= list_parts(kind, (*key, name)) if isinstance(kind, type) and issubclass(kind, Part) else {}
    return found


def build_json_schema(train_arguments: dict[str, dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Return the recipe's JSON Schema (draft 2020-12).

    `train_arguments` maps each backend to the arguments that it accepts under `train:`, with their own schemas; others
    are errors.
    """
    schema = Recipe.model_json_schema()
    definitions = schema["$defs"]

    def allow(fields: dict[str, Any], name: str, *forms: dict[str, Any], optional: bool = False) -> None:
        """Let a field be written in one of these forms: pydantic knows nothing of the short ones."""
        choices = [*forms, {"type": "null"}] if optional else list(forms)
        fields[name] = {"description": fields[name]["description"], "anyOf": choices}
        fields[name] |= {"default": None} if optional else {}

    top, data, loss = schema["properties"], definitions["Data"]["properties"], definitions["Loss"]["properties"]
    text, texts = (
        {"type": "string"},
        ({"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}),
    )
    named, losses = {**text, "minLength": 1}, ({"$ref": "#/$defs/Loss/properties/type"}, {"$ref": "#/$defs/Loss"})
    allow(top, "model", named, {"$ref": "#/$defs/ModelRef"})
    allow(top, "teacher", named, {"$ref": "#/$defs/Teacher"}, optional=True)
    allow(top, "cluster", named, {"$ref": "#/$defs/Cluster"})
    allow(top, "loss", *losses, optional=True)
    for name, part, key in (("export", "Export", "forms"), ("track", "Track", "to")):
        one = {"$ref": f"#/$defs/{part}/properties/{key}/items"}
        allow(top, name, one, {"type": "array", "items": one}, {"$ref": f"#/$defs/{part}"}, optional=True)
    sizes = {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 1}
    for name in ("mrl_dims", "matryoshka_dims"):
        allow(loss, name, sizes, {"type": "object", "additionalProperties": {"type": "number"}}, optional=True)
    more = definitions["TrainSet"]["properties"]
    allow(more, "loss", *losses)
    guarded = definitions["Guard"]["properties"]
    for fields, name in ((data, "train"), (data, "eval"), (more, "files"), (guarded, "data")):
        allow(fields, name, *texts)
    guard = definitions["Evaluate"]["properties"]["guard"]
    guard["additionalProperties"] = {"anyOf": [*texts, {"$ref": "#/$defs/Guard"}]}
    schema["allOf"] = [
        {
            "if": {"properties": {"backend": {"const": backend}}, "required": ["backend"]},
            "then": {"properties": {"train": {"properties": arguments, "additionalProperties": False}}},
        }
        for backend, arguments in train_arguments.items()
    ]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Orch recipe", **schema}
