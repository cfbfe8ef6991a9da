"""Train an embedding model with sentence-transformers' trainer, as one settings file says, or by a guide's vectors."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any

from orchestrator.workers import training
from orchestrator.workers.embedding import losses
from orchestrator.workers.embedding.losses import LABEL, LOSSES, LossSettings, Rows
from orchestrator.workers.embedding.model import add_dense, keep_layers, load_encoder
from orchestrator.workers.engines.sentence_transformers import build_quantization
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.folders import fresh_folder, read_object
from orchestrator.workers.settings import COUNT, STRING, Rule, names_of, one_of, or_null
from orchestrator.workers.settings import parse_settings as parse_fields
from orchestrator.workers.specs import POOLINGS, EmbeddingSpec
from orchestrator.workers.training import Prepared, SharedSettings, build_arguments, build_dataset

LAYERS = Rule(
    "must be a list of layers, counted from 0, each once and in order",
    lambda value: isinstance(value, list) and bool(value) and value == sorted({*value}) and value[0] >= 0,
)
MORE = Rule(
    "must be an object of sets and their losses",
    lambda value: isinstance(value, dict) and all(isinstance(loss, dict) for loss in value.values()),
)


@dataclass(frozen=True)
class Dense:
    """A new layer behind the pooling."""

    out_features: Annotated[int, COUNT]
    activation: Annotated[str, one_of("tanh", "identity")]


@dataclass(frozen=True)
class EmbeddingSettings:
    """How texts become vectors; `pooling` and `normalize` count for a base that does not say them itself.

    `dense` and `layers` say how the model is changed before it is trained.
    """

    max_length: Annotated[int, COUNT]
    query_prompt: Annotated[str, STRING] = ""
    document_prompt: Annotated[str, STRING] = ""
    pooling: Annotated[str | None, or_null(one_of(*POOLINGS))] = None
    normalize: bool = True
    dense: Dense | None = None
    layers: Annotated[list[int] | None, or_null(LAYERS)] = None


@dataclass(frozen=True, kw_only=True)
class Settings(SharedSettings):
    """One training; `sources` name files in the folder `train` beside the rows, which make batches of their own.

    `more` holds the loss of each further set, by the name of its folder in `train`.
    """

    loss: LossSettings
    embedding: EmbeddingSettings
    sources: Annotated[list[str] | None, or_null(names_of("files"))] = None
    more: Annotated[dict[str, Any], MORE] = field(default_factory=dict)

    @property
    def parts(self) -> dict[str, Path]:
        """The files that make batches of their own, by their names; the one file of all rows under ""."""
        return {Path(name).stem: self.train.parent / "train" / name for name in self.sources or ()} or {"": self.train}

    @property
    def more_losses(self) -> dict[str, LossSettings]:
        """The losses of the further sets. Raises WorkerError for settings that no loss has."""
        return {name: parse_fields(LossSettings, raw, f"more.{name}") for name, raw in self.more.items()}

    def find_rows(self, name: str) -> Path:
        """Return the file of a further set."""
        return self.train.parent / "train" / name / "train.jsonl"


def load_settings(path: Path) -> Settings:
    """Return the settings in a JSON file. Raises WorkerError with every problem that the file has."""
    raw, origin = read_object(path, "the training's settings"), str(path)
    settings = parse_fields(Settings, raw, origin)
    problems = [*_check_loss(settings, raw["loss"]), *training.check_shared(settings)]
    for name, loss in settings.more_losses.items():
        one = replace(settings, loss=loss, form=LOSSES[loss.type].form if loss.type in LOSSES else "")
        problems += [f"more.{name}: {problem}" for problem in _check_loss(one, settings.more[name])]
    if problems:
        raise WorkerError(*(f"{origin}: {problem}" for problem in problems))
    return settings


def _check_loss(settings: Settings, given: dict[str, Any]) -> list[str]:
    name = settings.loss.type
    if name not in LOSSES:
        return [f"loss.type is {name!r}; known are {', '.join(LOSSES)}"]
    loss = LOSSES[name]
    problems = [f"loss.{key} is no setting of {name}" for key in given if key not in {"type", *loss.settings}]
    for one in settings.loss.plus or ():
        own = {"type", *LOSSES[one["type"]].settings} if one.get("type") in LOSSES else set()
        problems += [f"loss.plus.{key} is no setting of {one.get('type')}" for key in one if key not in own]
    if settings.form != loss.form:
        problems.append(f"form is {settings.form!r}, and {name} learns from {loss.form}")
    if "guide" in loss.settings and settings.loss.guide is None:
        problems.append(f"{name} needs a guide")
    batch = settings.arguments.get("per_device_train_batch_size", 8)
    alone = batch == 1 and not settings.loss.hard_negatives and not settings.loss.gather_across_devices
    if loss.in_batch and alone:
        problems.append(f"a batch of one row has no other rows, which are the negatives of {name}")
    return problems


_NAME, _FILE = "vectors", "vectors.safetensors"
_CALL = 4096  # texts between two lines of the log


@dataclass(frozen=True)
class Teacher:
    """The guide of a loss, loaded for the first vectors that are not kept in `folder` as safetensors."""

    loss: LossSettings
    model: Any
    folder: Path
    batch_size: int

    def teach(self, name: str, rows: Rows) -> Rows:
        """Return the rows with the vectors as labels: [rows, texts, numbers], or [rows, numbers] of translations.

        Raises WorkerError where the vectors of the two models differ in length, or hold NaN or infinity.
        """
        import numpy as np
        from safetensors.numpy import load_file, save_file

        said = json.dumps([self.loss.guide, self.loss.translations, rows.columns], ensure_ascii=False)
        folder = self.folder / hashlib.sha256(said.encode()).hexdigest()[:32]
        if not folder.is_dir():
            learnt = list(rows.columns)[:1] if self.loss.translations else list(rows.columns)
            columns = [self._encode(f"{name} {key}", key, rows.columns[key]) for key in learnt]
            vectors = columns[0] if self.loss.translations else np.stack(columns, axis=1)
            with fresh_folder(folder) as part:
                save_file({_NAME: vectors}, part / _FILE)
        return replace(rows, columns=rows.columns | {LABEL: load_file(folder / _FILE)[_NAME]})

    def _encode(self, name: str, key: str, texts: Sequence[str]) -> Any:
        """Return one vector a text, as the guide gives it with its own prompt; equal texts cost once."""
        import numpy as np

        encode = self._guide.encode_query if key in losses.QUERIES else self._guide.encode_document
        unique, found = list(dict.fromkeys(texts)), []
        for start in range(0, len(unique), _CALL):
            call = unique[start : start + _CALL]
            found.append(np.asarray(encode(call, batch_size=self.batch_size, show_progress_bar=False), np.float32))
            print(f"vectors of {name}: {start + len(call)} of {len(unique)} texts", flush=True)  # noqa: T201
        vectors = np.concatenate(found)
        if not np.isfinite(vectors).all():
            raise WorkerError(f"the guide {self.loss.guide} gives NaN or infinity: it is broken")
        places = {text: place for place, text in enumerate(unique)}
        return vectors[[places[text] for text in texts]]

    @cached_property
    def _guide(self) -> Any:
        guide = losses.load_guide(str(self.loss.guide), self.model)
        theirs = guide.get_embedding_dimension()
        own = self.loss.projection_dim or self.model.get_embedding_dimension()
        if theirs != own:
            whose = "projection_dim" if self.loss.projection_dim else "the model's"
            raise WorkerError(
                f"the vectors of the guide {self.loss.guide} have {theirs} numbers and {whose} {own}: "
                f"{self.loss.type} compares them number by number; take a guide of {own}, or embed_distill with "
                f"projection_dim {theirs}"
            )
        return guide


_OF_SPEC = ("max_length", "query_prompt", "document_prompt", "pooling", "normalize")
MAIN = "main set"  # no name of a further one, which has no blank


def load_model(settings: Settings, arguments: Any) -> Any:
    """Return the SentenceTransformer that `score` measures, on the CPU (the trainer moves it), with its prompts.

    Quantised weights are loaded on the training's device. It is changed as the settings say. Raises WorkerError for
    what `load_encoder`, quantising or a change refuses.
    """
    own = {name: getattr(settings.embedding, name) for name in _OF_SPEC}
    # as `score` loads the same model: full precision, whole vectors
    spec = EmbeddingSpec(**own, trust_remote_code=settings.trust_remote_code, tool="sentence-transformers")
    quantization = build_quantization(settings.lora, arguments)
    device = str(arguments.device) if quantization else "cpu"
    model = load_encoder(settings.model, spec, device, quantization=quantization).model
    model.prompts = {"query": spec.query_prompt, "document": spec.document_prompt}
    model.default_prompt_name = None
    if settings.embedding.layers is not None:
        keep_layers(model, settings.embedding.layers)
    if settings.embedding.dense is not None:
        add_dense(model, settings.embedding.dense, settings.seed)
    return model


def name_prompts(settings: Settings, sets: Iterable[Rows]) -> dict[str, str]:
    """Return what stands in front of each column's texts; a column without a prompt is left out."""
    embedding = settings.embedding
    prompts = {
        name: embedding.query_prompt if name in losses.QUERIES else embedding.document_prompt
        for rows in sets
        for name in rows.columns
        if name != LABEL
    }
    return {name: prompt for name, prompt in prompts.items() if prompt}


