"""Where other workers still find what `environment` says of versions."""

from orchestrator.workers.environment import read_versions

__all__ = ["read_versions"]
