"""Turn a scoring spec and a model into one callable: pairs of texts in, one number a pair out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orchestrator.workers.cut_texts import CutPairs, count_tokens, find_longest
from orchestrator.workers.embedding.model import load_encoder, normalize
from orchestrator.workers.engines import flagembedding
from orchestrator.workers.engines.sentence_transformers import CHAT
from orchestrator.workers.engines.transformers import HEAD_SEED, load_tokenizer, name_head
from orchestrator.workers.environment import weight_options
from orchestrator.workers.eval_files import Pair
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.reranker import formats
from orchestrator.workers.specs import SCORERS, ScoringSpec, parse_embedding_spec, parse_spec
from orchestrator.workers.whole_weights import NEW_HEAD, SCORES, VECTORS, WORDS, require_whole

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

Facts = dict[str, Any]


@dataclass(frozen=True)
class Scorer:
    """`score(pairs, prompt)` gives one number a pair, in order; `facts` says what was loaded and how.

    `prompt` None is the spec's; only `flag-llm-reranker` has prompts.
    """

    score: Callable[[Sequence[Pair], str | None], list[float]]
    facts: dict[str, Any] = field(default_factory=dict)


def choose_device(wanted: str | None) -> str:
    """Return the wanted device, else the first GPU, else the CPU."""
    import torch

    if wanted is None:
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    if wanted.startswith("cuda") and not torch.cuda.is_available():
        raise WorkerError(f"--device {wanted}: PyTorch sees no GPU here")
    return "cuda:0" if wanted == "cuda" else wanted


def load_scorer(model: str, spec: ScoringSpec, device: str) -> Scorer:
    """Return the scorer that the spec names, with `model` (a folder or a hub id) loaded on `device`.

    Raises WorkerError for a model whose trained head the scorer would leave out.
    """
    facts: Facts = {"dtype_used": spec.dtype}
    if SCORERS[spec.scorer]["use"] == WORDS:
        if name_head(model, trust_remote_code=spec.trust_remote_code, labels=None) != "new":
            raise WorkerError(
                f"{model} has a head that scores, and {spec.scorer} would leave it out: it asks for a word"
            )
    elif spec.scorer != "bi-encoder":
        facts["head"] = name_head(model, trust_remote_code=spec.trust_remote_code)
    return LOADERS[spec.scorer](model, spec, device, facts)


def open_scorer(model: str, raw: dict[str, Any], origin: str, device: str) -> Scorer:
    """Return the scorer of a raw spec: what `load_scorer` gives, or the cosines of an embedding model.

    Raises WorkerError for a spec that scores no pairs, and what `load_scorer` does.
    """
    if raw.get("scorer") != "embedding":
        return load_scorer(model, parse_spec(raw, origin), device)
    spec = parse_embedding_spec(raw, origin)
    encoder = load_encoder(model, spec, device)

    def embed(kind: str, texts: list[str]) -> Any:
        wrapped = [spec.wrap(kind, text) for text in texts]
        vectors = encoder.model.encode(wrapped, batch_size=spec.batch_size, prompt="", show_progress_bar=False)
        return normalize(vectors[:, : spec.truncate_dim])

    return build_cosines(embed, encoder.facts)


def load_flag_llm_reranker(model: str, spec: ScoringSpec, device: str, facts: Facts) -> Scorer:
    """Return FlagEmbedding's FlagLLMReranker: the logit of "Yes" after query, document and prompt."""
    reranker = flagembedding.open_reranker(model, spec, device)
    # FlagEmbedding keeps float32 on a CPU when half precision is asked for
    used = "float32" if device == "cpu" and spec.dtype == "float16" else spec.dtype
    facts |= {"dtype_used": used, "true_token_id": reranker.yes_loc, "pairs_counted": 0, "pairs_cut": 0}

    def score(pairs: Sequence[Pair], prompt: str | None = None) -> list[float]:
        facts["pairs_counted"] += len(pairs)
        facts["pairs_cut"] += sum(formats.is_cut(reranker.tokenizer, spec, *pair) for pair in pairs)
        return flagembedding.score_pairs(reranker, pairs, prompt)

    return Scorer(score, facts)


def open_decoder(
    model: str, spec: ScoringSpec, template: str, *, use: str = NEW_HEAD, flat: bool = False, **processor: Any
) -> Any:
    """Return sentence-transformers' module over a decoder that reads pairs in the chat template.

    `use` says what the model's files must fill: its words, or a head of one label, which a NEW_HEAD is seeded for where
    there is none. `flat` says the shape of a message rather than have it inferred; `processor` are settings of the
    tokenizer. Raises WorkerError for a model whose files do not fill it.
    """
    import torch
    from sentence_transformers.base.modules import Transformer

    require_whole(model, use, trust_remote_code=spec.trust_remote_code)
    trust = {"trust_remote_code": spec.trust_remote_code}
    torch.manual_seed(HEAD_SEED)
    return Transformer(
        model,
        transformer_task="text-generation" if use == WORDS else "sequence-classification",
        model_kwargs=loading_arguments(spec),
        processor_kwargs={"model_max_length": spec.max_length, "chat_template": template, **processor, **trust},
        config_kwargs={**trust, **({} if use == WORDS else {"num_labels": 1})},
        **({"modality_config": CHAT, "module_output_name": "scores"} if flat else {}),
    )


