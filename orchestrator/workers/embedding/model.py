"""Load an embedding model in sentence-transformers, whatever its folder lacks, and turn texts into unit vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

from orchestrator.workers.batches import Reader, count_texts, find_longest, read_items
from orchestrator.workers.embedding.folder import appends_end_token, build_end_processor
from orchestrator.workers.engines.sentence_transformers import open_model
from orchestrator.workers.engines.transformers import release
from orchestrator.workers.environment import Progress, weight_options
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.specs import EmbeddingSpec
from orchestrator.workers.whole_weights import VECTORS, require_whole

# Left to itself, sentence-transformers 6 wraps every text as a chat when the tokenizer has a chat template
# (`Transformer.infer_modalities`), unless a modules.json stands in the folder
TEXT_ONLY: dict[str, Any] = {
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "module_output_name": "token_embeddings",
}


@dataclass(frozen=True)
class Encoder:
    """A loaded SentenceTransformer, the spec it is used by, and what was found while it was loaded."""

    model: Any
    spec: EmbeddingSpec
    facts: dict[str, Any]

    @property
    def max_length(self) -> int:
        """The longest text in tokens."""
        return int(self.facts["max_length"])


def load_encoder(
    model: str,
    spec: EmbeddingSpec,
    device: str,
    *,
    local_files_only: bool = False,
    quantization: Mapping[str, Any] = MappingProxyType({}),
) -> Encoder:
    """Return the model of a folder or hub id, with its own modules where it names them, else with the spec's.

    `quantization` is what its weights are loaded with besides.
    Raises WorkerError for a model whose tokenizer cannot end texts as last-token pooling needs.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util.file_io import is_sentence_transformer_model

    require_whole(model, VECTORS, trust_remote_code=spec.trust_remote_code)
    own = is_sentence_transformer_model(model, local_files_only=local_files_only)
    options = {"trust_remote_code": spec.trust_remote_code, "local_files_only": local_files_only}
    if own:
        encoder = open_model("SentenceTransformer", model, device, spec.dtype, model_kwargs=quantization, **options)
        # a vector is cut by the spec, never by a setting of the folder
        encoder.truncate_dim = None
    else:
        release()
        encoder = SentenceTransformer(modules=build_modules(model, spec, options, quantization), device=device)
    tokenizer, modes = encoder.tokenizer, [one.pooling_mode for one in encoder if hasattr(one, "pooling_mode")]
    pooling = "other"  # a model without that module pools in another way
    if modes:
        pooling = modes[0] if isinstance(modes[0], str) else "+".join(modes[0])
    if pooling == "lasttoken":
        tokenizer.padding_side = "left"
        # a folder that says how it pools is taken at its word where its tokenizer puts its own token last, and where a
        # training saved the two together
        plain, whole = (tokenizer("a", add_special_tokens=add)["input_ids"] for add in (False, True))
        wants_end = spec.end_token and (not own or (not spec.saves_modules and list(plain) == list(whole)))
        if wants_end and not appends_end_token(tokenizer, model):
            tokenizer.backend_tokenizer.post_processor = build_end_processor(tokenizer, model)
    config = getattr(encoder[0], "config", None)
    longest = find_longest(config) or getattr(config, "max_position_embeddings", None)
    encoder.max_seq_length = min(spec.max_length, longest) if longest and longest > 0 else spec.max_length
    dims = int(encoder.get_embedding_dimension())
    if spec.truncate_dim is not None and spec.truncate_dim > dims:
        raise WorkerError(f"{model}: truncate_dim is {spec.truncate_dim}, but its vectors have {dims} dimensions")
    facts = {
        "dtype_used": spec.dtype,
        "modules": "own" if own else "built",
        "pooling": pooling,
        "normalize": spec.normalize or any(type(module).__name__ == "Normalize" for module in encoder),
        "max_length": encoder.max_seq_length,
        "prompts": {"query": spec.query_prompt, "document": spec.document_prompt},
    }
    return Encoder(encoder, spec, facts)


def build_modules(
    model: str, spec: EmbeddingSpec, options: dict[str, Any], quantization: Mapping[str, Any]
) -> list[Any]:
    """Return Transformer, Pooling and (when the spec says so) Normalize over a bare language model."""
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling  # 5 has Normalize only here

    if spec.pooling is None:
        raise WorkerError(f"{model} has no modules.json that says how it pools, and neither does the scoring spec")
    transformer = Transformer(
        model,
        model_kwargs={"torch_dtype": spec.dtype, **options, **weight_options(), **quantization},
        processor_kwargs=dict(options),
        config_kwargs=dict(options),
        **TEXT_ONLY,
    )
    modules = [transformer, Pooling(transformer.get_embedding_dimension(), spec.pooling)]
    return [*modules, Normalize()] if spec.normalize else modules


