"""FlagEmbedding ends with exit code 0 and a model that learnt nothing, or something else; Orch does not let it."""

from __future__ import annotations

import difflib
import json
import math
import re

import pytest

from orchestrator.backends.arguments import load_words
from orchestrator.run.resume import stage_digest
from orchestrator.workers.weights import scan_weights
from tests.traps.captured_logs import read_losses
from tests.traps.conftest import build_tiny, deepen, make_group, make_groups, refill
from tests.traps.native import Native, launch_two, spell
from tests.traps.orch_side import find_loss_problem, run_worker_stage

DECODER = "FlagEmbedding.finetune.reranker.decoder_only.base"
ENCODER = "FlagEmbedding.finetune.reranker.encoder_only.base"
ALONE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
COMMON = {
    "train_group_size": 4, "query_max_len": 64, "passage_max_len": 64, "output_dir": "OUTPUT", "cache_path": "cache",
    "learning_rate": 0.01, "num_train_epochs": 1, "per_device_train_batch_size": 4, "logging_steps": 1,
    "use_cpu": True, "report_to": "none", "save_strategy": "no",
}  # fmt: skip


@pytest.fixture(scope="module")
def native(flagembedding: Native, texts) -> Native:
    """FlagEmbedding's decoder trainer on a tiny Qwen3."""
    model = build_tiny(flagembedding, "decoder", texts)
    flagembedding.argv = {
        "model_name_or_path": model, "model_type": "decoder", "target_modules": ["q_proj", "v_proj"], **COMMON
    }  # fmt: skip
    return flagembedding


@pytest.fixture
def recipe(native):
    """The recipe that asks for the same."""
    train = {"train_group_size": 4, "query_max_len": 64, "passage_max_len": 64, "per_device_train_batch_size": 4,
             "target_modules": ["q_proj", "v_proj"]}  # fmt: skip
    model = str(native.argv["model_name_or_path"])
    return {"name": "trap", "task": "reranker", "backend": "flagembedding", "model": model, "train": train}


def test_a_sound_training_learns_and_passes(native, recipe, orch, rows):
    ended = native.train(DECODER, train_data=rows(*make_groups(16)), num_train_epochs=2).require_success()
    assert len(ended.losses) == 8
    assert ended.losses[-1] < ended.losses[0]
    assert find_loss_problem(ended.steps) is None
    assert orch(recipe).code == 0


@pytest.mark.parametrize(("module", "names"), [(DECODER, ["last_logits", "trim_padding"]), (ENCODER, ["trim_padding"])])
def test_every_loss_with_speedups_is_the_native_one(native, rows, texts, module, names):
    kind = "decoder" if module == DECODER else "encoder"
    groups = [make_group(n, pos=[f"a passage {n}" + f" that goes on {n}" * (n % 9)]) for n in range(24)]
    changes = {
        "model_name_or_path": build_tiny(native, kind, texts), "model_type": kind, "train_data": rows(*groups),
        "per_device_train_batch_size": 8, "train_group_size": 4, "query_max_len": 128, "passage_max_len": 256,
        "num_train_epochs": 2, "dataloader_drop_last": True, "target_modules": None, "save_strategy": "epoch",
    } | ({"lora_dropout": 0.0} if kind == "decoder" else {})  # fmt: skip
    if kind == "encoder":  # whose dropout draws numbers of its own for each part
        config = changes["model_name_or_path"] / "config.json"
        without = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "classifier_dropout": None}
        config.write_text(json.dumps(json.loads(config.read_text()) | without))
    plain = native.train(module, **changes).require_success()
    words = ["train_flagembedding", "--speedups", *names, "-m", module, *spell({**native.argv, **changes})]
    changed = native.call("orchestrator.workers", words).require_success()
    assert re.search(r"^orch-note speedups .*" + r".* ".join(names), changed.stdout, re.MULTILINE)
    assert "orch-caution" not in changed.stdout
    states = [json.loads((one.output / "checkpoint-6" / "trainer_state.json").read_text()) for one in (plain, changed)]
    losses = [[entry["loss"] for entry in state["log_history"] if "loss" in entry] for state in states]
    assert len(losses[0]) == 6
    assert losses[1] == pytest.approx(losses[0], abs=1e-6)


