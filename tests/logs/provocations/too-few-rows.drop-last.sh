python - <<'END'
from torch import nn
from transformers import Trainer, TrainingArguments

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Linear(1, 1)
    def forward(self, labels=None):
        return {"loss": self.scale(labels).sum()}

arguments = TrainingArguments(
    output_dir="output", per_device_train_batch_size=8, dataloader_drop_last=True, use_cpu=True, report_to=[], num_train_epochs=1
)
Trainer(model=Model(), args=arguments, train_dataset=[{"labels": [1.0]}] * 3).train()
END
