"""Compare a merged folder with its base and adapter: the same numbers, and the same answer to a prompt."""

from __future__ import annotations

import argparse
import gc
import json
from pathlib import Path
from typing import Any

from orchestrator.workers.failure import WorkerError
from orchestrator.workers.merge import attach_adapter, check_adapter, find_base, find_kind, keep_head, load_base
from orchestrator.workers.merge_trial import explain, judge, observe
from orchestrator.workers.weights import require_safetensors, scan_weights


def verify(base: str, adapter: Path, merged: Path, prompt: str | None, *, trust_remote_code: bool) -> dict[str, Any]:
    """Return how the merged folder compares; both models are loaded in the precision that it was saved in."""
    from transformers import AutoTokenizer

    config = keep_head(base, check_adapter(adapter), trust_remote_code=trust_remote_code)
    kind, task_type = find_kind(adapter, config), config.get("task_type")
    scan = scan_weights(require_safetensors(merged))
    if scan.problems:
        raise WorkerError(*(f"merged model: {problem}" for problem in scan.problems))
    tokenizer = AutoTokenizer.from_pretrained(merged, trust_remote_code=trust_remote_code)
    saved = load_base(str(merged), task_type, "auto", trust_remote_code=trust_remote_code, kind=kind).eval()
    dtype = str(saved.dtype).removeprefix("torch.")
    after = observe(saved, tokenizer, kind, prompt)
    del saved
    gc.collect()
    model = load_base(base, task_type, dtype, trust_remote_code=trust_remote_code, kind=kind)
    before = observe(attach_adapter(model, adapter).eval(), tokenizer, kind, prompt)
    return {"dtype": dtype, **judge(kind, before, after, dtype, prompt)}


def main(argv: list[str]) -> int:
    """Print the comparison as JSON. Raises WorkerError when the two differ."""
    parser = argparse.ArgumentParser(prog="workers verify_merge", description=__doc__, allow_abbrev=False)
    parser.add_argument("--base", help="a folder or a hub id; what adapter_config.json names by default")
    parser.add_argument("--adapter", type=Path, required=True)
    parser.add_argument("--merged", type=Path, required=True)
    parser.add_argument("--test-prompt", metavar="TEXT", help="try both models on it")
    parser.add_argument("--trust-remote-code", action="store_true")
    options = parser.parse_args(argv)
    base = options.base or find_base(options.adapter, check_adapter(options.adapter))
    result = verify(
        base, options.adapter, options.merged, options.test_prompt, trust_remote_code=options.trust_remote_code
    )
    found = {"version": 1, "base": base, "adapter": str(options.adapter.resolve()), "out": str(options.merged)}
    print(json.dumps({**found, **result}, ensure_ascii=False), flush=True)  # noqa: T201
    if not result["passed"]:
        raise WorkerError(*explain(result))
    return 0
