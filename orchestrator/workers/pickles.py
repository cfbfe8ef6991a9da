"""Whether weights may be pickles, which run code of their own when they are loaded: only where the recipe says so.

The recipe's `model.allow_pickle` reaches workers through the command's environment, where the plan shows it.
"""

from __future__ import annotations

import os

ALLOWED = "ORCH_ALLOW_PICKLE"


def weight_options() -> dict[str, bool]:
    """Return what every `from_pretrained` of a model gets: safetensors or an error, unless pickles are allowed.

    Without it transformers falls back to pytorch_model.bin where there are no safetensors (modeling_utils.py).
    """
    return {} if os.environ.get(ALLOWED) == "1" else {"use_safetensors": True}
