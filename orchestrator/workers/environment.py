"""The process of a worker: what its environment allows, what is installed in it, and what it prints on the way."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

# `model.allow_pickle` of a recipe reaches workers through the command's environment, where the plan shows it. Pickles
# run code of their own when they are loaded.
ALLOW_PICKLE = "ORCH_ALLOW_PICKLE"
_QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",  # it warns in every process that forks after tokenizing
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}
_PACKAGES = (  # whose versions decide what a worker computes
    "FlagEmbedding",
    "ms-swift",
    "transformers",
    "torch",
    "peft",
    "deepspeed",
    "accelerate",
    "sentence-transformers",
)

INTERVAL_S = 1.0  # between two lines of progress


def suppress_output() -> None:
    """Keep third-party bars, banners and hub calls out of the logs; errors stay, and what the user has set wins.

    The libraries read these switches when they are imported.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)


def may_load_pickles() -> bool:
    """Tell whether the recipe allows weights that are pickles."""
    return os.environ.get(ALLOW_PICKLE) == "1"


def weight_options() -> dict[str, bool]:
    """Return what every `from_pretrained` of a model gets: safetensors or an error, unless pickles are allowed.

    Without it transformers falls back to pytorch_model.bin where there are no safetensors (modeling_utils.py).
    """
    return {} if may_load_pickles() else {"use_safetensors": True}


def read_versions(*also: str) -> dict[str, str]:
    """Return name and version of each package that decides what a worker computes, or is named, and is installed."""
    versions = {}
    for name in dict.fromkeys((*_PACKAGES, *also)):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def say(level: str, text: str) -> None:
    """Print a note or a caution as a line that Orch's reader of logs knows (logs/live.py)."""
    sys.stdout.write(f"\norch-{level} {text}\n")  # a bar may stand in the line
    sys.stdout.flush()


@dataclass
class Progress:
    """Counts work up to `total`, and prints `orch-progress DONE/TOTAL`: first, last, and once a second at most."""

    total: int
    clock: Callable[[], float] = time.monotonic
    done: int = 0
    _printed_at: float | None = field(default=None, repr=False)

    def advance(self, count: int) -> None:
        """Count `count` more units of work as done, and print a line when one is due."""
        self.done += count
        now = self.clock()
        due = self._printed_at is None or now - self._printed_at >= INTERVAL_S
        if due or self.done >= self.total:
            self._printed_at = now
            sys.stdout.write(f"orch-progress {self.done}/{self.total}\n")
            sys.stdout.flush()
