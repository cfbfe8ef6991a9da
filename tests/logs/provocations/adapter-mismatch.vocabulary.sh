python - <<'END'
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import Qwen3Config, Qwen3ForCausalLM

small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
Qwen3ForCausalLM(Qwen3Config(vocab_size=32, num_key_value_heads=1, head_dim=8, **small)).save_pretrained("base")
model = Qwen3ForCausalLM.from_pretrained("base")
model.resize_token_embeddings(40)
settings = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], modules_to_save=["embed_tokens"])
get_peft_model(model, settings).save_pretrained("adapter")
PeftModel.from_pretrained(Qwen3ForCausalLM.from_pretrained("base"), "adapter")
END
