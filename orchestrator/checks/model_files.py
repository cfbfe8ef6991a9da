"""Whether the folders of the base model and of the teacher are complete: weights, config and tokenizer fit together.

A tensor that a file lacks is filled with random numbers by every trainer, with a warning and exit code 0; where there
is no tokenizer ms-swift trains every text as token 0, and ends with exit code 0.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from orchestrator.backends.models import BaseModel, load_config
from orchestrator.backends.protocol import Job
from orchestrator.backends.scorers import NEW_HEAD, SCORES, VECTORS, WORDS, find_use
from orchestrator.checks.model_size import (
    NAMES,
    count_layers,
    find_embedding,
    find_layer_count,
    group_layers,
    read_text_config,
    read_whole,
)
from orchestrator.errors import Problem
from orchestrator.machine.files import read_once
from orchestrator.machine.json_files import find_object, load_json
from orchestrator.machine.places import WORKERS
from orchestrator.machine.weights import (
    Damage,
    Shapes,
    Weights,
    describe_damage,
    is_lfs_pointer,
    read_shapes,
    read_weights,
)
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
# What DistributedDataParallel, torch.compile, FSDP and activation checkpoints put into names (workers/mend_model.py).
_IN_FRONT = ("module", "base_model.model", "_orig_mod", "_fsdp_wrapped_module", "_forward_module")
_ANYWHERE = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "base_layer")
_ADAPTER = re.compile(r"\.(lora_[AB]|lora_embedding_[AB]|lora_magnitude_vector|modules_to_save)(\.|$)")
_TABLE = re.compile(r"emb|wte|shared|word", re.IGNORECASE)
_NO_TABLE = re.compile(r"position|type_emb|segment|relative|rotary|patch|norm|visual|vision", re.IGNORECASE)
_HEAD = re.compile(r"(^|\.)(classifier|score|classification_head|logits_proj)(\.out_proj)?\.weight$")
_CLASSIFIES = "ForSequenceClassification"
_RANDOM = "every library would fill them with random numbers, and say so in a warning only"
_SCORING_HEAD = re.compile(r"(^|\.)(classifier|score|classification_head|head|sequence_summary)\.")
_ANSWER_HEAD = re.compile(r"(^|\.)(lm_head|embed_out|output)\.")
_WIDTHS = ("embedding_size", "input_embedding_size", "word_embed_proj_dim", *NAMES["hidden_size"])
_CONFIG = "take config.json and weights from one and the same model"


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
        yield from find_name_problems(folder, config, weights.shapes, uses)
        yield from _find_other_sizes(folder, config, weights.shapes)
        yield from _find_absent_heads(folder, config, weights.shapes, uses)


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


class Tokens(msgspec.Struct, frozen=True):
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


# What the names and shapes in the files tell of a model without any library; what only its own class can tell is asked
# of the backend's Python afterwards (`model_loading`).


def find_name_problems(
    folder: Path, config: Mapping[str, Any], shapes: Shapes, uses: Collection[str] = ()
) -> Iterator[Problem]:
    """Yield what is wrong with the tensors of a folder; `uses` are what it is wanted for (`scorers.find_use`)."""
    if config.get("auto_map"):  # its own code may call its tensors as it likes
        return
    adapters = [name for name in shapes if _ADAPTER.search(name)]
    if adapters:
        message = f"{folder} holds an adapter that was never merged into the weights ({adapters[0]} …)"
        hint = (
            "call merge_and_unload() before save_pretrained() in the program that wrote it\n"
            f"or, with the lora_alpha of its training: {_mend(folder, '--fold-lora', 'ALPHA')}"
        )
        yield Problem(f"{message}: what it has learnt would be left out", hint)
    elif options := _find_wrappers(shapes):
        first = next(name for name in sorted(shapes) if any(option in f".{name}" for option in options[1::2]))
        message = f"{folder}: its tensors have other names than its model's, such as {first}: {_RANDOM}"
        words = ", ".join(f"{name}." for name in options[1::2])
        yield Problem(message, f"strip {words} from the names: {_mend(folder, *options)}")
    elif "quantization_config" not in config and not _has_table(config, shapes):
        message = f"{folder}: its files hold no table of token embeddings: {_RANDOM}"
        yield Problem(message, "take the model from where it is whole, or save it again")
    if {SCORES, NEW_HEAD} & set(uses):
        yield from _find_labels(folder, config, shapes, uses)


def _find_wrappers(shapes: Shapes) -> list[str]:
    """Return the options of `workers mend_model` that take the wrappers out of the names; none where there are none."""
    names, options = list(shapes), []
    for part in _ANYWHERE:
        if any(f".{part}." in name for name in names):
            options += ["--drop", part]
            names = [f".{name}.".replace(f".{part}.", ".").strip(".") for name in names]
    for part in _IN_FRONT * 2:  # module.base_model.model. and base_model.model.module. are both there
        if all(name.startswith(f"{part}.") for name in names):
            options += ["--strip", part]
            names = [name.removeprefix(f"{part}.") for name in names]
    return options


def _has_table(config: Mapping[str, Any], shapes: Shapes) -> bool:
    """Tell whether any tensor may be the table of token embeddings: by its rows, or by its name."""
    rows = read_text_config(config).get("vocab_size")
    tables = {name: shape for name, shape in shapes.items() if len(shape) == 2}  # noqa: PLR2004
    return not tables or any(
        (rows in shape and isinstance(rows, int)) or (_TABLE.search(name) and not _NO_TABLE.search(name))
        for name, shape in tables.items()
    )


def _find_labels(folder: Path, config: Mapping[str, Any], shapes: Shapes, uses: Collection[str]) -> Iterator[Problem]:
    """Yield that a trained head gives several numbers, which no reranker's does."""
    if not any(_CLASSIFIES in name for name in config.get("architectures") or ()):
        return
    heads = [shape[0] for name, shape in shapes.items() if _HEAD.search(name) and len(shape) == 2]  # noqa: PLR2004
    named = config.get("id2label")
    labels = heads[0] if heads else len(named) if isinstance(named, dict) else 1
    if labels == 1:
        return
    ways = []
    if labels == 2:  # noqa: PLR2004  the logit of "relevant" less the other's orders as its probability does
        ways.append(f"make one label of the two, the second less the first: {_mend(folder, '--one-label')}")
    if NEW_HEAD in uses:
        ways.append(f"train a new head on its body: {_mend(folder, '--without-head')}")
    ways.append("name a cross-encoder, whose head has one label")
    message = f"{folder} has a head of {labels} labels, and a reranker's has one: a score"
    yield Problem(message, "\nor ".join(ways))


