"""Names the metrics: how each is written, what it measures, which way is better; and reads and decides gates.

Generated texts are measured here. A gate ("> baseline + 0.02", "< baseline") is what a run must pass.
"""

from __future__ import annotations

import difflib
import math
import operator
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec.structs import replace

from orchestrator.errors import Problem, RecipeError
from orchestrator.machine.tables import load_record

_SPACELESS = (  # scripts that are written without spaces between words; compiled when the first is met
    "[\u0e00-\u0eff"  # Thai, Lao
    "\u3040-\u30ff\u31f0-\u31ff"  # Hiragana, Katakana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003fffd]"  # Han
)


def normalise(text: str) -> str:
    """Return the text as exact match sees it: NFKC, case folded, each run of white space one blank, none outside."""
    return " ".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).split())


def tokenise(text: str) -> list[str]:
    """Return the normalised text's words; in scripts without spaces each character is one. Punctuation is no token."""
    tokens: list[str] = []
    inside = False  # a word that the next letter continues
    for character in normalise(text):
        lettered = unicodedata.category(character)[0] in "LMN"  # letters, the marks on them, numbers
        spaceless = lettered and re.match(_SPACELESS, character) is not None
        if lettered and not spaceless and inside:
            tokens[-1] += character
        elif lettered:
            tokens.append(character)
        inside = lettered and not spaceless
    return tokens


def exact_match(generated: str, reference: str) -> float:
    """Return 1.0 where both are the same text after `normalise`, else 0.0."""
    return float(normalise(generated) == normalise(reference))


def rouge_l(generated: str, reference: str) -> float:
    """Return the F1 of the longest common subsequence of tokens (Lin, ROUGE, 2004, sentence level, β = 1), 0 to 1.

    Texts without any token, such as `?!`, count as exact match does.
    """
    one, two = tokenise(generated), tokenise(reference)
    if not one or not two:
        return exact_match(generated, reference) if not one and not two else 0.0
    common = _longest_common(one, two)
    return 2.0 * common / (len(one) + len(two))


def _longest_common(one: list[str], two: list[str]) -> int:
    """Return the length of the longest common subsequence.

    A bit per token of `two` instead of a cell per pair of tokens (Hyyrö, Bit-parallel LCS-length computation
    revisited, 2004): 2,000 × 2,000 tokens take milliseconds.
    """
    places: dict[str, int] = {}
    for place, token in enumerate(two):
        places[token] = places.get(token, 0) | 1 << place
    everywhere = (1 << len(two)) - 1
    open_places = everywhere
    for token in one:
        matched = open_places & places.get(token, 0)
        open_places = (open_places + matched | open_places - matched) & everywhere
    return len(two) - open_places.bit_count()


GROUP, RETRIEVAL, PAIR, CHAT = "group", "retrieval", "pair", "chat"
UNITS = {GROUP: "query", RETRIEVAL: "query", PAIR: "pair", CHAT: "row"}  # what is measured and resampled
_MOST_DIGITS = 9  # of a cutoff: more documents than any query has
RANKED, PAIRED, CHATTED = frozenset({GROUP, RETRIEVAL}), frozenset({PAIR}), frozenset({CHAT})

BASELINE, TEACHER, TUNED = "baseline", "teacher", "tuned"  # what a measured model is to a run
SOURCE = "source"  # what an export was made from
BETTER, WORSE, NO_DIFFERENCE = "better", "worse", "no measurable difference"  # what a comparison shows
NOT_COMPARED = "not compared"

Statistic = Literal["mean", "ratio", "exponential", "correlation", "rank correlation"]


