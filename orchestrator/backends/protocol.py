"""What a backend must offer, and what it is told about a job."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import msgspec
from msgspec.structs import replace

from orchestrator.backends.aliases import Translation, list_old_names, resolve_paths, translate
from orchestrator.backends.arguments import Argument, build_schema, check_arguments, coerce_all, load_arguments
from orchestrator.backends.models import BaseModel
from orchestrator.backends.render import render_command
from orchestrator.errors import Problem, RecipeError
from orchestrator.logs.patches import Remedies
from orchestrator.machine.hardware import Hardware
from orchestrator.recipe.losses import list_variables
from orchestrator.recipe.plan import Command, File, Note, Resume
from orchestrator.recipe.registry import TOOLS
from orchestrator.recipe.schema import Loss, Recipe, Track, choose_loss

Found = tuple[tuple[str, ...], Problem]  # the path of the key to change, and what is wrong with it


class Job(msgspec.Struct, frozen=True):
    """Everything that decides a plan: the recipe, and what was found out about the machine."""

    recipe: Recipe
    recipe_folder: Path
    run_dir: Path
    model: BaseModel
    hardware: Hardware
    versions: dict[str, str]
    backend_python: str
    orch_python: str
    workers: str
    smoke: bool = False
    kind: str = "group"  # of the data: group, labelled, pair, class or chat
    deepspeed_text: str | None = None
    cache_dir: str = ""  # this user's cache of things that are built once a machine
    teacher: BaseModel | None = None
    guard_kinds: Mapping[str, str] = {}  # guard → the kind of its rows
    export_python: str | None = None  # where it is not the backend's

    @property
    def backend(self) -> Backend:
        """The tool that trains it."""
        return find_trainer(self.recipe)

    @property
    def loss(self) -> Loss | None:
        """What is minimised, said or not; None where the trainer has but one loss."""
        recipe = self.recipe
        return choose_loss(recipe.backend, recipe.task, recipe.loss, recipe.train)

    @property
    def speedups(self) -> tuple[str, ...]:
        """What the trainer does with less waste: all that its backend knows, those of the recipe's list, or nothing."""
        asked = self.recipe.speedups
        return tuple(self.backend.speedups(self)) if asked == "auto" else () if asked == "none" else asked

    def processes(self) -> int:
        """Return how many processes train on this machine: one a GPU, one on a CPU, unless the recipe says it."""
        asked = self.recipe.launch.nproc_per_node
        if asked != "auto":
            return asked
        return 1 if self.hardware.kind == "cpu" else max(1, self.visible_gpus())

    def world_size(self) -> int:
        """Return how many processes train together, on all hosts."""
        return self.processes() * self.hosts()

    def hosts(self) -> int:
        """Return how many hosts train together; `auto` has become a number by now, or is one."""
        asked = self.recipe.launch.nnodes
        return 1 if asked == "auto" else asked

    def chosen_gpus(self) -> tuple[str, ...] | None:
        """Return the GPUs that the recipe's CUDA_VISIBLE_DEVICES leaves to every stage; None where it says nothing."""
        visible = self.recipe.launch.env.get("CUDA_VISIBLE_DEVICES")
        return None if visible is None else tuple(name for name in visible.split(",") if name.strip())

    def visible_gpus(self) -> int:
        """Return how many of the machine's GPUs a stage sees."""
        chosen = self.chosen_gpus()
        return self.hardware.count if chosen is None else min(len(chosen), self.hardware.count)

    @property
    def tracking(self) -> dict[str, str]:
        """What the workers that tell trackers of the run are told; empty without trackers."""
        return list_tracking(self.recipe.track, self.run_dir, self.recipe.name) if self.recipe.track else {}

    def environment(self, model: BaseModel | None = None) -> dict[str, str]:
        """Return the environment of every stage that loads the model (the base); the recipe's own variables win."""
        env = {"PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1", "TOKENIZERS_PARALLELISM": "false"}
        if self.smoke or not (model or self.model).comes_by_its_id:
            env["HF_HUB_OFFLINE"] = "1"
        if self.hardware.kind == "cpu":
            env["CUDA_VISIBLE_DEVICES"] = ""
        if self.smoke:
            env["OMP_NUM_THREADS"] = "1"  # on tiny matrices threads only wait for one another
        teacher = self.recipe.teacher if model is not None and model == self.teacher else None
        if (teacher or self.recipe.model).allow_pickle:
            env["ORCH_ALLOW_PICKLE"] = "1"  # workers/environment.py reads it
        return env | self.recipe.launch.env


