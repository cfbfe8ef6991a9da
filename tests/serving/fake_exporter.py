"""Stands for `workers export`: scores by labels, and those of the export turned round where TURNED is set."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

named = dict(zip(sys.argv[3::2], sys.argv[4::2], strict=True))
out, scores = Path(named["--out"]), Path(named["--scores"])
if os.environ.get("FAILING"):
    out.mkdir()
    sys.exit("export: no such operator")
sign = -1 if os.environ.get("TURNED") else 1
found = {"source.jsonl": [], "scores.jsonl": []}
for line in Path(named["--data"]).read_text(encoding="utf-8").splitlines():
    group = json.loads(line)
    for document in group["documents"]:
        row = {"qid": group["qid"], "docid": document["docid"]}
        found["source.jsonl"].append({**row, "score": document["label"]})
        found["scores.jsonl"].append({**row, "score": sign * document["label"]})
out.mkdir()
(out / "config.json").write_text("{}")
scores.mkdir()
for name, rows in found.items():
    (scores / name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
facts = {
    "version": 1, "form": named["--form"], "device": named["--device"], "versions": {"torch": "2.13.0"},
    "source": {"model": named["--model"], "base_model": "base", "scorer": "flag-llm-reranker", "files": {}},
    "speed": {"unit": "pairs", "count": 1, "rounds": 1, "source": 10.0, "export": 20.0},
    "bytes": {"source": 4_000_000, "export": 1_000_000}, "load": 'CrossEncoder("path/to/this/folder")', "spec": {},
}  # fmt: skip
(scores / "scoring.json").write_text(json.dumps(facts), encoding="utf-8")
