"""Training an embedding model: every loss learns, is continued exactly, and is the library's own training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from orchestrator.workers import train_embedding
from orchestrator.workers.embedding.losses import (
    CLASSES,
    COMPARED,
    GROUPS,
    LOSSES,
    SCORES,
    LossSettings,
    load_rows,
)
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.train_embedding import load_settings
from orchestrator.workers.training import find_weights
from tests.workers.conftest import TOPICS, run_worker
from tests.workers.conftest import WORKERS as FOLDER
from tests.workers.test_train_cross_encoder import load_state, load_weights, ordinary_algorithms, without_dropout

__all__ = ["ordinary_algorithms"]  # a fixture of this file too
# once ms-swift is imported, transformers' Trainer asks for arguments that only ms-swift has
pytestmark = pytest.mark.alone
PROMPTS = {"query_prompt": "query: ", "document_prompt": "passage: "}
SETTINGS: dict[str, dict[str, Any]] = {
    "cached_mnrl": {"mini_batch_size": 2, "matryoshka_dims": {"32": 1.0, "8": 0.5}},
    "cached_mnrl_symmetric": {"mini_batch_size": 3},
    "cached_gist": {"mini_batch_size": 2},
    "mnrl_symmetric": {"matryoshka_dims": {"32": 1.0, "8": 1.0}, "n_layers_per_step": 1},
    "triplet": {"distance_metric": "cosine", "margin": 0.3, "n_layers_per_step": 1},
    "margin_mse": {
        "similarity": "cosine", "hard_negatives": 1,
        "plus": [
            {"type": "mnrl", "weight": 0.5, "scale": 1.0, "similarity": "dot"},
            {"type": "gor", "weight": 2.0, "mean_weight": 0.0},
        ],
    },
    "contrastive": {
        "margin": 0.4, "distance_metric": "euclidean", "plus": [{"type": "gor"}], "matryoshka_dims": {"32": 1, "8": 0.5},
    },
    "softmax": {"num_labels": 2},
    "embed_distill": {"distance_metric": "euclidean", "projection_dim": 32},
    "batch_all_triplet": {"distance_metric": "euclidean", "margin": 0.3, "matryoshka_dims": {"32": 1.0, "8": 1.0}},
    "batch_hard_triplet": {"distance_metric": "cosine", "margin": 0.3},
    "batch_semi_hard_triplet": {"distance_metric": "euclidean", "margin": 0.3},
    "batch_hard_soft_margin_triplet": {"distance_metric": "euclidean"},
}  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    """One file of 24 rows a form; `triplet`: with one negative each."""
    names = list(TOPICS)[:4]
    rows: dict[str, list[Any]] = {GROUPS: [], SCORES: [], COMPARED: [], CLASSES: [], "triplet": []}
    for index in range(6):
        for number, name in enumerate(names):
            query, right = f"what about {name} {index}?", f"{TOPICS[name]} {index}"
            wrong = [f"{TOPICS[names[number - step]]} {index} {step}" for step in (1, 2)]
            group = {"query": query, "positive": right, "negatives": wrong[: 1 + index % 2]}
            rows[GROUPS].append(group)
            rows["triplet"].append(group | {"negatives": wrong[:1]})
            rows[SCORES].append(group | {"negatives": wrong, "scores": [0.9, 0.25, 0.1 * index]})
            rows[CLASSES].append({"text": right, "label": name})
            rows[COMPARED].append(
                {"text1": query, "text2": right if index % 2 else wrong[0], "label": float(index % 2)}
            )
    folder = tmp_path_factory.mktemp("forms")
    for form, lines in rows.items():
        (folder / f"{form}.jsonl").write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    return {form: folder / f"{form}.jsonl" for form in rows}


def write_settings(out: Path, base: Path, files: dict[str, Path], loss: str, **changes: Any) -> Path:
    validation = changes.pop("validation", False)
    own = {"guide": str(base)} if "guide" in LOSSES[loss].settings else {}
    path = files["triplet" if loss == "triplet" else LOSSES[loss].form]
    arguments = {
        "output_dir": str(out / "output"), "learning_rate": 1e-3, "per_device_train_batch_size": 4,
        "num_train_epochs": 1, "logging_steps": 1, "save_strategy": "epoch", "use_cpu": True,
        **({"batch_sampler": "no_duplicates"} if LOSSES[loss].in_batch else {}),
        **({"batch_sampler": "group_by_label"} if LOSSES[loss].form == CLASSES else {}),
        **({"eval_strategy": "epoch"} if validation else {}),
    }  # fmt: skip
    settings = {
        "version": 1, "model": str(base), "family": "encoder", "trust_remote_code": False,
        "loss": {"type": loss, **own, **SETTINGS.get(loss, {}), **changes.pop("loss_settings", {})},
        "form": LOSSES[loss].form, "train": str(path), "validation": str(path) if validation else None,
        "embedding": {"max_length": 64, "pooling": "mean", "normalize": True, **PROMPTS},
        "stable_ratio": None, "early_stopping": None, "deterministic": False,
        "arguments": {**arguments, **changes.pop("arguments", {})}, **changes,
    }  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    config = out / "train.json"
    config.write_text(json.dumps(settings), encoding="utf-8")
    return config


def train(out: Path, base: Path, files: dict[str, Path], loss: str, *, resume: Path | None = None, **changes: Any):
    """Train in this process and return the output folder."""
    words = ["--config", str(write_settings(out, base, files, loss, **changes))]
    assert train_embedding.main([*words, *(["--resume_from_checkpoint", str(resume)] if resume else [])]) == 0
    return out / "output"


def losses_of(output: Path) -> list[float]:
    return [entry["loss"] for entry in load_state(output / "last")["log_history"] if "loss" in entry]


@pytest.mark.parametrize("loss", [name for name in LOSSES if name != "gor"])  # it is only added to others
def test_every_loss_moves_the_weights_and_leaves_a_whole_model(encoder, files, tmp_path, loss):
    from sentence_transformers import SentenceTransformer

    output = train(tmp_path, encoder, files, loss, arguments={"max_steps": 2})
    before, after = (load_weights(folder) for folder in (encoder, output / "last"))
    assert any((after[name] != before[name]).any() for name in after)
    assert all(after[name].isfinite().all() for name in after)
    assert sum(losses_of(output)) > 0
    model = SentenceTransformer(str(output / "last"), device="cpu")
    assert [type(module).__name__ for module in model] == ["Transformer", "Pooling", "Normalize"]
    assert model.prompts == {"query": "query: ", "document": "passage: "}


def train_by_hand(output: Path, base: Path, loss: str, rows: list[dict[str, Any]]) -> list[float]:
    """Train as the library's documentation does it, and return the loss of every step."""
    import numpy as np
    import torch
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer import losses
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from sentence_transformers.util import dot_score, pairwise_cos_sim

    transformer = Transformer(str(base), max_seq_length=64)
    model = SentenceTransformer(modules=[transformer, Pooling(32, "mean"), Normalize()], device="cpu")

    class Sum(torch.nn.Module):
        """What the library's train_bi_encoder_margin_mse_mnrl.py and training_gooaq_infonce_gor.py add up."""

        def __init__(self):
            super().__init__()
            self.model = model
            self.margins = losses.MarginMSELoss(model, similarity_fct=pairwise_cos_sim)
            self.choice = losses.MultipleNegativesRankingLoss(model, scale=1.0, similarity_fct=dot_score)
            self.spread = losses.GlobalOrthogonalRegularizationLoss(model, mean_weight=0.0)

        def forward(self, features, labels):
            vectors = [self.model(one)["sentence_embedding"] for one in features]
            spread = self.spread.compute_loss_from_embeddings(vectors, labels)
            return {
                "margins": self.margins.compute_loss_from_embeddings(vectors, labels),
                "choice": 0.5 * self.choice.compute_loss_from_embeddings(vectors, labels),
                "spread": 2.0 * spread["gor_second_moment"],
            }

    torch.manual_seed(42)  # of the loss's own weights
    made: Any = {
        "mnrl": lambda: losses.MultipleNegativesRankingLoss(model),
        "cosent": lambda: losses.CoSENTLoss(model),
        "cached_mnrl": lambda: losses.MatryoshkaLoss(
            model, losses.CachedMultipleNegativesRankingLoss(model, mini_batch_size=2), [32, 8], [1.0, 0.5]
        ),
        "distill_kl": lambda: losses.DistillKLDivLoss(model),
        "mse": lambda: losses.MSELoss(model),
        "margin_mse": Sum,
        "angle_triplet": lambda: losses.AnglELoss(model),
        "softmax": lambda: losses.SoftmaxLoss(model, embedding_dimension=32, num_labels=2),
        "embed_distill": lambda: losses.EmbedDistillLoss(model, distance_metric="l2", projection_dim=32),
        "mnrl_symmetric": lambda: losses.Matryoshka2dLoss(
            model, losses.MultipleNegativesSymmetricRankingLoss(model), [32, 8], [1.0, 1.0]
        ),
        "batch_all_triplet": lambda: losses.MatryoshkaLoss(
            model, losses.BatchAllTripletLoss(model, margin=0.3), [32, 8], [1.0, 1.0]
        ),
        "batch_hard_triplet": lambda: losses.BatchHardTripletLoss(
            model, losses.BatchHardTripletLossDistanceFunction.cosine_distance, 0.3
        ),
        "batch_semi_hard_triplet": lambda: losses.BatchSemiHardTripletLoss(model, margin=0.3),
        "batch_hard_soft_margin_triplet": lambda: losses.BatchHardSoftMarginTripletLoss(model),
        "triplet": lambda: losses.AdaptiveLayerLoss(
            model,
            losses.TripletLoss(model, losses.TripletDistanceMetric.COSINE, triplet_margin=0.3),
            n_layers_per_step=1,
        ),
    }[loss]()
    form = LOSSES[loss].form
    if form == COMPARED:
        columns = {key: [row[key] for row in rows] for key in ("text1", "text2", "label")}
        columns |= {"label": [int(label) for label in columns["label"]]} if loss == "softmax" else {}
        prompts = {"text1": "query: ", "text2": "passage: "}
    elif form == CLASSES:
        names = sorted({row["label"] for row in rows})
        columns = {"text": [row["text"] for row in rows], "label": [names.index(row["label"]) for row in rows]}
        prompts = {"text": "query: "}
    else:
        count = 1 if loss == "margin_mse" else min(len(row["negatives"]) for row in rows)
        columns = {key: [row[key] for row in rows] for key in ("query", "positive")}
        columns |= {f"negative_{place}": [row["negatives"][place] for row in rows] for place in range(count)}
        prompts = {name: "query: " if name == "query" else "passage: " for name in columns}
        columns |= {"scores": [row["scores"][: count + 1] for row in rows]} if form == SCORES else {}
        if loss in {"mse", "embed_distill"}:
            guide = SentenceTransformer(str(base), device="cpu")
            columns["label"] = np.stack([guide.encode(texts) for texts in columns.values()], axis=1).tolist()
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(output), learning_rate=1e-3, per_device_train_batch_size=4, num_train_epochs=1, logging_steps=1,
        save_strategy="no", use_cpu=True, report_to="none", prompts=prompts,
        batch_sampler="no_duplicates" if LOSSES[loss].in_batch else
        "group_by_label" if form == CLASSES else "batch_sampler",
    )  # fmt: skip

    class Cardless(SentenceTransformerTrainer):
        def add_model_card_callback(self, *_):
            """Add none: it draws examples, and the layers and sizes of a step are drawn by the same numbers."""

    trainer = Cardless(model=model, args=arguments, train_dataset=Dataset.from_dict(columns), loss=made)
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize(
    "loss",
    [
        "mnrl", "cached_mnrl", "cosent", "distill_kl", "mse", "mnrl_symmetric", "triplet", "margin_mse", "softmax",
        "embed_distill", "angle_triplet", "batch_all_triplet", "batch_hard_triplet", "batch_semi_hard_triplet",
        "batch_hard_soft_margin_triplet",
    ],
)  # fmt: skip
def test_every_step_has_the_loss_of_the_same_training_written_by_hand(encoder, files, tmp_path, loss):
    base = without_dropout(encoder, tmp_path / "base")
    rows = [json.loads(line) for line in files[loss if loss in files else LOSSES[loss].form].read_text().splitlines()]
    own = losses_of(train(tmp_path / "own", base, files, loss))
    by_hand = train_by_hand(tmp_path / "hand", base, loss, rows)
    assert len(own) == 6
    assert own == pytest.approx(by_hand, abs=1e-6)


