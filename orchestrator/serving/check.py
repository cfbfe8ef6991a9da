"""Compare what a running server says to a packaged model's probes with the numbers that scoring.json keeps."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from orchestrator.errors import RunFolderError, Where
from orchestrator.machine.json_files import load_json
from orchestrator.serving.artefact import Artefact
from orchestrator.serving.client import Client

MIN_COSINE = 1 - 1e-4
# score ± absolute + relative, in raw logits; half precision keeps two to three digits
_EXACT, _HALF = (2e-3, 1e-3), (5e-2, 3e-2)
_FLOAT32_STEP = 1e-6  # near 0 and 1 a probability in float32 moves in steps
_MAX_NEW_TOKENS = 64
_SHOWN_CHARS = 48
# Qwen3's template answers with an empty thought where thinking is off; swift returns it, transformers' callers drop it
_EMPTY_THOUGHT = "<think>\n\n</think>\n\n"


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
    """Every row of a check; `scale` says what was compared."""

    scale: str
    rows: tuple[Row, ...]

    @property
    def passed(self) -> bool:
        """Whether every probe came back as it is stored."""
        return all(row.passed for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        """Return the check as data."""
        return {"passed": self.passed, "scale": self.scale, "rows": [asdict(row) for row in self.rows]}


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
        return Checked("cosine", tuple(_check_vector(artefact, client, probe) for probe in probes))
    if artefact.kind == "chat":
        return Checked("text", tuple(_check_answer(artefact, client, probe) for probe in probes))
    ask = _rerank_with_vllm if backend == "vllm" else _rerank_with_swift
    raw = backend == "vllm" and gives_raw_scores(artefact)
    asked = [(probe, ask(artefact, client, probe)) for probe in probes]
    rows = tuple(_check_score(artefact, probe, sigmoid(got) if raw else got) for probe, got in asked)
    return Checked("sigmoid of the score", rows)


def gives_raw_scores(artefact: Artefact) -> bool:
    """Tell whether vLLM leaves a score as it is: it takes sentence-transformers' activation from config.json.

    Without one it puts a sigmoid over a single label (vllm/model_executor/layers/pooler, get_cross_encoder_act_fn).
    """
    try:
        config = load_json((artefact.folder / "config.json"), constants=True)
        return str(config["sentence_transformers"]["activation_fn"]).endswith(".Identity")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _rerank_with_vllm(artefact: Artefact, client: Client, probe: dict[str, Any]) -> float:
    wrapped = [
        _wrap(artefact.spec, side, str(probe[name])) for side, name in (("query", "query"), ("passage", "document"))
    ]
    return client.rerank(*wrapped)


def _rerank_with_swift(artefact: Artefact, client: Client, probe: dict[str, Any]) -> float:
    instruction = probe.get("instruction") or artefact.spec.get("instruction")
    return client.score_as_chat(str(probe["query"]), str(probe["document"]), instruction)


def _wrap(spec: dict[str, Any], side: str, text: str) -> str:
    instruction = spec.get(f"{side}_instruction")
    template = str(spec.get(f"{side}_instruction_format") or "{}{}").replace("\\n", "\n")
    return text if instruction is None else template.format(instruction, text)


def _check_score(artefact: Artefact, probe: dict[str, Any], got: float) -> Row:
    """Compare under a sigmoid: swift always serves it, since --reranker_use_activation false does not reach its engine.

    (ms-swift 4.6 pipelines/infer/infer.py hands that argument on for vLLM only.)
    """
    score = float(probe["score"])
    absolute, relative = _tolerance(artefact)
    spread = absolute + relative * abs(score)
    expected = sigmoid(score)
    allowed = max(sigmoid(score + spread) - expected, expected - sigmoid(score - spread)) + _FLOAT32_STEP
    difference = abs(got - expected)
    name = f"{probe['query']} | {probe['document']}"
    return Row(_shorten(name), f"{expected:.6f}", f"{got:.6f}", difference, allowed, difference <= allowed)


def _tolerance(artefact: Artefact) -> tuple[float, float]:
    """Return what two right computations may differ by: half precision on either side decides."""
    stored = artefact.spec.get("probes_dtype") or artefact.spec.get("examples_dtype") or artefact.dtype
    return _EXACT if stored == artefact.dtype == "float32" else _HALF


def _check_vector(artefact: Artefact, client: Client, probe: dict[str, Any]) -> Row:
    spec, text = artefact.spec, str(probe["text"])
    prompt = spec.get(f"{probe.get('kind')}_prompt") if probe.get("kind") in ("query", "document") else None
    expected = unit([float(number) for number in probe["vector"]])
    # a Matryoshka model is cut by its client: the server gives every dimension
    got = unit(client.embed((prompt or "") + text)[: len(expected)])
    cosine = sum(left * right for left, right in zip(expected, got, strict=False)) if len(got) == len(expected) else 0.0
    if not math.isfinite(cosine):
        cosine = 0.0
    largest = max((abs(left - right) for left, right in zip(expected, got, strict=False)), default=math.inf)
    name = _shorten((prompt or "") + text)
    return Row(
        name,
        f"{len(expected)} numbers",
        f"cosine {cosine:.7f}" if len(got) == len(expected) else f"{len(got)} numbers",
        max(0.0, 1 - cosine),
        1 - MIN_COSINE,
        cosine >= MIN_COSINE,
        max_abs=largest if math.isfinite(largest) else None,
    )


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
    columns: tuple[tuple[str, Callable[[Row], str]], ...] = (
        ("probe", lambda row: row.probe),
        ("stored", lambda row: row.expected),
        ("served", lambda row: row.got),
        ("difference", lambda row: f"{row.difference:.2g}"),
        ("allowed", lambda row: f"{row.allowed:.2g}"),
    )
    cells = [[title for title, _ in columns], *([show(row) for _, show in columns] for row in checked.rows)]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    marks = [" ", *("✓" if row.passed else "✗" for row in checked.rows)]
    return [
        f"{mark} " + "  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip()
        for mark, line in zip(marks, cells, strict=True)
    ]
