"""Which environment variables hold a secret: they are refused in recipes and never written to a run folder."""

from __future__ import annotations

import re

# GENERATIVE_RERANKER_POSITIVE_TOKEN and its negative name a word of the vocabulary.
_SECRET = re.compile(
    r"(?<!POSITIVE_)(?<!NEGATIVE_)TOKEN$|SECRET|PASSW|CREDENTIAL|(^|_)KEY$|(API|ACCESS)_?KEY", re.IGNORECASE
)


def is_secret(name: str) -> bool:
    """Tell whether an environment variable of that name holds a secret, by the names that tools use."""
    return bool(_SECRET.search(name))
