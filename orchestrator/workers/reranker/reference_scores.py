"""Score pairs one at a time without padding: the plain oracle that every other way of scoring is held against."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.workers.reranker.formatted_head import encode_tail, format_of
from orchestrator.workers.reranker.scoring import NATIVE_PREFIX, NATIVE_SUFFIX, answer_ids
from orchestrator.workers.reranker.training_format import encode_pair, encode_plain, is_cut, true_token_id

if TYPE_CHECKING:
    from orchestrator.workers.reranker.scoring import Pair
    from orchestrator.workers.reranker.scoring_spec import ScoringSpec


def score_decoder(model: Any, tokenizer: Any, spec: ScoringSpec, pairs: Sequence[Pair]) -> list[float]:
    """Return the logit of the true token at the last position of each pair's training ids."""
    import torch

    token = true_token_id(tokenizer, spec)
    scores = []
    for query, document in pairs:
        ids = torch.tensor([encode_pair(tokenizer, spec, query, document)], device=model.device)
        with torch.inference_mode():
            scores.append(float(model(input_ids=ids, use_cache=False).logits[0, -1, token]))
    return scores


def encode_native(tokenizer: Any, spec: ScoringSpec, query: str, document: str) -> list[int]:
    """Return the ids of Qwen3-Reranker's own prompt around a pair, uncut."""
    body = f"<Instruct>: {spec.effective_instruction}\n<Query>: {query}\n<Document>: {document}"
    return encode_plain(tokenizer, NATIVE_PREFIX + body + NATIVE_SUFFIX)


def score_native(model: Any, tokenizer: Any, spec: ScoringSpec, pairs: Sequence[Pair]) -> list[float]:
    """Return how far "yes" is above "no", as logits, after each pair's native prompt cut to `max_length`."""
    import torch

    ids = answer_ids(tokenizer, "the trained model")
    scores = []
    for query, document in pairs:
        tokens = torch.tensor([cut_native(tokenizer, spec, query, document)], device=model.device)
        with torch.inference_mode():
            logits = model(input_ids=tokens, use_cache=False, logits_to_keep=1).logits[0, -1]
        scores.append(float(logits[ids["yes"]] - logits[ids["no"]]))
    return scores


def read_labels(model: Any, rows: Iterable[list[int]]) -> list[float]:
    """Return the logit of a decoder's one label at the last token of each row of ids."""
    import torch

    scores = []
    for ids in rows:
        tokens = torch.tensor([ids], device=model.device)
        with torch.inference_mode():
            scores.append(float(model(input_ids=tokens, use_cache=False).logits[0, 0]))
    return scores


def score_head(model: Any, tokenizer: Any, spec: ScoringSpec, pairs: Sequence[Pair]) -> list[float]:
    """Return the logit of a decoder's one label after each pair's native prompt cut to `max_length`."""
    return read_labels(model, (cut_native(tokenizer, spec, *pair) for pair in pairs))


def score_formatted(model: Any, tokenizer: Any, spec: ScoringSpec, pairs: Sequence[Pair]) -> list[float]:
    """Return the logit of a decoder's one label at the end of each pair in the spec's formats, cut to `max_length`."""
    return read_labels(model, (cut_formatted(tokenizer, spec, *pair) for pair in pairs))


def cut_native(tokenizer: Any, spec: ScoringSpec, query: str, document: str) -> list[int]:
    """Return the ids of the native prompt, of which a long pair loses its end and never the closing words."""
    ids = encode_native(tokenizer, spec, query, document)
    suffix = encode_plain(tokenizer, NATIVE_SUFFIX)
    return ids if len(ids) <= spec.max_length else ids[: spec.max_length - len(suffix)] + suffix


def encode_formatted(tokenizer: Any, spec: ScoringSpec, query: str, document: str) -> list[int]:
    """Return the ids of a pair in the spec's formats, uncut."""
    return encode_plain(tokenizer, format_of(spec).render(query, document))


