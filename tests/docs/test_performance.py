"""The tables of docs/performance.md are those that the benchmarks kept, and what measures them counts rightly."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "performance.md"
ROW = {"what": "a step", "native": 252.0, "orch": 211.4, "unit": "CPU s", "ratio": 0.8389, "equal": "loss"}
KEPT = {
    "rows": [ROW],
    "machine": {"cpu": "a processor", "cores": 2, "memory_gb": 25},
    "versions": {"python": "3.11"},
    "command": "python benchmarks/step.py",
}


@pytest.fixture(scope="module")
def bench():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import record
        import table
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    yield type("Bench", (), {"record": record, "table": table})
    for name in ("record", "table"):
        del sys.modules[name]


def test_every_table_of_the_page_is_the_one_that_was_kept(bench):
    text = PAGE.read_text(encoding="utf-8")
    kept = {name: found for name in bench.table.PARTS if (found := bench.table.load(name))}
    for name, found in kept.items():
        assert bench.table.write_page(text, name, bench.table.build_table(name, found)) == text, (
            "write it anew: python benchmarks/table.py --write"
        )
    assert set(bench.table.list_shown(text)) == set(kept)


def test_the_parts_of_the_page_stand_in_their_order(bench):
    shown = bench.table.list_shown(PAGE.read_text(encoding="utf-8"))
    assert shown == [name for name in bench.table.PARTS if name in shown]


def test_a_table_has_every_column_and_says_where_it_was_measured(bench):
    table = bench.table.build_table("step", KEPT)
    assert "| a step | 252 | 211 | CPU s | 0.839 | loss |" in table
    assert "`python benchmarks/step.py`; a processor, 2 cores, 25 GB; python 3.11." in table


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (False, "NO"),
        (True, "yes"),
        (12345.6, "12,300"),
        (0.00123, "0.00123"),
        (3.0, "3"),
        ("to 1e-6", "to 1e-6"),
    ],
)
def test_values_are_shown_with_three_figures(bench, value, shown):
    assert bench.table.show(value) == shown


def test_a_page_without_the_marks_is_refused(bench):
    with pytest.raises(SystemExit, match="no place for this table: <!-- bench step -->"):
        bench.table.write_page("# Performance", "step", "|")


def test_memory_is_that_of_the_child_and_not_of_who_starts_it(bench):
    held = bytearray(300 * 2**20)
    held[::4096] = b"x" * len(held[::4096])
    small = bench.record.measure([sys.executable, "-S", "-c", "pass"])
    large = bench.record.measure([sys.executable, "-S", "-c", "x = b'x' * (150 * 2**20)"])
    assert small.peak_mb < 100 < large.peak_mb < 250


def test_cpu_time_includes_the_children_of_the_child(bench):
    spin = "import time; t = time.process_time() + 0.3\nwhile time.process_time() < t: pass"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {spin!r}])"
    assert bench.record.measure([sys.executable, "-c", code]).cpu_s > 0.3


def test_a_command_that_fails_ends_the_benchmark_with_what_it_said(bench):
    with pytest.raises(SystemExit, match="no such model"):
        bench.record.measure([sys.executable, "-c", "raise SystemExit('no such model')"])


def test_the_sides_run_in_turn_and_who_begins_alternates(bench):
    order = []
    sides = bench.record.alternate(lambda: order.append("native"), lambda: order.append("orch"), times=3)
    assert order == ["native", "orch", "orch", "native", "native", "orch"]
    assert [len(side) for side in sides] == [3, 3]


def test_a_row_is_the_ratio_of_the_medians(bench):
    row = bench.record.compare("a step", [2.0, 4.0, 90.0], [3.0, 1.0, 3.0], "CPU s", equal="loss")
    assert (row.native, row.orch, row.ratio) == (4.0, 3.0, 0.75)


def test_rows_that_are_measured_again_replace_their_kind_alone(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(bench.record, "FOLDER", tmp_path)
    other = bench.record.Row("another", 1.0, 1.0, "CPU s", 1.0, None)
    bench.record.write("step", [bench.record.Row(**ROW), other], "old")
    path = bench.record.write("step", [bench.record.Row(**{**ROW, "orch": 1.0})], "new")
    kept = bench.table.load("step", path.parent)
    assert [(row["what"], row["orch"]) for row in kept["rows"]] == [("a step", 1.0), ("another", 1.0)]
    assert kept["command"] == "new"
    assert kept["machine"]["cores"] >= 1
    assert bench.table.build_table("step", kept)
