"""How many rows a trainer must load: what the ledger of the prepared data says was kept."""

from __future__ import annotations

from orchestrator.machine.json_files import load_json
from orchestrator.machine.rundir import RunDir
from orchestrator.recipe.plan import Stage


def load_expected_rows(stage: Stage, run: RunDir) -> dict[str, int]:
    """Return the kept rows of each side, for a stage whose log counts rows; nothing where there is no ledger."""
    if not stage.counts_rows:
        return {}
    try:
        sides = load_json(run.ledger_json)["sides"]
        return {name: int(side["kept"]) for name, side in sides.items()}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
