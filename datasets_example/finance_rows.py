"""Rows on the products of a bank that does not exist, made from templates in English and in Chinese.

Every product has five rules with a number. Training asks for each rule in one wording, evaluation in another.
"""

import random

# kind: (English name, Chinese name) of its products
PRODUCTS = {
    "fund": (
        ("Alder Growth Fund", "桤木成长基金"),
        ("Quartz Bond Fund", "石英债券基金"),
        ("Heron Income Fund", "苍鹭收益基金"),
        ("Cobalt Index Fund", "钴蓝指数基金"),
    ),
    "loan": (
        ("Willow Study Loan", "柳枝助学贷"),
        ("Anvil Business Loan", "铁砧经营贷"),
        ("Lintel Home Loan", "门楣住房贷"),
        ("Paddle Car Loan", "短桨购车贷"),
    ),
    "cover": (
        ("Thatch Home Cover", "茅檐家财险"),
        ("Sextant Travel Cover", "六分仪旅行险"),
        ("Furrow Farm Cover", "犁沟农作险"),
        ("Ember Life Cover", "余烬寿险"),
    ),
}
# kind: rule: (smallest, largest, divisor) of its number
RULES = {
    "fund": {
        "yearly_fee": (20, 180, 100),
        "minimum": (5, 90, 0.1),
        "redemption": (2, 9, 1),
        "risk": (1, 5, 1),
        "entry_fee": (10, 200, 100),
    },
    "loan": {
        "rate": (260, 890, 100),
        "longest": (2, 30, 1),
        "early": (20, 190, 100),
        "grace": (1, 9, 1),
        "decision": (2, 20, 1),
    },
    "cover": {
        "deductible": (10, 95, 0.1),
        "waiting": (10, 90, 1),
        "deadline": (5, 60, 1),
        "payout": (6, 45, 1),
        "cancel": (14, 75, 1),
    },
}
# rule: (question of training, question of evaluation, answer)
ENGLISH = {
    "yearly_fee": (
        "How high is the yearly fee of {p}?",
        "What does holding {p} cost a year?",
        "{p} charges {n} percent of the assets a year, taken daily from the price.",
    ),
    "minimum": (
        "What is the smallest amount I can put into {p}?",
        "From how much money on can one buy {p}?",
        "A first purchase of {p} must be at least {n} euro; later ones may be of any size.",
    ),
    "redemption": (
        "How long does it take to get money out of {p}?",
        "When is the cash there after selling {p}?",
        "Money from {p} arrives {n} working days after the order, if it is given before 11:00.",
    ),
    "risk": (
        "Which risk class does {p} have?",
        "How risky is {p} rated?",
        "{p} is in risk class {n} of 7; the class is reviewed every March.",
    ),
    "entry_fee": (
        "Is there a charge for buying {p}?",
        "What is deducted when I enter {p}?",
        "Buying {p} costs {n} percent once; a savings plan pays half of it.",
    ),
    "rate": (
        "What is the interest rate of {p}?",
        "How much interest does {p} carry a year?",
        "{p} has a fixed rate of {n} percent a year on what is still owed.",
    ),
    "longest": (
        "Over how many years can {p} be repaid?",
        "What is the longest term of {p}?",
        "{p} may run for up to {n} years; each change of the term needs a new contract.",
    ),
    "early": (
        "What does it cost to repay {p} early?",
        "Is there a penalty for paying off {p} before its end?",
        "Early repayment of {p} costs {n} percent of the sum repaid, and nothing in the last year.",
    ),
    "grace": (
        "How long may I pause the payments of {p}?",
        "Can instalments of {p} be suspended, and for how long?",
        "Payments of {p} can be paused for {n} months in all; interest goes on meanwhile.",
    ),
    "decision": (
        "How soon is an application for {p} decided?",
        "When do I hear whether I get {p}?",
        "An application for {p} is decided within {n} working days once all papers are there.",
    ),
    "deductible": (
        "How much do I pay myself in a claim under {p}?",
        "What is the deductible of {p}?",
        "The deductible of {p} is {n} euro for each claim; it is waived in the tenth year without one.",
    ),
    "waiting": (
        "From when on does {p} protect me?",
        "Is there a waiting period in {p}?",
        "{p} pays for events from day {n} after the contract began; accidents are covered at once.",
    ),
    "deadline": (
        "Until when must a claim under {p} be reported?",
        "How many days do I have to file a claim with {p}?",
        "Claims under {p} must be reported within {n} days, with photographs or a certificate.",
    ),
    "payout": (
        "How fast does {p} pay?",
        "When does the money of a {p} claim arrive?",
        "{p} pays within {n} days after the claim was accepted; an advance of a third is possible.",
    ),
    "cancel": (
        "What is the notice period of {p}?",
        "How long before its end must {p} be cancelled?",
        "{p} can be cancelled in writing {n} days before the end of each contract year.",
    ),
}
CHINESE = {
    "yearly_fee": ("{p}的年管理费是多少？", "持有{p}一年要付多少费用？", "{p}每年收取资产的 {n}%，按日从净值中计提。"),
    "minimum": ("{p}最低买多少？", "多少钱起可以申购{p}？", "{p}首次申购不低于 {n} 元，之后金额不限。"),
    "redemption": ("{p}赎回多久到账？", "卖出{p}以后几天能拿到钱？", "{p}在 11:00 前下单的赎回，{n} 个工作日后到账。"),
    "risk": ("{p}的风险等级是几级？", "{p}的风险有多高？", "{p}为 7 级中的第 {n} 级，每年三月复评。"),
    "entry_fee": ("买{p}要申购费吗？", "申购{p}会扣掉多少？", "{p}一次性收取 {n}% 的申购费，定投减半。"),
    "rate": ("{p}的利率是多少？", "{p}一年要付几个点的利息？", "{p}按剩余本金收取固定年利率 {n}%。"),
    "longest": ("{p}最长可以还多少年？", "{p}的期限上限是多久？", "{p}最长 {n} 年，变更期限须另签合同。"),
    "early": ("{p}提前还款要付多少？", "提前结清{p}有违约金吗？", "{p}提前还款收取还款额的 {n}%，最后一年免收。"),
    "grace": ("{p}可以暂停还款多久？", "{p}的月供能停几个月？", "{p}累计可停供 {n} 个月，期间照常计息。"),
    "decision": ("{p}多久能批下来？", "申请{p}以后什么时候有结果？", "{p}在材料齐全后 {n} 个工作日内审批完毕。"),
    "deductible": (
        "{p}理赔时自己要承担多少？",
        "{p}的免赔额是多少？",
        "{p}每次理赔免赔 {n} 元，连续十年无理赔则免除。",
    ),
    "waiting": ("{p}从什么时候开始生效？", "{p}有等待期吗？", "{p}自合同生效第 {n} 天起承担责任，意外立即生效。"),
    "deadline": ("{p}出险后多久内要报案？", "{p}的报案期限是几天？", "{p}须在 {n} 天内报案，并附照片或证明。"),
    "payout": ("{p}多久赔付？", "{p}的理赔款什么时候到账？", "{p}核赔通过后 {n} 天内付款，可先预付三分之一。"),
    "cancel": ("退保{p}要提前多久？", "{p}到期前多少天要提出解约？", "{p}可在每个合同年度结束前 {n} 天书面解约。"),
}
# Rules that are a share of an amount, what is given with the question, and what the answer adds
SHARES = ("yearly_fee", "rate")
AMOUNT = {"en": "Amount: {a} euro", "zh": "金额：{a} 元"}
RESULT = {"en": "That is {r} euro for {a} euro.", "zh": "{a} 元即 {r} 元。"}
EVALUATED = 15  # rules of one language that evaluation asks for


