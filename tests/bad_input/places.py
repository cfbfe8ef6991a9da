"""Models, DeepSpeed configurations, odd paths and command lines that cannot be used."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.bad_input.case import FIFO, FOLDER, GOOD, LOCKED, RECIPE, BadInput, edited, link

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.bad_input.case import Special

CHECK = ("check", "recipe.yaml")
RENDER = ("render", "recipe.yaml")
LONG = "x" * 300


def _model(
    name: str, story: str, config: str | bytes | Special | None, *, where: str, says: str, remedy: str, code: int = 4
) -> BadInput:
    """Return the case of a model folder with this config.json."""
    return BadInput(name, story, CHECK, code, where, says, remedy, {"model/config.json": config})


_CONFIG = "config.json"
MODELS = (
    _model(
        "no-config",
        "names a folder without config",
        None,
        where="recipe.yaml:4",
        says="no config.json",
        remedy="holds config.json",
    ),
    _model(
        "config-broken",
        "cuts config.json",
        '{"architectures": [',
        where=_CONFIG,
        says="cannot be read",
        remedy="download",
    ),
    _model("config-list", "has a list as config.json", "[]", where=_CONFIG, says="no JSON object", remedy="download"),
    _model(
        "config-binary",
        "has bytes as config.json",
        b"\xff\xfe\x00",
        where=_CONFIG,
        says="cannot be read",
        remedy="download",
    ),
    _model(
        "config-folder",
        "has a folder as config.json",
        FOLDER,
        where="recipe.yaml:4",
        says="no config.json",
        remedy="holds config.json",
    ),
    _model(
        "config-nested", "nests config.json", "[" * 100_000, where=_CONFIG, says="cannot be read", remedy="download"
    ),
    _model(
        "config-empty",
        "has no architecture",
        "{}",
        where="recipe.yaml:4",
        says="cannot tell",
        remedy="family: decoder",
        code=2,
    ),
    _model(
        "config-types",
        "has a number as architecture",
        '{"architectures": 5}',
        where=_CONFIG,
        says="architectures",
        remedy="download",
    ),
    BadInput(
        "no-model",
        "names a model that is not there",
        CHECK,
        4,
        "recipe.yaml:4",
        "no such model folder",
        "paths start from",
        edited("./model", "./nowhere"),
    ),
    BadInput(
        "model-file",
        "names a file as model",
        CHECK,
        4,
        "recipe.yaml:4",
        "no such model folder",
        "owner/name",
        edited("./model", "./train.jsonl"),
    ),
    BadInput(
        "model-nobody",
        "names the home of nobody",
        CHECK,
        4,
        "recipe.yaml:4",
        "~nobody-here",
        "paths start from",
        edited("./model", "~nobody-here/m"),
    ),
    BadInput(
        "model-loop",
        "names a link to itself",
        CHECK,
        4,
        "recipe.yaml:4",
        "no such model folder",
        "paths start from",
        {**edited("./model", "./loop"), "loop": link("loop")},
    ),
    BadInput(
        "model-long",
        "writes a very long model path",
        CHECK,
        4,
        "recipe.yaml:4",
        "no such model folder",
        "paths start from",
        edited("./model", "./" + LONG),
    ),
    BadInput(
        "python",
        "names an interpreter that is not there",
        CHECK,
        4,
        "recipe.yaml:10",
        "no such interpreter",
        "environment",
        edited("  learning_rate: 1e-4\n", "  learning_rate: 1e-4\nlaunch: {python: ./nowhere/python}\n"),
    ),
)


RUN = ("run", "recipe.yaml", "-o", "out", "--hardware", "cpu")


def _weights(
    name: str, story: str, files: Mapping[str, str | bytes | Special | None], *, where: str, says: str, remedy: str
) -> BadInput:
    """Return the case of a run whose model folder holds these files."""
    return BadInput(name, story, RUN, 4, where, says, remedy, files)


_WEIGHTS = "model/model.safetensors"
_SHARDS = json.dumps(
    {"metadata": {}, "weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
)
WEIGHTS = (
    _weights("weights-none", "has no weights", {_WEIGHTS: None}, where="model", says="weights", remedy="download"),
    _weights(
        "weights-cut",
        "cuts the weights",
        {_WEIGHTS: GOOD[_WEIGHTS][:-40]},
        where="model.safetensors",
        says="is not whole",
        remedy="download",
    ),
    _weights(
        "weights-text",
        "has text as weights",
        {_WEIGHTS: "version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 9\n"},
        where="model.safetensors",
        says="git-lfs pointer",
        remedy="lfs",
    ),
    _weights(
        "weights-empty",
        "has an empty file as weights",
        {_WEIGHTS: b""},
        where="model.safetensors",
        says="no safetensors header",
        remedy="download",
    ),
    _weights(
        "weights-shard",
        "has one of two shards",
        {
            _WEIGHTS: None,
            "model/model-00001-of-00002.safetensors": GOOD[_WEIGHTS],
            "model/model.safetensors.index.json": _SHARDS,
        },
        where="model-00002-of-00002.safetensors",
        says="is not there",
        remedy="download",
    ),
    _weights(
        "weights-pickle",
        "has pickled weights only",
        {_WEIGHTS: None, "model/pytorch_model.bin": b"\x80\x02."},
        where="model",
        says="pickle",
        remedy="allow_pickle",
    ),
    _weights(
        "no-tokenizer",
        "has no tokenizer",
        {"model/tokenizer.json": None},
        where="model",
        says="tokenizer",
        remedy="tokenizer",
    ),
    _weights(
        "tokenizer-cut",
        "cuts tokenizer.json",
        {"model/tokenizer.json": '{"version": '},
        where="tokenizer.json",
        says="is not whole",
        remedy="download",
    ),
)


def _deepspeed(
    name: str, story: str, content: str | bytes | Special | None, *, says: str, remedy: str, recipe: str = RECIPE
) -> BadInput:
    """Return the case of a recipe with this DeepSpeed configuration."""
    files: Mapping[str, str | bytes | Special | None] = {
        "recipe.yaml": recipe + "deepspeed: ds.json\n",
        "ds.json": content,
    }
    line = recipe.count("\n") + 1
    return BadInput(name, story, CHECK, 2, f"recipe.yaml:{line}", says, remedy, files)


_SWIFT = RECIPE.replace("flagembedding", "swift")
DEEPSPEED = (
    _deepspeed("ds-missing", "names one that is not there", None, says="no such configuration", remedy="stage0"),
    _deepspeed("ds-folder", "names a folder", FOLDER, says="no such configuration", remedy="stage0"),
    _deepspeed(
        "ds-broken", "leaves a comma at the end", '{"a": 1,}', says="not a DeepSpeed configuration", remedy="correct it"
    ),
    _deepspeed("ds-list", "gives a list", "[1]", says="not a DeepSpeed configuration", remedy="correct it"),
    _deepspeed("ds-empty", "gives an empty file", "", says="not a DeepSpeed configuration", remedy="correct it"),
    _deepspeed("ds-utf-16", "saves it as UTF-16", '{"a": 1}'.encode("utf-16"), says="UTF-8", remedy="save it as UTF-8"),
    _deepspeed("ds-pipe", "names a pipe", FIFO, says="no such configuration", remedy="stage0"),
    _deepspeed(
        "ds-nested", "nests 100,000 lists", "[" * 100_000, says="not a DeepSpeed configuration", remedy="correct it"
    ),
    _deepspeed(
        "ds-zero-3",
        "takes ZeRO-3 with FlagEmbedding",
        '{"zero_optimization": {"stage": 3}}',
        says="ZeRO-3",
        remedy="stage0",
    ),
    _deepspeed(
        "ds-zero-text",
        "writes the ZeRO stage in words",
        '{"zero_optimization": {"stage": "three"}}',
        says="zero_optimization.stage",
        remedy="0, 1, 2 or 3",
    ),
    _deepspeed(
        "ds-zero-list",
        "writes ZeRO as a list",
        '{"zero_optimization": [3]}',
        says="zero_optimization is no object",
        remedy="write",
    ),
    _deepspeed(
        "ds-misspelt",
        "misspells a key, which DeepSpeed ignores",
        '{"zero_optimisation": {"stage": 1}}',
        says="zero_optimisation",
        remedy="zero_optimization",
    ),
    _deepspeed(
        "ds-nested-misspelt",
        "misspells a key of a part",
        '{"zero_optimization": {"stge": 1}}',
        says="stge",
        remedy="stage",
    ),
    _deepspeed(
        "ds-swift-optimizer",
        "gives swift an optimizer",
        '{"optimizer": {"type": "AdamW"}}',
        says="optimizer",
        remedy="leave them out",
        recipe=_SWIFT,
    ),
    _deepspeed(
        "ds-swift-list",
        "gives swift a list",
        "[1]",
        says="not a DeepSpeed configuration",
        remedy="correct it",
        recipe=_SWIFT,
    ),
)


def _recipe_at(
    name: str, story: str, path: str, content: Special | None, says: str, remedy: str, **options: bool
) -> BadInput:
    return BadInput(name, story, ("check", path), 2, path, says, remedy, {path: content} if content else {}, **options)


PATHS = (
    _recipe_at(
        "path-spaces", "has spaces in a path that is not there", "my recipe.yaml", None, "no such recipe", "orch init"
    ),
    _recipe_at("path-quotes", "has quotes in a path", "a'b\".yaml", None, "no such recipe", "orch init"),
    _recipe_at("path-home", "writes $HOME, unexpanded", "$HOME/recipe.yaml", None, "no such recipe", "orch init"),
    _recipe_at("path-pattern", "writes a pattern", "*[1].yaml", None, "no such recipe", "orch init"),
    BadInput(
        "path-newline",
        "has a line feed in a path",
        ("check", "a\nb.yaml"),
        2,
        "recipe: a",
        "no such recipe",
        "orch init",
    ),
    BadInput(
        "path-escape", "has an ESC in a path", ("check", "\x1b[2Ja.yaml"), 2, "a.yaml", "no such recipe", "orch init"
    ),
    BadInput(
        "path-bytes",
        "has bytes that are no text in a path",
        ("check", "\udcff.yaml"),
        2,
        ".yaml",
        "no such recipe",
        "orch init",
    ),
    BadInput("path-long", "writes a very long path", ("check", LONG * 20), 2, LONG, "cannot be read", "check the path"),
    _recipe_at(
        "path-loop", "names a link to itself", "loop.yaml", link("loop.yaml"), "cannot be read", "check the path"
    ),
    _recipe_at("path-pipe", "names a pipe", "pipe.yaml", FIFO, "a pipe", "name a .yaml file"),
    _recipe_at("path-device", "names a device", "zero.yaml", link("/dev/zero"), "a device", "name a .yaml file"),
    _recipe_at(
        "path-locked", "may not read it", "locked.yaml", LOCKED, "cannot be read", "permissions", needs_user=True
    ),
    BadInput(
        "path-through-file",
        "goes through a file as if it were a folder",
        ("check", "train.jsonl/recipe.yaml"),
        2,
        "train.jsonl/recipe.yaml",
        "cannot be read",
        "check the path",
    ),
    BadInput(
        "out-file",
        "writes the run into a file",
        ("run", "recipe.yaml", "--smoke", "-o", "train.jsonl"),
        4,
        "train.jsonl",
        "is a file",
        "-o",
    ),
    BadInput(
        "out-inside-file",
        "writes the run below a file",
        ("run", "recipe.yaml", "--smoke", "-o", "train.jsonl/run"),
        4,
        "train.jsonl",
        "is a file",
        "-o",
    ),
    BadInput(
        "out-foreign",
        "writes the run among other files",
        ("run", "recipe.yaml", "--smoke", "-o", "."),
        9,
        "",
        "is not empty",
        "fresh folder",
    ),
    BadInput(
        "out-bytes",
        "writes the run where no text can say",
        ("run", "recipe.yaml", "--smoke", "-o", "\udcff"),
        9,
        "",
        "not UTF-8",
        "-o",
    ),
    BadInput("render-file", "renders into a file", (*RENDER, "-o", "train.jsonl"), 9, "train.jsonl", "is a file", "-o"),
    BadInput(
        "render-foreign",
        "renders among other files",
        (*RENDER, "-o", "model"),
        9,
        "model",
        "is not empty",
        "fresh folder",
    ),
    BadInput(
        "init-exists", "would write over a recipe", ("init", "recipe.yaml"), 9, "recipe.yaml", "exists", "--force"
    ),
    BadInput(
        "init-below-file",
        "starts a recipe below a file",
        ("init", "train.jsonl/a.yaml"),
        4,
        "train.jsonl",
        "File exists",
        "check the path",
    ),
    BadInput(
        "convert-onto-itself",
        "converts a file onto itself",
        ("data", "convert", "train.jsonl", "-o", "train.jsonl"),
        3,
        "train.jsonl",
        "output-exists",
        "choose",
    ),
    BadInput(
        "split-into-file",
        "splits into a file",
        ("data", "split", "train.jsonl", "-o", "eval.jsonl"),
        4,
        "eval.jsonl",
        "File exists",
        "check the path",
    ),
)

_FOREIGN = {
    **GOOD,
    "runs/broken/plan.json": "{",
    "runs/odd/plan.json": '{"stages": 5}',
    "runs/torn/plan.json": "\udcff".encode("utf-8", "surrogateescape"),
    "runs/deep/plan.json": "[" * 100_000,
}
COMMANDS = (
    BadInput(
        "no-command",
        "misspells a command",
        ("chekc", "recipe.yaml"),
        2,
        "",
        "no such command: chekc",
        "did you mean check",
    ),
    BadInput("option", "misspells an option", (*CHECK, "--jsn"), 2, "", "--jsn", "--json"),
    BadInput("no-argument", "leaves the recipe out", ("check",), 2, "", "Missing argument 'RECIPE'", "Try 'orch"),
    BadInput(
        "set-no-value",
        "sets a key to nothing",
        (*CHECK, "--set", "train.lora_rank"),
        2,
        "--set train.lora_rank",
        "a.b=value",
        "for example",
    ),
    BadInput("set-no-key", "sets nothing", (*CHECK, "--set", "=1"), 2, "--set =1", "a.b=value", "for example"),
    BadInput("set-dots", "sets a..b", (*CHECK, "--set", "a..b=1"), 2, "--set a..b=1", "a.b=value", "for example"),
    BadInput(
        "set-unknown",
        "sets an unknown argument",
        (*CHECK, "--set", "train.lora_rnk=8"),
        2,
        "--set train.lora_rnk=8",
        "lora_rnk",
        "lora_rank",
    ),
    BadInput(
        "set-nested",
        "nests 100,000 lists",
        (*CHECK, "--set", "train.x=" + "[" * 100_000),
        2,
        "--set train.x=",
        "beyond reason",
        "nest",
    ),
    BadInput(
        "set-keys",
        "nests 5,000 keys",
        (*CHECK, "--set", "a." * 5000 + "b=1"),
        2,
        "--set a.a",
        "beyond reason",
        "orch schema",
    ),
    BadInput("set-bool", "breaks a YAML tag", (*CHECK, "--set", "merge=!!bool x"), 2, "--set merge", "bool", "quotes"),
    BadInput(
        "set-bytes", "sets what is no text", (*CHECK, "--set", "name=\udcff"), 2, "--set name=", "UTF-8", "remove it"
    ),
    BadInput(
        "set-secret",
        "sets a URL with a password",
        (*CHECK, "--set", "model=https://me:pw@host/m"),
        2,
        "--set model",
        "holds a password",
        "your shell",
    ),
    BadInput(
        "set-name",
        "sets a name outside runs",
        (*CHECK, "--set", "name=../../up"),
        2,
        "--set name=../../up",
        "cannot name a folder",
        "letters",
    ),
    BadInput("hardware", "plans for odd hardware", (*CHECK, "--hardware", "tpu"), 4, "", "tpu", "cpu"),
    BadInput(
        "hardware-many", "plans for 10^30 devices", (*CHECK, "--hardware", "gpu:1" + "0" * 30), 4, "", "gpu:1", "gpu"
    ),
    BadInput(
        "unknown-run", "shows a run that is not there", ("show", "nowhere"), 9, "runs", "no run 'nowhere'", "orch ls"
    ),
    BadInput("run-traversal", "shows ../..", ("show", "../.."), 9, "runs", "no run '../..'", "orch ls"),
    BadInput("run-pattern", "shows *", ("show", "*"), 9, "runs", "no run '*'", "orch ls"),
    BadInput(
        "run-bytes", "shows a run that no text names", ("show", "\udcff\0".rstrip("\0")), 9, "runs", "no run", "orch ls"
    ),
    BadInput(
        "run-broken",
        "shows a run with a broken plan",
        ("show", "runs/broken"),
        9,
        "plan.json",
        "cannot be read",
        "new run",
        _FOREIGN,
    ),
    BadInput(
        "run-odd",
        "shows a run with another plan",
        ("show", "runs/odd"),
        9,
        "plan.json",
        "cannot be read",
        "new run",
        _FOREIGN,
    ),
    BadInput(
        "resume-torn",
        "resumes a run with a torn plan",
        ("resume", "runs/torn"),
        9,
        "plan.json",
        "cannot be read",
        "new run",
        _FOREIGN,
    ),
    BadInput(
        "run-deep",
        "shows a run with a plan of 100,000 brackets",
        ("show", "runs/deep"),
        9,
        "plan.json",
        "nested beyond reason",
        "new run",
        _FOREIGN,
    ),
    BadInput(
        "logs-traversal",
        "reads logs outside the run",
        ("logs", "runs/broken", "../../.."),
        9,
        "broken",
        "has no stage",
        "stages",
        _FOREIGN,
    ),
    BadInput(
        "data-map",
        "maps a column to nothing",
        ("data", "check", "train.jsonl", "--map", "query"),
        2,
        "",
        "NEW=OLD",
        "Try 'orch",
    ),
    BadInput(
        "data-kind", "invents a kind", ("data", "check", "train.jsonl", "--kind", "poem"), 2, "", "poem", "Try 'orch"
    ),
    BadInput(
        "runs-file",
        "names a file as folder of runs",
        ("show", "last", "--runs", "train.jsonl"),
        9,
        "train.jsonl",
        "no run",
        "orch ls",
    ),
)

CASES = MODELS + WEIGHTS + DEEPSPEED + PATHS + COMMANDS
