"""Run `swift deploy` with the API key of the environment, which swift itself takes in its arguments only.

There every user of the machine sees it in `ps`, and swift logs its arguments.
"""

from __future__ import annotations

import argparse
import os

from orchestrator.workers.failure import WorkerError

KEY_VARIABLE = "ORCH_API_KEY"


def main(argv: list[str]) -> int:
    """Serve with swift's own arguments until a signal comes."""
    parser = argparse.ArgumentParser(
        prog="workers deploy_with_key", usage="%(prog)s ARGUMENTS OF swift deploy", description=__doc__,
        allow_abbrev=False,
    )  # fmt: skip
    parser.parse_known_args(argv)  # for --help alone
    key = os.environ.pop(KEY_VARIABLE, "")
    if not key:
        raise WorkerError(f"{KEY_VARIABLE} is not set: give it a key, or run swift deploy itself")
    from swift.pipelines.infer.deploy import SwiftDeploy

    server = SwiftDeploy(argv)
    server.args.api_key = key  # after swift has logged its arguments; every route compares with it
    server.main()
    return 0
