"""ms-swift ends with exit code 0 and fewer rows, loss 0, or another model than was meant; Orch does not let it."""

from __future__ import annotations

import json
import math
import shutil

import pytest

from orchestrator.evaluation.eval_rows import Document, Group
from orchestrator.evaluation.eval_sets import measure_ranking
from orchestrator.run.resume import find_newest_complete, stage_digest
from orchestrator.workers.export_model import check_written
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.folders import refuse_existing
from orchestrator.workers.verification_checks import check_not_constant
from orchestrator.workers.weights import scan_weights
from tests.traps.conftest import build_tiny, deepen, make_group, make_groups, refill
from tests.traps.native import Native, find_number, launch_two, spell, write_rows
from tests.traps.orch_side import find_loss_problem, run_worker_stage

SFT, EXPORT = "swift.cli.sft", "swift.cli.export"
COMMON = {
    "check_model": "false", "add_version": "false", "create_checkpoint_symlink": "false", "output_dir": "OUTPUT",
    "use_cpu": "true", "torch_dtype": "float32", "fp16": "false", "bf16": "false", "report_to": "none",
    "dataloader_num_workers": 0, "dataset_num_proc": 1, "load_from_cache_file": "false", "split_dataset_ratio": 0,
    "tuner_type": "lora", "target_modules": ["q_proj", "v_proj"], "lora_rank": 8, "max_length": 256,
    "learning_rate": 0.01, "num_train_epochs": 1, "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1,
    "logging_steps": 1, "save_strategy": "no",
}  # fmt: skip
TRAIN = {"per_device_train_batch_size": 4, "max_length": 256, "target_modules": ["q_proj", "v_proj"]}
PAIRS = [{"sentence1": f"held out {n}", "sentence2": f"text {n}", "score": n / 2} for n in range(3)]

MODULES = {"": "Transformer", "1_Pooling": "Pooling", "2_Normalize": "Normalize"}
SENTENCE_TRANSFORMERS = {
    "modules.json": json.dumps([
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{name}"}
        for number, (path, name) in enumerate(MODULES.items())
    ]),
    "1_Pooling/config.json": json.dumps({"word_embedding_dimension": 32, "pooling_mode_lasttoken": True}),
    "config_sentence_transformers.json": json.dumps({"prompts": {"query": "Query:"}}),
}  # fmt: skip


@pytest.fixture(scope="module")
def embedding(swift: Native, texts):
    """`swift sft` on a tiny Qwen3-Embedding."""
    model = build_tiny(swift, "embedding", texts)
    for name, text in SENTENCE_TRANSFORMERS.items():
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_text(text)
    named = {"model": model, "model_type": "qwen3_emb", "template": "qwen3_emb", "task_type": "embedding"}
    return swift, {**named, **COMMON}


@pytest.fixture(scope="module")
def reranker(swift: Native, texts):
    """`swift sft` on a tiny Qwen3-Reranker."""
    model = build_tiny(swift, "decoder", texts)
    named = {"model": model, "model_type": "qwen3_reranker", "template": "qwen3_reranker"}
    return swift, {**named, "task_type": "generative_reranker", **COMMON}


@pytest.fixture(scope="module")
def chat(swift: Native, texts):
    """`swift sft` on a tiny Qwen3."""
    return swift, {"model": build_tiny(swift, "chat", texts), "model_type": "qwen3", "template": "qwen3", **COMMON}


def train(native, data, *, env=None, limit_s=60, **changes):
    swift, argv = native
    ended = swift.call(SFT, spell({**argv, "dataset": data, **changes}), env=env, limit_s=limit_s)
    return ended.require_success()


def recipe_of(native, task, model_type, **parts):
    model = {"path": str(native[1]["model"]), "model_type": model_type}
    return {"name": "trap", "task": task, "backend": "swift", "model": model, "train": dict(TRAIN), **parts}


@pytest.fixture
def embed(embedding):
    return recipe_of(embedding, "embedding", "qwen3_emb", loss="infonce")


@pytest.fixture
def rerank(reranker):
    return recipe_of(reranker, "reranker", "qwen3_reranker", loss="listwise")


