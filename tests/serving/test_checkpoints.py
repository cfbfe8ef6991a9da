"""Which checkpoint is merged, by which command, and what is refused."""

from __future__ import annotations

import json

import pytest
from msgspec.structs import replace

from orchestrator.errors import PreflightError, RunFolderError
from orchestrator.machine.rundir import RunDir
from orchestrator.recipe.plan import Command, Plan, Stage
from orchestrator.serving.merge import (
    MergeOptions,
    build_merge,
    build_verification,
    find_checkpoint,
    is_native,
    require_base,
    set_argument,
)

NATIVE = (
    "python", "/orch/workers", "fresh", "--out", "/run/stages/04-merge/output", "--", "swift.cli.export",
    "--adapters", "/run/stages/03-train/output/best", "--merge_lora", "true", "--output_dir", "{fresh}",
)  # fmt: skip
OWN = ("python", "/orch/workers", "merge", "--base", "b", "--adapter", "/run/stages/03-train/output", "--out", "/m")


def write_checkpoint(folder, *, lora=True, whole=True):
    folder.mkdir(parents=True, exist_ok=True)
    name = "adapter_model.safetensors" if lora else "model.safetensors"
    (folder / name).write_bytes((2).to_bytes(8, "little") + b"{}")
    (folder / ("adapter_config.json" if lora else "config.json")).write_text("{}", encoding="utf-8")
    if whole:
        (folder / "trainer_state.json").write_text('{"global_step": 1}', encoding="utf-8")


def make_run(root, merge=NATIVE, *, lora=True, done=True):
    """Return a run with checkpoints 6 and 12 by ms-swift, or by FlagEmbedding where `merge` is Orch's own."""
    run = RunDir(root)
    train = Stage("03-train", "train", "t", Command(("python", "-m", "trainer")))
    stages = [Stage("02-baseline", "baseline-native", "b", Command(("python", "/orch/workers", "score"))), train]
    if merge:
        stages.append(Stage("04-merge", "merge", "m", Command(merge, (("A", "1"),), "/run")))
    output = run.stage("03-train").output
    for number in (6, 12):
        write_checkpoint(output / f"checkpoint-{number}", lora=lora)
    if merge == OWN:
        write_checkpoint(output, lora=lora, whole=False)
    else:
        # as swift writes them, absolute, in a folder that has moved since
        (output / "best").symlink_to("/gone/output/checkpoint-6")
        (output / "last").symlink_to("/gone/output/checkpoint-12")
    if done:
        keys = {"stage": "03-train", "status": "done", "exit_code": 0, "digest": "", "started": 0, "finished": 0}
        run.stage("03-train").result_json.write_text(
            json.dumps({**keys, "seconds": 0, "attempts": 1}), encoding="utf-8"
        )
    return run, Plan("mine", str(root), "reranker", "swift", False, {}, tuple(stages), ())


@pytest.mark.parametrize(
    ("wanted", "name"),
    [(None, "checkpoint-6"), ("last", "checkpoint-12"), ("best", "checkpoint-6"), ("12", "checkpoint-12")],
)
def test_a_checkpoint_is_named_by_number_link_or_the_plan(tmp_path, wanted, name):
    run, plan = make_run(tmp_path)
    found = find_checkpoint(run, plan, wanted)
    assert (found.name, found.adapter.parent) == (name, run.stage("03-train").output)


def test_without_a_validation_set_ms_swift_names_its_last_checkpoint_only(tmp_path):
    run, plan = make_run(tmp_path)
    output = run.stage("03-train").output
    for name in ("best", "last"):
        (output / name).unlink()
    (output / "last-checkpoint").symlink_to("checkpoint-12")
    assert find_checkpoint(run, plan, "last").adapter == output / "checkpoint-12"
    with pytest.raises(RunFolderError, match="no 'best' checkpoint"):
        find_checkpoint(run, plan, "best")


def test_last_of_flagembedding_is_its_output_folder_and_best_is_unknown_there(tmp_path):
    run, plan = make_run(tmp_path, OWN)
    assert find_checkpoint(run, plan, None).adapter == run.stage("03-train").output
    with pytest.raises(RunFolderError, match="no 'best' checkpoint") as caught:
        find_checkpoint(run, plan, "best")
    assert caught.value.problems[0].hint == "there are: 6, 12"


