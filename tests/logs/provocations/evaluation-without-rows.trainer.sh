python - <<'END'
from torch import nn
from transformers import Trainer, TrainingArguments

arguments = TrainingArguments(output_dir="output", eval_strategy="steps", eval_steps=10, use_cpu=True)
Trainer(model=nn.Linear(2, 2), args=arguments, train_dataset=[])
END
