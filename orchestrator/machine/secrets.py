"""What is a secret, by one definition for all who refuse one or blot it out: names of variables, forms, URLs."""

from __future__ import annotations

import json
import os
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from urllib.parse import quote

STARS = "****"
# GENERATIVE_RERANKER_POSITIVE_TOKEN names a word of the vocabulary, MAX_NEW_TOKENS a number.
_WORD_TOKENS = (
    r"(?<!POSITIVE_)(?<!NEGATIVE_)(?<!MAX_)(?<!MIN_)(?<!NUM_)(?<!NEW_)(?<!BATCHED_)(?<!PAD_)(?<!EOS_)(?<!BOS_)"
)
_NAME = re.compile(
    rf"{_WORD_TOKENS}TOKENS?$|(^|_){_WORD_TOKENS}TOKENS?_(?!LIMIT|BUDGET|COUNT|LENGTH|IDS?$|SIZE|PARALLEL|TYPE|PER)"
    r"|SECRET|PASSW|PASSPHRASE|(^|_|SSH|DB|ROOT|USER|ADMIN)PASS$|[A-Z0-9]_?PWD$(?<!OLDPWD)|(_|ROOT|BIND|DB|ADMIN|USER)PW$|(^|_)PAT$|CREDENTIAL|(^|_)CREDS?$"
    r"|(^|_)KEY$|(API|ACCESS|PRIVATE|SECRET|SIGNING|ENCRYPTION)_?KEY|(?<=_)[AS]K$"
    r"|(^|_)(AUTHORIZATION|AUTH_HEADER|BASIC_AUTH|HTTP_AUTH|BEARER|COOKIES?|JWT|DSN|SAS)(_|$)"
    r"|CONN(ECTION)?_?STR(ING)?|WEBHOOK|[A-Z]_AUTH$"
)
# Such a variable says where a secret lies, which is none itself.
_PLACE = re.compile(r"_(FILE|PATH|DIR|ENDPOINT|TIMEOUT|NAME)$|(?<!WEBHOOK)_UR[IL]$")
_SHORTEST = 8  # characters: a shorter value would blank out words of every log
_SURE = 16  # characters: so long a value is looked for inside of words too, whatever letters it has
# Values that stand under such names as examples or switches, and in every recipe or log.
_COMMON = frozenset({
    "disabled", "required", "optional", "password", "changeme", "localhost", "anonymous", "undefined", "reranker",
    "embedding", "baseline", "flagembedding", "sentence-transformers", "transformers", "deepspeed", "positive",
    "negative", "documents",
})  # fmt: skip

