"""What a recipe asks for that its machine, its packages or its model cannot give, and what its user should know.

All is read from the plan's notes, which are the same for every backend, and held against config.json and the names in
the weight files. PEFT adapts those of `target_modules` that match and says nothing of the others
(peft/tuners/tuners_utils.py: inject).
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from orchestrator.backends.models import load_config
from orchestrator.backends.protocol import Job
from orchestrator.backends.trainer import TRACKERS
from orchestrator.checks.model_size import EXPERTS, read_text_config
from orchestrator.errors import Problem
from orchestrator.machine.packages import name_pip
from orchestrator.machine.tables import load_table
from orchestrator.machine.weights import Shapes, read_weights
from orchestrator.recipe.plan import Plan

_TRUE = frozenset({"true", "1", "yes", "on"})
_QUERY_ROOM = 512  # tokens
# What asks for flash attention, and whether the package flash-attn brings it; 3 and 4 are built by hand.
_FLASH = {"flash_attn": True, "flash_attention_2": True, "flash_attention_3": False, "flash_attention_4": False}

# Packages that a recipe's own words ask for, beside those that its backend needs.
OPTIONAL = ("flash-attn", "kernels", "liger-kernel")
# RoBERTa's family numbers its positions from pad_token_id + 1 (create_position_ids_from_input_ids).
_OFFSET_FAMILIES = frozenset(
    {"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "longformer", "data2vec-text"}
)
# Their positions are distances between tokens, whatever the config says (modeling_t5.py: compute_bias).
_RELATIVE_FAMILIES = frozenset({"t5", "mt5", "umt5", "longt5", "funnel"})
_PLAIN_ROPE = frozenset({None, "default"})
_MATRIX_DIMENSIONS = 2
# Tied to the embeddings or new, so that no file needs to hold them.
_HEADS = ("lm_head", "score", "v_head", "classifier", "pooler")
_PREFIXES = ("", "model.", "base_model.", "transformer.")  # what a model's class puts before the names of its files


def read_train_values(plan: Plan) -> dict[str, str]:
    """Return every argument of the train stage, given or default; lists are words with spaces between them."""
    return {note.argument: note.value for note in plan.notes if note.stage == "train"}


def is_on(values: Mapping[str, str], name: str, *, default: bool = False) -> bool:
    """Tell whether a switch of the trainer is on; `default` is what the trainer does where nothing is said."""
    return values[name].lower() in _TRUE if name in values else default


def check_conflicts(job: Job, plan: Plan) -> Iterator[Problem]:
    """Yield what does not go together: attention and GPUs, kernels and packages, processes and devices."""
    values = read_train_values(plan)
    if job.smoke:
        return
    yield from _check_attention(job, values)
    if is_on(values, "tf32") and (job.hardware.kind == "cpu" or not job.hardware.bf16):
        message = f"train.tf32 needs a GPU of the Ampere generation or newer, and the job is for {job.hardware}"
        yield Problem(message, "remove it: transformers would end with an error")
    if is_on(values, "use_liger_kernel") and "liger-kernel" not in job.versions:
        hint = f"{name_pip(job.backend_python)} liger-kernel, or remove it"
        yield Problem("train.use_liger_kernel asks for liger-kernel, which is not installed", hint)
    yield from _check_processes(job)


def advise_precision(job: Job, plan: Plan) -> Iterator[Problem]:
    """Yield that bf16 is asked for on a GPU that has no units for it: PyTorch emulates it."""
    if job.hardware.kind == "cuda" and not job.hardware.bf16 and is_on(read_train_values(plan), "bf16"):
        yield Problem(f"bf16 on {job.hardware} is emulated, and slow", "remove bf16: Orch then takes fp16 here")


def advise_examples(_: Job, plan: Plan) -> Iterator[Problem]:
    """Yield that no example has room in front of a query (FlagEmbedding's decoder_only/icl/dataset.py, 1.4.2)."""
    values = read_train_values(plan)
    if is_on(values, "retrieval_use_examples") and int(values["query_max_len"]) <= _QUERY_ROOM:
        message = f"query_max_len {values['query_max_len']} leaves examples no room: {_QUERY_ROOM} are the query's"
        yield Problem(message, "say query_max_len: 1024 or more, or retrieval_use_examples: false")


def _check_attention(job: Job, values: dict[str, str]) -> Iterator[Problem]:
    asked = values.get("attn_impl", "")
    argument = "attn_impl" if asked in _FLASH else "use_flash_attn" if is_on(values, "use_flash_attn") else None
    remove = "remove it: PyTorch's own attention (sdpa) is used without it"
    # transformers takes the kernels package instead, where it is installed (_check_and_adjust_attn_implementation)
    lacking = _FLASH.get(asked, True) and not {"flash-attn", "kernels"} & job.versions.keys()
    if argument is not None and job.hardware.kind != "cuda":
        yield Problem(f"train.{argument}: flash attention needs a GPU, and there is none", remove)
    elif argument is not None and lacking:
        hint = f"{name_pip(job.backend_python)} flash-attn --no-build-isolation   (it needs nvcc), or {remove}"
        yield Problem(f"train.{argument} asks for flash-attn, which is not installed", hint)


def _check_processes(job: Job) -> Iterator[Problem]:
    if job.hardware.kind != "cuda":
        return
    asked, there, chosen = job.processes(), job.hardware.count, job.chosen_gpus()
    if chosen == ():
        message = "launch.env.CUDA_VISIBLE_DEVICES hides every GPU from a job that is planned for one"
        yield Problem(message, "remove it, or say --hardware cpu")
    elif chosen is not None and asked > len(chosen):
        message = f"{asked} processes, and launch.env.CUDA_VISIBLE_DEVICES={','.join(chosen)} leaves {len(chosen)} GPUs"
        yield Problem(message, f"say launch: {{nproc_per_node: {len(chosen)}}}, or auto")
    elif asked > there:
        message = f"launch.nproc_per_node is {asked}, and this machine has {there} GPUs for them"
        yield Problem(message, f"give at most {there}, or auto: two processes on one GPU end with an error of NCCL")


def load_needs() -> tuple[tuple[str, re.Pattern[str], tuple[str, ...]], ...]:
    """Return the rows of packages.yaml: an argument, what its value reads like, and one of which packages it needs."""
    return load_table(Path(__file__).with_name("packages.yaml"), tuple[str, re.Pattern[str], tuple[str, ...]])


def check_argument_packages(job: Job, plan: Plan) -> Iterator[Problem]:
    """Yield every argument that asks for a package which is not installed, with the command that installs it."""
    if not job.versions:
        return  # an interpreter that cannot be run: another check says so
    values = read_train_values(plan)
    for argument, pattern, names in load_needs():
        given = values.get(argument, "")
        if pattern.search(given) and not set(names) & job.versions.keys():
            hint = f"{name_pip(job.backend_python)} {names[0]}, or remove it"
            yield Problem(f"train.{argument}: {given} asks for {names[0]}, which is not installed", hint)


def advise_trackers(job: Job, plan: Plan) -> Iterator[Problem]:  # noqa: ARG001  (every advice takes both)
    """Yield the trackers that are not installed, or have no key: the run goes on without them."""
    env = {**os.environ, **job.recipe.launch.env}
    for name in dict.fromkeys(job.recipe.track.to if job.recipe.track else ()):
        row = TRACKERS[name]
        if job.versions and not job.versions.keys() & set(row["packages"]):
            hint = f"{name_pip(job.backend_python)} {row['packages'][0]}"
            yield Problem(f"track: {name} is not installed, and will hear nothing of this run", hint)
        elif row["key"] and not env.get(row["key"]) and env.get(row["mode"] or "", "online") == "online":
            path, word = row["login"] or (os.devnull, row["key"])
            login = ""
            with suppress(OSError, RuntimeError):
                login = Path(path).expanduser().read_text(encoding="utf-8", errors="replace")
            if word not in login:
                kept = f"the run is written to {job.run_dir.name}/track/{name}, and `orch track` sends it later"
                yield Problem(f"track: {name} has no {row['key']}: {kept}", f"export {row['key']}=… in your shell")


def advise_names(job: Job, plan: Plan) -> Iterator[Problem]:  # noqa: ARG001  (every advice takes both)
    """Yield a key by its old name."""
    if job.recipe.launch.strategy:
        yield Problem("launch.strategy is called launch.distributed now", "rename it; the old name still works")


def advise_trust(job: Job, plan: Plan) -> Iterator[Problem]:  # noqa: ARG001  (every advice takes both)
    """Yield what code of others the run executes with the user's rights."""
    for key, ref in (("model", job.recipe.model), ("teacher", job.recipe.teacher)):
        if ref and ref.trust_remote_code:
            message = f"{key} {ref.name}: the Python code that it brings along will run (trust_remote_code)"
            yield Problem(message, "read that code first: it may do whatever you may do")
        if ref and ref.allow_pickle:
            message = f"{key} {ref.name}: pickled weights will be loaded (allow_pickle)"
            yield Problem(message, "take only files of people whom you trust: a pickle can run code")


def advise_on_resuming(job: Job, plan: Plan) -> Iterator[Problem]:
    """Yield that an interrupted training starts anew. A smoke run is over before anybody would mind."""
    train = plan.stage("train")
    if train and not train.resume and not job.smoke:
        why = f"{job.recipe.backend} cannot continue what it saves without DeepSpeed"
        hint = "say deepspeed: zero0 in the recipe (it needs the package deepspeed), or accept it"
        yield Problem(f"if it is interrupted, {train.name} starts anew: {why}", hint)


def check_lengths(job: Job, plan: Plan) -> Iterator[Problem]:
    """Yield the lengths beyond the last position that the model, or the teacher, knows."""
    if job.smoke:
        return
    length, names = find_longest(job, plan)
    stretched = "rope_scaling" in read_train_values(plan)  # ms-swift puts it in the place of the config's
    asked = [(job.model, None if stretched else length, names)]
    if job.teacher is not None and job.recipe.teacher is not None:
        asked.append((job.teacher, job.recipe.teacher.max_length, "teacher.max_length"))
    for model, longest, named in asked:
        positions = find_positions(load_config(model.folder)) if model.folder else None
        if positions is not None and longest is not None and longest > positions:
            message = f"{named} is {longest}, and {model.name} reads {positions} tokens at most"
            yield Problem(message, f"give at most {positions}: longer texts end in an index error, or in noise")


def find_longest(job: Job, plan: Plan) -> tuple[int | None, str]:
    """Return how many tokens the trainer reads at most, and the arguments that say so."""
    values, names = read_train_values(plan), job.backend.lengths
    found = [values.get(name, "") for name in names]
    known = all(value.isdigit() for value in found)
    together = job.backend.lengths_add_up
    longest = (sum if together else max)(map(int, found)) if known else None
    return longest, (" + " if together else " or ").join(f"train.{name}" for name in names)


def find_positions(config: dict[str, Any]) -> int | None:
    """Return how many tokens a text may have; None where the config sets no end, or stretches it."""
    text = read_text_config(config)
    positions = text.get("max_position_embeddings") or text.get("n_positions")
    rope = text.get("rope_scaling") or text.get("rope_parameters")
    rope = rope if isinstance(rope, dict) else {}
    nested = [value for value in rope.values() if isinstance(value, dict)]  # Gemma gives each kind of layer its own
    kinds = {value.get("rope_type") for value in nested} or {rope.get("rope_type", rope.get("type"))}
    relative = (
        text.get("position_embedding_type") == "alibi"
        or text.get("position_biased_input") is False
        or text.get("model_type") in _RELATIVE_FAMILIES
    )
    if not isinstance(positions, int) or positions < 1 or relative or kinds - _PLAIN_ROPE:
        return None
    if text.get("model_type") in _OFFSET_FAMILIES:
        padding = text.get("pad_token_id", 1)
        return positions - (padding if isinstance(padding, int) else 1) - 1
    return positions


def check_target_modules(job: Job, plan: Plan) -> Iterator[Problem]:
    """Yield every name and every pattern that matches no layer of a model that is on this machine."""
    values = read_train_values(plan)
    if job.smoke or job.model.folder is None or "target_modules" not in values:
        return
    config, shapes = load_config(job.model.folder), read_weights(job.model.folder).shapes
    # transformers joins the matrices of experts, and quantised ones have other names, than those in the files
    if not shapes or "quantization_config" in config or any(config.get(name) for name in EXPERTS):
        return
    matrices, modules = list_modules(shapes)
    whole = {".".join(parts[:size]) for parts in (name.split(".") for name in modules) for size in range(1, len(parts))}
    named = [("modules_to_save", modules | whole)]  # a whole block may be trained, such as the embeddings
    if "target_regex" in values:
        yield from _check_regex(values["target_regex"], matrices)
    else:
        named.insert(0, ("target_modules", matrices))
    for argument, allowed in named:
        for name in values.get(argument, "").split():
            if name not in job.backend.layer_kinds:
                yield from _check_name(argument, name, allowed, modules)


def list_modules(shapes: Shapes) -> tuple[frozenset[str], frozenset[str]]:
    """Return the layers that have a matrix, which LoRA adapts, and all layers, by the names in the weight files."""
    matrices = {name.rpartition(".")[0] for name, shape in shapes.items() if len(shape) >= _MATRIX_DIMENSIONS}
    return frozenset(matrices), frozenset(name.rpartition(".")[0] for name in shapes)


def _check_name(argument: str, name: str, allowed: frozenset[str], modules: frozenset[str]) -> Iterator[Problem]:
    if name.rpartition(".")[2] in _HEADS or _matches(name, allowed):
        return
    if _matches(name, modules):
        message = f"train.{argument}: {name} has no matrix in this model: LoRA cannot adapt it"
        yield Problem(message, f"remove it; layers with one are {_name_layers(allowed)}")
        return
    near = difflib.get_close_matches(name, _short_names(allowed), n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    message = f"train.{argument}: {name!r} matches no layer of this model, and would be left out in silence"
    yield Problem(message, f"{hint}its layers are {_name_layers(allowed)}")


def _check_regex(pattern: str, modules: frozenset[str]) -> Iterator[Problem]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        yield Problem(f"train.target_regex is no regular expression: {error}", f"got {pattern!r}")
        return
    names = [prefix + name for name in modules for prefix in _PREFIXES]
    names += [name.partition(".")[2] for name in modules]
    if not any(compiled.fullmatch(name) for name in names):
        example = min(modules, default="")
        hint = f"it must match a whole name, such as {example}: begin with .*"
        yield Problem(f"train.target_regex {pattern!r} matches no layer of this model", hint)


def _matches(name: str, modules: frozenset[str]) -> bool:
    """Tell whether PEFT finds `name`: as a whole name, or as its last parts."""
    return any(module == name or module.endswith(f".{name}") or name.endswith(f".{module}") for module in modules)


def _short_names(modules: Iterable[str]) -> list[str]:
    return sorted({name.rpartition(".")[2] for name in modules} - {""})


def _name_layers(modules: frozenset[str]) -> str:
    inner = (name for name in modules if re.search(r"\.\d+\.", name))
    return ", ".join(_short_names(inner) or _short_names(modules))
