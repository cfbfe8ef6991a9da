"""Keys that look like the one that a row lacks: what to rename."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from orchestrator.data.reasons import Fault
from orchestrator.data.rows.texts import LONGEST_QUOTE, build_fault, is_finite_number, quote, read_number

_NEGATIVES = (  # names of negatives
    *("negative", "negatives", "negs", "neg_doc", "neg_docs", "neg_passage", "neg_passages", "negative_doc"),
    *("negative_docs", "negative_documents", "negative_passages", "negative_messages", "hard_negative"),
    *("hard_negatives", "hard_neg", "hard_negs", "rejected", "rejected_response", "rejected_responses"),
    *("negative_ctxs", "hard_negative_ctxs"),
    *("rejected_answer", "rejected_answers", "rejected_messages", "distractor", "distractors", "neg"),
    *("dispreferred", "non_preferred_output", "dispreferred_output"),
    *(
        "负例",
        "负样本",
        "负向样本",
        "难负例",
        "难负样本",
        "困难负例",
        "反例",
        "负面样本",
        "不相关文档",
        "拒绝",
        "错误答案",
        "错误回答",
    ),
)
_NEAR_NAMES = {
    "query": (
        *("question", "queries", "q", "anchor", "query_text", "search_query", "sentence1", "input", "问题"),
        *("查询", "提问", "问", "问句", "用户问题", "搜索词", "prompt"),
    ),
    "pos": (
        *(
            "positive",
            "positives",
            "pos_doc",
            "pos_docs",
            "positive_docs",
            "positive_documents",
            "positive_passages",
            "positive_ctxs",
        ),
        *("positive_messages", "answer", "answers", "chosen", "docs", "documents", "passages", "relevant"),
        *(
            "relevant_passages",
            "relevant_docs",
            "relevant_documents",
            "正例",
            "正样本",
            "正向样本",
            "正面样本",
            "相关文档",
        ),
        "答案",
    ),
    "neg": _NEGATIVES,
    "response": (
        *("answer", "output", "completion", "reply", "positive", "pos", "pos_doc", "chosen", "document", "passage"),
        *("target", "答案", "回答", "回复", "答复", "答", "正例", "正样本", "相关文档", "文档", "段落"),
    ),
    "label": (
        *("score", "similarity", "similarity_score", "labels", "relevance", "target", "grade", "rating", "is_relevant"),
        *("is_duplicate", "标签", "标注", "相关性", "相似度", "分数", "得分"),
    ),
    "sentence1": (
        *("text1", "text_a", "sentence_a", "sentence_1", "text_1", "premise", "anchor", "s1", "question1"),
        *("句子1", "句子一", "文本1", "文本一", "text"),
    ),
    "sentence2": (
        *("text2", "text_b", "sentence_b", "sentence_2", "text_2", "hypothesis", "positive", "s2", "question2"),
        *("句子2", "句子二", "文本2", "文本二", "text_pair"),
    ),
    "score": (
        *("label", "similarity_score", "similarity", "scores", "labels", "gold_score", "relatedness_score"),
        *("is_duplicate", "标签", "标注", "相似度", "相关性", "分数", "得分"),
    ),
    "content": (
        *("document", "documents", "text", "passage", "doc", "contents", "body", "paragraph", "response", "answer"),
        *("sentence2", "文档", "段落", "文本", "内容", "正文", "答案", "回答"),
    ),
    "messages": ("conversation", "dialog", "dialogue", "chat", "turns", "message", "chosen", "对话", "消息", "会话"),
    "conversations": ("conversation", "dialog", "dialogue", "turns"),
    "instruction": ("prompt", "question", "inputs", "task", "input", "指令", "提示", "问题", "提问", "输入"),
    "output": (
        *("response", "answer", "completion", "target", "targets", "chosen", "输出", "回答", "答案", "回复", "答复"),
        "content",
    ),
    "positive_messages": ("positive", "positives", "pos", "positive_message"),
}


# What may have been meant by a key that a row need not have.
_OPTIONAL_NAMES = {
    "neg": _NEGATIVES,
    "rejected_response": _NEGATIVES,
    "negative_messages": _NEGATIVES,
    "input": (
        *("inputs", "context", "contexts", "background", "passage", "document", "knowledge", "evidence", "article"),
        *("输入", "上下文", "背景", "背景知识", "材料", "参考资料", "参考文本", "文章"),
    ),
    "system": (
        *("system_prompt", "system_message", "system_msg", "sys_prompt", "sysprompt", "sys", "systems", "persona"),
        *("系统", "系统提示", "系统提示词", "系统消息", "系统指令", "人设", "角色设定"),
    ),
    "history": (
        *("histories", "chat_history", "conversation_history", "dialog_history", "dialogue_history"),
        *("历史", "历史对话", "对话历史", "历史记录"),
    ),
    "prompt": (
        *(
            "system",
            "system_prompt",
            "system_message",
            "query_instruction",
            "query_prompt",
            "prompts",
            "instruction",
        ),
        *("提示", "提示词", "指令", "系统提示"),
    ),
}
_CLOSE = 0.85
_LIKE = 0.7  # of a key that must be there: one that may be meant is worth more


def plain_name(name: str) -> str:
    """Return a key's name without what makes no difference to people: case, hyphens, blanks."""
    return name.lower().strip().replace("-", "_").replace(" ", "_")


