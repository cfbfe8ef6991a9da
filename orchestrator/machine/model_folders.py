"""Why a folder is no complete model, and the command that makes one of it: one answer for every command.

`find_what_it_is` looks at names only: what tools leave behind says by its files which tool that was.
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Callable
from pathlib import Path

from orchestrator.errors import Problem
from orchestrator.machine.json_files import find_object, load_json

_CHECKPOINT = re.compile(r"(?:checkpoint|global_step|step|epoch)[-_](\d+)")
_SNAPSHOTS, _HUB = "snapshots", "models--"
_WHOLE = ("*.safetensors", "pytorch_model*.bin")
_FORMATS = Path(__file__).with_name("model_formats.yaml")
_ORIGINAL = "take the model's own folder, with config.json and *.safetensors"


def find_what_it_is(path: Path) -> Problem | None:
    """Return what a path is instead of a whole model, and what to do; None where its names do not tell.

    A folder with a config.json and weights is one, whatever else is in it.
    """
    try:
        if not path.exists():
            near = name_nearest(path)
            return Problem(f"no such model folder: {path}", f"did you mean {near}?") if near else None
        if path.is_file():
            return _describe_file(path)
        if _is_whole(path):
            return None
        found = (describe(path) for describe in _DESCRIPTIONS)
        return next((problem for problem in found if problem is not None), None)
    except OSError:  # a folder that may not be read
        return None


def find_nothing_to_merge(path: Path) -> Problem | None:
    """Return why there is no adapter to merge in what is there, and what to do; None for a path that is not there."""
    if not path.exists():
        return None
    if (found := find_what_it_is(path)) is not None:
        return found
    if _is_whole(path):
        message = f"{path} is a whole model: there is nothing to merge"
        return Problem(message, f"use it as it is: orch evaluate --model {_quote(path)} --data FILE")
    return Problem(f"{path} is no run and no LoRA adapter", "name a folder that holds adapter_config.json, or a run")


def name_nearest(path: Path) -> str | None:
    """Return the folder beside a path that is not there whose name comes nearest, as the path would be written."""
    try:
        there = [found.name for found in path.parent.iterdir() if found.is_dir()]
    except OSError:
        return None
    near = difflib.get_close_matches(path.name, there, n=1)
    return str(path.parent / near[0]) if near else None


def _is_whole(folder: Path) -> bool:
    weights = (path for pattern in _WHOLE for path in folder.glob(pattern))
    return (folder / "config.json").is_file() and any(not path.name.startswith("adapter_") for path in weights)


def _has(folder: Path, *patterns: str) -> bool:
    return any(True for pattern in patterns for _ in folder.glob(pattern))


def _describe_file(path: Path) -> Problem | None:
    if path.suffix == ".safetensors":
        return Problem(f"{path} is a file of weights, not a model", f"name its folder: {path.parent}")
    if path.suffix == ".gguf":
        return Problem(f"{path} is a GGUF of llama.cpp, which is not loaded here", _ORIGINAL)
    if path.name.endswith((".zip", ".tar", ".tar.gz", ".tgz")):
        archive, target = _quote(path), _quote(path.with_name(path.name.partition(".")[0]))
        command = f"mkdir -p {target} && tar -xf {archive} -C {target}"
        if path.suffix == ".zip":
            command = f"unzip {archive} -d {target}"
        return Problem(f"{path} is an archive, not a folder", f"unpack it: {command}")
    return None


def _describe_run(path: Path) -> Problem | None:
    if not (path / "plan.json").is_file():
        return None
    model = path / "model"
    hint = f"name the model that it packaged: {model}" if model.is_dir() else f"finish it: orch resume {_quote(path)}"
    return Problem(f"{path} is a run of Orch, not a model", hint)


def _describe_adapter(path: Path) -> Problem | None:
    if not (path / "adapter_config.json").is_file():
        return None
    command = shlex.join(["orch", "merge", str(path), "-o", str(_beside(path, "merged"))])
    return Problem(f"{path} is a LoRA adapter, not a whole model", f"merge it first: {command}")


def _describe_cache(path: Path) -> Problem | None:
    """Return what a folder of the Hugging Face cache is: the model lies in one of its snapshots."""
    if path.name == _SNAPSHOTS and path.parent.name.startswith(_HUB):
        path = path.parent
    if (path / _SNAPSHOTS).is_dir():
        owner, _, name = path.name.removeprefix(_HUB).partition("--")
        message = f"{path} is a folder of the Hugging Face cache, not the model itself"
        newest = sorted((path / _SNAPSHOTS).iterdir(), key=lambda found: found.stat().st_mtime)
        if not newest:
            return Problem(f"{message}, and has no snapshot", f"hf download {owner}/{name}")
        return Problem(message, f"name the model, {owner}/{name}, or its snapshot: {newest[-1]}")
    if not (cached := sorted(found.name for found in path.glob(f"{_HUB}*"))):
        return None
    names = ", ".join(name.removeprefix(_HUB).replace("--", "/", 1) for name in cached[:5])
    return Problem(f"{path} is a cache of several models", f"name one of them: {names}")


def _describe_deepspeed(path: Path) -> Problem | None:
    parts = ("zero_to_fp32.py", "global_step*/*_model_states.pt", "*_model_states.pt", "global_step*/*_optim_states.pt")
    if not _has(path, *parts):
        return None
    whole, start = _beside(path, "whole"), path
    if _has(path, "*_model_states.pt"):  # the folder of one step: zero_to_fp32 wants the one above it
        start = path.parent
    tag = ["-t", path.name] if start != path else []
    command = shlex.join(["python", "-m", "deepspeed.utils.zero_to_fp32", str(start), str(whole),
                          "--safe_serialization", *tag])  # fmt: skip
    message = f"{path} is a checkpoint of DeepSpeed: its weights lie in parts, one a process"
    return Problem(message, f"put them together with zero_to_fp32.py: {command}{_and_copy(start, whole)}")


def _describe_fsdp(path: Path) -> Problem | None:
    sharded = [path] if any(path.glob("*.distcp")) else sorted(found for found in path.glob("pytorch_model_fsdp_*"))
    if not sharded:
        return None
    whole = _beside(path, "whole")
    command = shlex.join(["accelerate", "merge-weights", str(sharded[0]), str(whole)])
    message = f"{path} is a checkpoint of FSDP: its weights lie in parts, one a process"
    return Problem(message, f"put them together: {command}{_and_copy(path, whole)}")


def _describe_megatron(path: Path) -> Problem | None:
    names = ("latest_checkpointed_iteration.txt", "mp_rank_*/model_optim_rng.pt", "iter_*/common.pt")
    if not _has(path, *names):
        return None
    command = shlex.join(["megatron", "export", "--mcore_model", str(path), "--to_hf", "true", "--output_dir",
                          str(_beside(path, "whole"))])  # fmt: skip
    return Problem(f"{path} is a checkpoint of Megatron", f"export it with ms-swift's megatron: {command}")


def _describe_trainer(path: Path) -> Problem | None:
    """Return what a trainer's output folder is: the models lie in its checkpoints."""
    found = [(int(match[1]), folder) for pattern in ("*", "*/*") for folder in path.glob(pattern)
             if folder.is_dir() and (match := _CHECKPOINT.fullmatch(folder.name))]  # fmt: skip
    if not found:
        return None
    _, newest = max(found, key=lambda item: (item[0], str(item[1])))
    best = _find_best(path, newest)
    chosen, which = (best, "the best") if best else (newest, "the newest")
    names = ", ".join(str(folder.relative_to(path)) for _, folder in sorted(found)[-5:])
    message = f"{path} is a trainer's folder with checkpoints ({names}), not a model"
    if inner := find_what_it_is(chosen):
        return Problem(message, f"{which} is {chosen}: {inner.hint}")
    return Problem(message, f"name one; {which} is {chosen}")


