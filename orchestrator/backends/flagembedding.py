"""FlagEmbedding's reranker trainers, decoder-only (LLM) and encoder-only (BERT-like), as rendered commands."""

from __future__ import annotations

import difflib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.backends.arguments import Argument, coerce, load_arguments
from orchestrator.backends.protocol import Job, SmokeScale, Training
from orchestrator.backends.spellings import OLD_SPELLINGS, Translation, translate
from orchestrator.errors import Problem
from orchestrator.plan import File, Note, Resume
from orchestrator.render import render_command

if TYPE_CHECKING:
    from collections.abc import Mapping

# Arguments that Orch sets from elsewhere in the recipe: giving them twice would let one of the two lose in silence.
_OWNED = {
    "model_name_or_path": "say it as `model:`",
    "train_data": "say it as `data.train:`",
    "output_dir": "the run folder decides it",
    "deepspeed": "say it as `deepspeed:` at the top level",
    "resume_from_checkpoint": "use: orch resume RUN",
    "trust_remote_code": "say it as `model: {path: …, trust_remote_code: true}`",
    "token": "set HF_TOKEN in your environment: secrets do not belong in a recipe",
    "hub_token": "set HF_TOKEN in your environment: secrets do not belong in a recipe",
}
_LORA = (
    "lora_rank",
    "lora_alpha",
    "lora_dropout",
    "target_modules",
    "modules_to_save",
    "from_peft",
    "raw_peft",
    "use_lora",
)
_MODULES = {
    "decoder": "FlagEmbedding.finetune.reranker.decoder_only.base",
    "encoder": "FlagEmbedding.finetune.reranker.encoder_only.base",
}
_POSITIVE = (
    "query_max_len",
    "passage_max_len",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "lora_rank",
)
_PROMPT_TOKENS = 64  # room that a decoder needs for FlagEmbedding's own prompt, which both lengths together must hold


@dataclass(frozen=True)
class _Rendered:
    """One argument of the train command, and where it comes from."""

    name: str
    value: Any
    origin: str
    why: str


