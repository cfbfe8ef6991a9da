"""How a (query, document) becomes token ids, scorer by scorer, and chat templates that give the same ids.

FlagEmbedding (training and FlagLLMReranker alike) tokenizes query, separator, document, separator and prompt apart and
joins the ids. A chat template is tokenized as one string, where a byte-level BPE joins a document's last "." with the
separator's line break. A sentinel character, at which the packaged tokenizer splits and which it drops, parts them.

Every other decoder reads one string (`Written`), rendered by a chat template and tokenized without special tokens of
the tokenizer's own: Qwen3-Reranker's prompt, or the two formats of a `PairFormat`. The same template is what
sentence-transformers' losses, `CrossEncoder.predict` and the packaged folder read, so that all three see the same ids.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from orchestrator.workers.batches import count_tokens
from orchestrator.workers.eval_files import Pair
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.specs import ScoringSpec

SEPARATOR = "\n"
SENTINEL = "\ue0f1"  # private use: no text has a reason to hold it, and one that does only loses it
TEXT_SLOT = "\ue0f2"
SLOT = "{}"
# the two messages that CrossEncoder makes of a pair
QUERY, DOCUMENT = (
    f"(messages | selectattr('role', 'equalto', '{role}') | first).content" for role in ("query", "document")
)

# https://huggingface.co/Qwen/Qwen3-Reranker-0.6B#transformers-usage
NATIVE_PREFIX = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
NATIVE_SUFFIX = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


def encode_plain(tokenizer: Any, text: str, max_length: int | None = None) -> list[int]:
    """Return the ids of one text without special tokens, cut to `max_length` tokens on the right."""
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids if max_length is None else ids[:max_length]


def quote_jinja(text: str) -> str:
    """Return `text` as a Jinja string literal, in which no brace or quote of it means anything."""
    # not ensure_ascii: Jinja would decode JSON's surrogate pairs one by one; the sentinel is spelt out to be seen
    return json.dumps(text, ensure_ascii=False).replace(SENTINEL, f"\\u{ord(SENTINEL):04x}")


class Written(NamedTuple):
    """A pair as one text: what stands before the query, between the two texts, and behind the document."""

    before: str
    between: str
    after: str

    @property
    def template(self) -> str:
        """The Jinja output of a `query` and a `document` message."""
        before, between, after = map(quote_jinja, self)
        return f"{{{{ {before} ~ {QUERY} ~ {between} ~ {DOCUMENT} ~ {after} }}}}"

    def render(self, query: str, document: str) -> str:
        """Return the text that is tokenized; neither text is read as anything but itself."""
        return self.before + query + self.between + document + self.after

    def encode(self, tokenizer: Any, query: str, document: str) -> list[int]:
        """Return the ids of a pair, uncut."""
        return encode_plain(tokenizer, self.render(query, document))

    def encode_tail(self, tokenizer: Any) -> list[int]:
        """Return the ids of what follows the document: behind a text, where no tokenizer marks a beginning."""
        return encode_plain(tokenizer, "0" + self.after)[len(encode_plain(tokenizer, "0")) :]

    def cut(self, tokenizer: Any, query: str, document: str, max_length: int) -> list[int]:
        """Return the ids of a pair, of which a long one loses its end and never what follows the document."""
        ids, tail = self.encode(tokenizer, query, document), self.encode_tail(tokenizer)
        return ids if len(ids) <= max_length else ids[: max_length - len(tail)] + tail


# FlagEmbedding's decoders


def has_bos(tokenizer: Any) -> bool:
    """Tell whether FlagEmbedding puts a beginning-of-sequence token in front."""
    return tokenizer.bos_token_id is not None and tokenizer.bos_token_id != tokenizer.pad_token_id


def encode_prompt(tokenizer: Any, spec: ScoringSpec) -> list[int]:
    """Return the ids that follow the document: separator and prompt."""
    return encode_plain(tokenizer, SEPARATOR) + encode_plain(tokenizer, spec.effective_prompt)


def encode_pair(tokenizer: Any, spec: ScoringSpec, query: str, document: str) -> list[int]:
    """Return the ids of one pair, cut as FlagLLMReranker cuts: query, document, then the document once more."""
    head = encode_plain(tokenizer, spec.wrap_query(query), spec.effective_query_max_length)
    if has_bos(tokenizer):
        head = [tokenizer.bos_token_id, *head]
    body = encode_plain(tokenizer, SEPARATOR) + encode_plain(tokenizer, spec.wrap_document(document), spec.max_length)
    tail = encode_prompt(tokenizer, spec)
    excess = len(head) + len(body) - (spec.max_length + len(tail))
    if 0 < excess < len(body):
        body = body[:-excess]
    return head + body + tail


def measure_pairs(
    tokenizer: Any, spec: ScoringSpec, pairs: Sequence[Pair], prompt: str | None = None
) -> list[tuple[int, bool]]:
    """Return how many ids `encode_pair` gives for each pair, and whether the spec's lengths take tokens from it."""
    tail = len(encode_prompt(tokenizer, spec if prompt is None else replace(spec, prompt=prompt)))
    bos, separator = int(has_bos(tokenizer)), len(encode_plain(tokenizer, SEPARATOR))
    texts = [[spec.wrap_query(query) for query, _ in pairs], [spec.wrap_document(document) for _, document in pairs]]
    found = []
    for query, document in zip(*(count_tokens(tokenizer, side, special=False) for side in texts), strict=True):
        head = bos + min(query, spec.effective_query_max_length)
        body = separator + min(document, spec.max_length)
        excess = head + body - spec.max_length - tail
        body -= excess if 0 < excess < body else 0
        found.append((head + body + tail, head + body != bos + query + separator + document))
    return found


