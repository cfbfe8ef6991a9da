"""Whether the prepare stages will take the recipe's files: all rows of small ones, the first rows of large ones.

The stages' own commands are read from the plan, so that what is asked here is what they will ask. Tokens are not
counted here: a tokenizer takes longer to load than all else.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.data import prepare, prepare_eval
from orchestrator.data.prepare_arguments import parse_arguments
from orchestrator.data.reading.containers import find_ending
from orchestrator.data.reading.readers import open_source, show_path
from orchestrator.data.reasons import Fault, problem_of
from orchestrator.data.rows.checks import check_row
from orchestrator.data.verdict import PROBLEMS_SHOWN
from orchestrator.errors import DataError, OrchError, Where

if TYPE_CHECKING:
    from collections.abc import Iterator

    from orchestrator.backends.protocol import Job
    from orchestrator.data.rows.checks import RowRules
    from orchestrator.errors import Problem
    from orchestrator.plan import Plan

SMALL_BYTES = 4 << 20  # read whole: some tenths of a second
FIRST_ROWS = 1000
_TABLES = (".csv", ".tsv")
_PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"PAR1", b"ARROW1")  # gzip, bzip2, xz, Parquet, Arrow
_UNPACKED = 20  # times as large, at most for texts of people
_PREPARE, _PREPARE_EVAL = "orchestrator.data.prepare", "orchestrator.data.prepare_eval"


def check_data_files(job: Job, plan: Plan) -> Iterator[Problem]:
    """Yield why a prepare stage would refuse the files that are here; a hub's, and a teacher's rows, are not yet."""
    for stage in plan.stages:
        argv = stage.command.argv
        for module, find in ((_PREPARE, _find_problems), (_PREPARE_EVAL, _find_eval_problems)):
            if module in argv:
                yield from find(job, argv[argv.index(module) + 1 :])


def _find_problems(job: Job, argv: tuple[str, ...]) -> Iterator[Problem]:
    request, outputs = parse_arguments(argv)
    files = (*request.train_files, *request.eval_files)
    if _are_small(files) and job.recipe.teacher is None:
        with tempfile.TemporaryDirectory(prefix="orch-check-") as folder:
            try:
                prepare.prepare(replace(request, tokenizer=None), replace(outputs, folder=Path(folder)))
            except DataError as error:
                yield from error.problems
            except OrchError:  # the temporary folder cannot be written: the run's own is for another check
                pass
        return
    rules = replace(request.rules, needs_scores=request.rules.needs_scores and job.recipe.teacher is None)
    trained = [(job.recipe_folder / name).expanduser() for name in job.recipe.data.train]
    given = [path for path in trained if path.is_file()] if job.recipe.teacher else list(request.train_files)
    yield from _look_at(given, rules, outputs.max_dropped)
    yield from _look_at(request.eval_files, replace(rules, needs_scores=False), outputs.max_dropped)


def _find_eval_problems(job: Job, argv: tuple[str, ...]) -> Iterator[Problem]:  # noqa: ARG001
    request, _ = prepare_eval.parse_arguments(argv)
    with tempfile.TemporaryDirectory(prefix="orch-check-") as folder:
        if not _are_small(request.files):
            yield from _look_at(request.files, prepare_eval.build_rules(request), request.max_dropped)
            return
        try:
            prepare_eval.prepare_eval(request, Path(folder))
        except DataError as error:
            yield from error.problems
        except OrchError:
            pass


def _are_small(files: tuple[Path, ...]) -> bool:
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


def _look_at(paths: tuple[Path, ...] | list[Path], rules: RowRules, max_dropped: int) -> Iterator[Problem]:
    """Yield what is wrong with files as a whole and, where none may be dropped, with their first rows."""
    for path in paths:
        if _is_of_a_stage(path):
            continue
        try:
            faults = [] if max_dropped else list(islice(_find_faults(path, rules), PROBLEMS_SHOWN))
            if max_dropped:
                next(open_source(path).rows(), None)
        except DataError as error:
            yield from error.problems
        else:
            yield from faults


def _find_faults(path: Path, rules: RowRules) -> Iterator[Problem]:
    shown, name, numeric_text = show_path(path), show_path(path.name), find_ending(path) in _TABLES
    for row in islice(open_source(path).rows(), FIRST_ROWS):
        found = row.fault or check_row(row.value, source=name, line=row.line, rules=rules, numeric_text=numeric_text)
        if isinstance(found, Fault):
            yield problem_of(found.code, found.message, hint=found.hint, where=Where(shown, row.line))
