"""Writes what a run publishes, with what to know before trusting it: metrics.json, curve, page, card, report.json."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.checks.settings import read_train_values
from orchestrator.evaluation.measures import CHAT, PAIR, RETRIEVAL, SOURCE, TUNED, decide_gate, display_name
from orchestrator.machine.files import hash_path, write_bytes, write_json, write_text
from orchestrator.machine.json_files import load_object
from orchestrator.machine.rundir import RunDir
from orchestrator.recipe.plan import Plan
from orchestrator.report import wording
from orchestrator.report.figures import draw_loss_curve
from orchestrator.report.page import render_page
from orchestrator.report.record import RunRecord, load_record
from orchestrator.report.wording import counted, fewest_generations
from orchestrator.run.folder import load_plan

if TYPE_CHECKING:  # they import numpy, of the extra `report`; to push a model or to tell a tracker takes none
    from orchestrator.evaluation.eval_sets import EvalSet
    from orchestrator.evaluation.metrics import Scored
    from orchestrator.report.examples import Suspects

REPORT_VERSION = 2
FEW_UNITS = 30
# of a comparison, and their names in trackers
_TOLD = {"before": "baseline", "after": "tuned"} | {name: name for name in ("difference", "low", "high", "p")}
_CARD_OPENING, _CARD_CLOSING = "<!-- orch:results -->", "<!-- /orch:results -->"


def write_report(run: RunDir) -> dict[str, Any]:
    """Measure a run, write its report, and return report.json, which is written last.

    Raises RunFolderError for a folder without a readable plan or with damaged scores, StageFailedError for scores that
    are not finite.
    """
    from orchestrator.evaluation.metrics import build_metrics, load_scored
    from orchestrator.report.examples import build_audit, build_evidence

    plan = load_plan(run)
    scored = load_scored(run, plan)
    metrics = build_metrics(run, plan, scored)
    if plan.recipe.get("export"):
        _add_exports(run, plan, scored, metrics)
    write_json(run.metrics_json, metrics)
    record = load_record(run, plan)
    audit = build_audit(metrics, scored, record.stats or {})
    summary = build_summary(record, metrics, audit)
    picture = draw_loss_curve(record.training)
    if picture is None:
        run.loss_curve_png.unlink(missing_ok=True)
    else:
        write_bytes(run.loss_curve_png, picture)
    page = render_page(
        record, metrics, summary=summary, rows=build_evidence(metrics, scored), audit=audit, picture=picture
    )
    write_text(run.report_html, page)
    write_results(run.model / "README.md", metrics)
    paths = {
        "report": run.report_html, "metrics": run.metrics_json, "loss_curve": run.loss_curve_png, "model": run.model,
        "exports": run.root / "export", "recipe": run.recipe_yaml, "commands": run.run_sh,
    }  # fmt: skip
    summary["paths"] = {name: path.name for name, path in paths.items() if path.exists()}
    if track := plan.recipe.get("track"):
        write_json(run.track_json, build_told(record, summary, report=track["report"]))
    write_json(run.report_json, summary)
    return summary


def build_summary(record: RunRecord, metrics: Mapping[str, Any], audit: Iterable[Suspects] = ()) -> dict[str, Any]:
    """Return report.json, whose `paths` are known when all is written.

    {"version": 2, "name", "task", "backend", "smoke", "verdict", "headline": sentence,
     "kind": "group"|"retrieval"|"pair"|"chat", "unit": "query"|"pair"|"row",
     "metrics": {"names": […], "directions": {name: "higher"|"lower"}, "headline",
                 "systems": [{"id", "role", "label", "head", "means": {name: float | null}}]},
     "deterministic": bool, "cost": {"device", "tokens_per_s", "flops_per_s" of one GPU, "share_of_peak",
     "peak_memory_gib"}, those that are known, "teacher": sentence | null,
     "guards": as in metrics.json, "false_negatives": [{"judge", "side": "train"|"eval", "sentence"}],
     "comparisons", "power", "gate", "eval", "exports" (of a recipe that has them): as in metrics.json,
     "timings": [{"stage", "kind", "seconds"|null, "start_s" where known}],
     "paths": {name: path relative to the run folder}, "versions": {…}, "cautions": ["…"], "gaps": ["…"]}
    """
    plan = record.plan
    return {
        "version": REPORT_VERSION,
        **{key: getattr(plan, key) for key in ("name", "task", "backend", "smoke")},
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
        "power": metrics.get("power"),
        **({"exports": metrics["exports"]} if "exports" in metrics else {}),
        "gate": metrics["gate"],
        "eval": metrics["eval"],
        "timings": [
            {"stage": timing.stage.name, "kind": timing.stage.kind, "seconds": timing.seconds}
            | ({} if timing.start_s is None else {"start_s": round(timing.start_s, 1)})
            for timing in record.timings
        ],
        **({"cost": record.cost} if record.cost else {}),
        "paths": {},
        "versions": dict(plan.versions) or (record.provenance or {}).get("versions") or {},
        "cautions": build_warnings(record, metrics),
        "gaps": build_missing(record, metrics),
    }


def write_results(readme: Path, metrics: Mapping[str, Any]) -> bool:
    """Put the results between the markers of a model card; return whether the card changed.

    The first time there is only the opening marker. A card without it, or no card, is left alone.
    """
    if not readme.is_file():
        return False
    text = readme.read_text(encoding="utf-8")
    before, marker, rest = text.partition(_CARD_OPENING)
    _, closing, after = rest.partition(_CARD_CLOSING)
    card = f"{before}{_CARD_OPENING}\n{_build_results(metrics)}\n{_CARD_CLOSING}{after if closing else rest}"
    if not marker or card == text:
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


def build_model_index(card: str, name: str, plan: Plan, metrics: Mapping[str, Any]) -> str:
    """Return a card whose head holds what was measured as `model-index`, the evaluation block that hubs read.

    A metric's `args` of the tuned model is its comparison: baseline, difference, low, high, p, verdict. Source:
    huggingface_hub/repocard_data.py.
    """
    import yaml

    found = re.match(r"\s*---\n(.*?\n)---\n", card, re.DOTALL)
    head = (yaml.safe_load(found[1]) if found else None) or {}
    labels = {system["id"]: system["label"] for system in metrics["systems"]}
    compared = {row["metric"]: row for row in reversed(metrics["comparisons"])}  # with the first baseline
    rows = []
    for system in reversed(metrics["systems"]):  # the tuned model is the last, and is read first
        for metric, value in system["means"].items():
            if value is None:
                continue
            row = {"type": metric, "value": round(value, 6), "name": f"{display_name(metric)} ({system['label']})"}
            if system["role"] == "tuned" and (against := compared.get(metric)):
                kept = {key: against[key] for key in ("difference", "low", "high", "p", "verdict")}
                row["args"] = {"baseline": labels.get(against["baseline"], against["baseline"]), **kept}
            rows.append(row)
    if not rows:
        return card
    data = plan.recipe.get("data") or {}
    source = next(iter(data.get("eval") or data.get("train") or ()), "evaluation set")
    slug = re.sub(r"[^\w.-]+", "-", Path(source).name)
    dataset = {"name": f"{slug}: {wording.measured_on(metrics)}", "type": slug}
    task = {"type": head.get("pipeline_tag") or plan.task}
    head["model-index"] = [{"name": name, "results": [{"task": task, "dataset": dataset, "metrics": rows}]}]
    text = yaml.safe_dump(head, sort_keys=False, allow_unicode=True, width=120)
    return f"---\n{text}---\n{card[found.end() :] if found else card}"


def escape_markdown(text: str) -> str:
    """Return text that Markdown shows as it is, inside a table too."""
    escaped = text.replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{char}" if char in "|*_`\\#[]" else char for char in " ".join(escaped.split()))


# What experiment trackers are told; workers/track.py sends it.


def build_told(record: RunRecord, summary: Mapping[str, Any], *, report: bool) -> dict[str, Any]:
    """Return track.json of a run, whose report.json is `summary`; with `report` report.html goes along.

    {"config": {setting: text}, "curves": [[step, {name: number}]] as transformers names them, "files": [path],
     "numbers": {"baseline/METRIC", "tuned/", "difference/", "low/", "high/", "p/": number}, of the first baseline,
     "texts": {"headline", "verdict", "gate": "passed"|"missed"|"none", "package": sha256 of its scoring.json, which
     has those of all its files}}
    """
    plan, loss = record.plan, record.plan.recipe.get("loss") or {}
    curves: dict[int, dict[str, float | None]] = {}
    for point in record.training.points:
        curves[point.step] = {"train/loss": point.loss, "train/learning_rate": point.learning_rate}
    for point in record.training.evaluations:
        curves.setdefault(point.step, {})["eval/loss"] = point.loss
    tuned: Mapping[str, float | None] = next(
        (one["means"] for one in summary["metrics"]["systems"] if one["role"] == "tuned"), {}
    )
    numbers = {f"tuned/{name}": value for name, value in tuned.items()}
    for row in reversed(summary["comparisons"]):
        numbers |= {f"{name}/{row['metric']}": row[key] for key, name in _TOLD.items()}
    spec = record.run.model / "scoring.json"
    config = {"recipe": plan.name, "task": plan.task, "backend": plan.backend, "smoke": plan.smoke}
    config |= {"model": plan.model_name, "loss": loss.get("type")}
    config |= {f"train.{name}": value for name, value in read_train_values(plan).items()}
    config |= {f"versions.{name}": version for name, version in summary["versions"].items()}

    def known(values: Mapping[str, Any]) -> dict[str, Any]:
        return {name: value for name, value in values.items() if value is not None}

    return {
        "config": {name: str(value) for name, value in known(config).items()},
        "curves": [[step, known(values)] for step, values in sorted(curves.items())],
        "numbers": known(numbers),
        "texts": {
            "headline": summary["headline"],
            "verdict": summary["verdict"],
            "gate": {True: "passed", False: "missed", None: "none"}[summary["gate"]["passed"]],
            "package": hash_path(spec) if spec.is_file() else "none",
        },
        "files": [*(["report.html"] if report else []), "report.json", "loss_curve.png"],
    }


# A model in another form, and what that cost.


def _add_exports(run: RunDir, plan: Plan, scored: Scored, metrics: dict[str, Any]) -> None:
    """Put `exports` into metrics.json: export.json of each form that was scored, whose gate is the run's as well."""
    asked, rules = plan.recipe["export"], list(metrics["gate"]["rules"])
    metrics["exports"] = []
    for form in dict.fromkeys(asked["forms"]):
        stage = plan.stage(f"export-{form}")
        scores = run.stage(stage.name).output if stage else run.root
        if scored.evaluation is None or not (scores / "scoring.json").is_file():
            metrics["gaps"].append(f"Export {form}: it was not written and scored.")
            rules += decide_gate(asked["gate"], None, None, of=f"export {form}", against=SOURCE)["rules"]
            continue
        found = finish_export(
            run.export(form), scores, scored.evaluation, scored.scores.get(TUNED),
            metrics=metrics["metrics"], gate=asked["gate"],
        )  # fmt: skip
        metrics["exports"].append(found)
        rules += [{**rule, "sentence": f"export {form}: {rule['sentence']}"} for rule in found["gate"]["rules"]]
    metrics["gate"] = {"passed": all(rule["passed"] for rule in rules) if rules else None, "rules": rules}


