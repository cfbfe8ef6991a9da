"""Puts numbers and the verdict into words: the same for the page, the terminal, the model card and report.json."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from orchestrator.evaluation import measures
from orchestrator.evaluation.measures import Metric, display_name, parse_metric, require_metric
from orchestrator.machine.terminal import Language, Text

_P_FLOOR = 0.001
_MINUTE_S, _HOUR_S = 60, 3600
_LARGE, _HUGE = 100, 1_000_000  # from here on one decimal, or three digits, say enough
_LEAST_GAP = 0.005  # of the headline metric, from the base model to its teacher: a share of less says nothing

VERDICTS = {
    measures.BETTER: Text(measures.BETTER, "变好"),
    measures.WORSE: Text(measures.WORSE, "变差"),
    measures.NO_DIFFERENCE: Text(measures.NO_DIFFERENCE, "无可测差异"),
    measures.NOT_COMPARED: Text(measures.NOT_COMPARED, "未比较"),
}
GATE = {True: Text("gate passed: {0}", "门槛通过：{0}"), False: Text("gate MISSED: {0}", "未达门槛：{0}")}
GUARD = Text("guard {0}: {1} {2} to {3}: {4}", "防退化检查 {0}：{1} 由 {2} 到 {3}：{4}")
EXPORT = Text(  # {0} to {8}: a row of `describe_exports`
    "export {0}: {1} MB, {3} {4} to {5} ({6}): {9}", "导出 {0}：{1} MB，{3} 由 {4} 到 {5}（{6}）：{9}"
)
WARNING = Text("caution: {0}", "注意：{0}")
MISSING = Text("missing: {0}", "缺失：{0}")
_SPEED = {
    "tokens_per_s": Text("{0:,.0f} tokens a second, without padding", "每秒 {0:,.0f} 个 token（不计 padding）"),
    "flops_per_s": Text("{0:.3g} FLOPS a device", "每设备 {0:.3g} FLOPS"),
    "share_of_peak": Text("{0:.0%} of the peak", "峰值算力的 {0:.0%}"),
    "peak_memory_gib": Text("{0:.1f} GiB of GPU memory at most", "显存最多 {0:.1f} GiB"),
}
_POWER = Text(
    "this data can show {0} differences of {1} and more (80 % power); {2} would show 0.01",
    "此评估集能测出 {0} 相差 {1} 及以上（检验效能 80%）；要测出 0.01 需 {2}",
)
_POWER_ASSUMED = Text(", by the spread of one model's values", "（按单个模型的分布估计）")
_HEADLINE = {  # {0} to {2}: metric, before, after
    "rose": Text("{0} rose from {1} to {2}", "{0} 由 {1} 升至 {2}"),
    "fell": Text("{0} fell from {1} to {2}", "{0} 由 {1} 降至 {2}"),
    measures.NO_DIFFERENCE: Text(
        "{0} shows no measurable difference, {1} before and {2} after", "{0} 无可测差异，微调前 {1}，微调后 {2}"
    ),
}
_COMMA: dict[Language, str] = {"en": ", ", "zh": "，"}
_TRAINING = Text("training: {0}", "训练：{0}")
_UNITS = {"query": "个查询", "pair": "个句对", "row": "行"}


def describe_speed(cost: Mapping[str, Any], language: Language = "en") -> str:
    """Return in one line how fast the training was, and what memory it took."""
    parts = [text.say(language).format(cost[name]) for name, text in _SPEED.items() if name in cost]
    return _TRAINING.say(language).format(_COMMA[language].join(parts))


def describe_power(power: Mapping[str, Any], unit: str, language: Language = "en") -> str:
    """Return in one line which difference of the headline metric the evaluation set can show."""
    needed = counted(power["rows_for_small_gain"], unit, language)
    line = _POWER.say(language).format(display_name(power["metric"]), figure(power["smallest"]), needed)
    return line + (_POWER_ASSUMED.say(language) if power["assumed"] else "")


def counted(number: int, noun: str, language: Language = "en") -> str:
    """Return `1 query`, `60 queries`, `1,204 rows`; in Chinese of what is measured: `60 个查询`."""
    if language == "zh":
        return f"{number:,} {_UNITS[noun]}"
    return f"{number:,} {noun if number == 1 else plural(noun)}"


def plural(noun: str) -> str:
    """Return `queries` for `query`, `classes` for `class`, `rows` for `row`."""
    return noun[:-1] + "ies" if noun.endswith("y") else noun + ("es" if noun.endswith("s") else "s")


def figure(value: float | None) -> str:
    """Return a measured value: three decimals, fewer for the large ones of a perplexity, a dash for none."""
    if value is None:
        return "–"
    return f"{value:.3f}" if abs(value) < _LARGE else f"{value:,.1f}" if abs(value) < _HUGE else f"{value:.3g}"


def signed(value: float) -> str:
    """Return a difference with its sign, as `figure` writes it; what rounds to zero has no sign."""
    text = figure(abs(value))
    return text if float(text.replace(",", "")) == 0 else f"{'-' if value < 0 else '+'}{text}"


def interval(low: float | None, high: float | None) -> str:
    """Return `[+0.394, +0.531]`, or that there is none."""
    return "[no interval]" if low is None or high is None else f"[{signed(low)}, {signed(high)}]"


def change(row: Mapping[str, Any]) -> str:
    """Return a comparison's difference with its interval, as in `+0.461 [+0.394, +0.531]`."""
    return f"{signed(row['difference'])} {interval(row['low'], row['high'])}"