@pytest.fixture
def answer(chat):
    return recipe_of(chat, "sft", "qwen3")


def said_by_user(text):
    return [{"role": "user", "content": text}]


def swift_row(group, **changes):
    """The same group as a row of ms-swift 4."""
    row = {
        "messages": said_by_user(group["query"]),
        "positive_messages": [said_by_user(text) for text in group["pos"]],
        "negative_messages": [said_by_user(text) for text in group["neg"]],
    }
    return row | changes


def swift_rows(count=8, **changes):
    return [swift_row(group, **changes) for group in make_groups(count)]


@pytest.fixture(scope="module")
def usual(embedding, tmp_path_factory):
    """One epoch over eight sound groups, saved at its end: what other trainings are held against."""
    data = write_rows(tmp_path_factory.mktemp("usual") / "train.jsonl", swift_rows(8))
    return train(embedding, data, loss_type="infonce", save_strategy="epoch")


def rows_used(ended):
    return find_number(r"num_rows: (\d+)", ended.stdout + ended.stderr)


def test_a_sound_training_learns_and_passes(embedding, embed, orch, rows):
    ended = train(embedding, rows(*swift_rows(8)), loss_type="infonce", num_train_epochs=3)
    assert len(ended.losses) == 6
    assert ended.losses[-1] < ended.losses[0]
    assert find_loss_problem(ended.steps) is None
    rows(*make_groups(8))
    found = orch(embed)
    assert found.code == 0
    assert found.trains_with("dataset") == [
        f"{found.job.run_dir}/data/train.jsonl"
    ]  # swift asks a hub for a relative one


# The data: labels


def test_rows_without_a_label_count_as_label_1(embedding, embed, orch, rows):
    plain = [swift_row(group, negative_messages=[]) for group in make_groups(8)]
    labelled = [{**row, "label": 1.0} for row in plain]
    without = train(embedding, rows(*plain), loss_type="contrastive")
    assert without.losses == train(embedding, rows(*labelled), loss_type="contrastive").losses
    rows(*({"sentence1": f"a {n}", "sentence2": f"b {n}"} for n in range(8)))
    rows(*PAIRS, name="eval.jsonl")
    refused = orch(embed, loss="contrastive")
    assert refused.code == 3
    assert 'missing-key: the key "score" is missing' in refused.text


def test_labels_beyond_what_a_cosine_can_be(embedding, embed, orch, rows):
    plain = [swift_row(group, negative_messages=[], label=5) for group in make_groups(8)]
    ended = train(embedding, rows(*plain), loss_type="cosine_similarity")
    assert ended.losses[0] > 15
    rows(*({"sentence1": f"a {n}", "sentence2": f"b {n}", "score": n % 6} for n in range(8)))
    rows(*PAIRS, name="eval.jsonl")
    refused = orch(embed, loss="cosine_similarity")
    assert refused.code == 3
    assert "score-out-of-range: the row's score lies outside -1 to 1" in refused.text


def test_a_label_that_is_no_number(embedding, embed, orch, rows):
    plain = [swift_row(group, negative_messages=[], label=1.0) for group in make_groups(8)]
    plain[3]["label"] = math.nan
    ended = train(embedding, rows(*plain), loss_type="cosine_similarity")
    assert 0 in ended.losses  # NaN is logged so
    rows(*({"sentence1": f"a {n}", "sentence2": f"b {n}", "score": math.nan if n == 3 else 1} for n in range(8)))
    rows(*PAIRS, name="eval.jsonl")
    refused = orch(embed, loss="cosine_similarity")
    assert refused.code == 3
    assert "train.jsonl:4: not-json: NaN is not JSON" in refused.text


def test_labels_of_0_among_groups(embedding, embed, orch, rows, usual):
    given = [swift_row(group, label=float(place % 2)) for place, group in enumerate(make_groups(8))]
    assert train(embedding, rows(*given), loss_type="infonce").losses[0] > 2 * usual.losses[0]
    rows(*given)
    refused = orch(embed)
    assert refused.code == 3
    assert "train.jsonl:1: label-and-negatives: " in refused.text


