HF_HUB_OFFLINE=1 python - <<'END'
from huggingface_hub import hf_hub_download

hf_hub_download("Qwen/Qwen3-Reranker-0.6B", "config.json")
END