@pytest.mark.parametrize(("labels", "best"), [("aabb", "eval_validation_cosine_ndcg@10"), ("abcd", "eval_loss")])
def test_texts_with_classes_search_one_another_where_a_class_has_two(encoder, files, tmp_path, labels, best):
    """Held-out texts need not have two of a class: then, and for the loss, they come in plain batches."""
    rows = [{"text": f"{TOPICS[name]} held out", "label": label} for label, name in zip(labels, TOPICS, strict=False)]
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = write_settings(
        tmp_path, encoder, files, "batch_hard_triplet", validation=True,
        arguments={"metric_for_best_model": best, "max_steps": 2, "per_device_eval_batch_size": 3},
    )  # fmt: skip
    config.write_text(json.dumps(json.loads(config.read_text()) | {"validation": str(held_out)}))
    assert train_embedding.main(["--config", str(config)]) == 0
    [measured] = [entry for entry in load_state(tmp_path / "output" / "last")["log_history"] if "eval_loss" in entry]
    assert ("eval_validation_cosine_ndcg@10" in measured) == (labels == "aabb")
    assert load_state(tmp_path / "output" / "best")["best_metric"] == measured[best]


CHANGED = {
    "max_length": 64, "pooling": "mean", "normalize": True, **PROMPTS,
    "dense": {"out_features": 16, "activation": "tanh"}, "layers": [1],
}  # fmt: skip