# The data: rows that go missing, or are half read


@pytest.mark.parametrize(
    ("bad", "same", "says"),
    [
        ({"messages": "no list"}, {"query": 7, "pos": ["x"], "neg": ["y"]}, 'wrong-type: "query" is a number'),
        (
            {"messages": said_by_user("q"), "positive_messages": [[{"role": "user", "content": None}]]},
            {"query": "q", "pos": [None], "neg": ["y"]},
            'wrong-type: "pos"[0] is null, not a string',
        ),
    ],
    ids=["malformed", "null"],
)
def test_half_of_the_rows_cannot_be_read(embedding, embed, orch, rows, bad, same, says):
    good = swift_rows(8)
    ended = train(
        embedding, rows(*(row for pair in zip(good, [bad] * 8, strict=True) for row in pair)), loss_type="infonce"
    )
    assert rows_used(ended) == 8  # of sixteen
    rows(*(row for pair in zip(make_groups(8), [same] * 8, strict=True) for row in pair))
    refused = orch(embed)
    assert refused.code == 3
    assert f"train.jsonl:2: {says}" in refused.text


def test_half_of_the_rows_are_too_long(embedding, embed, orch, rows):
    long = " ".join(["word"] * 600)
    given = [swift_row(group if place % 2 else group | {"query": long}) for place, group in enumerate(make_groups(16))]
    assert rows_used(train(embedding, rows(*given), loss_type="infonce")) == 8
    rows(*(group if place % 2 else group | {"query": f"{long} {place}"} for place, group in enumerate(make_groups(16))))
    refused = orch(embed)
    assert refused.code == 3
    assert "train.jsonl:1: too-long: more than 256 tokens" in refused.text
    assert orch(embed, data={"max_dropped": 8}).trains_with("strict") == ["True"]


def test_rows_that_are_there_twice(embedding, embed, orch, rows):
    assert rows_used(train(embedding, rows(*swift_rows(4), *swift_rows(4)), loss_type="infonce")) == 8
    rows(*make_groups(4), *make_groups(4))
    found = orch(embed)
    assert found.code == 0
    assert len(found.train_rows) == 4
    assert found.ledger["sides"]["train"]["dropped"] == {"duplicate": 4}


def test_positives_beyond_the_first(embedding, embed, orch, rows, usual):
    two = [group | {"pos": [*group["pos"], f"another answer to {n}"]} for n, group in enumerate(make_groups(8))]
    assert train(embedding, rows(*map(swift_row, two)), loss_type="infonce").losses == usual.losses  # nobody read it
    rows(*two)
    refused = orch(embed)
    assert refused.code == 3
    assert "several-positives: the row has 2 positives" in refused.text


def test_more_documents_than_a_step_takes(reranker, rerank, orch, rows):
    alike = [make_group(number, pos=["a text"], neg=["a text"] * 12) for number in range(4)]
    ended = train(reranker, rows(*map(swift_row, alike)), loss_type="listwise_reranker")
    assert ended.losses == [pytest.approx(math.log(8), abs=1e-3)]  # seven of twelve: thirteen texts would give ln 13
    assert "MAX_NEGATIVE_SAMPLES" not in ended.stdout + ended.stderr
    rows(*(group | {"neg": [f"noise {place}" for place in range(12)]} for group in make_groups(8)))
    found = orch(rerank)
    assert found.code == 0
    assert (
        "documents-sampled: rows with more documents than a step takes (1 positives and 7 negatives): 8" in found.text
    )
    assert dict(found.plan.stage("train").command.env)["MAX_NEGATIVE_SAMPLES"] == "7"


# The data: nothing to learn


@pytest.mark.parametrize("gone", [{"negative_messages": []}, {}], ids=["empty", "missing"])
def test_lists_of_one_document(reranker, rerank, orch, rows, gone):
    given = [{k: v for k, v in swift_row(group).items() if k != "negative_messages"} | gone for group in make_groups(8)]
    assert train(reranker, rows(*given), loss_type="listwise_reranker").losses == [0, 0]
    rows(*(group | {"neg": []} for group in make_groups(8)))
    refused = orch(rerank)
    assert refused.code == 3
    assert 'train.jsonl:1: no-negative: "neg" is an empty list' in refused.text