def build_trainer(
    settings: Settings, arguments: Any, train: dict[str, Rows], validation: Rows | None, model: Any
) -> Any:
    """Return the trainer."""
    import torch
    from datasets import DatasetDict
    from sentence_transformers import SentenceTransformerTrainer

    # a vector is pooled from the tokens: BERT's own pooler takes no part, and several processes would wait for it
    for name, weight in model.transformers_model.named_parameters():
        if name.startswith("pooler."):
            weight.requires_grad_(False)  # an adapter's as well
    arguments.prompts = name_prompts(settings, train.values()) or None
    if LOSSES[settings.loss.type].vectors:
        main = {name: rows for name, rows in train.items() if name not in settings.more}
        teacher = Teacher(settings.loss, model, settings.output.parent / "vectors", arguments.eval_batch_size)
        with arguments.main_process_first(local=False):  # which computes them, and the others read
            train = train | {name: teacher.teach(f"train {name}".rstrip(), rows) for name, rows in main.items()}
            validation = teacher.teach("validation", validation) if validation else None
    torch.manual_seed(settings.seed)  # a loss may have weights of its own; the trainer seeds anew
    loss, *more = [LOSSES[one.type].build(model, one) for one in (settings.loss, *settings.more_losses.values())]
    for one in more:
        training.guard_loss(one)
    if more:
        loss.others = torch.nn.ModuleList(more)  # the optimizer looks for weights in the trainer's one loss
    base = choose_loss(SentenceTransformerTrainer, loss, dict(zip(settings.more, more, strict=True)))
    evaluator = None
    if validation:
        prompts = (settings.embedding.query_prompt, settings.embedding.document_prompt)
        evaluator = losses.build_evaluator(validation, *prompts, arguments.eval_batch_size)
    sets = DatasetDict({name: build_dataset(rows.columns, classes=bool(rows.classes)) for name, rows in train.items()})
    checked = build_dataset(validation.columns, classes=bool(validation.classes)) if validation else None
    return training.build_trainer(
        base, settings, loss, model=model, args=arguments, evaluator=evaluator, eval_dataset=checked,
        train_dataset=sets if len(sets) > 1 else next(iter(sets.values())),
    )  # fmt: skip


