"""Keep third-party bars, banners and hub calls out of a worker's logs; errors stay."""

from __future__ import annotations

import os
import warnings

QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",  # it warns in every process that forks after tokenizing
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}


def hush() -> None:
    """Set the switches that the libraries read when they are imported; what the user has set wins."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)