def list_tracking(track: Track, run_dir: Path, name: str) -> dict[str, str]:
    """Return the options of workers/track.py for a run of the recipe `name`; a sweep's trials belong to the sweep."""
    group = run_dir.parents[1].name if run_dir.parent.name == "trials" else name
    return {"run": str(run_dir), "to": ",".join(dict.fromkeys(track.to)), "project": track.project, "group": group}


def eval_kind(job: Job, guard: str | None = None) -> str:
    """Return how the job, or one of its guards, is measured: group, retrieval (over the whole corpus), pair or chat."""
    kind = job.guard_kinds[guard] if guard else job.kind
    if kind == "labelled":
        return "group"
    return "retrieval" if job.recipe.task == "embedding" and kind in {"group", "class"} else kind


def name_checkpoint(job: Job, *, last: str) -> str:
    """Return which checkpoint of the output folder becomes the model; `last` is what the trainer calls the newest."""
    asked = job.recipe.checkpoint
    if isinstance(asked, int) and not job.smoke:
        return f"checkpoint-{asked}"
    best = asked == "best" or (asked is None and job.recipe.data.validation_ratio is not None)
    return "best" if best else last


class Training(msgspec.Struct, frozen=True):
    """A backend's train stage, and what follows from its arguments."""

    command: Command
    files: tuple[File, ...]
    notes: tuple[Note, ...]
    outputs: tuple[str, ...]
    lora: bool
    prepare: dict[str, Any]  # flags of the prepare stage: what the trainer will cut, what its loss needs
    scoring: dict[str, Any]  # how a model trained so must be scored
    weights: str  # the folder that holds the trained adapter, or the whole model
    reads: tuple[str, ...] = ()  # files and folders of the recipe besides data and base model, absolute, or hub ids
    resume: Resume | None = None
    full_batch_rows: int = 1  # rows that one optimizer step needs on all processes
    counts_rows: bool = False  # whether the trainer's log says how many rows it has loaded
    world_size: int = 1  # processes that share it
    step_rows: int = 1  # rows of one optimizer step, of all processes together
    batch: int = 1  # rows of one process's forward pass
    accumulation: int = 1  # forward passes of one optimizer step
    parts: tuple[str, ...] = ()  # ways of comparing texts besides the model's vector, each measured apart
    base_has_parts: bool = True  # whether the base model can be compared so, too
    flat_loss: float | None = None  # the loss of a model that scores everything alike, where that is one number
    more: Mapping[str, Mapping[str, Any]] = {}  # a further set → kind, form, flags of its rows


class SmokeScale(msgspec.Struct, frozen=True):
    """What `--smoke` sets: few rows and steps, short texts, nothing that a CPU cannot do."""

    train: dict[str, Any] = {}
    leave_out: frozenset[str] = frozenset()  # arguments that make no sense on a tiny model
    recipe: dict[str, Any] = {}  # other parts of the recipe that a tiny model needs smaller
    like: tuple[str, str] | None = None  # kind and type of the tiny model, where task and family do not tell them
    limit_train: int = 16
    limit_eval: int = 12


class BuildTraining(Protocol):
    """Builds a train stage."""

    def __call__(self, job: Job, *, model: str, data: str, output: str) -> Training:
        """Return the train stage for the base model at `model` on the prepared folder `data`; all paths absolute."""
        ...


def _merge_by_orch(job: Job, base: str, adapter: str, output: str) -> Command:
    """Return Orch's own merge, for tools that merge only in memory, at the end of a training (decisions/0003)."""
    return render_command(
        "orch/merge.j2",
        env=job.environment(),
        cwd=str(job.run_dir),
        python=job.backend_python,
        workers=job.workers,
        base=base,
        adapter=adapter,
        out=output,
        trust_remote_code=job.model.trust_remote_code,
    )


# Also what is imported late, or each fork would import it again. Nothing here may compute: no thread survives a fork.
WORKER_IMPORTS = (
    "sentence_transformers",
    "peft.tuners.lora",
    "peft.utils.transformers_weight_conversion",
    "datasets.packaged_modules.json.json",
    "scipy.io",  # datasets patches it before it reads a file
    "torch.profiler._cupti_monitor",
    "transformers.hf_argparser",
    "transformers.models.bert.modeling_bert",
    "transformers.models.qwen3.modeling_qwen3",
)


