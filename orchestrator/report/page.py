"""Builds report.html: one page that needs no network, no script and no other file."""

from __future__ import annotations

import base64
import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from orchestrator.evaluation.measures import display_name
from orchestrator.render import find_templates
from orchestrator.report import wording
from orchestrator.report.cautions import build_cautions, build_gaps
from orchestrator.report.curve import describe_points
from orchestrator.report.examples import build_examples
from orchestrator.report.figures import build_bars_figure, build_interval_figure
from orchestrator.supervise.state import redact

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from orchestrator.evaluation.judged import Group
    from orchestrator.plan import Command
    from orchestrator.report.record import RunRecord

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_KANA, _HANGUL, _HAN = re.compile(r"[぀-ヿ]"), re.compile(r"[가-힯]"), re.compile(r"[㐀-鿿豈-﫿]")
_QUANTILES = "median · 95 % · longest"
_LENGTHS = (("query_chars", "Query characters"), ("document_chars", "Document characters"))


@dataclass(frozen=True)
class Scored:
    """The evaluation set and the scores of each system, {system id: {qid: {docid: score}}}: what examples need."""

    groups: tuple[Group, ...]
    scores: Mapping[str, Mapping[str, Mapping[str, float]]]


def render_page(record: RunRecord, metrics: Mapping[str, Any], scored: Scored, picture: bytes | None) -> str:
    """Return the HTML of the report. All that comes from data is escaped by the template engine."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(find_templates() / "report"),
        undefined=StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_legible,
    )
    environment.filters.update(
        display=display_name,
        duration=wording.duration,
        plain=wording.plain,
        signed=wording.signed,
        opening=lambda text: text[:1].upper() + text[1:],
        minus=lambda text: str(text).replace("-", "−"),
        lang=find_language,
        counted=wording.counted,
    )
    return environment.get_template("page.html.j2").render(build_context(record, metrics, scored, picture))


def build_context(
    record: RunRecord, metrics: Mapping[str, Any], scored: Scored, picture: bytes | None
) -> dict[str, Any]:
    """Return everything that the template shows."""
    comparison = wording.headline_comparison(metrics)
    statement, evidence = wording.headline_parts(metrics)
    improved, worsened, bars = _changes(metrics, scored)
    return {
        "plan": record.plan,
        "metrics": metrics,
        "comparison": comparison,
        "statement": statement,
        "evidence": evidence,
        "facts": list(_facts(record, metrics)),
        "best": wording.best_systems(metrics),
        "intervals": build_interval_figure(
            metrics["comparisons"], {system["id"]: system["label"] for system in metrics["systems"]}
        ),
        "bars": build_bars_figure(bars),
        "improved": improved,
        "worsened": worsened,
        "picture": base64.b64encode(picture).decode() if picture else None,
        "loss": describe_points(record.loss),
        "ledger": list(_ledger_sides(record)),
        "statistics": build_statistics(record.stats or {}),
        "cautions": build_cautions(record, metrics),
        "gaps": build_gaps(record, metrics),
        "checks": record.checks,
        "timings": record.timings,
        "total_s": sum(timing.seconds or 0 for timing in record.timings),
        "longest_s": max((timing.seconds or 0 for timing in record.timings), default=0) or 1,
        "commands": [(timing, format_command(timing.stage.command)) for timing in record.timings],
        "provenance": list(flatten(record.provenance or {})) or list(flatten(dict(record.plan.versions))),
        "recipe_text": record.recipe_text,
    }


def _legible(value: object) -> object:
    """Replace what no page can show: control characters, and halves of surrogate pairs, which UTF-8 refuses."""
    if type(value) is not str:  # markup made by the template itself, numbers
        return value
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", value).encode("utf-8", "replace").decode("utf-8")


def find_language(text: str) -> str | None:
    """Return the language tag that makes a browser choose the right glyphs for Han text, None for other scripts."""
    for tag, script in (("ja", _KANA), ("ko", _HANGUL), ("zh", _HAN)):
        if script.search(text):
            return tag
    return None


def _changes(metrics: Mapping[str, Any], scored: Scored) -> tuple[Sequence[Any], Sequence[Any], list[Any]]:
    """Return (most improved, most worsened, every query's bar) for the headline comparison."""
    comparison = wording.headline_comparison(metrics)
    if comparison is None:
        return (), (), []
    baseline, metric = comparison["baseline"], comparison["metric"]
    values = {
        row["qid"]: (row["values"][baseline][metric], row["values"]["tuned"][metric]) for row in metrics["per_query"]
    }
    improved, worsened = build_examples(
        scored.groups, values, scored.scores.get(baseline, {}), scored.scores.get("tuned", {})
    )
    return improved, worsened, [(group.query, *values[group.qid]) for group in scored.groups if group.qid in values]


def _facts(record: RunRecord, metrics: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the few facts under the headline, as (name, value)."""
    model = record.plan.recipe.get("model")
    if isinstance(model, dict):
        model = model.get("path") or model.get("package")
    if model:
        yield "Base model", str(model)
    if metrics["eval"]:
        evaluation = metrics["eval"]
        candidates = counted_each(evaluation["documents"], evaluation["queries"])
        yield "Measured on", f"{wording.counted(evaluation['queries'], 'query')}, {candidates}"
    trained = (((record.ledger or {}).get("sides") or {}).get("train") or {}).get("kept")
    if trained:
        yield "Trained on", wording.counted(trained, "row")
    training = next((timing.seconds for timing in record.timings if timing.stage.kind == "train"), None)
    if training:
        yield "Training took", wording.duration(training)


def counted_each(documents: int, queries: int) -> str:
    """Return `10 candidates each`, with the mean where it is not a whole number."""
    return f"{documents / queries:.3g} candidates each"


def _ledger_sides(record: RunRecord) -> Iterator[dict[str, Any]]:
    """Yield each side's rows in, and where they went."""
    for name, side in ((record.ledger or {}).get("sides") or {}).items():
        if not side.get("rows_in"):
            continue
        parts = [("kept", side.get("kept", 0))]
        parts += [("moved to eval", side["moved_to_eval"])] if side.get("moved_to_eval") else []
        parts += [(reason.replace("-", " "), count) for reason, count in (side.get("dropped") or {}).items() if count]
        yield {"name": name, "rows_in": side["rows_in"], "parts": parts, "files": side.get("files") or []}


def build_statistics(stats: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the rows (what, train, eval) of the table of data statistics; what neither side has is left out."""
    train, evaluation = _side_statistics(stats.get("train") or {}), _side_statistics(stats.get("eval") or {})
    names = dict.fromkeys((*train, *evaluation))
    return [(name, train.get(name, "–"), evaluation.get(name, "–")) for name in names]


def _side_statistics(side: Mapping[str, Any]) -> dict[str, str]:
    rows = {
        name.replace("_", " ").capitalize(): f"{side[name]:,}"
        for name in ("rows", "queries", "positives", "negatives")
        if name in side
    }
    for key, name in (("positives_per_row", "Positives per row"), ("negatives_per_row", "Negatives per row")):
        if spread := side.get(key):
            alike = spread["min"] == spread["max"]
            rows[name] = f"{spread['max']}" if alike else f"{spread['mean']:.3g} ({spread['min']} to {spread['max']})"
    for key, name in _LENGTHS:
        if key in side:
            rows[f"{name}: {_QUANTILES}"] = _quantiles(side[key])
    if scripts := side.get("scripts"):
        rows["Scripts"] = ", ".join(f"{name} {count:,}" for name, count in scripts.items())
    tokens = side.get("tokens") or {}
    for key in ("query", "document"):
        if key in tokens:
            rows[f"{key.capitalize()} tokens: {_QUANTILES}"] = _quantiles(tokens[key])
    if "tokens_cut" in tokens:
        rows["Tokens cut by the length limits"] = f"{tokens['tokens_cut']:,}"
    return rows


def _quantiles(spread: Mapping[str, Any]) -> str:
    return " · ".join(wording.plain(spread.get(key, "–")) for key in ("p50", "p95", "max"))


def format_command(command: Command) -> str:
    """Return a command as text to paste into bash: one `--flag` a line; values of secret variables are left out."""
    lines = [[f"{name}={shlex.quote(value)}"] for name, value in redact(command.env)]
    lines.append([])
    for word in command.argv:
        if word.startswith("--") and lines[-1]:
            lines.append([])
        lines[-1].append(shlex.quote(word))
    return " \\\n    ".join(" ".join(words) for words in lines)


def flatten(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield (dotted name, text) of each leaf of nested objects; lists of plain values are one leaf."""
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, dict):
            yield from flatten(item, f"{name}.")
        elif isinstance(item, list) and any(isinstance(entry, dict) for entry in item):
            yield from flatten({str(place): entry for place, entry in enumerate(item)}, f"{name}.")
        else:
            yield name, wording.plain(item)
