"""Rows for chat models, from the handbook: instructions, chats of several turns, and ShareGPT conversations.

Training asks a passage's first question and evaluation its second one: what is learnt is the rule, not the wording.
"""

import random

from handbook import Passage

SERVICES = ("kestrel", "otter", "lantern", "juniper", "quill", "harbor", "sparrow", "basalt", "tundra", "mosaic")
CHINESE_NAMES = dict(
    zip(SERVICES, ("红隼", "水獭", "提灯", "杜松", "羽笔", "港湾", "麻雀", "玄武", "冻原", "拼图"), strict=True)
)
WHICH = {
    "en": "Which service does this entry of the handbook describe? Answer with its name only.",
    "zh": "下面这条手册内容说的是哪个服务？只回答名称。",
}
SYSTEM = {
    "en": "You answer customers of a hosting company from its handbook.",
    "zh": "你是一家云服务公司的客服，按手册回答客户。",
}
FIRST, SECOND = 0, 1


def name_of(passage: Passage, language: str) -> str:
    service = passage["service"]
    return CHINESE_NAMES[service] if language == "zh" else service.capitalize()


def ask(passage: Passage, question: int) -> dict:
    return {"instruction": passage["queries"][question], "input": "", "output": passage["passage"]}


def build_instructions(
    asked: list[Passage], question: int, named: list[Passage], language: str, rng: random.Random
) -> list[dict]:
    """Return {instruction, input, output}: a question on each passage of `asked`, and the service's name of `named`."""
    rows = [ask(passage, question) for passage in asked]
    rows += [
        {"instruction": WHICH[language], "input": passage["passage"], "output": name_of(passage, language)}
        for passage in named
    ]
    rng.shuffle(rows)
    return rows


def build_turns(passages: list[Passage], count: int, rng: random.Random) -> list[list[tuple[str, str]]]:
    """Return conversations of (question, answer), about one service each: one, two or three turns."""
    conversations = []
    for passage in rng.sample(passages, count):
        others = [one for one in passages if one["service"] == passage["service"] and one is not passage]
        turns = [passage, *rng.sample(others, len(conversations) % 3)]
        conversations.append([(turn["queries"][FIRST], turn["passage"]) for turn in turns])
    return conversations


def build_chats(passages: list[Passage], count: int, language: str, rng: random.Random) -> list[dict]:
    """Return {messages}; every other chat has a system message."""
    rows = []
    for number, turns in enumerate(build_turns(passages, count, rng)):
        messages = [{"role": "system", "content": SYSTEM[language]}] if number % 2 else []
        for question, answer in turns:
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        rows.append({"messages": messages})
    return rows


def build_sharegpt(passages: list[Passage], count: int, language: str, rng: random.Random) -> list[dict]:
    """Return {id, conversations}, as ShareGPT files have them."""
    rows = []
    for number, turns in enumerate(build_turns(passages, count, rng)):
        said = [
            {"from": who, "value": text} for turn in turns for who, text in zip(("human", "gpt"), turn, strict=True)
        ]
        rows.append({"id": f"{language}-{number:03d}", "conversations": said})
    return rows
