"""The command that merges one checkpoint of a run, or any LoRA adapter, into a whole model."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from orchestrator.cli.options import as_json, runs_option, trust_run_option
from orchestrator.cli.output import print_json
from orchestrator.errors import OrchError, PreflightError, RunFolderError, StageFailedError
from orchestrator.machine.rundir import RunDir
from orchestrator.machine.terminal import say
from orchestrator.recipe.plan import Command, Plan
from orchestrator.serving.checkpoints import Checkpoint


@dataclass(frozen=True)
class _Asked:
    """What the options say of an adapter's merge."""

    base: str | None
    dtype: str
    test_prompt: str | None
    trust_remote_code: bool
    allow_pickle: bool


@click.command("merge")
@click.argument("run", default="last")
@click.option("--checkpoint", metavar="N|best|last", help="Which checkpoint (default: what the run itself merges).")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="A fresh folder (default: RUN/merged/NAME).")
@click.option(
    "--dtype", type=click.Choice(["auto", "bfloat16", "float16", "float32"]), default="auto", show_default=True,
    help="auto is the base model's own.",
)  # fmt: skip
@click.option("--base", help="The base model of an adapter folder, where its adapter_config.json is out of date.")
@click.option("--trust-remote-code", is_flag=True, help="Run Python code that an adapter's base model brings along.")
@click.option("--allow-pickle", is_flag=True, help="Load pickled weights of an adapter's base, which may run code too.")
@click.option("--test-prompt", metavar="TEXT", help="Try base with adapter and the merged model on it.")
@trust_run_option
@runs_option
@as_json
def merge_command(
    run: str,
    checkpoint: str | None,
    output: Path | None,
    dtype: str,
    base: str | None,
    trust_remote_code: bool,
    allow_pickle: bool,
    test_prompt: str | None,
    trust_run: bool,
    runs: Path,
    as_json: bool,
) -> None:
    """Merge a checkpoint of RUN (or an adapter folder) into a whole model, and compare it with base and adapter."""
    if (Path(run) / "adapter_config.json").is_file():
        if checkpoint:
            raise click.UsageError("--checkpoint goes with a run; an adapter folder is one checkpoint")
        if output is None:
            raise click.UsageError("an adapter needs -o: the folder for the merged model")
        asked = _Asked(base, dtype, test_prompt, trust_remote_code, allow_pickle)
        result = _merge_adapter(Path(run).resolve(), _fresh(output), asked)
    else:
        if base:
            raise click.UsageError("--base goes with an adapter folder; a run knows its base model")
        if trust_remote_code or allow_pickle:
            option = "--trust-remote-code" if trust_remote_code else "--allow-pickle"
            raise click.UsageError(f"{option} goes with an adapter folder; a run's recipe says it")
        result = _merge_of_run(run, runs, checkpoint, output, dtype=dtype, prompt=test_prompt, trust_run=trust_run)
    if as_json:
        print_json("merge", result)
        return
    say(f"merged: {result['out']}  ({result['dtype']})")
    say(f"as base and adapter: at most {result['max_difference']:.2g} apart, allowed {result['tolerance']:.2g}")
    if test := result.get("test"):
        say(f"the test prompt, base and adapter: {_show(test['adapter'])}")
        say(f"the test prompt, merged:           {_show(test['merged'])}")


def _merge_adapter(adapter: Path, out: Path, asked: _Asked) -> dict[str, Any]:
    from orchestrator.checks.model_loading import Permissions
    from orchestrator.cli.loadable import require_base_loads
    from orchestrator.machine.places import WORKERS
    from orchestrator.serving.checkpoints import build_quick_merge, require_base, require_whole_adapter

    base = require_base(adapter, asked.base)
    require_whole_adapter(adapter)
    permissions, trust = Permissions(asked.allow_pickle), asked.trust_remote_code
    require_base_loads(base.location, sys.executable, permissions, trust=trust, use=base.use)
    command = build_quick_merge(
        sys.executable, str(WORKERS), adapter, out, dtype=asked.dtype, prompt=asked.test_prompt, env=permissions.env,
        cwd=Path.cwd(), base=asked.base, trust=trust,
    )  # fmt: skip
    return _read_summary(_run(command))


