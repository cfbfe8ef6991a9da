"""A real finished run is tagged, listed with what it was made of, shown on the board, and asked for by its tag."""

from __future__ import annotations

import json

from tests.e2e.conftest import orch


def test_a_finished_run_has_a_tag_a_lineage_and_a_row_on_the_board(cross_encoder_runs, tmp_path):
    run = cross_encoder_runs["bert_pointwise"]
    runs = ("--runs", str(run.parent))
    assert orch("tag", str(run), "production", *runs).code == 0
    [model] = [model for model in orch("ls", "--models", "--json", *runs).data if model["path"] == str(run)]
    provenance = json.loads((run / "provenance.json").read_text(encoding="utf-8"))
    assert (model["tags"], model["recipe_sha256"]) == (["production"], provenance["recipe_sha256"])
    assert model["inputs"] == provenance["inputs"]
    assert {path.rsplit("/", 1)[1].split(".")[-1] for path in model["data"]} == {"jsonl"}
    assert orch("reproduce", "production", "--dry-run", *runs).code == 0
    page = tmp_path / "board.html"
    assert orch("board", str(run), "-o", str(page)).code == 0
    data = page.read_text(encoding="utf-8").split('id="data">', 1)[1].split("</script>", 1)[0]
    [row] = json.loads(data)["runs"]
    report = json.loads((run / "report.json").read_text(encoding="utf-8"))
    assert (row["state"], row["verdict"]) == ("done", report["verdict"])
    assert row["measures"][row["headline"]]["difference"] == report["comparisons"][0]["difference"]
    assert row["curve"]
