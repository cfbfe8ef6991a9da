"""Whether the folders of the base model and of the teacher are complete: weights, config and tokenizer fit together.

A tensor that a file lacks is filled with random numbers by every trainer, with a warning and exit code 0; where there
is no tokenizer ms-swift trains every text as token 0, and ends with exit code 0.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from orchestrator.backends.models import BaseModel, load_config
from orchestrator.backends.protocol import Job
from orchestrator.backends.scorers import NEW_HEAD, SCORES, find_use
from orchestrator.checks.tensor_names import count_layers, find_embedding, find_layer_count, find_shape_problems
from orchestrator.errors import Problem
from orchestrator.machine.files import read_once
from orchestrator.machine.json_files import find_object, load_json
from orchestrator.machine.weights import Damage, Weights, describe_damage, is_lfs_pointer, read_shapes, read_weights
from orchestrator.plan.measuring import TEACHER
from orchestrator.recipe.plan import Plan
from orchestrator.recipe.schema import ModelRef

_SPEC = re.compile(r"files/scoring\.([^/]+)\.json")
# Each alone is a whole vocabulary: of tokenizers, of BERT, of sentencepiece, of tiktoken, of Mistral.
_VOCABULARIES = (
    "tokenizer.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model", "sentencepiece.model", "tokenizer.model",
    "spm.model", "bpe.codes", "tekken.json",
)  # fmt: skip
_PAIRED = ("vocab.json", "merges.txt")


def check_model_files(job: Job, plan: Plan) -> Iterator[Problem]:
    """Yield what is missing, damaged or does not fit in the folders of the models that are on this machine."""
    for key, model, said in list_models(job):
        allow, uses = f"say {key}: {{path: …, allow_pickle: true}}", find_uses(plan, key)
        yield from find_folder_problems(model, allow=allow, allow_pickle=said.allow_pickle, uses=uses)


def advise_model_files(job: Job, plan: Plan) -> Iterator[Problem]:  # noqa: ARG001
    """Yield what is odd in the folders of the models that are on this machine, and may be meant so."""
    for _, model, _ in list_models(job):
        yield from find_oddities(model)


def find_oddities(model: BaseModel) -> Iterator[Problem]:
    """Yield what is odd in a model's folder, if it lies on this machine, and may be meant so."""
    if (folder := model.folder) is None:
        return
    config = load_config(folder)
    shapes = read_weights(folder).shapes
    table = find_embedding(shapes)
    tokens = _read_tokens(folder / "tokenizer.json") if table else None
    if table and tokens and (beyond := [content for number, content in tokens.added if number >= table[0]]):
        message = f"{folder / 'tokenizer.json'}: {beyond[0]!r} was added beyond the {table[0]} rows of the model"
        yield Problem(message, "a text that holds it ends the run with an index error: keep it out of the data")
    asked, there = find_layer_count(config), count_layers(shapes)
    # layers that predict further tokens are there for serving, and never trained
    if asked is not None and there > asked and not config.get("num_nextn_predict_layers"):
        message = f"{folder}: config.json says {asked} layers, and the files hold {there}: the others are not used"
        yield Problem(message, "that is right for a model that was cut on purpose")


def list_models(job: Job, *, local: bool = True) -> Iterator[tuple[str, BaseModel, ModelRef]]:
    """Yield the recipe's key, the model and what is said of it there: of those on this machine, or those to download.

    A smoke run makes its own.
    """
    for key, model, said in (("model", job.model, job.recipe.model), ("teacher", job.teacher, job.recipe.teacher)):
        if model is not None and said is not None and model.is_local == local and not job.smoke:
            yield key, model, said


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
        yield from find_shape_problems(folder, config, weights.shapes, uses)


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


@dataclass(frozen=True)
class Tokens:
    """What a tokenizer.json says of its tokens: the highest id plus one, None where it has no list; those added."""

    size: int | None
    added: tuple[tuple[int, str], ...]


def find_tokenizer_problems(folder: Path, *, rows: int | None) -> Iterator[Problem]:
    """Yield what is missing or damaged; `rows` are those of the model's token embeddings, where they are known."""
    there = [name for name in (*_VOCABULARIES, *_PAIRED) if (folder / name).is_file()]
    there += sorted(path.name for path in folder.glob("*.tiktoken"))
    # a tokenizer that is a Python class of the folder knows its own files
    if not there and not (find_object(folder / "tokenizer_config.json", constants=True) or {}).get("auto_map"):
        message = f"{folder} has no tokenizer: no tokenizer.json, vocab.txt, vocab.json or sentencepiece model"
        yield Problem(message, "copy the tokenizer's files from the model that it was made from")
    if len(there) == 1 and there[0] in _PAIRED:
        absent = _PAIRED[1 - _PAIRED.index(there[0])]
        yield Problem(f"{folder / absent} is not there, and {there[0]} is no tokenizer without it", "copy it too")
    for name in there:
        if name != "tokenizer.json" and is_lfs_pointer(folder / name):
            yield describe_damage(folder / name, "")
    if "tokenizer.json" in there:
        yield from _check_tokenizer_json(folder / "tokenizer.json", rows)


def _check_tokenizer_json(path: Path, rows: int | None) -> Iterator[Problem]:
    tokens = _read_tokens(path)
    if tokens is None:
        yield describe_damage(path, "it is no tokenizer in JSON")
        return
    if tokens.size == 0:
        yield Problem(f"{path} has an empty vocabulary", "copy it from the model that it was made from")
    if tokens.size is not None and rows is not None and tokens.size > rows:
        message = f"{path} has {tokens.size} tokens, and the model has embeddings for {rows}: it is another model's"
        yield Problem(message, "copy the tokenizer's files from the model that it was made from")


@read_once  # it takes a second for 150,000 tokens
def _read_tokens(path: Path) -> Tokens | None:
    """Return what a tokenizer.json says of its tokens; None where it is none."""
    tokenizer = find_object(path, constants=True)
    if tokenizer is None or not isinstance(tokenizer.get("model"), dict):
        return None
    added = tokenizer.get("added_tokens")
    named = [token for token in added if isinstance(token, dict)] if isinstance(added, list) else []
    vocabulary, size = tokenizer["model"].get("vocab"), None
    if isinstance(vocabulary, list):  # Unigram's; BPE and WordPiece map tokens to ids
        size = len(vocabulary)
    elif isinstance(vocabulary, dict):
        size = max((number for number in vocabulary.values() if isinstance(number, int)), default=-1) + 1
    ids = ((token["id"], str(token.get("content"))) for token in named if isinstance(token.get("id"), int))
    return Tokens(size, tuple(ids))
