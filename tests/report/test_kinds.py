"""Reports on runs whose evaluation set is a retrieval, scored pairs or chat."""

from __future__ import annotations

import html
import json
import re
import shutil

import pytest

from orchestrator.errors import RecipeError, RunFolderError
from orchestrator.machine.rundir import RunDir
from orchestrator.report.compare_runs import compare_runs, format_comparison
from orchestrator.report.publish import write_report
from orchestrator.report.wording import build_lines

HEADLINES = {
    "retrieval": r"nDCG@10 rose from 0\.\d+ to 1\.000: .*, 60 queries",
    "pair": r"Spearman rose from 0\.\d+ to 0\.\d+: .*, 120 pairs",
    "chat": r"Loss fell from 3\.\d+ to 2\.\d+: -1\.\d+ \[.*\], p < 0\.001, 60 rows",
}
SECTIONS = {"retrieval": "Query by query", "pair": "Pair by pair", "chat": "Row by row"}
COLUMNS = {
    "retrieval": {"ndcg@10", "mrr@10", "recall@10", "map"},
    "pair": {"spearman", "pearson", "score"},
    "chat": {"loss", "perplexity", "exact_match", "rouge_l", "nll", "tokens"},
}


@pytest.fixture(scope="module")
def written(pristine_kind, tmp_path_factory):
    """(kind, a run folder with its report); no test may change it."""
    kind, pristine = pristine_kind
    root = tmp_path_factory.mktemp("written") / kind
    shutil.copytree(pristine, root)
    write_report(RunDir(root))
    return kind, RunDir(root)


def by_metric(comparison):
    return {row["metric"]: row for row in comparison["comparisons"]}


def load(path):
    return json.loads(path.read_text(encoding="utf-8"))


def page_of(run):
    return run.report_html.read_text(encoding="utf-8")


def text_of(page):
    body = re.sub(r"<style>.*?</style>|<svg.*?</svg>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", body)).split())


def test_the_headline_reads_right(written):
    kind, run = written
    summary = load(run.report_json)
    assert re.fullmatch(HEADLINES[kind], summary["headline"])
    assert (summary["verdict"], summary["kind"], summary["version"]) == ("better", kind, 2)
    assert summary["headline"].replace("-", "−") in text_of(page_of(run)).replace("-", "−")


def test_metrics_json_holds_every_row_with_its_columns(written):
    kind, run = written
    metrics = load(run.metrics_json)
    assert (metrics["version"], metrics["kind"], metrics["eval"]["units"]) == (2, kind, len(metrics["rows"]))
    row = metrics["rows"][0]
    assert set(row["values"]["tuned"]) == COLUMNS[kind]
    assert ("gold" in row) == (kind == "pair")
    assert set(metrics["directions"]) == set(metrics["metrics"])


def test_the_page_has_the_unit_of_its_kind(written):
    kind, run = written
    page = page_of(run)
    assert f"<h2>{SECTIONS[kind]}</h2>" in page
    assert len(re.findall(r'<rect class="(?:win|loss|tie)"', page)) == load(run.metrics_json)["eval"]["units"]


def test_the_model_card_has_the_table(written):
    kind, run = written
    card = (run.model / "README.md").read_text(encoding="utf-8")
    assert "| Tuned model | **" in card
    assert ("(lower is better)" in card) == (kind == "chat")


def test_the_terminal_has_every_metric(written):
    kind, run = written
    lines = build_lines(load(run.report_json))
    assert lines[0].endswith(": better")
    assert len(re.findall(r"\d\.\d{3}", lines[2])) == (2 if kind == "pair" else 4)


def test_reporting_twice_writes_the_same_files(written, tmp_path):
    _, run = written
    first = {path: path.read_bytes() for path in (run.metrics_json, run.report_json, run.report_html)}
    write_report(run)
    assert {path: path.read_bytes() for path in first} == first


def test_a_run_shows_no_difference_from_itself(written):
    kind, run = written
    comparison = compare_runs(run, run)
    assert (comparison["verdict"], set(by_metric(comparison))) == (
        "no measurable difference",
        set(load(run.metrics_json)["metrics"]),
    )
    assert SECTIONS[kind].split()[0].lower()[:3] in format_comparison(comparison).splitlines()[0]


def test_comparing_runs_gives_the_numbers_of_comparing_systems(written, tmp_path):
    """The second run's tuned model is the first's base model: the comparison of the report turns around."""
    _, run = written
    other = RunDir(tmp_path / "other")
    shutil.copytree(run.root, other.root)
    base = other.stage("02-baseline-native").output / "scores.jsonl"
    shutil.copy(base, other.stage("07-evaluate").output / "scores.jsonl")
    write_report(other)
    turned = by_metric(compare_runs(other, run))
    for row in load(run.metrics_json)["comparisons"]:
        one = turned[row["metric"]]
        for key in ("difference", "low", "p", "verdict"):
            assert one[key] == row[key]