# What may stand in front of the @ of a URL (RFC 3986, userinfo): a password behind a colon, or a token alone. Passwords
# that should have been escaped hold / ' and @ too; `host:5000/image@sha256` holds none. All lengths are bounded, so
# that no text takes longer than its length allows.
USER_INFO = re.compile(
    r"(?<=://)(?!\*+@)(?:"
    r"[^\s/@:\"'<>\[]{0,256}+:[^\s/\"<>]{0,512}(?=@)"
    r"|[^\s/\"'<>]{1,768}(?=@)"
    r"|[^\s/@:\"'<>\[]{0,256}+:(?![0-9]{1,5}(?:/|$))[^\s\"<>@]{1,512}+(?=@)"
    r")"
)
# Tokens that say themselves what they are: Hugging Face, GitHub, GitLab, OpenAI and its like, AWS, Aliyun, Google,
# Slack, ModelScope, Docker, npm, PyPI, Stripe, NVIDIA, Groq, Replicate, SendGrid; signed claims (JWT), what signs or
# opens a URL in its query, hooks that post to a chat, and private keys.
TOKENS = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{30,}|api_org_[A-Za-z0-9]{30,}|gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{40,}"
    r"|gl(?:pat|dt|rt|ptt|cbt|ft|soat|agent)-[A-Za-z0-9_.-]{20,}|sk-(?=[A-Za-z0-9_-]{0,64}[A-Za-z0-9]{16})[A-Za-z0-9_-]{32,}|[sr]k_(?:live|test)_[A-Za-z0-9]{16,}"
    r"|A(?:KIA|SIA)[A-Z0-9]{16}|LTAI[A-Za-z0-9]{12,30}|AIza[A-Za-z0-9_-]{35}|ya29\.[A-Za-z0-9_-]{20,}"
    r"|xox[abeprs]-[A-Za-z0-9-]{20,}|xapp-[A-Za-z0-9-]{20,}"
    r"|ms-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|dckr_(?:pat|oat)_[A-Za-z0-9_-]{20,}"
    r"|npm_[A-Za-z0-9]{36}|pypi-[A-Za-z0-9_-]{50,}|nvapi-[A-Za-z0-9_-]{40,}|gsk_[A-Za-z0-9]{40,}|r8_[A-Za-z0-9]{30,}"
    r"|eyJ[A-Za-z0-9_-]{10,1000}+\.eyJ[A-Za-z0-9_-]{10,4000}+\.[A-Za-z0-9_-]{10,2000})(?![A-Za-z0-9])"
    r"|(?<=[?&;])(?i:access_?token|api_?key|auth_?token|token|sig|signature|x-amz-signature|x-amz-security-token"
    r"|x-goog-signature|accountkey|sharedaccesskey|client_?secret|password)=[A-Za-z0-9%+/=_.~-]{12,4000}+"
    r"|(?<=hooks\.slack\.com/services/)[A-Za-z0-9/]{20,200}+|(?<=/open-apis/bot/v2/hook/)[A-Za-z0-9-]{20,200}+"
    r"|\bSG\.[A-Za-z0-9_-]{16,40}+\.[A-Za-z0-9_-]{30,60}+"
    r"|-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY[A-Z ]{0,10}-----"
    r"(?:[^-]{0,8000}+-----END [A-Z0-9 ]{0,40}PRIVATE KEY[A-Z ]{0,10}-----)?",
    re.ASCII,
)
# What a terminal does not show may stand in the middle of a secret: colours, titles, single controls.
_INVISIBLE = re.compile(
    r"\x1b\[[0-?]{0,64}[ -/]{0,8}[@-~]|\x1b\][^\x07\x1b\n]{0,512}(?:\x07|\x1b\\)|\x1b[@-Z\\^_]"
    "|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]"
)


@lru_cache(maxsize=1024)
def is_secret(name: str) -> bool:
    """Tell whether an environment variable of that name holds a secret, by the names that tools use."""
    name = name.casefold().upper()  # re.IGNORECASE takes twice as long to compile
    return bool(_NAME.search(name)) and not _PLACE.search(name)


def has_credentials(text: str) -> bool:
    """Tell whether a text holds a URL with a user's name or password, as in https://user:password@host."""
    return bool(USER_INFO.search(text))


def has_token(text: str) -> bool:
    """Tell whether a text holds what is a token by its form, whatever name it stands under."""
    return bool(TOKENS.search(text))


def find_secrets(env: Mapping[str, str]) -> dict[str, str]:
    """Return those variables of an environment that hold secrets: whoever looks at many texts looks for them once."""
    return {name: value for name, value in env.items() if is_secret(name)}


def find_secret_values(env: Mapping[str, str]) -> tuple[str, ...]:
    """Return the values of the secrets of an environment, as they are and as JSON, Python and URLs write them.

    The longest first. What is very short, a common word, or the path of a file is no secret.
    """
    forms = {form for value in _name_values(env) for form in _iter_forms(value)}
    return tuple(sorted(forms, key=lambda value: (-len(value), value)))


def describe_secret(text: str, env: Mapping[str, str]) -> str | None:
    """Return which secret a text of a recipe holds, in words that do not say it; None when it holds none."""
    for value, name in _name_values(env).items():
        if any(_stands_in(form, text) for form in _iter_forms(value)):
            return f"the value of {name}, a secret of your environment"
    if has_token(text):
        return "what looks like a token"
    return "a URL that holds a password" if has_credentials(text) else None