# Arguments


def test_a_group_of_one(native, recipe, orch, rows):
    ended = native.train(DECODER, train_data=rows(*make_groups()), train_group_size=1).require_success()
    assert ended.losses == [0, 0]
    answer = orch(recipe, train={"train_group_size": 1})
    assert answer.code == 2
    assert "a group of 1 has nothing to rank: the loss is always 0" in answer.text


@pytest.mark.parametrize(("query", "passage"), [(0, 0), (-5, 20)])
def test_lengths_of_zero_or_less(native, recipe, orch, rows, query, passage):
    lengths = {"query_max_len": query, "passage_max_len": passage}
    ended = native.train(DECODER, train_data=rows(*make_groups()), **lengths).require_success()
    assert len(ended.losses) == 2
    answer = orch(recipe, train=lengths)
    assert answer.code == 2
    assert f"query_max_len is {query}; it must be at least 1" in answer.text


def test_a_model_type_that_is_left_out(native, recipe, orch, rows):
    data = rows(*make_groups())
    named = native.train(DECODER, train_data=data).require_success()
    left_out = native.train(DECODER, train_data=data, model_type=None).require_success()
    assert left_out.losses != named.losses  # it has trained on pairs without the prompt
    assert orch(recipe).trains_with("model_type") == ["decoder"]
    answer = orch(recipe, train={"model_type": "encoder"})
    assert answer.code == 2
    assert "is decoder-only" in answer.text


def test_the_encoder_trainer_on_a_decoder(native, recipe, orch, rows):
    argv = {"model_name_or_path": native.argv["model_name_or_path"], **COMMON, "train_data": rows(*make_groups())}
    ended = native.call(ENCODER, spell(argv)).require_success()
    assert re.search(r"score.weight \| MISSING", ended.stderr)  # a random head in place of the answer "Yes"
    assert DECODER in orch(recipe).plan.stage("train").command.argv
    answer = orch(recipe, model={"path": recipe["model"], "family": "encoder"})
    assert answer.code == 2
    assert "Qwen3ForCausalLM is no encoder" in answer.text


def test_target_modules_of_which_only_some_match(native, recipe, orch, rows):
    given = ["q_proj", "qkv_proj"]
    ended = native.train(DECODER, train_data=rows(*make_groups()), target_modules=given).require_success()
    assert "qkv_proj" in json.loads((ended.output / "adapter_config.json").read_text())["target_modules"]
    answer = orch(recipe, train={"target_modules": given})
    assert answer.code == 4
    assert "qkv_proj" in answer.text


def test_a_prefix_of_a_flag(native, recipe, orch, rows):
    words = spell({**native.argv, "per_device_train_batch_size": None, "train_data": rows(*make_groups())})
    ended = native.call(DECODER, [*words, "--per_device_train_b", "8"]).require_success()
    assert len(ended.losses) == 1  # eight rows at once
    answer = orch(recipe, train={"per_device_train_b": 8})
    assert answer.code == 2
    assert "per_device_train_b" in answer.text
    assert "per_device_train_batch_size" in answer.text


def test_a_flag_that_is_given_twice(native, recipe, orch, rows):
    data = rows(*make_groups())
    words = [*spell({**native.argv, "train_data": data}), "--per_device_train_batch_size", "8"]
    assert len(native.call(DECODER, words).require_success().losses) == 1  # the last one wins
    text = "name: trap\ntask: reranker\nbackend: flagembedding\nmodel: x/y\ndata: {train: a, eval: b}\ntrain:\n  seed: 1\n  seed: 2\n"
    answer = orch({}, recipe_text=text)
    assert answer.code == 2
    assert "seed" in answer.text


def test_an_incomplete_last_batch_that_mixes_groups(native, recipe, orch, rows):
    alike = [make_group(number, neg=make_group(number)["pos"] * 3) for number in range(6)]
    ended = native.train(DECODER, train_data=rows(*alike), lora_dropout=0).require_success()
    # four equal documents: ln 4. The last two queries are taken for four, with two documents each: ln 2
    assert ended.losses == [pytest.approx(math.log(4), abs=1e-3), pytest.approx(math.log(2), abs=1e-3)]
    rows(*make_groups(8))
    assert orch(recipe).trains_with("dataloader_drop_last") == ["True"]
    answer = orch(recipe, train={"dataloader_drop_last": False})
    assert answer.code == 2
    assert "an incomplete last batch mixes the documents of different queries" in answer.text


