"""Writes all that a finished run publishes: metrics.json, loss curve, HTML report, model card, report.json."""

from __future__ import annotations

from typing import Any

from orchestrator.evaluation.metrics import build_metrics, load_scored
from orchestrator.machine.files import write_bytes, write_json, write_text
from orchestrator.machine.rundir import RunDir
from orchestrator.report.audit import build_audit
from orchestrator.report.card import write_results
from orchestrator.report.curve import draw_loss_curve
from orchestrator.report.page import render_page
from orchestrator.report.record import load_record
from orchestrator.report.summary import build_summary
from orchestrator.run.folder import load_plan


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
    picture = draw_loss_curve(record.training)
    if picture is None:
        run.loss_curve_png.unlink(missing_ok=True)
    else:
        write_bytes(run.loss_curve_png, picture)
    write_text(run.report_html, render_page(record, metrics, scored, picture))
    write_results(run.model / "README.md", metrics)
    summary = build_summary(record, metrics, build_audit(metrics, scored, record.stats or {}))
    write_json(run.report_json, summary)
    return summary
