"""A model that Orch did not package: the folder that a server gets, and the numbers that it is held against."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import PreflightError
from orchestrator.serving.artefact import opened
from orchestrator.serving.chosen_models import Reading
from tests.serving.test_check_command import orch

QWEN3 = Reading(format="qwen3-native")


@pytest.fixture(autouse=True)
def forked(warm, monkeypatch):
    for name, value in warm.items():
        monkeypatch.setenv(name, value)


def test_a_models_own_answers_are_what_its_server_is_checked_with(tiny_decoder, fake_vllm):
    with opened(
        str(tiny_decoder), QWEN3, fake_vllm, precision="fp32", with_probes=True, tell=lambda _: None
    ) as artefact:
        folder = artefact.folder
        assert (folder / "model.safetensors").is_symlink()
        assert "document" in (folder / "chat_template.jinja").read_text(encoding="utf-8")
        probes = artefact.spec["probes"]
        assert len({probe["score"] for probe in probes}) == len(probes) == 3
        assert artefact.spec["false_token_id"] != artefact.spec["true_token_id"]
    assert not folder.exists()
    assert not (tiny_decoder / "scoring.json").exists()


@pytest.mark.parametrize(
    ("name", "reading", "said"),
    [
        ("nobody/has-this", QWEN3, "not on this machine"),
        ("{tiny}", Reading(format="cross-encoder"), "no trained head"),
    ],
)
def test_a_model_that_cannot_be_asked_so_is_refused_before_anything_starts(tiny_decoder, name, reading, said):
    place = name.format(tiny=tiny_decoder)
    with (
        pytest.raises(PreflightError, match=said),
        opened(place, reading, "/no/python", precision="fp32", with_probes=True, tell=print),
    ):
        pass


@pytest.mark.parametrize("more", [("--format", "prose"), ("--format", "auto", "--dry-run")])
def test_a_format_that_nobody_knows_or_shows_is_a_wrong_use(tiny_decoder, more):
    done = orch("serve", str(tiny_decoder), *more)
    assert done.returncode == 2
    assert "--format" in done.stderr or "--dry-run" in done.stderr


def test_a_folder_that_says_nothing_is_told_of_format(tiny_decoder):
    done = orch("serve", str(Path(tiny_decoder)))
    assert done.returncode == 9
    assert "--format" in done.stderr
