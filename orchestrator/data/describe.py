"""Findings about data as text for people: problems, warnings, sums and statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.data.check import CheckReport
    from orchestrator.data.ledger import Ledger
    from orchestrator.errors import Problem

_EXAMPLES_SHOWN = 3
_SCRIPTS_SHOWN = 4


def describe_problem(problem: Problem) -> str:
    """Return one line: place: reason: sentence — remedy."""
    place = f"{problem.where}: " if problem.where else ""
    return f"{place}{problem.message}" + (f" — {problem.hint}" if problem.hint else "")


def describe_sums(ledger: Ledger) -> list[str]:
    """Return one line a side, which adds up."""
    lines = []
    for name, side in ledger.sides.items():
        parts = [f"{side.kept} kept"]
        if side.moved_to_eval:
            parts.append(f"{side.moved_to_eval} moved to eval")
        parts += [f"{count} {code}" for code, count in side.dropped.items()]
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
    scripts = ", ".join(f"{name} {count}" for name, count in list(stats["scripts"].items())[:_SCRIPTS_SHOWN])
    positives, negatives = (_describe_per_row(stats[f"{name}_per_row"]) for name in ("positives", "negatives"))
    query, document = (_describe_spread(name, stats[f"{name}_chars"]) for name in ("query", "document"))
    lines = [
        f"{stats['queries']} different queries, {stats['positives']} positives, {stats['negatives']} negatives",
        f"a row: {positives} positives, {negatives} negatives",
        f"characters: {query}; {document}",
        f"scripts: {scripts}",
    ]
    if tokens := stats.get("tokens"):
        text = f"{_describe_spread('query', tokens['query'])}; {_describe_spread('document', tokens['document'])}"
        if "tokens_cut" in tokens:
            text += f"; cut: {tokens['queries_cut']} queries, {tokens['documents_cut']} documents, "
            text += f"{tokens['tokens_cut']} tokens in all"
        lines.append(f"tokens: {text}")
    return lines


def _describe_per_row(found: dict[str, float]) -> str:
    if found["min"] == found["max"]:
        return f"{found['min']}"
    return f"{found['min']} to {found['max']} (mean {found['mean']:.2f})"


def _describe_spread(name: str, found: dict[str, int]) -> str:
    return f"{name} median {found['p50']}, 95 % below {found['p95'] + 1}, longest {found['max']}"
