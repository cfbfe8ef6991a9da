"""Turn a scoring spec and a model into one callable: pairs of texts in, one number a pair out."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from orchestrator.workers.batches import Reader, count_texts, count_tokens, find_longest, read_items
from orchestrator.workers.embedding.model import build_text_reader, load_encoder, normalize
from orchestrator.workers.engines import flagembedding
from orchestrator.workers.engines.sentence_transformers import CHAT, open_model
from orchestrator.workers.engines.transformers import HEAD_SEED, load_tokenizer, name_head
from orchestrator.workers.environment import weight_options
from orchestrator.workers.eval_files import Pair
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.reranker import formats
from orchestrator.workers.specs import SCORERS, EmbeddingSpec, ScoringSpec, parse_embedding_spec, parse_spec
from orchestrator.workers.whole_weights import NEW_HEAD, SCORES, VECTORS, WORDS, require_whole

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

Facts = dict[str, Any]
Spec = ScoringSpec | EmbeddingSpec


class Key(NamedTuple):
    """What decides a pair's score; `prompt` None is the spec's."""

    query: str
    document: str
    prompt: str | None = None


@dataclass(frozen=True)
class Scorer:
    """Scores pairs: `reader` reads keys, or, with `item_of(kind, text)`, both texts, whose cosine is the score."""

    reader: Reader
    item_of: Callable[[str, str], Any] | None = None

    def score(self, pairs: Sequence[Pair], prompt: str | None = None) -> list[float]:
        """Return one number a pair, in order; `prompt` None is the spec's, and only `flag-llm-reranker` has prompts."""
        found: dict[int, float] = {}
        for places, scores in self.score_keys([Key(*pair, prompt) for pair in pairs]):
            found.update(zip(places, scores, strict=True))
        return [found[place] for place in range(len(pairs))]

    def score_keys(
        self, keys: Sequence[Key], known: Container[int] = ()
    ) -> Iterator[tuple[Sequence[int], Sequence[float]]]:
        """Yield places in `keys`, without those in `known`, and their scores, as they are done.

        A batch has one prompt. Where texts are read and no pair is done yet, nothing is yielded for it.
        """
        if self.item_of is None:
            prompts: dict[str, list[int]] = {}
            for place, key in enumerate(keys):
                prompts.setdefault(key.prompt or "", []).append(place)
            for _, places in sorted(prompts.items()):
                done = {number for number, place in enumerate(places) if place in known}
                for batch, values in read_items(self.reader, [keys[place] for place in places], done):
                    yield [places[number] for number in batch], list(map(float, values))
            return
        wanted = [place for place in range(len(keys)) if place not in known]
        pairs = [(self.item_of("query", keys[at].query), self.item_of("document", keys[at].document)) for at in wanted]
        items = list(dict.fromkeys(item for pair in pairs for item in pair))
        vectors: dict[Any, Any] = {}
        for batch, values in read_items(self.reader, items):
            vectors.update(zip([items[place] for place in batch], values, strict=True))
            yield [], []
        unit = dict(zip(vectors, normalize(list(vectors.values())), strict=True)) if vectors else {}
        yield wanted, [float(unit[query] @ unit[document]) for query, document in pairs]


def choose_device(wanted: str | None) -> str:
    """Return the wanted device, else the first GPU, else the CPU."""
    import torch

    if wanted is None:
        return "cuda:0" if torch.cuda.is_available() else "cpu"
    kind, _, number = wanted.partition(":")
    if not kind or (number and not number.isdecimal()):
        raise WorkerError(f"--device {wanted}: not cpu, cuda, cuda:0, or several of them parted by commas")
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if int(number or 0) >= count:
            raise WorkerError(f"--device {wanted}: PyTorch sees {count or 'no'} GPU{'s' * (count > 1)} here")
    return "cuda:0" if wanted == "cuda" else wanted


def load_scorer(model: str, spec: Spec, device: str) -> Scorer:
    """Return the scorer that the spec names, with `model` (a folder or a hub id) loaded on `device`.

    Raises what `load_reader` does.
    """
    return build_scorer(load_reader(model, spec, device), spec)