def build_encoder(modules: list[Any], device: str | None) -> CrossEncoder:
    """Return the modules as a CrossEncoder of raw logits."""
    from sentence_transformers import CrossEncoder
    from torch import nn

    return CrossEncoder(modules=modules, activation_fn=nn.Identity(), device=device)


def load_qwen3_native(model: str, spec: ScoringSpec, device: str, facts: Facts) -> Scorer:
    """Return Qwen3-Reranker as its authors use it: logit of "yes" minus logit of "no" after the official prompt."""
    from sentence_transformers.cross_encoder.modules import LogitScore

    transformer = open_decoder(model, spec, formats.native_chat_template(spec.effective_instruction), use=WORDS)
    ids = formats.answer_ids(transformer.tokenizer, model)
    encoder = build_encoder([transformer, LogitScore(ids["yes"], ids["no"])], device)
    return build_scorer(encoder, spec, {**facts, "true_token_id": ids["yes"], "false_token_id": ids["no"]})


def load_score_head(model: str, spec: ScoringSpec, device: str, facts: Facts) -> Scorer:
    """Return a decoder with a head of one label after Qwen3-Reranker's prompt; without a head it gets a seeded one."""
    transformer = open_decoder(model, spec, formats.native_chat_template(spec.effective_instruction))
    # the logit is read at the last token that is no padding, which the model must tell apart
    if transformer.model.config.pad_token_id is None:
        transformer.model.config.pad_token_id = transformer.tokenizer.pad_token_id
    return build_scorer(build_encoder([transformer], device), spec, facts)


def load_reward_model(model: str, spec: ScoringSpec, device: str, facts: Facts) -> Scorer:
    """Return an LLM's head over its own chat template: the query is asked, the document answers, nothing follows.

    Raises WorkerError for a model without a chat template, or without a trained head.
    """
    template = load_tokenizer(model, trust_remote_code=spec.trust_remote_code).chat_template
    if not isinstance(template, str):
        raise WorkerError(f"{model} has no chat template, which a reward model is asked in")
    turns = f"{{'role': 'user', 'content': {formats.QUERY}}}, {{'role': 'assistant', 'content': {formats.DOCUMENT}}}"
    chat = f"{{%- set messages = [{turns}] -%}}{template}"
    transformer = open_decoder(model, spec, chat, use=SCORES, flat=True, padding_side="right")
    config, tokenizer = transformer.model.config, transformer.tokenizer
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token or tokenizer.unk_token
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id
    return build_scorer(build_encoder([transformer], device), spec, facts, wrap=True)


def load_formatted(model: str, spec: ScoringSpec, device: str, facts: Facts) -> Scorer:
    """Return a decoder with a head of one label over the spec's written formats."""
    length, trust = spec.max_length, spec.trust_remote_code
    options: dict[str, Any] = {"max_length": length, "trust_remote_code": trust, "dtype": spec.dtype, "device": device}
    return build_scorer(load_formatted_head(model, formats.format_of(spec), **options), spec, facts)


def load_formatted_head(
    model: str,
    pair_format: formats.PairFormat,
    *,
    max_length: int,
    trust_remote_code: bool = False,
    dtype: str = "float32",
    device: str | None = None,
) -> CrossEncoder:
    """Return the model as a CrossEncoder of raw logits; a base without a head gets a seeded one of one label.

    `max_length` is in tokens and counts the whole input; of a longer one the end goes, and never `special_token`.
    Padding is on the right, where no token of a causal model can see it. Raises WorkerError for a bad format, a head of
    several labels, a `max_length` without room for the texts, or a `special_token` that is all there is to pad with.
    """
    template = formats.build_format_template(pair_format)
    name_head(model, trust_remote_code=trust_remote_code)
    spec = ScoringSpec("formatted-head", dtype=dtype, trust_remote_code=trust_remote_code, max_length=max_length)
    transformer = open_decoder(model, spec, template, flat=True, padding_side="right", truncation_side="right")
    tokenizer = transformer.tokenizer
    formats.require_room(tokenizer, pair_format, max_length)
    tokenizer.pad_token = formats.choose_padding(tokenizer, pair_format)
    transformer.model.config.pad_token_id = tokenizer.pad_token_id
    return build_encoder([transformer], device)


