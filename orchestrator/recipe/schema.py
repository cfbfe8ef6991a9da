"""What a recipe may say: frozen pydantic models, and the JSON Schema that editors use."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, field_validator, model_validator

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


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True, defer_build=True)


class Prompts(_Part):
    """What stands in front of the texts of an embedding model, blanks included; empty text: nothing."""

    query: str | None = Field(None, description="in front of queries, such as 'query: '")
    document: str | None = Field(None, description="in front of documents, such as 'passage: '")


class ModelRef(_Part):
    """The base model: a hub id or folder (`path`), or a model that a Python package carries (`package`)."""

    path: str | None = Field(None, min_length=1, description="a hub id such as Qwen/Qwen3-Reranker-0.6B, or a folder")
    package: str | None = Field(None, min_length=1, description="an installed Python package that carries the model")
    family: Literal["decoder", "encoder"] | None = Field(
        None, description="decoder (LLM) or encoder (BERT-like); found from the model's config or name when left out"
    )
    native: (
        Literal[
            "qwen3-native", "cross-encoder", "bi-encoder", "flag-llm-reranker", "qwen3-score-head", "reward-model"
        ] | None
    ) = Field(
        None,
        description="how its authors score with it; found from the model's config or name when left out, and never "
        "guessed for an LLM with a head that scores",
    )  # fmt: skip
    model_type: str | None = Field(
        None, min_length=1, description="ms-swift's name of the model, such as qwen3_emb; found like family"
    )
    template: str | None = Field(None, min_length=1, description="ms-swift's name of the prompt; found like family")
    pooling: Literal["cls", "mean", "lasttoken", "max", "mean_sqrt_len_tokens", "weightedmean"] | None = Field(
        None,
        description="embedding: how one vector is made of a text's many; for models of which neither modules.json nor "
        "Orch's list says it",
    )
    normalize: bool | None = Field(None, description="embedding: whether vectors are brought to length 1; as pooling")
    prompts: Prompts | None = Field(None, description="embedding: one of the model's own prompts; as pooling")
    trust_remote_code: bool = Field(False, description="run Python code that the model folder brings along")
    allow_pickle: bool = Field(False, description="load weights that are pickled: loading them runs code of their own")

    @model_validator(mode="after")
    def _one_source(self) -> ModelRef:
        if (self.path is None) == (self.package is None):
            raise ValueError("give the model by path or by package, one of the two")
        return self

    @property
    def name(self) -> str:
        """What people call this model."""
        return self.path or self.package or ""


class Teacher(ModelRef):
    """A stronger model that scores the training rows before the training, and is measured beside the tuned one."""

    instruction: str | None = Field(
        None, min_length=1, description="task sentence, for teachers that take one (Qwen3-Reranker's native prompt)"
    )
    max_length: int = Field(512, ge=8, description="longest pair that it reads, in tokens")
    batch_size: int | None = Field(None, ge=1, description="pairs scored at once (8 for an LLM, 32 for an encoder)")


def require_encoding(name: str | None) -> str | None:
    """Return Python's name of an encoding, None or auto. Raises ValueError for a name of none."""
    if name not in {None, "auto"}:
        try:
            "a".encode(str(name))
        except (LookupError, ValueError):
            raise ValueError(
                f"{name} is no encoding: say gb18030, big5, shift_jis, latin_1, utf_16 … or auto"
            ) from None
    return name


class TrainSet(_Part):
    """Further training rows, whose batches are their own and have a loss of their own."""

    files: tuple[str, ...] = Field(min_length=1, description="files as data.train has them")
    loss: Loss = Field(description="what is minimised on them, as the recipe's loss")

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        if isinstance(value, dict):
            files, loss = value.get("files"), value.get("loss")
            value = {**value, "files": [files]} if isinstance(files, str) else value
            value = {**value, "loss": {"type": loss}} if isinstance(loss, str) else value
        return value


