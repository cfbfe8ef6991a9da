"""Ask a model in FlagEmbedding: what a reranker or an embedding model gives in the tool that trained it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from orchestrator.workers.engines.transformers import release
from orchestrator.workers.failure import WorkerError, first_line
from orchestrator.workers.specs import EmbeddingSpec, ScoringSpec
from orchestrator.workers.whole_weights import WORDS, require_whole


def open_reranker(model: str, spec: ScoringSpec, device: str) -> Any:
    """Return FlagLLMReranker, or FlagReranker for the spec of an encoder, over a folder or hub id, with raw scores.

    Raises WorkerError for a decoder whose files do not fill it.
    """
    import FlagEmbedding

    release()
    options: dict[str, Any] = {
        "query_instruction_for_rerank": spec.query_instruction,
        "query_instruction_format": spec.query_instruction_format,
        "passage_instruction_for_rerank": spec.passage_instruction,
        "passage_instruction_format": spec.passage_instruction_format,
        "use_fp16": spec.dtype == "float16",
        "trust_remote_code": spec.trust_remote_code,
        "devices": [device],
        "batch_size": spec.batch_size,
        "query_max_length": spec.query_max_length,
        "max_length": spec.max_length,
        "normalize": False,
    }
    if spec.scorer == "cross-encoder":
        return FlagEmbedding.FlagReranker(model, **options)
    require_whole(model, WORDS, trust_remote_code=spec.trust_remote_code)
    return FlagEmbedding.FlagLLMReranker(model, prompt=spec.prompt, use_bf16=spec.dtype == "bfloat16", **options)


def score_pairs(reranker: Any, pairs: Sequence[tuple[str, str]], prompt: str | None = None, **more: Any) -> list[float]:
    """Return one number a pair; `prompt` None is the reranker's own, `more` are arguments of its compute_score."""
    more |= {} if prompt is None else {"prompt": prompt}
    try:
        return [float(value) for value in reranker.compute_score([list(pair) for pair in pairs], **more)]
    except Halt as halted:
        raise halted.error from halted


# Last words only

PROBES = [("tea", "Tea."), ("how long does tea draw?", "Green tea draws for two minutes, and black tea for four.")]
SAME = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}  # of a score's size, where that is above 1


class Halt(Exception):  # noqa: N818  no error of its own
    """Carries an error through compute_score, which takes every RuntimeError for a batch that is too large."""

    def __init__(self, error: RuntimeError) -> None:
        super().__init__(str(error))
        self.error = error


class LastWords:
    """A causal language model that FlagLLMReranker asks, which computes the logits of each row's last token alone.

    FlagLLMReranker (inference/reranker/decoder_only/base.py) reads one logit of one position, and has the model compute
    those of all words at all positions, keep every layer's hidden states and a cache, and run the first batch of a call
    twice to see whether it fits.
    """

    def __init__(self, model: Any) -> None:
        self._model, self._head = model, model.get_output_embeddings()
        self._asked: Any = None
        self._logits: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, input_ids: Any, attention_mask: Any, **_: Any) -> Any:
        """Return an object whose `logits` [rows, positions, words] are the last token's at every position."""
        import torch

        if self._asked is None or not torch.equal(input_ids, self._asked):
            try:
                self._logits, self._asked = self._compute(input_ids, attention_mask), input_ids
            except RuntimeError as error:
                self._asked = None
                raise Halt(error) from error
        return SimpleNamespace(logits=self._logits.expand(-1, input_ids.shape[1], -1))

    def _compute(self, input_ids: Any, attention_mask: Any) -> Any:
        import torch

        rows, columns = (torch.arange(size, device=input_ids.device) for size in input_ids.shape)
        last = (attention_mask * columns).argmax(dim=1)
        hook = self._head.register_forward_pre_hook(lambda _, given: (given[0][rows, last].unsqueeze(1), *given[1:]))
        try:
            return self._model(input_ids=input_ids, attention_mask=attention_mask, use_cache=False).logits
        finally:
            hook.remove()


