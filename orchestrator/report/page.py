"""Builds report.html: one page that needs no network, no script and no other file."""

from __future__ import annotations

import base64
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.backends.render import find_templates
from orchestrator.evaluation.measures import display_name, require_metric
from orchestrator.evaluation.metrics import Scored
from orchestrator.recipe.plan import Command
from orchestrator.report import wording
from orchestrator.report.audit import build_audit
from orchestrator.report.cautions import build_cautions, build_gaps
from orchestrator.report.data_table import build_ledger, build_statistics
from orchestrator.report.evidence import build_evidence
from orchestrator.report.figures import build_interval_figure
from orchestrator.report.label_figure import build_label_figure
from orchestrator.report.notes import describe_determinism, describe_teacher
from orchestrator.report.record import RunRecord
from orchestrator.report.training_log import describe_log
from orchestrator.run.state import redact

_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_KANA, _HANGUL, _HAN = re.compile(r"[぀-ヿ]"), re.compile(r"[가-힯]"), re.compile(r"[㐀-鿿豈-﫿]")


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
        figure=wording.figure,
        interval_of=lambda row: wording.interval(row["low"], row["high"]),
        lower_is_better=lambda name: not wording.higher_is_better(name),
        row_lower=lambda name: not require_metric(name).row_higher_is_better,
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
        "units": wording.counted(2, metrics["unit"]).split()[1],
        "shares": _shares(metrics),
        "evidence_of_rows": build_evidence(metrics, scored),
        "picture": base64.b64encode(picture).decode() if picture else None,
        "loss": describe_log(record.training),
        "ledger": list(build_ledger(record.ledger)),
        "statistics": build_statistics(record.stats or {}),
        "labels": build_label_figure(record.stats or {}),
        "audit": build_audit(metrics, scored, record.stats or {}),
        "teacher": describe_teacher(metrics),
        "cautions": build_cautions(record, metrics),
        "gaps": build_gaps(record, metrics),
        "checks": record.checks,
        "timings": record.timings,
        "total_s": sum(timing.seconds or 0 for timing in record.timings),
        "longest_s": max((timing.seconds or 0 for timing in record.timings), default=0) or 1,
        "commands": [(timing, format_command(timing.stage.command)) for timing in record.timings],
        "provenance": list(flatten(_shown(record))) or list(flatten(dict(record.plan.versions))),
        "recipe_text": record.recipe_text,
    }


def _shown(record: RunRecord) -> dict[str, Any]:
    """Return the provenance without the hundreds of packages that decide nothing; the file has them."""
    return {key: value for key, value in (record.provenance or {}).items() if key != "environments"}


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


def _facts(record: RunRecord, metrics: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the few facts under the headline, as (name, value)."""
    model = record.plan.recipe.get("model")
    if isinstance(model, dict):
        model = model.get("path") or model.get("package")
    if model:
        yield "Base model", str(model)
    if metrics["eval"]:
        yield "Measured on", wording.measured_on(metrics)
    trained = (((record.ledger or {}).get("sides") or {}).get("train") or {}).get("kept")
    if trained:
        yield "Trained on", wording.counted(trained, "row")
    training = next((timing.seconds for timing in record.timings if timing.stage.kind == "train"), None)
    if training:
        yield "Training took", wording.duration(training)
    if "deterministic" in record.plan.recipe:
        yield "Deterministic", describe_determinism(record)


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
