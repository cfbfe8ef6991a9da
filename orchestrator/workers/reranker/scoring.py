"""Turn a scoring spec and a model into one callable: pairs of texts in, one number a pair out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orchestrator.workers.cut_texts import CutPairs, count_tokens, find_longest
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.pickles import weight_options
from orchestrator.workers.reranker.formatted_head import format_of, load_formatted_head
from orchestrator.workers.reranker.heads import CHAT, HEAD_SEED, name_head
from orchestrator.workers.reranker.training_format import is_cut, quote_jinja
from orchestrator.workers.whole_weights import NEW_HEAD, SCORES, VECTORS, WORDS, require_whole

if TYPE_CHECKING:
    from orchestrator.workers.reranker.scoring_spec import ScoringSpec

Pair = tuple[str, str]
ASKS_FOR_WORDS = ("qwen3-native", "flag-llm-reranker")

# https://huggingface.co/Qwen/Qwen3-Reranker-0.6B#transformers-usage
NATIVE_PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
NATIVE_SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


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
    if (
        spec.scorer in ASKS_FOR_WORDS
        and name_head(model, trust_remote_code=spec.trust_remote_code, labels=None) != "new"
    ):
        raise WorkerError(f"{model} has a head that scores, and {spec.scorer} would leave it out: it asks for a word")
    loaders = {
        "flag-llm-reranker": load_flag_llm_reranker,
        "qwen3-native": load_qwen3_native,
        "qwen3-score-head": load_score_head,
        "formatted-head": load_formatted,
        "reward-model": load_reward_model,
        "cross-encoder": load_cross_encoder,
        "bi-encoder": load_bi_encoder,
    }
    return loaders[spec.scorer](model, spec, device)


def load_flag_llm_reranker(model: str, spec: ScoringSpec, device: str) -> Scorer:
    """Return FlagEmbedding's FlagLLMReranker: the logit of "Yes" after query, document and prompt."""
    from FlagEmbedding import FlagLLMReranker

    require_whole(model, WORDS, trust_remote_code=spec.trust_remote_code)
    reranker = FlagLLMReranker(
        model,
        use_fp16=spec.dtype == "float16",
        use_bf16=spec.dtype == "bfloat16",
        query_instruction_for_rerank=spec.query_instruction,
        query_instruction_format=spec.query_instruction_format,
        passage_instruction_for_rerank=spec.passage_instruction,
        passage_instruction_format=spec.passage_instruction_format,
        trust_remote_code=spec.trust_remote_code,
        devices=[device],
        prompt=spec.prompt,
        batch_size=spec.batch_size,
        query_max_length=spec.query_max_length,
        max_length=spec.max_length,
        normalize=False,
    )

    # FlagEmbedding keeps float32 on a CPU when half precision is asked for
    used = "float32" if device == "cpu" and spec.dtype == "float16" else spec.dtype
    facts = {"dtype_used": used, "true_token_id": reranker.yes_loc, "pairs_counted": 0, "pairs_cut": 0}

    def score(pairs: Sequence[Pair], prompt: str | None = None) -> list[float]:
        facts["pairs_counted"] += len(pairs)
        facts["pairs_cut"] += sum(is_cut(reranker.tokenizer, spec, *pair) for pair in pairs)
        return [float(value) for value in reranker.compute_score([list(pair) for pair in pairs], prompt=prompt)]

    return Scorer(score, facts)


def native_chat_template(instruction: str) -> str:
    """Return Qwen3-Reranker's official prompt as a chat template over `query` and `document` messages."""
    role = "(messages | selectattr('role', 'equalto', '{}') | first).content"
    parts = [
        quote_jinja(f"{NATIVE_PREFIX}<Instruct>: {instruction}\n<Query>: "),
        role.format("query"),
        quote_jinja("\n<Document>: "),
        role.format("document"),
        quote_jinja(NATIVE_SUFFIX),
    ]
    return "{{ " + " ~ ".join(parts) + " }}"


def native_arguments(spec: ScoringSpec) -> dict[str, Any]:
    """Return what a sentence-transformers Transformer needs to read pairs in Qwen3-Reranker's prompt."""
    return {
        "model_kwargs": loading_arguments(spec),
        "processor_kwargs": {
            "model_max_length": spec.max_length,
            "chat_template": native_chat_template(spec.effective_instruction),
            "trust_remote_code": spec.trust_remote_code,
        },
        "config_kwargs": {"trust_remote_code": spec.trust_remote_code},
    }


