"""Package random models of every kind, with attention heads of a size of 32, for servers that take no smaller ones.

    python tests/serving/wide_packages.py FOLDER [KIND…]        # FOLDER/KIND, unless it is there

vLLM's kernels for CPUs begin at 32 (`get_supported_head_sizes` of vllm/v1/attention/backends/cpu_attn.py), and the tiny
models of smoke runs have 8. Everything but the weights is that of a smoke run of the recipe: its data, scoring spec and
package stage. The weights are random instead of trained, which a server's numbers do not depend on.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import transformers

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from orchestrator.workers import package  # noqa: E402
from orchestrator.workers.embedding.model import TEXT_ONLY  # noqa: E402
from orchestrator.workers.tiny_model import FAMILIES, build_tiny_model, read_texts  # noqa: E402

HEAD_SIZE, HEADS = 32, 4
WIDTH = HEAD_SIZE * HEADS
CAUSAL, HEAD, BARE = "AutoModelForCausalLM", "AutoModelForSequenceClassification", "AutoModel"


@dataclass(frozen=True)
class Kind:
    """A recipe and what is changed in it, the tiny model that it starts from, and the class that its training saves.

    `modules` are those of a whole SentenceTransformer, its pooling first: (class, what it is made with).
    """

    recipe: str
    like: str
    saves: str
    more: tuple[str, ...] = ()
    modules: tuple[tuple[str, tuple[object, ...]], ...] = ()


NORMALIZE = ("Normalize", ())
# EmbeddingGemma's own: two projections without bias and activation, wide and back
DENSE = (
    ("Dense", (WIDTH, 4 * WIDTH, False, torch.nn.Identity())),
    ("Dense", (4 * WIDTH, WIDTH, False, torch.nn.Identity())),
)
KINDS = {
    "flag-llm-reranker": Kind("qwen3_reranker", "decoder", CAUSAL),
    "cross-encoder": Kind("bge_reranker", "encoder", HEAD),
    "cross-encoder-st": Kind("bge_pointwise", "encoder", HEAD),
    "formatted-head": Kind("llm_pointwise", "decoder", HEAD),
    "qwen3-native": Kind("qwen3_reranker_native", "decoder", CAUSAL),
    "qwen3-score-head": Kind("qwen3_reranker_native", "decoder", HEAD, ("--set", "train.task_type=reranker")),
    "embedding-lasttoken": Kind("qwen3_embedding_lora", "embedding", CAUSAL),
    "embedding-cls": Kind("bge_embedding", "encoder", BARE),
    "embedding-lasttoken-st": Kind(
        "qwen3_embedding_st", "embedding", BARE, modules=(("Pooling", (WIDTH, "lasttoken")), NORMALIZE)
    ),
    "embedding-matryoshka": Kind("e5_embedding", "encoder", BARE, modules=(("Pooling", (WIDTH, "mean")), NORMALIZE)),
    "embedding-dense": Kind(
        "embeddinggemma_lora", "encoder", BARE, modules=(("Pooling", (WIDTH, "mean")), *DENSE, NORMALIZE)
    ),
    "embedding-dense-decoder": Kind(
        "embeddinggemma_lora", "embedding", BARE, modules=(("Pooling", (WIDTH, "mean")), *DENSE, NORMALIZE)
    ),
    "chat": Kind("qwen3_sft_lora", "chat", CAUSAL),
}


def save_model(kind: Kind, loader: str, texts: list[str], folder: Path, seed: int) -> None:
    """Write what tiny_model writes, with wider heads, and with what `loader` puts on top."""
    plain = FAMILIES[kind.like]
    model_type = next(iter(plain.types))
    own = {name: HEAD_SIZE if name == "head_dim" else value for name, value in plain.types[model_type].items()}
    wide = {"hidden_size": WIDTH, "num_attention_heads": HEADS, "initializer_range": 0.1}
    wide |= {"num_labels": 1} if loader == HEAD else {}
    FAMILIES[kind.like] = replace(plain, types={model_type: own}, settings={**plain.settings, **wide}, loader=loader)
    folder.mkdir(parents=True)
    try:
        build_tiny_model(kind.like, model_type, texts, folder, seed)
    finally:
        FAMILIES[kind.like] = plain


def save_modules(kind: Kind, base: Path, model: Path) -> None:
    """Write the base as its modules, and the model as a training saves it, every weight moved."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    classes = {"Pooling": Pooling, "Dense": Dense, "Normalize": Normalize}
    torch.manual_seed(5)
    made = [classes[name](*settings) for name, settings in kind.modules]
    whole = SentenceTransformer(modules=[Transformer(str(base), **TEXT_ONLY), *made], device="cpu")
    whole.save_pretrained(str(base))
    for parameter in whole.parameters():
        parameter.data.add_(0.02 * torch.randn_like(parameter))
    whole.save_pretrained(str(model))


def write_package(name: str, out: Path) -> None:
    """Write the kind's packaged folder."""
    kind = KINDS[name]
    with tempfile.TemporaryDirectory(prefix="orch-wide-") as place:
        run, base, model = (Path(place, part) for part in ("run", "base", "model"))
        orch = Path(sys.executable).with_name("orch")
        rendered = [orch, "render", ROOT / "recipes" / f"{kind.recipe}.yaml", "--smoke", *kind.more, "-o", run]
        subprocess.run([*map(str, rendered)], check=True)
        subprocess.run(["bash", str(run / "stages/01-prepare/command.sh")], check=True)
        texts = read_texts([run / "data" / "eval.jsonl", *sorted((run / "data").glob("train*.jsonl"))])
        save_model(kind, CAUSAL if kind.saves == CAUSAL else BARE, texts, base, 42)
        if kind.modules:
            save_modules(kind, base, model)
        else:
            save_model(kind, kind.saves, texts, model, 43)
        corpus = run / "data" / "corpus.jsonl"
        argv = ["--model", model, "--base", base, "--scoring", run / "files" / "scoring.packaged.json"]
        argv += ["--probes", run / "data" / "eval.jsonl", *(["--corpus", corpus] if corpus.exists() else [])]
        package.main([*map(str, [*argv, "--out", out, "--report", Path(place, "report.json"), "--device", "cpu"])])


def main(place: Path, names: list[str]) -> None:
    """Write each kind that is not there yet: each in a process of its own, as a run does, when there are several."""
    transformers.logging.set_verbosity_error()
    wanted = [name for name in names or KINDS if not (place / name).exists()]
    for name in wanted:
        if len(wanted) == 1:
            write_package(name, place / name)
        else:
            subprocess.run([sys.executable, __file__, str(place), name], check=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), sys.argv[2:])
