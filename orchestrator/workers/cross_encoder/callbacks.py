"""What happens during the training beside the library's own: progress lines, and no model of NaN is saved."""

from __future__ import annotations

from typing import Any

from orchestrator.workers.failure import WorkerError
from orchestrator.workers.progress import Progress


def build_callbacks() -> list[Any]:
    """Return the callbacks; they stand behind the one that decides when to log and save, and see its decision."""
    import torch
    from transformers import TrainerCallback

    class ProgressLines(TrainerCallback):  # type: ignore[misc]  # the trainer calls nothing else
        """Prints `orch-progress STEP/STEPS`, also right before each line of losses, which has no number of its own."""

        progress: Progress | None = None

        def on_train_begin(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
            if state.is_world_process_zero:
                self.progress = Progress(total=state.max_steps, done=state.global_step)

        def on_step_end(self, _args: Any, state: Any, control: Any, **_: Any) -> None:
            if self.progress is None:
                return
            if control.should_log:
                self.progress = Progress(total=state.max_steps, done=state.global_step - 1)
            self.progress.advance(state.global_step - self.progress.done)

    class FiniteWeights(TrainerCallback):  # type: ignore[misc]
        """Ends the training before a checkpoint of NaN: the step before may have had a finite loss."""

        def on_step_end(self, _args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            if control.should_save:
                broken = [name for name, weight in model.named_parameters() if not torch.isfinite(weight).all()]
                if broken:
                    raise WorkerError(
                        f"after step {state.global_step} {len(broken)} weights hold NaN or infinity ({broken[0]} …): "
                        "the training has diverged; nothing of it is saved. Lower learning_rate"
                    )

        on_epoch_end = on_step_end

    return [ProgressLines(), FiniteWeights()]


def build_early_stopping(patience: int, threshold: float) -> Any:
    """Return the library's own callback."""
    from transformers import EarlyStoppingCallback

    return EarlyStoppingCallback(patience, threshold)