class Metric(msgspec.Struct, frozen=True):
    """One measure: an entry of `METRICS`, and with `name` (as in `ndcg@10`) and `cutoff` the one that a recipe names.

    `kinds` are the evaluation sets that it measures, and `statistic` says how its value comes from the rows: a mean of
    their values, a ratio of sums (`nll` a token) or its exponential, a correlation with the gold scores. A ranking is
    measured by `ir_measures`; with `graded` a label is a gain, else it says relevant (at least 0.5) or not. `of_texts`
    takes (generation, reference). `row` names one row's value where that is another thing than the metric: an error,
    which is better when lower. Values lie between `least` and `most`.
    """

    display: str
    kinds: frozenset[str] = RANKED
    statistic: Statistic = "mean"
    ir_measures: str = ""
    graded: bool = False
    takes_cutoff: bool = False
    of_texts: Callable[[str, str], float] | None = None
    higher_is_better: bool = True
    least: float = 0.0
    most: float = 1.0
    row: str | None = None
    name: str = ""
    cutoff: int | None = None

    def ir_measures_name(self, relevant: int = 1) -> str:
        """Return the name in ir_measures' syntax, such as `RR@10`; empty for what does not measure a ranking.

        Of a measure that knows relevant or not only, `RR(rel=2)@10` where grades from `relevant` = 2 on are.
        """
        rel = f"(rel={relevant})" if relevant > 1 and not self.graded else ""
        return self.ir_measures + rel + ("" if self.cutoff is None else f"@{self.cutoff}")

    @property
    def row_display(self) -> str:
        """What one row's value is called: a correlation has none for a single pair, its rank error stands in."""
        return self.row or self.display

    @property
    def row_higher_is_better(self) -> bool:
        """The direction of one row's value: errors are better when lower, whatever the metric's direction."""
        return self.higher_is_better and self.row is None


# A new metric is one entry here.
METRICS = {
    "ndcg": Metric("nDCG", ir_measures="nDCG", graded=True, takes_cutoff=True),
    "mrr": Metric("MRR", ir_measures="RR", takes_cutoff=True),
    "map": Metric("MAP", ir_measures="AP"),
    "hit": Metric("Hit", ir_measures="Success", takes_cutoff=True),
    "precision": Metric("Precision", ir_measures="P", takes_cutoff=True),
    "recall": Metric("Recall", ir_measures="R", takes_cutoff=True),
    "spearman": Metric("Spearman", PAIRED, "rank correlation", least=-1.0, row="Rank error"),
    "pearson": Metric("Pearson", PAIRED, "correlation", least=-1.0, row="Standardised error"),
    "loss": Metric("Loss", CHATTED, "ratio", higher_is_better=False, most=math.inf),
    "perplexity": Metric("Perplexity", CHATTED, "exponential", higher_is_better=False, least=1.0, most=math.inf),
    "exact_match": Metric("Exact match", CHATTED, of_texts=exact_match),
    "rouge_l": Metric("ROUGE-L", CHATTED, of_texts=rouge_l),
}


def _load_names() -> dict[str, Any]:
    return load_record(Path(__file__).with_suffix(".yaml"), dict[str, Any])


def parse_metric(name: str, kinds: Iterable[str] = ()) -> Metric | Problem:
    """Return the metric of that name, or what is wrong with the name. Imports nothing heavy.

    `kinds` are the kinds of evaluation sets that are in question: another name is answered with what measures them.

    Rankings: ndcg@k (linear gain, log2 discount), mrr@k, map, hit@k (1 when a relevant document is in the first k),
    precision@k, recall@k; k is a whole number from 1. All but ndcg count labels of at least 0.5 as relevant. Scored
    pairs: spearman, pearson. Chat: loss (nats a token), perplexity, exact_match, rouge_l.
    """
    family, at, cutoff = name.partition("@")
    if family not in METRICS:
        return Problem(f"unknown metric {name!r}", hint=_nearest(family.lower(), cutoff, frozenset(kinds)))
    found = METRICS[family]
    if not found.takes_cutoff:
        return replace(found, name=name) if not at else Problem(f"{family} takes no cutoff", hint=f"write {family!r}")
    if not at:
        return Problem(f"the metric {family!r} needs a cutoff", hint=f"write '{family}@10'")
    if not (cutoff.isascii() and cutoff.isdigit() and not cutoff.startswith("0") and len(cutoff) <= _MOST_DIGITS):
        return Problem(f"{cutoff[:20]!r} is not a cutoff", hint=f"write a whole number from 1, as in '{family}@10'")
    return replace(found, name=name, cutoff=int(cutoff), display=f"{found.display}@{cutoff}")


def require_metric(name: str) -> Metric:
    """Return the metric of that name. Raises ValueError for one that `parse_metric` refuses."""
    metric = parse_metric(name)
    if isinstance(metric, Problem):
        raise ValueError(metric.message)  # noqa: TRY004  # a name, not a type
    return metric


