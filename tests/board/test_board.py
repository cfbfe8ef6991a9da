"""The board's data and page: what it says of runs and sweeps, what it survives, and whom its server answers."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from orchestrator.cli import orch
from orchestrator.errors import RunFolderError
from orchestrator.machine.files import write_json
from orchestrator.machine.rundir import RunDir
from orchestrator.report.board import Board, BoardServer, render_board, write_board
from orchestrator.run.folder import find_run
from orchestrator.run.state import RunState, write_state
from orchestrator.run.sweep import load_sweep, write_sweep
from tests.board.conftest import build_runs, copy_run
from tests.security.test_damaged_json import DAMAGED

HOSTILE = "</script><img src=x onerror=alert(1)><!--"


def load(*folders):
    return Board(folders).load(str)


def row_of(board, name):
    return next(row for row in board["runs"] if row["name"] == name)


class Page(html.parser.HTMLParser):
    """A page's tags, and the text of its scripts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.scripts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag):
        self.tags.append((f"/{tag}", {}))

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] == "script":
            self.scripts[-1] += data

    def attribute(self, name):
        return [attrs[name] for _, attrs in self.tags if name in attrs]


def test_a_row_says_what_the_run_s_own_files_say(five):
    board = load(five)
    assert len(board["runs"]) == 5
    row = row_of(board, "qwen3-reranker-20261129-000001")
    run = RunDir(five / row["name"])
    report, plan = (json.loads(path.read_text()) for path in (run.report_json, run.plan_json))
    first = report["comparisons"][0]
    assert row["headline"] == first["metric"] == "ndcg@10"
    assert row["measures"]["ndcg@10"] == {
        key: first[key] for key in ("after", "before", "difference", "low", "high", "p", "verdict")
    }
    assert (row["state"], row["verdict"], row["gate"]) == ("done", report["verdict"], report["gate"]["passed"])
    recipe = plan["recipe"]
    assert (row["rate"], row["seed"]) == (float(recipe["train"]["learning_rate"]), recipe["train"]["seed"])
    said = (plan["name"], recipe["model"]["path"], recipe["loss"]["type"])
    assert (row["recipe"], row["model"], row["loss"]) == said
    assert row["eval"] == {"units": 60, "unit": "query", "hash": report["eval"]["sha256"][:8]}
    assert (row["curve"][0][0], row["curve"][-1][0], len(row["validation"])) == (10, 600, 4)
    assert board["metrics"]["ndcg@10"] == {"title": "nDCG@10", "higher": True}


def test_only_settings_that_differ_are_told_and_a_sweep_s_own_come_first(five):
    board = load(five)
    assert board["keys"][:2] == ["train.learning_rate", "loss"]
    assert {"train.lora_rank", "train.seed"} <= set(board["keys"])
    assert all(len({row["set"][key] for row in board["runs"] if key in row["set"]}) > 1 for key in board["keys"])
    assert not {"name", "task", "evaluate.metrics"} & set(board["keys"])


def test_a_sum_of_losses_is_named_by_its_parts(runs):
    run = RunDir(runs / "qwen3-reranker-20261129-000001")
    plan = json.loads(run.plan_json.read_text())
    plan["recipe"]["loss"] = {"type": "mnrl", "plus": [{"type": "cosent", "weight": 0.5}]}
    write_json(run.plan_json, plan)
    assert row_of(load(runs), run.root.name)["loss"] == "mnrl + cosent"


def test_trials_are_rows_of_their_sweep_which_says_its_winner(five):
    board = load(five)
    assert [(row["sweep"], row["trial"]) for row in board["runs"] if "sweep" in row] == [("grid", 0), ("grid", 1)]
    [sweep] = board["sweeps"]
    assert (sweep["name"], sweep["choice"]["rule"], sweep["choice"]["chosen_from"]) == ("grid", "confirmed", 2)
    assert load(five / "grid")["sweeps"] == board["sweeps"]
    assert [row["name"] for row in load(five / "grid" / "trials" / "000")["runs"]] == ["000"]


def test_a_run_that_is_named_twice_is_one_row_and_sweeps_of_one_name_are_told_apart(runs, tmp_path):
    shutil.copytree(runs / "grid", tmp_path / "more" / "grid")
    board = load(runs, runs / "grid", runs / "qwen3-reranker-20261129-000001", tmp_path / "more")
    assert len(board["runs"]) == 7
    names = ["grid", "more/grid"]
    assert [sweep["name"] for sweep in board["sweeps"]] == names
    assert sorted(row["sweep"] for row in board["runs"] if "sweep" in row) == sorted(names * 2)


