from __future__ import annotations

import os

import pytest
from msgspec.structs import replace

from orchestrator.machine.files import WHOLE_BYTES, hash_path
from orchestrator.recipe.plan import Command, File, Plan, Stage
from orchestrator.run.resume import find_output, list_inputs, stage_digest


@pytest.fixture
def plan(tmp_path):
    (tmp_path / "data.jsonl").write_text("1\n")
    first = Stage("01-a", "a", "", Command(("a",)), outputs=("data/train.jsonl", "stages/01-a/output/x*"))
    second = Stage("02-b", "b", "", Command(("b", "--x", "1")), inputs=("data.jsonl",), files=("files/ds.json",))
    return Plan("t", str(tmp_path), "t", "b", False, {}, (first, second), (File("files/ds.json", "{}"),))


def digest(plan, **changes):
    stage = replace(plan.stages[1], **changes)
    return stage_digest(replace(plan, stages=(plan.stages[0], stage)), stage)


def test_what_decides_the_result_changes_the_digest(plan, tmp_path):
    before = digest(plan)
    assert digest(plan) == before
    assert digest(plan, title="other", timeout_s=5.0) == before
    assert digest(plan, command=Command(("b", "--x", "2"))) != before
    assert digest(plan, command=Command(("b", "--x", "1"), env=(("A", "1"),))) != before
    changed = replace(plan, files=(File("files/ds.json", "{ }"),))
    assert digest(changed) != before
    (tmp_path / "data.jsonl").write_text("2\n")
    assert digest(plan) != before


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--train_data", "{root}/data/train.jsonl"), ("data/train.jsonl",)),
        (("--data={root}/data/train.jsonl",), ("data/train.jsonl",)),
        (("--data", "{root}/data"), ("data/train.jsonl",)),
        (("{root}",), ("data/train.jsonl", "stages/01-a/output/x*")),
        (("--x", "data/train.jsonl"), ()),
        (("--out", "{root}/stages/02-b/output"), ()),
    ],
)
def test_an_earlier_output_that_the_command_names_is_an_input(plan, tmp_path, words, expected):
    argv = tuple(word.format(root=tmp_path) for word in words)
    stage = replace(plan.stages[1], inputs=(), command=Command(argv))
    assert list_inputs(replace(plan, stages=(plan.stages[0], stage)), stage) == expected


def test_times_do_not_count_and_names_and_contents_do(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "a").write_text("1")
    before = hash_path(folder)
    os.utime(folder / "a", (0, 0))
    assert hash_path(folder) == before
    (folder / "README.md").write_text("figures")
    assert hash_path(folder) == before
    (folder / "a").rename(folder / "b")
    assert hash_path(folder) != before


def test_what_is_not_there_has_a_hash_of_its_own(tmp_path):
    assert hash_path(tmp_path / "no") == "absent"
    (tmp_path / "empty").write_bytes(b"")
    assert hash_path(tmp_path / "empty") != "absent"


def test_a_hub_snapshot_of_links_counts_with_what_they_point_to(tmp_path):
    (tmp_path / "blob").write_text("1")
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "model.safetensors").symlink_to(tmp_path / "blob")
    before = hash_path(tmp_path / "snapshot")
    (tmp_path / "blob").write_text("2")
    assert hash_path(tmp_path / "snapshot") != before


def test_a_linked_folder_counts_with_its_files_and_a_circle_of_links_ends(tmp_path):
    for name in ("model", "elsewhere"):
        (tmp_path / name).mkdir()
    (tmp_path / "model" / "again").symlink_to(tmp_path / "model")
    (tmp_path / "model" / "linked").symlink_to(tmp_path / "elsewhere")
    before = hash_path(tmp_path / "model")
    (tmp_path / "elsewhere" / "model.safetensors").write_bytes(b"weights")
    assert hash_path(tmp_path / "model") != before


@pytest.mark.parametrize("at", [0.0, 0.3, 0.5, 0.9, 1.0])
def test_a_changed_layer_of_a_large_file_is_seen_wherever_it_is(tmp_path, at):
    path = tmp_path / "model.safetensors"
    size = WHOLE_BYTES + (1 << 20)
    with path.open("wb") as stream:
        stream.truncate(size)
    before = hash_path(path)
    with path.open("r+b") as stream:  # a layer of 1 MiB
        stream.seek(int((size - (1 << 20)) * at))
        stream.write(b"x" * (1 << 20))
    assert hash_path(path) != before


def test_an_output_may_be_a_pattern(tmp_path):
    (tmp_path / "model-00001.safetensors").write_text("")
    (tmp_path / "model-00002.safetensors").write_text("")
    assert len(find_output(tmp_path, "model*.safetensors")) == 2
    assert find_output(tmp_path, "other*") == ()
    assert find_output(tmp_path, "model-00001.safetensors") == (tmp_path / "model-00001.safetensors",)
