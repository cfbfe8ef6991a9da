"""Whether the folders of the base model and of the teacher are complete: weights, config and tokenizer fit together.

A tensor that a file lacks is filled with random numbers by every trainer, with a warning and exit code 0.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.backends.models import BaseModel, load_config
from orchestrator.backends.protocol import Job
from orchestrator.backends.scorers import NEW_HEAD, SCORES, VECTORS, WORDS, find_use
from orchestrator.checks.tensor_names import find_name_problems
from orchestrator.checks.tokenizer_files import find_token_beyond, find_tokenizer_problems
from orchestrator.errors import Problem
from orchestrator.machine.json_files import find_object, load_json
from orchestrator.machine.weights import Damage, Shapes, Weights, describe_damage, read_shapes, read_weights
from orchestrator.plan.measuring import TEACHER
from orchestrator.recipe.plan import Plan

_LAYER = re.compile(r"^(.*?\b(?:layers|layer|h|blocks))\.(\d+)\.")
_EMBEDDING = re.compile(r"(^|\.)(embed_tokens|word_embeddings|tok_embeddings|wte|embed_in)\.weight$")
_SCORING_HEAD = re.compile(r"(^|\.)(classifier|score|classification_head|head|sequence_summary)\.")
_ANSWER_HEAD = re.compile(r"(^|\.)(lm_head|embed_out|output)\.")
_LAYER_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
_SPEC = re.compile(r"files/scoring\.([^/]+)\.json")
_WIDTHS = ("embedding_size", "input_embedding_size", "word_embed_proj_dim", "hidden_size", "n_embd", "d_model", "dim")
_RANDOM = "the trainer would fill them with random numbers, and say so in a warning only"
_CONFIG = "take config.json and weights from one and the same model"


def check_model_files(job: Job, plan: Plan) -> Iterator[Problem]:
    """Yield what is missing, damaged or does not fit in the folders of the models that are on this machine."""
    for key, model, allow_pickle in local_models(job):
        allow = f"say {key}: {{path: …, allow_pickle: true}}"
        yield from find_folder_problems(model, allow=allow, allow_pickle=allow_pickle, uses=find_uses(plan, key))


def advise_model_files(job: Job, plan: Plan) -> Iterator[Problem]:  # noqa: ARG001
    """Yield what is odd in the folders of the models that are on this machine, and may be meant so."""
    for _, model, _ in local_models(job):
        yield from find_oddities(model)


def find_oddities(model: BaseModel) -> Iterator[Problem]:
    """Yield what is odd in a model's folder, if it lies on this machine, and may be meant so."""
    if (folder := model.folder) is None:
        return
    config = load_config(folder)
    shapes = read_weights(folder).shapes
    table = find_embedding(shapes)
    beyond = find_token_beyond(folder, table[0]) if table else None
    if beyond is not None and table is not None:
        message = f"{folder / 'tokenizer.json'}: {beyond!r} was added beyond the {table[0]} rows of the model"
        yield Problem(message, "a text that holds it ends the run with an index error: keep it out of the data")
    asked, there = find_layer_count(config), count_layers(shapes)
    if asked is not None and there > asked and not _has_more_by_design(config):
        message = f"{folder}: config.json says {asked} layers, and the files hold {there}: the others are not used"
        yield Problem(message, "that is right for a model that was cut on purpose")


def local_models(job: Job) -> list[tuple[str, BaseModel, bool]]:
    """Return (the recipe's key, the model, whether pickles are allowed) of what is loaded from this machine's disk."""
    if job.smoke:
        return []
    teacher = job.recipe.teacher
    found = [("model", job.model, job.recipe.model.allow_pickle)]
    if job.teacher is not None and teacher is not None:
        found.append(("teacher", job.teacher, teacher.allow_pickle))
    return [(key, model, allow) for key, model, allow in found if model.folder is not None]


def find_uses(plan: Plan, key: str) -> frozenset[str]:
    """Return what the plan wants its base (`model`) or its `teacher` for: what measures them, and what is trained.

    A base becomes what is packaged: where that scores by a head and the base has none, its head is new on purpose.
    """
    specs = [(match[1], json.loads(file.text)) for file in plan.files if (match := _SPEC.fullmatch(file.path))]
    if key == TEACHER:
        return frozenset(find_use(spec["scorer"]) for name, spec in specs if name == TEACHER)
    uses = {find_use(spec["scorer"]) for name, spec in specs if name != TEACHER}
    return frozenset(NEW_HEAD if use == SCORES else use for use in uses)