def cut_formatted(tokenizer: Any, spec: ScoringSpec, query: str, document: str) -> list[int]:
    """Return the ids of a pair, of which a long one loses its end and never what follows the document's text."""
    ids, tail = encode_formatted(tokenizer, spec, query, document), encode_tail(tokenizer, format_of(spec))
    return ids if len(ids) <= spec.max_length else ids[: spec.max_length - len(tail)] + tail


def encode_two_texts(tokenizer: Any, spec: ScoringSpec, query: str, document: str) -> Any:
    """Return a pair's tensors, cut as sentence-transformers cuts: a token at a time from the longer text."""
    return tokenizer(query, document, truncation="longest_first", max_length=spec.max_length, return_tensors="pt")


def encode_for_encoder(tokenizer: Any, spec: ScoringSpec, query: str, document: str) -> Any:
    """Return a pair's tensors, cut as FlagReranker cuts: the query to its own length, then the document."""
    wrapped = spec.wrap_query(query)
    ids = encode_plain(tokenizer, wrapped)
    if len(ids) > spec.effective_query_max_length:
        wrapped = tokenizer.decode(ids[: spec.effective_query_max_length])
    return tokenizer(
        wrapped,
        spec.wrap_document(document),
        truncation="only_second",
        max_length=spec.max_length,
        return_tensors="pt",
    )


def score_features(model: Any, rows: Iterable[Any]) -> list[float]:
    """Return the one logit of a sequence classifier for each row of tensors."""
    import torch

    scores = []
    for features in rows:
        with torch.inference_mode():
            scores.append(float(model(**features.to(model.device)).logits[0, 0]))
    return scores


def score_encoder(model: Any, tokenizer: Any, spec: ScoringSpec, pairs: Sequence[Pair]) -> list[float]:
    """Return the one logit of a sequence classifier for each pair, cut as FlagReranker cuts."""
    return score_features(model, (encode_for_encoder(tokenizer, spec, *pair) for pair in pairs))


def score_two_texts(model: Any, tokenizer: Any, spec: ScoringSpec, pairs: Sequence[Pair]) -> list[float]:
    """Return the one logit of a sequence classifier for each pair, cut as sentence-transformers cuts."""
    return score_features(model, (encode_two_texts(tokenizer, spec, *pair) for pair in pairs))


def is_cut_for_encoder(tokenizer: Any, spec: ScoringSpec, query: str, document: str) -> bool:
    """Tell whether the spec's lengths take tokens from this pair."""
    whole = tokenizer(spec.wrap_query(query), spec.wrap_document(document))["input_ids"]
    head = encode_plain(tokenizer, spec.wrap_query(query))
    return len(whole) > spec.max_length or len(head) > spec.effective_query_max_length


def find_uncut_native(tokenizer: Any, spec: ScoringSpec, pairs: Sequence[Pair]) -> list[int]:
    """Return the positions of the pairs whose native prompt fits into `max_length`."""
    return [index for index, pair in enumerate(pairs) if len(encode_native(tokenizer, spec, *pair)) <= spec.max_length]


def find_within(tokenizer: Any, spec: ScoringSpec, pairs: Sequence[Pair]) -> list[int]:
    """Return the positions of the pairs that `max_length`, counted over the whole input, leaves whole."""
    if spec.scorer == "formatted-head":
        lengths = [len(encode_formatted(tokenizer, spec, *pair)) for pair in pairs]
    else:
        lengths = [len(tokenizer(*pair)["input_ids"]) for pair in pairs]
    return [index for index, length in enumerate(lengths) if length <= spec.max_length]


def find_uncut(tokenizer: Any, spec: ScoringSpec, pairs: Sequence[Pair], *, decoder: bool) -> list[int]:
    """Return the positions of the pairs that no length limit touches."""
    cut = is_cut if decoder else is_cut_for_encoder
    return [index for index, pair in enumerate(pairs) if not cut(tokenizer, spec, *pair)]
