"""The one door to a model that reads pairs or texts: what it cuts, and batches of like length under a token budget.

Batches are decided by the items alone, before any is read: the same items give the same batches, and so the same bytes,
whatever is known already, however long a batch takes, and however many processes share them.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.workers.failure import WorkerError

# RoBERTa's family numbers its positions from pad_token_id + 1 (create_position_ids_from_input_ids)
_OFFSET_FAMILIES = frozenset(
    {"roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet", "longformer", "data2vec-text"}
)
# their positions are distances between tokens, whatever the config says
_RELATIVE_FAMILIES = frozenset({"t5", "mt5", "umt5", "longt5", "funnel"})
_AT_ONCE = 256
TOKENIZED_AT_ONCE = 1000
# what a batch takes on a CPU, whose caches overflow beyond it (docs/decisions/0051)
CPU_TOKENS = 2048
# torch's words on a GPU and on a CPU (torch.OutOfMemoryError, c10's DefaultCPUAllocator)
_OUT_OF_MEMORY = ("out of memory", "can't allocate memory", "not enough memory")
Batch = list[Any]
Read = Iterator[tuple[int, list[Any]]]


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


@dataclass
class Reader:
    """A loaded model: `count` gives the tokens of each item, `run` a number or a vector for each item of a batch.

    An item loses what is beyond `longest` tokens. A batch takes the tokens of `batch_size` items of that length: no
    more of the longest, and more of shorter ones. `facts` says what was loaded and what happened. With `share`, which
    yields the number of a batch and what it gives, batches are read elsewhere.
    """

    count: Callable[[Sequence[Any]], Sequence[int]]
    run: Callable[[Sequence[Any]], Sequence[Any]]
    longest: int
    batch_size: int
    device: str = "cpu"
    facts: dict[str, Any] = field(default_factory=dict)
    share: Callable[[Sequence[Batch]], Read] | None = None
    parts: int = 1  # that a batch is read in, since memory has run out

    @property
    def tokens(self) -> int:
        """The budget of a batch, padding included."""
        tokens = self.batch_size * self.longest
        return min(tokens, CPU_TOKENS) if self.device == "cpu" else tokens

    def read(self, batch: Batch) -> list[Any]:
        """Return what the model gives for each item; where memory runs out, in halves from now on.

        Raises WorkerError where there is no memory for a single item.
        """
        while True:
            size = -(-len(batch) // self.parts)
            try:
                return [
                    value for start in range(0, len(batch), size) for value in self.run(batch[start : start + size])
                ]
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            self.halve(size)

    def halve(self, size: int) -> None:
        """Read batches in half as many items as the `size` that memory has run out on."""
        from orchestrator.workers.engines.transformers import release

        if size == 1:
            raise WorkerError(
                f"there is no memory on {self.device} for a batch of one item of up to {self.longest} tokens; "
                "lower max_length, use a narrower dtype, or free memory"
            )
        release()
        self.parts *= 2
        said = f"memory ran out on {self.device}: batches are read in {self.parts} parts"
        cautions = [one for one in self.facts.get("cautions", ()) if not one.startswith(said.partition(":")[0])]
        self.facts["cautions"] = [*cautions, said]
        print(said, flush=True)  # noqa: T201


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether memory has run out, of a GPU or of the machine."""
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in _OUT_OF_MEMORY)


def plan_batches(lengths: Sequence[int], tokens: int) -> list[list[int]]:
    """Return the places of all items in batches, the longest first, so that memory runs out early or never.

    Padded to its longest item, a batch has at most `tokens` tokens, or one item.
    """
    batches: list[list[int]] = []
    room = 0
    for place in sorted(range(len(lengths)), key=lambda place: (-lengths[place], place)):
        if room == 0:
            batches.append([])
            room = max(1, tokens // max(1, lengths[place]))
        batches[-1].append(place)
        room -= 1
    return batches


def read_items(
    reader: Reader, items: Sequence[Any], known: Container[int] = ()
) -> Iterator[tuple[list[int], list[Any]]]:
    """Yield places in `items` and what the model gives for them, batch by batch, as they are done.

    Items at `known` places are left out of the batches that they belong to.
    """
    lengths = [min(length, reader.longest) for length in reader.count(items)]
    whole = plan_batches(lengths, reader.tokens)
    batches = [left for batch in whole if (left := [place for place in batch if place not in known])]
    read = reader.share or (lambda given: ((number, reader.read(batch)) for number, batch in enumerate(given)))
    for number, values in read([[items[place] for place in batch] for batch in batches]):
        yield batches[number], values
