python - <<'END'
from torch import nn
from transformers import Trainer, TrainingArguments

Trainer(model=nn.Linear(2, 2), args=TrainingArguments(output_dir="output", report_to=["wandb"], use_cpu=True), train_dataset=[])
END
