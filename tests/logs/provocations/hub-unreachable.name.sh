python - <<'END'
import os
os.environ["HF_ENDPOINT"] = "http://hub.invalid"
from huggingface_hub import hf_hub_download

hf_hub_download("Qwen/Qwen3-Reranker-0.6B", "config.json")
END
