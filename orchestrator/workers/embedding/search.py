"""Find the nearest documents of each query by cosine, in bounded memory and always in the same order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

QUERIES_AT_ONCE = 64
DOCUMENTS_AT_ONCE = 65_536


def find_nearest(queries: Any, documents: Any, count: int) -> Iterator[tuple[Any, Any]]:
    """Yield, a query, positions and cosines of its `count` best documents; equal cosines in the order of positions.

    `queries` [queries, dimensions] and `documents` [documents, dimensions] are unit vectors. At most
    `QUERIES_AT_ONCE` × `DOCUMENTS_AT_ONCE` cosines are in memory.
    """
    import numpy as np

    for start in range(0, len(queries), QUERIES_AT_ONCE):
        block = queries[start : start + QUERIES_AT_ONCE]
        best: list[tuple[Any, Any]] = [(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32)) for _ in block]
        for offset in range(0, len(documents), DOCUMENTS_AT_ONCE):
            cosines = block @ documents[offset : offset + DOCUMENTS_AT_ONCE].T
            for row, (positions, scores) in enumerate(best):
                kept = keep_best(cosines[row], count)
                best[row] = order_best(
                    np.concatenate([positions, kept + offset]), np.concatenate([scores, cosines[row][kept]]), count
                )
        yield from best


def keep_best(scores: Any, count: int) -> Any:
    """Return the positions of the `count` best scores and of every score that equals the last of them."""
    import numpy as np

    if len(scores) <= count:
        return np.arange(len(scores))
    least = np.partition(scores, len(scores) - count)[len(scores) - count]
    return np.flatnonzero(scores >= least)


def order_best(positions: Any, scores: Any, count: int) -> tuple[Any, Any]:
    """Return the `count` best of `positions` and their scores, the best first, ties as they were."""
    import numpy as np

    # what earlier blocks left comes first and in rank order, so a stable sort keeps ties in the order of positions
    order = np.argsort(-scores, kind="stable")[:count]
    return positions[order], scores[order]