def test_a_model_without_some_layers_and_with_a_new_one_is_trained_as_by_hand(encoder, files, tmp_path):
    """As matryoshka_nli_reduced_dim.py and model_distillation_layer_reduction.py of the library change theirs."""
    import torch
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer import losses
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize, Pooling, Transformer

    base = without_dropout(encoder, tmp_path / "base")
    output = train(tmp_path / "own", base, files, "mnrl", embedding=CHANGED)
    saved = SentenceTransformer(str(output / "last"), device="cpu")
    assert [type(module).__name__ for module in saved] == ["Transformer", "Pooling", "Dense", "Normalize"]
    assert saved.encode("tea").shape == (16,)
    assert len(saved.transformers_model.encoder.layer) == saved.transformers_model.config.num_hidden_layers == 1

    rows = [json.loads(line) for line in files[GROUPS].read_text().splitlines()]
    columns = {key: [row[key] for row in rows] for key in ("query", "positive")}
    columns["negative_1"] = [row["negatives"][0] for row in rows]
    transformer = Transformer(str(base), max_seq_length=64)
    inner = transformer.auto_model if hasattr(transformer, "auto_model") else transformer.model
    inner.encoder.layer = torch.nn.ModuleList([inner.encoder.layer[1]])
    torch.manual_seed(42)
    model = SentenceTransformer(modules=[transformer, Pooling(32, "mean"), Dense(32, 16), Normalize()], device="cpu")
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(tmp_path / "hand"), learning_rate=1e-3, per_device_train_batch_size=4, num_train_epochs=1,
        logging_steps=1, save_strategy="no", use_cpu=True, report_to="none", batch_sampler="no_duplicates",
        prompts={"query": "query: ", "positive": "passage: ", "negative_1": "passage: "},
    )  # fmt: skip
    trainer = SentenceTransformerTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_dict(columns),
        loss=losses.MultipleNegativesRankingLoss(model),
    )
    trainer.train()
    by_hand = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses_of(output) == pytest.approx(by_hand, abs=1e-6)