def answer_ids(tokenizer: Any, model: object) -> dict[str, int]:
    """Return the ids of "yes" and "no". Raises WorkerError when one of them is not a single token."""
    ids = {word: tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no")}
    if None in ids.values() or tokenizer.unk_token_id in ids.values():
        raise WorkerError(f"{model}: its tokenizer has no single token for yes or no, which qwen3-native reads")
    return ids


def load_qwen3_native(model: str, spec: ScoringSpec, device: str) -> Scorer:
    """Return Qwen3-Reranker as its authors use it: logit of "yes" minus logit of "no" after the official prompt."""
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.cross_encoder.modules import LogitScore
    from torch import nn

    require_whole(model, WORDS, trust_remote_code=spec.trust_remote_code)
    transformer = Transformer(model, transformer_task="text-generation", **native_arguments(spec))
    ids = answer_ids(transformer.tokenizer, model)
    encoder = CrossEncoder(
        modules=[transformer, LogitScore(ids["yes"], ids["no"])], activation_fn=nn.Identity(), device=device
    )
    facts = {"dtype_used": spec.dtype, "true_token_id": ids["yes"], "false_token_id": ids["no"]}
    return build_scorer(encoder, spec, facts)


def load_score_head(model: str, spec: ScoringSpec, device: str) -> Scorer:
    """Return a decoder with a head of one label after Qwen3-Reranker's prompt; without a head it gets a seeded one."""
    import torch
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Transformer
    from torch import nn

    head = name_head(model, trust_remote_code=spec.trust_remote_code)
    require_whole(model, NEW_HEAD, trust_remote_code=spec.trust_remote_code)
    torch.manual_seed(HEAD_SEED)
    arguments = native_arguments(spec)
    arguments["config_kwargs"]["num_labels"] = 1
    transformer = Transformer(model, transformer_task="sequence-classification", **arguments)
    # the logit is read at the last token that is no padding, which the model must tell apart
    if transformer.model.config.pad_token_id is None:
        transformer.model.config.pad_token_id = transformer.tokenizer.pad_token_id
    encoder = CrossEncoder(modules=[transformer], activation_fn=nn.Identity(), device=device)
    return build_scorer(encoder, spec, {"dtype_used": spec.dtype, "head": head})


def load_reward_model(model: str, spec: ScoringSpec, device: str) -> Scorer:
    """Return an LLM's head over its own chat template: the query is asked, the document answers, nothing follows.

    Raises WorkerError for a model without a chat template, or without a trained head.
    """
    import torch
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Transformer
    from torch import nn
    from transformers import AutoTokenizer

    head = name_head(model, trust_remote_code=spec.trust_remote_code)
    require_whole(model, SCORES, trust_remote_code=spec.trust_remote_code)
    template = AutoTokenizer.from_pretrained(model, trust_remote_code=spec.trust_remote_code).chat_template
    if not isinstance(template, str):
        raise WorkerError(f"{model} has no chat template, which a reward model is asked in")
    arguments = native_arguments(spec)
    arguments["processor_kwargs"] |= {"chat_template": ask_and_answer(template), "padding_side": "right"}
    arguments["config_kwargs"]["num_labels"] = 1
    torch.manual_seed(HEAD_SEED)
    transformer = Transformer(
        model,
        transformer_task="sequence-classification",
        **arguments,
        modality_config=CHAT,
        module_output_name="scores",
    )
    config, tokenizer = transformer.model.config, transformer.tokenizer
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token or tokenizer.unk_token
    if config.pad_token_id is None:
        config.pad_token_id = tokenizer.pad_token_id
    encoder = CrossEncoder(modules=[transformer], activation_fn=nn.Identity(), device=device)
    return build_scorer(encoder, spec, {"dtype_used": spec.dtype, "head": head}, wrap=True)


def ask_and_answer(template: str) -> str:
    """Return a chat template over a `query` and a `document` message that renders them as question and answer."""
    role = "(messages | selectattr('role', 'equalto', '{}') | first).content"
    turns = ", ".join(
        f"{{'role': '{role_name}', 'content': {role.format(part)}}}"
        for role_name, part in (("user", "query"), ("assistant", "document"))
    )
    return f"{{%- set messages = [{turns}] -%}}{template}"


def load_formatted(model: str, spec: ScoringSpec, device: str) -> Scorer:
    """Return a decoder with a head of one label over the spec's written formats."""
    head = name_head(model, trust_remote_code=spec.trust_remote_code)
    encoder = load_formatted_head(
        model,
        format_of(spec),
        max_length=spec.max_length,
        trust_remote_code=spec.trust_remote_code,
        dtype=spec.dtype,
        device=device,
    )
    return build_scorer(encoder, spec, {"dtype_used": spec.dtype, "head": head})


def load_cross_encoder(model: str, spec: ScoringSpec, device: str) -> Scorer:
    """Return a sentence-transformers CrossEncoder's raw logits; a model without a head gets a seeded random one."""
    import torch
    from sentence_transformers import CrossEncoder
    from torch import nn

    head = name_head(model, trust_remote_code=spec.trust_remote_code)
    require_whole(model, NEW_HEAD, trust_remote_code=spec.trust_remote_code)
    torch.manual_seed(HEAD_SEED)
    encoder = CrossEncoder(
        model,
        num_labels=1,
        max_length=spec.max_length,
        activation_fn=nn.Identity(),
        device=device,
        trust_remote_code=spec.trust_remote_code,
        model_kwargs=loading_arguments(spec),
    )
    longest = find_longest(encoder[0].model.config)
    if longest is not None and longest < spec.max_length:  # a longer input would end in an index error
        encoder[0].max_seq_length = longest
    return build_scorer(encoder, spec, {"dtype_used": spec.dtype, "head": head}, wrap=True)


def load_bi_encoder(model: str, spec: ScoringSpec, device: str) -> Scorer:
    """Return the cosine of a SentenceTransformer's query and document vectors, with the model's own prompts."""
    from sentence_transformers import SentenceTransformer

    require_whole(model, VECTORS, trust_remote_code=spec.trust_remote_code)
    encoder = SentenceTransformer(
        model, device=device, trust_remote_code=spec.trust_remote_code, model_kwargs=loading_arguments(spec)
    )
    encoder.max_seq_length = min(spec.max_length, encoder.max_seq_length or spec.max_length)
    options = {"batch_size": spec.batch_size, "normalize_embeddings": True, "show_progress_bar": False}
    facts = {"dtype_used": spec.dtype, "texts": 0, "texts_cut": 0, "reads_tokens": encoder.max_seq_length}

    def score(pairs: Sequence[Pair], _prompt: str | None = None) -> list[float]:
        queries = list(dict.fromkeys(spec.wrap_query(query) for query, _ in pairs))
        documents = list(dict.fromkeys(spec.wrap_document(document) for _, document in pairs))
        lengths = count_tokens(encoder.tokenizer, [*queries, *documents])
        facts["texts"] += len(lengths)
        facts["texts_cut"] += sum(length > encoder.max_seq_length for length in lengths)
        query_vectors = dict(zip(queries, encoder.encode_query(queries, **options), strict=True))
        document_vectors = dict(zip(documents, encoder.encode_document(documents, **options), strict=True))
        return [
            float(query_vectors[spec.wrap_query(query)] @ document_vectors[spec.wrap_document(document)])
            for query, document in pairs
        ]

    return Scorer(score, facts)


def loading_arguments(spec: ScoringSpec) -> dict[str, Any]:
    """Return what `from_pretrained` needs to load the weights in the spec's dtype."""
    return {"torch_dtype": spec.dtype, "trust_remote_code": spec.trust_remote_code, **weight_options()}


def build_scorer(encoder: Any, spec: ScoringSpec, facts: dict[str, Any], *, wrap: bool = False) -> Scorer:
    """Return the scorer of a CrossEncoder, whose facts tell how many of the pairs it has cut so far."""
    cuts, predict = CutPairs(encoder), predict_with(encoder, spec, wrap=wrap)
    cuts.facts.update(facts)

    def score(pairs: Sequence[Pair], prompt: str | None = None) -> list[float]:
        cuts.add(
            [(spec.wrap_query(query), spec.wrap_document(document)) for query, document in pairs] if wrap else pairs
        )
        return predict(pairs, prompt)

    return Scorer(score, cuts.facts)


def predict_with(
    encoder: Any, spec: ScoringSpec, *, wrap: bool = False
) -> Callable[[Sequence[Pair], str | None], list[float]]:
    """Return a scoring function over a CrossEncoder; with `wrap`, instructions are put in front of the texts."""

    def score(pairs: Sequence[Pair], _prompt: str | None = None) -> list[float]:
        texts = [
            (spec.wrap_query(query), spec.wrap_document(document)) if wrap else (query, document)
            for query, document in pairs
        ]
        scores = encoder.predict(texts, batch_size=spec.batch_size, show_progress_bar=False)
        return [float(value) for value in scores]

    return score
