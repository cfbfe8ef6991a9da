"""The name of a data set on a hub, as recipes write it: `owner/name`, `owner/name:split`, `owner/name/config:split`."""

from __future__ import annotations

import re
from dataclasses import dataclass

from orchestrator.data.reading.readers import FILE_ENDINGS

_NAME = r"[A-Za-z0-9][\w.-]*"
# A split may be a part of one, as the datasets library slices them: train[:1000], train[10%:20%]
_ID = re.compile(rf"({_NAME}/{_NAME})(?:/({_NAME}))?(?::(\w[\w.]*(?:\[[\d%:+-]*\])?))?", re.ASCII)


@dataclass(frozen=True)
class HubId:
    """A data set, and where they are named its config and its split."""

    id: str
    config: str | None = None
    split: str | None = None

    def __str__(self) -> str:
        """Return the name as recipes write it."""
        config = f"/{self.config}" if self.config else ""
        return f"{self.id}{config}" + (f":{self.split}" if self.split else "")


def parse_hub_id(text: str) -> HubId | None:
    """Return the data set that `text` names, or None where it names a file or nothing.

    Whether a file of that name exists is for the caller to look up first. A config is only read together with a split:
    `data/raw/rows` is a path.
    """
    found = _ID.fullmatch(text)
    if found is None or text.lower().endswith(FILE_ENDINGS):
        return None
    name, config, split = found.groups()
    if config and not split:
        return None
    return HubId(name, config, split)
