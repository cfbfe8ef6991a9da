python - <<'END'
import torch
from transformers import Qwen3Config, Qwen3ForSequenceClassification

config = Qwen3Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, intermediate_size=32, vocab_size=99)
Qwen3ForSequenceClassification(config)(input_ids=torch.ones(2, 4, dtype=torch.long))
END
