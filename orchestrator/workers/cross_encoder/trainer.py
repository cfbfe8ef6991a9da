"""Settings, rows and model → the library's trainer, ready to train."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator.workers.cross_encoder.callbacks import build_callbacks, build_early_stopping
from orchestrator.workers.cross_encoder.losses import build_loss, guard_loss
from orchestrator.workers.cross_encoder.rows import Rows, build_ranking_samples
from orchestrator.workers.cross_encoder.schedule import build_decay_arguments
from orchestrator.workers.cross_encoder.settings import LISTS
from orchestrator.workers.cross_encoder.sharding import save_whole

if TYPE_CHECKING:
    from orchestrator.workers.cross_encoder.settings import Settings


def build_dataset(rows: Rows) -> Any:
    """Return the rows as a datasets.Dataset, labels as floats whatever the first ones look like."""
    from datasets import Dataset, Features, Value
    from datasets import List as ListOf

    kinds = {"label": Value("float32"), "labels": ListOf(Value("float32")), "documents": ListOf(Value("string"))}
    features = Features({key: kinds.get(key, Value("string")) for key in rows.columns})
    return Dataset.from_dict(rows.columns, features=features)


def build_evaluator(rows: Rows, arguments: Any) -> Any:
    """Return what measures the ranking of the validation rows, or None where no query has both kinds of documents."""
    from sentence_transformers.cross_encoder.evaluation import CrossEncoderRerankingEvaluator

    samples = build_ranking_samples(rows)
    if not samples:
        return None
    pairs = arguments.eval_batch_size * (max(1, rows.documents // rows.count) if rows.form == LISTS else 1)
    return CrossEncoderRerankingEvaluator(samples, name="validation", batch_size=pairs, write_csv=False)


def build_trainer(settings: Settings, arguments: Any, model: Any, train: Rows, validation: Rows | None) -> Any:
    """Return the trainer; its loss and its checkpoints are guarded against NaN."""
    from sentence_transformers.cross_encoder import CrossEncoderTrainer

    class Trainer(CrossEncoderTrainer):  # type: ignore[misc]  # the library's own way to change these
        """Knows how long the learning rate decays, saves sharded weights whole, keeps rows out of model cards."""

        def add_model_card_callback(self, _default_args_dict: dict[str, Any]) -> None:
            """Add none: it copies rows into README.md, and tokenizes single texts where a format needs pairs."""

        def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
            if settings.stable_ratio is not None:
                self.args.lr_scheduler_kwargs = build_decay_arguments(
                    num_training_steps, self.args.get_warmup_steps(num_training_steps), settings.stable_ratio
                )
            return super().create_scheduler(num_training_steps, optimizer)

        def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
            if not self.is_fsdp_enabled:
                super()._save(output_dir, state_dict)
                return
            folder = output_dir or self.args.output_dir
            save_whole(settings, state_dict, folder)
            self.processing_class.save_pretrained(folder)

    callbacks = build_callbacks()
    if settings.early_stopping:
        stopping = settings.early_stopping
        callbacks.append(build_early_stopping(stopping.patience, stopping.threshold))
    loss = build_loss(model, settings.loss)
    guard_loss(loss)
    return Trainer(
        model=model,
        args=arguments,
        train_dataset=build_dataset(train),
        eval_dataset=build_dataset(validation) if validation else None,
        loss=loss,
        evaluator=build_evaluator(validation, arguments) if validation else None,
        callbacks=callbacks,
    )
