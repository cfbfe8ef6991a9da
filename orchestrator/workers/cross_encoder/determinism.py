"""Bit-equal trainings: which switches of the libraries are set, and before what."""

from __future__ import annotations


def enforce_determinism(seed: int) -> None:
    """Make every operation of PyTorch deterministic, or an error where there is no deterministic one.

    transformers sets the same switches when its trainer is made, but CUDA reads CUBLAS_WORKSPACE_CONFIG when it starts:
    so it is done here once more, before a model is loaded. The results are equal on the same hardware with the same
    versions, numbers of processes and threads, and not elsewhere.
    """
    from transformers.trainer_utils import enable_full_determinism

    enable_full_determinism(seed)