def test_no_negatives_at_all(embedding, embed, orch, rows):
    plain = [swift_row(group, negative_messages=[]) for group in make_groups(8)]
    ended = train(embedding, rows(*plain), loss_type="infonce", env={"INFONCE_USE_BATCH": "false"})
    assert ended.losses == [0, 0]
    rows(*(group | {"neg": []} for group in make_groups(8)))
    refused = orch(embed, loss={"type": "infonce", "use_batch": False})
    assert refused.code == 3
    assert "loss-misfit: the row has no negatives, and infonce may not take those of its batch" in refused.text


@pytest.mark.parametrize(
    ("output", "says"), [({}, "missing"), ({"output": ""}, "empty-answer")], ids=["missing", "empty"]
)
def test_answers_that_are_not_there(chat, answer, orch, rows, output, says):
    given = [{"instruction": f"what about {number}?", "input": ""} | output for number in range(8)]
    ended = train(chat, rows(*given))
    assert len(ended.losses) == 2
    if not output:
        assert ended.losses == [0, 0]
    rows({"instruction": "held out?", "input": "", "output": "an answer"}, name="eval.jsonl")
    refused = orch(answer)
    assert refused.code == 3
    assert "train.jsonl:1: " in refused.text
    assert says in refused.text


def test_a_setting_of_the_loss_that_the_shell_holds(embedding, embed, orch, rows, usual, monkeypatch):
    data = rows(*swift_rows(8))
    assert train(embedding, data, loss_type="infonce", env={"INFONCE_HARD_NEGATIVES": "1"}).losses != usual.losses
    rows(*make_groups(8))
    monkeypatch.setenv("INFONCE_HARD_NEGATIVES", "1")
    refused = orch(embed)
    assert refused.code == 4
    assert "INFONCE_HARD_NEGATIVES=1 is set in your shell, and ms-swift's loss would read it" in refused.text


# The model


def merge(native, ended, folder):
    adapter = max(ended.output.glob("checkpoint-*"))
    words = ["--adapters", str(adapter), "--merge_lora", "true", "--output_dir", str(folder), "--exist_ok", "true"]
    return native[0].call(EXPORT, words).require_success()


def test_a_wrong_but_known_model_type(embedding, embed, orch, rows, usual, tmp_path):
    ended = train(embedding, rows(*swift_rows(8)), loss_type="infonce", model_type="bert", save_strategy="epoch")
    for training, name in ((ended, "bert"), (usual, "qwen3_emb")):
        merge(embedding, training, tmp_path / name)
    assert set(SENTENCE_TRANSFORMERS) <= {
        str(path.relative_to(tmp_path / "qwen3_emb")) for path in (tmp_path / "qwen3_emb").rglob("*")
    }
    # without them sentence-transformers neither normalises nor knows the prompts
    assert not any((tmp_path / "bert" / name).exists() for name in SENTENCE_TRANSFORMERS)
    rows(*make_groups(8))
    assert orch(embed).trains_with("model_type") == ["qwen3_emb"]
    refused = orch(embed, model={"path": embed["model"]["path"], "model_type": "bert"})
    assert refused.code == 2
    assert "model_type 'bert' is no embedding model" in refused.text


def test_the_template_of_another_task(embedding, embed, orch, rows, usual):
    chat = {"model_type": "qwen3", "template": "qwen3"}
    ended = train(embedding, rows(*swift_rows(8)), loss_type="infonce", **chat)
    assert "<|im_start|>assistant\\n<think>" in ended.stdout + ended.stderr  # every text is a chat with a thought
    assert ended.losses[0] != usual.losses[0]
    rows(*make_groups(8))
    assert orch(embed).trains_with("template") == ["qwen3_emb"]
    refused = orch(embed, model={"path": embed["model"]["path"], "model_type": "qwen3"})
    assert refused.code == 2
    assert "model_type 'qwen3' is no embedding model" in refused.text


