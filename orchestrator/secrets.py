"""Which environment variables hold a secret: they are refused in recipes and never written to a run folder."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

# GENERATIVE_RERANKER_POSITIVE_TOKEN and its negative name a word of the vocabulary.
_SECRET = re.compile(
    r"(?<!POSITIVE_)(?<!NEGATIVE_)TOKEN$|SECRET|PASSW|CREDENTIAL|(^|_)KEY$|(API|ACCESS)_?KEY", re.IGNORECASE
)


def is_secret(name: str) -> bool:
    """Tell whether an environment variable of that name holds a secret, by the names that tools use."""
    return bool(_SECRET.search(name))


def rename_hub_token(env: Mapping[str, str]) -> dict[str, str]:
    """Return `env` with the hub's token under its older name.

    FlagEmbedding logs its arguments, and the default of `token` is HF_TOKEN (finetune/reranker AbsArguments.py).
    huggingface_hub reads both names (utils/_auth.py), and nobody logs the older one. templates/run/ does the same.
    """
    renamed = dict(env)
    if token := renamed.pop("HF_TOKEN", None):
        renamed.setdefault("HUGGING_FACE_HUB_TOKEN", token)
    return renamed
