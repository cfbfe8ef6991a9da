"""A tool that does not exist: all that Orch needs to know of it to check, render and prepare its trainings."""

from __future__ import annotations

from pathlib import Path

from orchestrator.backends.arguments import load_arguments
from orchestrator.backends.protocol import Backend, SmokeScale
from orchestrator.backends.trainer import ArgumentList, finish_training
from orchestrator.backends.trainer_checks import check_trainer
from orchestrator.errors import Problem

SNAPSHOT = str(Path(__file__).with_name("acme"))


def _check(job, train):
    if job.model.family == "decoder":
        yield ("model",), Problem("acme trains encoders", "name one, such as BAAI/bge-reranker-base")


def _build_training(job, *, model, data, output):
    arguments, known = ArgumentList(job.backend.translate(job)), load_arguments(SNAPSHOT, job.versions)
    arguments.put("model", model, "recipe", "model")
    arguments.put("data", f"{data}/train.jsonl", "recipe", "data.train, prepared")
    arguments.put_defaults(known, ("per_device_train_batch_size", "gradient_accumulation_steps"), "acme's default")
    arguments.put_rest()
    arguments.put("output", output, "orch", "a fresh folder of the run")
    return finish_training(
        job,
        arguments,
        template="acme/train.j2",
        template_values={"arguments": arguments.items()},
        env=job.environment(),
        files=(),
        weights=output,
        prepare={},
        scoring={"scorer": "cross-encoder", "tool": "acme", "prompt": None, "max_length": 512},
    )


BACKEND = Backend(
    name="acme",
    title="Acme",
    trainers="Acme's trainers",
    distributions=("acme-trainer",),
    tasks=("reranker",),
    kind="group",
    needs_negatives=True,
    snapshots=(SNAPSHOT,),
    aliases="",
    reserved={"model": "say it as `model:`", "data": "say it as `data.train:`", "output": "the run folder decides it"},
    at_least={"per_device_train_batch_size": 1},
    data_form=lambda _: "flagembedding",
    check_job=lambda job: check_trainer(job, _check, conditions=()),
    smoke_scale=lambda _: SmokeScale(train={"per_device_train_batch_size": 2}),
    build_training=_build_training,
)