def is_cut(tokenizer: Any, spec: ScoringSpec, query: str, document: str) -> bool:
    """Tell whether the spec's lengths take tokens from this pair."""
    return measure_pairs(tokenizer, spec, [(query, document)])[0][1]


def sequence_length(tokenizer: Any, spec: ScoringSpec) -> int:
    """Return the most tokens that FlagLLMReranker feeds for one pair whose query is not longer than allowed."""
    return spec.max_length + 2 * len(encode_prompt(tokenizer, spec))


def true_token_id(tokenizer: Any, spec: ScoringSpec) -> int:
    """Return the id whose logit is the score: the first token of "Yes", as FlagLLMReranker takes it."""
    return encode_plain(tokenizer, spec.true_token)[0]


def build_chat_template(tokenizer: Any, spec: ScoringSpec, sentinel: str = SENTINEL) -> str:
    """Return the chat template over a `query` and a `document` message, the roles that CrossEncoder gives a pair.

    With `sentinel` empty the parts are not kept apart.
    """
    query = spec.wrap_query(TEXT_SLOT).split(TEXT_SLOT)
    document = spec.wrap_document(TEXT_SLOT).split(TEXT_SLOT)
    between = sentinel + SEPARATOR + sentinel
    if has_bos(tokenizer):
        query[0] = tokenizer.bos_token + sentinel + query[0]
    query[-1] += between
    document[-1] += between + spec.effective_prompt
    # an instruction's format may name the text any number of times
    return "".join(
        "{{ " + f" ~ {role} ~ ".join(map(quote_jinja, parts)) + " }}"
        for parts, role in ((query, QUERY), (document, DOCUMENT))
    )


# Qwen3-Reranker's prompt


def write_native(instruction: str) -> Written:
    """Return Qwen3-Reranker's official prompt."""
    return Written(f"{NATIVE_PREFIX}<Instruct>: {instruction}\n<Query>: ", "\n<Document>: ", NATIVE_SUFFIX)


def answer_ids(tokenizer: Any, model: object) -> dict[str, int]:
    """Return the ids of "yes" and "no". Raises WorkerError when one of them is not a single token."""
    ids = {word: tokenizer.convert_tokens_to_ids(word) for word in ("yes", "no")}
    if None in ids.values() or tokenizer.unk_token_id in ids.values():
        raise WorkerError(f"{model}: its tokenizer has no single token for yes or no, which qwen3-native reads")
    return ids


# a decoder with a head over two written formats


@dataclass(frozen=True)
class PairFormat:
    """How a pair is written: query_format(q) + seq + document_format(d) + special_token.

    `{}` in a format is where the text goes, and every other brace means itself. The score is the head's logit at the
    last token of `special_token`, which may be several tokens of the vocabulary.
    """

    query_format: str
    document_format: str
    seq: str
    special_token: str

    @property
    def written(self) -> Written:
        """The texts around a pair. Raises WorkerError for a format without exactly one `{}`."""
        (before, after), (opening, closing) = map(self._split, ("query_format", "document_format"))
        return Written(before, after + self.seq + opening, closing + self.special_token)

    @property
    def template(self) -> str:
        """The chat template over a `query` and a `document` message. Raises WorkerError as `written` does.

        A text alone is rendered as it is: sentence-transformers' trainer counts the tokens of single columns for its
        card.
        """
        alone = "{% if messages | length == 1 %}{{ messages[0].content }}"
        return f"{alone}{{% else %}}{self.written.template}{{% endif %}}"

    def _split(self, name: str) -> tuple[str, str]:
        before, slot, after = (said := str(getattr(self, name))).partition(SLOT)
        if not slot or SLOT in after:
            raise WorkerError(f"{name} is {said!r}: it needs {SLOT} exactly once, where the text goes")
        return before, after


def format_of(spec: ScoringSpec) -> PairFormat:
    """Return the format of a `formatted-head` scoring spec."""
    return PairFormat(spec.query_format, spec.document_format, spec.seq, spec.special_token)


def write_pair(spec: ScoringSpec) -> Written:
    """Return how a scorer that reads a pair as one text has it written."""
    return format_of(spec).written if spec.scorer == "formatted-head" else write_native(spec.effective_instruction)