def find_folder_problems(
    model: BaseModel, *, allow: str, allow_pickle: bool, uses: Collection[str] = ()
) -> Iterator[Problem]:
    """Yield what is wrong with one model's folder; `allow` is how its user would let pickled weights be loaded.

    `uses` are what the model is wanted for (`scorers.find_use`).
    """
    folder = model.folder
    if folder is None:
        return
    config = load_config(folder)
    if not isinstance(config.get("model_type"), str) and not config.get("auto_map"):
        message = f"{folder / 'config.json'} names no model_type, by which its class is found"
        yield Problem(message, "download the model again; a config.json of sentence-transformers is another file")
    weights = read_weights(folder)
    for problem in weights.problems:
        from_hub = model.location != str(folder)  # it is a snapshot in the cache, which `hf` completes
        yield replace(problem, hint=f"hf download {model.location}") if from_hub else problem
    if weights.pickles and not allow_pickle:
        yield _refuse_pickles(folder, weights, allow)
    yield from _find_module_problems(folder, allow, allow_pickle=allow_pickle)
    table = find_embedding(weights.shapes)
    yield from find_tokenizer_problems(folder, rows=table[0] if table else None)
    if weights.shapes and not weights.problems:
        yield from find_name_problems(folder, config, weights.shapes, uses)
        yield from _find_absent_layers(folder, config, weights.shapes)
        yield from _find_other_sizes(folder, config, weights.shapes)
        yield from _find_absent_heads(folder, config, weights.shapes, uses)


def find_embedding(shapes: Shapes) -> tuple[int, int] | None:
    """Return rows and width of the table of token embeddings; None where no tensor, or more than one, is called so."""
    found = {shape for name, shape in shapes.items() if _EMBEDDING.search(name)}
    shape = found.pop() if len(found) == 1 else ()
    return (shape[0], shape[1]) if len(shape) == 2 else None  # noqa: PLR2004


def find_layer_count(config: dict[str, Any]) -> int | None:
    """Return how many layers a config asks for; None where it does not say, or shares them."""
    config = read_text_config(config)
    if config.get("is_encoder_decoder") or "num_hidden_groups" in config:  # ALBERT runs one layer many times
        return None
    return next((config[name] for name in _LAYER_COUNTS if isinstance(config.get(name), int)), None)


def count_layers(shapes: Shapes) -> int:
    """Return how many layers the longest list of layers has."""
    return max((len(numbers) for numbers in _group_layers(shapes).values()), default=0)


