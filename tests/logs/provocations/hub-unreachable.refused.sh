HF_ENDPOINT=http://127.0.0.1:9 python - <<'END'
from transformers import AutoConfig

AutoConfig.from_pretrained("Qwen/Qwen3-Reranker-0.6B")
END
