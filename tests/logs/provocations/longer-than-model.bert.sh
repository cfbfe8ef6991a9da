python - <<'END'
import torch
from transformers import BertConfig, BertModel

model = BertModel(BertConfig(
    hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=99, max_position_embeddings=64
))
model(input_ids=torch.ones(2, 100, dtype=torch.long))
END
