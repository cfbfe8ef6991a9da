"""The board in a real browser: drawn from five runs and from 500, used by keyboard, printed, in two languages, live."""

from __future__ import annotations

import json
import threading
import time

import pytest

from orchestrator.machine.files import write_json
from orchestrator.machine.rundir import RunDir
from orchestrator.report.board import BoardServer, write_board
from tests.board.browser import Browser, find_browser
from tests.board.conftest import build_runs, copy_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_browser() is None, reason="no Chromium: tests/board/install.sh installs one"),
]
HOSTILE = "</script><img src=x onerror=alert(1)>"
FOCUS = "document.activeElement.id"
NAMES = "[...document.querySelectorAll('#body td.run')].map((cell) => cell.textContent)"
FIRST = "document.querySelector('#body td.number').textContent"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("browser"))
    yield browser
    browser.close()


@pytest.fixture
def page(browser, five, tmp_path):
    """The board of five runs, just opened."""
    write_board((five,), tmp_path / "b.html")
    show(browser, tmp_path / "b.html")
    return browser


def show(browser, address):
    browser.requests.clear()
    browser.complaints.clear()
    browser.open(address if isinstance(address, str) else f"file://{address}")


def focus(page, name):
    page.ask(f"document.getElementById({json.dumps(name)}).focus()")


def count(page, selector):
    return page.ask(f"document.querySelectorAll({json.dumps(selector)}).length")


def test_what_there_is_nothing_of_takes_no_place(browser, reported, tmp_path):
    write_board((reported.root.parent,), tmp_path / "b.html")
    show(browser, tmp_path / "b.html")
    assert count(browser, "#sweeps[hidden]") == 1
    assert browser.ask("[...document.querySelectorAll('[hidden]')].filter((one) => one.offsetHeight).length") == 0


def test_the_page_is_drawn_and_asks_for_nothing_else(page, tmp_path):
    assert page.complaints == []
    assert page.requests == [f"file://{tmp_path}/b.html"]
    assert count(page, "#body tr") == 5
    assert page.ask("document.getElementById('count').textContent") == "5 of 5 shown"
    assert (
        count(page, "#losses path.curve-line"),
        count(page, "#parallel path.run"),
        count(page, "#scatter circle"),
    ) == (10, 4, 4)
    card = page.ask("document.querySelector('.card').textContent")
    assert card.startswith("gridTrials: 2 donebetter learning_rate 1e-5 · loss.type listwise")
    winner = page.ask(f"{NAMES}.find((name) => name.includes('choice'))")
    assert winner.startswith("grid / 001")


def test_columns_are_sorted_by_keyboard_and_say_so(page):
    best = page.ask(FIRST)
    focus(page, "sort-after")
    page.press("Enter")
    assert page.ask("document.querySelector('th[aria-sort]').getAttribute('aria-sort')") == "ascending"
    assert page.ask(FOCUS) == "sort-after"
    assert float(page.ask(FIRST)) < float(best)
    assert page.ask(f"{NAMES}.at(-1)").startswith("qwen3-reranker-20261129-000004")  # without a value: always last
    focus(page, "sort-name")
    page.press(" ")
    names = page.ask("[...document.querySelectorAll('#body td.run a')].map((link) => link.textContent)")
    assert names == sorted(names)
    assert count(page, "th[aria-sort]") == 1


def test_everything_is_reached_by_tab(page):
    page.ask("document.body.focus()")
    seen = []
    for _ in range(24):
        page.press("Tab")
        seen.append(page.ask(f"{FOCUS} || document.activeElement.tagName"))
    assert seen[:6] == ["language", "words", "sweep", "evaluated", "metric", "state-failed"]
    assert {"state-done", "rows", "sort-name", "sort-started", "INPUT", "A"} <= set(seen)