def require_folder_names(what: str, names: Iterable[str]) -> None:
    """Raise ValueError for a name that cannot be a folder's."""
    for name in names:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}", name):
            raise ValueError(f"{what}: {name!r} cannot name a folder: use letters, digits, '_' and '-'")


class Data(_Part):
    """Training and evaluation files, and what may be dropped from them."""

    train: tuple[str, ...] = Field(
        min_length=1,
        description="JSONL, JSON, CSV, TSV, Excel or Parquet files, relative to the recipe, or owner/name:split",
    )
    more: dict[str, TrainSet] = Field(
        default_factory=dict,
        description="sentence-transformers, embedding: further training sets by name, with files and loss each",
    )
    eval: tuple[str, ...] | None = Field(None, min_length=1, description="files to measure on, never trained on")
    eval_ratio: float | None = Field(
        None, gt=0, lt=1, description="instead of eval: this share of the queries is held out"
    )
    validation_ratio: float | None = Field(
        None, gt=0, lt=1, description="this share of the training queries is set aside for the trainer's own evaluation"
    )
    columns: dict[str, str] = Field(
        default_factory=dict, description="new name: name in the files, such as {query: question_text}"
    )
    ignore: tuple[str, ...] = Field(
        (),
        description="keys of the rows that hold texts and are not needed; any other text that nothing reads is refused",
    )
    encoding: str | None = Field(
        None, description="of text files that are not UTF-8, such as gb18030; auto goes by how each file begins"
    )
    instruction: str | None = Field(
        None, min_length=1, description="task sentence that is put in front of every query, and of no document"
    )
    min_label: float | None = Field(None, description="graded labels: what becomes 0 (0); goes with max_label")
    max_label: float | None = Field(None, description="graded labels: what becomes 1, such as 2 for labels 0, 1, 2")
    scores_as_labels: bool | None = Field(
        None, description="what pos_scores and neg_scores are: labels (true) or a teacher's scores (false)"
    )
    max_dropped: int = Field(0, ge=0, description="bad rows that may be dropped (and counted) before the run ends")
    overlap: Literal["drop", "keep"] = Field(
        "drop", description="training rows whose query is in eval: drop them, or keep them and measure too well"
    )
    seed: int = Field(42, description="decides the split and the order of candidates")

    @model_validator(mode="before")
    @classmethod
    def _lists(cls, value: Any) -> Any:
        if isinstance(value, dict):
            value = {
                key: [item] if key in {"train", "eval", "ignore"} and isinstance(item, str) else item
                for key, item in value.items()
            }
        return value

    @field_validator("more")
    @classmethod
    def _folder_names(cls, value: dict[str, TrainSet]) -> dict[str, TrainSet]:
        require_folder_names("more", value)
        return value

    @field_validator("encoding")
    @classmethod
    def _known_encoding(cls, name: str | None) -> str | None:
        return require_encoding(name)

    @model_validator(mode="after")
    def _one_eval(self) -> Data:
        if (self.eval is None) == (self.eval_ratio is None):
            raise ValueError("say what to measure on: eval (files) or eval_ratio (a share of train), one of the two")
        return self

    @model_validator(mode="after")
    def _no_overlap(self) -> Data:
        if self.overlap == "keep" and self.eval is None:
            raise ValueError("overlap: keep is about queries that eval has too; eval_ratio puts none on both sides")
        return self

    @model_validator(mode="after")
    def _label_range(self) -> Data:
        if self.max_label is None:
            if self.min_label is not None:
                raise ValueError("min_label needs max_label: labels are scaled from the one to the other")
        elif self.max_label <= (self.min_label or 0):
            raise ValueError("max_label must lie above min_label")
        return self


