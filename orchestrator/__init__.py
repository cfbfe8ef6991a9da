"""Orch: one recipe becomes a fine-tuned, verified and measured model."""

__version__ = "0.1.0"