class FlagEmbedding:
    """The backend `flagembedding`."""

    name = "flagembedding"
    extra = "flagembedding"
    distributions = ("FlagEmbedding", "torch", "transformers", "peft", "sentence-transformers")
    data_form = "flagembedding"

    def argument_names(self) -> frozenset[str]:
        """Return every name that `train:` may hold for one of the two trainers, old spellings included."""
        names = (
            load_arguments("flagembedding.decoder_only").keys() | load_arguments("flagembedding.encoder_only").keys()
        )
        return frozenset(names | OLD_SPELLINGS.keys())

    def json_schema(self) -> dict[str, dict[str, Any]]:
        """Return the JSON Schema of each name under `train:`."""
        types = {"int": "integer", "float": "number", "bool": "boolean", "str": "string"}
        schema: dict[str, dict[str, Any]] = {}
        for name, argument in sorted(_all_arguments().items()):
            if name in _OWNED:
                continue
            one: dict[str, Any] = {"type": types[argument.type]} if argument.type in types else {}
            if argument.type == "list[str]":
                one = {"type": "array", "items": {"type": "string"}}
            if argument.choices:
                one["enum"] = list(argument.choices)
            if argument.type == "float":
                one["type"] = ["number", "string"]  # YAML reads 1e-4 as text
            if argument.default is not None and isinstance(argument.default, bool | int | float | str):
                one["default"] = argument.default
            schema[name] = one
        return schema

    def check_train(self, train: Mapping[str, Any]) -> list[tuple[str, Problem]]:
        """Return what is wrong with single values: unknown names, Orch's own names, wrong types and choices."""
        known, problems = _all_arguments(), []
        for name, value in train.items():
            if name in _OWNED:
                problems.append((name, Problem(f"train.{name} is not set here", _OWNED[name])))
            elif name not in known:
                near = difflib.get_close_matches(name, known.keys() - _OWNED.keys(), n=1)
                hint = f"did you mean {near[0]!r}?" if near else "`orch schema` lists every argument"
                problems.append(
                    (name, Problem(f"unknown argument {name!r}: FlagEmbedding's trainers have none of that name", hint))
                )
            else:
                result = coerce(known[name], value)
                if isinstance(result, Problem):
                    problems.append((name, result))
                elif name in _POSITIVE and result < 1:
                    problems.append((name, Problem(f"{name} is {result}; it must be at least 1")))
                elif name == "train_group_size" and result < 2:  # noqa: PLR2004
                    problems.append(
                        (name, Problem(f"a group of {result} has nothing to rank: the loss is always 0", "8 is usual"))
                    )
        return problems

    def check_job(self, job: Job) -> list[tuple[tuple[str, ...], Problem]]:
        """Return what does not fit together, each with the path of the key to change."""
        train, recipe = _typed(job.recipe.train), job.recipe
        problems: list[tuple[tuple[str, ...], Problem]] = [
            (("train", name), problem) for name, problem in translate(train, job.versions.get("transformers")).problems
        ]

        def refuse(key: tuple[str, ...], message: str, hint: str) -> None:
            problems.append((key, Problem(message, hint)))

        if job.model.family == "encoder":
            for name in [name for name in (*_LORA, "save_merged_lora_model", "use_flash_attn") if name in train]:
                refuse(
                    ("train", name),
                    f"FlagEmbedding's encoder-only trainer has no {name}",
                    "remove it, or train an LLM reranker",
                )
        if train.get("model_type", job.model.family) != job.model.family:
            refuse(
                ("train", "model_type"),
                f"{job.model.name} is {job.model.family}-only",
                "remove model_type: Orch renders it",
            )
        if not _uses_lora(job) and ("merge" in recipe.model_fields_set and recipe.merge):
            refuse(("merge",), "there is no LoRA to merge: the trainer writes the full model", "say merge: false")
        if not _uses_lora(job) and train.get("save_merged_lora_model"):
            hint = "FlagEmbedding would train to the end and then fail: remove it"
            refuse(("train", "save_merged_lora_model"), "there is no LoRA to merge", hint)
        if train.get("sep_token", "\n") != "\n":
            refuse(
                ("train", "sep_token"),
                "FlagEmbedding's own rerankers always separate with a newline",
                "remove sep_token",
            )
        if train.get("eval_strategy", "no") != "no" or train.get("evaluation_strategy", "no") != "no":
            name = "eval_strategy" if "eval_strategy" in train else "evaluation_strategy"
            refuse(
                ("train", name),
                "FlagEmbedding's trainers do not evaluate while training",
                "remove it: Orch measures after",
            )
        if train.get("load_best_model_at_end"):
            refuse(
                ("train", "load_best_model_at_end"),
                "FlagEmbedding's trainers do not evaluate, so none is best",
                "remove it",
            )
        for name in ("bf16", "fp16", "use_flash_attn"):
            if train.get(name) and job.hardware.kind == "cpu" and not job.smoke:
                refuse(
                    ("train", name),
                    f"{name} needs a GPU, and this machine has none",
                    "remove it: Orch chooses by hardware",
                )
        if train.get("bf16") and train.get("fp16"):
            refuse(("train", "fp16"), "bf16 and fp16 exclude each other", "keep one")
        lengths = _lengths(job)
        if job.model.family == "decoder" and sum(lengths) < _PROMPT_TOKENS:
            message = f"query_max_len + passage_max_len = {sum(lengths)} leaves no room beside FlagEmbedding's prompt"
            refuse(("train", "passage_max_len"), message, f"give at least {_PROMPT_TOKENS} together; 1024 is usual")
        problems += _check_deepspeed(job)
        return problems

    def smoke_scale(self, job: Job) -> SmokeScale:
        """Return a job of 16 short steps, with a learning rate that visibly moves a random model."""
        train = _typed(job.recipe.train)
        group = min(int(train.get("train_group_size", 8)), 4)
        return SmokeScale(
            train={
                "num_train_epochs": 1, "max_steps": -1, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 1,
                "train_group_size": group, "query_max_len": 128, "passage_max_len": 256, "learning_rate": 0.01,
                "logging_steps": 1, "save_strategy": "steps", "save_steps": 8, "dataloader_num_workers": 0,
                "bf16": False, "fp16": False,
            }
        )  # fmt: skip

    def build_training(self, job: Job, *, model: str, train_file: str, output: str) -> Training:
        """Return the train stage for the base model at `model`; all paths absolute."""
        translation = translate(_typed(job.recipe.train), job.versions.get("transformers"))
        arguments = _arguments(job, translation, model=model, train_file=train_file, output=output)
        values = {argument.name: argument.value for argument in arguments}
        processes = _processes(job)
        command = render_command(
            "flagembedding/train.j2",
            env=_environment(job) | translation.env,
            cwd=str(job.run_dir),
            python=job.backend_python,
            nproc_per_node=processes,
            module=_MODULES[job.model.family],
            arguments=arguments,
        )
        lora = _uses_lora(job)
        files = (File(_deepspeed_file(job), job.deepspeed_text),) if job.deepspeed_text else ()
        notes = [Note("train", item.name, _shown(item.value), item.origin, item.why) for item in arguments]
        notes += [Note("train", name, "(not rendered)", "translated", why) for name, why in translation.dropped.items()]
        query_max_len, passage_max_len = _lengths(job)
        return Training(
            command=command,
            files=files,
            notes=tuple(notes),
            outputs=(f"{output}/adapter_model.safetensors" if lora else f"{output}/config.json",),
            lora=lora,
            lengths={"query-max-len": query_max_len, "passage-max-len": passage_max_len},
            scoring=_scoring(job, values, query_max_len, passage_max_len),
            # Without DeepSpeed its checkpoints cannot be resumed: the decoder's holds no base model, the encoder's
            # loader asks for `_keys_to_ignore_on_save` (FlagEmbedding issue 1144).
            resume=Resume("--resume_from_checkpoint", output) if job.deepspeed_text else None,
            full_batch_rows=int(values["per_device_train_batch_size"]) * processes,
        )


