from __future__ import annotations

import base64
import html
import json
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import pytest

from orchestrator.errors import StageFailedError
from orchestrator.machine.rundir import RunDir
from orchestrator.recipe.plan import Command
from orchestrator.report.page import find_language, format_command
from orchestrator.report.publish import write_report

VOID = {"meta", "link", "img", "br", "hr", "input"}


@pytest.fixture(scope="module")
def written(pristine_run, tmp_path_factory):
    """A run folder with its report; no test may change it."""
    root = tmp_path_factory.mktemp("written") / "run"
    shutil.copytree(pristine_run, root)
    write_report(RunDir(root))
    return RunDir(root)


@pytest.fixture(scope="module")
def page(written):
    return written.report_html.read_text(encoding="utf-8")


def change_json(path, change):
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def text_of(page):
    body = re.sub(r"<style>.*?</style>|<svg.*?</svg>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", body)).split())


def test_the_page_opens_with_the_verdict(page, written):
    summary = json.loads(written.report_json.read_text())
    heading = re.search(r"<h1>(.*?)</h1>", page, re.DOTALL)
    assert heading is not None
    assert text_of(heading[1]).replace("−", "-") == summary["headline"]
    assert '<span class="badge win">Better</span>' in page
    assert '<span class="badge pass">Gate passed</span>' in page


def test_markup_in_the_data_is_shown_and_not_run(page):
    assert "<script" not in page.lower()
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_the_page_needs_nothing_from_outside(page):
    assert set(re.findall(r"(?:src=|href=|url\()[\"']?(?=(\w+:|#|/|\.))", page)) == {"data:", "#"}
    assert re.findall(r"https?://", page) == []


def test_the_content_policy_allows_only_inline_styles_and_data_pictures(page):
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert policy[1].split("; ")[:3] == ["default-src 'none'", "style-src 'unsafe-inline'", "img-src data:"]


def test_the_page_has_no_event_handlers(page):
    assert re.findall(r"<[^>]+\son[a-z]+\s*=", page) == []


def test_every_tag_is_closed(page):
    class Balance(HTMLParser):
        def __init__(self):
            super().__init__()
            self.open, self.wrong = [], []

        def handle_starttag(self, tag, _attrs):
            if tag not in VOID:
                self.open.append(tag)

        def handle_startendtag(self, _tag, _attrs):
            pass

        def handle_endtag(self, tag):
            if not self.open or self.open.pop() != tag:
                self.wrong.append((tag, self.getpos()))

    balance = Balance()
    balance.feed(page)
    assert (balance.open, balance.wrong) == ([], [])


def test_the_sections_come_in_reading_order(page):
    assert re.findall(r"<h2>(.*?)</h2>", page) == [
        "Systems", "Difference, tuned minus baseline", "Query by query", "Training", "Wins and losses", "Data",
        "Negatives in doubt", "Cautions", "Verification of the model", "Time", "Commands", "Rendered files", "Provenance", "Recipe",
    ]  # fmt: skip


def test_the_best_value_of_each_metric_is_bold(page):
    table = page[page.index('<table class="systems">') : page.index("</table>")]
    rows = table.split("<tr")[2:]
    assert [row.count("<b>") for row in rows] == [0, 0, 3]


def test_every_query_has_its_bar(page):
    assert len(re.findall(r'<rect class="(?:win|loss|tie)"', page)) == 60


def test_the_loss_curve_of_the_page_is_the_file(page, written):
    picture = re.search(r"data:image/png;base64,([^\"]+)", page)
    assert picture is not None
    assert base64.b64decode(picture[1]) == written.loss_curve_png.read_bytes()


def test_chinese_text_is_marked_for_the_right_glyphs(page):
    assert re.search(r'<span class="query" dir="auto" lang="zh">[一-鿿]', page)


def test_the_ledger_is_shown_as_a_sum(page):
    expected = "Train: 640 rows in=566 kept+60 moved to eval+9 duplicate+5 no negative"
    assert expected in text_of(page)


def test_no_secret_reaches_any_file(written):
    plan = written.plan_json
    for path in written.root.rglob("*"):
        if path.is_file() and path != plan:
            assert b"hf_secret" not in path.read_bytes(), path


