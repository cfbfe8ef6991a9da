"""A decoder with a head of one label over two written formats: query_format(q) + seq + document_format(d) + special.

The pair is one string, rendered by a chat template and tokenized without special tokens of the tokenizer's own. The
same template is what sentence-transformers' losses, `CrossEncoder.predict` and the packaged folder read, so that all
three see the same ids; where byte-level BPE joins a text's last mark with the next part, it does so in each of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.workers.failure import WorkerError
from orchestrator.workers.pickles import weight_options
from orchestrator.workers.reranker.heads import CHAT, HEAD_SEED, name_head
from orchestrator.workers.reranker.training_format import encode_plain, quote_jinja
from orchestrator.workers.whole_weights import NEW_HEAD, require_whole

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

    from orchestrator.workers.reranker.scoring_spec import ScoringSpec

SLOT = "{}"


@dataclass(frozen=True)
class PairFormat:
    """How a pair is written; `{}` in a format is where the text goes, and every other brace means itself.

    The score is the head's logit at the last token of `special_token`, which may be several tokens of the vocabulary.
    """

    query_format: str
    document_format: str
    seq: str
    special_token: str

    @property
    def tail(self) -> str:
        """What follows the document's text; truncation keeps it."""
        return split_format("document_format", self.document_format)[1] + self.special_token

    def render(self, query: str, document: str) -> str:
        """Return the text that is tokenized; neither text is read as anything but itself."""
        before, after = split_format("query_format", self.query_format)
        opening, closing = split_format("document_format", self.document_format)
        return before + query + after + self.seq + opening + document + closing + self.special_token


def format_of(spec: ScoringSpec) -> PairFormat:
    """Return the format of a `formatted-head` scoring spec."""
    return PairFormat(spec.query_format, spec.document_format, spec.seq, spec.special_token)


def split_format(name: str, written: str) -> tuple[str, str]:
    """Return what stands before and after the text. Raises WorkerError unless `{}` is there exactly once."""
    before, slot, after = written.partition(SLOT)
    if not slot or SLOT in after:
        raise WorkerError(f"{name} is {written!r}: it needs {SLOT} exactly once, where the text goes")
    return before, after


def build_format_template(pair_format: PairFormat) -> str:
    """Return the chat template over a `query` and a `document` message that renders `pair_format`.

    A text alone is rendered as it is: sentence-transformers' trainer counts the tokens of single columns for its card.
    Raises WorkerError for a format without exactly one `{}`.
    """
    before, after = split_format("query_format", pair_format.query_format)
    opening, closing = split_format("document_format", pair_format.document_format)
    role = "(messages | selectattr('role', 'equalto', '{}') | first).content"
    parts = [
        quote_jinja(before),
        role.format("query"),
        quote_jinja(after + pair_format.seq + opening),
        role.format("document"),
        quote_jinja(closing + pair_format.special_token),
    ]
    pair = "{{ " + " ~ ".join(parts) + " }}"
    alone = "{% if messages | length == 1 %}{{ messages[0].content }}"
    return f"{alone}{{% else %}}{pair}{{% endif %}}"


def encode_tail(tokenizer: Any, pair_format: PairFormat) -> list[int]:
    """Return the ids of what follows the document's text: behind a text, where no tokenizer marks a beginning."""
    ids = encode_plain(tokenizer, "0" + pair_format.tail)
    return ids[len(encode_plain(tokenizer, "0")) :]


def choose_padding(tokenizer: Any, pair_format: PairFormat) -> str:
    """Return the token to pad with: the tokenizer's own unless the input ends in it, else another of its special ones.

    transformers reads the logit at the last token that is not the padding token, which must be the last of the input.
    Raises WorkerError when nothing is left.
    """
    ending = encode_tail(tokenizer, pair_format)[-1:]
    for token in (tokenizer.pad_token, tokenizer.unk_token, tokenizer.eos_token, tokenizer.bos_token):
        if token is not None and [tokenizer.convert_tokens_to_ids(token)] != ending:
            return str(token)
    raise WorkerError(
        f"special_token {pair_format.special_token!r} is the only token that this tokenizer could pad with, so the end "
        "of an input could not be told from padding; choose another special_token"
    )


def require_room(tokenizer: Any, pair_format: PairFormat, max_length: int) -> None:
    """Raise WorkerError when `max_length` tokens cannot hold the format's own words and one token of each text."""
    needed = len(encode_plain(tokenizer, pair_format.render("0", "0")))
    if max_length < needed:
        raise WorkerError(
            f"max_length {max_length} is less than the {needed} tokens that the format takes with texts of one letter; "
            "raise max_length or shorten query_format and document_format"
        )


def load_formatted_head(
    model: str,
    pair_format: PairFormat,
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
    import torch
    from sentence_transformers import CrossEncoder
    from sentence_transformers.base.modules import Transformer
    from torch import nn

    template = build_format_template(pair_format)
    name_head(model, trust_remote_code=trust_remote_code)
    require_whole(model, NEW_HEAD, trust_remote_code=trust_remote_code)
    torch.manual_seed(HEAD_SEED)
    transformer = Transformer(
        model,
        transformer_task="sequence-classification",
        model_kwargs={"torch_dtype": dtype, "trust_remote_code": trust_remote_code, **weight_options()},
        processor_kwargs={
            "model_max_length": max_length,
            "chat_template": template,
            "padding_side": "right",
            "truncation_side": "right",
            "trust_remote_code": trust_remote_code,
        },
        config_kwargs={"num_labels": 1, "trust_remote_code": trust_remote_code},
        modality_config=CHAT,
        module_output_name="scores",
    )
    tokenizer = transformer.tokenizer
    require_room(tokenizer, pair_format, max_length)
    tokenizer.pad_token = choose_padding(tokenizer, pair_format)
    transformer.model.config.pad_token_id = tokenizer.pad_token_id
    return CrossEncoder(modules=[transformer], activation_fn=nn.Identity(), device=device)