def default_metrics(kind: str) -> tuple[str, ...]:
    """Return the metrics of a kind of evaluation set, the headline metric first."""
    return tuple(_load_names()["kinds"][kind]["metrics"])


def guess_kind(names: Iterable[str]) -> str:
    """Return the kind that the first metric measures, where there is no evaluation set that says it."""
    first = next(iter(names), "")
    return next((kind for kind in UNITS if not check_metrics([first], kind)), GROUP)


def check_metrics(names: Iterable[str], kind: str) -> list[Problem]:
    """Return a problem for every name that is no metric, or measures another kind than `kind`."""
    problems = []
    for name in names:
        metric = parse_metric(name, (kind,))
        if isinstance(metric, Problem):
            problems.append(metric)
        elif kind not in metric.kinds:
            message = f"{metric.name} does not measure {_load_names()['kinds'][kind]['noun']}"
            problems.append(Problem(message, hint=f"metrics that do: {_known(frozenset({kind}))}"))
    return problems


def _known(kinds: frozenset[str]) -> str:
    """Return the names of the metrics of some kinds; of no kind: all."""
    fitting = (name for name, family in METRICS.items() if not kinds or kinds & family.kinds)
    return ", ".join(f"{name}@k" if METRICS[name].takes_cutoff else name for name in fitting)


def _nearest(family: str, cutoff: str, kinds: frozenset[str]) -> str:
    """Return the hint for a metric name that does not exist: what measures the same, else what there is."""
    written, names = family.replace("-", "_").replace(" ", "_"), _load_names()
    fitting = [name for name, one in METRICS.items() if not kinds or kinds & one.kinds]
    if written in names["of_classifiers"]:
        return f"it is for classifiers, which Orch does not train; known: {_known(kinds)}"
    matches = difflib.get_close_matches(written, fitting, n=1)
    found = written if written in fitting else names["others"].get(written) or next(iter(matches), None)
    if found is None or found not in fitting:
        return f"known: {_known(kinds)}"
    return f"did you mean '{found}@{cutoff or 10}'?" if METRICS[found].takes_cutoff else f"did you mean {found!r}?"


def display_name(name: str) -> str:
    """Return a metric's name as the field prints it; an unknown one as it is."""
    metric = parse_metric(name)
    return metric.display if isinstance(metric, Metric) else name


_NUMBER = r"(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_RULE = re.compile(
    rf"\s*(?P<operator>[<>]=?)\s*(?:(?P<baseline>baseline|source)(?:\s*(?P<sign>[+-])\s*(?P<offset>{_NUMBER}))?|(?P<number>{_NUMBER}))\s*"
)
_OPERATORS = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}
Means = Mapping[str, float | None] | None  # {metric: a system's value}; None where it was not measured
_TURNED = {">": "<", "<": ">", "+": "-", "-": "+"}


class Rule(msgspec.Struct, frozen=True):
    """The model's value of `metric` must be `operator` `offset`, counted from the baseline's if `baseline`."""

    metric: Metric
    operator: str
    baseline: bool
    offset: float
    text: str


def parse_rule(metric_name: str, text: object, baseline: str = BASELINE) -> Rule | Problem:
    """Return one gate of the recipe, or what is wrong with it. Imports nothing heavy.

    A rule is an operator (`>` or `>=`; `<` or `<=` for metrics that are better when lower), then `baseline`,
    `baseline` ± a number, or a number; an export's names its source so: `baseline` is then `source`.
    """
    metric = parse_metric(metric_name)
    if isinstance(metric, Problem):
        return metric
    if isinstance(text, int | float) and not isinstance(text, bool):
        return Problem(f"the gate {text} has no operator", hint=f"write '{_better(metric)} {text}'")
    found = _RULE.fullmatch(text) if isinstance(text, str) else None
    if found is None or not isinstance(text, str) or found["baseline"] not in {None, baseline}:
        better, sign = _better(metric), "+" if metric.higher_is_better == (baseline == BASELINE) else "-"
        grammar = f"an operator ({better}, {better}=), then a number, or {baseline}, or {baseline} ± a number"
        return Problem(f"{text!r} is not a gate", hint=f"write {grammar}, as in '{better}= {baseline} {sign} 0.02'")
    if found["operator"][0] != _better(metric):
        way = "higher" if metric.higher_is_better else "lower"
        message = f"{text!r} is passed by a worse model: {metric.display} is better when {way}"
        return Problem(message, hint=f"write '{_turn(found)}'")
    offset = float(found["number"] or found["offset"] or 0)
    offset = -offset if found["sign"] == "-" else offset
    rule = Rule(metric, found["operator"], bool(found["baseline"]), offset, " ".join(text.split()))
    return _out_of_range(rule) or rule