def test_a_missing_checkpoint_is_answered_with_those_that_are_there(tmp_path):
    run, plan = make_run(tmp_path)
    with pytest.raises(RunFolderError, match="no checkpoint 7") as caught:
        find_checkpoint(run, plan, "7")
    assert caught.value.problems[0].hint == "there are: 6, 12"
    with pytest.raises(RunFolderError, match="no such checkpoint: 'newest'"):
        find_checkpoint(run, plan, "newest")


def test_an_unfinished_training_has_numbers_only(tmp_path):
    run, plan = make_run(tmp_path, done=False)
    with pytest.raises(RunFolderError, match="is not finished"):
        find_checkpoint(run, plan, None)
    assert find_checkpoint(run, plan, "12").name == "checkpoint-12"


def test_a_checkpoint_that_was_cut_off_is_refused(tmp_path):
    run, plan = make_run(tmp_path)
    (run.stage("03-train").output / "checkpoint-12" / "trainer_state.json").unlink()
    with pytest.raises(RunFolderError, match="not whole: trainer_state.json"):
        find_checkpoint(run, plan, "12")


@pytest.mark.parametrize("merge", [None, OWN], ids=["links", "FlagEmbedding"])
def test_a_run_without_lora_has_nothing_to_merge(tmp_path, merge):
    run, plan = make_run(tmp_path, merge, lora=False)
    with pytest.raises(RunFolderError, match="without LoRA"):
        find_checkpoint(run, plan, None)


def test_the_native_merge_of_the_plan_runs_with_another_adapter_folder_and_precision(tmp_path):
    run, plan = make_run(tmp_path)
    checkpoint = find_checkpoint(run, plan, "12")
    command = build_merge(run, plan, checkpoint, tmp_path / "out", MergeOptions("float16", "hi"))
    assert command.argv == (
        "python", "/orch/workers", "fresh", "--out", str(tmp_path / "out"), "--", "swift.cli.export",
        "--adapters", str(checkpoint.adapter), "--merge_lora", "true", "--output_dir", "{fresh}",
        "--torch_dtype=float16",
    )  # fmt: skip
    assert command.env == (("A", "1"),)
    assert is_native(command)
    compared = build_verification(run, plan, checkpoint, tmp_path / "out", "hi").argv
    assert compared[2:] == (
        "verify_merge", "--adapter", str(checkpoint.adapter), "--merged", str(tmp_path / "out"), "--test-prompt", "hi",
    )  # fmt: skip


def test_orchs_own_merge_compares_by_itself(tmp_path):
    run, plan = make_run(tmp_path, OWN)
    command = build_merge(run, plan, find_checkpoint(run, plan, "6"), tmp_path / "out", MergeOptions("auto", "-hi"))
    assert command.argv[3:5] == ("--base", "b")
    assert command.argv[6] == str(run.stage("03-train").output / "checkpoint-6")
    assert command.argv[7:] == ("--out", str(tmp_path / "out"), "--test-prompt=-hi")
    assert not is_native(command)


def test_a_run_that_merges_nothing_is_merged_by_orch(tmp_path):
    run, plan = make_run(tmp_path, None)
    plan = replace(plan, recipe={"model": {"trust_remote_code": True}})
    command = build_merge(run, plan, find_checkpoint(run, plan, "6"), tmp_path / "out", MergeOptions("bfloat16", None))
    assert command.argv == (
        "python", "/orch/workers", "merge", "--adapter", str(run.stage("03-train").output / "checkpoint-6"),
        "--out", str(tmp_path / "out"), "--dtype", "bfloat16", "--trust-remote-code",
    )  # fmt: skip


def test_an_argument_is_replaced_in_both_spellings_and_must_be_there():
    assert set_argument(("x", "--out=a"), ("--out", "--output_dir"), "b") == ("x", "--out=b")
    assert set_argument(("x", "--output_dir", "a", "y"), ("--out", "--output_dir"), "b") == (
        "x",
        "--output_dir",
        "b",
        "y",
    )
    with pytest.raises(RunFolderError, match="no --out or --output_dir"):
        set_argument(("x",), ("--out", "--output_dir"), "b")


def test_a_base_that_is_a_hub_id_or_given_anew_is_left_to_the_loader(tmp_path):
    path = tmp_path / "adapter_config.json"
    path.write_text('{"base_model_name_or_path": "Qwen/Qwen3-0.6B"}', encoding="utf-8")
    require_base(tmp_path, None)
    path.write_text("{}", encoding="utf-8")
    require_base(tmp_path, "Qwen/Qwen3-0.6B")
    with pytest.raises(PreflightError, match="names no base model"):
        require_base(tmp_path, None)