def test_rows_beyond_the_last_full_batch(native, recipe, orch, rows):
    data = rows(*make_groups(7))
    ended = native.train(DECODER, train_data=data, dataloader_drop_last=True).require_success()
    assert len(ended.losses) == 1
    answer = orch(recipe)
    assert answer.code == 0
    assert "rows-left-over: 3 of 7 training rows do not fill a batch of 4" in answer.text
    assert [warning["code"] for warning in answer.ledger["warnings"]] == ["rows-left-over"]


# The data


def test_an_empty_query(native, recipe, orch, rows):
    data = rows(*make_groups(7), make_group(7, query=""))
    assert len(native.train(DECODER, train_data=data).require_success().losses) == 2
    answer = orch(recipe)
    assert answer.code == 3
    assert 'train.jsonl:8: empty-query: "query" is empty or white space' in answer.text


def test_an_empty_negative(native, recipe, orch, rows):
    data = rows(*make_groups(7), make_group(7, neg=["", "", ""]))
    assert len(native.train(DECODER, train_data=data).require_success().losses) == 2
    answer = orch(recipe)
    assert answer.code == 3
    assert 'train.jsonl:8: empty-text: "neg"[0] is empty or white space' in answer.text


def test_the_positive_among_the_negatives(native, recipe, orch, rows):
    same = [make_group(n, neg=make_group(n)["pos"] * 3) for n in range(4)]
    ended = native.train(DECODER, train_data=rows(*same)).require_success()
    assert ended.losses == [pytest.approx(math.log(4), abs=1e-3)]  # nothing tells the four apart
    answer = orch(recipe)
    assert answer.code == 3
    assert "positive-among-negatives: the document " in answer.text


def test_a_teachers_score_that_is_no_number(native, recipe, orch, rows):
    scored = [group | {"pos_scores": [1.0], "neg_scores": [0.1, 0.2, 0.3]} for group in make_groups(16)]
    scored[3]["pos_scores"] = [math.nan]
    ended = native.train(DECODER, train_data=rows(*scored), knowledge_distillation=True).require_success()
    assert ended.losses[-1] == 0  # from the row's batch on
    assert scan_weights([ended.output / "adapter_model.safetensors"]).not_finite
    answer = orch(recipe, train={"knowledge_distillation": True})
    assert answer.code == 3
    assert "train.jsonl:4: not-json: NaN is not JSON" in answer.text


def test_rows_that_are_there_twice(native, recipe, orch, rows):
    data = rows(*make_groups(4), *make_groups(4))
    assert len(native.train(DECODER, train_data=data).require_success().losses) == 2  # eight rows
    answer = orch(recipe)
    assert answer.code == 0
    assert len(answer.train_rows) == 4
    assert answer.ledger["sides"]["train"]["dropped"] == {"duplicate": 4}


def test_a_file_of_another_ending(native, recipe, orch, rows):
    data, other = rows(*make_groups(4)), rows(*make_groups(8)[4:], name="more.txt")
    assert len(native.train(DECODER, train_data=[data, other]).require_success().losses) == 1  # four rows of eight
    answer = orch(recipe, data={"train": ["train.jsonl", "more.txt"]})
    assert answer.code == 3
    assert "unknown-ending: " in answer.text


