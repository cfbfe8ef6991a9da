"""The tools that train: a descriptor each, and what the trainers have in common. recipe/registry.py lists them."""

from __future__ import annotations

from orchestrator.backends.protocol import BACKENDS, Backend

__all__ = ["BACKENDS", "Backend"]
