"""What `orch data check` reports, with nothing written; and findings about data as text for people.

Both sides' ledger, statistics, problems and warnings.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.data.data_pass import run_data_pass
from orchestrator.data.ledger import Ledger, build_problems
from orchestrator.data.reading.readers import sniff_row, sniff_shape
from orchestrator.data.request import Request
from orchestrator.data.rows.checks import RowRules
from orchestrator.data.rows.nearest import find_nearest
from orchestrator.data.rows.records import Kind
from orchestrator.data.rows.shapes import require_kind
from orchestrator.data.tokens import LengthBudget, TokenLimit
from orchestrator.errors import Problem

REPORT_VERSION = 1


@dataclass(frozen=True)
class CheckReport:
    """The findings; the data may be used when `problems` is empty. `problems` shows the first 20 bad rows."""

    ledger: Ledger
    stats: dict[str, Any]
    problems: tuple[Problem, ...]

    @property
    def ok(self) -> bool:
        """Whether the data may be used."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """Return the report for programs."""
        return {
            "version": REPORT_VERSION,
            "ok": self.ok,
            "problems": [
                {
                    "message": problem.message,
                    "hint": problem.hint,
                    "path": problem.where.path if problem.where else None,
                    "line": problem.where.line if problem.where else None,
                }
                for problem in self.problems
            ],
            "ledger": self.ledger.to_json(),
            "stats": self.stats,
        }


def guess_kind(paths: Sequence[Path], columns: Mapping[str, str], encoding: str | None) -> Kind:
    """Return the kind that the first row would have with its keys renamed, so that its message is about that."""
    row = sniff_row(paths[0], columns, encoding=encoding) if paths else None
    nearest = find_nearest(row, "group") if row else None
    return nearest.shape.kind if nearest and not nearest.missing else "group"


def check_files(
    paths: Sequence[Path],
    *,
    eval_paths: Sequence[Path] = (),
    max_dropped: int = 0,
    tokenizer: Path | None = None,
    budget: LengthBudget | TokenLimit | None = None,
    kind: str | None = None,
    allow_overlap: bool = False,
    needs_negatives: bool | None = None,
    **reading: Any,
) -> CheckReport:
    """Check `paths` as training data, and against `eval_paths` for leaks where given; `allow_overlap` keeps these.

    `kind` None is that of the first file's first row. Groups need negatives, as for rerankers, unless that row is one
    of swift's without any (embedding data), or `needs_negatives` says it. A FlagEmbedding budget is for groups only.
    `reading` is what else RowRules has, such as `columns`; only labelled rows have labels.

    Raises DataError when a file cannot be read at all; bad rows are in the report.
    """
    rules = RowRules(**reading)
    given = require_kind(kind) if kind else None
    shape = sniff_shape(paths[0], rules.columns, given, rules.encoding) if paths else None
    wanted: Kind = given or (shape.kind if shape else guess_kind(paths, rules.columns, rules.encoding))
    if not given and wanted == "group" and (rules.max_label is not None or rules.scores_as_labels):
        wanted = "labelled"  # only these have labels
    rules = replace(rules, kind=wanted, needs_negatives=needs_negatives or not (shape and shape.without_negatives))
    if wanted != "group" and isinstance(budget, LengthBudget):
        budget = None
    request = Request(
        tuple(paths), tuple(eval_paths), allow_overlap=allow_overlap, tokenizer=tokenizer, budget=budget, rules=rules,
        merges=True,
    )  # fmt: skip
    gathered = run_data_pass(request)
    return CheckReport(gathered.ledger, gathered.stats, tuple(build_problems(gathered, max_dropped)))


_EXAMPLES_SHOWN = 3
_SCRIPTS_SHOWN = 4
_SCORES_SHOWN = 5
_BAR_WIDTH = 40


def describe_problem(problem: Problem) -> str:
    """Return one line: place: reason: sentence — remedy."""
    place = f"{problem.where}: " if problem.where else ""
    return f"{place}{problem.message}" + (f" — {problem.hint}" if problem.hint else "")


def describe_sums(ledger: Ledger) -> list[str]:
    """Return one line a side, which adds up."""
    lines = []
    for name, side in ledger.sides.items():
        moved = {"moved to eval": side.moved_to_eval, "moved to validation": side.moved_to_validation}
        counts = {what: count for what, count in (moved | {"merged": side.merged}).items() if count} | dict(
            side.dropped
        )
        parts = [f"{side.kept} kept", *(f"{count} {what}" for what, count in counts.items())]
        lines.append(f"{name}: {side.rows_in} rows in = {' + '.join(parts)}")
    return lines


def describe_warnings(ledger: Ledger) -> list[str]:
    """Return one line a warning, with the first places."""
    lines = []
    for warned in ledger.warnings:
        places = ", ".join(warned.examples[:_EXAMPLES_SHOWN])
        lines.append(f"warning: {warned.code}: {warned.message}" + (f" ({places})" if places else ""))
    return lines


def describe_report(report: CheckReport) -> str:
    """Return everything that a check found: problems, warnings, sums, statistics."""
    lines = [describe_problem(problem) for problem in report.problems]
    lines += describe_warnings(report.ledger)
    for line, side in zip(describe_sums(report.ledger), report.ledger.sides, strict=True):
        lines.append(line)
        if report.stats[side]["rows"]:
            lines += [f"  {text}" for text in _describe_statistics(report.stats[side])]
    return "\n".join(lines)


def _describe_statistics(stats: dict[str, Any]) -> list[str]:
    if "labels" in stats:
        groups = stats["groups"]
        found = groups["documents"]
        documents = {"min": found["lowest"], "mean": found["mean"], "max": found["highest"]}
        lines = [
            f"{stats['queries']} different queries, {stats['documents']} documents",
            f"a query: {_describe_per_row(documents)} documents",
            _describe_comparable(groups),
            *_describe_distribution(stats["labels"]),
        ]
    elif "scores" in stats:
        lines = [f"{stats['queries']} different first texts", _describe_scores(stats["scores"])]
    elif "classes" in stats:
        lines = [f"{stats['queries']} different texts of {stats['classes']} classes"]
    elif "turns" in stats:
        lines = [
            f"{stats['queries']} different questions, {stats['with_system']} rows with a system message",
            f"a row: {_describe_per_row(stats['turns_per_row'])} answers",
        ]
    else:
        positives, negatives = (_describe_per_row(stats[f"{name}_per_row"]) for name in ("positives", "negatives"))
        lines = [
            f"{stats['queries']} different queries, {stats['positives']} positives, {stats['negatives']} negatives",
            f"a row: {positives} positives, {negatives} negatives",
        ]
    chars = [(key.removesuffix("_chars"), found) for key, found in stats.items() if key.endswith("_chars")]
    lines.append("characters: " + "; ".join(_describe_spread(name, found) for name, found in chars))
    if "teacher" in stats:
        lines.append(_describe_teacher(stats["teacher"]))
    scripts = ", ".join(f"{name} {count}" for name, count in list(stats["scripts"].items())[:_SCRIPTS_SHOWN])
    lines.append(f"scripts: {scripts}")
    if tokens := stats.get("tokens"):
        lines.append(f"tokens: {_describe_tokens(tokens)}")
    return lines


def describe_supervision(stats: dict[str, Any]) -> list[str]:
    """Return what each side of stats.json learns from: its labels as bars, its groups, its teacher."""
    lines: list[str] = []
    for name, side in stats.items():
        if not isinstance(side, dict) or not side["rows"]:
            continue
        if "labels" in side:
            first, *bars = _describe_distribution(side["labels"])
            lines += [f"{name} {first}", *bars, f"{name} {_describe_comparable(side['groups'])}"]
        if "teacher" in side:
            lines.append(f"{name} {_describe_teacher(side['teacher'])}")
    return lines


def _describe_comparable(groups: dict[str, Any]) -> str:
    one_label, too_small = groups["one_label"], groups["too_small"]
    return f"queries whose documents all have one label: {one_label}; with one document: {too_small}"


def _describe_distribution(labels: dict[str, Any]) -> list[str]:
    """Return a line for the range, and one for each label or bin: it, its count, a bar."""
    if "bins" in labels:
        counted = [(f"{found['from']:g} to {found['to']:g}", found["count"]) for found in labels["bins"]]
    else:
        counted = [(f"{found['label']:.4g}", found["count"]) for found in labels["counts"]]
    most = max(count for _, count in counted)
    widths = max(len(name) for name, _ in counted), len(str(most))
    bars = [
        f"  {name:<{widths[0]}}  {count:>{widths[1]}}  {'#' * math.ceil(_BAR_WIDTH * count / most)}".rstrip()
        for name, count in counted
    ]
    return [f"labels: {labels['lowest']:g} to {labels['highest']:g} (mean {labels['mean']:.2f})", *bars]


def _describe_scores(scores: dict[str, Any]) -> str:
    line = f"scores: {scores['min']:g} to {scores['max']:g} (mean {scores['mean']:.2f})"
    if scores["distinct"] and len(scores["distinct"]) <= _SCORES_SHOWN:
        line += ": " + ", ".join(f"{found['score']:g} in {found['rows']} rows" for found in scores["distinct"])
    return line


def _describe_teacher(teacher: dict[str, Any]) -> str:
    above = teacher["false_negatives"]
    line = f"teacher scores: {teacher['lowest']:.4g} to {teacher['highest']:.4g} (mean {teacher['mean']:.4g})"
    if above["of_negatives"]:
        line += f"; {above['negatives']} of {above['of_negatives']} negatives score above a positive of their row"
        line += f" ({above['rows']} rows)" if above["rows"] else ""
    return line


def _describe_tokens(tokens: dict[str, Any]) -> str:
    parts = [name for name, found in tokens.items() if isinstance(found, dict)]
    text = "; ".join(_describe_spread(name, tokens[name]) for name in parts)
    if "tokens_cut" in tokens:
        cut = [key for key in tokens if key.endswith("_cut") and key != "tokens_cut"]
        text += "; cut: " + ", ".join(f"{tokens[key]} {key.removesuffix('_cut')}" for key in cut) + ", "
        text += f"{tokens['tokens_cut']} tokens in all"
    return text


def _describe_per_row(found: dict[str, float]) -> str:
    if found["min"] == found["max"]:
        return f"{found['min']}"
    return f"{found['min']} to {found['max']} (mean {found['mean']:.2f})"


def _describe_spread(name: str, found: dict[str, int]) -> str:
    return f"{name} median {found['p50']}, 95 % below {found['p95'] + 1}, longest {found['max']}"
