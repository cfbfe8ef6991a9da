"""When training has ended: the links `last` and `best` to the checkpoints that they name."""

from __future__ import annotations

import os
import re
from pathlib import Path

from orchestrator.workers.failure import WorkerError
from orchestrator.workers.folders import replace_link

_CHECKPOINT = re.compile(r"checkpoint-([0-9]{1,18})")


def link_checkpoints(output: Path, best: str | None, *, has_validation: bool) -> dict[str, str]:
    """Make the links in `output` and return what they point to. `best`: the trainer state's best_model_checkpoint.

    Raises WorkerError when no checkpoint was written to its end, or, with validation, when none is the best.
    """
    whole = {
        int(match[1]): path.name
        for path in output.iterdir()
        if (match := _CHECKPOINT.fullmatch(path.name)) and (path / "trainer_state.json").is_file()
    }
    if not whole:
        raise WorkerError(f"{output} holds no checkpoint: the training ended before the first one; lower save_steps")
    links = {"last": whole[max(whole)]}
    if has_validation:
        name = os.path.basename(best.rstrip("/")) if best else ""  # noqa: PTH119  the text of another process's path
        if name not in whole.values():
            raise WorkerError(
                f"{output}: no checkpoint is known as the best ({name or 'none was both evaluated and saved'}); "
                "let eval_steps and save_steps be equal"
            )
        links["best"] = name
    for name, target in links.items():
        replace_link(output / name, target)
    return links
