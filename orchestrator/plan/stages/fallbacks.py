"""A training that may run out of memory → the same training in ever smaller batches, as many rows a step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from orchestrator.backends import BACKENDS
from orchestrator.backends.protocol import Training
from orchestrator.backends.render import format_command, render_text
from orchestrator.plan.stages.draft import Draft
from orchestrator.recipe.plan import Command, Fallback


def list_batches(batch: int, accumulation: int) -> list[tuple[int, int]]:
    """Return (batch, accumulation) with the same product, each batch at most half of the one before, down to 1."""
    found = []
    smaller = batch
    while smaller > 1:
        smaller = next(size for size in range(smaller // 2, 0, -1) if batch % size == 0)
        found.append((smaller, batch // smaller * accumulation))
    return found


def add_fallbacks(draft: Draft, training: Training, model: str) -> tuple[Fallback, ...]:
    """Return what is tried in turn when memory runs out, and add its files; nothing unless the recipe asks for it."""
    if draft.job.recipe.watch.on_oom != "retry":
        return ()
    return tuple(
        _add_fallback(draft, training, model, batch, accumulation)
        for batch, accumulation in list_batches(training.batch, training.accumulation)
    )


def _add_fallback(draft: Draft, training: Training, model: str, batch: int, accumulation: int) -> Fallback:
    sizes = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": accumulation}
    recipe = draft.job.recipe.model_copy(update={"train": draft.job.recipe.train | sizes})
    output = draft.output("train")
    smaller = BACKENDS[recipe.backend].build_training(
        replace(draft.job, recipe=recipe), model=model, data=str(draft.run.data), output=output
    )
    argv = _rename_files(draft, training, smaller, f"batch-{batch}")
    script = f"stages/{Path(output).parent.name}/command.batch-{batch}.sh"
    title = ", ".join(f"{name} {value}" for name, value in sizes.items())
    command = format_command(Command(argv, training.command.env, training.command.cwd))
    draft.add_file(script, render_text("run/fallback.sh.j2", run_dir=str(draft.run.root), title=title, command=command))
    return Fallback(title, argv, script)


def _rename_files(draft: Draft, training: Training, smaller: Training, name: str) -> tuple[str, ...]:
    """Return the argv with the files that differ under names of their own, which are added to the plan."""
    argv = smaller.command.argv
    for file in smaller.files:
        if file in training.files:
            continue
        folder, _, base = file.path.rpartition("/")
        path = draft.add_file(f"{folder}/{name}.{base}", file.text)
        old, new = str(draft.run.root / file.path), str(draft.run.root / path)
        argv = tuple(new if word == old else word for word in argv)
    return argv
