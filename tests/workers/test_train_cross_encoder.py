from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from orchestrator.workers import train_cross_encoder
from orchestrator.workers.cross_encoder_losses import (
    LISTS,
    LOSSES,
    MARGINS,
    PAIRS,
    Rows,
    build_ranking_samples,
    shuffle_parts,
)
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.train_cross_encoder import load_settings, parse_settings
from orchestrator.workers.training import build_arguments, build_decay_arguments, link_checkpoints
from orchestrator.workers.weights import hash_file
from tests.workers.conftest import TOPICS, run_worker
from tests.workers.conftest import WORKERS as FOLDER

# once ms-swift is imported, transformers' Trainer asks for arguments that only ms-swift has
pytestmark = pytest.mark.alone

STEPS = 6  # an epoch: 24 rows in batches of 4


@pytest.fixture(autouse=True)
def ordinary_algorithms():
    """`deterministic: true` sets a switch of the whole process."""
    import torch

    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """One file of 24 rows a form."""
    names = list(TOPICS)[:4]
    rows: dict[str, list[Any]] = {PAIRS: [], LISTS: [], MARGINS: []}
    for index in range(6):
        for number, name in enumerate(names):
            query = f"what about {name} {index}?"
            right, wrong = TOPICS[name], TOPICS[names[number - 1]]
            others = [text for text in TOPICS.values() if text != right][: 1 + index % 3]
            grades = [1, 0.25, 0.125, 0][: len(others) + 1]
            rows[PAIRS].append({"query": query, "document": right if index % 2 else wrong, "label": index % 2})
            rows[LISTS].append({"query": query, "documents": [right, *others], "labels": grades})
            rows[MARGINS].append({"query": query, "positive": right, "negative": wrong, "label": 2.5 + index})
    folder = tmp_path_factory.mktemp("forms")
    for form, lines in rows.items():
        (folder / f"{form}.jsonl").write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return {form: folder / f"{form}.jsonl" for form in rows}


def write_settings(out: Path, base: Path, files: dict[str, Path], loss: str, **changes: Any) -> Path:
    arguments = {
        "output_dir": str(out / "output"),
        "learning_rate": 1e-3,
        "per_device_train_batch_size": 4,
        "num_train_epochs": 1,
        "logging_steps": 3,
        "save_strategy": "epoch",
        "use_cpu": True,
    }
    validation = changes.pop("validation", False)
    if validation:
        arguments["eval_strategy"] = "epoch"
    form = LOSSES[loss].form
    settings = {
        "version": 1,
        "model": str(base),
        "family": "encoder",
        "trust_remote_code": False,
        "loss": {"type": loss, **changes.pop("loss_settings", {})},
        "form": form,
        "train": str(files[form]),
        "validation": str(files[form]) if validation else None,
        "max_length": 64,
        "num_labels": 1,
        "format": None,
        "shuffle_ratio": 0.0,
        "stable_ratio": None,
        "early_stopping": None,
        "deterministic": False,
        "arguments": {**arguments, **changes.pop("arguments", {})},
        **changes,
    }
    out.mkdir(parents=True, exist_ok=True)
    path = out / "train.json"
    path.write_text(json.dumps(settings), encoding="utf-8")
    return path


def train(out: Path, base: Path, files: dict[str, Path], loss: str, *, resume: Path | None = None, **changes: Any):
    """Train in this process and return the output folder."""
    arguments = ["--config", str(write_settings(out, base, files, loss, **changes))]
    if resume:
        arguments += ["--resume_from_checkpoint", str(resume)]
    assert train_cross_encoder.main(arguments) == 0
    return out / "output"


def read_link(link: Path) -> str:
    return str(link.readlink())


def load_state(checkpoint: Path) -> dict[str, Any]:
    return json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))


