"""Every bad input, by what it is that is bad."""

from __future__ import annotations

from tests.bad_input import data_files, models_of_commands, places, recipes, runs

KINDS = {
    "recipes": recipes.CASES,
    "data files, lines and tables": data_files.CASES,
    "model folders and weights": places.MODELS + places.WEIGHTS,
    "models that commands name": models_of_commands.CASES,
    "DeepSpeed files": places.DEEPSPEED,
    "paths": places.PATHS,
    "command lines": places.COMMANDS,
    "rows met by a whole run": runs.CASES,
}
CASES = tuple(case for cases in KINDS.values() for case in cases)