def _describe_other_format(path: Path) -> Problem | None:
    from orchestrator.machine.tables import load_table  # YAML takes long to import

    for patterns, what, who in load_table(_FORMATS, tuple[tuple[str, ...], str, str]):
        if files := [file for pattern in patterns for file in path.glob(pattern.rstrip("/"))]:
            runs = who.format(file=_quote(files[0]))
            return Problem(
                f"{path} holds {what} only ({files[0].name})", f"{_ORIGINAL}; what is there runs with {runs}"
            )
    return None


def _describe_modules(path: Path) -> Problem | None:
    """Return what a folder of sentence-transformers is whose transformer lies not in it, but in a folder of it."""
    try:
        first = dict(load_json(path / "modules.json", constants=True)[0])
    except (OSError, ValueError, TypeError, LookupError, RecursionError):
        return None
    if (path / "config.json").is_file():
        return None
    if not str(first.get("type")).endswith("Transformer"):
        kind = str(first.get("type")).rpartition(".")[2]
        return Problem(f"{path} is a model of sentence-transformers that begins with {kind}, which is no transformer",
                       "name a model that is built on a transformer, with a config.json")  # fmt: skip
    whole = str(_beside(path, "whole"))
    script = f"from sentence_transformers import SentenceTransformer as S; S({str(path)!r}).save({whole!r})"
    message = (
        f"{path} is a model of sentence-transformers in its old layout: its transformer lies in {first.get('path')}"
    )
    return Problem(message, f"save it in today's: {shlex.join(['python', '-c', script])}\nand name {whole}")


def _describe_parent(path: Path) -> Problem | None:
    inner = [folder for folder in sorted(path.iterdir()) if folder.is_dir() and _is_whole(folder)]
    if (path / "config.json").is_file() or not inner:
        return None
    names = ", ".join(str(folder) for folder in inner[:3])
    return Problem(f"{path} is no model: it has no config.json", f"the model is a folder in it: {names}")


_DESCRIPTIONS: tuple[Callable[[Path], Problem | None], ...] = (
    _describe_run, _describe_adapter, _describe_cache, _describe_deepspeed, _describe_fsdp, _describe_megatron,
    _describe_trainer, _describe_other_format, _describe_modules, _describe_parent,
)  # fmt: skip


def _find_best(path: Path, newest: Path) -> Path | None:
    """Return the checkpoint that the trainer calls its best, where that is there."""
    state = find_object(newest / "trainer_state.json", constants=True) or {}
    name = str(state.get("best_model_checkpoint")).rstrip("/").rpartition("/")[2]
    best = newest.parent / name
    return best if _CHECKPOINT.fullmatch(name) and best.is_dir() and path in best.parents else None


def _beside(path: Path, what: str) -> Path:
    return path.with_name(f"{path.name}-{what}") if path.name else path / what


def _and_copy(source: Path, target: Path) -> str:
    """Return what copies config and tokenizer beside weights that a tool has written alone."""
    if not (source / "config.json").is_file():
        return "\nand put config.json and the tokenizer's files beside the weights"
    return f" && cp {_quote(source)}/*.json {_quote(target)}/"


def _quote(path: Path) -> str:
    return shlex.quote(str(path))