def _merge_of_run(
    name: str, runs: Path, wanted: str | None, output: Path | None, *, dtype: str, prompt: str | None, trust_run: bool
) -> dict[str, Any]:
    from orchestrator.run.folder import find_run, load_own_plan
    from orchestrator.serving.checkpoints import build_merge, build_verification, find_checkpoint, is_native

    try:
        run = find_run(name, runs)
    except RunFolderError as error:
        raise _explain_no_run(Path(name).expanduser()) or error from None
    plan = load_own_plan(run, trust_run=trust_run)
    checkpoint = find_checkpoint(run, plan, wanted)
    out = _fresh(output or run.root / "merged" / checkpoint.name)
    _require_mergeable(run, plan, checkpoint)
    command = build_merge(run, plan, checkpoint, out, dtype=dtype, prompt=prompt)
    say(f"orch: merging {checkpoint.name} of {run.root.name} into {out}", err=True)
    said = _run(command)
    if is_native(command):
        say("orch: comparing it with base and adapter", err=True)
        try:
            said = _run(build_verification(run, plan, checkpoint, out, prompt))
        except OrchError:
            shutil.rmtree(out)  # a model that is not the one that was trained must not lie about
            raise
    return {"run": str(run.root), "checkpoint": checkpoint.name, **_read_summary(said)}


def _explain_no_run(folder: Path) -> OrchError | None:
    """Return what a name is that is no run: another kind of folder, or a path that is not there; None for a name."""
    from orchestrator.machine.model_folders import find_nothing_to_merge, name_nearest

    if (problem := find_nothing_to_merge(folder)) is not None:
        return PreflightError.from_problems([problem])
    if len(folder.parts) == 1:
        return None
    near = name_nearest(folder)
    hint = f"did you mean {near}?" if near else "name a folder that holds adapter_config.json, or a run: orch ls"
    return PreflightError(f"no such folder: {folder}", hint=hint)


def _require_mergeable(run: RunDir, plan: Plan, checkpoint: Checkpoint) -> None:
    """Raise OrchError for a checkpoint that is not whole, or whose base model cannot be loaded."""
    from orchestrator.checks.model_loading import ALLOW_PICKLE, Permissions
    from orchestrator.cli.loadable import require_base_loads
    from orchestrator.serving.artefact import says_of_model
    from orchestrator.serving.checkpoints import find_worker, require_base, require_whole_adapter

    base = require_base(checkpoint.adapter, None)
    require_whole_adapter(checkpoint.adapter)
    permissions = Permissions(
        says_of_model(plan, "allow_pickle"), f"set {ALLOW_PICKLE}=1", "train it with trust_remote_code: true"
    )
    python, _, _ = find_worker(run, plan)
    trust = says_of_model(plan, "trust_remote_code")
    require_base_loads(base.location, python, permissions, trust=trust, use=base.use)


def _fresh(out: Path) -> Path:
    out = out.absolute()
    if out.exists() or out.is_symlink():
        raise RunFolderError(f"{out} exists already", hint="name a fresh folder with -o, or remove it")
    return out


def _run(command: Command) -> str:
    """Run one command to its end and return its standard output."""
    from orchestrator.serving.worker import Words, run_worker

    return run_worker(command, Words("the merge has failed", "the merge was stopped; nothing was left behind"))


def _read_summary(text: str) -> dict[str, Any]:
    for line in reversed(text.splitlines()):
        if line.startswith("{"):
            summary: dict[str, Any] = json.loads(line)
            return summary
    raise StageFailedError("the merge said nothing about what it made", hint=text[-500:] or None)


def _show(answer: Any) -> str:
    return answer if isinstance(answer, str) else json.dumps(answer, ensure_ascii=False)
