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


def count_texts(tokenizer: Any, texts: Sequence[str], longest: int, facts: dict[str, Any]) -> list[int]:
    """Return the length of each whole text in tokens; `facts` counts all, and those longer than `longest`."""
    lengths = count_tokens(tokenizer, texts)
    facts["texts"] = facts.get("texts", 0) + len(lengths)
    facts["texts_cut"] = facts.get("texts_cut", 0) + sum(length > longest for length in lengths)
    return lengths


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
                words = str(error).lower()
                if not isinstance(error, MemoryError) and not any(said in words for said in _OUT_OF_MEMORY):
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