def test_a_changed_model_is_continued_to_the_same_bytes_and_packaged(encoder, files, tmp_path):
    from orchestrator.workers import package
    from tests.workers.embedding_runs import SPEC, Trained, write_eval_files

    steps = {"save_strategy": "steps", "save_steps": 2}
    whole = train(tmp_path / "whole", encoder, files, "mnrl", embedding=CHANGED, arguments=steps)
    resume = tmp_path / "again" / "output" / "checkpoint-4"
    shutil.copytree(whole / "checkpoint-4", resume)
    again = train(tmp_path / "again", encoder, files, "mnrl", embedding=CHANGED, arguments=steps, resume=resume)
    for name in ("model.safetensors", "2_Dense/model.safetensors"):
        assert (whole / "last" / name).read_bytes() == (again / "last" / name).read_bytes()
    write_eval_files(tmp_path / "eval")
    spec = SPEC | {"tool": "sentence-transformers", "pooling": "mean"}
    trained = Trained(encoder, whole / "last", None, spec)
    words = trained.arguments(tmp_path / "eval", tmp_path / "model", **{"test-prompt": "tea"})
    assert package.main(words) == 0
    report = json.loads((tmp_path / "model.report.json").read_text())
    assert report["dims"] == 16
    assert next(check for check in report["checks"] if check["name"] == "trained")["max_distance"] < 1e-10


def test_layers_that_cannot_be_kept_are_refused(encoder, decoder, files, tmp_path):
    embedding = CHANGED | {"layers": [0, 2]}
    with pytest.raises(WorkerError, match="has 2 layers, counted from 0: there is no layer 2"):
        train(tmp_path / "many", encoder, files, "mnrl", embedding=embedding)
    embedding = CHANGED | {"layers": [0], "pooling": "lasttoken"}
    with pytest.raises(WorkerError, match="is no encoder like BERT"):
        train(tmp_path / "llm", decoder, files, "mnrl", embedding=embedding, family="decoder")


def test_translations_learn_the_vector_of_the_first_text_which_is_computed_once(
    encoder, files, tmp_path, capsys, monkeypatch
):
    import torch
    from sentence_transformers import SentenceTransformer

    rows = tmp_path / "rows.jsonl"
    lines = [json.loads(line) | {"negatives": []} for line in files[GROUPS].read_text().splitlines()]
    rows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    guide = SentenceTransformer(str(encoder), device="cpu")

    def farness(folder: Path) -> float:
        """Return the squared error of the answers' vectors to the guide's of their questions."""
        model = SentenceTransformer(str(folder), device="cpu")
        answers, wanted = model.encode_document([line["positive"] for line in lines]), guide.encode(
            [line["query"] for line in lines]
        )  # fmt: skip
        return float(((answers - wanted) ** 2).mean())

    embedding = {"max_length": 64, "pooling": "mean", "normalize": False, **PROMPTS}
    options: Any = {"loss_settings": {"translations": True}, "validation": True, "embedding": embedding}
    trained = train(tmp_path / "one", encoder, {GROUPS: rows}, "mse", arguments={"max_steps": 12}, **options)
    assert farness(trained / "last") < farness(encoder) / 2
    kept = list((tmp_path / "one" / "vectors").iterdir())
    assert [[path.name for path in one.iterdir()] for one in kept] == [
        ["vectors.safetensors"]
    ]  # both sides have the same rows here
    assert "vectors of train query: 24 of 24 texts" in capsys.readouterr().out

    monkeypatch.setattr("orchestrator.workers.embedding.losses.load_guide", pytest.fail)
    shutil.copytree(tmp_path / "one" / "vectors", tmp_path / "two" / "vectors")
    again = train(tmp_path / "two", encoder, {GROUPS: rows}, "mse", arguments={"max_steps": 12}, **options)
    one, other = (load_weights(folder / "last") for folder in (trained, again))
    assert all(torch.equal(weight, other[name]) for name, weight in one.items())