def add_dense(encoder: Any, dense: Any, seed: int) -> None:
    """Put a new layer behind the encoder's last one, and in front of a normalisation; it is drawn by the seed."""
    import torch
    from sentence_transformers.sentence_transformer.modules import Dense

    torch.manual_seed(seed)
    activation = {"tanh": torch.nn.Tanh, "identity": torch.nn.Identity}[dense.activation]()
    layer = Dense(encoder.get_embedding_dimension(), dense.out_features, activation_function=activation)
    encoder.insert(len(encoder) - (type(encoder[-1]).__name__ == "Normalize"), layer)


def keep_layers(encoder: Any, kept: Sequence[int]) -> None:
    """Leave out every layer of an encoder that is not `kept`, counted from 0.

    Raises WorkerError for a layer that there is not, and for models other than BERT's kin: elsewhere the place of a
    layer decides what it does (ModernBERT: which tokens it sees), and the model would be another once it is loaded.
    """
    from torch.nn import ModuleList

    inner = encoder.transformers_model
    found = {name: getattr(getattr(inner, name, None), "layer", None) for name in ("encoder", "transformer")}
    layers, parent = next(((one, name) for name, one in found.items() if isinstance(one, ModuleList)), (None, ""))
    if layers is None or getattr(inner.config, "layer_types", None):
        raise WorkerError(f"{inner.name_or_path} is no encoder like BERT, of which some layers could be kept")
    if max(kept) >= len(layers):
        raise WorkerError(
            f"{inner.name_or_path} has {len(layers)} layers, counted from 0: there is no layer {max(kept)}"
        )
    getattr(inner, parent).layer = ModuleList(layers[place] for place in kept)
    inner.config.num_hidden_layers = len(kept)


def build_text_reader(encoder: Encoder, device: str) -> Reader:
    """Return the reader of texts that have their prompts already, which gives float32 vectors as the model does."""
    import numpy as np

    encode, tokenizer, suffix = encoder.model.encode, encoder.model.tokenizer, encoder.spec.query_suffix

    def run(texts: Sequence[str]) -> Any:
        fitting = [keep_suffix(tokenizer, text, suffix, encoder.max_length) for text in texts]
        vectors = encode(fitting, batch_size=len(texts), prompt="", show_progress_bar=False)
        return np.asarray(vectors, dtype=np.float32)[:, : encoder.spec.truncate_dim]

    facts = {"texts": 0, "texts_cut": 0, **encoder.facts}
    count = partial(count_texts, tokenizer, longest=encoder.max_length, facts=facts)
    return Reader(count, run, encoder.max_length, encoder.spec.batch_size, device, facts)


def encode_texts(reader: Reader, texts: Sequence[str]) -> Any:
    """Return float32 unit vectors [texts, dimensions], in order; equal texts cost once.

    Raises WorkerError for NaN, infinity or a zero vector.
    """
    import numpy as np

    unique = list(dict.fromkeys(texts))
    progress = Progress(total=len(unique))
    rows: dict[str, int] = {}
    found: list[Any] = []
    for places, vectors in read_items(reader, unique):
        rows |= {unique[place]: row for row, place in enumerate(places, start=len(rows))}
        found.append(normalize(vectors))
        progress.advance(len(places))
    matrix = np.concatenate(found)
    bad = int((~np.isfinite(matrix).all(axis=1)).sum())
    if bad:
        raise WorkerError(
            f"the model gives NaN, infinity or zero for {bad} of {len(unique)} texts: its weights or its precision are "
            "broken"
        )
    return matrix[[rows[text] for text in texts]]


def keep_suffix(tokenizer: Any, text: str, suffix: str, longest: int) -> str:
    """Return a text of at most `longest` tokens, cut before what stands behind it, where that is `suffix`.

    FlagICLModel cuts so: FlagEmbedding/inference/embedder/decoder_only/icl.py (1.4.2).
    """
    if not suffix or not text.endswith(suffix) or len(tokenizer(text)["input_ids"]) <= longest:
        return text
    ids = tokenizer(text.removesuffix(suffix), add_special_tokens=False)["input_ids"]
    shorter = (tokenizer.decode(ids[:kept]) + suffix for kept in range(min(longest, len(ids)), 0, -1))
    return next((one for one in shorter if len(tokenizer(one)["input_ids"]) <= longest), suffix)


def normalize(vectors: Any) -> Any:
    """Return the rows in unit length: a cosine is then a dot product. A zero row becomes NaN."""
    import numpy as np

    matrix = np.asarray(vectors)
    with np.errstate(invalid="ignore", divide="ignore"):
        return matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
