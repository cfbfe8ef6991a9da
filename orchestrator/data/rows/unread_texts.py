"""Texts in keys that no reader takes: they are refused until somebody says that they are not needed.

A key holds a text when its name is close to one that is read, or when a string in it has some length. Numbers, and what
is known to describe a row (ids, sources, links, scores, dates), are no texts; neither is what only repeats texts that
are read, such as the whole prompt beside its parts.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from orchestrator.data.reasons import problem_of
from orchestrator.data.rows.near_names import find_optional, names_negatives, plain_name
from orchestrator.data.rows.texts import is_blank, quote, write_word
from orchestrator.errors import Problem, Where

# Names of what describes a row or a document, alone or at the end of a longer name: query_id, doc_url, created_at.
METADATA = frozenset({
    *("id", "ids", "uuid", "guid", "uid", "idx", "index", "no", "number", "rank", "position", "hash", "md5", "sha"),
    *("sha256", "qid", "pid", "did", "cid", "sid", "tid", "docid", "docno", "source", "src", "sources", "origin"),
    *("url", "urls", "uri", "link", "links", "href", "path", "file", "filename", "dataset", "subset", "split"),
    *("domain", "category", "categories", "tag", "tags", "type", "kind", "genre", "lang", "language", "locale"),
    *("date", "time", "timestamp", "at", "year", "created", "updated", "version", "license", "author", "user"),
    *("name", "username", "model", "generator", "annotator", "score", "scores", "label", "labels", "weight"),
    *("weights", "confidence", "quality", "difficulty", "level", "count", "length", "len", "size", "meta"),
    *("metadata", "info", "channel", "copyright", "licence", "website", "publisher", "provider"),
    *("from", "by", "method", "status"),
})  # fmt: skip
# The same at the end of a Chinese name: 数据来源, 文章链接.
_METADATA_ZH = (
    *("来源", "出处", "链接", "网址", "编号", "序号", "类别", "分类", "类型", "领域", "语言", "日期", "时间", "版本"),
    *(
        "作者",
        "标签",
        "分数",
        "得分",
        "评分",
        "难度",
        "数据集",
        "文件名",
        "路径",
        "版权",
        "许可",
        "许可证",
        "元数据",
        "备注",
    ),
)
REASONING = frozenset({
    *("reasoning_content", "reasoning", "thinking", "thought", "thoughts", "think", "cot", "complex_cot"),
    *("chain_of_thought", "reasoning_trace", "思考", "思考过程", "推理", "推理过程", "思维链"),
})  # fmt: skip
ANSWERS = ("output", "response")  # of rows without messages
_WORDS, _LETTERS = 4, 8  # a string with so many words, or so many letters beyond ASCII, is a text
_NESTED = re.compile(r"(?P<list>\w+)\[\]\.(?P<key>.+)", re.DOTALL)
_LISTS = {"hits": ("hits",), "messages": ("messages", "conversations", "positive_messages", "negative_messages")}
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


@dataclass(frozen=True)
class UnreadText:
    """A key that holds a text and is read by nobody, and what to do about it; `what` else it holds."""

    name: str
    hint: str
    what: str = "holds text"


def find_unread(
    row: Mapping[str, Any],
    unknown: Iterable[str],
    texts: Collection[str],
    *,
    optional: Collection[str] = (),
    ignore: Collection[str] = (),
) -> tuple[UnreadText, ...]:
    """Return those of a row's unknown keys (`context`, `hits[].title`) that hold a text which is not among `texts`.

    `optional` are the keys that its form also reads; of `ignore` none is returned, by whole name or by what follows
    the dot.
    """
    found = []
    for name in unknown:
        key = name.rpartition(".")[2]
        if name in ignore or key in ignore:
            continue
        near = find_optional(key, optional) if key == name else None
        is_reasoning = plain_name(key) in REASONING and (key != name or any(answer in row for answer in ANSWERS))
        strings = [text for text in find_strings(list(_values(row, name))) if not is_blank(text)]
        if not (near or is_reasoning or names_negatives(key)):
            strings = [text for text in strings if _is_long(text)] if not is_metadata(key) else []
        if strings and not all(_is_repeat(text, texts) for text in strings):
            found.append(UnreadText(name, _advise(row, key, near, is_reasoning=is_reasoning)))
    return tuple(found)


def is_metadata(key: str) -> bool:
    """Whether a key's name, or the last word of it, says that it describes the row."""
    plain = plain_name(_CAMEL.sub("_", key))
    return plain in METADATA or plain.rpartition("_")[2] in METADATA or plain.endswith(_METADATA_ZH)