def test_a_guide_whose_vectors_have_another_length_is_refused(encoder, files, tmp_path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer

    transformer = Transformer(str(encoder), max_seq_length=64)
    SentenceTransformer(modules=[transformer, Pooling(32, "mean"), Dense(32, 16)]).save(str(tmp_path / "guide"))
    with pytest.raises(WorkerError, match="have 16 numbers and the model's 32"):
        train(tmp_path / "run", encoder, files, "mse", loss_settings={"guide": str(tmp_path / "guide")})


def test_a_worker_that_is_killed_is_continued_with_the_weights_of_its_loss_to_the_same_bytes(encoder, files, tmp_path):
    """The set of the main loss and a further one have weights beside the model's; neither stands among the model's."""
    import os
    import signal
    import subprocess
    import sys
    import time

    from safetensors.torch import load_file

    def prepare(name: str) -> Path:
        (tmp_path / name / "train" / "classes").mkdir(parents=True)
        shutil.copy(files[COMPARED], tmp_path / name / "train" / "classes" / "train.jsonl")
        shutil.copy(files[GROUPS], tmp_path / name / "train.jsonl")
        config = write_settings(
            tmp_path / name, encoder, files, "embed_distill", more={"classes": {"type": "softmax", "num_labels": 2}},
            arguments={"save_strategy": "steps", "save_steps": 2, "num_train_epochs": 2},
        )  # fmt: skip
        config.write_text(json.dumps(json.loads(config.read_text()) | {"train": str(tmp_path / name / "train.jsonl")}))
        return config

    whole, cut = prepare("whole"), prepare("cut")
    assert train_embedding.main(["--config", str(whole)]) == 0
    words = [sys.executable, FOLDER, "train_embedding", "--config", cut]
    output = tmp_path / "cut" / "output"
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen([str(word) for word in words], stdout=log, stderr=log, start_new_session=True)
        while not (output / "checkpoint-4" / "trainer_state.json").is_file():
            assert process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    for later in output.glob("checkpoint-*"):  # it may have come farther before it died
        if later.name not in {"checkpoint-2", "checkpoint-4"}:
            shutil.rmtree(later)
    assert train_embedding.main(["--config", str(cut), "--resume_from_checkpoint", str(output / "checkpoint-4")]) == 0
    one, other = (tmp_path / name / "output" / "last" for name in ("whole", "cut"))
    for name in ("model.safetensors", "loss/model.safetensors", "optimizer.pt"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    assert losses_of(one.parent) == losses_of(other.parent)
    early, late = (load_file(one.parent / name / "loss" / "model.safetensors") for name in ("checkpoint-2", "last"))
    assert early.keys() == {
        "projection.weight",
        "projection.bias",
        "others.0.classifier.weight",
        "others.0.classifier.bias",
    }
    assert all((weight != late[name]).any() for name, weight in early.items())
    assert not [name for name in load_weights(one) if "projection" in name or "classifier" in name]
    shutil.rmtree(output / "checkpoint-4" / "loss")
    with pytest.raises(WorkerError, match="does not hold the weights of the recipe's loss"):
        train_embedding.main(["--config", str(cut), "--resume_from_checkpoint", str(output / "checkpoint-4")])


@pytest.mark.parametrize("loss", ["mnrl", "mnrl_symmetric"])  # the second draws layers and sizes
def test_a_training_that_is_continued_in_the_middle_of_an_epoch_ends_with_the_same_bytes(
    encoder, files, tmp_path, loss
):
    more = {"more": {"same": {"type": "cosent"}}, "arguments": {"save_strategy": "steps", "save_steps": 2}}
    (tmp_path / "train" / "same").mkdir(parents=True)
    shutil.copy(files[COMPARED], tmp_path / "train" / "same" / "train.jsonl")
    shutil.copy(files[GROUPS], tmp_path / "train.jsonl")
    ours = {GROUPS: tmp_path / "train.jsonl"}
    whole = train(tmp_path / "whole", encoder, ours, loss, **json.loads(json.dumps(more)))
    shutil.copytree(whole / "checkpoint-4", tmp_path / "again" / "output" / "checkpoint-4")
    resume = tmp_path / "again" / "output" / "checkpoint-4"
    again = train(tmp_path / "again", encoder, ours, loss, resume=resume, **more)
    one, other = (folder / "last" / "model.safetensors" for folder in (whole, again))
    assert one.read_bytes() == other.read_bytes()
    assert losses_of(whole) == losses_of(again)
    assert len(losses_of(whole)) == 12


def test_batches_that_are_drawn_by_class_are_drawn_again_where_a_training_is_continued(encoder, files, tmp_path):
    steps = {"arguments": {"save_strategy": "steps", "save_steps": 2}}
    whole = train(tmp_path / "whole", encoder, files, "batch_all_triplet", **json.loads(json.dumps(steps)))
    resume = tmp_path / "again" / "output" / "checkpoint-4"
    shutil.copytree(whole / "checkpoint-4", resume)
    again = train(tmp_path / "again", encoder, files, "batch_all_triplet", resume=resume, **steps)
    one, other = (folder / "last" / "model.safetensors" for folder in (whole, again))
    assert one.read_bytes() == other.read_bytes()
    assert losses_of(whole) == losses_of(again)


def test_the_first_rows_of_a_file_that_is_sorted_by_class_are_refused(encoder, tmp_path):
    rows = tmp_path / "sorted.jsonl"
    rows.write_text("".join(json.dumps({"text": f"t{n}", "label": "ab"[n == 7]}) + "\n" for n in range(8)))
    with pytest.raises(WorkerError, match="fewer than two classes have two of the 8 training texts"):
        train(tmp_path, encoder, {CLASSES: rows}, "batch_all_triplet")


@pytest.mark.parametrize("loss", [name for name, one in LOSSES.items() if one.form == CLASSES])
def test_a_loss_of_classes_keeps_its_model_where_several_processes_share_it(loss):
    """The library's own keeps it as sentence_embedder, in whose place the trainer puts no wrapped model."""
    import torch

    model = torch.nn.Linear(2, 2)
    built = LOSSES[loss].build(model, LossSettings(loss, distance_metric="cosine"))
    assert [name for name, module in built.named_modules(remove_duplicate=False) if module is model] == ["model"]
    assert find_weights(built) == {}


def test_several_sets_make_batches_of_their_own(encoder, files, tmp_path, capsys):
    lines = files[GROUPS].read_text().splitlines()
    (tmp_path / "train").mkdir()
    for name, some in (("000-long", lines[:16]), ("001-short", lines[16:])):
        (tmp_path / "train" / f"{name}.jsonl").write_text("\n".join(some))
    config = write_settings(
        tmp_path, encoder, files, "mnrl", sources=["000-long.jsonl", "001-short.jsonl"],
        arguments={"multi_dataset_batch_sampler": "round_robin", "per_device_train_batch_size": 8},
    )  # fmt: skip
    rows = tmp_path / "train.jsonl"
    rows.write_text(files[GROUPS].read_text())
    config.write_text(json.dumps(json.loads(config.read_text()) | {"train": str(rows)}))
    assert train_embedding.main(["--config", str(config)]) == 0
    assert load_state(tmp_path / "output" / "last")["global_step"] == 2  # one batch of each, then the short one is done
    printed = capsys.readouterr().out
    assert "train 000-long: 16 rows" in printed
    assert "train 001-short: 8 rows" in printed


def test_every_step_of_several_sets_has_the_loss_of_the_library_s_own_dictionary_of_losses(encoder, files, tmp_path):
    from datasets import Dataset, DatasetDict
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.sentence_transformer import losses
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    base = without_dropout(encoder, tmp_path / "base")
    alike = {"multi_dataset_batch_sampler": "round_robin", "per_device_train_batch_size": 4}
    own = tmp_path / "own"
    (own / "train" / "same").mkdir(parents=True)
    shutil.copy(files[COMPARED], own / "train" / "same" / "train.jsonl")
    shutil.copy(files[GROUPS], own / "train.jsonl")
    more = {"same": {"type": "contrastive", "margin": 0.4, "distance_metric": "euclidean"}}
    config = write_settings(own, base, files, "mnrl", more=more, validation=True, arguments=alike)
    config.write_text(json.dumps(json.loads(config.read_text()) | {"train": str(own / "train.jsonl")}))
    assert train_embedding.main(["--config", str(config)]) == 0
    history = load_state(own / "output" / "last")["log_history"]
    assert [entry["eval_loss"] > 0 for entry in history if "eval_loss" in entry] == [True]

    rows = {form: [json.loads(line) for line in files[form].read_text().splitlines()] for form in (GROUPS, COMPARED)}
    first = {key: [row[key] for row in rows[GROUPS]] for key in ("query", "positive")}
    first["negative_1"] = [row["negatives"][0] for row in rows[GROUPS]]
    second = {key: [row[key] for row in rows[COMPARED]] for key in ("text1", "text2", "label")}
    model = SentenceTransformer(
        modules=[Transformer(str(base), max_seq_length=64), Pooling(32, "mean"), Normalize()], device="cpu"
    )
    prompts = dict.fromkeys(("query", "text1"), "query: ")
    prompts |= dict.fromkeys(("positive", "negative_1", "text2"), "passage: ")
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(tmp_path / "hand"), learning_rate=1e-3, num_train_epochs=1, logging_steps=1,
            save_strategy="no", use_cpu=True, report_to="none", batch_sampler="no_duplicates", prompts=prompts, **alike,
        ),
        train_dataset=DatasetDict({"one": Dataset.from_dict(first), "other": Dataset.from_dict(second)}),
        loss={
            "one": losses.MultipleNegativesRankingLoss(model),
            "other": losses.ContrastiveLoss(model, losses.SiameseDistanceMetric.EUCLIDEAN, margin=0.4),
        },
    )  # fmt: skip
    trainer.train()
    by_hand = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(by_hand) == 12
    assert losses_of(own / "output") == pytest.approx(by_hand, abs=1e-6)


