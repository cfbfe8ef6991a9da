"""Sweeps: what sweep.json holds, which settings a recipe and a command line ask for, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import RunFolderError
from orchestrator.run.sweep import DONE, Sweep, Trial, is_sweep, load_sweep, trial_dir, write_sweep


def build_sweep() -> Sweep:
    trials = [
        Trial(0, "trials/000", {"train.learning_rate": 1e-5}, 42, 0, DONE, 0.8, 0.1, (0.02, 0.18)),
        Trial(1, "trials/001", {"train.learning_rate": 2e-5}, 42, 1),
    ]
    return Sweep("/recipes/a.yaml", ["train.learning_rate"], 1, trials, {"set": ["train.learning_rate=1e-5,2e-5"]})


def test_a_sweep_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert not is_sweep(tmp_path)
    write_sweep(tmp_path, build_sweep())
    assert is_sweep(tmp_path)
    assert load_sweep(tmp_path) == build_sweep()
    assert trial_dir(tmp_path, build_sweep().trials[1]).root == tmp_path / "trials" / "001"


def test_a_folder_without_a_sweep_is_said(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="is not a sweep"):
        load_sweep(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"recipe": "a"}', "cannot be read"),
        ('{"recipe": "a", "parameters": [], "seeds": 1, "trials": [], "format": 2}', "has format 2"),
    ],
)
def test_a_damaged_sweep_is_one_clear_error(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "sweep.json").write_text(text, encoding="utf-8")
    with pytest.raises(RunFolderError, match=said):
        load_sweep(tmp_path)