def choose_padding(tokenizer: Any, pair_format: PairFormat) -> str:
    """Return the token to pad with: the tokenizer's own unless the input ends in it, else another of its special ones.

    transformers reads the logit at the last token that is not the padding token, which must be the last of the input.
    Raises WorkerError when nothing is left.
    """
    ending = pair_format.written.encode_tail(tokenizer)[-1:]
    for token in (tokenizer.pad_token, tokenizer.unk_token, tokenizer.eos_token, tokenizer.bos_token):
        if token is not None and [tokenizer.convert_tokens_to_ids(token)] != ending:
            return str(token)
    raise WorkerError(
        f"special_token {pair_format.special_token!r} is the only token that this tokenizer could pad with, so the end "
        "of an input could not be told from padding; choose another special_token"
    )


# encoders, which read two texts


def encode_for_flagembedding(tokenizer: Any, spec: ScoringSpec, query: str, document: str) -> Any:
    """Return a pair's tensors, cut as FlagReranker cuts: the query to its own length, then the document."""
    wrapped = spec.wrap_query(query)
    ids = encode_plain(tokenizer, wrapped)
    if len(ids) > spec.effective_query_max_length:
        wrapped = tokenizer.decode(ids[: spec.effective_query_max_length])
    texts = (wrapped, spec.wrap_document(document))
    return tokenizer(*texts, truncation="only_second", max_length=spec.max_length, return_tensors="pt")


def fits_flagembedding(tokenizer: Any, spec: ScoringSpec, query: str, document: str) -> bool:
    """Tell whether FlagReranker's lengths leave this pair of an encoder whole."""
    whole = tokenizer(spec.wrap_query(query), spec.wrap_document(document))["input_ids"]
    head = encode_plain(tokenizer, spec.wrap_query(query))
    return len(whole) <= spec.max_length and len(head) <= spec.effective_query_max_length


@dataclass(frozen=True)
class Reference:
    """The plain way of one scorer: what every other way of scoring is held against.

    `encode` gives the ids, or an encoder's tensors, of a pair as training cuts them; `fits` says that nothing is cut.
    `by_words` is a score from the language model's own words, and not from a head of one label.
    """

    encode: Callable[[Any, ScoringSpec, str, str], Any]
    fits: Callable[[Any, ScoringSpec, str, str], bool]
    by_words: bool = False

    def score(self, model: Any, tokenizer: Any, spec: ScoringSpec, pairs: Sequence[Pair]) -> list[float]:
        """Return one number a pair from a plain transformers model: one pair at a time, without padding."""
        import torch

        words: Sequence[int] = ()  # whose logits make the score: the true token, and the false one where there is one
        if self.by_words:
            flag = spec.scorer == "flag-llm-reranker"
            words = [true_token_id(tokenizer, spec)] if flag else [*answer_ids(tokenizer, "the trained model").values()]
        # of a vocabulary's logits at every position, the last are enough
        more = {"logits_to_keep": 1} if spec.scorer == "qwen3-native" else {}
        scores = []
        for query, document in pairs:
            found = self.encode(tokenizer, spec, query, document)
            if isinstance(found, list):
                inputs = {"input_ids": torch.tensor([found], device=model.device), "use_cache": False, **more}
            else:
                inputs = found.to(model.device)
            with torch.inference_mode():
                logits = model(**inputs).logits
            row = logits[0, -1][list(words)] if words else logits[0]
            scores.append(float(row[0] - row[1] if words[1:] else row[0]))
        return scores

    def find_uncut(self, tokenizer: Any, spec: ScoringSpec, pairs: Sequence[Pair]) -> list[int]:
        """Return the positions of the pairs that no length limit touches."""
        return [index for index, pair in enumerate(pairs) if self.fits(tokenizer, spec, *pair)]


# cut as sentence-transformers cuts: a token at a time from the longer text
_TWO_TEXTS = Reference(
    lambda tokenizer, spec, *pair: tokenizer(
        *pair, truncation="longest_first", max_length=spec.max_length, return_tensors="pt"
    ),
    lambda tokenizer, spec, *pair: len(tokenizer(*pair)["input_ids"]) <= spec.max_length,
)
_ONE_TEXT = Reference(
    lambda tokenizer, spec, query, text: write_pair(spec).cut(tokenizer, query, text, spec.max_length),
    lambda tokenizer, spec, query, text: len(write_pair(spec).encode(tokenizer, query, text)) <= spec.max_length,
)
# (scorer, tool that trained it) → the plain way
REFERENCES = {
    ("flag-llm-reranker", "flagembedding"): Reference(encode_pair, lambda *pair: not is_cut(*pair), by_words=True),
    ("cross-encoder", "flagembedding"): Reference(encode_for_flagembedding, fits_flagembedding),
    ("cross-encoder", "sentence-transformers"): _TWO_TEXTS,
    ("cross-encoder", "swift"): _TWO_TEXTS,
    ("formatted-head", "sentence-transformers"): _ONE_TEXT,
    ("qwen3-native", "swift"): replace(_ONE_TEXT, by_words=True),
    ("qwen3-score-head", "swift"): _ONE_TEXT,
}
