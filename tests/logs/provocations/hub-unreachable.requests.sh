python - <<'END'
import requests

requests.get("http://127.0.0.1:9/api/models/Qwen/Qwen3-Reranker-0.6B")
END
