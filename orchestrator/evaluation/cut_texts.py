"""What share of its texts a model did not read to their end, as the scoring of a run and of a command say it alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def describe_cut(scoring: Mapping[str, Any]) -> str | None:
    """Return the sentence about a scoring.json's texts that were cut; None where none was, or nobody counted."""
    for unit, of, cut in (("pairs", "pairs_counted", "pairs_cut"), ("texts", "texts", "texts_cut")):
        count, whole = scoring.get(cut), scoring.get(of)
        if isinstance(count, int) and isinstance(whole, int) and 0 < count <= whole:
            limit = scoring.get("reads_tokens") or scoring.get("max_length")
            share = f"{100 * count / whole:.0f} %" if count * 200 >= whole else "less than 1 %"
            return f"{count} of {whole} {unit} ({share}) are longer than the {limit} tokens that it reads, and were cut"
    return None