def read_text_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a config that describes the language model: all of it, or its text_config."""
    text = config.get("text_config")
    return text if isinstance(text, dict) else config


def _find_absent_layers(folder: Path, config: dict[str, Any], shapes: Shapes) -> Iterator[Problem]:
    asked, layers = find_layer_count(config), _group_layers(shapes)
    if asked is None or not layers:
        return
    name, longest = max(layers.items(), key=lambda item: len(item[1]))
    absent = sorted(set(range(asked)) - longest)
    if absent:
        message = (
            f"{folder}: config.json says {asked} layers, and the files hold {len(longest)} (no {name}.{absent[0]})"
        )
        yield Problem(f"{message}: {_RANDOM}", _CONFIG)


def _find_other_sizes(folder: Path, config: dict[str, Any], shapes: Shapes) -> Iterator[Problem]:
    table = find_embedding(shapes)
    if table is None or "quantization_config" in config:
        return
    width, rows = _find_width(config), read_text_config(config).get("vocab_size")
    if width is not None and table[1] != width:
        message = f"{folder}: config.json says vectors of {width} numbers, and the embeddings have {table[1]}"
        yield Problem(message, _CONFIG)
    if isinstance(rows, int) and table[0] != rows:
        message = f"{folder}: config.json says a vocabulary of {rows}, and the embeddings have {table[0]} rows"
        yield Problem(message, _CONFIG)


def _find_absent_heads(
    folder: Path, config: dict[str, Any], shapes: Shapes, uses: Collection[str]
) -> Iterator[Problem]:
    names = " ".join(map(str, config.get("architectures") or ()))
    answers = WORDS in uses
    if (
        set(uses) != {VECTORS}
        and "ForSequenceClassification" in names
        and not any(_SCORING_HEAD.search(name) for name in shapes)
    ):
        message = f"{folder}: config.json names {names}, and the files hold no head that scores: its scores are random"
        yield Problem(message, "take the tuned model's own files, or name the base model in architectures")
    untied = config.get("tie_word_embeddings") is False
    if answers and untied and "ForCausalLM" in names and not any(_ANSWER_HEAD.search(name) for name in shapes):
        message = f"{folder}: config.json says tie_word_embeddings: false, and the files hold no lm_head: it is random"
        yield Problem(message, "take the model's own config.json; an embedding model's files have no lm_head to answer")


def _refuse_pickles(folder: Path, weights: Weights, allow: str) -> Problem:
    names = ", ".join(path.name for path in weights.pickles[:3])
    message = f"{folder} has its weights as pickles only ({names}): loading a pickle runs code that it brings along"
    script = (
        "import glob, torch; from safetensors.torch import save_file; save_file({name: tensor.clone().contiguous() "
        "for file in glob.glob('pytorch_model*.bin') "
        "for found in [torch.load(file, map_location='cpu', weights_only=True)] "
        "for name, tensor in found.get('state_dict', found.get('model', found)).items()}, "
        "'model.safetensors', {'format': 'pt'})"
    )
    hint = (
        f"take the model's safetensors files; or, where you trust them, convert them once:\n"
        f'cd {shlex.quote(str(folder))} && python -c "{script}"'
    )
    return Problem(message, f"{hint}\nor {allow}")


def _find_module_problems(folder: Path, allow: str, *, allow_pickle: bool) -> Iterator[Problem]:
    """Yield which of the modules that a sentence-transformers model names is missing or pickled."""
    path = folder / "modules.json"
    if not path.is_file():
        return
    try:
        modules = load_json(path, constants=True)
        named = [(str(module["type"]), str(module["path"])) for module in modules]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        modules, named = None, []
    if not isinstance(modules, list):
        yield describe_damage(path, "it is no list of modules")
        return
    for kind, name in named:
        module = folder / name
        # hubs keep no empty folders, and Normalize has no files
        if re.search(r"Pooling|Dense", kind) and not (module / "config.json").is_file():
            yield Problem(f"{module / 'config.json'} is not there: {path} names it", "download the model again")
        pickled = name and any(module.glob("*.bin")) and not any(module.glob("*.safetensors"))
        if pickled and not allow_pickle:
            yield Problem(f"{module} has its weights as a pickle only", f"take its safetensors file, or {allow}")
        elif not pickled and kind.startswith("sentence_transformers.") and kind.endswith("Dense"):
            yield from _find_dense_problems(module)


def _find_dense_problems(module: Path) -> Iterator[Problem]:
    """Yield why a Dense module is not whole: its library would end with its own error, after a whole start."""
    path, settings = module / "model.safetensors", find_object(module / "config.json")
    if settings is None:
        return
    found = read_shapes(path) if path.is_file() else Damage("it is not there")
    if isinstance(found, Damage):
        yield describe_damage(path, found.why)
        return
    names = ("linear.weight", "linear.bias") if settings.get("bias") is True else ("linear.weight",)
    absent = [name for name in names if name not in found]
    asked, there = (settings.get("out_features"), settings.get("in_features")), found.get("linear.weight")
    if absent:
        message = f"{path} holds no {absent[0]}, but {', '.join(sorted(found)[:2]) or 'nothing'}"
        yield Problem(message, "take the module from where the model is whole, or save the model again")
    elif None not in asked and there != asked:
        yield Problem(f"{path}: linear.weight is {there}, and config.json beside it says {asked}", "take both files "
                      "from one and the same model")  # fmt: skip


def _group_layers(shapes: Shapes) -> dict[str, set[int]]:
    """Return the numbers of the layers by what stands before them, such as model.layers."""
    found: dict[str, set[int]] = {}
    for name in shapes:
        if match := _LAYER.match(name):
            found.setdefault(match[1], set()).add(int(match[2]))
    return found


def _find_width(config: dict[str, Any]) -> int | None:
    config = read_text_config(config)
    return next((config[name] for name in _WIDTHS if isinstance(config.get(name), int)), None)


def _has_more_by_design(config: dict[str, Any]) -> bool:
    """Tell whether the extra layers predict further tokens: they are there for serving, and never trained."""
    return bool(config.get("num_nextn_predict_layers"))
