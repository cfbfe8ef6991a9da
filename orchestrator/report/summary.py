"""Builds report.json, the verdict for programs, and the few lines that people read on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.evaluation.measures import display_name
from orchestrator.machine.language import Language
from orchestrator.report.audit import Suspects, summarise
from orchestrator.report.cautions import build_cautions, build_gaps
from orchestrator.report.notes import describe_teacher, is_deterministic
from orchestrator.report.record import RunRecord
from orchestrator.report.verdict_text import CAUTION, GATE, GUARD, MISSING, say_headline, say_verdict
from orchestrator.report.wording import figure, headline

REPORT_VERSION = 2


def build_summary(record: RunRecord, metrics: Mapping[str, Any], audit: Sequence[Suspects] = ()) -> dict[str, Any]:
    """Return report.json.

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
    run, plan = record.run, record.plan
    paths = {
        "report": run.report_html,
        "metrics": run.metrics_json,
        "loss_curve": run.loss_curve_png,
        "model": run.model,
        "recipe": run.recipe_yaml,
        "commands": run.run_sh,
    }
    return {
        "version": REPORT_VERSION,
        "name": plan.name,
        "task": plan.task,
        "backend": plan.backend,
        "smoke": plan.smoke,
        "verdict": metrics["verdict"],
        "headline": headline(metrics),
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
        "deterministic": is_deterministic(record),
        "teacher": describe_teacher(metrics),
        "guards": metrics["guards"],
        "false_negatives": summarise(audit),
        "comparisons": metrics["comparisons"],
        "gate": metrics["gate"],
        "eval": metrics["eval"],
        "timings": [
            {"stage": timing.stage.name, "kind": timing.stage.kind, "seconds": timing.seconds}
            for timing in record.timings
        ],
        "paths": {name: path.name for name, path in paths.items() if path.exists()},
        "versions": dict(plan.versions) or (record.provenance or {}).get("versions") or {},
        "cautions": build_cautions(record, metrics),
        "gaps": build_gaps(record, metrics),
    }


def build_lines(summary: Mapping[str, Any], language: Language = "en") -> list[str]:
    """Return the verdict in a few plain lines: word, headline, means, gate, cautions."""
    lines = [f"{summary['name']}: {say_verdict(summary['verdict'], language)}", say_headline(summary, language)]
    metrics = summary["metrics"]
    for system in metrics["systems"]:
        means = "  ".join(f"{display_name(name)} {figure(system['means'][name])}" for name in metrics["names"])
        lines.append(f"  {means}  {system['label']}")
    lines += [summary["teacher"]] if summary["teacher"] else []
    lines += [line for guard in summary["guards"] for line in _guard_lines(guard, language)]
    lines += [GATE[rule["passed"]].say(language).format(rule["sentence"]) for rule in summary["gate"]["rules"]]
    lines += [CAUTION.say(language).format(caution) for caution in summary["cautions"]]
    lines += [MISSING.say(language).format(gap) for gap in summary["gaps"]]
    return lines


def _guard_lines(guard: Mapping[str, Any], language: Language) -> list[str]:
    """Return one line a guard: its headline before and after, and the word for the difference."""
    return [
        GUARD.say(language).format(
            guard["name"],
            display_name(row["metric"]),
            figure(row["before"]),
            figure(row["after"]),
            say_verdict(row["verdict"], language),
        )
        for row in guard["comparisons"][:1]
    ]