def _values(row: Mapping[str, Any], name: str) -> Iterator[Any]:
    """Yield what stands under a key, of one such as `messages[].name` in every message."""
    nested = None if name in row else _NESTED.fullmatch(name)
    if nested is None:
        yield row.get(name)
        return
    for outer in _LISTS.get(nested["list"], (nested["list"],)):
        entries = row.get(outer)
        for entry in entries if isinstance(entries, list) else ():
            if isinstance(entry, dict):
                yield entry.get(nested["key"])


def find_strings(value: Any) -> Iterator[str]:
    """Yield every string inside a value, but for those that a metadata key names."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            waiting.extend(value)
        elif isinstance(value, dict):
            waiting.extend(part for key, part in value.items() if not is_metadata(key))


def _is_long(text: str) -> bool:
    words = sum(any(letter.isalpha() for letter in word) for word in text.split(maxsplit=4 * _WORDS))
    if words >= _WORDS:
        return True
    return not text.isascii() and sum(letter > "\x7f" and letter.isalpha() for letter in text[:200]) >= _LETTERS


def _is_repeat(text: str, texts: Collection[str]) -> bool:
    """Whether a text is one of those that are read, or holds all of them."""
    if any(text.strip() == one.strip() for one in texts):
        return True
    return all(line.strip() in text for one in texts for line in one.splitlines())


def advise_ignoring(key: str) -> str:
    """Return how it is said that a key is not needed."""
    return f"data.ignore: [{key}] (--ignore {write_word(key)}) says that it is not needed"


def _advise(row: Mapping[str, Any], key: str, near: str | None, *, is_reasoning: bool) -> str:
    ignored = advise_ignoring(key)
    if is_reasoning:
        return f"orch data convert FILE --keep-reasoning -o NEW.jsonl writes it in front of its answer; {ignored}"
    if near is None and names_negatives(key):
        return f"{_advise_negatives(row, key)}; {ignored}"
    if near is None:
        named = f"--map NEW={write_word(key)} (data.columns: {{NEW: {key}}})"
        return f"read it under a key that has a meaning: {named}; {ignored}"
    if fits(near, row.get(key)):
        return f"read it as {quote(near)}: --map {near}={write_word(key)} (data.columns: {{{near}: {key}}}); {ignored}"
    return f"write it as {quote(near)}: {_FORMS[near]}; {ignored}"


def _advise_negatives(row: Mapping[str, Any], name: str) -> str:
    """Return what becomes of texts that are not wanted, where their row has no place for them, or none that is free."""
    for key in ("neg", "rejected_response", "negative_messages"):
        if row.get(key):
            return f"put its texts into {quote(key)}, with those that are there"
    learnt = "a conversation learns its own answers, and nothing from what is rejected"
    if "messages" not in row or name not in {"rejected_response", "rejected_messages"}:
        return learnt
    return f"{learnt}; as a row of rerankers and embeddings: orch data convert FILE --from swift3 -o NEW.jsonl"


_TEXTS = '["…", "…"]'
_FORMS = {
    **dict.fromkeys(("neg", "rejected_response"), _TEXTS),
    **dict.fromkeys(("input", "system", "prompt"), '"…"'),
    "negative_messages": '[[{"role": "user", "content": "…"}], …]',
    "history": '[["a question", "its answer"], …]',
}


def fits(key: str, value: Any) -> bool:
    """Whether a value may stand under an optional key as it is."""
    if key in {"input", "system", "prompt"}:
        return isinstance(value, str)
    if key == "history":
        return isinstance(value, list) and all(isinstance(turn, list) and len(turn) == 2 for turn in value)  # noqa: PLR2004
    if key == "rejected_response" and isinstance(value, str):
        return True
    if key in {"neg", "rejected_response"}:
        return isinstance(value, list) and all(isinstance(text, str) for text in value)
    return isinstance(value, list)


class UnreadTexts:
    """Collects the unread texts of all rows: one problem a key, at the first row that has it."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[Problem, int]] = {}

    def note(self, unread: Sequence[UnreadText], path: str, line: int) -> None:
        """Look at what one row has."""
        for one in unread:
            problem, count = self._found.get(one.name, (None, 0))
            if problem is None:
                message = f"the row has {quote(one.name)}, which {one.what} and which nothing reads"
                problem = problem_of("text-not-read", message, hint=one.hint, where=Where(path, line))
            self._found[one.name] = (problem, count + 1)

    def problems(self) -> list[Problem]:
        """Return one problem a key, with the number of its rows."""
        return [
            replace(problem, message=f"{problem.message} ({count} such rows)") if count > 1 else problem
            for problem, count in self._found.values()
        ]