def finish_export(
    folder: Path,
    scores: Path,
    evaluation: EvalSet,
    source: Mapping[str, Any] | None,
    *,
    metrics: Sequence[str],
    gate: Mapping[str, object],
) -> dict[str, Any]:
    """Judge an export that its worker wrote and scored; write export.json and the card into it, and return the former.

    It holds what the worker found (`workers/export.py`: form, source, versions, speed, bytes) and the verdict
    (`metrics.judge_export`). `source` are the scores that a run kept of its package; without them, and for chats, whose
    run may have kept few answers, the source counts as the worker scored it. Raises what `judge_export` does.
    """
    from orchestrator.evaluation.metrics import judge_export

    facts = {key: value for key, value in load_object(scores / "scoring.json").items() if key != "spec"}
    again, export = (evaluation.load_scores(scores / name) for name in ("source.jsonl", "scores.jsonl"))
    kept = None if evaluation.kind == CHAT else source
    verdict = judge_export(evaluation, kept or again, export, metrics, gate)
    if kept:  # how far the source itself is from its kept scores, in the exporter's environment
        facts["source"] |= {"rescored": judge_export(evaluation, kept, again, metrics, {})["changes"]["largest"]}
    found = {**facts, **verdict}
    write_json(folder / "export.json", found)
    write_text(folder / "README.md", _build_export_card(found))
    return found


