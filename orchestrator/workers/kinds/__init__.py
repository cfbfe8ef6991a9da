"""What packaging asks of a kind of model, and which kind a scoring spec is of.

A kind is a module with these functions. `prepare` writes all that stands around the weights, `observe` asks the models
by every way (base, adapter, trained, packaged; in plain transformers and in the tools), `compare` holds the ways
against each other, and `describe` says what card and scoring.json tell of the package.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

from orchestrator.workers.failure import WorkerError
from orchestrator.workers.folders import has_tokenizer
from orchestrator.workers.specs import SCORERS
from orchestrator.workers.verification_checks import Check
from orchestrator.workers.weights import WeightScan

# scorer → the module of this folder that is its kind
KINDS = {name: str(row["kind"]) for name, row in SCORERS.items() if row.get("packaged")}


@dataclass(frozen=True)
class Request:
    """What to package: the trained folder, where it came from, how it is scored, where the report goes.

    `base` is a folder or a hub id. `probes` is the canonical eval file, `corpus` the documents that it searches.
    """

    model: Path
    base: str
    adapter: Path | None
    raw_spec: dict[str, Any]
    probes: Path
    report: Path
    device: str
    test_prompt: str | None = None
    corpus: Path | None = None

    def find_tokenizer(self) -> Path:
        """Return the first folder that holds a tokenizer: the model's, else the adapter's, else the base model's."""
        for folder in (self.model, self.adapter, Path(self.base)):
            if folder is not None and has_tokenizer(folder):
                return folder
        raise WorkerError(f"{self.model} holds no tokenizer")


@dataclass(frozen=True)
class Described:
    """The card's template and what it is told, and what scoring.json says beside the spec."""

    card: str
    facts: Mapping[str, Any]
    scoring: Mapping[str, Any]


class Kind(Protocol):
    """A kind of model; its `subject` and what it has `seen` are its own affair."""

    def parse(self, request: Request) -> Any:
        """Return the scoring spec, which has `trust_remote_code`. Raises WorkerError where nothing can be packaged."""

    def prepare(self, request: Request, spec: Any, folder: Path) -> Any:
        """Make the copied folder load as it was trained; return what is to be verified. Raises WorkerError."""

    def observe(self, subject: Any) -> Any:
        """Return what the models give by every way, and as `missing` the weights that the trained files lack."""

    def compare(self, subject: Any, seen: Any, scan: WeightScan) -> list[Check]:
        """Return every check but those of weights and completeness, which all kinds share."""

    def report(self, subject: Any, seen: Any) -> dict[str, Any]:
        """Return what the report says beside the checks."""

    def describe(self, subject: Any, seen: Any, report: Mapping[str, Any]) -> Described:
        """Return what the package says of itself."""


def load_kind(raw_spec: Mapping[str, Any]) -> Kind:
    """Return the kind of the spec's scorer. Raises WorkerError for a scorer whose models cannot be packaged."""
    scorer = raw_spec.get("scorer")
    if scorer not in KINDS:
        raise WorkerError(f"the scoring spec: a {scorer} model cannot be packaged; known are {', '.join(KINDS)}")
    # by name: only this kind's imports are paid for
    return cast("Kind", importlib.import_module(f"{__name__}.{KINDS[scorer]}"))