def read_last_words(reranker: Any, dtype: str) -> str | None:
    """Have a FlagLLMReranker compute last words only, where that gives its own scores; else return why it does not.

    Its own code tokenizes, writes the prompt and cuts, as before.
    """
    native, model = score_pairs(reranker, PROBES), reranker.model
    try:
        reranker.model = LastWords(model)
        found = score_pairs(reranker, PROBES)
        worst = max(abs(one - two) / max(1.0, abs(two)) for one, two in zip(found, native, strict=True))
        why = None if worst <= SAME[dtype] else f"scores differ by {worst:.2g}, allowed {SAME[dtype]:g}"
    except Exception as error:  # noqa: BLE001  a model of another making: its own way is the way
        why = first_line(error)
    if why is not None:
        reranker.model = model
        why = f"the logits of all positions are computed, which takes more time and memory: with the last alone {why}"
    return why


HEADS = ("colbert_linear.pt", "sparse_linear.pt")  # bge-m3's, beside its weights; pickles
POOLINGS = {"cls": "cls", "mean": "mean", "lasttoken": "last_token"}


def embed(model: str, spec: EmbeddingSpec, texts: Sequence[str], device: str) -> Any:
    """Return float32 unit vectors [texts, dimensions] of texts that have their prompts already.

    Of FlagModel, or of FlagLLMModel where the last token is read: the one pads on the right, the other on the left; or
    of FlagICLModel, which puts the mark behind queries itself.
    """
    import FlagEmbedding
    import numpy as np

    release()
    options = {"use_fp16": False, "trust_remote_code": spec.trust_remote_code, "devices": [device]}
    pooling = POOLINGS[spec.pooling or "cls"]
    kind = FlagEmbedding.FlagLLMModel if pooling == "last_token" else FlagEmbedding.FlagModel
    suffix = spec.query_suffix
    if suffix:
        kind, options = FlagEmbedding.FlagICLModel, options | {"suffix": suffix}
    embedder = kind(model, pooling_method=pooling, **options)
    vectors = embedder.encode(list(texts), batch_size=spec.batch_size, max_length=spec.max_length)
    if queries := [place for place, text in enumerate(texts) if suffix and text.endswith(suffix)]:
        alone = [texts[place].removesuffix(suffix) for place in queries]
        # of its length it keeps some for the mark, and none of these texts is cut
        longest = spec.max_length + len(suffix)
        vectors[queries] = embedder.encode_queries(alone, batch_size=spec.batch_size, max_length=longest)
    return np.asarray(vectors, dtype=np.float32)


def embed_by_heads(model: str, spec: EmbeddingSpec, texts: Sequence[str], device: str) -> dict[str, list[Any]]:
    """Return what bge-m3 gives of each text, as `dense_vecs`, `lexical_weights` (token → weight) and `colbert_vecs`.

    Raises WorkerError for a folder without its heads.
    """
    embedder = open_m3(model, spec, device)
    asked: dict[str, Any] = {"batch_size": spec.batch_size, "max_length": spec.max_length}
    found = embedder.encode(list(texts), **asked, return_sparse=True, return_colbert_vecs=True)
    return {name: list(found[name]) for name in ("dense_vecs", "lexical_weights", "colbert_vecs")}


def open_m3(model: str, spec: EmbeddingSpec, device: str) -> Any:
    """Return BGEM3FlagModel, which draws heads at random where their files are missing.

    Raises WorkerError for a folder without them.
    """
    from FlagEmbedding import BGEM3FlagModel

    if lacking := [name for name in HEADS if Path(model).is_dir() and not (Path(model) / name).is_file()]:
        raise WorkerError(f"{model} lacks {' and '.join(lacking)}: its sparse or ColBERT weights would be random")
    release()
    dim = spec.colbert_dim or -1
    half = {"use_fp16": spec.dtype == "float16", "use_bf16": spec.dtype == "bfloat16"}
    options = {**half, "trust_remote_code": spec.trust_remote_code, "devices": [device], "colbert_dim": dim}
    return BGEM3FlagModel(model, pooling_method=POOLINGS[spec.pooling or "cls"], **options)
