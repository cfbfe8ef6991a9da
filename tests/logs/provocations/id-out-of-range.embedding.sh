python - <<'END'
import torch
from transformers import BertConfig, BertModel

model = BertModel(BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=99))
model(input_ids=torch.tensor([[5, 7, 151643]]))
END