def test_report_json_holds_the_verdict_for_programs(written):
    summary = json.loads(written.report_json.read_text())
    assert (summary["version"], summary["verdict"], summary["gate"]["passed"]) == (2, "better", True)
    assert [system["id"] for system in summary["metrics"]["systems"]] == ["native", "trained-format", "tuned"]
    assert summary["paths"]["model"] == "model"
    assert summary["versions"]["FlagEmbedding"] == "1.4.2"
    assert summary["timings"][3] == {"stage": "04-train", "kind": "train", "seconds": 412.6}


def test_the_model_card_gets_the_results(written):
    assert "| Tuned model, FlagEmbedding's prompt | **0.9" in (written.model / "README.md").read_text()


def test_reporting_twice_writes_the_same_files(run):
    write_report(run)
    names = (run.metrics_json, run.report_json, run.report_html, run.loss_curve_png, run.model / "README.md")
    first = [path.read_bytes() for path in names]
    write_report(run)
    assert [path.read_bytes() for path in names] == first


def remove_losses(run):
    shutil.rmtree(run.stage("04-train").output)


def remove_baselines(run):
    shutil.rmtree(run.stage("02-baseline-native").output)
    shutil.rmtree(run.stage("03-baseline-trained-format").output)


def remove_scores(run):
    remove_baselines(run)
    shutil.rmtree(run.stage("07-evaluate").output)


def remove_evaluation_set(run):
    run.eval_jsonl.unlink()


def remove_the_rest(run):
    for path in (run.stats_json, run.ledger_json, run.provenance_json, run.recipe_yaml):
        path.unlink()
    shutil.rmtree(run.model)


def remove_verification(run):
    shutil.rmtree(run.stage("06-package").output)


@pytest.mark.parametrize(
    ("remove", "gap"),
    [
        (remove_losses, "No training loss was logged: there is no loss curve."),
        (remove_baselines, "Not compared: no baseline was scored."),
        (remove_scores, "No system was scored."),
        (remove_evaluation_set, "The run has no evaluation set: nothing was measured."),
        (remove_verification, "The packaged model was not verified"),
        (remove_the_rest, "The ledger of the data is missing."),
    ],
)
def test_a_missing_piece_leaves_a_stated_gap(run, remove, gap):
    remove(run)
    write_report(run)
    assert gap in text_of(run.report_html.read_text(encoding="utf-8"))


def test_an_old_loss_curve_does_not_outlive_its_data(run):
    run.loss_curve_png.write_bytes(b"old")
    remove_losses(run)
    write_report(run)
    assert not run.loss_curve_png.exists()


def test_characters_that_no_page_can_hold_are_replaced(run):
    lines = run.eval_jsonl.read_text(encoding="utf-8").splitlines()
    group = json.loads(lines[0])
    group["query"] = "half \ud83d and nul \x00"
    run.eval_jsonl.write_text("\n".join([json.dumps(group), *lines[1:]]) + "\n", encoding="utf-8")
    write_report(run)
    assert "half ? and nul \N{REPLACEMENT CHARACTER}" in run.report_html.read_text(encoding="utf-8")


def test_scores_that_are_not_numbers_stop_the_report(run):
    scores = run.stage("07-evaluate").output / "scores.jsonl"
    scores.write_text(re.sub(r'"score": [^}]+', '"score": NaN', scores.read_text(), count=1))
    with pytest.raises(StageFailedError, match="not finite"):
        write_report(run)


def report(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "orchestrator.report", *map(str, arguments)], capture_output=True, text=True, check=False
    )


def test_the_command_prints_the_verdict_and_exits_0(run):
    done = report(run.root)
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "qwen3-reranker: better")
    assert done.stdout.splitlines()[1].startswith("nDCG@10 rose from 0.616 to 0.910")


def test_the_command_exits_8_after_writing_everything_when_the_gate_is_missed(run):
    change_json(run.plan_json, lambda plan: plan["recipe"]["gate"].update({"map": "> 0.99"}))
    done = report(run.root)
    assert (done.returncode, run.report_json.is_file(), run.report_html.is_file()) == (8, True, True)
    assert "gate MISSED: MAP" in done.stdout
    assert "Gate missed" in run.report_html.read_text(encoding="utf-8")


