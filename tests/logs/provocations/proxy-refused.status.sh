python - <<'END'
import http.server, os, threading

class Proxy(http.server.BaseHTTPRequestHandler):
    def do_CONNECT(self):
        self.send_error(407, "Proxy Authentication Required")
    def log_message(self, *args):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
threading.Thread(target=server.serve_forever, daemon=True).start()
os.environ["https_proxy"] = f"http://127.0.0.1:{server.server_port}"
os.environ["HF_ENDPOINT"] = "https://hub.invalid"
from huggingface_hub import HfApi

HfApi().model_info("Qwen/Qwen3-Reranker-0.6B")
END
