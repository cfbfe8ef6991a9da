python - <<'END'
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, Qwen3Config

config = Qwen3Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2, intermediate_size=32, vocab_size=99)
AutoModelForCausalLM.from_config(config).save_pretrained("model")
AutoModelForCausalLM.from_pretrained("model", quantization_config=BitsAndBytesConfig(load_in_4bit=True))
END
