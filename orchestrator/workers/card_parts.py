"""What the cards of all packaged models have in common: how the base is named, and where the results go."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

RESULTS_MARK = "<!-- orch:results -->"
MODEL_PATH = "path/to/this/folder"


def name_base(base: str, spec: Mapping[str, Any]) -> tuple[str, bool]:
    """Return how the card calls the base model, and whether that is a hub id.

    The scoring spec's `base_name` comes first; a folder goes by its own name.
    """
    if spec.get("base_name"):
        return str(spec["base_name"]), False
    path = Path(base)
    return (path.resolve().name, False) if path.exists() else (base, True)