def open_cross_encoder(model: str, spec: ScoringSpec, device: str | None) -> CrossEncoder:
    """Return the model as a CrossEncoder of raw logits; one without a head gets a seeded random one."""
    import torch
    from sentence_transformers import CrossEncoder
    from torch import nn

    require_whole(model, NEW_HEAD, trust_remote_code=spec.trust_remote_code)
    torch.manual_seed(HEAD_SEED)
    return CrossEncoder(
        model,
        num_labels=1,
        max_length=spec.max_length,
        activation_fn=nn.Identity(),
        device=device,
        trust_remote_code=spec.trust_remote_code,
        model_kwargs=loading_arguments(spec),
    )


def load_cross_encoder(model: str, spec: ScoringSpec, device: str, facts: Facts) -> Scorer:
    """Return a sentence-transformers CrossEncoder's raw logits."""
    encoder = open_cross_encoder(model, spec, device)
    longest = find_longest(encoder[0].model.config)
    if longest is not None and longest < spec.max_length:  # a longer input would end in an index error
        encoder[0].max_seq_length = longest
    return build_scorer(encoder, spec, facts, wrap=True)


def load_bi_encoder(model: str, spec: ScoringSpec, device: str, facts: Facts) -> Scorer:
    """Return the cosine of a SentenceTransformer's query and document vectors, with the model's own prompts."""
    from sentence_transformers import SentenceTransformer

    require_whole(model, VECTORS, trust_remote_code=spec.trust_remote_code)
    encoder = SentenceTransformer(
        model, device=device, trust_remote_code=spec.trust_remote_code, model_kwargs=loading_arguments(spec)
    )
    encoder.max_seq_length = min(spec.max_length, encoder.max_seq_length or spec.max_length)
    options = {"batch_size": spec.batch_size, "normalize_embeddings": True, "show_progress_bar": False}
    facts |= {"texts": 0, "texts_cut": 0, "reads_tokens": encoder.max_seq_length}

    ways = {"query": (spec.wrap_query, encoder.encode_query), "document": (spec.wrap_document, encoder.encode_document)}

    def embed(kind: str, texts: list[str]) -> Any:
        wrap_text, encode = ways[kind]
        wrapped = list(map(wrap_text, texts))
        lengths = count_tokens(encoder.tokenizer, wrapped)
        facts["texts"] += len(lengths)
        facts["texts_cut"] += sum(length > encoder.max_seq_length for length in lengths)
        return encode(wrapped, **options)

    return build_cosines(embed, facts)


def build_cosines(embed: Callable[[str, list[str]], Any], facts: Facts) -> Scorer:
    """Return the scorer that compares vectors; `embed(kind, texts)` gives unit ones of queries or documents."""

    def score(pairs: Sequence[Pair], _prompt: str | None = None) -> list[float]:
        sides = [list(dict.fromkeys(texts)) for texts in zip(*pairs, strict=True)]
        queries, documents = (
            dict(zip(texts, embed(kind, texts), strict=True))
            for kind, texts in zip(("query", "document"), sides, strict=True)
        )
        return [float(queries[query] @ documents[document]) for query, document in pairs]

    return Scorer(score, facts)


LOADERS: dict[str, Callable[[str, ScoringSpec, str, Facts], Scorer]] = {
    "flag-llm-reranker": load_flag_llm_reranker,
    "qwen3-native": load_qwen3_native,
    "qwen3-score-head": load_score_head,
    "formatted-head": load_formatted,
    "reward-model": load_reward_model,
    "cross-encoder": load_cross_encoder,
    "bi-encoder": load_bi_encoder,
}


def loading_arguments(spec: ScoringSpec) -> dict[str, Any]:
    """Return what `from_pretrained` needs to load the weights in the spec's dtype."""
    return {"torch_dtype": spec.dtype, "trust_remote_code": spec.trust_remote_code, **weight_options()}


def wrap_pairs(spec: ScoringSpec, pairs: Sequence[Pair]) -> list[Pair]:
    """Return the pairs with their instructions in front."""
    return [(spec.wrap_query(query), spec.wrap_document(document)) for query, document in pairs]


def build_scorer(encoder: Any, spec: ScoringSpec, facts: Facts, *, wrap: bool = False) -> Scorer:
    """Return the scorer of a CrossEncoder, whose facts tell how many of the pairs it has cut so far.

    With `wrap`, instructions are put in front of the texts.
    """
    cuts = CutPairs(encoder)
    cuts.facts.update(facts)

    def score(pairs: Sequence[Pair], _prompt: str | None = None) -> list[float]:
        texts = wrap_pairs(spec, pairs) if wrap else list(pairs)
        cuts.add(texts)
        return [float(value) for value in encoder.predict(texts, batch_size=spec.batch_size, show_progress_bar=False)]

    return Scorer(score, cuts.facts)
