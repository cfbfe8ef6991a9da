"""Compares what a running server says to a packaged model's probes with the numbers that scoring.json keeps."""

from __future__ import annotations

import http.client
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.backends.scorers import SCORERS
from orchestrator.errors import InterruptedRunError, RunFolderError, StageFailedError, Where
from orchestrator.machine.terminal import align
from orchestrator.recipe.plan import Command
from orchestrator.run.stopping import Interrupts, counted_interrupts
from orchestrator.serving import server
from orchestrator.serving.artefact import Artefact
from orchestrator.serving.worker import Started, describe_log, started, wait_until_over

MIN_COSINE = 1 - 1e-4
# score ± absolute + relative, in raw logits; half precision keeps two to three digits
_EXACT, _HALF = (2e-3, 1e-3), (5e-2, 3e-2)
_FLOAT32_STEP = 1e-6  # near 0 and 1 a probability in float32 moves in steps
_MAX_NEW_TOKENS = 64
_SHOWN_CHARS = 48
# Qwen3's template answers with an empty thought where thinking is off; swift returns it, transformers' callers drop it
_EMPTY_THOUGHT = "<think>\n\n</think>\n\n"
_SHORT_S = 5.0  # of waiting for a health check
_SAID_CHARS = 500
_OK = 200


@dataclass(frozen=True)
class Client:
    """Where a server listens, under which name it serves its model, and the key that it wants.

    It is asked over plain HTTP on this machine, through no proxy.
    """

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
        """Return the raw score of a pair from the rerank API that vLLM shares with Jina and Cohere.

        `use_activation` is vLLM's: without it, it puts a sigmoid over a single label, unless config.json names another.
        """
        answer = self.post("/v1/rerank", {"query": query, "documents": [document], "use_activation": False})
        return float(_dig(answer, "results", 0, "relevance_score"))

    def embed_side(self, text: str, side: str) -> list[float] | None:
        """Return the vector of a query or a document whose prompt the server writes; None where no server does.

        Cohere's second API, which newer vLLMs have.
        """
        try:
            body = {"texts": [text], "input_type": side, "embedding_types": ["float"]}
            return [float(number) for number in _dig(self.post("/v2/embed", body), "embeddings", "float", 0)]
        except StageFailedError:
            return None

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


@dataclass(frozen=True)
class Row:
    """One probe: what was asked, what scoring.json says, what the server said, how far apart, and how far is allowed.

    Vectors are told by their cosine (`difference` is 1 - cosine) and `max_abs`, the largest difference of a component.
    Of an answer, `difference` is the share from the first other letter on; all of it is allowed where the stored answer
    was hardly preferred to another.
    """

    probe: str
    expected: str
    got: str
    difference: float
    allowed: float
    passed: bool
    max_abs: float | None = None