def load_weights(checkpoint: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return load_file(checkpoint / "model.safetensors")


def without_dropout(base: Path, folder: Path) -> Path:
    shutil.copytree(base, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_trains_a_model_that_loads_and_scores(loss, encoder, files, tmp_path, capsys):
    from sentence_transformers import CrossEncoder

    output = train(tmp_path, encoder, files, loss)
    log = capsys.readouterr().out
    assert "train: 24 rows" in log
    assert len(re.findall(r"^\{'loss': '[\d.]+', 'grad_norm': '[\d.]+', 'learning_rate'", log, re.MULTILINE)) == 2
    assert "orch-progress 6/6" in log
    assert read_link(output / "last") == "checkpoint-6"
    assert not (output / "best").exists()
    trained = CrossEncoder(str(output / "last"), device="cpu")
    assert type(trained.activation_fn).__name__ == "Identity"
    scores = trained.predict([("what about tea?", text) for text in TOPICS.values()], show_progress_bar=False)
    assert len(set(map(float, scores))) == len(TOPICS)
    assert load_state(output / "last")["log_history"][0]["grad_norm"] > 0
    # a checkpoint is handed on, and the rows are the user's
    assert "what about" not in (output / "last" / "README.md").read_text(encoding="utf-8")


def test_training_starts_from_the_model_that_is_measured_before(encoder, files, tmp_path):
    from orchestrator.workers.reranker.scoring import load_scorer
    from orchestrator.workers.specs import ScoringSpec
    from orchestrator.workers.train_cross_encoder import load_model

    model = load_model(load_settings(write_settings(tmp_path, encoder, files, "pointwise_bce")))
    pairs = [("what about tea?", text) for text in TOPICS.values()]
    measured = load_scorer(str(encoder), ScoringSpec("cross-encoder", max_length=64), "cpu").score(pairs, None)
    assert [float(score) for score in model.predict(pairs, show_progress_bar=False)] == measured


@pytest.fixture(scope="module")
def undisturbed(encoder, files, tmp_path_factory) -> Path:
    """Two epochs with dropout, checkpoints in the middle of the first and at its end."""
    return train(tmp_path_factory.mktemp("undisturbed"), encoder, files, "listwise_ce", **LONG)


LONG: dict[str, Any] = {
    "validation": True,
    "loss_settings": {"graded": True},
    "arguments": {
        "num_train_epochs": 2,
        "save_strategy": "steps",
        "eval_strategy": "steps",
        "save_steps": 3,
        "eval_steps": 3,
    },
}


@pytest.mark.parametrize("step", [3, 6])
def test_a_continued_training_ends_with_the_same_bytes(step, undisturbed, encoder, files, tmp_path):
    output = tmp_path / "output"
    shutil.copytree(undisturbed / f"checkpoint-{step}", output / f"checkpoint-{step}")
    train(tmp_path, encoder, files, "listwise_ce", resume=output / f"checkpoint-{step}", **LONG)
    assert read_link(output / "last") == "checkpoint-12"
    for name in ("model.safetensors", "scheduler.pt"):
        assert hash_file(output / "last" / name) == hash_file(undisturbed / "last" / name), name
    ends = [
        [
            {key: value for key, value in entry.items() if "per_second" not in key and "runtime" not in key}
            for entry in load_state(folder / "last")["log_history"]
        ]
        for folder in (output, undisturbed)
    ]
    assert ends[0] == ends[1]


def test_a_training_that_was_killed_before_its_links_gets_them_when_it_is_continued(
    undisturbed, encoder, files, tmp_path
):
    output = tmp_path / "output"
    for step in (3, 6, 9, 12):
        shutil.copytree(undisturbed / f"checkpoint-{step}", output / f"checkpoint-{step}")
    train(tmp_path, encoder, files, "listwise_ce", resume=output / "checkpoint-12", **LONG)
    assert read_link(output / "last") == "checkpoint-12"
    assert read_link(output / "best") == read_link(undisturbed / "best")
    assert hash_file(output / "last" / "model.safetensors") == hash_file(undisturbed / "last" / "model.safetensors")


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"])
def test_a_checkpoint_that_cannot_be_continued_exactly_is_refused(name, undisturbed, encoder, files, tmp_path):
    checkpoint = tmp_path / "output" / "checkpoint-6"
    shutil.copytree(undisturbed / "checkpoint-6", checkpoint)
    (checkpoint / name).unlink()
    with pytest.raises(WorkerError, match=f"cannot be continued: {name} is missing"):
        train(tmp_path, encoder, files, "listwise_ce", resume=checkpoint, **LONG)


def test_best_is_the_checkpoint_of_the_lowest_validation_loss_and_rankings_are_logged(undisturbed):
    measured = [entry for entry in load_state(undisturbed / "last")["log_history"] if "eval_loss" in entry]
    assert len(measured) == 4
    best = min(measured, key=lambda entry: entry["eval_loss"])
    assert read_link(undisturbed / "best") == f"checkpoint-{best['step']}"
    assert 0 < best["eval_validation_ndcg@10"] <= 1


def test_a_deterministic_training_gives_the_same_bytes_in_another_process_and_others_with_another_seed(
    encoder, files, tmp_path
):
    here = train(tmp_path / "here", encoder, files, "lambda_loss", deterministic=True)
    config = write_settings(tmp_path / "there", encoder, files, "lambda_loss", deterministic=True)
    done = run_worker("train_cross_encoder", "--config", config, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^classifier\.weight\s+\| MISSING", done.stderr, re.MULTILINE)  # what starts at random is said
    there = tmp_path / "there" / "output"
    assert hash_file(here / "last" / "model.safetensors") == hash_file(there / "last" / "model.safetensors")
    other = train(tmp_path / "other", encoder, files, "lambda_loss", deterministic=True, arguments={"seed": 7})
    assert hash_file(here / "last" / "model.safetensors") != hash_file(other / "last" / "model.safetensors")


def test_two_processes_share_the_gradient_of_one_process_with_twice_the_batch(encoder, files, tmp_path):
    import torch

    base = without_dropout(encoder, tmp_path / "base")
    # plain gradient descent: Adam makes a step of rounding where the gradient is almost 0
    alike = {"optim": "sgd", "learning_rate": 0.05}
    options = {
        "validation": True,
        "arguments": {**alike, "per_device_train_batch_size": 2, "gradient_checkpointing": True},
    }
    config = write_settings(tmp_path / "two", base, files, "margin_mse", **options)
    launcher = [sys.executable, str(FOLDER), "launch", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launcher, str(FOLDER), "train_cross_encoder", "--config", str(config)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("train: 24 rows") == 1
    assert done.stdout.count("'grad_norm'") == 2
    two = tmp_path / "two" / "output" / "last"
    assert (two / "rng_state_0.pth").is_file()
    assert (two / "rng_state_1.pth").is_file()
    one = train(tmp_path / "one", base, files, "margin_mse", validation=True, arguments=alike) / "last"
    start = load_weights(base)
    mine, theirs = load_weights(one), load_weights(two)
    assert mine.keys() == theirs.keys()
    for name, weight in mine.items():
        assert torch.allclose(weight, theirs[name], rtol=1e-4, atol=1e-5), name
    name = "bert.encoder.layer.0.output.dense.weight"
    assert (mine[name] - start[name.removeprefix("bert.")]).abs().max() > 1e-3


def test_a_diverging_training_ends_with_an_error_before_a_model_is_saved(encoder, files, tmp_path):
    with pytest.raises(WorkerError, match=r"the loss of a training step is (nan|inf): the training has diverged"):
        train(tmp_path, encoder, files, "pointwise_mse", arguments={"learning_rate": 1e30})
    assert not list((tmp_path / "output").glob("checkpoint-*"))


def test_weights_of_nan_after_the_last_step_are_not_saved(encoder, files, tmp_path):
    with pytest.raises(WorkerError, match="after step 1 .* weights hold NaN or infinity"):
        train(tmp_path, encoder, files, "pointwise_mse", arguments={"learning_rate": 1e39, "max_steps": 1})
    assert not list((tmp_path / "output").glob("checkpoint-*"))


def test_a_base_with_a_head_of_several_labels_is_refused(encoder, files, tmp_path):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    AutoModelForSequenceClassification.from_pretrained(encoder, num_labels=3).save_pretrained(tmp_path / "three")
    AutoTokenizer.from_pretrained(encoder).save_pretrained(tmp_path / "three")
    with pytest.raises(WorkerError, match="has a head of 3 labels; a reranker has one"):
        train(tmp_path, tmp_path / "three", files, "pointwise_bce")


def test_a_length_beyond_the_models_positions_is_refused(encoder, files, tmp_path):
    with pytest.raises(WorkerError, match=r"max_length is 600, and .* has 512 positions"):
        train(tmp_path, encoder, files, "pointwise_bce", max_length=600)


def test_fewer_rows_than_a_batch_are_one_batch(encoder, files, tmp_path):
    output = train(tmp_path, encoder, files, "pointwise_bce", arguments={"per_device_train_batch_size": 64})
    assert read_link(output / "last") == "checkpoint-1"


def test_fewer_rows_than_a_batch_are_an_error_where_incomplete_batches_are_dropped(encoder, files, tmp_path, capsys):
    arguments = {"per_device_train_batch_size": 64, "dataloader_drop_last": True}
    with pytest.raises(WorkerError, match="24 training rows are fewer than one batch of 64"):
        train(tmp_path, encoder, files, "pointwise_bce", arguments=arguments)
    arguments["per_device_train_batch_size"] = 16
    train(
        tmp_path,
        encoder,
        files,
        "pointwise_bce",
        arguments={**arguments, "per_device_eval_batch_size": 64},
        validation=True,
    )
    log = capsys.readouterr().out
    assert "each epoch leaves out 8 training rows, which fill no batch of 16" in log
    assert "validation runs in batches of 24: it has 24 rows" in log
    assert "'eval_loss'" in log


def test_early_stopping_ends_a_training_that_gets_no_better(encoder, files, tmp_path):
    arguments = {"learning_rate": 0.0, "num_train_epochs": 9}
    stopping = {"patience": 2, "threshold": 0.0}
    output = train(
        tmp_path, encoder, files, "pointwise_bce", validation=True, early_stopping=stopping, arguments=arguments
    )
    assert read_link(output / "last") == f"checkpoint-{3 * STEPS}"
    assert read_link(output / "best") == f"checkpoint-{STEPS}"


def test_the_learning_rate_warms_up_stays_and_decays_to_zero(encoder, files, tmp_path):
    arguments = {"num_train_epochs": 2, "warmup_steps": 0.25, "logging_steps": 1}
    output = train(tmp_path, encoder, files, "pointwise_bce", stable_ratio=0.5, arguments=arguments)
    rates = [entry["learning_rate"] * 1e3 for entry in load_state(output / "last")["log_history"] if "loss" in entry]
    assert rates == pytest.approx([0, 1 / 3, 2 / 3, 1, 1, 1, 1, 1, 1, 1, 0.75, 0.25], abs=1e-6)


def test_phases_longer_than_the_training_are_refused():
    assert build_decay_arguments(100, 10, 0.9) == {"num_decay_steps": 0}
    with pytest.raises(WorkerError, match="warm-up takes 20 of 100 steps"):
        build_decay_arguments(100, 20, 0.9)


def test_gradient_checkpointing_changes_memory_and_not_the_model(encoder, files, tmp_path):
    import torch

    plain = train(tmp_path / "plain", encoder, files, "list_mle")
    saving = train(tmp_path / "saving", encoder, files, "list_mle", arguments={"gradient_checkpointing": True})
    first, second = load_weights(plain / "last"), load_weights(saving / "last")
    assert all(torch.allclose(first[name], second[name], rtol=1e-4, atol=1e-5) for name in first)


def test_half_precision_is_for_computing_and_weights_stay_float32(encoder, files, tmp_path):
    import torch

    output = train(tmp_path, encoder, files, "lambda_loss", arguments={"bf16": True})
    assert {weight.dtype for weight in load_weights(output / "last").values()} == {torch.float32}


def test_a_decoder_trains_in_its_written_format(decoder, files, tmp_path):
    from sentence_transformers import CrossEncoder

    written = {"query_format": "query: {}", "document_format": "document: {}", "seq": " ", "special_token": "</s>"}
    output = train(tmp_path, decoder, files, "pairwise_ranknet", family="decoder", format=written)
    trained = CrossEncoder(str(output / "last"), device="cpu")
    scores = trained.predict([("what about tea?", text) for text in TOPICS.values()], show_progress_bar=False)
    assert len(set(map(float, scores))) == len(TOPICS)
    # the format is kept with the model, and its end is never cut
    ids = trained.preprocess([("what about tea?", "long " * 200)])["input_ids"][0].tolist()
    assert len(ids) == 64
    assert trained.tokenizer.decode(ids).endswith("</s>")


def test_arguments_that_transformers_does_not_know_are_refused_in_its_words(encoder, files, tmp_path):
    with pytest.raises(WorkerError, match=r"arguments are refused: .*learning_speed"):
        train(tmp_path, encoder, files, "pointwise_bce", arguments={"learning_speed": 1})


def test_nothing_is_reported_to_a_service_and_nan_is_never_filtered_unless_asked(encoder, files, tmp_path):
    wanted = {"logging_nan_inf_filter": True, "disable_tqdm": False}
    from sentence_transformers.cross_encoder import CrossEncoderTrainingArguments

    settings = load_settings(write_settings(tmp_path, encoder, files, "pointwise_bce", arguments=wanted))
    arguments = build_arguments(settings, CrossEncoderTrainingArguments, settings.arguments)
    assert arguments.report_to == []
    assert (arguments.logging_nan_inf_filter, arguments.disable_tqdm) == (False, True)


def test_validation_without_evaluation_and_the_reverse_are_refused(encoder, files, tmp_path):
    with pytest.raises(WorkerError, match="eval_strategy is no"):
        train(tmp_path, encoder, files, "pointwise_bce", validation=True, arguments={"eval_strategy": "no"})
    with pytest.raises(WorkerError, match="there are no validation rows"):
        train(tmp_path, encoder, files, "pointwise_bce", arguments={"eval_strategy": "epoch"})


SETTINGS: dict[str, Any] = {
    "version": 1,
    "model": "m",
    "family": "encoder",
    "trust_remote_code": False,
    "loss": {"type": "lambda_loss", "k": 10, "graded": False, "activation": "identity", "pos_weight": None},
    "form": LISTS,
    "train": "/t.jsonl",
    "validation": None,
    "max_length": 8,
    "num_labels": 1,
    "format": None,
    "shuffle_ratio": 0.0,
    "stable_ratio": None,
    "early_stopping": None,
    "deterministic": False,
    "arguments": {"output_dir": "/o"},
}
FORMAT = {"query_format": "{}", "document_format": "{}", "seq": "", "special_token": "x"}


def test_settings_that_are_all_right_are_read():
    settings = parse_settings({**SETTINGS, "family": "decoder", "format": FORMAT}, "train.json")
    assert (settings.loss.k, settings.seed, str(settings.output)) == (10, 42, "/o")


def test_the_settings_that_recipes_render_are_read(root):
    found = sorted(root.glob("tests/golden/*/files/train.json"))
    assert len(found) > 3
    read = [load_settings(path).loss.type for path in found if "embedding" not in json.loads(path.read_text())]
    assert read
    assert set(read) <= set(LOSSES)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epochs": 3}, "epochs is not a setting"),
        ({"version": 2}, "version 2"),
        ({"family": "both"}, "family is 'both'"),
        ({"num_labels": 3}, "num_labels is 3"),
        ({"max_length": 0}, "max_length must be"),
        ({"train": ""}, "train must be a text that is not empty"),
        ({"validation": 3}, "validation must be a text that is not empty or null"),
        ({"deterministic": 1}, "deterministic must be true or false"),
        ({"shuffle_ratio": 2}, "shuffle_ratio must be"),
        ({"stable_ratio": float("nan")}, "stable_ratio must be"),
        ({"form": PAIRS}, "lambda_loss learns from cross-encoder-lists"),
        ({"loss": {"type": "infonce"}}, "loss.type is 'infonce'; known are pointwise_bce"),
        ({"loss": {"type": "lambda_loss", "temperature": 1}}, "loss.temperature is not a setting"),
        ({"loss": {"type": "lambda_loss", "graded": True}}, "loss.graded is a setting of listwise_ce"),
        ({"loss": {"type": "lambda_loss", "k": 0}}, "loss.k must be"),
        ({"loss": {"type": "pointwise_bce", "pos_weight": -1}, "form": PAIRS}, "loss.pos_weight must be"),
        ({"loss": {"type": "pointwise_mse", "activation": "relu"}, "form": PAIRS}, "known are identity, sigmoid"),
        ({"family": "decoder"}, "a decoder needs a format"),
        ({"family": "decoder", "format": {**FORMAT, "seq": 1}}, "format.seq must be a text"),
        ({"format": FORMAT}, "format belongs to decoders"),
        ({"early_stopping": {"patience": 2}}, "early_stopping needs validation rows"),
        ({"early_stopping": {"patience": 0}, "validation": "/v"}, "early_stopping.patience must be a whole number"),
        ({"early_stopping": {"epochs": 2}, "validation": "/v"}, "early_stopping.patience is missing"),
        ({"arguments": {}}, "with output_dir"),
        ({"arguments": {"output_dir": "/o", "save_strategy": "no"}}, "would leave no model"),
    ],
)
def test_a_wrong_setting_is_named_with_its_file(changes, words):
    with pytest.raises(WorkerError) as error:
        parse_settings({**SETTINGS, **changes}, "train.json")
    assert all(problem.startswith("train.json: ") for problem in error.value.problems)
    assert words in str(error.value)


def test_a_missing_setting_is_named():
    with pytest.raises(WorkerError, match=r"train.json: loss is missing"):
        parse_settings({key: value for key, value in SETTINGS.items() if key != "loss"}, "train.json")


def test_settings_that_cannot_be_read_are_an_error_line_and_no_traceback(tmp_path):
    done = run_worker("train_cross_encoder", "--config", tmp_path / "nowhere.json", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(
        f"train_cross_encoder: {tmp_path}/nowhere.json: the training's settings cannot be read"
    )


TALL = Rows({"query": ["q"] * 200, "document": ["one two three " * 10] * 199 + ["short"], "label": [1.0] * 200}, PAIRS)


def test_shuffled_documents_are_counted_and_the_same_for_the_same_seed():
    changed = shuffle_parts(TALL, 0.5, seed=3)
    differing = sum(old != new for old, new in zip(TALL.columns["document"], changed.columns["document"], strict=True))
    assert 60 < changed.shuffled == differing < 140
    assert shuffle_parts(TALL, 0.5, seed=3) == changed
    assert shuffle_parts(TALL, 0.5, seed=4) != changed
    assert shuffle_parts(TALL, 0, seed=3) == TALL


def test_every_long_document_and_no_short_one_changes_with_a_ratio_of_one():
    changed = shuffle_parts(TALL, 1, seed=3)
    assert changed.shuffled == 199
    assert changed.columns["document"][-1] == "short"
    text = TALL.columns["document"][0]
    assert sorted(changed.columns["document"][0].replace(" ", "")) == sorted(text.replace(" ", ""))


def test_the_log_says_how_many_documents_were_shuffled(encoder, files, tmp_path, capsys):
    rows = [{"query": "q", "documents": ["a b " * 40, "c d"], "labels": [1, 0]}] * 4
    path = tmp_path / "long.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    train(tmp_path, encoder, {**files, LISTS: path}, "listwise_ce", shuffle_ratio=1.0)
    log = capsys.readouterr().out
    assert "train: 4 rows with 8 documents, 1 queries, the parts of 4 documents changed places" in log


def test_rankings_are_measured_on_queries_with_both_kinds_of_documents():
    pairs = Rows(
        {"query": ["q", "q", "r", "q"], "document": ["a", "b", "c", "a"], "label": [1.0, 0.0, 1.0, 1.0]}, PAIRS
    )
    assert build_ranking_samples(pairs) == [{"query": "q", "positive": ["a"], "negative": ["b"]}]
    lists = Rows({"query": ["q", "r"], "documents": [["a", "b"], ["c"]], "labels": [[0.5, 0.49], [0.0]]}, LISTS)
    assert build_ranking_samples(lists) == [{"query": "q", "positive": ["a"], "negative": ["b"]}]
    margins = Rows({"query": ["q"], "positive": ["a"], "negative": ["b"], "label": [7.0]}, MARGINS)
    assert build_ranking_samples(margins) == [{"query": "q", "positive": ["a"], "negative": ["b"]}]


def test_a_teachers_scores_do_not_say_what_is_relevant():
    lists = Rows({"query": ["q"], "documents": [["a", "b"]], "labels": [[7.5, -2.0]]}, LISTS)
    assert build_ranking_samples(lists) == []


def make_checkpoints(output: Path, *steps: int) -> Path:
    for step in steps:
        (output / f"checkpoint-{step}").mkdir(parents=True)
        (output / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    return output


def test_best_by_a_ranking_is_the_checkpoint_of_the_highest_and_needs_one_to_be_measured(encoder, files, tmp_path):
    by_map = {"metric_for_best_model": "eval_validation_map", "greater_is_better": True, "save_total_limit": 9}
    changes = {**LONG, "arguments": {**LONG["arguments"], **by_map, "learning_rate": 5e-3}}
    output = train(tmp_path, encoder, files, "mnrl", **{**changes, "loss_settings": {}})
    measured = [entry for entry in load_state(output / "last")["log_history"] if "eval_validation_map" in entry]
    best = max(measured, key=lambda entry: entry["eval_validation_map"])
    assert read_link(output / "best") == f"checkpoint-{best['step']}"
    alone = tmp_path / "alone.jsonl"
    alone.write_text(json.dumps({"query": "q", "document": "d", "label": 1}) + "\n")
    only = {"validation": str(alone), "arguments": {**by_map, "eval_strategy": "epoch"}}
    config = write_settings(tmp_path / "only", encoder, files, "pointwise_bce", **only)
    settings = json.loads(config.read_text()) | {"validation": str(alone)}
    config.write_text(json.dumps(settings))
    with pytest.raises(WorkerError, match="no query has both a relevant and another document"):
        train_cross_encoder.main(["--config", str(config)])


def test_links_name_the_newest_whole_checkpoint_and_the_best_one(tmp_path):
    output = make_checkpoints(tmp_path / "output", 5, 10)
    (output / "checkpoint-15").mkdir()
    best = "/elsewhere/output/checkpoint-5"
    assert link_checkpoints(output, best, has_validation=True) == {"last": "checkpoint-10", "best": "checkpoint-5"}
    assert link_checkpoints(output, None, has_validation=False) == {"last": "checkpoint-10"}
    assert (output / "last" / "trainer_state.json").is_file()


@pytest.mark.parametrize(
    ("best", "words"), [(None, "none was both evaluated and saved"), ("/o/checkpoint-7", "checkpoint-7")]
)
def test_no_best_checkpoint_is_an_error_with_validation(best, words, tmp_path):
    with pytest.raises(WorkerError, match=words):
        link_checkpoints(make_checkpoints(tmp_path / "output", 5), best, has_validation=True)


def test_no_checkpoint_at_all_is_an_error(tmp_path):
    tmp_path.joinpath("output").mkdir()
    with pytest.raises(WorkerError, match="holds no checkpoint"):
        link_checkpoints(tmp_path / "output", None, has_validation=False)
