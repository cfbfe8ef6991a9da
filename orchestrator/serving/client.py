"""Ask a running server: one request a probe, over plain HTTP to this machine, through no proxy."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import StageFailedError

_SHORT_S = 5.0
_SAID_CHARS = 500
_OK = 200


@dataclass(frozen=True)
class Client:
    """Where a server listens, under which name it serves its model, and the key that it wants."""

    host: str
    port: int
    model: str
    key: str | None = None
    timeout_s: float = 300.0

    def is_ready(self) -> bool:
        """Tell whether the server answers its health check and serves our model."""
        try:
            if self._request("GET", "/health", None, _SHORT_S)[0] != _OK:
                return False
            status, text = self._request("GET", "/v1/models", None, _SHORT_S)
            return status == _OK and self.model in [row["id"] for row in json.loads(text)["data"]]
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
            return False

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """Return the server's JSON answer. Raises StageFailedError with what it said instead."""
        try:
            status, text = self._request("POST", path, {"model": self.model, **body}, self.timeout_s)
            answer = json.loads(text) if status == _OK else None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise StageFailedError(f"POST {path} got no answer: {error!r}") from error
        if status != _OK or (isinstance(answer, dict) and answer.get("object") == "error"):
            raise StageFailedError(f"POST {path} was answered with {status}: {text[:_SAID_CHARS]}")
        return answer

    def embed(self, text: str) -> list[float]:
        """Return the vector of one text."""
        answer = self.post("/v1/embeddings", {"input": text, "encoding_format": "float"})
        return [float(number) for number in _dig(answer, "data", 0, "embedding")]

    def chat(self, messages: list[dict[str, str]], max_tokens: int) -> str:
        """Return the most likely answer to a conversation, token by token."""
        body = {"messages": messages, "temperature": 0, "max_tokens": max_tokens}
        return str(_dig(self.post("/v1/chat/completions", body), "choices", 0, "message", "content"))

    def score_as_chat(self, query: str, document: str, instruction: str | None) -> float:
        """Return the score of a pair from swift: the document is the assistant's turn, the instruction the system's."""
        messages = [{"role": "system", "content": instruction}] if instruction else []
        messages += [{"role": "user", "content": query}, {"role": "assistant", "content": document}]
        answer = self.post("/v1/chat/completions", {"messages": messages})
        return float(_dig(answer, "choices", 0, "message", "content", 0))

    def rerank(self, query: str, document: str) -> float:
        """Return the score of a pair from the rerank API that vLLM shares with Jina and Cohere."""
        answer = self.post("/v1/rerank", {"query": query, "documents": [document]})
        return float(_dig(answer, "results", 0, "relevance_score"))

    def _request(self, method: str, path: str, body: Any, timeout_s: float) -> tuple[int, str]:
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout_s)
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        try:
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            response = connection.getresponse()
            return response.status, response.read().decode("utf-8", errors="replace")
        finally:
            connection.close()


def _dig(answer: Any, *keys: str | int) -> Any:
    value = answer
    for key in keys:
        try:
            value = value[key]
        except (KeyError, IndexError, TypeError):
            said = json.dumps(answer, ensure_ascii=False)[:_SAID_CHARS]
            raise StageFailedError(f"the server's answer holds no {'.'.join(map(str, keys))}: {said}") from None
    return value
