https_proxy=http://127.0.0.1:9 python - <<'END'
import requests

requests.get("https://hub.invalid/api/models/Qwen/Qwen3-Reranker-0.6B")
END
