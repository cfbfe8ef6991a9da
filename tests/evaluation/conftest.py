from __future__ import annotations

from collections.abc import Callable

import pytest

from orchestrator.evaluation.eval_rows import Document, Group

MakeGroup = Callable[..., Group]


@pytest.fixture
def make_group() -> MakeGroup:
    """Make a group from its labels: document `qid.0` has the first label, and so on."""

    def make(qid: str, *labels: int) -> Group:
        documents = tuple(Document(f"{qid}.{place}", f"text {place}", label) for place, label in enumerate(labels))
        return Group(qid, f"query {qid}", documents)

    return make