class Backend(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """A tool that trains: everything that Orch knows of it. Whoever wants to know asks here, and never for its name.

    A new one is a module of this folder with its `BACKEND`, its folder in `templates/`, a snapshot of its arguments,
    and one line of recipe/registry.py; its losses stand in recipe/losses.yaml.
    """

    name: str  # as recipes say it, and the extra of pyproject.toml that installs it
    title: str  # as people call it
    trainers: str  # who has the arguments of `train:`, in messages
    distributions: tuple[str, ...]  # what its Python must have; the tool itself comes first
    tasks: tuple[str, ...]
    own_modules: Mapping[str, str] = {}  # task → the module of the descriptor for that alone
    deepspeed_names: tuple[str, ...] = ()  # configurations that it brings along and knows by name
    kind: str | None = None  # of the rows that it trains on, where it takes but one
    needs_negatives: bool = False  # whether every row must have one
    family: str | None = None  # of every model that it trains, where nothing tells it
    embeds_by: str = ""  # how it makes vectors, where it is not the model that decides it
    lengths: tuple[str, ...] = ("max_length",)  # the arguments that bound the tokens of a text
    lengths_add_up: bool = True  # whether they do so together; else each bounds texts of its own
    length_counts_prompt: bool = False  # whether they count the prompt of a model that has one
    lora: Mapping[str, Any] = {}  # the arguments that turn LoRA on; empty: it has none
    lora_families: tuple[str, ...] = ("decoder",)  # of the models that it may be turned on for
    layer_kinds: frozenset[str] = frozenset()  # what `target_modules` may hold besides names of layers
    loads: str = ""  # the weights' width: `float32`, the argument that says it, or the config's (empty)
    scores_vocabulary: bool = False  # whether it computes an LLM's logits over the vocabulary to score a pair
    speedups: Callable[[Job], tuple[str, ...]] = lambda _: ()  # what it can do with less waste and equal results
    checkpointing: bool = False  # whether gradient checkpointing is on where nobody says it
    own_loader: bool = False  # whether rows reach its processes by a loader that asks accelerate for nothing
    data_workers: int = 0  # that load rows where nobody says it
    spreads_layers: bool = False  # whether it lays one process's layers over several GPUs (device_map)
    changes_models: bool = False  # whether it adds a layer behind the pooling, or leaves some out (model.dense, layers)
    takes_sets: bool = False  # whether it trains on several sets with a loss each (data.more)
    evaluates: bool = False  # whether it evaluates while it trains
    starts_fsdp: bool = False  # whether `launch: {distributed: fsdp}` is for it
    other_models: str = ""  # what to name for a model that a trainer of text rerankers cannot take
    reads_patterns: bool = True  # whether it hands paths to a library that reads some characters as patterns
    # what its stages' starts spend their time on, by a word of the command line; "" for every other worker
    imports: Mapping[str, tuple[str, ...]] = msgspec.field(default_factory=lambda: {"": WORKER_IMPORTS})
    own_variables: tuple[str, ...] = ()  # environment variables besides its losses' that it reads unasked
    remedies: Remedies = msgspec.field(default_factory=Remedies)
    snapshots: tuple[str, ...]  # of the arguments that its trainers accept, by model family where there are several
    choose_snapshot: Callable[[Job], str] | None = None  # where more than the family decides
    command_snapshots: tuple[str, ...] = ()  # of its other commands
    own_arguments: Mapping[str, Argument] = {}  # what Orch's worker that starts it takes
    aliases: str = "trainer"  # whose rows of arguments/aliases.yaml are for it
    reserved: Mapping[str, str]  # arguments that Orch sets: where a recipe says them instead
    others: Mapping[str, str | Problem] = {}  # other trainers' arguments: what to say
    at_least: Mapping[str, float] = {}  # the smallest value of an argument
    check_values: Callable[[Mapping[str, Any]], Iterable[tuple[str, Problem]]] = lambda _: ()  # of typed values
    trains_lora: Callable[[Job], bool] = lambda _: False
    data_form: Callable[[Job], str]  # the writer of orchestrator.data that makes its train file
    check_job: Callable[[Job], list[Found]]  # what does not fit together, each with the path of the key to change
    smoke_scale: Callable[[Job], SmokeScale]
    build_training: BuildTraining
    merge: Callable[[Job, str, str, str], Command] = _merge_by_orch  # of the folders base, adapter and output

    def for_task(self, task: object) -> Backend:
        """Return what it is for a task: itself, or the descriptor of those of its trainers that are for that alone."""
        module = self.own_modules.get(str(task))
        return import_module(module).BACKEND if module else self

    @cached_property
    def arguments(self) -> dict[str, Argument]:
        """Every argument that `train:` may hold, old spellings included."""
        known = {name: one for snapshot in self.snapshots for name, one in load_arguments(snapshot).items()}
        return known | list_old_names(self.aliases) | dict(self.own_arguments)

    def json_schema(self) -> dict[str, dict[str, Any]]:
        """Return the JSON Schema of each name under `train:`, whatever the task."""
        own = build_schema(self.arguments, self.reserved)
        return {name: one for task in self.own_modules for name, one in self.for_task(task).json_schema().items()} | own

    def type_all(self, train: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values of `train:` as the trainer's own types."""
        return coerce_all(train, self.arguments)

    def translate(self, job: Job) -> Translation:
        """Return the recipe's arguments as the installed version spells them, paths absolute."""
        typed = self.type_all(job.recipe.train)
        translation = translate(self.aliases, typed, job.versions, job.recipe.task)
        translation = resolve_paths(job.recipe_folder, translation, self.arguments)
        return _keep_batch(job, translation) if job.recipe.launch.keep_global_batch and not job.smoke else translation

    def find_snapshot(self, job: Job) -> str:
        """Return which of its snapshots holds the arguments of the job's trainer."""
        if self.choose_snapshot is not None:
            return self.choose_snapshot(job)
        return next((name for name in self.snapshots if job.model.family in name), self.snapshots[0])

    def check_train(self, train: Mapping[str, Any]) -> list[tuple[str, Problem]]:
        """Return what is wrong with single values: unknown names, Orch's own, wrong types, choices and sizes."""
        problems = check_arguments(train, self.arguments, self.reserved, whose=self.trainers, elsewhere=self.others)
        typed = self.type_all(train)
        small = [(name, least) for name, least in self.at_least.items() if name in typed and typed[name] < least]
        problems += [(name, Problem(f"{name} is {typed[name]}; it must be at least {least}")) for name, least in small]
        return [*problems, *self.check_values(typed)]

    def build_merge(self, job: Job, *, base: str, adapter: str, output: str) -> Command:
        """Return the command that folds an adapter into its base; `output` appears whole or not at all.

        Raises RecipeError where the tool trains no adapters.
        """
        if not self.lora:
            raise RecipeError(f"{self.title} trains no LoRA: there is nothing to merge", hint="say merge: false")
        return self.merge(job, base, adapter, output)

    def describe_lora(self) -> str:
        """Return the arguments that turn LoRA on as a recipe says them."""
        return ", ".join(f"{name}: {str(value).lower()}" for name, value in self.lora.items())

    @property
    def variables(self) -> tuple[str, ...]:
        """The environment variables that it reads wherever they come from, and records nowhere."""
        return (*list_variables(self.name), *self.own_variables)


def _keep_batch(job: Job, translation: Translation) -> Translation:
    """Return the arguments with the accumulation of one process shared out among all; or why it cannot be."""
    name, world = "gradient_accumulation_steps", job.world_size()
    given = int(translation.arguments.get(name, 1))
    if given % world:
        rows = given * int(translation.arguments.get("per_device_train_batch_size", 8))
        message = f"launch.keep_global_batch: {name} {given} cannot be shared among {world} processes"
        fits = f"say {name}: {world}, and per_device_train_batch_size: {rows // world}, which are {rows} rows as before"
        hint = f"say a multiple of {world}" if rows % world else fits
        return replace(translation, problems=[*translation.problems, (name, Problem(message, hint))])
    why = f"launch.keep_global_batch: {given} for one process, shared among {world}"
    arguments = translation.arguments | {name: given // world}
    return replace(translation, arguments=arguments, why={**translation.why, name: why})


class _Registry(Mapping[str, Backend]):
    """The tools of recipe/registry.py; the module of each is imported when somebody asks for it."""

    def __getitem__(self, name: str) -> Backend:
        found: Backend = import_module(TOOLS[name]).BACKEND
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(TOOLS)

    def __len__(self) -> int:
        return len(TOOLS)


BACKENDS: Mapping[str, Backend] = _Registry()


def find_trainer(recipe: Recipe) -> Backend:
    """Return what trains a recipe's model: its backend, as it is for its task."""
    return BACKENDS[recipe.backend].for_task(recipe.task)
