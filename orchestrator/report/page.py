"""Builds report.html: one page that needs no network, no script and no other file."""

from __future__ import annotations

import base64
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from orchestrator.backends.render import find_templates
from orchestrator.evaluation.measures import display_name, require_metric
from orchestrator.recipe.plan import Command
from orchestrator.report import wording
from orchestrator.report.figures import build_interval_figure, build_label_figure
from orchestrator.report.record import RunRecord, describe_log
from orchestrator.run.state import redact

if TYPE_CHECKING:
    from jinja2 import Environment

    from orchestrator.report.examples import Suspects

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_SCRIPTS = {"ja": re.compile(r"[぀-ヿ]"), "ko": re.compile(r"[가-힯]"), "zh": re.compile(r"[㐀-鿿豈-﫿]")}
_DETERMINISM = {
    True: "the same weights, bit for bit, on the same versions, hardware and number of processes",
    False: "not asked for (deterministic: true)",
}
_QUANTILES = "median · 95 % · longest"
_OWN_PLACE = ("tokens", "labels", "groups", "teacher")  # of stats.json: shown in rows of their own


def build_environment() -> Environment:
    """Return the engine of the pages' templates, with the report's words; it escapes all that comes from data."""
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
        counted=wording.counted,
        display=display_name,
        duration=wording.duration,
        figure=wording.figure,
        interval_of=lambda row: wording.interval(row["low"], row["high"]),
        lang=find_language,
        lower_is_better=lambda name: not wording.higher_is_better(name),
        minus=lambda text: str(text).replace("-", "−"),
        opening=lambda text: text[:1].upper() + text[1:],
        p=wording.p_cell,
        plain=wording.plain,
        plural=wording.plural,
        row_lower=lambda name: not require_metric(name).row_higher_is_better,
        signed=wording.signed,
        speed=wording.describe_speed,
    )
    return environment


def render_page(
    record: RunRecord,
    metrics: Mapping[str, Any],
    *,
    summary: Mapping[str, Any],
    rows: Mapping[str, Any],
    audit: list[Suspects],
    picture: bytes | None,
) -> str:
    """Return the HTML of the report: what report.json (`summary`) says, and what it rests on.

    All that comes from data is escaped by the template engine.
    """
    statement, evidence = wording.headline_parts(metrics)
    stats = record.stats or {}
    # without the hundreds of packages that decide nothing; the file has them
    provenance = {key: value for key, value in (record.provenance or {}).items() if key != "environments"}
    labels = {system["id"]: system["label"] for system in metrics["systems"]}
    return (
        build_environment()
        .get_template("page.html.j2")
        .render(
            record=record,
            plan=record.plan,
            metrics=metrics,
            summary=summary,
            comparison=wording.headline_comparison(metrics),
            statement=statement,
            evidence=evidence,
            facts=list(_facts(record, metrics)),
            best=wording.best_systems(metrics),
            shares=_shares(metrics),
            intervals=build_interval_figure(metrics["comparisons"], labels),
            rows=rows,
            picture=base64.b64encode(picture).decode() if picture else None,
            loss=describe_log(record.training),
            ledger=list(_ledger_sums(record.ledger or {})),
            statistics=_statistics(stats),
            labels=build_label_figure(stats),
            audit=audit,
            exports=wording.describe_exports(metrics.get("exports", ())),
            total_s=sum(timing.seconds or 0 for timing in record.timings),
            longest_s=max((timing.seconds or 0 for timing in record.timings), default=0) or 1,
            commands=[(timing, format_command(timing.stage.command)) for timing in record.timings],
            provenance=list(flatten(provenance or dict(record.plan.versions))),
        )
    )


def _legible(value: object) -> object:
    """Replace what no page can show: control characters, and halves of surrogate pairs, which UTF-8 refuses."""
    if type(value) is not str:  # markup made by the template itself, numbers
        return value
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", value).encode("utf-8", "replace").decode("utf-8")


def find_language(text: str) -> str | None:
    """Return the language tag that makes a browser choose the right glyphs for Han text, None for other scripts."""
    return next((tag for tag, script in _SCRIPTS.items() if script.search(text)), None)


