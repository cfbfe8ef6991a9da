"""The tools that train: one explicit registry."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orchestrator.backends.flagembedding import FlagEmbedding
from orchestrator.backends.sentence_transformers import SentenceTransformers
from orchestrator.backends.swift import Swift

if TYPE_CHECKING:
    from orchestrator.backends.protocol import Backend

BACKENDS: dict[str, Backend] = {
    "flagembedding": FlagEmbedding(),
    "swift": Swift(),
    "sentence-transformers": SentenceTransformers(),
}


def find_backend(name: str) -> Backend | None:
    """Return the backend of that name, or None."""
    return BACKENDS.get(name)
