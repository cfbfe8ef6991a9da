from __future__ import annotations

import io
import json
import struct
import zipfile

import pytest

from orchestrator.machine.weights import is_whole_safetensors
from orchestrator.run.resume import (
    clear_for_resume,
    find_defect,
    find_newest_complete,
    find_resume_defect,
)


def make_archive():
    """Return what torch.save writes: an archive of files, uncompressed, with checksums."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", b"x" * 1000)
    return stream.getvalue()


ARCHIVE = make_archive()
FLIPPED = ARCHIVE[:500] + bytes([ARCHIVE[500] ^ 1]) + ARCHIVE[501:]


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
            (folder / f"global_step{step}" / "mp_rank_00_model_states.pt").write_bytes(ARCHIVE)
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


def write_state_to_go_on(folder, names=("optimizer.pt", "scheduler.pt", "rng_state.pth")):
    for name in names:
        (folder / name).write_bytes(ARCHIVE)
    return folder


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_what_another_checkpoint_has_must_be_there(make, name):
    write_state_to_go_on(make(2))
    newer = write_state_to_go_on(make(4))
    assert find_resume_defect(newer) is None
    (newer / name).unlink()
    assert find_resume_defect(newer) == f"{name} is missing"
    assert find_defect(newer) is None  # its weights are whole: it can be merged


def test_a_trainer_that_saves_the_weights_alone_is_taken_at_its_word(make):
    make(2)
    assert find_resume_defect(make(4)) is None


@pytest.mark.parametrize(
    ("names", "missing"),
    [
        (("optimizer.pt", "rng_state.pth"), "scheduler.pt"),
        (("optimizer.pt", "scheduler.pt"), "rng_state.pth"),
        (("scheduler.pt",), "rng_state.pth"),
    ],
)
def test_a_single_checkpoint_must_have_what_goes_together(make, names, missing):
    assert find_resume_defect(write_state_to_go_on(make(2), names)) == f"{missing} is missing"


def test_a_single_deepspeed_checkpoint_must_have_its_random_state_too(make):
    assert find_resume_defect(make(2, deepspeed=True)) == "rng_state.pth is missing"


def test_every_process_has_its_random_state(make):
    names = ("optimizer.pt", "scheduler.pt", "rng_state_0.pth", "rng_state_1.pth")
    write_state_to_go_on(make(2), names)
    newer = write_state_to_go_on(make(4), names[:3])
    assert find_resume_defect(newer) == "rng_state_1.pth is missing"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is empty"),
        (b"\0" * 100, "is damaged"),
        (ARCHIVE[:-30], "is cut off"),
        (ARCHIVE[:600], "is cut off"),
        (FLIPPED, "is damaged"),
        (b"\x80\x02a pickle of old", None),
    ],
)
def test_what_torch_saved_must_be_whole(make, content, why):
    folder = write_state_to_go_on(make(2, deepspeed=True), ["rng_state.pth"])
    file = folder / "global_step2" / "mp_rank_00_model_states.pt"
    file.write_bytes(content)
    found = find_resume_defect(folder)
    assert (found is None) == (why is None)
    assert why is None or found.endswith(why)


def test_what_cannot_be_continued_is_moved_out_of_the_trainers_sight(tmp_path, make):
    make(2)
    (make(4) / "trainer_state.json").unlink()
    (tmp_path / "last").symlink_to("checkpoint-4")
    aside = tmp_path / "aside"
    (aside / "checkpoint-4.attempt-1").mkdir(parents=True)
    clear_for_resume(tmp_path, find_newest_complete(tmp_path), aside=aside, attempt=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["aside", "checkpoint-2"]
    assert (aside / "checkpoint-4.attempt-2" / "adapter_model.safetensors").exists()


def end(folder, step):
    (folder / "trainer_state.json").write_text(f'{{"global_step": {step}, "max_steps": {step}}}')
    return folder


def test_the_end_of_a_training_is_continued_only_where_there_is_nothing_else(tmp_path, make):
    last = end(make(4), 4)
    assert find_newest_complete(tmp_path).newest == last
    assert find_newest_complete(tmp_path, tried=str(last)).newest is None
    before = make(2)
    found = find_newest_complete(tmp_path)
    assert found.newest == before
    assert [item.path for item in found.incomplete] == [last]
