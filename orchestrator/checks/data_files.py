"""Whether the prepare stages will take the recipe's files: all rows of small ones, the first rows of large ones.

The stages' own commands are read from the plan, so that what is asked here is what they will ask. Tokens are not
counted here: a tokenizer takes longer to load than all else. That small files are all right is remembered by all that
decides it (decisions/0049); what is wrong with files is found anew each time.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.backends.protocol import Job
from orchestrator.errors import DataError, OrchError, Problem
from orchestrator.machine.files import ABSENT, hash_path, write_json
from orchestrator.machine.json_files import find_object
from orchestrator.machine.packages import find_packages
from orchestrator.machine.places import PACKAGE
from orchestrator.recipe.plan import Plan, Stage

if TYPE_CHECKING:  # the data pass takes as long to import as small files to read
    from orchestrator.data.ledger import PassResult
    from orchestrator.data.rows.checks import RowRules

SMALL_BYTES = 4 << 20  # read whole: some tenths of a second
FIRST_ROWS = 1000
# gzip, bzip2, xz, Zstandard, Parquet, Arrow, Excel
_PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"PAR1", b"ARROW1", b"PK\x03\x04")
_UNPACKED = 20  # times as large, at most for texts of people
PREPARE, PREPARE_EVAL = "orchestrator.data.prepare", "orchestrator.data.prepare_eval"
_UNASKED = {"--out", "--tokenizer"}  # options of a prepare stage that decide nothing here


def check_data_files(job: Job, plan: Plan) -> Iterator[Problem]:
    """Yield why a prepare stage would refuse the files that are here; a hub's, and a teacher's rows, are not yet."""
    for module, words, kept in _list_stages(job, plan):
        if kept is None or not kept.exists():
            yield from _find_problems(job, words, kept) if module == PREPARE else _find_eval_problems(words, kept)


def advise_data_files(job: Job, plan: Plan) -> Iterator[Problem]:
    """Yield what a prepare stage would warn of, where `check_data_files` has read small files as a whole."""
    found = [find_object(kept) for _, _, kept in _list_stages(job, plan) if kept is not None]
    warnings = {message: hint for one in found if one for message, hint in one["warnings"].items()}
    yield from (Problem(message, hint) for message, hint in warnings.items())


def _list_stages(job: Job, plan: Plan) -> Iterator[tuple[str, tuple[str, ...], Path | None]]:
    """Yield the module of each prepare stage, its arguments, and where its verdict is kept."""
    for stage in plan.stages:
        argv = stage.command.argv
        for module in {PREPARE, PREPARE_EVAL} & {*argv}:
            words = argv[argv.index(module) + 1 :]
            yield module, words, _find_kept(job, stage, (module, *words))


def _find_kept(job: Job, stage: Stage, words: tuple[str, ...]) -> Path | None:
    """Return the file of the warnings of data that is all right, named by all that decides it; None for large files.

    That is the stage's command, its files' contents, Orch's code, and the packages that read Parquet and the like.
    """
    inputs = [path for path in stage.inputs if Path(path).name != "tokenizer.json"]
    if job.recipe.teacher is not None or not job.cache_dir or not are_small(tuple(map(Path, inputs))):
        return None
    asked = [word for before, word in pairwise(words) if not {before, word} & _UNASKED]
    try:
        contents = {path: hash_path(Path(path)) for path in inputs}
    except OSError:
        return None
    if ABSENT in contents.values():
        return None
    key = json.dumps([words[0], asked, contents, _stamp_code(), find_packages(sys.executable)])
    return Path(job.cache_dir) / "data" / hashlib.sha256(key.encode()).hexdigest()


def _stamp_code() -> list[tuple[str, int, int]]:
    """Return name, size and time of each file of Orch's code and tables, in their order."""
    found = []
    for folder, folders, _ in os.walk(PACKAGE):
        folders[:] = sorted(set(folders) - {"__pycache__", "workers"})
        with os.scandir(folder) as entries:
            stats = ((entry.path, entry.stat()) for entry in entries if entry.is_file())
            found += sorted((path, stat.st_size, stat.st_mtime_ns) for path, stat in stats)
    return found


