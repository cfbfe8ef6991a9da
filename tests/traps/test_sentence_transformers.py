"""sentence-transformers ends with exit code 0 and a model of NaN, or another one than was asked for; Orch does not."""

from __future__ import annotations

import json
import math
import shutil
from types import SimpleNamespace

import pytest

from orchestrator.workers.failure import WorkerError
from orchestrator.workers.training import require_resumable
from orchestrator.workers.weights import hash_file, scan_weights
from tests.traps.conftest import build_tiny, make_groups
from tests.traps.native import Native, write_rows
from tests.traps.orch_side import find_loss_problem, run_worker_stage

SCRIPT = "tests.traps.cross_encoder_script"
ARGUMENTS = {
    "output_dir": "OUTPUT", "num_train_epochs": 1, "per_device_train_batch_size": 4, "learning_rate": 0.001,
    "logging_steps": 1, "save_strategy": "epoch", "use_cpu": True, "report_to": "none", "disable_tqdm": True,
}  # fmt: skip
PAIRS = [
    {"query": group["query"], "document": text, "label": float(text in group["pos"])}
    for group in make_groups(8)
    for text in (*group["pos"], group["neg"][0])
]


@pytest.fixture(scope="module")
def native(sentence_transformers: Native, texts) -> Native:
    """A warm sentence-transformers, and a tiny BERT."""
    sentence_transformers.argv = {"model": str(build_tiny(sentence_transformers, "encoder", texts))}
    return sentence_transformers


@pytest.fixture
def recipe(native):
    """The recipe that asks for the same."""
    train = {"per_device_train_batch_size": 4, "learning_rate": 0.001, "max_length": 64, "logging_steps": 1}
    parts = {"task": "reranker", "backend": "sentence-transformers", "loss": "pointwise_bce", "train": train}
    return {"name": "trap", "model": native.argv["model"], **parts}


def train(native, data, *, loss="BinaryCrossEntropyLoss", more=None, **changes):
    given = {**native.argv, "data": str(data), "loss": loss, "arguments": {**ARGUMENTS, **changes}, **(more or {})}
    return native.call(SCRIPT, [json.dumps(given)]).require_success()


def read_final(ended):
    return ended.output / "final" / "model.safetensors"


def test_a_sound_training_learns_and_passes(native, recipe, orch, rows):
    ended = train(native, rows(*PAIRS))
    assert len(ended.losses) == 4
    assert find_loss_problem(ended.steps) is None
    rows(*make_groups(8))
    answer = orch(recipe)
    assert answer.code == 0
    assert run_worker_stage(native, answer, kind="train").require_success().losses


def test_a_label_that_is_no_number(native, recipe, orch, rows):
    ended = train(native, rows(*PAIRS[:3], PAIRS[3] | {"label": math.nan}, *PAIRS[4:]))
    assert ended.losses[-1] == 0  # NaN is logged so
    assert scan_weights([read_final(ended)]).not_finite
    hits = [{"query": "what?", "hits": [{"content": "this", "label": 1}, {"content": "that", "label": math.nan}]}]
    rows(*hits)
    answer = orch(recipe)
    assert answer.code == 3
    assert "train.jsonl:1: not-json: NaN is not JSON" in answer.text


def test_a_diverged_training_that_logs_loss_0(native, recipe, orch, rows):
    ended = train(native, rows(*PAIRS), learning_rate=1e37)
    assert ended.losses[1:] == [0] * 3
    assert scan_weights([read_final(ended)]).not_finite
    rows(*make_groups(8))
    stopped = run_worker_stage(native, orch(recipe, train={"learning_rate": 1e37}), kind="train")
    assert stopped.code == 1
    assert "the training has diverged" in stopped.stderr
    assert not list(stopped.output.glob("checkpoint-*"))


def test_a_best_checkpoint_that_cannot_be_read(native, rows, tmp_path):
    against = [row | {"label": 1 - row["label"]} for row in PAIRS]  # what is learnt makes it worse
    validation = write_rows(tmp_path / "validation.jsonl", against)
    ended = train(
        native, rows(*PAIRS), num_train_epochs=2, eval_strategy="epoch", load_best_model_at_end=True,
        metric_for_best_model="loss", more={"validation": str(validation), "cut_best": True},
    )  # fmt: skip
    first, last = (ended.output / f"checkpoint-{step}" / "model.safetensors" for step in (4, 8))
    assert f"Could not load the best model from {first.parent}" in ended.stderr  # and so it saves the last one
    assert hash_file(read_final(ended)) == hash_file(last)
    with pytest.raises(WorkerError, match="is truncated"):
        scan_weights([first])  # what the package is made of is read first


