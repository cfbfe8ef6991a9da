"""Stages that make the model: the backend's training, the merge of LoRA weights, the verified package."""

from __future__ import annotations

from orchestrator.backends import BACKENDS
from orchestrator.backends.protocol import Training
from orchestrator.plan.stages.draft import Draft
from orchestrator.plan.stages.fallbacks import add_fallbacks


def build_training(draft: Draft, model: str, output: str) -> Training:
    """Return the backend's training of the model (a folder or a hub id) on the run's data."""
    backend = BACKENDS[draft.job.recipe.backend]
    return backend.build_training(draft.job, model=model, data=str(draft.run.data), output=output)


def add_train(draft: Draft, training: Training, model: str) -> None:
    """Add the training."""
    recipe = draft.job.recipe
    data = ["data/train.jsonl", *(["data/validation.jsonl"] if recipe.data.validation_ratio else [])]
    fallbacks = add_fallbacks(draft, training, model)
    draft.add(
        "train",
        f"Fine-tune with {recipe.backend}" + (" and LoRA" if training.lora else ""),
        training.command,
        inputs=(*data, *((model,) if model.startswith("/") else ())),
        outputs=training.outputs,
        files=tuple(file.path for file in training.files),
        resume=training.resume,
        counts_rows=training.counts_rows,
        flat_loss=training.flat_loss,
        fallbacks=fallbacks,
    )


def add_merge(draft: Draft, base: str, adapter: str) -> str:
    """Add the merge of LoRA weights; return the folder of the whole model."""
    output = draft.output("merge")
    command = BACKENDS[draft.job.recipe.backend].build_merge(draft.job, base=base, adapter=adapter, output=output)
    draft.add(
        "merge",
        "Merge the LoRA weights into the base model",
        command,
        inputs=(f"{adapter}/adapter_model.safetensors", f"{adapter}/adapter_config.json"),
        outputs=(f"{output}/config.json",),
    )
    return output


def add_package(draft: Draft, *, weights: str, base: str, adapter: str | None, scoring: str) -> None:
    """Add the package: a whole model that describes itself, proved to be the one that was trained."""
    report = f"{draft.output('package')}/verification.json"
    command = draft.render_worker(
        "orch/package.j2",
        model=weights,
        base=base,
        adapter=adapter,
        scoring=str(draft.run.root / scoring),
        probes=str(draft.run.eval_jsonl),
        corpus=str(draft.run.corpus_jsonl) if draft.searches_corpus else None,
        test_prompt=draft.job.recipe.evaluate.test_prompt,
        out=str(draft.run.model),
        report=report,
    )
    draft.add(
        "package",
        "Make the model describe itself, and verify it",
        command,
        inputs=(weights, "data/eval.jsonl"),
        outputs=("model/config.json", "model/scoring.json", report),
        files=(scoring,),
    )