class Loss(_Part):
    """What the trainer minimises; each setting that the loss has is rendered, whether the recipe gives it or not."""

    type: Annotated[str, OneOf(list_names)] = Field(description=describe_losses())
    target: Literal["label", "teacher"] | None = Field(
        None, description="sentence-transformers: what is learnt, labels or teacher scores (margin_mse: teacher)"
    )
    graded: bool | None = Field(
        None, description="listwise_ce: labels are a distribution, not one positive among others (false)"
    )
    activation: Literal["identity", "sigmoid"] | None = Field(
        None, description="pointwise_mse, margin_mse: what the score passes before it is compared (identity)"
    )
    pos_weight: float | None = Field(None, gt=0, description="pointwise_bce: the weight of positives (1)")
    k: int | None = Field(None, ge=1, description="lambda_loss: the cutoff of the nDCG that it bounds (none)")
    weighting: Literal["none", "ndcg1", "ndcg2", "ndcg2pp", "lambdarank"] | None = Field(
        None, description="lambda_loss: what a pair weighs (ndcg2pp)"
    )
    num_negatives: int | None = Field(
        None, ge=1, description="mnrl of rerankers: documents of other rows that a query is held against (4)"
    )
    alpha: float | None = Field(None, gt=0, description="adr_mse: how steep the ranks are approximated (1)")
    mini_batch_size: int | None = Field(
        None,
        ge=1,
        description="documents (losses over lists) or rows (cached_mnrl, cached_gist: 32) that pass at once",
    )
    temperature: float | None = Field(
        None, gt=0, description="infonce (0.1), listwise (1.0), gist (0.01), distill_kl (1.0)"
    )
    scale: float | None = Field(
        None, gt=0, description="mnrl and its kin, cosent, angle: 1 / temperature (20; of rerankers 10)"
    )
    margin: float | None = Field(
        None, ge=0, description="contrastive, online_contrastive (0.5), triplet (5), gist (0): how far apart"
    )
    margin_strategy: Literal["absolute", "relative"] | None = Field(
        None, description="gist: the margin is a difference (absolute), or a share of the positive's similarity"
    )
    guide: str | None = Field(None, min_length=1, description="gist, mse: a stronger embedding model, hub id or folder")
    translations: bool | None = Field(
        None, description="mse: a row's texts mean the same, and all learn the guide's vector of the first (false)"
    )
    contrast_anchors: bool | None = Field(None, description="gist: the batch's other queries are negatives (true)")
    contrast_positives: bool | None = Field(
        None, description="gist: the batch's other documents are a positive's negatives (true)"
    )
    gather_across_devices: bool | None = Field(
        None, description="mnrl, gist and their kin: the rows of all GPUs are negatives (false)"
    )
    distance_metric: Literal["cosine", "euclidean", "manhattan"] | None = Field(
        None, description="contrastive, online_contrastive (cosine), triplet (euclidean)"
    )
    similarity: Literal["dot", "cosine"] | None = Field(
        None, description="margin_mse, distill_kl of embedding models: what is held against the teacher's scores (dot)"
    )
    matryoshka_dims: dict[int, float] | None = Field(
        None, min_length=1, description="sentence-transformers, embedding: each size of vector and its weight"
    )
    n_layers_per_step: int | None = Field(
        None,
        ge=1,
        description="sentence-transformers, embedding: so many earlier layers, drawn anew each step, are trained too",
    )
    use_batch: bool | None = Field(None, description="infonce: the batch's other documents are negatives too (true)")
    hard_negatives: int | None = Field(
        None, ge=1, description="exactly so many negatives of each row (infonce repeats them where it has fewer)"
    )
    mask_fake_negative: bool | None = Field(
        None, description="infonce: leave out negatives that score above the positive by fake_neg_margin (false)"
    )
    fake_neg_margin: float | None = Field(None, description="infonce: see mask_fake_negative (0.1)")
    include_qq: bool | None = Field(None, description="infonce: the batch's other queries are negatives (false)")
    include_dd: bool | None = Field(None, description="infonce: a positive's negatives are documents too (false)")
    mrl_dims: dict[int, float] | None = Field(
        None, min_length=1, description="embedding: Matryoshka, each size of vector and its weight"
    )
    min_group_size: int | None = Field(None, ge=2, description="listwise: smaller groups are left out (2)")
    max_positives: int | None = Field(None, ge=1, description="reranker: positives drawn of a row each time (1)")
    max_negatives: int | None = Field(None, ge=1, description="reranker: negatives drawn for a positive (7)")
    _owner: tuple[str, str] = PrivateAttr(("", ""))  # backend and task, of whose losses it is one

    @model_validator(mode="before")
    @classmethod
    def _sizes(cls, value: Any) -> Any:
        for name in ("mrl_dims", "matryoshka_dims"):
            if isinstance(value, dict) and isinstance(value.get(name), list):
                value = {**value, name: dict.fromkeys(value[name], 1.0)}
        return value

    @property
    def facts(self) -> LossType:
        """What is known of its type: as its owner has it, or, without one, the first trainer that has it."""
        found = find_loss(*self._owner, self.type)
        if found is None:
            raise KeyError(self.type)
        return found

    def of(self, backend: str, task: str) -> Loss:
        """Return the loss, told whose it is."""
        self._owner = (backend, task)
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


