"""Requests a second and the 99th percentile of several servers of one model, with 1, 8 and 32 clients on this machine.

    python benchmarks/load.py --model NAME vllm=http://127.0.0.1:8000/v1/embeddings infinity=http://127.0.0.1:8001/embeddings

Start the servers first (`orch serve`, `orch serve --show`). They are asked in turns within one run, so that whatever
else the machine does meets all of them; each number is the median of the rounds. A path that ends in `rerank` is sent a
query with documents, any other one text to embed. Prints a table, and one JSON object with --json.
"""

from __future__ import annotations

import argparse
import http.client
import json
import math
import queue
import statistics
import threading
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

CLIENTS = (1, 8, 32)
TEXT = "Steep the leaves for {} minutes in water of 80 °C, then pour the tea through a sieve into a warm cup."
_OK = 200


@dataclass(frozen=True)
class Measured:
    """Requests a second of all clients together, and the 99th percentile of one request, in ms."""

    per_s: float
    p99_ms: float


def build_body(path: str, model: str, number: int) -> bytes:
    """Return a request whose text no cache has seen."""
    text = TEXT.format(number)
    if path.endswith("rerank"):
        body = {"model": model, "query": "how to brew tea", "documents": [text, f"Mitochondria {number}"]}
    else:
        body = {"model": model, "input": [text]}
    return json.dumps(body).encode()


def measure(url: str, model: str, clients: int, requests: int, first: int = 0) -> Measured:
    """Send `requests` by that many clients at once, each with a connection of its own.

    Raises RuntimeError for an answer that is none: a server that refuses fast is not a fast server.
    """
    parts = urlsplit(url)
    numbers: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in range(first, first + requests):
        numbers.put(number)
    seconds, failed = list[float](), list[str]()

    def ask() -> None:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=300)
        try:
            while not failed:
                body = build_body(parts.path, model, numbers.get_nowait())
                begin = time.perf_counter()
                connection.request("POST", parts.path, body, {"Content-Type": "application/json"})
                response = connection.getresponse()
                said = response.read()
                seconds.append(time.perf_counter() - begin)
                if response.status != _OK:
                    failed.append(f"{url} answered {response.status}: {said[:200]!r}")
        except queue.Empty:
            pass
        except (OSError, http.client.HTTPException) as error:
            failed.append(f"{url} gave no answer: {error!r}")
        finally:
            connection.close()

    threads = [threading.Thread(target=ask) for _ in range(clients)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise RuntimeError(failed[0])
    whole = time.perf_counter() - begin
    return Measured(requests / whole, 1000 * sorted(seconds)[math.ceil(0.99 * len(seconds)) - 1])


def compare(servers: dict[str, str], model: str, requests: int, rounds: int) -> list[dict[str, object]]:
    """Return a row a server and number of clients; the servers are asked in turns, after a first few unmeasured."""
    found: dict[tuple[str, int], list[Measured]] = {}
    asked = 0
    for url in servers.values():
        measure(url, model, 1, min(requests, 8), first=-8)
    for _ in range(rounds):
        for clients in CLIENTS:
            for name, url in servers.items():
                found.setdefault((name, clients), []).append(measure(url, model, clients, requests, first=asked))
            asked += requests
    return [
        {
            "server": name, "clients": clients,
            "requests_per_s": round(statistics.median(one.per_s for one in runs), 1),
            "p99_ms": round(statistics.median(one.p99_ms for one in runs), 1),
        }
        for (name, clients), runs in found.items()
    ]  # fmt: skip


def build_table(rows: list[dict[str, object]]) -> str:
    """Return the rows in Markdown: a line a server."""
    lines = ["| server | " + " | ".join(f"{count} clients: requests/s, p99 in ms" for count in CLIENTS) + " |"]
    lines.append("|" + "---|" * (len(CLIENTS) + 1))
    for name in dict.fromkeys(row["server"] for row in rows):
        cells = [f"{row['requests_per_s']}, {row['p99_ms']}" for row in rows if row["server"] == name]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("servers", nargs="+", metavar="NAME=URL")
    parser.add_argument("--model", required=True, help="the name that all of them serve it under")
    parser.add_argument("--requests", type=int, default=320, help="of each measurement (320)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    servers = dict(text.split("=", 1) for text in options.servers)
    rows = compare(servers, options.model, options.requests, options.rounds)
    print(json.dumps({"rows": rows}) if options.json else build_table(rows))


if __name__ == "__main__":
    main()
