from __future__ import annotations

from orchestrator.report.publish import write_results

METRICS = {
    "headline": {"metric": "map"},
    "metrics": ["map"],
    "comparisons": [],
    "kind": "group",
    "unit": "query",
    "eval": {"units": 3},
    "gaps": [],
    "systems": [
        {"id": "native", "role": "baseline", "label": "Base | <b>", "head": "new", "means": {"map": 0.25}},
        {"id": "tuned", "role": "tuned", "label": "Tuned", "head": None, "means": {"map": 0.5}},
    ],
}


def test_the_results_are_put_at_the_marker(tmp_path):
    card = tmp_path / "README.md"
    card.write_text("# Model\n\n<!-- orch:results -->\n\n## Use\n")
    assert write_results(card, METRICS)
    before, results = card.read_text().split("<!-- orch:results -->")
    assert (before, results.rstrip().endswith("## Use")) == ("# Model\n\n", True)
    assert "| Tuned | **0.500** |" in results


def test_writing_twice_gives_the_same_card(tmp_path):
    card = tmp_path / "README.md"
    card.write_text("# Model\n\n<!-- orch:results -->\n\n## Use\n")
    write_results(card, METRICS)
    first = card.read_text()
    assert (write_results(card, METRICS), card.read_text()) == (False, first)


def test_new_results_take_the_place_of_old_ones(tmp_path):
    card = tmp_path / "README.md"
    card.write_text("<!-- orch:results -->\n")
    write_results(card, METRICS)
    changed = {**METRICS, "systems": [{**METRICS["systems"][1], "means": {"map": 0.75}}]}
    write_results(card, changed)
    assert ("0.750" in card.read_text(), "0.500" in card.read_text()) == (True, False)


def test_a_label_cannot_break_the_table(tmp_path):
    card = tmp_path / "README.md"
    card.write_text("<!-- orch:results -->\n")
    write_results(card, METRICS)
    assert "Base \\| &lt;b>" in card.read_text()


def test_a_card_without_the_marker_is_left_alone(tmp_path):
    card = tmp_path / "README.md"
    card.write_text("mine")
    assert (write_results(card, METRICS), card.read_text()) == (False, "mine")


def test_no_card_is_no_error(tmp_path):
    assert not write_results(tmp_path / "README.md", METRICS)
