from __future__ import annotations

import json
import struct

import pytest

from orchestrator.supervise.checkpoints import find_defect, find_newest_complete, is_whole_safetensors


def write_safetensors(path, floats=4):
    header = json.dumps({"w": {"dtype": "F32", "shape": [floats], "data_offsets": [0, 4 * floats]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 4 * floats)


@pytest.fixture
def make(tmp_path):
    def make(step, *, deepspeed=False):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        write_safetensors(folder / "adapter_model.safetensors")
        if deepspeed:
            (folder / f"global_step{step}").mkdir()
            (folder / f"global_step{step}" / "mp_rank_00_model_states.pt").write_bytes(b"x")
            (folder / "latest").write_text(f"global_step{step}")
        (folder / "trainer_state.json").write_text(f'{{"global_step": {step}, "best_metric": NaN}}')
        return folder

    return make


def test_the_highest_number_wins_not_the_highest_name(tmp_path, make):
    make(9)
    make(100)
    make(20)
    assert find_newest_complete(tmp_path).newest.name == "checkpoint-100"


def test_there_may_be_none(tmp_path):
    assert find_newest_complete(tmp_path / "no").newest is None
    assert find_newest_complete(tmp_path).newest is None


def damage_state_empty(folder):
    (folder / "trainer_state.json").write_text("")


def damage_state_missing(folder):
    (folder / "trainer_state.json").unlink()


def damage_state_cut(folder):
    (folder / "trainer_state.json").write_text('{"global_step": 2')


def damage_weights_cut(folder):
    path = folder / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def damage_weights_header(folder):
    (folder / "adapter_model.safetensors").write_bytes(b"\xff" * 40)


def damage_weights_missing(folder):
    (folder / "adapter_model.safetensors").unlink()


def damage_shard_missing(folder):
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00002-of-00002.safetensors"}}')


def damage_other_weights_empty(folder):
    (folder / "pytorch_model.bin").write_bytes(b"")


DAMAGES = [
    damage_state_empty, damage_state_missing, damage_state_cut, damage_weights_cut, damage_weights_header,
    damage_weights_missing, damage_shard_missing, damage_other_weights_empty,
]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_newest_checkpoint_is_passed_over_and_named(tmp_path, make, damage):
    make(2)
    damage(make(4))
    found = find_newest_complete(tmp_path)
    assert found.newest.name == "checkpoint-2"
    assert [item.path.name for item in found.incomplete] == ["checkpoint-4"]
    assert found.incomplete[0].why


def test_a_deepspeed_checkpoint_is_complete(make):
    assert find_defect(make(2, deepspeed=True)) is None


def test_a_deepspeed_checkpoint_needs_the_folder_that_latest_names(make):
    folder = make(2, deepspeed=True)
    (folder / "latest").write_text("global_step9")
    assert "DeepSpeed" in find_defect(folder)


def test_a_deepspeed_checkpoint_with_an_empty_file_is_incomplete(make):
    folder = make(2, deepspeed=True)
    (folder / "global_step2" / "mp_rank_00_model_states.pt").write_bytes(b"")
    assert "empty" in find_defect(folder)
    (folder / "global_step2" / "mp_rank_00_model_states.pt").unlink()
    assert "empty" in find_defect(folder)


def test_a_file_or_foreign_folder_is_no_checkpoint(tmp_path):
    (tmp_path / "checkpoint-7").write_text("")
    (tmp_path / "checkpoint-final").mkdir()
    assert find_newest_complete(tmp_path).newest is None


@pytest.mark.parametrize(
    "content", [b"", b"abc", b"\0" * 8, struct.pack("<Q", 5) + b"[1,2]", struct.pack("<Q", 2) + b"{}x"]
)
def test_what_is_no_safetensors_file_is_not_whole(tmp_path, content):
    (tmp_path / "x").write_bytes(content)
    assert not is_whole_safetensors(tmp_path / "x")