def _all_arguments() -> dict[str, Argument]:
    old = {name: Argument(name, kind, None, None) for name, kind in OLD_SPELLINGS.items()}
    return old | load_arguments("flagembedding.encoder_only") | load_arguments("flagembedding.decoder_only")


def _typed(train: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of `train:` as the backend's types; wrong ones were reported by `check_train`."""
    known = _all_arguments()
    typed = {name: coerce(known[name], value) for name, value in train.items() if name in known}
    return {name: value for name, value in typed.items() if not isinstance(value, Problem)}


def _uses_lora(job: Job) -> bool:
    return job.model.family == "decoder" and bool(_typed(job.recipe.train).get("use_lora", True))


def _processes(job: Job) -> int:
    asked = job.recipe.launch.nproc_per_node
    if asked == "auto":
        return job.hardware.count if job.hardware.kind == "cuda" else 1
    return asked


def _lengths(job: Job) -> tuple[int, int]:
    train, known = _typed(job.recipe.train), load_arguments("flagembedding.decoder_only")
    return tuple(int(train.get(name, known[name].default)) for name in ("query_max_len", "passage_max_len"))  # type: ignore[return-value]


def _deepspeed_file(job: Job) -> str:
    return f"files/ds_{job.recipe.deepspeed if job.recipe.deepspeed == 'stage0' else 'config'}.json"


def _check_deepspeed(job: Job) -> list[tuple[tuple[str, ...], Problem]]:
    if not job.deepspeed_text:
        return []
    try:
        config = json.loads(job.deepspeed_text)
        stage = config.get("zero_optimization", {}).get("stage", 0)
    except (ValueError, AttributeError) as error:
        return [(("deepspeed",), Problem(f"not a DeepSpeed configuration: {error}", "name stage0, or a JSON file"))]
    if stage == 3:  # noqa: PLR2004
        message = "FlagEmbedding saves empty weights under ZeRO-3: its save path is commented out"
        return [(("deepspeed",), Problem(message, "use stage0, or ZeRO stage 1 or 2"))]
    return []


def _environment(job: Job) -> dict[str, str]:
    env = {"PYTHONUNBUFFERED": "1", "TOKENIZERS_PARALLELISM": "false"}
    if job.model.is_local or job.smoke:
        env["HF_HUB_OFFLINE"] = "1"
    if job.hardware.kind == "cpu":
        env |= {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    return env | job.recipe.launch.env


def _arguments(job: Job, translation: Translation, *, model: str, train_file: str, output: str) -> list[_Rendered]:
    """Return the train command's arguments in reading order: model, data, LoRA, training, hardware."""
    given = translation.arguments
    known = load_arguments(
        "flagembedding.decoder_only" if job.model.family == "decoder" else "flagembedding.encoder_only"
    )
    rendered: dict[str, _Rendered] = {}

    def put(name: str, value: Any, origin: str, why: str) -> None:
        if name in given:
            translated = name in translation.why
            origin, why = ("translated", translation.why[name]) if translated else ("recipe", f"train.{name}")
            value = given[name]
        rendered[name] = _Rendered(name, value, origin, why)

    put("model_name_or_path", model, "recipe", "model")
    put("model_type", job.model.family, "orch", "left out, the decoder trainer would train without its prompt")
    if job.model.trust_remote_code:
        put("trust_remote_code", True, "recipe", "model.trust_remote_code")
    put("train_data", [train_file], "recipe", "data.train, prepared")
    put("cache_path", output.removesuffix("/output") + "/cache", "orch", "keeps the data cache inside the run folder")
    for name in ("train_group_size", "query_max_len", "passage_max_len"):
        put(name, known[name].default, "default", "FlagEmbedding's default, shown because it cuts or groups your data")
    if job.model.family == "decoder":
        why = "FlagLLMReranker puts it in front at inference by default; training would not"
        put("query_instruction_for_rerank", "A: ", "orch", why)
        put("passage_instruction_for_rerank", "B: ", "orch", why)
        if _uses_lora(job):
            for name in ("lora_rank", "lora_alpha", "lora_dropout", "target_modules"):
                put(name, known[name].default, "default", "FlagEmbedding's default")
    put("output_dir", output, "orch", "a fresh folder of the run")
    for name in (
        "learning_rate",
        "num_train_epochs",
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "seed",
    ):
        put(name, known[name].default, "default", "transformers' default")
    for name, value in given.items():
        if name not in rendered:
            put(name, value, "recipe", f"train.{name}")
    put("dataloader_drop_last", True, "orch", "an incomplete last batch mixes groups or crashes")
    put("logging_steps", 10, "orch", "transformers' default of 500 leaves most runs without a loss curve")
    if not {"save_strategy", "save_steps"} & given.keys():
        put("save_strategy", "epoch", "orch", "a run that is interrupted continues from the last epoch")
    put("save_total_limit", 2, "orch", "checkpoints fill disks")
    put("report_to", "none", "orch", "no experiment tracker unless the recipe names one")
    put("ddp_timeout", 1800, "orch", "a lost process is noticed after half an hour")
    precision = job.hardware.precision
    if precision in {"bf16", "fp16"} and not {"bf16", "fp16"} & given.keys():
        put(precision, True, "hardware", f"{job.hardware}")
    if job.hardware.kind == "cpu":
        put("use_cpu", True, "hardware", "no GPU is used: several processes would not synchronise without it")
    if job.deepspeed_text:
        put("deepspeed", str(job.run_dir / _deepspeed_file(job)), "recipe", "deepspeed")
    return list(rendered.values())


def _scoring(job: Job, values: Mapping[str, Any], query_max_len: int, passage_max_len: int) -> dict[str, Any]:
    """Return how a model trained so must be scored: same instructions, prompt and lengths.

    Lengths are those of AbsReranker*TrainDataset in FlagEmbedding 1.4.2: a query may borrow a quarter of the passage's budget.
    """
    limits = {"query_max_length": query_max_len + passage_max_len // 4, "max_length": query_max_len + passage_max_len}
    instructions = {
        "query_instruction": values.get("query_instruction_for_rerank"),
        "passage_instruction": values.get("passage_instruction_for_rerank"),
        "query_instruction_format": values.get("query_instruction_format", "{}{}"),
        "passage_instruction_format": values.get("passage_instruction_format", "{}{}"),
    }
    if job.model.family == "decoder":
        return {"scorer": "flag-llm-reranker", "prompt": None, "true_token": "Yes", **instructions, **limits}
    return {"scorer": "cross-encoder", "prompt": None, **instructions, **limits}


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