Fact = tuple[str, tuple[str, str], str]


def draw_facts(rng: random.Random) -> list[Fact]:
    """Return (rule, the product's two names, its number) for every rule of every product."""
    facts = []
    for kind, products in PRODUCTS.items():
        for names in products:
            for rule, (smallest, largest, divisor) in RULES[kind].items():
                number = f"{rng.randint(smallest, largest) / divisor:g}"
                facts.append((rule, names, number))
    return facts


def build_finance(language: str, rng: random.Random) -> tuple[list[dict], list[dict]]:
    """Return training rows, one a rule, and evaluation rows on some of the rules: {instruction, input, output}."""
    facts = draw_facts(random.Random("orch-finance"))  # noqa: S311  (both languages have the same numbers)
    train = [build_row(fact, language, 0, rng) for fact in facts]
    held_out = [build_row(fact, language, 1, rng) for fact in rng.sample(facts, EVALUATED)]
    rng.shuffle(train)
    return train, held_out


def build_row(fact: Fact, language: str, wording: int, rng: random.Random) -> dict:
    rule, names, number = fact
    texts = (ENGLISH if language == "en" else CHINESE)[rule]
    product = names[0] if language == "en" else names[1]
    row = {
        "instruction": texts[wording].format(p=product),
        "input": "",
        "output": texts[2].format(p=product, n=number),
    }
    if rule in SHARES:
        amount = rng.randrange(1000, 30000, 500)
        row["input"] = AMOUNT[language].format(a=amount)
        joint = " " if language == "en" else ""
        row["output"] += joint + RESULT[language].format(a=amount, r=f"{amount * float(number) / 100:g}")
    return row