def _find_problems(job: Job, argv: tuple[str, ...], kept: Path | None) -> Iterator[Problem]:
    from orchestrator.data import prepare
    from orchestrator.data.request import parse_arguments

    request, outputs = parse_arguments(argv)
    request = replace(request, seen=())  # made in the run
    if are_small((*request.train_files, *request.eval_files)) and job.recipe.teacher is None:
        whole = replace(request, tokenizer=None)
        yield from _try(lambda folder: prepare.prepare(whole, replace(outputs, folder=folder)), kept)
        return
    rules = replace(request.rules, needs_scores=request.rules.needs_scores and job.recipe.teacher is None)
    trained = [(job.recipe_folder / name).expanduser() for name in job.recipe.data.train]
    given = [path for path in trained if path.is_file()] if job.recipe.teacher else request.train_files
    yield from _look_at(given, rules, outputs.max_dropped)
    yield from _look_at(request.eval_files, replace(rules, needs_scores=False), outputs.max_dropped)


def _find_eval_problems(argv: tuple[str, ...], kept: Path | None) -> Iterable[Problem]:
    from orchestrator.data.prepare import prepare
    from orchestrator.data.prepare_eval import parse_arguments

    request, outputs = parse_arguments(argv)
    if not are_small(request.eval_files):
        return _look_at(request.eval_files, request.rules, outputs.max_dropped)
    return _try(lambda folder: prepare(request, replace(outputs, folder=folder)), kept)


def _try(prepare_in: Callable[[Path], PassResult], kept: Path | None) -> tuple[Problem, ...]:
    """Return why a prepare stage would refuse its data; its files go to a folder that is removed at once.

    `kept` is written where nothing is wrong: each warning with what to do.
    """
    from orchestrator.data.check import describe_warnings
    from orchestrator.data.reasons import REASONS

    try:
        with tempfile.TemporaryDirectory(prefix="orch-check-") as folder:
            ledger = prepare_in(Path(folder)).ledger
        if kept is not None:
            said = (line.removeprefix("warning: ") for line in describe_warnings(ledger))
            hints = (REASONS[warned.code].remedy for warned in ledger.warnings)
            write_json(kept, {"warnings": dict(zip(said, hints, strict=True))})
    except DataError as error:
        return error.problems
    except (OrchError, OSError):  # that folder cannot be written: whether the run's own can, another check says
        pass
    return ()


def are_small(files: tuple[Path, ...]) -> bool:
    """Tell whether all files are here and together small enough to be read whole, or no files at all."""
    try:
        return sum(map(_weigh, files)) <= SMALL_BYTES
    except (OSError, ValueError):
        return all(not _is_of_a_stage(path) for path in files)  # a missing file is refused by the reader itself


def _weigh(path: Path) -> int:
    """Return about how many bytes of text a file holds."""
    size = path.stat().st_size
    if not path.is_file():
        return 0
    with path.open("rb") as stream:
        return size * (_UNPACKED if stream.read(8).startswith(_PACKED) else 1)


def _is_of_a_stage(path: Path) -> bool:
    """Tell whether another stage of the run writes the file: a fetched data set, a teacher's scores."""
    return "stages" in path.parts and path.parent.name == "output" and not path.exists()


def _look_at(paths: Sequence[Path], rules: RowRules, max_dropped: int) -> Iterator[Problem]:
    """Yield what is wrong with files as a whole and, where none may be dropped, with their first rows."""
    from orchestrator.data.ledger import BadRows
    from orchestrator.data.reading.readers import Source, show_path
    from orchestrator.data.reasons import Fault
    from orchestrator.data.rows.checks import check_row

    for path in (one for one in paths if not _is_of_a_stage(one)):
        bad, name = BadRows(), show_path(path.name)
        try:
            source = Source(path, encoding=rules.encoding)
            numeric = source.is_text_table
            for row in islice(source.rows(), FIRST_ROWS):
                found = row.fault or check_row(row.value, source=name, line=row.line, rules=rules, numeric_text=numeric)
                if isinstance(found, Fault):
                    bad.add(found, show_path(path), row.line)
        except DataError as error:
            yield from error.problems
        else:
            yield from [] if max_dropped else bad.sum_up()