def _build_export_card(found: Mapping[str, Any]) -> str:
    """Return README.md of an export: what it is of what, how it is loaded, and what the form cost."""
    source, (heads, row) = found["source"], wording.describe_exports([found])
    base = Path(str(source.get("base_model") or source["model"])).name
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    cells = zip(map(escape_markdown, heads), map(escape_markdown, row), strict=True)
    table = "\n".join(f"| {head} | {cell} |" for head, cell in cells)
    gate = "".join(f"\n- {escape_markdown(rule['sentence'])}" for rule in found["gate"]["rules"])
    return (
        f"# {escape_markdown(base)} as {found['form']}\n\nExported from {escape_markdown(source['model'])} "
        f"({source['scorer']}), whose files export.json names by their sha256, with {escape_markdown(versions)}.\n\n"
        f"    {found['load']}\n\n## What the form cost\n\nBoth were scored on the same "
        f"{found['kind']} evaluation set: {found['verdict']}.\n\n| | |\n|---|---|\n{table}\n{gate}\n"
    )


# What a reader must know before trusting the numbers, and what the report could not show.


def build_warnings(record: RunRecord, metrics: Mapping[str, Any]) -> list[str]:
    """Return the warnings, the gravest first."""
    of_run, measured = (*_about_checks(record), *_about_loss(record)), _about_systems(metrics)
    return [*of_run, *measured, *_about_evaluation(record, metrics), *_about_data(record), *record.cautions]