def choose_loss(base: Any, main: Any, more: Mapping[str, Any]) -> Any:
    """Return the library's trainer with the loss of each batch's own set; validation rows have the main one.

    The library's own dictionary of losses would ask for validation rows of every set, and name their losses apart.
    """
    if not more:
        return base

    class Several(base):  # type: ignore[misc]
        """Marks every batch with its set, and takes the loss of that."""

        def should_dataset_name_column_be_added(self, dataset: Any, *_: Any) -> bool:
            return isinstance(dataset, dict)

        def compute_loss(self, model: Any, inputs: dict[str, Any], *rest: Any, **options: Any) -> Any:
            self.loss = more.get(inputs.get("dataset_name", ""), main)
            return super().compute_loss(model, inputs, *rest, **options)

    return Several


def prepare_training(settings: Settings) -> Prepared:
    """Return the training on its rows. Raises WorkerError for rows that cannot be learnt from.

    Where no order of the validation rows can be measured, the best checkpoint is the one with the lowest loss.
    """
    from sentence_transformers import SentenceTransformerTrainingArguments

    arguments = build_arguments(settings, SentenceTransformerTrainingArguments, settings.arguments)
    train = {name: losses.load_rows(path, settings.loss) for name, path in settings.parts.items()}
    for part in train.values() if settings.form == losses.CLASSES else ():
        if sum(count > 1 for count in Counter(part.columns[LABEL]).values()) < 2:  # noqa: PLR2004 - what a batch needs
            raise WorkerError(f"fewer than two classes have two of the {part.count} training texts: mix their order")
    most = max(rows.negatives for rows in train.values())
    if settings.more:
        train = {name or MAIN: rows for name, rows in train.items()}
        train |= {name: losses.load_rows(settings.find_rows(name), loss) for name, loss in settings.more_losses.items()}
    validation = losses.load_rows(settings.validation, settings.loss, most) if settings.validation else None
    if validation and losses.build_evaluator(validation, "", "", 1) is None:
        arguments.metric_for_best_model, arguments.greater_is_better = "eval_loss", False
    build = partial(build_trainer, settings, arguments, train, validation)
    return Prepared(arguments, partial(load_model, settings, arguments), build, train, validation)


def main(argv: list[str]) -> int:
    """Write checkpoints and the links `last` and `best` into the settings' output folder."""
    return training.run_worker(argv, "train_embedding", __doc__, load_settings, prepare_training)
