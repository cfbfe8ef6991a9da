"""Read the canonical eval file: one group a line, a query and the documents to rank."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from orchestrator.workers.failure import WorkerError


@dataclass(frozen=True)
class Candidate:
    """One (query, document) to score; `prompt` None is the spec's."""

    qid: str
    docid: str
    query: str
    document: str
    prompt: str | None = None


def read_candidates(path: Path) -> list[Candidate]:
    """Return every candidate in file order. Raises WorkerError for no groups, an empty group or ids that repeat."""
    found: list[Candidate] = []
    qids: set[str] = set()
    with path.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            group = json.loads(line)
            documents = group["documents"]
            if not documents or group["qid"] in qids:
                raise WorkerError(
                    f"{path}:{number}: group {group['qid']} is empty or there twice; prepare the data again"
                )
            qids.add(group["qid"])
            if len({document["docid"] for document in documents}) != len(documents):
                raise WorkerError(
                    f"{path}:{number}: group {group['qid']} names a document twice; prepare the data again"
                )
            found.extend(
                Candidate(group["qid"], document["docid"], group["query"], document["text"], group.get("prompt"))
                for document in documents
            )
    if not found:
        raise WorkerError(f"{path}: nothing to score")
    return found
