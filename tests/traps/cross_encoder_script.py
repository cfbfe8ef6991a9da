"""The script that a user of sentence-transformers writes: train a CrossEncoder as the JSON in argv says, and save it.

Its keys: model, data and validation (JSONL), loss (a class of losses), arguments (of the trainer), resume, cut_best, lora (of PEFT's config).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def read_rows(path: str) -> Any:
    from datasets import Dataset

    return Dataset.from_list([json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()])


def main() -> None:
    import torch
    from sentence_transformers.cross_encoder import (
        CrossEncoder,
        CrossEncoderTrainer,
        CrossEncoderTrainingArguments,
        losses,
    )
    from transformers import TrainerCallback

    class CutBest(TrainerCallback):
        """Leave the best checkpoint's weights as a full disk or a damaged one does."""

        def on_evaluate(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
            if state.global_step == state.max_steps and given.get("cut_best"):
                weights = Path(state.best_model_checkpoint) / "model.safetensors"
                weights.write_bytes(weights.read_bytes()[:-9])

    given = json.loads(sys.argv[1])
    torch.manual_seed(42)
    model = CrossEncoder(given["model"], num_labels=1)
    if "lora" in given:
        from peft import LoraConfig

        model.add_adapter(LoraConfig(**given["lora"]))
    trainer = CrossEncoderTrainer(
        model=model,
        args=CrossEncoderTrainingArguments(**given["arguments"]),
        train_dataset=read_rows(given["data"]),
        eval_dataset=read_rows(given["validation"]) if "validation" in given else None,
        loss=getattr(losses, given["loss"])(model),
        callbacks=[CutBest()],
    )
    trainer.train(resume_from_checkpoint=given.get("resume"))
    model.save_pretrained(given["arguments"]["output_dir"] + "/final")


if __name__ == "__main__":
    main()
