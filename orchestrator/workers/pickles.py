"""Where other workers still find what `environment` says of pickles."""

from orchestrator.workers.environment import weight_options

__all__ = ["weight_options"]