@pytest.mark.parametrize(
    ("words", "left"),
    [
        ("grid", 2), ("GRID listwise", 1), ("learning_rate>1e-5", 2), ("learning_rate<=1e-5 loss=margin-mse", 1),
        ("after>=0.68", 3), ("out of memory", 1), ("nothing like this", 0), ("nosuchkey=1", 0), ("seed=1 (", 0),
    ],
)  # fmt: skip
def test_rows_are_filtered_by_words_and_conditions(page, words, left):
    focus(page, "words")
    page.write(words)
    assert page.ask("document.getElementById('count').textContent") == f"{left} of 5 shown"
    assert page.complaints == []
    assert count(page, "#body tr") == max(left, 1)


def test_a_state_is_hidden_by_its_box(page):
    focus(page, "state-failed")
    page.press(" ")
    assert count(page, "#body tr") == 4
    assert page.ask(FOCUS) == "state-failed"


def test_chosen_runs_are_drawn_over_each_other_and_named_for_a_comparison(page):
    for _ in range(2):
        page.ask("document.querySelector('#body tr:not(.chosen) input').focus()")
        page.press(" ")
    assert page.ask("document.activeElement.checked") is True
    legend = page.ask("[...document.querySelectorAll('#losses .legend span')].map((name) => name.textContent)")
    assert legend == ["qwen3-reranker-20261129-000001", "qwen3-reranker-20261129-000002"]
    assert (count(page, "#parallel path.chosen"), count(page, "#scatter circle.chosen")) == (2, 2)
    assert page.ask("document.getElementById('compare').textContent") == " ".join(["orch compare", *legend])
    focus(page, "clear")
    page.press("Enter")
    assert page.ask("document.getElementById('chosen').hidden") is True


def test_another_metric_and_another_axis_are_drawn(page):
    before = page.ask("document.getElementById('scatter').innerHTML")
    page.ask(
        "((metric) => { metric.value = 1; metric.dispatchEvent(new Event('change')); })(document.getElementById('metric'))"
    )
    assert page.ask("document.getElementById('sort-after').textContent") == "MRR@10"
    page.ask(
        "((axis) => { axis.value = 2; axis.dispatchEvent(new Event('change')); })(document.getElementById('axis'))"
    )
    assert page.ask("document.getElementById('scatter').innerHTML") != before
    assert page.complaints == []


def test_the_page_speaks_both_languages(page):
    focus(page, "language")
    page.press("Enter")
    assert page.ask("document.documentElement.lang") == "zh-CN"
    assert page.ask("document.querySelector('h1').textContent") == "运行总览"
    assert page.ask("document.getElementById('count').textContent") == "显示 5 个中的 5 个"
    page.press("Enter")
    assert page.ask("document.querySelector('h1').textContent") == "Runs"


def test_paper_has_no_controls_and_the_dark_has_light_text(page):
    ink = page.ask("getComputedStyle(document.body).color")
    page.media("print")
    hidden = "['controls', 'language'].map((name) => getComputedStyle(document.getElementById(name)).display)"
    assert page.ask(hidden) == ["none", "none"]
    assert page.ask("getComputedStyle(document.getElementById('rows')).maxHeight") == "none"
    page.media(dark=True)
    assert page.ask("getComputedStyle(document.body).color") != ink
    page.media()


def test_what_runs_say_is_shown_as_text(browser, runs, tmp_path):
    run = RunDir(runs / "qwen3-reranker-20261129-000001")
    plan = json.loads(run.plan_json.read_text())
    plan["name"] = plan["recipe"]["loss"]["type"] = HOSTILE
    write_json(run.plan_json, plan)
    (runs / "qwen3-reranker-20261129-000002" / "report.json").write_text("{")
    write_board((runs,), tmp_path / "b.html")
    show(browser, tmp_path / "b.html")
    assert count(browser, "img") == 0
    assert browser.complaints == []
    assert HOSTILE in browser.ask("document.getElementById('body').textContent")
    faults = browser.ask("[...document.querySelectorAll('#body .fault')].map((fault) => fault.textContent).join()")
    assert "report.json is damaged" in faults