def test_a_long_training_is_thinned_and_keeps_its_ends(reported, tmp_path):
    run = copy_run(reported, tmp_path / "long", 1)
    state = run.stage("04-train").output / "checkpoint-600" / "trainer_state.json"
    history = [{"step": step, "loss": 1 / step} for step in range(1, 5001)]
    write_json(state, {"global_step": 5000, "max_steps": 5000, "log_history": history})
    curve = load(tmp_path)["runs"][0]["curve"]
    assert len(curve) == 60
    assert (curve[0], curve[-1]) == ((1, 1.0), (5000, 0.0002))


@pytest.mark.parametrize("name", ["plan.json", "report.json", "state.json", "provenance.json"])
def test_a_damaged_run_is_a_row_with_its_fault_and_the_others_stand(runs, name):
    path = runs / "qwen3-reranker-20261129-000001" / name
    whole = load(runs)
    for content in DAMAGED.values():
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        board = load(runs)
        row = row_of(board, path.parent.name)
        if name in {"plan.json", "report.json"}:
            assert row["state"] == "damaged", content[:40]
            assert name in row["note"]
        assert [other for other in board["runs"] if other["name"] != row["name"]] == [
            other for other in whole["runs"] if other["name"] != row["name"]
        ]
        render_board(board, "zh")


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_sweep_is_a_row_and_its_trials_stand(runs, content):
    (runs / "grid" / "sweep.json").write_bytes(content)
    board = load(runs)
    assert board["sweeps"] == []
    assert "sweep.json" in row_of(board, "grid")["note"]
    assert row_of(board, "000")["measures"]


def test_a_run_is_read_again_only_when_its_files_have_changed(runs):
    path = runs / "qwen3-reranker-20261129-000001" / "report.json"
    board = Board((runs,))
    before = row_of(board.load(str), path.parent.name)
    stamp, text = path.stat(), path.read_text()
    other = text.replace('"verdict": "better"', '"verdict": "beaten"')
    assert len(other) == len(text)
    path.write_text(other)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert row_of(board.load(str), path.parent.name) == before
    os.utime(path)
    assert row_of(board.load(str), path.parent.name)["verdict"] == "beaten"


def test_what_runs_say_is_text_of_the_page_and_nothing_else(runs, tmp_path):
    run = RunDir(runs / "qwen3-reranker-20261129-000001")
    plan = json.loads(run.plan_json.read_text())
    plan["recipe"]["loss"]["type"], plan["name"] = HOSTILE, f"\ud83d{HOSTILE}".encode("utf-8", "replace").decode()
    write_json(run.plan_json, plan)
    page = Page((tmp_path / "b.html").read_text() if write_board((runs,), tmp_path / "b.html") else "")
    assert [tag for tag, _ in page.tags].count("script") == 3
    assert "img" not in {tag for tag, _ in page.tags}
    data, texts, _ = page.scripts
    assert HOSTILE in {row["loss"] for row in json.loads(data)["runs"]}
    assert json.loads(texts).keys() == {"en", "zh"}