def talked(number, **mark):
    turns = [("user", f"what is {number}?"), ("assistant", "nonsense"), ("user", "no"), ("assistant", "a number")]
    messages = [{"role": role, "content": content} for role, content in turns]
    messages[1] |= mark
    return {"messages": messages}


def test_an_answer_that_other_tools_would_not_learn(chat, answer, orch, rows):
    plain = train(chat, rows(*(talked(number) for number in range(8)))).losses
    assert train(chat, rows(*(talked(number, weight=0) for number in range(8)))).losses == plain  # nobody read it
    assert train(chat, rows(*(talked(number, loss=False) for number in range(8)))).losses != plain
    rows(*(talked(number, weight=0) for number in range(8)))
    rows(talked(99), name="eval.jsonl")
    found = orch(answer)
    assert found.code == 0
    assert [row["messages"] for row in found.train_rows] == [talked(n, loss=False)["messages"] for n in range(8)]
    [warned] = found.ledger["warnings"]
    assert (warned["message"].partition(";")[0]) == "answers that are marked as not to be learnt: 8"


def test_few_positives_for_many_rows(embedding, embed, orch, rows):
    labels = ["good", "bad", "neither"]
    groups = [
        group | {"pos": [labels[place % 3]], "neg": labels[: place % 3] + labels[place % 3 + 1 :]}
        for place, group in enumerate(make_groups(12))
    ]
    for mask in ("false", "true"):
        env = {"INFONCE_MASK_FAKE_NEGATIVE": mask}
        losses = train(embedding, rows(*map(swift_row, groups)), loss_type="infonce", env=env).losses
        assert min(losses) > math.log(4) - 1e-3  # each text stands four times in the batch, once as the positive
    rows(*groups)
    refused = orch(embed)
    assert refused.code == 3
    assert (
        "false-negatives: 33.3% of the negatives that infonce takes from a row's batch answer its query" in refused.text
    )
    assert orch(embed, loss={"type": "infonce", "use_batch": False}).code == 0


def test_a_model_type_of_another_architecture(chat, answer, orch, rows):
    data = rows({"instruction": "what?", "output": "this"}, {"instruction": "why?", "output": "so"})
    ended = train(chat, data, model_type="llama", template="llama3")
    assert "<|start_header_id|>assistant<|end_header_id|>" in ended.stdout + ended.stderr
    # no token of this model: the tokenizer takes the marks apart
    assert "start_header_id" not in (chat[1]["model"] / "tokenizer.json").read_text()
    rows({"instruction": "held out?", "output": "an answer"}, name="eval.jsonl")
    refused = orch(answer, model={"path": answer["model"]["path"], "model_type": "llama"})
    assert refused.code == 2
    assert "model_type 'llama' is for Llama" in refused.text


def test_a_folder_that_is_not_named_like_the_model(chat, answer, orch, rows):
    data = rows({"instruction": "what?", "output": "this"}, {"instruction": "why?", "output": "so"})
    ended = chat[0].call(SFT, spell({**chat[1], "dataset": data, "template": None}))
    assert ended.code == 1
    assert "Failed to automatically match `template_type`" in ended.stderr
    rows({"instruction": "held out?", "output": "an answer"}, name="eval.jsonl")
    assert orch(answer).trains_with("template") == ["qwen3"]


def test_a_model_without_tokenizer_files(embedding, embed, orch, rows, tmp_path):
    model = tmp_path / "no-tokenizer"
    model.mkdir()
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        shutil.copy(embedding[1]["model"] / name, model / name)
    ended = train(embedding, rows(*swift_rows(8)), loss_type="infonce", model=model)
    assert ended.losses[0] == pytest.approx(2.7726, abs=0.01)  # ln 16: every text is the token 0
    rows(*make_groups(8))
    refused = orch(embed, model={"path": str(model), "model_type": "qwen3_emb"})
    assert refused.code == 4
    assert "tokenizer" in refused.text


def test_weights_that_the_file_lacks(embedding, embed, orch, rows, tmp_path):
    model = deepen(embedding[1]["model"], tmp_path / "deep")
    ended = train(embedding, rows(*swift_rows(8)), loss_type="infonce", model=model)
    assert "MISSING" in ended.stderr
    rows(*make_groups(8))
    refused = orch(embed, model={"path": str(model), "model_type": "qwen3_emb"})
    assert refused.code == 4
    assert "config.json says 4 layers, and the files hold 2" in refused.text