@dataclass(frozen=True)
class Checked:
    """Every row of a check; `scale` says what was compared, `reason` why it differs, where that can be told."""

    scale: str
    rows: tuple[Row, ...]
    reason: str | None = None

    @property
    def passed(self) -> bool:
        """Whether every probe came back as it is stored."""
        return all(row.passed for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """Return the check as data."""
        return {"passed": self.passed, **asdict(self)}


@dataclass(frozen=True)
class Serving:
    """A packaged model, and the server that serves it as `name` and must answer within `timeout_s`; `tell` is told.

    `more` are flags of the server's own, in bash words.
    """

    artefact: Artefact
    backend: str
    address: server.Address
    name: str
    key: str | None
    timeout_s: float
    tell: Callable[[str], None]
    more: str = ""

    @property
    def command(self) -> Command:
        """The server's own command. Raises PreflightError for flags in `more` that contradict it."""
        keyed = bool(self.key)
        return server.build_command(
            self.backend, self.artefact, self.address, name=self.name, with_key=keyed, more=self.more
        )

    @property
    def client(self) -> Client:
        """Who asks it, on this machine."""
        here = self.address.host if self.address.host in server.LOOPBACK else "127.0.0.1"
        return Client(here, self.address.port, self.name, self.key)

    @contextmanager
    def run(self, *, quiet: bool) -> Iterator[tuple[Started, Interrupts, float]]:
        """Run the server inside the block, once it answers; with after how many seconds it did."""
        command, is_ready = self.command, self.client.is_ready
        environment = server.build_environment(command, self.backend)
        with counted_interrupts() as interrupts, started(command, environment, interrupts, quiet=quiet) as process:
            seconds = server.wait_until_ready(process, is_ready, interrupts, timeout_s=self.timeout_s, tell=self.tell)
            yield process, interrupts, seconds


def serve(asked: Serving) -> None:
    """Serve a packaged model until the user stops it. Raises StageFailedError when the server ends by itself."""
    address, name, tell = asked.address, asked.name, asked.tell
    server.require_free_port(address.port)
    tell(f"{name} with {asked.backend}; Ctrl-C stops it")
    try:
        with asked.run(quiet=False) as (process, interrupts, seconds):
            tell(f"ready after {seconds:.0f} s: http://{address.host}:{address.port} serves {name}")
            code = wait_until_over(process, interrupts)
            if code is not None:
                raise StageFailedError(f"the server ended with exit code {code}", hint="its last words are above")
    except InterruptedRunError:
        return
    tell("stopped")


def check_serving(asked: Serving) -> tuple[Checked, float]:
    """Start a server, ask it every probe and stop it.

    Return what it gave, and the seconds until it was ready. Raises what `check_server` and `wait_until_ready` do.
    """
    load_probes(asked.artefact)  # before a model is loaded for nothing
    asked.tell(f"checking {asked.artefact.name} with {asked.backend} on port {asked.address.port}")
    with asked.run(quiet=True) as (process, _, seconds):
        try:
            return check_server(asked.artefact, asked.backend, asked.client), seconds
        except StageFailedError as error:  # what the server itself says of it would go with the block
            raise StageFailedError(error.problems[0].message, hint=describe_log(process)) from None


def load_probes(artefact: Artefact) -> list[dict[str, Any]]:
    """Return the stored probes. Raises RunFolderError when there are none, or they hold no answers."""
    spec, where = artefact.spec, Where(str(artefact.folder / "scoring.json"))
    probes = spec.get("probes") or spec.get("examples")
    if not isinstance(probes, list) or not probes:
        raise RunFolderError(
            "there are no probes to compare a server with", hint="package the model again", where=where
        )
    needed = {
        "embedding": (("text",), ("vector",)),
        "reranker": (("query",), ("document",), ("score",)),
        "chat": (("messages",), ("answer",)),
    }[artefact.kind]
    for number, probe in enumerate(probes, start=1):
        for names in needed:
            if not isinstance(probe, dict) or not any(name in probe for name in names):
                raise RunFolderError(f"probe {number} has no {names[0]}", hint="package the model again", where=where)
    return probes


def check_server(artefact: Artefact, backend: str, client: Client) -> Checked:
    """Ask the server every probe. Raises StageFailedError when it gives no answer, RunFolderError without probes."""
    probes = load_probes(artefact)
    if artefact.kind == "embedding":
        return _check_vectors(artefact, backend, client, probes)
    if artefact.kind == "chat":
        rows = tuple(_check_answer(artefact, client, probe) for probe in probes)
        thinks = any("<think>" in row.got and not row.passed for row in rows)
        return Checked("text", rows, "the server lets the model think: its chat template does" if thinks else None)
    by_vllm, spec, scores, found = backend == "vllm", artefact.spec, [], []
    for probe in probes:
        query, document = str(probe["query"]), str(probe["document"])
        if by_vllm:
            got = client.rerank(_wrap(spec, "query", query), _wrap(spec, "passage", document))
        else:
            got = client.score_as_chat(query, document, probe.get("instruction") or spec.get("instruction"))
        scores.append((float(probe["score"]), got))
        found.append(_check_score(artefact, probe, got, is_raw=by_vllm))
    reason = None if all(row.passed for row in found) else _explain_scores(scores, is_raw=by_vllm)
    return Checked("score" if by_vllm else "sigmoid of the score", tuple(found), reason)


def _explain_scores(scores: Sequence[tuple[float, float]], *, is_raw: bool) -> str | None:
    """Return why served scores are not the stored ones, where they show it themselves."""
    if is_raw and all(abs(got - sigmoid(score)) <= _EXACT[0] for score, got in scores):
        return "the server puts a sigmoid over the score, whatever it is asked (use_activation)"
    if not is_raw and all(abs(got - score) <= _EXACT[0] * (1 + abs(score)) for score, got in scores):
        return "the server gives the raw score, without the sigmoid"
    stored, served = zip(*scores, strict=True)
    if len(scores) == 1 or len(set(stored)) == 1:
        return None
    if max(served) - min(served) <= _FLOAT32_STEP:
        return "every pair gets the same score: the server does not put the texts into the model's prompt"
    if [served[at] for at in sorted(range(len(stored)), key=stored.__getitem__)] == sorted(served, reverse=True):
        return "the order is turned round: the server reads another output than the trained one"
    return None


def _wrap(spec: dict[str, Any], side: str, text: str) -> str:
    """Return a text as the client writes it: with its instruction, unless the folder's chat template writes that."""
    if SCORERS[str(spec["scorer"])].get("templated"):
        return text
    instruction = spec.get(f"{side}_instruction")
    template = str(spec.get(f"{side}_instruction_format") or "{}{}").replace("\\n", "\n")
    return text if instruction is None else template.format(instruction, text)


def _check_score(artefact: Artefact, probe: dict[str, Any], got: float, *, is_raw: bool) -> Row:
    """Compare raw scores; under a sigmoid for swift, which always serves it.

    (--reranker_use_activation false does not reach its engine: ms-swift 4.6 pipelines/infer/infer.py hands that
    argument on for vLLM only.)
    """
    score = float(probe["score"])
    absolute, relative = _tolerance(artefact)
    allowed = absolute + relative * abs(score)
    expected = score if is_raw else sigmoid(score)
    if not is_raw:
        allowed = max(sigmoid(score + allowed) - expected, expected - sigmoid(score - allowed)) + _FLOAT32_STEP
    difference = abs(got - expected)
    name = f"{probe['query']} | {probe['document']}"
    return Row(_shorten(name), f"{expected:.6f}", f"{got:.6f}", difference, allowed, difference <= allowed)


def _tolerance(artefact: Artefact) -> tuple[float, float]:
    """Return what two right computations may differ by: half precision on either side decides."""
    stored = artefact.spec.get("probes_dtype") or artefact.spec.get("examples_dtype") or artefact.dtype
    return _EXACT if stored == artefact.dtype == "float32" else _HALF


def _check_vectors(artefact: Artefact, backend: str, client: Client, probes: list[dict[str, Any]]) -> Checked:
    """Compare each probe with its prompt written here; and, where the server writes prompts, without one."""
    spec, rows, reason = artefact.spec, [], None
    for probe in probes:
        text, side = str(probe["text"]), probe.get("kind")
        prompt = str(spec.get(f"{side}_prompt") or "") if side in ("query", "document") else ""
        suffix = str(spec.get("query_suffix") or "") if side == "query" else ""
        whole = prompt + text + suffix
        rows.append(_check_vector(whole, probe, client.embed(whole)))
        if not rows[-1].passed and prompt and _check_vector(whole, probe, client.embed(text + suffix)).passed:
            reason = "the server writes the prompt itself: send it texts without"
        if backend == "vllm" and side and (vector := client.embed_side(text + suffix, str(side))):
            rows.append(_check_vector(f"/v2/embed {side}: {text}", probe, vector))
    return Checked("cosine", tuple(rows), reason)


def _check_vector(name: str, probe: dict[str, Any], vector: Sequence[float]) -> Row:
    expected = unit([float(number) for number in probe["vector"]])
    # a Matryoshka model is cut by its client: the server gives every dimension
    got = unit(vector[: len(expected)])
    same = len(got) == len(expected)
    cosine = sum(left * right for left, right in zip(expected, got, strict=True)) if same else 0.0
    if not math.isfinite(cosine):
        cosine = 0.0
    largest = max((abs(left - right) for left, right in zip(expected, got, strict=False)), default=math.inf)
    said = f"cosine {cosine:.7f}" if same else f"{len(got)} numbers"
    return Row(
        _shorten(name), f"{len(expected)} numbers", said, max(0.0, 1 - cosine), 1 - MIN_COSINE, cosine >= MIN_COSINE,
        max_abs=largest if math.isfinite(largest) else None,
    )  # fmt: skip


def unit(vector: Sequence[float]) -> list[float]:
    """Return the vector at length 1; one without a direction stays as it is."""
    length = math.sqrt(sum(number * number for number in vector))
    return [number / length for number in vector] if length > 0 and math.isfinite(length) else list(vector)


def _check_answer(artefact: Artefact, client: Client, probe: dict[str, Any]) -> Row:
    spec, messages = artefact.spec, list(probe["messages"])
    if spec.get("system") and messages[0].get("role") != "system":
        messages.insert(0, {"role": "system", "content": spec["system"]})
    tokens = int(probe.get("max_new_tokens") or spec.get("max_new_tokens") or _MAX_NEW_TOKENS)
    expected = _plain(str(probe["answer"]))
    got = _plain(client.chat(messages, tokens))
    same = next((index for index, pair in enumerate(zip(expected, got, strict=False)) if pair[0] != pair[1]), None)
    if same is None and len(expected) != len(got):
        same = min(len(expected), len(got))
    share = 0.0 if same is None else 1 - same / max(len(expected), len(got))
    # rounding alone turns an answer where the best token hardly led
    lead = probe.get("least_margin")
    allowed = 1.0 if lead is not None and lead <= _tolerance(artefact)[0] else 0.0
    begin = max(0, (same or 0) - 8)
    asked = _shorten(str(messages[-1].get("content")))
    return Row(asked, _shorten(expected[begin:]), _shorten(got[begin:]), share, allowed, share <= allowed)


def _plain(text: str) -> str:
    return text.removeprefix(_EMPTY_THOUGHT).strip()


def sigmoid(value: float) -> float:
    """Return 1 / (1 + e^-value), for any value."""
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))


def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN_CHARS else line[: _SHOWN_CHARS - 1] + "…"


def format_table(checked: Checked) -> list[str]:
    """Return the check as lines of text, one a probe."""
    cells = [
        ("probe", "stored", "served", "difference", "allowed"),
        *((row.probe, row.expected, row.got, f"{row.difference:.2g}", f"{row.allowed:.2g}") for row in checked.rows),
    ]
    marks = [" ", *("✓" if row.passed else "✗" for row in checked.rows)]
    return [f"{mark} {line}" for mark, line in zip(marks, align(cells), strict=True)]
