"""Run a Python module that writes a model folder, and give the folder its name only when it holds a whole model.

ms-swift's export skips a folder that exists, and one that was killed leaves half a model behind: here it always writes
into a folder that does not exist yet, `{fresh}` in its arguments.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import runpy
import sys
import time
import traceback
from pathlib import Path

from orchestrator.workers.failure import WorkerError
from orchestrator.workers.folders import copy_tokenizer, fresh_folder, has_tokenizer, refuse_existing
from orchestrator.workers.merge import check_adapter
from orchestrator.workers.weights import require_safetensors, require_sound

SLOT = "{fresh}"
AFTER = f"after --: the module, such as swift.cli.export, and its arguments, with {SLOT} for the folder"
WRITTEN = "written"  # what `{fresh}` stands for, inside the folder that is to be renamed


def run_module(module: str, arguments: list[str]) -> None:
    """Run the module as `python -m` does, in this process.

    Raises SystemExit for another exit code than 0, and WorkerError for an exception, whose traceback is printed.
    """
    if importlib.util.find_spec(module.partition(".")[0]) is None:
        raise WorkerError(f"no module {module}: {sys.executable} has no {module.partition('.')[0]} installed")
    kept = sys.argv
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if isinstance(end.code, str):
            raise WorkerError(f"{module}: {end.code}") from end
        if end.code:
            raise
    except Exception as error:
        traceback.print_exc()
        raise WorkerError(f"{module} failed: {type(error).__name__}: {error}") from error
    finally:
        sys.argv = kept


def check_written(folder: Path, module: str, required: list[str]) -> None:
    """Raise WorkerError unless the folder holds a config, whole finite weights, and every required file."""
    if not folder.is_dir():
        raise WorkerError(f"{module} ended without an error but wrote no folder {SLOT}: it skipped its work")
    missing = [
        name
        for name in ("config.json", *required)
        if not (folder / name).is_file() or not (folder / name).stat().st_size
    ]
    if missing:
        raise WorkerError(f"{module} left {', '.join(missing)} out or empty: what it wrote is not a whole model")
    if not require_sound(require_safetensors(folder), f"what {module} wrote").parameters:
        raise WorkerError(f"what {module} wrote: there are no weights in it")


def export_model(out: Path, module: str, arguments: list[str], required: list[str], tokenizer: Path | None) -> None:
    """Run the module and rename what it wrote to `out`. Nothing is left behind when it fails."""
    after = arguments[arguments.index("--adapters") + 1 :] if "--adapters" in arguments else []
    named = itertools.takewhile(lambda argument: not argument.startswith("--"), after)
    for adapter in filter(Path.is_dir, map(Path, named)):
        if (adapter / "adapter_config.json").is_file():
            check_adapter(adapter)
        real = adapter.resolve().name  # a link such as `best` is named with the checkpoint that it points to
        print(f"merging {real if real == adapter.name else f'{real} ({adapter.name})'}", flush=True)  # noqa: T201
    with fresh_folder(out) as folder:
        written = folder / WRITTEN
        run_module(module, [argument.replace(SLOT, str(written)) for argument in arguments])
        if written.is_dir() and not has_tokenizer(written) and tokenizer is not None:
            copy_tokenizer(tokenizer, written)
            print(f"tokenizer added from {tokenizer}", flush=True)  # noqa: T201
        check_written(written, module, required)
        # fresh_folder renames its own folder: what was written moves up into it
        aside = written.rename(folder / f".{WRITTEN}")
        for path in sorted(aside.iterdir()):
            path.rename(folder / path.name)
        aside.rmdir()


def main(argv: list[str]) -> int:
    """Run the module; return its exit code when that is not 0."""
    parser = argparse.ArgumentParser(prog="workers fresh", description=__doc__, allow_abbrev=False, epilog=AFTER)
    parser.add_argument("--out", type=Path, required=True, help="the folder that is to hold the model")
    parser.add_argument("--require", nargs="+", default=[], metavar="FILE", help="files that must be in it too")
    parser.add_argument("--tokenizer-from", type=Path, metavar="DIR", help="where a tokenizer is taken from if need be")
    parser.add_argument("--replace", action="store_true", help="put the new folder in the place of an older one")
    # argparse of Python 3.11 and 3.13 part a `--` from a remainder differently
    own = argv.index("--") if "--" in argv else len(argv)
    options, (module, *arguments) = parser.parse_args(argv[:own]), argv[own + 1 :] or [""]
    if not module:
        parser.error("the module and its arguments stand after --")
    if not any(SLOT in argument for argument in arguments):
        raise WorkerError(f"no argument of {module} holds {SLOT}: it would not write where it is looked for")
    if options.tokenizer_from is not None and not has_tokenizer(options.tokenizer_from):
        raise WorkerError(f"--tokenizer-from {options.tokenizer_from}: there is no tokenizer")
    refuse_existing(options.out, replace=options.replace)
    started = time.monotonic()
    try:
        export_model(options.out, module, arguments, options.require, options.tokenizer_from)
    except SystemExit as end:
        sys.stderr.write(f"fresh: {module} ended with exit code {end.code}; nothing was kept\n")
        return int(end.code or 0)
    print(f"wrote {options.out} in {time.monotonic() - started:.1f} s", flush=True)  # noqa: T201
    return 0