def test_a_ranknet_to_which_all_gaps_are_alike(native, recipe, orch, rows):
    def grade(middle):
        return [
            {"query": group["query"], "docs": ["x", "y", "z"], "labels": [1, middle, 0]} for group in make_groups(4)
        ]

    losses = [train(native, rows(*grade(middle)), loss="RankNetLoss").losses for middle in (0.9, 0.1)]
    assert losses[0] == losses[1]
    found = []
    for middle in (0.9, 0.1):
        hits = [
            {
                "query": row["query"],
                "hits": [
                    {"content": text, "label": label} for text, label in zip(row["docs"], row["labels"], strict=True)
                ],
            }
            for row in grade(middle)
        ]
        rows(*hits)
        ended = run_worker_stage(native, orch(recipe, loss="pairwise_ranknet"), kind="train")
        found.append(ended.require_success().losses)
    assert found[0] != found[1]


@pytest.fixture(scope="module")
def trained(native, tmp_path_factory):
    """Two epochs, a checkpoint after each."""
    data = write_rows(tmp_path_factory.mktemp("resume") / "train.jsonl", PAIRS)
    return data, train(native, data, num_train_epochs=2)


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_checkpoint_without_its_training_state(native, trained, tmp_path, name):
    data, undisturbed = trained
    checkpoint = tmp_path / "output" / "checkpoint-4"
    shutil.copytree(undisturbed.output / "checkpoint-4", checkpoint)
    alone = SimpleNamespace(deepspeed=None, fsdp=None, world_size=1)
    require_resumable(checkpoint, alone)
    (checkpoint / name).unlink()
    changed = {"output_dir": str(checkpoint.parent), "num_train_epochs": 2, "more": {"resume": str(checkpoint)}}
    ended = train(native, data, **changed)
    assert len(ended.losses) == 4
    assert ended.losses != undisturbed.losses[4:]  # it has gone on as another training
    with pytest.raises(WorkerError, match=f"cannot be continued: {name} is missing"):
        require_resumable(checkpoint, alone)


LORA = {"task_type": "SEQ_CLS", "r": 4, "lora_alpha": 8, "target_modules": ["query", "value"]}


def read_names(folder):
    from safetensors import safe_open

    with safe_open(folder / "adapter_model.safetensors", framework="pt") as archive:
        return {name.removeprefix("base_model.model.") for name in archive.keys() if ".lora_" not in name}  # noqa: SIM118


def find_output(answer):
    (stage,) = [stage for stage in answer.plan.stages if stage.kind == "train"]
    return answer.job.run_dir / f"stages/{stage.name}/output"


def test_an_adapter_whose_head_is_lost(native, recipe, orch, rows, tmp_path):
    ended = train(native, rows(*PAIRS), more={"lora": LORA})
    assert len(ended.losses) == 4
    assert read_names(ended.output / "final") == set()
    adapter = ["--adapter", str(ended.output / "final"), "--out", str(tmp_path / "merged")]
    merged = native.call("orchestrator.workers", ["merge", *adapter])
    assert merged.code == 1
    assert "a head that it does not hold" in merged.stderr
    rows(*make_groups(8))
    answer = orch(recipe, train={"lora_rank": 4})
    assert answer.code == 0
    run_worker_stage(native, answer, kind="train").require_success()
    assert {"classifier.weight", "classifier.bias"} <= read_names(find_output(answer) / "last")


def test_a_resumed_dora_without_its_magnitudes(native, recipe, orch, rows):
    data, dora = rows(*PAIRS), {"lora": {**LORA, "use_dora": True, "modules_to_save": ["pooler", "classifier"]}}
    whole = train(native, data, more=dora, num_train_epochs=2)
    again = train(native, data, more={**dora, "resume": str(whole.output / "checkpoint-4")}, num_train_epochs=2)
    assert again.losses != whole.losses[4:]
    rows(*make_groups(8))
    answer = orch(recipe, train={"lora_rank": 4, "use_dora": True, "num_train_epochs": 2})
    first = run_worker_stage(native, answer, kind="train").require_success()
    undisturbed = first.losses[len(first.losses) // 2 :]
    steps = sorted(find_output(answer).glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    resumed = run_worker_stage(native, answer, kind="train", more=["--resume_from_checkpoint", str(steps[0])])
    continued = resumed.require_success().losses
    assert continued == undisturbed