def test_a_version_1_file_is_still_compared(run):
    write_report(run)
    metrics = load(run.metrics_json)
    old = {key: value for key, value in metrics.items() if key not in {"kind", "unit", "directions", "rows"}}
    old["version"] = 1
    old["eval"] = {key: value for key, value in metrics["eval"].items() if key != "units"}
    old["per_query"] = [{"qid": row["id"], "values": row["values"]} for row in metrics["rows"]]
    other = RunDir(run.root.parent / "old")
    shutil.copytree(run.root, other.root)
    other.metrics_json.write_text(json.dumps(old))
    assert by_metric(compare_runs(other, run))["ndcg@10"]["ties"] == 60
    assert format_comparison(compare_runs(run, other)).startswith("The second run shows no measurable difference")


def test_a_version_to_come_is_refused(run):
    write_report(run)
    run.metrics_json.write_text(json.dumps({**load(run.metrics_json), "version": 3}))
    with pytest.raises(RunFolderError, match="has version 3"):
        compare_runs(run, run)


def test_another_corpus_is_refused(make_kind):
    run = make_kind("retrieval")
    write_report(run)
    other = RunDir(run.root.parent / "other")
    shutil.copytree(run.root, other.root)
    metrics = load(other.metrics_json)
    metrics["eval"]["corpus"]["sha256"] = "0" * 64
    other.metrics_json.write_text(json.dumps(metrics))
    with pytest.raises(RunFolderError, match="different corpora"):
        compare_runs(run, other)


def test_a_metric_that_does_not_fit_the_evaluation_set_is_an_error_of_the_recipe(make_kind):
    with pytest.raises(RecipeError, match="ndcg@10 does not measure scored pairs"):
        write_report(make_kind("pair", metrics=["spearman", "ndcg@10"]))


def test_the_recipes_own_metrics_are_taken(make_kind):
    summary = write_report(make_kind("chat", metrics=["perplexity"]))
    assert summary["headline"].startswith("Perplexity fell from")
    assert summary["metrics"]["names"] == ["perplexity", "loss"]  # loss comes from the gate


def change_lines(path, change):
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    path.write_text("".join(json.dumps(change(row)) + "\n" for row in rows), encoding="utf-8")


def test_a_worse_loss_rose(make_kind):
    run = make_kind("chat")
    scores = run.stage("07-evaluate").output / "scores.jsonl"
    change_lines(scores, lambda row: {**row, "nll": row["nll"] * 3})
    summary = write_report(run)
    assert (summary["verdict"], summary["gate"]["passed"]) == ("worse", False)
    assert summary["headline"].startswith("Loss rose from")


def test_generations_are_escaped_and_keep_their_lines(make_kind):
    run = make_kind("chat")
    hostile = '<script>alert(1)</script>\n<img src=x onerror="x()"> {{ 7 * 7 }} 中文 \x00'
    for stage in ("02-baseline-native", "07-evaluate"):
        path = run.stage(stage).output / "scores.jsonl"
        change_lines(path, lambda row: {**row, "generation": hostile if row["generation"] is not None else None})
    change_lines(
        run.eval_jsonl, lambda row: {**row, "reference": hostile, "messages": [{"role": "<b>", "content": hostile}]}
    )
    write_report(run)
    page = page_of(run)
    assert ("<script" in page.lower(), "<img src=x" in page) == (False, False)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\n&lt;img src=x" in page
    assert "{{ 7 * 7 }}" in page
    assert '<p class="said" dir="auto" lang="zh">' in page


def test_twelve_rows_are_shown_side_by_side_and_none_without_an_answer(written):
    kind, run = written
    if kind != "chat":
        pytest.skip("chat only")
    page = page_of(run)
    shown = re.findall(r'<article class="example chat">\s*<header>\s*<span class="what">r0*(\d+)</span>', page)
    assert (len(shown), len(set(shown)), max(map(int, shown)) <= 40) == (12, 12, True)
    assert "not generated" not in page


def test_fewer_generations_than_rows_are_told(written):
    kind, run = written
    if kind != "chat":
        pytest.skip("chat only")
    assert "Only 40 of 60 rows have a generation" in text_of(page_of(run))
    assert "Answers were generated for 40 of 60 rows" in text_of(page_of(run))


def test_generations_that_were_cut_are_told(written):
    kind, run = written
    if kind != "chat":
        pytest.skip("chat only")
    assert "Tuned model: 3 of 40 generations were cut by max_new_tokens after 256 tokens" in text_of(page_of(run))