def p_value(p: float) -> str:
    """Return `p < 0.001` or `p = 0.012`."""
    return f"p {p_cell(p)}" if p < _P_FLOOR else f"p = {p_cell(p)}"


def p_cell(p: float) -> str:
    """Return `< 0.001` or `0.012`, for a column that is called p."""
    return f"< {_P_FLOOR}" if p < _P_FLOOR else f"{p:.3f}"


def duration(seconds: float) -> str:
    """Return `2.4 s`, `6 min 53 s` or `3 h 07 min`."""
    if seconds < _MINUTE_S:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < _HOUR_S:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def plain(value: object) -> str:
    """Return a JSON value as a reader wants it: short floats, lists and objects with commas, yes and no."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {plain(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value)
    return "" if value is None else str(value)


def higher_is_better(metric: str) -> bool:
    """Return a metric's direction; what is unknown is better when higher."""
    found = parse_metric(metric)
    return found.higher_is_better if isinstance(found, Metric) else True


def headline_comparison(metrics: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the comparison that the verdict rests on; None where the headline metric was not compared."""
    first = next(iter(metrics["comparisons"]), None)
    return first if first is not None and first["metric"] == metrics["headline"]["metric"] else None


def headline_parts(metrics: Mapping[str, Any]) -> tuple[str, str]:
    """Return the verdict as a statement and its evidence; together, with a colon, they are the headline sentence."""
    metric = metrics["headline"]["metric"]
    name = display_name(metric)
    comparison = headline_comparison(metrics)
    if comparison is None:
        return _explain_not_compared(metrics, metric, name)
    return _say_comparison(comparison, metrics["unit"])


def _say_comparison(row: Mapping[str, Any], unit: str, language: Language = "en") -> tuple[str, str]:
    """Return a comparison as a statement and its evidence."""
    way = row["verdict"]
    if way != measures.NO_DIFFERENCE:
        way = "rose" if (way == measures.BETTER) == higher_is_better(row["metric"]) else "fell"
    values = display_name(row["metric"]), figure(row["before"]), figure(row["after"])
    evidence = change(row), p_value(row["p"]), counted(row["units"], unit, language)
    return _HEADLINE[way].say(language).format(*values), _COMMA[language].join(evidence)


def _explain_not_compared(metrics: Mapping[str, Any], metric: str, name: str) -> tuple[str, str]:
    tuned = next((system for system in metrics["systems"] if system["role"] == measures.TUNED), None)
    if tuned is None:
        return "Nothing was compared", " ".join(metrics["gaps"]) or "no model was scored."
    if tuned["means"][metric] is None:
        return f"{name} was not measured", "no row has what it needs"
    units = counted(metrics["eval"]["units"], metrics["unit"])
    baseline = any(system["role"] == measures.BASELINE for system in metrics["systems"])
    reason = "the baseline has no value" if baseline else "no baseline was measured"
    return f"{name} is {figure(tuned['means'][metric])} on {units}", f"not compared, since {reason}"


def list_means(systems: Iterable[Mapping[str, Any]], metrics: Sequence[str]) -> Iterator[str]:
    """Yield a line a system: its mean of every metric, and its name."""
    for system in systems:
        means = "  ".join(f"{display_name(name)} {figure(system['means'][name])}" for name in metrics)
        yield f"  {means}  {system['label']}"


def headline(metrics: Mapping[str, Any]) -> str:
    """Return the verdict as one sentence, as in `nDCG@10 rose from 0.412 to 0.873: +0.461 [+0.394, +0.531], …`."""
    return ": ".join(headline_parts(metrics))


def translate_headline(summary: Mapping[str, Any], language: Language) -> str:
    """Return the headline of a report.json; what was not compared is told in English, as the report has it."""
    first = next(iter(summary["comparisons"]), None)
    english: str = summary["headline"]
    if language == "en" or first is None or first["metric"] != summary["metrics"]["headline"]:
        return english
    return "：".join(_say_comparison(first, summary["unit"], language))


def translate_verdict(word: str, language: Language) -> str:
    """Return the one word of a comparison; one without a translation stays as it is."""
    return VERDICTS.get(word, Text(word, word)).say(language)


def measured_on(metrics: Mapping[str, Any]) -> str:
    """Return what the systems were measured on, as in `60 queries, 10 candidates each`."""
    evaluation = metrics["eval"]
    units = counted(evaluation["units"], metrics["unit"])
    if metrics["kind"] == measures.GROUP:
        return f"{units}, {evaluation['documents'] / evaluation['units']:.3g} candidates each"
    if metrics["kind"] == measures.RETRIEVAL:
        if classes := evaluation.get("classes"):
            units += f" of {counted(classes, 'class')}"
            return f"{units}, searching {counted(evaluation['documents'], 'other text')} for those of their class"
        return f"{units}, searching {counted(evaluation['documents'], 'document')}"
    if metrics["kind"] == measures.PAIR:
        return f"{units}, scored from {plain(evaluation['least'])} to {plain(evaluation['most'])}"
    tokens = [system["tokens"] for system in metrics["systems"]]
    return f"{units}, {counted(tokens[-1], 'token')} of answers" if tokens else units


def fewest_generations(metrics: Mapping[str, Any]) -> int | None:
    """Return how many chat rows every system has answered, None where it is all of them."""
    counts = [system["generations"] for system in metrics["systems"] if "generations" in system]
    return min(counts) if counts and min(counts) < metrics["eval"]["units"] else None


def best_systems(metrics: Mapping[str, Any]) -> dict[str, set[str]]:
    """Return for each metric the ids of the systems whose printed value is the best one."""
    best = {}
    for metric in metrics["metrics"]:
        values = {system["id"]: system["means"][metric] for system in metrics["systems"]}
        measured = [value for value in values.values() if value is not None]
        first = figure((max if higher_is_better(metric) else min)(measured)) if measured else None
        best[metric] = {name for name, value in values.items() if value is not None and figure(value) == first}
    return best


def describe_teacher(metrics: Mapping[str, Any]) -> str | None:
    """Return how much of the way from the untouched model to its teacher was made; None without a teacher."""
    metric = require_metric(metrics["headline"]["metric"])
    means = {system["id"]: system["means"][metric.name] for system in metrics["systems"]}
    names = metrics["headline"]["baseline"], measures.TEACHER, measures.TUNED
    start, goal, now = map(means.get, names)
    if start is None or goal is None or now is None or names[0] == measures.TEACHER:
        return None
    sign = 1 if metric.higher_is_better else -1
    gap, made = sign * (goal - start), sign * (now - start)
    values = f"{metric.display}: {figure(start)} untouched, {figure(now)} tuned, {figure(goal)} teacher"
    if gap < _LEAST_GAP:
        return f"{values}. The teacher is no better than the untouched model: there was nothing to learn from it."
    return f"{values}. {100 * made / gap:.0f} % of the way to the teacher."


def describe_exports(exports: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Return a table of exports as texts: a row of heads, then a row each."""
    rows = [["form", "size, MB", "speed", "metric", "source", "export", "difference", "largest score change", "order"]]
    for one in exports:
        name, sizes, speed, changes = one["metrics"][0], one["bytes"], one["speed"], one["changes"]
        row = next((found for found in one["comparisons"] if found["metric"] == name), None)
        difference = change(row) if row else "–"
        rows.append([
            one["form"],
            " → ".join(plain(round(sizes[side] / 1e6, 1)) for side in ("source", "export")),
            f"{speed['source']:.1f} → {speed['export']:.1f} {speed['unit']}/s",
            display_name(name),
            *(figure(one["means"][side][name]) for side in ("source", "export")),
            difference,
            "–" if changes["largest"] is None else f"{changes['largest']:.2g}",
            f"{changes['other_answers']} of {changes['answers']} answers differ" if "answers" in changes
            else f"{changes['discordant']:.2%} of the pairs turned round",
        ])  # fmt: skip
    return rows


def build_lines(summary: Mapping[str, Any], language: Language = "en") -> list[str]:
    """Return the verdict in a few plain lines: word, headline, means, gate, what to know before trusting it."""
    verdict = translate_verdict(summary["verdict"], language)
    lines = [f"{summary['name']}: {verdict}", translate_headline(summary, language)]
    metrics = summary["metrics"]
    lines += list_means(metrics["systems"], metrics["names"])
    if (power := summary.get("power")) and summary["verdict"] == measures.NO_DIFFERENCE:
        lines.append(describe_power(power, summary["unit"], language))
    lines += [summary["teacher"]] if summary["teacher"] else []
    lines += [describe_speed(summary["cost"], language)] if summary.get("cost") else []
    for guard in summary["guards"]:
        for row in guard["comparisons"][:1]:  # its headline
            before, after = figure(row["before"]), figure(row["after"])
            verdict = translate_verdict(row["verdict"], language)
            text = GUARD.say(language)
            lines.append(text.format(guard["name"], display_name(row["metric"]), before, after, verdict))
    exports = summary.get("exports", ())
    for found, row in zip(exports, describe_exports(exports)[1:], strict=True):
        verdict = translate_verdict(found["verdict"], language)
        lines.append(EXPORT.say(language).format(*row, verdict))
    lines += [GATE[rule["passed"]].say(language).format(rule["sentence"]) for rule in summary["gate"]["rules"]]
    lines += [WARNING.say(language).format(warning) for warning in summary["cautions"]]
    lines += [MISSING.say(language).format(missing) for missing in summary["gaps"]]
    return lines


def list_cautions(scoring: Mapping[str, Any]) -> list[str]:
    """Return what a scoring.json says that a reader should know: texts that were cut, and what the worker warns of."""
    said = scoring.get("cautions")
    found = [str(one) for one in said] if isinstance(said, list) else []
    for unit, of, cut in (("pairs", "pairs_counted", "pairs_cut"), ("texts", "texts", "texts_cut")):
        count, whole = scoring.get(cut), scoring.get(of)
        if isinstance(count, int) and isinstance(whole, int) and 0 < count <= whole:
            limit = scoring.get("reads_tokens") or scoring.get("max_length")
            share = f"{100 * count / whole:.0f} %" if count * 200 >= whole else "less than 1 %"
            found.append(
                f"{count} of {whole} {unit} ({share}) are longer than the {limit} tokens that it reads, and were cut"
            )
    return found