def test_a_folder_of_which_some_files_are_read(native, recipe, orch, rows, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    rows(*make_groups(4), name="folder/a.json")
    rows(*make_groups(8)[4:], name="folder/b.ndjson")
    assert len(native.train(DECODER, train_data=folder).require_success().losses) == 1
    answer = orch(recipe, data={"train": "folder"})
    assert answer.code == 2
    assert "data.train: " in answer.text


def test_a_star_in_a_file_name(native, recipe, orch, rows):
    for name in ("a1b.jsonl", "a2b.jsonl", "a3b.jsonl"):
        rows(*make_groups(8), name=name)
    data = rows(*make_groups(4), name="a*b.jsonl")
    assert len(native.train(DECODER, train_data=data).require_success().losses) == 7  # 28 rows for four
    answer = orch(recipe, data={"train": "a*b.jsonl"})
    assert answer.code == 0
    assert len(answer.train_rows) == 4
    assert answer.trains_with("train_data") == [f"{answer.job.run_dir}/data/train.jsonl"]


@pytest.mark.parametrize("name", ["e$HOME.jsonl", "a[1].jsonl"])
def test_a_file_name_that_datasets_rewrites(native, recipe, orch, rows, name):
    data = rows(*make_groups(4), name=name)
    ended = native.train(DECODER, train_data=data)
    assert ended.code == 1
    answer = orch(recipe, data={"train": name})
    assert answer.code == 0
    assert len(answer.train_rows) == 4


@pytest.mark.parametrize("name", ["a*b", "e$HOME", "a[1]"])
def test_a_run_folder_whose_name_datasets_rewrites(recipe, orch, rows, tmp_path, name):
    rows(*make_groups(4))
    answer = orch(recipe, run_dir=tmp_path / name)
    assert answer.code == 4
    assert "would be read as a pattern" in answer.text


def test_two_runs_in_one_folder(native, recipe, orch, rows, tmp_path):
    from orchestrator.errors import RunFolderError
    from orchestrator.run.folder import write_run

    data, output = rows(*make_groups(4)), tmp_path / "output"
    native.train(DECODER, train_data=data, output_dir=output, save_strategy="epoch").require_success()
    native.train(
        DECODER, train_data=data, output_dir=output, save_strategy="epoch", num_train_epochs=2
    ).require_success()
    assert sorted(path.name for path in output.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-2"]
    answer = orch(recipe)
    with pytest.raises(RunFolderError, match="is not empty") as caught:
        write_run(answer.plan, "", {})
    assert caught.value.exit_code == 9


# The model


def test_weights_that_the_file_lacks(native, recipe, orch, rows, tmp_path):
    model = deepen(native.argv["model_name_or_path"], tmp_path / "deep")
    ended = native.train(DECODER, train_data=rows(*make_groups()), model_name_or_path=model).require_success()
    assert re.search(r"model\.layers\.\{2, 3\}\.mlp\.gate_proj\.weight +\| MISSING", ended.stderr)
    answer = orch(recipe, model=str(model))
    assert answer.code == 4
    assert "config.json says 4 layers, and the files hold 2" in answer.text


def test_a_base_model_of_nan(native, recipe, orch, rows, tmp_path):
    model = refill(
        native.argv["model_name_or_path"], tmp_path / "flipped", ending="0.mlp.up_proj.weight", value=math.nan
    )
    ended = native.train(DECODER, train_data=rows(*make_groups()), model_name_or_path=model).require_success()
    assert ended.losses == [0, 0]
    answer = orch(recipe, model=str(model))
    assert answer.code == 0  # no weight is read before the first stage, and that one is the baseline
    measured = run_worker_stage(native, answer, after="prepare")
    assert measured.code == 1
    assert (
        "the model gives NaN or infinity for 6 of 6 pairs: its weights or its precision are broken" in measured.stderr
    )


# Resuming


def test_a_finished_training_is_resumed_with_other_data(native, recipe, orch, rows):
    *_, finished = read_losses("a-deepspeed-training-that-is-resumed.log").values()
    assert finished == []  # no step at all
    digests = []
    for groups in (make_groups(8), make_groups(9)[1:]):
        rows(*groups)
        plan = orch(recipe).plan
        digests.append(stage_digest(plan, plan.stage("train")))
    assert digests[0] != digests[1]


# Processes


def test_a_process_that_waits_for_others_for_ever(native, recipe, orch, rows, monkeypatch):
    group = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29533"}
    ended = native.train(DECODER, train_data=rows(*make_groups()), env=group, limit_s=5)
    assert ended.code is None
    assert "in init_process_group" in ended.stderr  # where it still was; it had said nothing
    assert ended.losses == []
    monkeypatch.setenv("WORLD_SIZE", "2")
    answer = orch(recipe)
    assert answer.code == 4
    assert "WORLD_SIZE=2 is set: every stage would wait for processes that nobody starts" in answer.text


# What a training says and leaves, and what Orch reads in it


def test_a_diverged_training_that_logs_loss_0(native, rows):
    data = rows(*make_groups(16))
    ended = native.train(DECODER, train_data=data, learning_rate=1e37, num_train_epochs=3).require_success()
    assert ended.losses[1:] == [0] * 11  # NaN is logged so
    problem = find_loss_problem(ended.steps)
    assert problem.stops
    assert "the loss is logged as 0 with a gradient norm of nan" in problem.message
    problems = scan_weights([ended.output / "adapter_model.safetensors"]).problems
    assert any("weights are NaN or infinite" in line for line in problems)


def test_a_diverged_training_with_finite_weights(native, rows):
    data = rows(*make_groups(16))
    ended = native.train(DECODER, train_data=data, learning_rate=1e12, num_train_epochs=2).require_success()
    assert ended.losses[2:] == [pytest.approx(math.log(4), abs=1e-3)] * 6  # every document scores alike
    problems = scan_weights([ended.output / "adapter_model.safetensors"]).problems
    assert any("weights beyond 1e+08" in line for line in problems)


# DeepSpeed


def test_a_misspelt_deepspeed_key(native, recipe, orch, rows, tmp_path):
    rows(*make_groups(8))
    config = {"train_batch_size": 4, "zero_optimization": {"stage": 1}, "gradient_cliping": 0.25}
    path = tmp_path / "ds.json"
    path.write_text(json.dumps(config))
    ended = native.call("tests.traps.deepspeed_keys", [str(path)], env=ALONE).require_success()
    assert json.loads(ended.stdout.splitlines()[-1])["gradient_clipping"] != 0.25
    answer = orch(recipe, deepspeed="ds.json")
    assert answer.code == 2
    assert "DeepSpeed knows no key gradient_cliping" in answer.text
    assert "gradient_clipping" in answer.text


def test_the_deepspeed_keys_that_orch_knows_are_those_that_deepspeed_looks_for(native, tmp_path):
    path = tmp_path / "ds.json"
    sections = {name: {} for name in ("checkpoint", "data_types")}
    full = {"train_batch_size": 4, "optimizer": {"type": "AdamW"}, "scheduler": {"type": "WarmupLR"}, **sections}
    path.write_text(json.dumps(full))
    ended = native.call("tests.traps.deepspeed_keys", [str(path)], env=ALONE).require_success()
    asked = set(json.loads(ended.stdout.splitlines()[-1])["asked"])
    known = load_words("deepspeed")["top_level"]
    near = {name for name in asked - set(known) if difflib.get_close_matches(name, known, n=1, cutoff=0.8)}
    assert len(asked) > 40
    assert near == set()  # none of DeepSpeed's own is taken for a misspelt one


def test_two_processes_that_are_one_group_have_the_losses_of_one_with_the_whole_batch(native, rows, warm):
    same = {"train_data": rows(*make_groups(16)), "lora_dropout": 0.0, "dataloader_drop_last": True}
    one = native.train(DECODER, **same).require_success()
    words = spell({**native.argv, **same, "per_device_train_batch_size": 2, "save_strategy": "epoch"})
    two = launch_two(native.folder / "two", "-m", DECODER, *words, env=warm)
    assert two.code == 0, two.stderr
    assert two.losses == pytest.approx(one.losses, abs=2e-4)
    assert sorted(path.name for path in two.output.glob("checkpoint-4/rng*")) == ["rng_state_0.pth", "rng_state_1.pth"]


def test_two_processes_without_a_gpu_that_are_not_told_so_train_apart(native, rows, warm):
    apart = {"train_data": rows(*make_groups(4)), "use_cpu": None, "save_strategy": "epoch"}
    ended = launch_two(native.folder / "apart", "-m", DECODER, *spell({**native.argv, **apart}), env=warm)
    assert len(ended.losses) == 2  # one step, told by two trainings
    assert ended.code == 1
    assert "2 processes have trained apart" in ended.stderr
