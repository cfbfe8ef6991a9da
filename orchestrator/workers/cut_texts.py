"""How many tokens a model reads at most, and how many of the texts that it was given are longer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# RoBERTa's family numbers its positions from pad_token_id + 1 (create_position_ids_from_input_ids)
_OFFSET_FAMILIES = frozenset(
    {"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "longformer", "data2vec-text"}
)
# their positions are distances between tokens, whatever the config says
_RELATIVE_FAMILIES = frozenset({"t5", "mt5", "umt5", "longt5", "funnel"})
_AT_ONCE = 256
TOKENIZED_AT_ONCE = 1000


def find_longest(config: Any) -> int | None:
    """Return how many positions a model with learnt ones has; None where its config sets no such end.

    Rotary positions go on beyond what a config says, to worse and worse scores, and end nothing.
    """
    kind = getattr(config, "model_type", None)
    positions = getattr(config, "max_position_embeddings", None)
    rotary = getattr(config, "rope_parameters", None) or getattr(config, "rope_theta", None)
    relative = (
        getattr(config, "position_embedding_type", None) in {"alibi", "rope", "rotary"}
        or getattr(config, "position_biased_input", None) is False
        or kind in _RELATIVE_FAMILIES
    )
    if not isinstance(positions, int) or positions < 1 or rotary or relative:
        return None
    padding = getattr(config, "pad_token_id", None)
    return positions - (padding if isinstance(padding, int) else 1) - 1 if kind in _OFFSET_FAMILIES else positions


def count_tokens(tokenizer: Any, texts: Sequence[str], *, special: bool = True) -> list[int]:
    """Return the length of each whole text in tokens, special ones included unless that is not asked for."""
    options = {"add_special_tokens": special, "truncation": False, "padding": False, "verbose": False}
    lengths: list[int] = []
    for start in range(0, len(texts), TOKENIZED_AT_ONCE):
        found = tokenizer(list(texts[start : start + TOKENIZED_AT_ONCE]), **options)["input_ids"]
        lengths.extend(map(len, found))
    return lengths


class CutPairs:
    """Counts, call by call, the pairs that are longer than what is read; `facts` is what scoring.json says of them."""

    def __init__(self, encoder: Any) -> None:
        """Count for a sentence-transformers CrossEncoder as it is loaded."""
        transformer = encoder[0]
        self._tokenizer, self._limit = transformer.tokenizer, transformer.max_seq_length
        self._overhead = _find_overhead(transformer)
        self.facts = {"pairs_counted": 0, "pairs_cut": 0, "reads_tokens": self._limit}

    def add(self, pairs: Sequence[tuple[str, str]]) -> list[int]:
        """Count these pairs, and return the tokens of each whole one."""
        found: list[int] = []
        for start in range(0, len(pairs), _AT_ONCE):
            some = pairs[start : start + _AT_ONCE]
            texts = list(dict.fromkeys(text for pair in some for text in pair))
            lengths = dict(zip(texts, count_tokens(self._tokenizer, texts, special=False), strict=True))
            found += [lengths[query] + lengths[document] + self._overhead for query, document in some]
        self.facts["pairs_counted"] += len(found)
        if self._limit:
            self.facts["pairs_cut"] += sum(length > self._limit for length in found)
        return found


def _find_overhead(transformer: Any) -> int:
    """Return how many tokens stand around the two texts: special ones, or the prompt of a chat template."""
    tokenizer = transformer.tokenizer
    if "message" not in transformer.modality_config:
        return int(tokenizer.num_special_tokens_to_add(pair=True))
    pair = [{"role": "query", "content": "0"}, {"role": "document", "content": "0"}]
    whole = tokenizer.apply_chat_template(pair, tokenize=False)
    length, single = count_tokens(tokenizer, [whole, "0"], special=False)
    return length - 2 * single