def build_scorer(reader: Reader, spec: Spec) -> Scorer:
    """Return the scorer over a spec's reader: of pairs, or of vectors that are compared."""
    if isinstance(spec, EmbeddingSpec):
        return Scorer(reader, spec.wrap)
    return Scorer(reader, (lambda kind, text: (kind, text)) if spec.scorer == "bi-encoder" else None)


def parse_scorer(raw: dict[str, Any], origin: str) -> Spec:
    """Return the spec of what gives pairs a score: a reranker, or an embedding model's cosines. Raises WorkerError."""
    return parse_embedding_spec(raw, origin) if raw.get("scorer") == "embedding" else parse_spec(raw, origin)


def load_reader(model: str, spec: Spec, device: str) -> Reader:
    """Return what reads as the spec says: pairs, or the texts of an embedding model.

    Raises WorkerError for a model whose trained head would be left out, or that does not load.
    """
    if isinstance(spec, EmbeddingSpec):
        return build_text_reader(load_encoder(model, spec, device), device)
    facts: Facts = {"dtype_used": spec.dtype}
    if SCORERS[spec.scorer]["use"] == WORDS:
        if name_head(model, trust_remote_code=spec.trust_remote_code, labels=None) != "new":
            raise WorkerError(
                f"{model} has a head that scores, and {spec.scorer} would leave it out: it asks for a word"
            )
    elif spec.scorer != "bi-encoder":
        facts["head"] = name_head(model, trust_remote_code=spec.trust_remote_code)
    return LOADERS[spec.scorer](model, spec, device, facts)