def _better(metric: Metric) -> str:
    return ">" if metric.higher_is_better else "<"


def _turn(found: re.Match[str]) -> str:
    """Return a gate in the other direction; an offset that asked for more than the baseline still does."""
    side, sign = found["operator"][0], found["sign"]
    asks_for_more = (side, sign) in {(">", "+"), ("<", "-")}
    right = f"{_TURNED[side]}{found['operator'][1:]} {found['baseline'] or found['number']}"
    if sign is None:
        return right
    return f"{right} {_TURNED[sign] if asks_for_more else sign} {found['offset']}"


def _out_of_range(rule: Rule) -> Problem | None:
    """Return a problem for a threshold that no model can reach."""
    metric = rule.metric
    if rule.baseline:
        return None
    message = f"{rule.text!r} can never be passed: {metric.display} is at"
    if metric.higher_is_better and rule.offset > metric.most:
        return Problem(f"{message} most {metric.most:g}", hint=f"measures run from {metric.least:g} to {metric.most:g}")
    reachable = _OPERATORS[rule.operator](metric.least, rule.offset)
    if not metric.higher_is_better and not reachable:
        return Problem(f"{message} least {metric.least:g}", hint="write '< baseline', or a higher number")
    return None


def parse_gate(gate: Mapping[str, object], baseline: str = BASELINE) -> tuple[tuple[Rule, ...], tuple[Problem, ...]]:
    """Return the rules of a gate against the `baseline`, and every problem in it."""
    parsed = [parse_rule(metric, text, baseline) for metric, text in gate.items()]
    rules = tuple(item for item in parsed if isinstance(item, Rule))
    return rules, tuple(item for item in parsed if isinstance(item, Problem))


def decide(rule: Rule, tuned: float | None, baseline: float | None) -> tuple[bool, str]:
    """Return whether a rule holds, and the sentence that says so.

    One whose values are missing is missed, since nothing shows that it holds.
    """
    name = rule.metric.display
    if tuned is None:
        return False, f"{name} {rule.text}: the tuned model was not measured"
    if rule.baseline and baseline is None:
        return False, f"{name} {rule.text}: no baseline was measured"
    threshold = rule.offset + (baseline or 0.0 if rule.baseline else 0.0)
    # 12 digits: 0.1 + 0.2 must count as 0.3.
    passed = bool(_OPERATORS[rule.operator](round(tuned, 12), round(threshold, 12)))
    source = f" ({rule.text.removeprefix(rule.operator).strip()})" if rule.baseline else ""
    relation = rule.operator if passed else f"is not {rule.operator}"
    return passed, f"{name} {tuned:.4f} {relation} {threshold:.4f}{source}"


def decide_gate(
    gate: Mapping[str, object], tuned: Means, baseline: Means, *, of: str = "", against: str = BASELINE
) -> dict[str, Any]:
    """Hold a whole gate against the means of both systems, None for one that was not measured.

    {"passed": bool | null (there are no rules), "rules": [{"metric", "rule", "passed", "sentence"}]}; sentences begin
    with `of`, where it is given. Raises RecipeError for rules that cannot be read.
    """
    start = f"{of}: " if of else ""
    rules, problems = parse_gate(gate, against)
    if problems:
        raise RecipeError.from_problems([Problem(f"{start}gate: {item.message}", item.hint) for item in problems])
    rows: list[dict[str, Any]] = []
    for rule in rules:
        name = rule.metric.name
        passed, sentence = decide(rule, tuned[name] if tuned else None, baseline[name] if baseline else None)
        rows.append({"metric": name, "rule": rule.text, "passed": passed, "sentence": f"{start}{sentence}"})
    return {"passed": all(row["passed"] for row in rows) if rows else None, "rules": rows}
