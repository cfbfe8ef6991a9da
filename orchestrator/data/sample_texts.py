"""The words of the sample rows: ten services of a hosting company that does not exist, in English and in Chinese."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Words:
    """One language: (code name, description) of each service, the plans, and each topic's questions and answer."""

    services: tuple[tuple[str, str], ...]
    plans: tuple[str, ...]
    questions: dict[str, tuple[str, ...]]
    answers: dict[str, str]


# topic: the range of its number
TOPICS = {
    "price": (3, 90),
    "allowance": (2, 60),
    "recovery": (2, 45),
    "retention": (30, 700),
    "size_limit": (4, 400),
    "rate_limit": (20, 900),
    "support": (5, 55),
    "credit": (5, 75),
}

_ENGLISH = Words(
    services=(
        ("Kestrel", "object storage"),
        ("Otter", "the managed database"),
        ("Lantern", "monitoring"),
        ("Juniper", "the payment service"),
        ("Quill", "log storage"),
        ("Harbor", "the container platform"),
        ("Sparrow", "the mailing service"),
        ("Basalt", "virtual machines"),
        ("Tundra", "the content network"),
        ("Mosaic", "the login service"),
    ),
    plans=("Seed", "Sapling", "Grove", "Forest", "Canopy"),
    questions={
        "price": (
            "What does {what} cost a month on the {plan} plan?",
            "how much would I pay for {what}, {plan} plan",
            "Monthly fee of {what} if our team is on {plan}?",
            "We are on {plan}: is there a bill for {what}, and how big is it?",
        ),
        "allowance": (
            "How much of {what} is free on the {plan} plan?",
            "free quota for {what} under {plan}",
            "What can I use of {what} without being charged on {plan}?",
            "Does the {plan} plan include anything of {what} at no cost?",
        ),
        "recovery": (
            "How long can I undo a deletion in {what} on the {plan} plan?",
            "deleted something in {what} by mistake, we have {plan}",
            "Until when can removed things be restored in {what} with {plan}?",
            "Is there a way back after deleting in {what} on {plan}?",
        ),
        "retention": (
            "How long does {what} keep our records on the {plan} plan?",
            "retention time of {what}, plan {plan}",
            "When are old records of {what} removed for a {plan} customer?",
            "For how many days is history kept in {what} on {plan}?",
        ),
        "size_limit": (
            "What is the largest upload that {what} accepts on the {plan} plan?",
            "size limit of one file in {what} for {plan}",
            "My upload to {what} is refused as too big, what is allowed on {plan}?",
            "How big may a single item in {what} be with the {plan} plan?",
        ),
        "rate_limit": (
            "How many requests a second may I send to {what} on the {plan} plan?",
            "{what} answers 'too many requests', limit on {plan}?",
            "Which request rate does {what} allow for {plan}?",
            "At what speed are calls to {what} throttled under {plan}?",
        ),
        "support": (
            "How soon does someone answer about {what} on the {plan} plan?",
            "response time of support for {what}, we pay for {plan}",
            "{what} is down: when will support react on {plan}?",
            "How long do {plan} customers wait for help with {what}?",
        ),
        "credit": (
            "What do we get back when {what} was unavailable on the {plan} plan?",
            "refund for an outage of {what}, {plan}",
            "Is there a credit if {what} fails and we are on {plan}?",
            "Which part of the fee is returned after {what} was down, plan {plan}?",
        ),
    },
    answers={
        "price": "{name} costs {number} euro a month on {plan}, billed on the first working day.",
        "allowance": "{plan} includes {number} units of {name} each month; unused ones end with the month.",
        "recovery": "On {plan}, {name} holds deleted items in the Loft for {number} days; owners lift them back.",
        "retention": "{name} keeps records for {number} days on {plan} and sweeps older ones at night.",
        "size_limit": "One item in {name} may have up to {number} GB on {plan}; larger ones must be cut beforehand.",
        "rate_limit": "{name} takes {number} calls a second on {plan} and answers more with code 429.",
        "support": "The {name} crew answers {plan} customers within {number} minutes, at night within twice that.",
        "credit": "If {name} fails for over an hour, {plan} customers get {number} percent of the month's fee back.",
    },
)

_CHINESE = Words(
    services=(
        ("红隼", "对象存储"),
        ("水獭", "托管数据库"),
        ("灯笼", "监控服务"),
        ("杜松", "支付服务"),
        ("羽笔", "日志存储"),
        ("港湾", "容器平台"),
        ("麻雀", "邮件服务"),
        ("玄武", "云主机"),
        ("冻原", "内容分发"),
        ("马赛克", "登录服务"),
    ),
    plans=("种子版", "树苗版", "小林版", "森林版", "树冠版"),
    questions={
        "price": (
            "{plan}用{what}一个月要多少钱？",
            "{what}怎么收费，我们是{plan}",
            "买了{plan}，{what}每月的费用是多少？",
            "{plan}客户开{what}要另外付钱吗，付多少？",
        ),
        "allowance": (
            "{plan}里{what}有多少免费额度？",
            "{what}的免费用量，{plan}",
            "用{plan}的话，{what}哪些部分不收钱？",
            "{plan}送不送{what}的额度？",
        ),
        "recovery": (
            "{plan}在{what}里误删的东西多久内能恢复？",
            "{what}删错了，我们是{plan}，怎么找回",
            "{plan}客户的{what}删除后还能后悔几天？",
            "在{what}里清掉的内容，{plan}能撤销吗？",
        ),
        "retention": (
            "{plan}的{what}记录保留多久？",
            "{what}数据保存期限，{plan}",
            "{plan}客户在{what}里的旧记录什么时候被清理？",
            "{what}的历史在{plan}下能查多少天？",
        ),
        "size_limit": (
            "{plan}往{what}里传一个文件最大多大？",
            "{what}单个文件上限，{plan}",
            "上传到{what}提示太大，{plan}允许多少？",
            "{plan}下{what}的单个对象能有多大？",
        ),
        "rate_limit": (
            "{plan}每秒能向{what}发多少请求？",
            "{what}报请求过多，{plan}的限制是多少",
            "{what}给{plan}的调用频率是多少？",
            "{plan}调用{what}到什么速度会被限流？",
        ),
        "support": (
            "{plan}咨询{what}多久有人回？",
            "{what}的客服响应时间，我们买的{plan}",
            "{what}坏了，{plan}多久能得到处理？",
            "{plan}客户等{what}的支持要等多长时间？",
        ),
        "credit": (
            "{what}不可用时，{plan}能赔多少？",
            "{what}故障退款，{plan}",
            "{plan}遇到{what}宕机有补偿吗？",
            "{what}停了以后，{plan}的费用退几成？",
        ),
    },
    answers={
        "price": "{name}在{plan}下每月 {number} 元，每月第一个工作日出账。",
        "allowance": "{plan}每月赠送 {number} 个{name}用量单位，用不完月底清零。",
        "recovery": "{plan}的{name}会把删除的内容放进阁楼 {number} 天，由主管账户取回。",
        "retention": "{name}为{plan}保留记录 {number} 天，更早的在夜间清理。",
        "size_limit": "{plan}往{name}存的单个对象不超过 {number} GB，更大的要先切开。",
        "rate_limit": "{name}对{plan}每秒接受 {number} 次调用，超出的返回 429。",
        "support": "{name}值班组在 {number} 分钟内答复{plan}客户，夜间时间加倍。",
        "credit": "{name}连续中断超过一小时，{plan}客户可退当月费用的 {number}%。",
    },
)

WORDS = {"en": _ENGLISH, "zh": _CHINESE}