@pytest.mark.parametrize(
    "choice",
    [
        {},
        {"winner": 7, "not_worse": "abc"},
        {"winner": {"set": [], "interval": "x", "p": "y", "trials": {}}, "not_worse": [7, ["x"]]},
    ],
)
def test_a_choice_of_another_form_does_not_break_the_page(browser, runs, tmp_path, choice):
    sweep = json.loads((runs / "grid" / "sweep.json").read_text())
    write_json(runs / "grid" / "sweep.json", sweep | {"choice": choice})
    run = RunDir(runs / "qwen3-reranker-20261129-000001")
    report = json.loads(run.report_json.read_text())
    report["comparisons"][0] |= {"difference": "x", "low": [], "high": {}, "verdict": 7, "after": "1"}
    write_json(run.report_json, report | {"verdict": ["x"], "gate": {"passed": "x"}})
    if write_board((runs,), tmp_path / "b.html"):
        show(browser, tmp_path / "b.html")
    assert browser.complaints == []
    assert (count(browser, "#body tr"), count(browser, "#scatter circle") > 0) == (5, True)


def test_values_of_several_evaluation_sets_are_not_shown_as_comparable(browser, runs, tmp_path):
    run = RunDir(runs / "qwen3-reranker-20261129-000001")
    report = json.loads(run.report_json.read_text())
    write_json(run.report_json, report | {"eval": report["eval"] | {"sha256": "ff" * 32}})
    write_board((runs,), tmp_path / "b.html")
    show(browser, tmp_path / "b.html")
    assert browser.ask("document.getElementById('mixed').innerText").startswith(
        "These runs were measured on 2 evaluation sets"
    )
    browser.ask(
        "((set) => { set.value = 1; set.dispatchEvent(new Event('change')); })(document.getElementById('evaluated'))"
    )
    assert browser.ask("document.getElementById('mixed').hidden") is True


def test_five_hundred_runs_are_drawn(browser, reported, tmp_path):
    build_runs(reported, tmp_path / "runs", 20)
    write_board((tmp_path / "runs",), tmp_path / "b.html")
    text = (tmp_path / "b.html").read_text()
    opening = '<script type="application/json" id="data">'
    head, _, rest = text.partition(opening)
    data, _, tail = rest.partition("</script>")
    board = json.loads(data)
    board["runs"] = [
        run | {"path": f"{run['path']}-{copy}", "name": f"{run['name']}-{copy}"}
        for copy in range(25)
        for run in board["runs"]
    ]
    (tmp_path / "b.html").write_text(f"{head}{opening}{json.dumps(board)}</script>{tail}")
    show(browser, tmp_path / "b.html")
    assert browser.complaints == []
    assert count(browser, "#body tr") == 500
    measured = sum(bool(run.get("measures")) for run in board["runs"])
    assert (count(browser, "#parallel path.run"), count(browser, "#scatter circle")) == (measured, measured)
    focus(browser, "words")
    browser.write("grid")
    browser.ask("new Promise((done) => setTimeout(done, 300))")  # longer than the page waits for the end of a word
    assert count(browser, "#body tr") == 175


def test_a_served_page_shows_what_has_come_and_keeps_what_was_typed(browser, runs, reported):
    with BoardServer((runs,)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        show(browser, f"http://127.0.0.1:{server.server_port}/")
        focus(browser, "words")
        browser.write("new")
        copy_run(reported, runs / "new", 9)
        end = time.monotonic() + 60
        while browser.ask("document.getElementById('count').textContent") != "1 of 6 shown":
            assert time.monotonic() < end
            time.sleep(0.2)
        assert (browser.ask("document.getElementById('words').value"), browser.ask(FOCUS)) == ("new", "words")
        link = browser.ask("document.querySelector('#body a').href")
        server.shutdown()
    assert browser.complaints == []
    assert link.startswith(f"http://127.0.0.1:{server.server_port}/report/")
    assert {address.rsplit("/", 1)[0] for address in browser.requests} == {f"http://127.0.0.1:{server.server_port}"}