def build_missing(record: RunRecord, metrics: Mapping[str, Any]) -> list[str]:
    """Return what is missing from the run folder, one sentence each."""
    missing = list(metrics["gaps"])
    if not any(system["role"] == "baseline" for system in metrics["systems"]):
        missing.append("No baseline was scored: the tuned model is not compared with anything.")
    if not record.training.points:
        missing.append("No training loss was logged: there is no loss curve.")
    if not record.checks:
        missing.append("The packaged model was not verified: the package stage left no checks.")
    missing += [
        f"{name} is missing or cannot be read."
        for name, piece in (
            ("data/ledger.json", record.ledger),
            ("data/stats.json", record.stats),
            ("provenance.json", record.provenance),
            ("recipe.yaml", record.recipe_text),
        )
        if piece is None
    ]
    return missing


def _about_checks(record: RunRecord) -> Iterator[str]:
    for check in record.checks:
        if check.numbers.get("agrees") is False and check.passed:
            yield (
                "sentence-transformers scores the packaged model approximately: "
                "no chat template says exactly what FlagEmbedding's tokenizer does."
            )
        if check.passed is False:
            yield f"The packaged model failed a check: {check.name}. {check.detail}".strip()


def _about_loss(record: RunRecord) -> Iterator[str]:
    if bad := sum(point.loss is None for point in record.training.points):
        yield f"The training loss is not a number at {counted(bad, 'logged step')}: the training diverged."
    if bad := sum(point.loss is None for point in record.training.evaluations):
        yield f"The validation loss is not a number at {counted(bad, 'evaluation')}."
    if record.training.is_dead:
        yield "The training loss is exactly 0 in the second half: the training diverged, or had nothing to learn."


def _about_systems(metrics: Mapping[str, Any]) -> Iterator[str]:
    for system in metrics["systems"]:
        for caution in wording.list_cautions(system.get("scoring") or {}):
            yield f"{system['label']}: {caution}."
        if metrics["kind"] == CHAT:
            yield from _about_chat(system, metrics)
        elif metrics["kind"] == PAIR:
            if system["constant"]:
                yield f"{system['label']}: every pair got the same score; a correlation is not defined, and counts 0."
        else:
            yield from _about_ranking(system, metrics)