def load_flag_llm_reranker(model: str, spec: ScoringSpec, device: str, facts: Facts) -> Reader:
    """Return FlagEmbedding's FlagLLMReranker: the logit of "Yes" after query, document and prompt."""
    reranker = flagembedding.open_reranker(model, spec, device)
    # FlagEmbedding keeps float32 on a CPU when half precision is asked for
    used = "float32" if device == "cpu" and spec.dtype == "float16" else spec.dtype
    facts |= {"dtype_used": used, "true_token_id": reranker.yes_loc, "pairs_counted": 0, "pairs_cut": 0}
    why_not = flagembedding.read_last_words(reranker, used)
    facts |= {"logits": "last"} if why_not is None else {"logits": "all", "cautions": [why_not]}

    def count(keys: Sequence[Key]) -> list[int]:
        found = formats.measure_pairs(reranker.tokenizer, spec, [key[:2] for key in keys], keys[0].prompt)
        facts["pairs_counted"] += len(found)
        facts["pairs_cut"] += sum(cut for _, cut in found)
        return [-(-length // 8) * 8 for length, _ in found]  # it pads to a multiple of 8

    def run(keys: Sequence[Key]) -> list[float]:
        return flagembedding.score_pairs(reranker, [key[:2] for key in keys], keys[0].prompt, batch_size=len(keys))

    longest = formats.sequence_length(reranker.tokenizer, spec)
    return Reader(count, run, longest, spec.batch_size, device, facts)


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
        model_kwargs={"torch_dtype": spec.dtype, "trust_remote_code": spec.trust_remote_code, **weight_options()},
        processor_kwargs={"model_max_length": spec.max_length, "chat_template": template, **processor, **trust},
        config_kwargs={**trust, **({} if use == WORDS else {"num_labels": 1})},
        **({"modality_config": CHAT, "module_output_name": "scores"} if flat else {}),
    )


def build_encoder(modules: list[Any], device: str | None) -> CrossEncoder:
    """Return the modules as a CrossEncoder of raw logits."""
    from sentence_transformers import CrossEncoder
    from torch import nn

    return CrossEncoder(modules=modules, activation_fn=nn.Identity(), device=device)


def load_qwen3_native(model: str, spec: ScoringSpec, device: str, facts: Facts) -> Reader:
    """Return Qwen3-Reranker as its authors use it: logit of "yes" minus logit of "no" after the official prompt."""
    from sentence_transformers.cross_encoder.modules import LogitScore

    transformer = open_decoder(model, spec, formats.write_pair(spec).template, use=WORDS)
    ids = formats.answer_ids(transformer.tokenizer, model)
    encoder = build_encoder([transformer, LogitScore(ids["yes"], ids["no"])], device)
    return build_pair_reader(encoder, spec, {**facts, "true_token_id": ids["yes"], "false_token_id": ids["no"]})


def load_score_head(model: str, spec: ScoringSpec, device: str, facts: Facts) -> Reader:
    """Return a decoder with a head of one label after Qwen3-Reranker's prompt; without a head it gets a seeded one."""
    transformer = open_decoder(model, spec, formats.write_pair(spec).template)
    # the logit is read at the last token that is no padding, which the model must tell apart
    if transformer.model.config.pad_token_id is None:
        transformer.model.config.pad_token_id = transformer.tokenizer.pad_token_id
    return build_pair_reader(build_encoder([transformer], device), spec, facts)


def load_reward_model(model: str, spec: ScoringSpec, device: str, facts: Facts) -> Reader:
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
    return build_pair_reader(build_encoder([transformer], device), spec, facts, wrap=True)


def load_formatted(model: str, spec: ScoringSpec, device: str, facts: Facts) -> Reader:
    """Return a decoder with a head of one label over the spec's written formats."""
    return build_pair_reader(load_formatted_head(model, formats.format_of(spec), spec, device), spec, facts)


def load_formatted_head(
    model: str, pair_format: formats.PairFormat, spec: ScoringSpec, device: str | None
) -> CrossEncoder:
    """Return the model as a CrossEncoder of raw logits; a base without a head gets a seeded one of one label.

    The spec's `max_length` is in tokens and counts the whole input; of a longer one the end goes, and never
    `special_token`. Padding is on the right, where no token of a causal model can see it. Raises WorkerError for a bad
    format, a head of several labels, a `max_length` without room for the texts, or a `special_token` that is all there
    is to pad with.
    """
    template = pair_format.template
    name_head(model, trust_remote_code=spec.trust_remote_code)
    transformer = open_decoder(model, spec, template, flat=True, padding_side="right", truncation_side="right")
    tokenizer = transformer.tokenizer
    needed = len(pair_format.written.encode(tokenizer, "0", "0"))
    if spec.max_length < needed:
        raise WorkerError(
            f"max_length {spec.max_length} is less than the {needed} tokens that the format takes with texts of one "
            "letter; raise max_length or shorten query_format and document_format"
        )
    tokenizer.pad_token = formats.choose_padding(tokenizer, pair_format)
    transformer.model.config.pad_token_id = tokenizer.pad_token_id
    return build_encoder([transformer], device)


def open_cross_encoder(model: str, spec: ScoringSpec, device: str | None) -> CrossEncoder:
    """Return the model as a CrossEncoder of raw logits; one without a head gets a seeded random one."""
    import torch

    trust = spec.trust_remote_code
    require_whole(model, NEW_HEAD, trust_remote_code=trust)
    torch.manual_seed(HEAD_SEED)
    own = {"num_labels": 1, "max_length": spec.max_length, "activation_fn": torch.nn.Identity()}
    encoder: CrossEncoder = open_model("CrossEncoder", model, device, spec.dtype, trust_remote_code=trust, **own)
    return encoder


def load_cross_encoder(model: str, spec: ScoringSpec, device: str, facts: Facts) -> Reader:
    """Return a sentence-transformers CrossEncoder's raw logits."""
    encoder = open_cross_encoder(model, spec, device)
    longest = find_longest(encoder[0].model.config)
    if longest is not None and longest < spec.max_length:  # a longer input would end in an index error
        encoder[0].max_seq_length = longest
    return build_pair_reader(encoder, spec, facts, wrap=True)


def load_bi_encoder(model: str, spec: ScoringSpec, device: str, facts: Facts) -> Reader:
    """Return the cosine of a SentenceTransformer's query and document vectors, with the model's own prompts."""
    trust = spec.trust_remote_code
    require_whole(model, VECTORS, trust_remote_code=trust)
    encoder = open_model("SentenceTransformer", model, device, spec.dtype, trust_remote_code=trust)
    encoder.max_seq_length = min(spec.max_length, encoder.max_seq_length or spec.max_length)
    facts |= {"texts": 0, "texts_cut": 0, "reads_tokens": encoder.max_seq_length}
    ways = {"query": (spec.wrap_query, encoder.encode_query), "document": (spec.wrap_document, encoder.encode_document)}

    def count(items: Sequence[tuple[str, str]]) -> list[int]:
        texts = [ways[kind][0](text) for kind, text in items]
        return count_texts(encoder.tokenizer, texts, encoder.max_seq_length, facts)

    def run(items: Sequence[tuple[str, str]]) -> list[Any]:
        found: dict[tuple[str, str], Any] = {}
        for side, (wrap_text, encode) in ways.items():
            if texts := [text for kind, text in items if kind == side]:
                vectors = encode(list(map(wrap_text, texts)), batch_size=len(texts), show_progress_bar=False)
                found.update(zip([(side, text) for text in texts], vectors, strict=True))
        return [found[item] for item in items]

    return Reader(count, run, encoder.max_seq_length, spec.batch_size, device, facts)


LOADERS: dict[str, Callable[[str, ScoringSpec, str, Facts], Reader]] = {
    "flag-llm-reranker": load_flag_llm_reranker,
    "qwen3-native": load_qwen3_native,
    "qwen3-score-head": load_score_head,
    "formatted-head": load_formatted,
    "reward-model": load_reward_model,
    "cross-encoder": load_cross_encoder,
    "bi-encoder": load_bi_encoder,
}


def wrap_pairs(spec: ScoringSpec, pairs: Sequence[Pair]) -> list[Pair]:
    """Return the pairs with their instructions in front."""
    return [(spec.wrap_query(query), spec.wrap_document(document)) for query, document in pairs]


def build_pair_reader(encoder: Any, spec: ScoringSpec, facts: Facts, *, wrap: bool = False) -> Reader:
    """Return the reader of a CrossEncoder, whose facts tell how many of the pairs it has cut so far.

    With `wrap`, instructions are put in front of the texts.
    """
    tokenizer, limit = encoder[0].tokenizer, encoder[0].max_seq_length
    facts = {"pairs_counted": 0, "pairs_cut": 0, "reads_tokens": limit, **facts}
    # what stands around the two texts: special tokens, or the prompt of a chat template
    if "message" in encoder[0].modality_config:
        pair = [{"role": "query", "content": "0"}, {"role": "document", "content": "0"}]
        prompt = tokenizer.apply_chat_template(pair, tokenize=False)
        length, single = count_tokens(tokenizer, [prompt, "0"], special=False)
        around = length - 2 * single
    else:
        around = int(tokenizer.num_special_tokens_to_add(pair=True))

    def write(keys: Sequence[Key]) -> list[Pair]:
        pairs = [key[:2] for key in keys]
        return wrap_pairs(spec, pairs) if wrap else pairs

    def count(keys: Sequence[Key]) -> list[int]:
        pairs = write(keys)
        texts = list(dict.fromkeys(text for pair in pairs for text in pair))
        lengths = dict(zip(texts, count_tokens(tokenizer, texts, special=False), strict=True))
        found = [lengths[query] + lengths[document] + around for query, document in pairs]
        facts["pairs_counted"] += len(found)
        facts["pairs_cut"] += sum(length > limit for length in found) if limit else 0
        return found

    def run(keys: Sequence[Key]) -> list[float]:
        scores = encoder.predict(write(keys), batch_size=len(keys), show_progress_bar=False)
        return [float(score) for score in scores]

    return Reader(count, run, limit or spec.max_length, spec.batch_size, encoder.device.type, facts)
