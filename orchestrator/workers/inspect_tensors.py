"""Hold a model's files against the classes that it is wanted for, and print what does not fit as one JSON line."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

from orchestrator.workers.whole_weights import USES, judge_weights


def main(argv: list[str]) -> int:
    """Print what `--model` lacks for each `--use`."""
    parser = argparse.ArgumentParser(prog="workers inspect_tensors", description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", type=Path, required=True, help="a folder")
    parser.add_argument("--use", choices=USES, nargs="+", required=True, help="what the model is wanted for")
    parser.add_argument("--trust-remote-code", action="store_true", help="run Python code that the folder brings along")
    options = parser.parse_args(argv)
    os.environ["HF_HUB_OFFLINE"] = "1"  # a folder's files are all there is to look at
    with contextlib.redirect_stdout(sys.stderr):  # libraries print while they load
        found = [judge_weights(options.model, use, trust_remote_code=options.trust_remote_code) for use in options.use]
    sys.stdout.write(json.dumps({"verdicts": [asdict(verdict) for verdict in found]}, ensure_ascii=False) + "\n")
    return 0
