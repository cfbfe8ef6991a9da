python - <<'END'
from peft import LoraConfig, get_peft_model
from transformers import BertConfig, BertModel

model = BertModel(BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=99))
get_peft_model(model, LoraConfig(target_modules=["q_proj", "v_proj"]))
END
