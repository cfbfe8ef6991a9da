"""The texts that a packaged embedding model is verified on: some of the run's own, and some built to be awkward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.workers.eval_files import is_pair_file, read_corpus, read_queries, read_text_pairs
from orchestrator.workers.kinds.probes import AWKWARD, EXAMPLES, FILLER, LONGEST_PROBE_TOKENS

MAX_A_SIDE = 8
# a text that fills a context window would cost more than it shows
LONG_TOKENS = 512


@dataclass(frozen=True)
class TextProbe:
    """One text, `query` or `document`, and its origin: `data`, `example`, `awkward`, `long`, `cut` or `test-prompt`."""

    kind: str
    text: str
    origin: str


def read_sides(data: Path, corpus: Path | None) -> tuple[list[str], list[str]]:
    """Return the queries and the documents of an eval file, either from a corpus or from pairs."""
    if corpus is None and is_pair_file(data):
        pairs = read_text_pairs(data)
        return [pair.text1 for pair in pairs], [pair.text2 for pair in pairs]
    queries = [query.text for query in read_queries(data)]
    return queries, [] if corpus is None else [document.text for document in read_corpus(corpus)]


def spread(texts: Sequence[str]) -> list[str]:
    """Return up to `MAX_A_SIDE` texts from all over the list."""
    return list(texts[:: max(1, len(texts) // MAX_A_SIDE)][:MAX_A_SIDE])


def build_probes(
    data: Path, corpus: Path | None, tokenizer: Any, max_length: int, test_prompt: str | None
) -> list[TextProbe]:
    """Return the probes, each text once a kind: the user's own, the fixed ones, the data's, a long one, some to cut."""
    queries, documents = read_sides(data, corpus)
    found = [] if test_prompt is None else [TextProbe("query", test_prompt, "test-prompt")]
    for pairs, origin in ((EXAMPLES, "example"), (AWKWARD, "awkward")):
        for query, document in pairs:
            found += [TextProbe("query", query, origin), TextProbe("document", document, origin)]
    found += [TextProbe("query", text, "data") for text in spread(queries)]
    found += [TextProbe("document", text, "data") for text in spread(documents)]
    per_filler = max(1, len(tokenizer(FILLER, add_special_tokens=False)["input_ids"]))
    found.append(TextProbe("document", FILLER * max(1, min(max_length, LONG_TOKENS) * 3 // 4 // per_filler), "long"))
    if max_length <= LONGEST_PROBE_TOKENS:
        text = FILLER * (max_length // per_filler + 2)
        found += [TextProbe("document", text, "cut"), TextProbe("query", text, "cut")]
    return list({(probe.kind, probe.text): probe for probe in reversed(found)}.values())[::-1]
