"""What is a secret, and text without it: tokens in the environment, passwords in URLs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

# GENERATIVE_RERANKER_POSITIVE_TOKEN and its negative name a word of the vocabulary.
_SECRET = re.compile(
    r"(?<!POSITIVE_)(?<!NEGATIVE_)TOKEN$|SECRET|PASSW|CREDENTIAL|(^|_)KEY$|(API|ACCESS)_?KEY", re.IGNORECASE
)


def is_secret(name: str) -> bool:
    """Tell whether an environment variable of that name holds a secret, by the names that tools use."""
    return bool(_SECRET.search(name))


# What may stand in front of the @ of a URL (RFC 3986, userinfo): a password behind a colon, or a token alone.
USER_INFO = re.compile(r"(?<=://)(?!\*+@)[^\s/@'\"<>]++(?=@)")
# Tokens that say themselves what they are: Hugging Face, GitHub, OpenAI and its like, AWS, Slack.
TOKENS = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{30,}|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{40,}|sk-[A-Za-z0-9_-]{32,}"
    r"|AKIA[A-Z0-9]{16}|xox[abprs]-[A-Za-z0-9-]{20,})\b"
)
_SHORTEST = 8  # characters: a shorter value would blank out words of every log
STARS = "****"


def has_credentials(text: str) -> bool:
    """Tell whether a text holds a URL with a user's name or password, as in https://user:password@host."""
    return bool(USER_INFO.search(text))


def has_token(text: str) -> bool:
    """Tell whether a text holds what is a token by its form, whatever name it stands under."""
    return bool(TOKENS.search(text))


def find_secret_values(env: Mapping[str, str]) -> tuple[str, ...]:
    """Return the values of the secrets of an environment, the longest first; very short ones are no secrets."""
    values = {value.strip() for name, value in env.items() if is_secret(name)}
    return tuple(sorted((value for value in values if len(value) >= _SHORTEST), key=lambda value: (-len(value), value)))


def redact_text(text: str, values: Iterable[str]) -> str:
    """Return `text` with stars in place of each of `values`, of known tokens, and of what stands before a URL's @."""
    for value in values:
        text = text.replace(value, STARS)
    return TOKENS.sub(STARS, USER_INFO.sub(STARS, text) if "://" in text else text)


def rename_hub_token(env: Mapping[str, str]) -> dict[str, str]:
    """Return `env` with the hub's token under its older name.

    FlagEmbedding logs its arguments, and the default of `token` is HF_TOKEN (finetune/reranker AbsArguments.py).
    huggingface_hub reads both names (utils/_auth.py), and nobody logs the older one. templates/run/ does the same.
    """
    renamed = dict(env)
    if token := renamed.pop("HF_TOKEN", None):
        renamed.setdefault("HUGGING_FACE_HUB_TOKEN", token)
    return renamed