class Guard(_Part):
    """Other data that a fine-tuned model must not get worse on."""

    data: tuple[str, ...] = Field(min_length=1, description="files in a form that data.eval may have")
    gate: dict[str, str] = Field(
        default_factory=dict, description='what must hold there, such as {ndcg@10: ">= baseline - 0.02"}'
    )

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        if isinstance(value, str | list):
            value = {"data": value}
        if isinstance(value, dict) and isinstance(value.get("data"), str):
            value = {**value, "data": [value["data"]]}
        return value


class Evaluate(_Part):
    """How models are measured."""

    metrics: tuple[str, ...] | None = Field(
        None, min_length=1, description="the first is the headline; what fits the evaluation set when left out"
    )
    baselines: tuple[Literal["native", "trained-format"], ...] = Field(
        ("native", "trained-format"),
        description="native: as the base model's authors use it; trained-format: as this recipe trains it; the first "
        "is the yardstick",
    )
    instruction: str | None = Field(
        None, description="task sentence for base models that take one (Qwen3-Reranker's native prompt)"
    )
    batch_size: int | None = Field(None, ge=1, description="pairs scored at once (8 for an LLM, 32 for an encoder)")
    generate: int = Field(32, ge=0, description="sft: evaluation rows that are answered by both models")
    max_new_tokens: int = Field(128, ge=1, description="sft: the longest of these answers, in tokens")
    test_prompt: str | None = Field(
        None, min_length=1, description="a text that the package is tried on, before and after the merge"
    )
    guard: dict[str, Guard] = Field(
        default_factory=dict, description="name: data on which forgetting shows, measured before and after"
    )
    seed: int = Field(42, description="decides bootstrap resamples and permutations")

    @field_validator("guard")
    @classmethod
    def _folder_names(cls, value: dict[str, Guard]) -> dict[str, Guard]:
        require_folder_names("guard", value)
        return value


class Launch(_Part):
    """Where and how the backend's processes run."""

    nproc_per_node: int | Literal["auto"] = Field("auto", description="processes; auto: one a GPU, one on a CPU")
    strategy: Literal["ddp", "fsdp"] | None = Field(
        None, description="how several processes share the training: ddp, or fsdp (sentence-transformers; encoders)"
    )
    env: dict[str, str] = Field(default_factory=dict, description="environment of every stage; no secrets")
    python: str | None = Field(None, description="the backend's own Python, when it is not Orch's")
    timeout_s: float | None = Field(None, gt=0, description="time limit of each stage, in seconds")
    stop_patience_s: float = Field(15.0, ge=0, description="seconds that a stage has to end after INT")

    @model_validator(mode="after")
    def _positive(self) -> Launch:
        if isinstance(self.nproc_per_node, int) and self.nproc_per_node < 1:
            raise ValueError("nproc_per_node is at least 1")
        return self