@pytest.fixture
def exporting(run):
    """A run whose packaged model was exported twice: as it is, and with its order turned round."""

    def plan_exports(plan):
        forms = ("onnx", "onnx-int8")
        plan["recipe"]["export"] = {"forms": forms, "gate": {"ndcg@10": ">= source - 0.005"}, "python": None}
        like = next(stage for stage in plan["stages"] if stage["kind"] == "evaluate")
        plan["stages"] += [like | {"name": f"09-export-{form}", "kind": f"export-{form}"} for form in forms]

    change_json(run.plan_json, plan_exports)
    rows = [json.loads(line) for line in (run.stage("07-evaluate").output / "scores.jsonl").read_text().splitlines()]
    for form, sign in (("onnx", 1), ("onnx-int8", -1)):
        output = run.stage(f"09-export-{form}").output
        output.mkdir(parents=True)
        run.export(form).mkdir(parents=True)
        for name, of in (("source", 1), ("scores", sign)):
            text = "".join(json.dumps({**row, "score": of * row["score"]}) + "\n" for row in rows)
            (output / f"{name}.jsonl").write_text(text)
        facts = {
            "form": form, "source": {"model": str(run.model), "scorer": "cross-encoder"}, "versions": {"onnx": "1"},
            "bytes": {"source": 92_000_000, "export": 24_000_000}, "load": "…",
            "speed": {"unit": "pairs", "source": 10.0, "export": 20.0},
        }  # fmt: skip
        (output / "scoring.json").write_text(json.dumps(facts))
    return run


def test_an_export_that_loses_too_much_ends_the_run_with_exit_code_8(exporting):
    done = report(exporting.root)
    assert done.returncode == 8, done.stderr
    assert "export onnx: 92 → 24 MB, nDCG@10 0.910 to 0.910" in done.stdout
    assert "gate passed: export onnx: nDCG@10" in done.stdout
    assert "gate MISSED: export onnx-int8: nDCG@10" in done.stdout
    found = json.loads(exporting.report_json.read_text())
    assert [(one["form"], one["verdict"]) for one in found["exports"]] == [
        ("onnx", "no measurable difference"), ("onnx-int8", "worse"),
    ]  # fmt: skip
    assert found["paths"]["exports"] == "export"
    assert json.loads((exporting.export("onnx-int8") / "export.json").read_text())["gate"]["passed"] is False
    page = text_of(exporting.report_html.read_text(encoding="utf-8"))
    assert "Exports The packaged model in other forms" in page
    assert "100.00% of the pairs turned round worse" in page


def test_a_form_that_was_not_written_is_a_gap_and_misses_its_gate(exporting):
    shutil.rmtree(exporting.stage("09-export-onnx-int8").output)
    done = report(exporting.root)
    assert done.returncode == 8, done.stderr
    assert "missing: Export onnx-int8: it was not written and scored." in done.stdout
    assert "gate passed: export onnx: nDCG@10" in done.stdout


def test_the_command_explains_a_folder_that_is_no_run_and_exits_9(tmp_path):
    done = report(tmp_path)
    assert (done.returncode, "not a run folder" in done.stderr, done.stdout) == (9, True, "")


def test_the_command_without_a_run_shows_its_usage():
    done = report()
    assert (done.returncode, "usage" in done.stderr) == (2, True)


def test_a_command_is_shown_one_flag_a_line():
    command = Command(("torchrun", "-m", "trainer", "--lr", "2e-4", "--prompt", "A: b"), env=(("N", "8"),))
    assert format_command(command) == "N=8 \\\n    torchrun -m trainer \\\n    --lr 2e-4 \\\n    --prompt 'A: b'"


@pytest.mark.parametrize(
    ("text", "tag"), [("旧备份", "zh"), ("バックアップの", "ja"), ("백업", "ko"), ("backup", None)]
)
def test_the_language_of_a_text_is_found_by_its_script(text, tag):
    assert find_language(text) == tag
