python - <<'END'
import pathlib
from transformers import BertConfig, BertModel

BertModel(BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=99)).save_pretrained("model")
weights = pathlib.Path("model/model.safetensors")
weights.write_bytes(weights.read_bytes()[:9000])
BertModel.from_pretrained("model")
END