def find_optional(name: str, optional: Iterable[str]) -> str | None:
    """Return the one of `optional` that may have been meant by the key `name`, or None."""
    plain = plain_name(name)
    known = [key for key in optional if key in _OPTIONAL_NAMES]
    for key in known:
        if plain in _OPTIONAL_NAMES[key] or plain == key:
            return key
    close = difflib.get_close_matches(plain, known, n=1, cutoff=_CLOSE) if len(plain) < LONGEST_QUOTE else []
    return close[0] if close else None


def find_near_name(key: str, row: Iterable[str], known: Iterable[str] = ()) -> str | None:
    """Return the key of a row that may have been meant by `key`, none of `known`, or None."""
    taken = set(known)
    candidates = [name for name in row if name not in taken]
    plain = {plain_name(name): name for name in reversed(candidates)}
    for wanted in (key, *_NEAR_NAMES.get(key, ())):
        if wanted in plain:
            return plain[wanted]
    names = [name for name in list(plain)[:50] if len(name) < LONGEST_QUOTE and name not in _NEAR_NAMES]
    close = difflib.get_close_matches(key, names, n=1, cutoff=_LIKE)  # a key of some form is nobody's misspelling
    return plain[close[0]] if close else None


def names_negatives(name: str) -> bool:
    """Whether a key's name says that it holds texts which are wrong or not wanted."""
    return plain_name(name) in _NEGATIVES


_TEXTS = frozenset({"query", "response", "instruction", "output", "content", "sentence1", "sentence2"})
_NUMBERS = frozenset({"label", "score"})


def suits(key: str, value: Any) -> bool:
    """Whether a value may stand under a key that a form needs."""
    if key in _TEXTS:
        return isinstance(value, str)
    if key in _NUMBERS:
        return is_number_like(value)
    if key == "pos":
        return isinstance(value, list) and all(isinstance(text, str) for text in value)
    return isinstance(value, list)


def is_number_like(value: Any) -> bool:
    """Whether a value is a number, or what `read_number` takes for one."""
    return is_finite_number(read_number(value))


def explain_missing_in(name: str, key: str, value: Mapping[str, Any], hint: str) -> Fault:
    """Return the fault of an object `name` inside a row that lacks `key`; `hint` where no near name is there."""
    near = find_near_name(key, value)
    if near is None:
        return build_fault("missing-key", f'{name} has no "{key}"', hint)
    message = f'{name} has no "{key}", and it has {quote(near)}'
    return build_fault("missing-key", message, f'rename {quote(near)} to "{key}"')