def test_the_page_asks_no_one_and_runs_its_own_script_alone(five, tmp_path):
    write_board((five,), tmp_path / "b.html")
    page = Page((tmp_path / "b.html").read_text())
    digest = base64.b64encode(hashlib.sha256(page.scripts[2].encode()).digest()).decode()
    [policy] = [attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith(f"default-src 'none'; script-src 'sha256-{digest}'; ")
    assert "connect-src" not in policy
    assert not page.attribute("src")
    assert page.attribute("href") == ["data:,"]


def test_links_lead_from_the_page_to_the_reports(runs, tmp_path):
    (runs / "qwen3-reranker-20261129-000001").rename(runs / "50% of #1, 查询")
    write_board((runs,), tmp_path / "pages" / "b.html")
    links = [row["report"] for row in json.loads(Page((tmp_path / "pages" / "b.html").read_text()).scripts[0])["runs"]]
    assert links.count(None) == 1  # the run that failed
    assert "../runs/50%25%20of%20%231%2C%20%E6%9F%A5%E8%AF%A2/report.html" in links


def test_a_page_for_colleagues_names_no_folder_of_this_machine(runs, tmp_path):
    failed = next(run for run in map(RunDir, sorted(runs.glob("q*"))) if not run.report_json.exists())
    note = f"04-train: {failed.root}/data/train.jsonl cannot be read"
    write_state(failed, RunState("failed", 1.0, finished=2.0, stage="04-train", message=note))
    sweep = load_sweep(runs / "grid")
    sweep.recipe, sweep.asked = "/home/me/recipe.yaml", {"set": []}
    sweep.trials[0].note = f"see {runs}/grid/trials/000/stages"
    write_sweep(runs / "grid", sweep)
    shutil.copytree(runs / "grid", runs / "broken")
    (runs / "broken" / "sweep.json").unlink()
    (runs / "broken" / "sweep.json").mkdir()
    shutil.copytree(runs, tmp_path / "old")
    for folders, before in (((runs,), ""), ((runs / "grid", failed.root), ""), ((runs, tmp_path / "old"), "runs/")):
        write_board(folders, tmp_path / "b.html")
        board = json.loads(Page((tmp_path / "b.html").read_text()).scripts[0])
        assert str(tmp_path) not in json.dumps(board)
        assert "/home/me" not in json.dumps(board)
        paths = [row["path"] for row in board["runs"]]
        assert {f"{before}{failed.root.name}", f"{before}grid/trials/000"} <= set(paths)
        assert len(paths) == len(set(paths))
        notes = [row["note"] for row in board["runs"]]
        assert f"04-train: {before}{failed.root.name}/data/train.jsonl cannot be read" in notes
    alone = load(runs / "grid" / "trials" / "000")
    assert [row["path"] for row in alone["runs"]] == ["000"]


def test_only_whole_beginnings_of_paths_are_left_out(runs):
    failed = next(run for run in map(RunDir, sorted(runs.glob("q*"))) if not run.report_json.exists())
    note = f"/mnt{runs}/x of {runs}/y: Qwen/Qwen3 failed"
    write_state(failed, RunState("failed", 1.0, finished=2.0, stage="04-train", message=note))
    for folders, shown in (((runs,), f"/mnt{runs}/x of y: Qwen/Qwen3 failed"), ((runs, Path("/usr")), note)):
        found = [row for row in Board(folders).load(str)["runs"] if row["path"].endswith(failed.root.name)]
        assert [row["note"] for row in found] == [shown]


def test_the_line_that_compares_runs_finds_them_below_the_runs(runs):
    for row in load(runs)["runs"]:
        assert find_run(row["path"], runs).root == (runs / row["path"]).resolve()


def test_a_secret_of_the_environment_is_not_in_the_page(runs, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_abcdefghijklmnopqrstuvwxyz")
    run = RunDir(runs / "qwen3-reranker-20261129-000001")
    plan = json.loads(run.plan_json.read_text())
    plan["recipe"]["loss"]["type"] = "hf_abcdefghijklmnopqrstuvwxyz"
    write_json(run.plan_json, plan)
    write_board((runs,), tmp_path / "b.html")
    assert "hf_abc" not in (tmp_path / "b.html").read_text()


def test_every_word_of_the_page_is_there_in_both_languages_and_none_is_idle(root):
    folder = root / "templates" / "report"
    words = yaml.safe_load((folder / "board_words.yaml").read_text())
    assert all(len(pair) == 2 and all(isinstance(text, str) and text for text in pair) for pair in words.values())
    assert all(pair[0].count("{") == pair[1].count("{") for pair in words.values())
    script, page = (folder / "board.js").read_text(), (folder / "board.html.j2").read_text()
    used = set(re.findall(r'say\("(\w+)"', script)) | set(re.findall(r'w\("(\w+)"\)|words\.(\w+)', page))
    used = {next(filter(None, key)) if isinstance(key, tuple) else key for key in used}
    used |= {
        found for pair in re.findall(r'gap\("\w+", "(\w+)"\)|"(winner|not_worse)"', script) for found in pair if found
    }
    fields = set(re.findall(r"(\w+): ", script[script.index("const FIELDS") : script.index("const NUMBERS")]))
    said = {"better", "worse", "no measurable difference", "not compared", "not shown", "confirmed", "corrected"}
    states = {"running", "done", "failed", "interrupted", "planned", "dead", "damaged", "waiting", "pruned", "stopped"}
    assert used <= words.keys()
    assert words.keys() == used | (fields & words.keys()) | said | states


def test_the_commands_write_one_page(runs, tmp_path):
    here = ["--runs", str(runs)]
    first = CliRunner().invoke(orch, ["board", "-o", str(tmp_path / "a.html"), *here, "--json"])
    assert json.loads(first.output)["data"] == {"path": str(tmp_path / "a.html"), "runs": 5}
    assert CliRunner().invoke(orch, ["ls", "--html", str(tmp_path / "b.html"), *here]).exit_code == 0
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()
    CliRunner().invoke(orch, ["board", str(runs / "grid"), "-o", str(tmp_path / "c.html")])
    assert len(json.loads(Page((tmp_path / "c.html").read_text()).scripts[0])["runs"]) == 2


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["board", "nowhere"], "nowhere is no folder"),
        (["board", "--port", "8000"], "--port goes with --serve"),
        (["board", "--serve", "-o", "x.html"], "--serve goes without -o and --json"),
        (["ls", "--models", "--html", "x.html"], "one at a time"),
    ],
)
def test_what_cannot_be_shown_is_one_clear_message(argv, said, tmp_path, monkeypatch, capsys):
    from orchestrator.cli import main

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == (RunFolderError.exit_code if "nowhere" in argv else 2)
    assert said in capsys.readouterr().err


