"""The pairs that a packaged model is verified on: some of the run's own, and some built to be awkward."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.workers.eval_files import read_candidates

if TYPE_CHECKING:
    from orchestrator.workers.reranker.scoring import Pair

MAX_FROM_DATA = 16
# a longer probe would cost more than it shows: cutting works the same
LONGEST_PROBE_TOKENS = 2048

EXAMPLES: tuple[Pair, ...] = (
    ("What is the capital of France?", "Paris is the capital and largest city of France."),
    ("What is the capital of France?", "Mitochondria are the power plants of the cell."),
    ("中国的首都是哪里？", "北京是中华人民共和国的首都。"),
)
AWKWARD: tuple[Pair, ...] = (
    ("how to brew tea", "Heat the water to 80 °C.\nSteep for two minutes.\n\nServe."),
    ("trailing line break\n", "The document ends with a line break.\n"),
    (" leading spaces", "   three spaces in front, two behind  "),
    ("who asked?!", 'He asked: "Why?" — nobody knew…'),
    ("emoji 🙂", "A document with emoji 👩‍🔬🚀"),
    ("jinja {{ query }}", "{% raw %} braces {{ 1 + 1 }} and a back\\slash {# note #}"),
    ("code", "def f(x):\n\treturn x\r\n"),
)
FILLER = "The river bends twice before it meets the sea, and the road follows it. "


@dataclass(frozen=True)
class Probe:
    """One pair and where it comes from: `data`, `example`, `awkward` or `long`."""

    pair: Pair
    origin: str


def build_probes(data: Path, tokenizer: Any, max_length: int) -> list[Probe]:
    """Return up to 16 pairs spread over the eval file, the fixed ones, and one longer than `max_length` tokens."""
    candidates = read_candidates(data)
    stride = max(1, len(candidates) // MAX_FROM_DATA)
    probes = [Probe((found.query, found.document), "data") for found in candidates[::stride][:MAX_FROM_DATA]]
    probes += [Probe(pair, "example") for pair in EXAMPLES]
    probes += [Probe(pair, "awkward") for pair in AWKWARD]
    if max_length <= LONGEST_PROBE_TOKENS:
        per_filler = max(1, len(tokenizer(FILLER, add_special_tokens=False)["input_ids"]))
        text = FILLER * (max_length // per_filler + 2)
        probes.append(Probe(("Where does the river meet the sea?", text), "long"))
    return probes
