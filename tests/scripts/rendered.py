"""A recipe, written as data, becomes the command or the config that its trainer reads; nothing is run."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from orchestrator.backends import BACKENDS
from orchestrator.backends.models import find_model
from orchestrator.machine.hardware import Hardware
from orchestrator.plan.load import load_recipe
from orchestrator.plan.pipeline import build_plan
from orchestrator.workers.embedding.losses import LOSSES
from tests.jobs import build_imagined_job

if TYPE_CHECKING:
    from collections.abc import Mapping

TABLES = Path(__file__).parent
CONFIGS = {"sentence-transformers": "files/train.json"}


@dataclass(frozen=True)
class Rendered:
    """What a recipe becomes: the trainer's settings, its environment, the other files, and what prepare is told."""

    settings: dict[str, Any]
    env: Mapping[str, str]
    files: dict[str, str]
    prepare: dict[str, Any]

    def find(self, path: str) -> Any:
        """Return the setting at a path such as `arguments.seed`; `env.NAME` is a variable, `prepare.NAME` a flag."""
        found: Any = {**self.settings, "env": self.env, "prepare": self.prepare}
        for key in path.split("."):
            if not isinstance(found, dict) or key not in found:
                return f"(nothing is rendered for {path})"
            found = found[key]
        return found


def render(recipe: Mapping[str, Any], folder: Path, gpus: int = 1) -> Rendered:
    """Return what the recipe becomes on a machine with these GPUs. Every check of the recipe must pass."""
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(dict(recipe)), encoding="utf-8")
    loaded = load_recipe(path, ()).recipe
    backend = BACKENDS[loaded.backend]
    model = find_model(loaded.model, folder, otherwise=backend.family)
    teacher = find_model(loaded.teacher, folder) if loaded.teacher else None
    hardware = Hardware("cuda", gpus, bf16=True, names=("NVIDIA A100",) * gpus)
    job = build_imagined_job(str(path.with_suffix("")), model, hardware, teacher=teacher)
    assert job.backend.check_job(job) == []
    plan = build_plan(job)
    train, prepare = plan.stage("train"), plan.stage("prepare")
    files = {file.path: file.text for file in plan.files}
    config = CONFIGS.get(loaded.backend)
    settings = read_options(train.command.argv) if config is None else read_config(files[config])
    if loaded.backend == "swift" and str(settings.get("deepspeed")).endswith(
        "files/ds_config.json"
    ):  # Orch's file of a stage that ms-swift names
        settings["deepspeed"] = f"zero{json.loads(files['files/ds_config.json'])['zero_optimization']['stage']}"
    return Rendered(settings, dict(train.command.env), files, read_options(prepare.command.argv))


def read_config(text: str) -> dict[str, Any]:
    """Return the worker's settings, and of an embedding model the library's class of the loss as `loss_class`."""
    settings: dict[str, Any] = json.loads(text)
    loss = LOSSES.get(settings["loss"]["type"])
    return settings | ({"loss_class": loss.name} if "embedding" in settings and loss else {})


def read_options(argv: tuple[str, ...]) -> dict[str, Any]:
    """Return the options of a command line by name; one with several words has a list."""
    found: dict[str, Any] = {}
    name = None
    if "--checkpoints" in argv:  # the launcher's own, where its words end
        place = argv.index("--checkpoints")
        argv = argv[:place] + argv[place + 2 :]
    for word in argv:
        if word.startswith("--"):
            name = word[2:]
            found[name] = []
        elif name is not None:
            found[name].append(word)
    return {name: words[0] if len(words) == 1 else words or True for name, words in found.items()}