class Watch(_Part):
    """What ends a stage that makes no progress, and what is done about a training that learns nothing."""

    stall_timeout_s: float | None = Field(
        3600.0, gt=0, description="seconds without a byte in its logs and without a step before a stage is stopped"
    )
    diverged: Literal["stop", "warn"] = Field(
        "stop", description="the loss is NaN, infinite or exactly 0 in `reports` logged steps"
    )
    flat: Literal["stop", "warn", "ignore"] = Field(
        "warn", description="the loss stays at that of a model that scores every document of a group alike"
    )
    reports: int = Field(5, ge=1, description="logged steps in a row that show it")
    on_oom: Literal["fail", "retry"] = Field(
        "fail",
        description="out of memory: retry halves the batch and doubles gradient_accumulation_steps, where that leaves "
        "the objective unchanged, and continues from the last checkpoint",
    )


class Recipe(_Part):
    """One fine-tuning job, from data to verdict."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="names the run folder")
    task: Literal["reranker", "embedding", "sft"] = Field(description="what the model will do")
    backend: Annotated[str, OneOf(lambda: TOOLS)] = Field(description="the tool that trains")
    model: ModelRef = Field(description="the base model")
    data: Data
    teacher: Teacher | None = Field(None, description="a model whose scores are learnt (distillation)")
    loss: Loss | None = Field(None, description="what the trainer minimises, and its settings")
    train: dict[str, Any] = Field(default_factory=dict, description="the backend's own arguments, under its own names")
    deepspeed: str | None = Field(
        None,
        description="stage0 (flagembedding), zero0 to zero2 (all), zero3 (swift), or a DeepSpeed JSON file beside the "
        "recipe",
    )
    deterministic: bool = Field(
        False, description="seeds, deterministic kernels, no TF32 and one data worker: the same run twice, bit for bit"
    )
    checkpoint: Literal["best", "last"] | int | None = Field(
        None, description="which checkpoint becomes the model: best on the validation rows, last, or a step"
    )
    merge: bool = Field(True, description="merge LoRA weights into the base model")
    evaluate: Evaluate = Evaluate()
    gate: dict[str, str] = Field(default_factory=dict, description='what must hold, such as {ndcg@10: "> baseline"}')
    launch: Launch = Launch()
    watch: Watch = Watch()

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        if isinstance(value, dict):
            for key, name in (("model", "path"), ("teacher", "path"), ("loss", "type")):
                if isinstance(value.get(key), str):
                    value = {**value, key: {name: value[key]}}
        return value

    @model_validator(mode="after")
    def _labels_or_teacher(self) -> Recipe:
        by_teacher = self.loss is not None and find_target(self.loss.of(self.backend, self.task)) == "teacher"
        if self.data.scores_as_labels and (self.teacher is not None or by_teacher):
            raise ValueError("data.scores_as_labels: true leaves no scores for a teacher: remove it, or the teacher")
        return self


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
    texts = ({"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1})
    allow(top, "model", {"type": "string", "minLength": 1}, {"$ref": "#/$defs/ModelRef"})
    allow(top, "teacher", {"type": "string", "minLength": 1}, {"$ref": "#/$defs/Teacher"}, optional=True)
    allow(top, "loss", {"$ref": "#/$defs/Loss/properties/type"}, {"$ref": "#/$defs/Loss"}, optional=True)
    sizes = {"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 1}
    for name in ("mrl_dims", "matryoshka_dims"):
        allow(loss, name, sizes, {"type": "object", "additionalProperties": {"type": "number"}}, optional=True)
    more = definitions["TrainSet"]["properties"]
    allow(more, "loss", {"$ref": "#/$defs/Loss/properties/type"}, {"$ref": "#/$defs/Loss"})
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