def _mend(folder: Path, *options: str) -> str:
    """Return the command that writes a mended copy of the folder beside it; any Python runs it."""
    return shlex.join([sys.executable, str(WORKERS), "mend_model", str(folder), "-o", f"{folder}-mended", *options])


def _find_other_sizes(folder: Path, config: Mapping[str, Any], shapes: Shapes) -> Iterator[Problem]:
    """Yield that layers are absent, and that the embeddings have another size than config.json says."""
    asked, table = find_layer_count(config), find_embedding(shapes)
    name, longest = max(group_layers(shapes).items(), key=lambda item: len(item[1]), default=("", set[int]()))
    if longest and (absent := sorted(set(range(asked or 0)) - longest)):
        found = f"config.json says {asked} layers, and the files hold {len(longest)} (no {name}.{absent[0]})"
        yield Problem(f"{folder}: {found}: {_RANDOM}", _CONFIG)
    if table is None or "quantization_config" in config:
        return
    width, rows = read_whole(read_text_config(config), *_WIDTHS), read_text_config(config).get("vocab_size")
    if width is not None and table[1] != width:
        message = f"{folder}: config.json says vectors of {width} numbers, and the embeddings have {table[1]}"
        yield Problem(message, _CONFIG)
    if isinstance(rows, int) and table[0] != rows:
        message = f"{folder}: config.json says a vocabulary of {rows}, and the embeddings have {table[0]} rows"
        yield Problem(message, _CONFIG)


def _find_absent_heads(
    folder: Path, config: Mapping[str, Any], shapes: Shapes, uses: Collection[str]
) -> Iterator[Problem]:
    names = " ".join(map(str, config.get("architectures") or ()))
    scores = set(uses) != {VECTORS} and _CLASSIFIES in names
    if scores and not any(_SCORING_HEAD.search(name) for name in shapes):
        message = f"{folder}: config.json names {names}, and the files hold no head that scores: its scores are random"
        yield Problem(message, "take the tuned model's own files, or name the base model in architectures")
    answers = WORDS in uses and config.get("tie_word_embeddings") is False and "ForCausalLM" in names
    if answers and not any(_ANSWER_HEAD.search(name) for name in shapes):
        message = f"{folder}: config.json says tie_word_embeddings: false, and the files hold no lm_head: it is random"
        yield Problem(message, "take the model's own config.json; an embedding model's files have no lm_head to answer")