def find_spans(text: str, values: Iterable[str]) -> list[tuple[int, int]]:
    """Return where secrets stand in a text, (begin, end), in order and apart from each other.

    Secrets are the given `values`, tokens that can be told by their form, and what stands before the @ of a URL, also
    where sequences that a terminal does not show split them. The time grows with the length of the text alone.
    """
    if _INVISIBLE.search(text):
        return _find_split(text, tuple(values))
    patterns = [TOKENS, *([USER_INFO] if "://" in text else []), *_compile(tuple(values))]
    merged: list[tuple[int, int]] = []
    for begin, end in sorted(match.span() for pattern in patterns for match in pattern.finditer(text)):
        if merged and begin < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        elif begin < end:
            merged.append((begin, end))
    return merged


def redact_text(text: str, values: Iterable[str]) -> str:
    """Return `text` with stars in place of each secret that `find_spans` finds."""
    kept, at = [], 0
    for begin, end in find_spans(text, values):
        kept += [text[at:begin], STARS]
        at = end
    return "".join([*kept, text[at:]]) if kept else text


def rename_hub_token(env: Mapping[str, str]) -> dict[str, str]:
    """Return `env` with the hub's token under its older name.

    FlagEmbedding logs its arguments, and the default of `token` is HF_TOKEN (finetune/reranker AbsArguments.py).
    huggingface_hub reads both names (utils/_auth.py), and nobody logs the older one. templates/run/ does the same.
    """
    renamed = dict(env)
    if token := renamed.pop("HF_TOKEN", None):
        renamed.setdefault("HUGGING_FACE_HUB_TOKEN", token)
    return renamed


def _name_values(env: Mapping[str, str]) -> dict[str, str]:
    """Return each secret value of an environment and the variable that holds it."""
    found = {value.strip(): name for name, value in find_secrets(env).items()}
    long = {value: name for value, name in found.items() if len(value) >= _SHORTEST and len(set(value)) > 1}
    paths = {value for value in long if value.startswith(("/", "~/", "./", "../"))}
    there = {path for path in paths if os.path.exists(os.path.expanduser(path))}  # noqa: PTH110, PTH111
    return {value: name for value, name in long.items() if value.lower() not in _COMMON and value not in there}


def _iter_forms(value: str) -> Iterator[str]:
    """Yield a value as it is and as others write it; of several lines each, for logs are read line by line."""
    yield from {value, json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1], repr(value)[1:-1]}
    yield quote(value, safe="", errors="replace")
    if "\n" in value:
        lines = (line.strip() for line in value.splitlines())
        yield from (line for line in lines if len(line) >= _SURE and not line.startswith("-----"))


def _stands_in(value: str, text: str) -> bool:
    """Tell whether a recipe's text holds a value; one that may be an ordinary word must be a word of its own."""
    if len(value) >= _SURE or not value.isalpha():
        return value in text
    return bool(re.search(rf"(?<![A-Za-z0-9_-]){re.escape(value)}(?![A-Za-z0-9_-])", text))


@lru_cache(maxsize=64)
def _compile(values: tuple[str, ...]) -> tuple[re.Pattern[str], ...]:
    """Return one expression for all values: what begins with another one is the longer of them."""
    ordered = sorted(filter(None, values), key=len, reverse=True)
    return (re.compile("|".join(map(re.escape, ordered))),) if ordered else ()


def _find_split(text: str, values: tuple[str, ...]) -> list[tuple[int, int]]:
    """Return the secrets of a text as a terminal shows it, with what it does not show inside of them."""
    shown, starts, origins, at, length = [], [], [], 0, 0
    for match in [*_INVISIBLE.finditer(text), None]:
        if part := text[at : match.start() if match else len(text)]:
            shown.append(part)
            starts.append(length)
            origins.append(at)
            length += len(part)
        at = match.end() if match else at

    def place(index: int) -> int:
        piece = bisect_right(starts, index) - 1
        return origins[piece] + index - starts[piece]

    return [(place(begin), place(end - 1) + 1) for begin, end in find_spans("".join(shown), values)]