def test_without_generations_only_losses_are_compared(make_kind):
    run = make_kind("chat")
    for stage in ("02-baseline-native", "07-evaluate"):
        change_lines(run.stage(stage).output / "scores.jsonl", lambda row: {**row, "generation": None})
    summary = write_report(run)
    assert {row["metric"] for row in summary["comparisons"]} == {"loss", "perplexity"}
    assert summary["metrics"]["systems"][1]["means"]["rouge_l"] is None
    assert "None of 60 rows have a generation" in "\n".join(summary["cautions"])
    assert "–" in build_lines(summary)[2]
    assert "| – | – |" in (run.model / "README.md").read_text(encoding="utf-8")


def test_a_headline_metric_that_nothing_has_is_not_compared(make_kind):
    run = make_kind("chat", metrics=["rouge_l", "loss"])
    for stage in ("02-baseline-native", "07-evaluate"):
        change_lines(run.stage(stage).output / "scores.jsonl", lambda row: {**row, "generation": None})
    summary = write_report(run)
    assert (summary["verdict"], summary["headline"]) == (
        "not compared",
        "ROUGE-L was not measured: no row has what it needs",
    )


def test_without_a_baseline_the_tuned_models_answers_are_still_shown(make_kind):
    run = make_kind("chat")
    shutil.rmtree(run.stage("02-baseline-native").output)
    summary = write_report(run)
    assert summary["headline"].startswith("Loss is 2.")
    page = text_of(page_of(run))
    assert ("The first rows" in page, "Base model: not generated" in page) == (True, True)


def test_constant_scores_of_pairs_are_told(make_kind):
    run = make_kind("pair")
    change_lines(run.stage("02-baseline-native").output / "scores.jsonl", lambda row: {**row, "score": 0.5})
    summary = write_report(run)
    assert "Base model: every pair got the same score" in "\n".join(summary["cautions"])
    assert summary["metrics"]["systems"][0]["means"] == {"spearman": 0.0, "pearson": 0.0}


def test_pairs_with_one_gold_score_are_told(make_kind):
    run = make_kind("pair")
    change_lines(run.eval_jsonl, lambda row: {**row, "score": 1.0})
    summary = write_report(run)
    assert "no correlation is defined" in "\n".join(summary["cautions"])
    assert summary["verdict"] == "no measurable difference"


def test_pairs_show_both_texts_with_their_ranks(written):
    kind, run = written
    if kind != "pair":
        pytest.skip("pairs only")
    assert re.search(r"gold [\d.]+ rank \d+ of 120 before -?[\d.]+ rank \d+ of 120 after", text_of(page_of(run)))


def test_a_relevant_document_that_was_not_found_is_told(make_kind):
    run = make_kind("retrieval")
    path = run.stage("02-baseline-native").output / "scores.jsonl"
    best = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["score"] > best.get(row["qid"], row)["score"] if row["qid"] in best else True:
            best[row["qid"]] = row
    path.write_text("".join(json.dumps(row) + "\n" for row in best.values()))
    write_report(run)
    page = page_of(run)
    assert "no relevant one found" in page
    assert "60 queries, searching" in text_of(page)


def test_texts_with_classes_are_told_apart_from_documents_that_nobody_judged(make_kind):
    run = make_kind("retrieval")
    rows = [json.loads(line) for line in run.eval_jsonl.read_text(encoding="utf-8").splitlines()]
    for stage, third in (("02-baseline-native", 0.5), ("07-evaluate", 1.5)):  # never first, and second or third
        found = [
            {"qid": row["qid"], "docid": docid, "score": score}
            for row, other in zip(rows, [*rows[1:], rows[0]], strict=True)
            for docid, score in {"d000000": third, other["relevant"][0]: 2, row["relevant"][0]: 1}.items()
        ]
        text = "".join(json.dumps(row) + "\n" for row in found)
        (run.stage(stage).output / "scores.jsonl").write_text(text, encoding="utf-8")
    write_report(run)
    judged = text_of(page_of(run))
    assert "nobody judged" in judged
    assert "the relevant document" in judged
    rows = [row | {"class": f"<b>{number % 6}"} for number, row in enumerate(rows)]
    run.eval_jsonl.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    stats = load(run.stats_json)
    run.stats_json.write_text(json.dumps(stats | {"train": {"rows": 9, "queries": 8, "classes": 6}, "eval": {}}))
    write_report(run)
    page = page_of(run)
    text = text_of(page)
    assert "nobody judged" not in text
    assert "the relevant document" not in text
    assert "60 queries of 6 classes, searching" in text
    assert "other texts for those of their class" in text
    assert "the first of its class at rank" in text
    assert "one of its class" in text
    assert "✗ &lt;b&gt;" in page
    assert "Classes6" in text.replace(" ", "")
    assert "Queries8" not in text.replace(" ", "")


def test_metrics_of_different_scales_are_not_drawn_on_one(written):
    kind, run = written
    assert ("Each metric is drawn to its own scale" in text_of(page_of(run))) == (kind == "chat")


def test_the_validation_loss_of_ms_swift_is_in_the_report(written):
    _, run = written
    assert "Validation loss 3.122 at the best checkpoint, step 18" in text_of(page_of(run))
