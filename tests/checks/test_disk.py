"""Room on the disks: what a run writes is counted, and what cannot be written is said with the reason."""

from __future__ import annotations

import errno
import json
import os
import shutil
from typing import NamedTuple

import pytest
from msgspec.structs import replace

from orchestrator.backends.models import BaseModel
from orchestrator.checks import machine
from orchestrator.checks.machine import check_disk, estimate_need, find_disk_problem
from tests.checks.test_memory import QWEN3

GIB = 1024**3


class Usage(NamedTuple):
    total: int
    used: int
    free: int


@pytest.fixture
def plan_here(tmp_path, plan_for, monkeypatch):
    """Plan a recipe for a model of Qwen3-0.6B's sizes, with a run folder that is not there yet."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))

    def plan_here(*overrides: str, local: bool = True, **settings):
        path = tmp_path / "model"
        path.mkdir(exist_ok=True)
        (path / "config.json").write_text(json.dumps(QWEN3))
        name = "Qwen/Qwen3-Reranker-0.6B"
        model = BaseModel(name, str(path) if local else name, path if local else None, "decoder", "qwen3-native")
        job, plan = plan_for(model, *overrides, **settings)
        return replace(job, run_dir=tmp_path / "not" / "there" / "yet"), plan

    return plan_here


@pytest.fixture
def free(monkeypatch):
    """Let every disk have so many bytes free."""

    def free(size: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(10**13, 0, size))

    return free


def test_a_run_that_has_room_is_not_spoken_of(plan_here, free):
    free(100 * GIB)
    assert list(check_disk(*plan_here())) == []


def test_full_training_counts_weights_and_optimizer_of_every_checkpoint(plan_here):
    need = estimate_need(*plan_here("train.save_strategy=steps", recipe="qwen3_embedding_full"))
    parameters = 28 * (1024 * 2 * (2048 + 1024) + 3 * 1024 * 3072) + 151669 * 1024
    assert need.checkpoint == parameters * (4 + 8)
    assert need.checkpoints == 3  # two are kept, and a third is written before one of them goes
    assert need.models == parameters * 4


def test_lora_checkpoints_are_small_and_merge_and_package_are_whole(plan_here):
    need = estimate_need(*plan_here())
    assert need.checkpoint < GIB / 10
    assert need.models == pytest.approx(2 * 2 * 0.596e9, rel=0.02)


def test_a_run_of_few_epochs_keeps_no_more_checkpoints_than_it_makes(plan_here):
    assert estimate_need(*plan_here("train.num_train_epochs=1")).checkpoints == 1


def test_a_disk_that_is_too_small_is_said_with_the_numbers_and_what_to_lower(plan_here, free):
    free(10 * GIB)
    (problem,) = check_disk(*plan_here("train.save_strategy=steps", recipe="qwen3_embedding_full"))
    assert "the run writes about 22 GiB (3 checkpoints of 6.7 GiB, 2.2 GiB for merge and package" in problem.message
    assert "and 10 GiB are free under" in problem.message
    assert "train.save_total_limit: 1 instead of 2 saves 6.7 GiB" in problem.hint
    assert "another disk with -o" in problem.hint


def test_save_only_model_leaves_the_optimizer_out(plan_here):
    whole = estimate_need(*plan_here(recipe="qwen3_embedding_full"))
    need = estimate_need(*plan_here("train.save_only_model=true", recipe="qwen3_embedding_full"))
    assert need.checkpoint < whole.checkpoint / 2


def test_a_model_on_a_hub_needs_room_for_its_download(plan_here, free):
    free(int(1.5 * GIB))
    (problem,) = check_disk(*plan_here(local=False))
    assert "to download" in problem.message


def test_the_cache_on_another_disk_is_looked_at_by_itself(plan_here, monkeypatch, tmp_path):
    sizes = {"cache": GIB // 2, "runs": 100 * GIB}
    job, plan = plan_here(local=False)

    class Other:
        def __init__(self, path):
            self.path = path

        def stat(self):
            return os.stat_result((0, 0, 7, 0, 0, 0, 0, 0, 0, 0))

        def __str__(self):
            return "/cache"

    found = machine.find_existing
    cache = Other(tmp_path)
    monkeypatch.setattr(machine, "find_existing", lambda path: cache if "hub" in str(path) else found(path))
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: Usage(10**13, 0, sizes["cache" if path is cache else "runs"])
    )
    (problem,) = check_disk(job, plan)
    assert "Qwen/Qwen3-Reranker-0.6B is about 1.1 GiB to download, and 0.5 GiB are free under /cache" in problem.message
    assert "HF_HOME" in problem.hint


def test_a_model_whose_name_says_no_size_is_not_counted(plan_here):
    job, plan = plan_here(local=False)
    nameless = replace(job, model=replace(job.model, name="me/my-own-reranker"))
    assert estimate_need(nameless, plan).models == 0


def test_a_nearly_full_disk_is_refused_whatever_the_run_writes(plan_here, free):
    free(100 * 1024**2)
    (problem,) = check_disk(*plan_here(smoke=True))
    assert "only 100 MiB are free under" in problem.message


@pytest.mark.parametrize(
    ("number", "why"),
    [
        (errno.EROFS, "it is mounted read-only"),
        (errno.EDQUOT, "your quota there is used up"),
        (errno.ENOSPC, "no space or no inode is left there"),
        (errno.EACCES, "you may not write there"),
        (errno.EIO, os.strerror(errno.EIO)),
    ],
)
def test_what_the_system_refuses_is_said_in_words(tmp_path, monkeypatch, number, why):
    def refuse(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refuse)
    assert f"cannot be written to: {why}" in find_disk_problem(tmp_path / "new").message


def test_a_disk_without_inodes_is_refused(tmp_path, monkeypatch):
    status = os.statvfs(tmp_path)
    values = [*status]
    values[5], values[7] = 10**6, 3  # f_files, f_favail
    monkeypatch.setattr(os, "statvfs", lambda _path: os.statvfs_result(values))
    assert "takes only 3 more files (inodes)" in find_disk_problem(tmp_path).message


def test_a_file_in_the_way_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    assert find_disk_problem(tmp_path / "file").message.endswith("is a file, not a folder")
    assert find_disk_problem(tmp_path / "file" / "run").message.endswith("is a file, not a folder")