def test_a_base_model_of_nan(embedding, embed, orch, rows, tmp_path):
    model = refill(embedding[1]["model"], tmp_path / "flipped", ending="0.mlp.up_proj.weight", value=math.nan)
    assert train(embedding, rows(*swift_rows(8)), loss_type="infonce", model=model).losses == [0, 0]
    rows(*make_groups(8))
    found = orch(embed, model={"path": str(model), "model_type": "qwen3_emb"})
    assert found.code == 0  # no weight is read before the first stage, and that one is the baseline
    measured = run_worker_stage(embedding[0], found, after="prepare")
    assert measured.code == 1
    assert "the model gives NaN, infinity or zero for" in measured.stderr


# What a training says and leaves, and what Orch reads in it


def test_a_model_that_scores_everything_alike(reranker, rows, tmp_path):
    model = refill(reranker[1]["model"], tmp_path / "constant", ending="model.norm.weight", value=0)
    data = rows(*swift_rows(4))
    ended = train(
        reranker, data, loss_type="listwise_reranker", learning_rate=0, model=model,
        val_dataset=data, eval_strategy="epoch", per_device_eval_batch_size=4,
    )  # fmt: skip
    assert ended.losses == [pytest.approx(math.log(4), abs=1e-3)]  # four documents, one number
    assert "'eval_mrr': '1', 'eval_ndcg': '1'" in ended.stdout
    documents = tuple(Document(f"q.{place}", f"text {place}", int(place == 0)) for place in range(4))
    scores = {"q": {f"q.{place}": 0.5 for place in range(4)}}
    measured = measure_ranking([Group("q", "query", documents)], scores, ["mrr@10"])
    assert measured.means["mrr@10"] == pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)  # of a random order
    check = check_not_constant([0.5] * 4)
    assert not check.passed
    assert "all 4 probes get the same score (0.5): the model ranks nothing" in check.failure


def test_a_diverged_training_that_logs_loss_0(embedding, rows):
    data = rows(*swift_rows(16))
    ended = train(embedding, data, loss_type="infonce", learning_rate=1e37, num_train_epochs=3, save_strategy="epoch")
    assert ended.losses[1:] == [0] * 11
    assert find_loss_problem(ended.steps).stops
    scan = scan_weights([ended.output / "checkpoint-12" / "adapter_model.safetensors"])
    assert scan.not_finite == ()  # a search for NaN finds nothing
    assert any("weights beyond 1e+08" in line for line in scan.problems)


def test_a_diverged_reranker_that_reports_a_perfect_ranking(reranker, rows):
    data = rows(*swift_rows(16))
    held_out = rows(*swift_rows(8), name="validation.jsonl")
    ended = train(
        reranker, data, loss_type="listwise_reranker", learning_rate=1e37, num_train_epochs=2,
        val_dataset=held_out, eval_strategy="epoch", save_strategy="epoch", per_device_eval_batch_size=4,
    )  # fmt: skip
    assert "'eval_mrr': '1'" in ended.stdout
    assert "'eval_loss': 'nan'" in ended.stdout
    assert find_loss_problem(ended.steps).stops
    assert scan_weights([ended.output / "checkpoint-8" / "adapter_model.safetensors"]).problems


# Resuming


@pytest.fixture(scope="module")
def trained(embedding, tmp_path_factory):
    """Two epochs, a checkpoint after each."""
    data = write_rows(tmp_path_factory.mktemp("resume") / "train.jsonl", swift_rows(8))
    return data, train(embedding, data, loss_type="infonce", num_train_epochs=2, save_strategy="epoch")


def resume(native, data, ended, number, tmp_path, **changes):
    output = tmp_path / "resumed"
    shutil.copytree(ended.output, output)
    given = {"loss_type": "infonce", "num_train_epochs": 2, "save_strategy": "epoch", "output_dir": output}
    checkpoint = output / f"checkpoint-{number}"
    changes.pop("prepare", lambda _: None)(checkpoint)
    return train(native, data, **(given | {"resume_from_checkpoint": checkpoint} | changes))