def _facts(record: RunRecord, metrics: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the few facts under the headline, as (name, value)."""
    if model := record.plan.model_name:
        yield "Base model", model
    if metrics["eval"]:
        yield "Measured on", wording.measured_on(metrics)
    if power := metrics.get("power"):
        yield "Power", wording.describe_power(power, metrics["unit"])
    sides = ((record.ledger or {}).get("sides") or {}).items()
    if trained := sum(side.get("kept", 0) for name, side in sides if name.startswith("train")):
        yield "Trained on", wording.counted(trained, "row")
    training = next((timing.seconds for timing in record.timings if timing.stage.kind == "train"), None)
    if training:
        yield "Training took", wording.duration(training)
    if "deterministic" in record.plan.recipe:
        yield "Deterministic", _DETERMINISM[record.is_deterministic]


def _shares(metrics: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return {metric: {system id: length of its bar, 0 to 1}}: of the whole, or of the largest where there is none."""
    shares = {}
    for name in metrics["metrics"]:
        values = {system["id"]: max(0.0, system["means"][name] or 0.0) for system in metrics["systems"]}
        whole = max(values.values(), default=1.0) if require_metric(name).most > 1 else 1.0
        shares[name] = {system: value / (whole or 1.0) for system, value in values.items()}
    return shares


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


def _ledger_sums(ledger: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield each side's rows in, and where they went."""
    for name, side in (ledger.get("sides") or {}).items():
        if not side.get("rows_in"):
            continue
        parts = [("kept", side.get("kept", 0))]
        parts += [("merged with rows of their query", side["merged"])] if side.get("merged") else []
        moved = ((to, side.get(f"moved_to_{to}")) for to in ("eval", "validation"))
        parts += [(f"moved to {to}", count) for to, count in moved if count]
        parts += [(reason.replace("-", " "), count) for reason, count in (side.get("dropped") or {}).items() if count]
        yield {"name": name, "rows_in": side["rows_in"], "parts": parts, "files": side.get("files") or []}


def _statistics(stats: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return the rows (what, train, eval) of the table of data statistics; what neither side has is left out."""
    train, evaluation = (_side_statistics(stats.get(side) or {}) for side in ("train", "eval"))
    names = dict.fromkeys((*train, *evaluation))
    return [(name, train.get(name, "–"), evaluation.get(name, "–")) for name in names]


def _side_statistics(side: Mapping[str, Any]) -> dict[str, str]:
    """Return {name: text} of one side, in the order of stats.json; each kind of data counts what it has."""
    rows: dict[str, str] = {}
    for key, value in side.items():
        rows |= _row(key, value)
    rows.pop("Queries" if "classes" in side else "", None)  # of texts with classes these are the rows
    for key, title in (("labels", "Labels"), ("teacher", "Teacher scores")):
        if spread := side.get(key):
            rows[f"{title}: mean (lowest to highest)"] = _spread(spread)
    if groups := side.get("groups"):
        rows["Documents a query: mean (fewest to most)"] = _spread(groups["documents"])
        for key, title in (("one_label", "Queries with one label only"), ("too_small", "Queries with one document")):
            if groups.get(key):
                rows[title] = wording.plain(groups[key])
    tokens = side.get("tokens") or {}
    for key, value in tokens.items():
        if isinstance(value, dict) and "p50" in value:
            rows[f"{_named(key)} tokens: {_QUANTILES}"] = _quantiles(value)
    if "tokens_cut" in tokens:
        rows["Tokens cut by the length limits"] = f"{tokens['tokens_cut']:,}"
    return rows


def _spread(spread: Mapping[str, Any]) -> str:
    return f"{wording.plain(spread['mean'])} ({wording.plain(spread['lowest'])} to {wording.plain(spread['highest'])})"


def _row(key: str, value: object) -> dict[str, str]:
    """Return the row of one entry: a count, a spread, quantiles or counts by name; none for anything else."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return {_named(key): wording.plain(value)}
    if not isinstance(value, dict) or not value or key in _OWN_PLACE:
        return {}
    if "p50" in value:
        return {f"{_named(key.replace('_chars', '_characters'))}: {_QUANTILES}": _quantiles(value)}
    if {"min", "mean", "max"} <= value.keys():
        least, mean, most = value["min"], value["mean"], value["max"]
        return {_named(key): f"{most}" if least == most else f"{mean:.3g} ({least} to {most})"}
    return {_named(key): wording.plain(value)}


def _named(key: str) -> str:
    return key.replace("_", " ").capitalize()


def _quantiles(spread: Mapping[str, Any]) -> str:
    return " · ".join(wording.plain(spread.get(key, "–")) for key in ("p50", "p95", "max"))
