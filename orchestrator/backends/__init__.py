"""The tools that train: one explicit registry."""

from __future__ import annotations

from orchestrator.backends.flagembedding import FlagEmbedding
from orchestrator.backends.protocol import Backend
from orchestrator.backends.sentence_transformers import SentenceTransformers
from orchestrator.backends.swift import Swift

BACKENDS: dict[str, Backend] = {
    "flagembedding": FlagEmbedding(),
    "swift": Swift(),
    "sentence-transformers": SentenceTransformers(),
}


def find_backend(name: str) -> Backend | None:
    """Return the backend of that name, or None."""
    return BACKENDS.get(name)