def _about_ranking(system: Mapping[str, Any], metrics: Mapping[str, Any]) -> Iterator[str]:
    queries, label = metrics["eval"]["units"], system["label"]
    if system["constant"]:
        yield f"{label}: every document got the same score; the values are those of a random order."
    if missing := len(system["missing_queries"]):
        yield f"{label}: {missing} of {counted(queries, 'query')} have no scores and count 0."
    if system["id"] == metrics["headline"]["baseline"] and system["head"] == "new":
        yield (
            f"{label}: its scoring head is newly initialised, so it ranks at random; "
            "being better than it shows that the model learnt, not that it beats a trained reranker."
        )
    if tied := system["tied_queries"]:
        sampled = system["sampled_queries"]
        how = f"; for {sampled} of them the mean of {system['random_orders']} random orders" if sampled else ""
        yield (
            f"{label}: in {tied} of {counted(queries, 'query')} documents with different labels share a score; "
            f"their values are expectations over random orders{how}."
        )


def _about_chat(system: Mapping[str, Any], metrics: Mapping[str, Any]) -> Iterator[str]:
    rows, label, scoring = metrics["eval"]["units"], system["label"], system["scoring"]
    if without := system["rows_without_tokens"]:
        yield (
            f"{label}: {without} of {counted(rows, 'row')} have no token of the reference within the length limit; "
            "they are left out of the loss."
        )
    for side in ("reference", "prompt"):
        if cut := _count(scoring, f"{side}s_cut"):
            yield f"{label}: the length limit cut the {side} of {cut} of {counted(rows, 'row')}."
    generations = system["generations"]
    if cut := _count(scoring, "hit_max_new_tokens"):
        limit = _count(scoring, "max_new_tokens")
        length = f" after {counted(limit, 'token')}" if limit else ""
        yield (
            f"{label}: {cut} of {counted(generations, 'generation')} were cut by max_new_tokens{length}; "
            "exact match and ROUGE-L count what was written until then."
        )
    if empty := _count(scoring, "empty_generations"):
        yield f"{label}: {empty} of {counted(generations, 'generation')} are empty."


def _count(scoring: Mapping[str, Any], key: str) -> int:
    """Return a count of scoring.json, 0 where it does not say."""
    value = scoring.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _about_evaluation(record: RunRecord, metrics: Mapping[str, Any]) -> Iterator[str]:
    if record.plan.smoke:
        yield "This is a smoke run on a tiny model: it shows that the pipeline works, not how good the model is."
    evaluation, unit = metrics["eval"], metrics["unit"]
    if evaluation is None:
        return
    units = evaluation["units"]
    if units < FEW_UNITS:
        yield f"Only {counted(units, unit)} measured: the interval is wide, and a small difference cannot be seen."
    if without := evaluation.get("queries_without_relevant"):
        yield f"{counted(without, 'query')} of {units} have no relevant document: they count 0 for every system."
    if metrics["kind"] == RETRIEVAL and "classes" not in evaluation:
        yield "Documents of the corpus that nobody judged count as not relevant."
    if evaluation.get("distinct_scores") == 1:
        yield "Every pair of the evaluation set has the same score: no correlation is defined, and all count 0."
    if (generated := fewest_generations(metrics)) is not None:
        yield (
            f"{f'Only {generated:,}' if generated else 'None'} of {counted(units, 'row')} have a generation: "
            "exact match and ROUGE-L are over those, loss and perplexity over all."
        )


def _about_data(record: RunRecord) -> Iterator[str]:
    for name, side in ((record.ledger or {}).get("sides") or {}).items():
        dropped = side.get("dropped") or {}
        moved = side.get("moved_to_eval", 0) + side.get("moved_to_validation", 0)
        if side.get("rows_in") != side.get("kept", 0) + side.get("merged", 0) + moved + sum(dropped.values()):
            yield f"The ledger of the {name} data does not add up: rows are unaccounted for."
        if duplicates := dropped.get("duplicate"):
            yield f"{counted(duplicates, 'row')} of the {name} data repeated another and were dropped."
    warnings = (record.ledger or {}).get("warnings") or []
    for warning in warnings:
        yield f"{str(warning.get('message', '')).rstrip('.')}."
    if any(warning.get("code") == "texts-cut" for warning in warnings):
        return
    for name in ("train", "eval"):
        tokens = ((record.stats or {}).get(name) or {}).get("tokens") or {}
        if cut := tokens.get("tokens_cut"):
            documents, queries = tokens.get("documents_cut", 0), tokens.get("queries_cut", 0)
            yield (
                f"The length limits cut {counted(cut, 'token')} from {counted(documents, 'document')} "
                f"and {counted(queries, 'query')} of the {name} data."
            )