def test_a_finished_training_is_resumed_with_other_data(embedding, embed, orch, rows, trained, tmp_path):
    other = rows(*[swift_row(make_group(n, query=f"other {n}")) for n in range(8)])
    assert resume(embedding, other, trained[1], 4, tmp_path).losses == []  # no step at all
    rows(*make_groups(8))
    before = orch(embed)
    digest = stage_digest(before.plan, before.plan.stage("train"))
    rows(*make_groups(9)[1:])
    after = orch(embed)
    assert stage_digest(after.plan, after.plan.stage("train")) != digest


def test_another_lora_rank_is_ignored_on_resume(embedding, embed, orch, rows, trained, tmp_path):
    ended = resume(embedding, trained[0], trained[1], 2, tmp_path, lora_rank=4)
    saved = json.loads((tmp_path / "resumed" / "checkpoint-4" / "adapter_config.json").read_text())
    assert (len(ended.losses), saved["r"]) == (2, 8)
    rows(*make_groups(8))
    digests = []
    for rank in (8, 4):
        found = orch(embed, train={"lora_rank": rank})
        digests.append(stage_digest(found.plan, found.plan.stage("train")))
    assert digests[0] != digests[1]


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_checkpoint_without_its_training_state(embedding, trained, tmp_path, name):
    ended = resume(embedding, trained[0], trained[1], 2, tmp_path, prepare=lambda folder: (folder / name).unlink())
    assert len(ended.losses) == 2
    assert ended.losses != trained[1].losses[2:]  # it has gone on as another training
    whole = tmp_path / "whole"
    shutil.copytree(trained[1].output, whole)
    (whole / "checkpoint-4" / name).unlink()
    found = find_newest_complete(whole)
    assert found.newest.name == "checkpoint-2"
    assert name in found.incomplete[0].why


# Exporting


def test_an_export_over_an_older_model(embedding, usual, tmp_path):
    merged = tmp_path / "merged"
    merged.mkdir()
    (merged / "config.json").write_text("{}")
    ended = merge(embedding, usual, merged)
    assert "skipping the saving process" in ended.stdout + ended.stderr
    assert sorted(path.name for path in merged.iterdir()) == ["config.json"]
    with pytest.raises(WorkerError, match="exists already"):
        refuse_existing(merged, replace=False)


def test_a_merge_that_was_killed_halfway(embedding, usual, tmp_path):
    half = tmp_path / "half"
    shutil.copytree(embedding[1]["model"], half, ignore=shutil.ignore_patterns("*.safetensors"))
    merge(embedding, usual, half)
    assert not list(half.glob("*.safetensors"))  # exit code 0, and still no weights
    with pytest.raises(WorkerError, match="holds no \\*.safetensors: there are no weights"):
        check_written(half, EXPORT, [])


def test_orch_merges_into_a_folder_that_does_not_exist_yet(embed, orch, rows):
    rows(*make_groups(8))
    argv = orch(embed).plan.stage("merge").command.argv
    assert argv[argv.index("fresh") + 1] == "--out"
    assert "{fresh}" in argv


def test_two_processes_that_are_one_group_have_the_losses_of_one_with_the_whole_batch(chat, rows, monkeypatch):
    talk = [{"messages": [*said_by_user(f"say {n}"), {"role": "assistant", "content": f"it is {n}"}]} for n in range(8)]
    same = {"dataset": rows(*talk), "lora_dropout": 0.0, "dataloader_drop_last": "true", "save_strategy": "epoch"}
    one = train(chat, same.pop("dataset"), **same)
    changes = {"dataset": rows(*talk), "per_device_train_batch_size": 2, "ddp_backend": "gloo"}
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    two = launch_two(chat[0].folder / "two", "-m", SFT, *spell({**chat[1], **same, **changes}))
    assert two.code == 0, two.stderr
    assert two.losses == pytest.approx(one.losses, abs=2e-4)
    assert (two.output / "checkpoint-2" / "rng_state_1.pth").is_file()