@pytest.fixture
def server(runs):
    with BoardServer((runs,)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def ask(server, path, method="GET", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    return answer.status, dict(answer.headers), answer.read().decode()


def test_the_server_gives_the_page_its_data_and_the_reports(server, reported):
    status, headers, page = ask(server, "/")
    assert (status, headers["Cache-Control"]) == (200, "no-store")
    assert "connect-src 'self'" in page
    board = json.loads(ask(server, "/board.json")[2])
    address = row_of(board, "qwen3-reranker-20261129-000001")["report"]
    status, headers, report = ask(server, address)
    assert (status, report) == (200, reported.report_html.read_text(encoding="utf-8"))
    assert headers["Content-Security-Policy"] == "sandbox"


def test_the_server_tells_of_runs_that_have_come(server, runs, reported):
    before = json.loads(ask(server, "/board.json")[2])
    copy_run(reported, runs / "new", 9)
    after = json.loads(ask(server, "/board.json")[2])
    assert {row["name"] for row in after["runs"]} - {row["name"] for row in before["runs"]} == {"new"}


def test_the_server_answers_this_machine_alone_and_gives_nothing_else(server, runs):
    assert server.server_address[0] == "127.0.0.1"
    name = "qwen3-reranker-20261129-000001"
    for path in ("/etc/passwd", f"/report{runs}/{name}/plan.json", f"/report{runs}/{name}/../grid/sweep.json", "/../x",
                 f"/report{runs}/../../etc/passwd", f"/report{runs}/{name}/report.html%00"):  # fmt: skip
        assert ask(server, path)[0] == 404, path
    assert ask(server, "/", Host="evil.example:80")[0] == 403
    assert {ask(server, "/", method)[0] for method in ("POST", "PUT", "DELETE")} == {501}


def test_a_report_that_is_a_link_elsewhere_is_not_given(server, runs, tmp_path):
    (tmp_path / "secret").write_text("secret")
    report = runs / "qwen3-reranker-20261129-000001" / "report.html"
    report.unlink()
    report.symlink_to(tmp_path / "secret")
    board = json.loads(ask(server, "/board.json")[2])
    assert ask(server, row_of(board, report.parent.name)["report"])[0] == 404


def test_serving_says_where_and_ends_well_with_ctrl_c(runs):
    argv = [sys.executable, "-c", "from orchestrator.cli import main; main()", "board", "--serve", str(runs)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        address = process.stdout.readline().split()[0]
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", address)
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=300) == 0


def test_a_port_that_is_taken_is_one_clear_message(server, runs, capsys):
    from orchestrator.cli import main

    with pytest.raises(SystemExit) as ended:
        main(["board", "--serve", "--port", str(server.server_port), str(runs)])
    assert ended.value.code == 4
    assert "cannot be had" in capsys.readouterr().err


def test_an_empty_folder_has_an_empty_page(tmp_path):
    (tmp_path / "runs").mkdir()
    assert write_board((tmp_path / "runs",), tmp_path / "b.html") == 0


def test_a_page_takes_a_few_kilobytes_a_run(reported, tmp_path):
    build_runs(reported, tmp_path / "runs", 30)
    shutil.rmtree(tmp_path / "runs" / "grid")
    assert write_board((tmp_path / "runs",), tmp_path / "b.html") == 20
    assert (tmp_path / "b.html").stat().st_size < 20 * 6000 + 60_000


def test_the_folders_are_not_written(five, tmp_path):
    before = sorted((str(path), path.stat().st_mtime_ns) for path in five.rglob("*"))
    write_board((five,), tmp_path / "b.html")
    assert sorted((str(path), path.stat().st_mtime_ns) for path in five.rglob("*")) == before
