"""Make a trained model a folder that describes itself and is proved to be the model that was trained."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.workers.environment import read_versions
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.folders import copy_tokenizer, fresh_folder, write_json, write_text
from orchestrator.workers.hubs import find_origin
from orchestrator.workers.kinds import Kind, Request, load_kind
from orchestrator.workers.reranker.scoring import choose_device
from orchestrator.workers.specs import load_raw_spec
from orchestrator.workers.verification_checks import check_complete, check_weights
from orchestrator.workers.weights import INDEX, hash_file, require_safetensors, scan_weights

NOT_HASHED = ("README.md", "scoring.json")
CARDS = Path(__file__).resolve().parent / "cards"
MODEL_PATH = "path/to/this/folder"


def package(request: Request, out: Path) -> None:
    """Write the packaged model to `out`. Raises WorkerError for a scorer whose models cannot be packaged."""
    kind = load_kind(request.raw_spec)
    request.report.unlink(missing_ok=True)
    with fresh_folder(out) as folder:
        build_package(kind, request, folder)


def build_package(kind: Kind, request: Request, folder: Path) -> None:
    """Write the package into `folder` and the report to its place. Raises WorkerError with one line a failed check."""
    spec = kind.parse(request)
    copy_model(request, folder, trust_remote_code=spec.trust_remote_code)
    scan = scan_weights(require_safetensors(folder))
    if scan.problems:  # nothing else is worth computing
        broken = [check_weights(scan).to_json()]
        write_json(request.report, {"version": 1, "passed": False, "checks": broken, "weights": scan.to_json()})
        raise WorkerError(*(f"weights: {problem}" for problem in scan.problems))
    subject = kind.prepare(request, spec, folder)
    seen = kind.observe(subject)
    checks = [check_weights(scan), check_complete(seen.missing), *kind.compare(subject, seen, scan)]
    report = {
        "version": 1,
        "passed": all(check.passed for check in checks),
        "checks": [check.to_json() for check in checks],
        "compute_dtype": "float32",
        "device": request.device,
        "weights": scan.to_json(),
        **kind.report(subject, seen),
    }
    write_json(request.report, {**report, "versions": read_versions()})
    if not report["passed"]:
        raise WorkerError(*(f"{check.name}: {check.failure}" for check in checks if not check.passed))
    described = kind.describe(subject, seen, report)
    base, hub_base = name_base(request.base, request.raw_spec)
    origin = find_origin(request.base)
    from_hub = {} if origin is None or request.raw_spec.get("base_name") else {"base_origin": origin}
    write_text(folder / "README.md", build_card(described.card, base, described.facts, hub_base=hub_base))
    hash_and_describe(folder, {**request.raw_spec, "base_model": base, **from_hub, **described.scoring})


def copy_model(request: Request, folder: Path, *, trust_remote_code: bool = False) -> None:
    """Copy config, weights (byte for byte) and tokenizer. Raises WorkerError for pickles or parts that are missing."""
    if not (request.model / "config.json").is_file():
        raise WorkerError(
            f"{request.model} holds no config.json: it is not a whole model (an adapter must be merged first)"
        )
    files = require_safetensors(request.model)
    for path in files:
        shutil.copyfile(path, folder / path.name)
    extra = ["config.json", "generation_config.json", INDEX]
    if trust_remote_code:
        extra += [path.name for path in request.model.glob("*.py")]
    for name in extra:
        if (request.model / name).is_file():
            shutil.copyfile(request.model / name, folder / name)
    copy_tokenizer(request.find_tokenizer(), folder)


def hash_and_describe(folder: Path, described: dict[str, Any]) -> None:
    """Write scoring.json, the last file: `described`, versions, and the hash of every file but itself and the card.

    Everybody may read the folder then.
    """
    files = {
        path.relative_to(folder).as_posix(): hash_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in NOT_HASHED
    }
    write_json(folder / "scoring.json", {**described, "versions": read_versions(), "files": files})
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)


def build_card(template: str, base: str, facts: Mapping[str, Any], *, hub_base: bool) -> str:
    """Return the card's text; measured results may be written after its mark `<!-- orch:results -->`.

    In a template the filter `code` writes a text as Markdown code that nothing in it can end, `repr` and `json` as
    source, `shell` as what single quotes of a shell may hold, and `block` as an indented code block.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(  # noqa: S701  Markdown, whose texts pass the filters of their own
        loader=FileSystemLoader(CARDS),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "code": code_span,
        "repr": repr,
        "json": json.dumps,
        "shell": lambda text: text.replace("'", "'\\''"),
        "block": lambda text: "\n".join("    " + line for line in text[:1000].splitlines() or [""]),
    }
    card = environment.get_template(f"{template}.md.jinja")
    return card.render(base=base, hub_base=hub_base, folder=MODEL_PATH, **facts)


def name_base(base: str, spec: Mapping[str, Any]) -> tuple[str, bool]:
    """Return how the card calls the base model, and whether that is a hub id.

    The scoring spec's `base_name` comes first; a folder goes by its own name.
    """
    if spec.get("base_name"):
        return str(spec["base_name"]), False
    path = Path(base)
    if path.exists() and (origin := find_origin(base)):
        return (origin["id"], True) if origin["hub"] == "hf" else (f"ms://{origin['id']}", False)
    return (path.resolve().name, False) if path.exists() else (base, True)


def code_span(text: str) -> str:
    """Return one line of text as Markdown code that nothing in it can end: its fence is longer than its backticks."""
    text = text.replace("\n", " ")
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence, space = "`" * (longest + 1), " " * bool(longest)
    return f"{fence}{space}{text}{space}{fence}"


def main(argv: list[str]) -> int:
    """Write the packaged model to `--out`, which appears whole and verified or not at all."""
    parser = argparse.ArgumentParser(prog="workers package", description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", type=Path, required=True, help="the merged or fully trained folder")
    parser.add_argument("--base", required=True, help="the model that training started from, a folder or a hub id")
    parser.add_argument("--adapter", type=Path, help="the LoRA adapter that was merged")
    parser.add_argument("--scoring", type=Path, required=True, help="the scoring spec, JSON")
    parser.add_argument("--probes", type=Path, required=True, help="the canonical eval file, JSONL")
    parser.add_argument("--corpus", type=Path, help="the documents that the eval file searches, JSONL")
    parser.add_argument("--test-prompt", metavar="TEXT", help="a prompt of the user's own to try the model with")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--report", type=Path, required=True, help="where the verification goes, JSON")
    parser.add_argument("--device", help="cpu or cuda; the GPU when there is one")
    given = vars(parser.parse_args(argv))
    # the folder must load without a network, and the base model was fetched when it was trained
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    out, spec, device = given.pop("out"), load_raw_spec(given.pop("scoring")), choose_device(given.pop("device"))
    package(Request(**given, raw_spec=spec, device=device), out)
    return 0
