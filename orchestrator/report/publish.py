"""Writes all that a finished run publishes: metrics.json, loss curve, HTML report, model card, report.json."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from orchestrator.evaluation.measures import display_name
from orchestrator.evaluation.metrics import build_metrics, load_scored
from orchestrator.machine.files import write_bytes, write_json, write_text
from orchestrator.machine.language import Language
from orchestrator.machine.rundir import RunDir
from orchestrator.report import wording
from orchestrator.report.examples import Suspects, build_audit
from orchestrator.report.figures import draw_loss_curve
from orchestrator.report.page import render_page
from orchestrator.report.record import RunRecord, load_record
from orchestrator.report.warning_texts import build_missing, build_warnings
from orchestrator.run.folder import load_plan

REPORT_VERSION = 2
_CARD_OPENING, _CARD_CLOSING = "<!-- orch:results -->", "<!-- /orch:results -->"


def write_report(run: RunDir) -> dict[str, Any]:
    """Measure a run, write its report, and return report.json, which is written last.

    Raises RunFolderError for a folder without a readable plan or with damaged scores, StageFailedError for scores that
    are not finite.
    """
    plan = load_plan(run)
    scored = load_scored(run, plan)
    metrics = build_metrics(run, plan, scored)
    write_json(run.metrics_json, metrics)
    record = load_record(run, plan)
    audit = build_audit(metrics, scored, record.stats or {})
    summary = build_summary(record, metrics, audit)
    picture = draw_loss_curve(record.training)
    if picture is None:
        run.loss_curve_png.unlink(missing_ok=True)
    else:
        write_bytes(run.loss_curve_png, picture)
    page = render_page(record, metrics, summary=summary, scored=scored, audit=audit, picture=picture)
    write_text(run.report_html, page)
    write_results(run.model / "README.md", metrics)
    summary["paths"] = _find_paths(run)
    write_json(run.report_json, summary)
    return summary


def build_summary(record: RunRecord, metrics: Mapping[str, Any], audit: Iterable[Suspects] = ()) -> dict[str, Any]:
    """Return report.json, whose `paths` are known when all is written.

    {"version": 2, "name", "task", "backend", "smoke", "verdict", "headline": sentence,
     "kind": "group"|"retrieval"|"pair"|"chat", "unit": "query"|"pair"|"row",
     "metrics": {"names": […], "directions": {name: "higher"|"lower"}, "headline",
                 "systems": [{"id", "role", "label", "head", "means": {name: float | null}}]},
     "deterministic": bool, "teacher": sentence | null,
     "guards": as in metrics.json, "false_negatives": [{"judge", "side": "train"|"eval", "sentence"}],
     "comparisons": as in metrics.json, "gate": as in metrics.json, "eval": as in metrics.json,
     "timings": [{"stage", "kind", "seconds"|null}], "paths": {name: path relative to the run folder},
     "versions": {…}, "cautions": ["…"], "gaps": ["…"]}
    """
    plan = record.plan
    return {
        "version": REPORT_VERSION,
        "name": plan.name,
        "task": plan.task,
        "backend": plan.backend,
        "smoke": plan.smoke,
        "verdict": metrics["verdict"],
        "headline": wording.headline(metrics),
        "kind": metrics["kind"],
        "unit": metrics["unit"],
        "metrics": {
            "names": metrics["metrics"],
            "directions": metrics["directions"],
            "headline": metrics["headline"]["metric"],
            "systems": [
                {key: system[key] for key in ("id", "role", "label", "head", "means")} for system in metrics["systems"]
            ],
        },
        "deterministic": record.is_deterministic,
        "teacher": wording.describe_teacher(metrics),
        "guards": metrics["guards"],
        "false_negatives": [{"judge": found.judge, "side": found.side, "sentence": found.sentence} for found in audit],
        "comparisons": metrics["comparisons"],
        "gate": metrics["gate"],
        "eval": metrics["eval"],
        "timings": [
            {"stage": timing.stage.name, "kind": timing.stage.kind, "seconds": timing.seconds}
            for timing in record.timings
        ],
        "paths": {},
        "versions": dict(plan.versions) or (record.provenance or {}).get("versions") or {},
        "cautions": build_warnings(record, metrics),
        "gaps": build_missing(record, metrics),
    }


def _find_paths(run: RunDir) -> dict[str, str]:
    paths = {
        "report": run.report_html,
        "metrics": run.metrics_json,
        "loss_curve": run.loss_curve_png,
        "model": run.model,
        "recipe": run.recipe_yaml,
        "commands": run.run_sh,
    }
    return {name: path.name for name, path in paths.items() if path.exists()}


def build_lines(summary: Mapping[str, Any], language: Language = "en") -> list[str]:
    """Return the verdict in a few plain lines: word, headline, means, gate, what to know before trusting it."""
    verdict = wording.translate_verdict(summary["verdict"], language)
    lines = [f"{summary['name']}: {verdict}", wording.translate_headline(summary, language)]
    metrics = summary["metrics"]
    for system in metrics["systems"]:
        means = "  ".join(f"{display_name(name)} {wording.figure(system['means'][name])}" for name in metrics["names"])
        lines.append(f"  {means}  {system['label']}")
    lines += [summary["teacher"]] if summary["teacher"] else []
    for guard in summary["guards"]:
        for row in guard["comparisons"][:1]:  # its headline
            before, after = wording.figure(row["before"]), wording.figure(row["after"])
            verdict = wording.translate_verdict(row["verdict"], language)
            text = wording.GUARD.say(language)
            lines.append(text.format(guard["name"], display_name(row["metric"]), before, after, verdict))
    lines += [wording.GATE[rule["passed"]].say(language).format(rule["sentence"]) for rule in summary["gate"]["rules"]]
    lines += [wording.WARNING.say(language).format(warning) for warning in summary["cautions"]]
    lines += [wording.MISSING.say(language).format(missing) for missing in summary["gaps"]]
    return lines


def write_results(readme: Path, metrics: Mapping[str, Any]) -> bool:
    """Put the results between the markers of a model card; return whether the card changed.

    The first time there is only the opening marker. A card without it, or no card, is left alone.
    """
    if not readme.is_file():
        return False
    text = readme.read_text(encoding="utf-8")
    before, marker, rest = text.partition(_CARD_OPENING)
    if not marker:
        return False
    _, closing, after = rest.partition(_CARD_CLOSING)
    card = f"{before}{_CARD_OPENING}\n{_build_results(metrics)}\n{_CARD_CLOSING}{after if closing else rest}"
    if card == text:
        return False
    write_text(readme, card)
    return True


def _build_results(metrics: Mapping[str, Any]) -> str:
    """Return the headline and the table of systems and metrics as Markdown, the best of each metric in bold.

    A metric that is better when lower says so: a reader takes the other way for granted.
    """
    best, names = wording.best_systems(metrics), metrics["metrics"]
    heads = (display_name(name) + ("" if wording.higher_is_better(name) else " (lower is better)") for name in names)
    table = ["| | " + " | ".join(heads) + " |", "|---|" + "---:|" * len(names)]
    for system in metrics["systems"]:
        values = {name: wording.figure(system["means"][name]) for name in names}
        cells = (f"**{value}**" if system["id"] in best[name] else value for name, value in values.items())
        note = " (newly initialised head: ranks at random)" if system["head"] == "new" else ""
        table.append(f"| {escape_markdown(system['label'])}{note} | " + " | ".join(cells) + " |")
    return "\n".join(["", f"{escape_markdown(wording.headline(metrics))}.", "", *table, ""])


def escape_markdown(text: str) -> str:
    """Return text that Markdown shows as it is, inside a table too."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{char}" if char in "|*_`\\#[]" else char for char in " ".join(escaped.split()))