def test_an_adapter_is_trained_under_the_launcher_where_no_process_waits_for_an_unused_weight(encoder, files, tmp_path):
    from safetensors.torch import load_file

    lora = {"lora_rank": 2, "lora_alpha": 4, "lora_dropout": 0.0, "target_modules": ["all-linear"]}
    config = write_settings(tmp_path, encoder, files, "cosent", lora=lora, arguments={"max_steps": 3})
    done = run_worker("launch", "--nproc_per_node", "1", FOLDER, "train_embedding", "--config", config, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    weights = load_file(tmp_path / "output" / "last" / "adapter_model.safetensors")
    assert {name for name, weight in weights.items() if "lora_B" in name and weight.any() and "pooler" not in name}
    assert not any(weight.any() for name, weight in weights.items() if "lora_B" in name and "pooler" in name)


def test_two_processes_that_gather_have_the_loss_and_the_weights_of_one_with_the_whole_batch(encoder, files, tmp_path):
    import torch

    base = without_dropout(encoder, tmp_path / "base")
    alike = {
        "batch_sampler": "batch_sampler",
        "max_steps": 3,
        "lr_scheduler_type": "constant",
        "dataloader_drop_last": True,
    }
    two = {**alike, "per_device_train_batch_size": 2, "ddp_backend": "gloo"}
    gathers = {"gather_across_devices": True, "matryoshka_dims": None}
    config = write_settings(tmp_path / "two", base, files, "cached_mnrl", loss_settings=gathers, arguments=two)
    done = run_worker("launch", "--nproc_per_node", "2", FOLDER, "train_embedding", "--config", config, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    one = train(tmp_path / "one", base, files, "cached_mnrl", loss_settings={"matryoshka_dims": None}, arguments=alike)
    assert losses_of(tmp_path / "two" / "output") == pytest.approx(losses_of(one), abs=2e-3)
    mine, theirs = load_weights(one / "last"), load_weights(tmp_path / "two" / "output" / "last")
    assert all(torch.allclose(weight, theirs[name], rtol=1e-3, atol=1e-3) for name, weight in mine.items())


def test_the_best_checkpoint_has_the_highest_ndcg_and_of_pairs_the_highest_correlation(encoder, files, tmp_path):
    for loss, metric in (("mnrl", "eval_validation_cosine_ndcg@10"), ("cosent", "eval_validation_spearman_cosine")):
        output = train(
            tmp_path / loss, encoder, files, loss, validation=True,
            arguments={"num_train_epochs": 3, "metric_for_best_model": metric, "greater_is_better": True},
        )  # fmt: skip
        state = load_state(output / "last")
        found = {entry["step"]: entry[metric] for entry in state["log_history"] if metric in entry}
        assert len(found) == 3
        best = int((output / "best").readlink().name.removeprefix("checkpoint-"))
        assert found[best] == max(found.values()) == state["best_metric"]


def test_an_early_stop_ends_the_training(encoder, files, tmp_path):
    output = train(
        tmp_path, encoder, files, "mnrl", validation=True, early_stopping={"patience": 1, "threshold": 1.0},
        arguments={
            "num_train_epochs": 5, "metric_for_best_model": "eval_validation_cosine_ndcg@10", "greater_is_better": True,
        },
    )  # fmt: skip
    assert load_state(output / "last")["epoch"] < 5


def test_validation_pairs_of_one_label_are_judged_by_their_loss(encoder, files, tmp_path):
    lines = [line for line in files[COMPARED].read_text().splitlines() if json.loads(line)["label"] == 1]
    one = tmp_path / "one.jsonl"
    one.write_text("\n".join(lines))
    config = write_settings(
        tmp_path, encoder, files, "cosine_similarity", validation=True,
        arguments={"metric_for_best_model": "eval_validation_spearman_cosine", "greater_is_better": True},
    )  # fmt: skip
    config.write_text(json.dumps(json.loads(config.read_text()) | {"validation": str(one)}))
    assert train_embedding.main(["--config", str(config)]) == 0
    assert (tmp_path / "output" / "best").is_symlink()


@pytest.mark.parametrize(
    ("loss", "changes", "message"),
    [
        ("mnrl", {"arguments": {"per_device_train_batch_size": 1}}, "a batch of one row has no other rows"),
        ("mnrl", {"loss_settings": {"margin": 0.1}}, "loss.margin is no setting of mnrl"),
        ("gist", {"loss_settings": {"guide": None}}, "gist needs a guide"),
        ("cached_gist", {"loss_settings": {"n_layers_per_step": 1}}, "n_layers_per_step is no setting of cached_gist"),
        ("mnrl", {"loss_settings": {"plus": [{"type": "gor", "scale": 1}]}}, "loss.plus.scale is no setting of gor"),
        ("mnrl", {"loss_settings": {"plus": [{"type": "nothing"}]}}, "loss.plus.type is no setting of nothing"),
        ("mnrl", {"embedding": CHANGED | {"layers": [1, 0]}}, "embedding.layers must be a list of layers"),
        ("mnrl", {"form": COMPARED}, "mnrl learns from embedding-groups"),
        ("mnrl", {"more": {"same": {"type": "cosent", "margin": 1}}}, "more.same: loss.margin is no setting of cosent"),
        ("cosent", {"early_stopping": {"patience": 1}}, "early_stopping needs validation rows"),
        ("cosent", {"loss_settings": {"scale": 0}}, "scale must be a number above 0"),
    ],
)
def test_settings_that_do_not_belong_together_are_refused(encoder, files, tmp_path, loss, changes, message):
    with pytest.raises(WorkerError, match=message):
        load_settings(write_settings(tmp_path, encoder, files, loss, **changes))


def test_sizes_above_the_model_s_and_a_guide_that_is_none_are_refused(encoder, files, tmp_path):
    with pytest.raises(WorkerError, match="cannot exceed the model's embedding dimension of 32"):
        train(tmp_path / "dims", encoder, files, "mnrl", loss_settings={"matryoshka_dims": {"64": 1.0}})
    with pytest.raises(WorkerError, match=r"the guide .*nobody cannot be loaded"):
        train(tmp_path / "guide", encoder, files, "gist", loss_settings={"guide": str(tmp_path / "nobody")})


@pytest.mark.parametrize(
    ("loss", "row", "message"),
    [
        ("mnrl", "[]", "is an object of query, positive, negatives"),
        ("mnrl", "{", "not JSON"),
        ("mnrl", {"query": "a", "positive": " ", "negatives": []}, "positive must be a text that is not empty"),
        ("mnrl", {"query": "a", "positive": "b", "negatives": ["c", 1]}, r"negatives\[1\] must be a text"),
        ("triplet", {"query": "a", "positive": "b", "negatives": []}, "triplet learns from one negative"),
        ("distill_kl", {"query": "a", "positive": "b", "negatives": ["c"], "scores": [1]}, "scores must be 2 numbers"),
        ("margin_mse", {"query": "a", "positive": "b", "negatives": [], "scores": [1]}, "the row has no negatives"),
        ("cosent", {"text1": "a", "text2": "b", "label": True}, "True is no finite number"),
        ("softmax", {"text1": "a", "text2": "b", "label": 2}, "2 is none of the 2 classes"),
        ("angle_triplet", {"query": "a", "positive": "b", "negatives": []}, "the row has no negatives"),
        ("mse", {"query": "a", "positive": "b", "negatives": ["c"]}, "a row's texts mean the same, and it has 1"),
    ],
)
def test_a_row_that_a_loss_cannot_learn_from_is_named_with_its_line(tmp_path, loss, row, message):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n" + (row if isinstance(row, str) else json.dumps(row)) + "\n")
    with pytest.raises(WorkerError, match=rf"rows.jsonl:2: .*{message}"):
        load_rows(path, LossSettings(loss, translations=loss == "mse", num_labels=2 if loss == "softmax" else None))


def test_every_row_has_as_many_negatives_as_the_one_with_the_fewest_or_as_the_loss_says(files):
    assert load_rows(files[GROUPS], LossSettings("mnrl")).negatives == 1
    assert load_rows(files[SCORES], LossSettings("distill_kl")).columns["label"][0] == [0.9, 0.25, 0.0]
    assert load_rows(files[SCORES], LossSettings("distill_kl", hard_negatives=1)).columns["label"][0] == [0.9, 0.25]
    with pytest.raises(WorkerError, match="a row has 1 negatives, and every row must have 2"):
        load_rows(files[GROUPS], LossSettings("mnrl", hard_negatives=2))
