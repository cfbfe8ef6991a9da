"""One door for writing: random names beside the place, links replaced and never followed, one writer a folder."""

from __future__ import annotations

import ast
import json
import multiprocessing
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

import orchestrator
from orchestrator.data.writers import FileSet, remove_files
from orchestrator.errors import RunFolderError
from orchestrator.logs.events import Message, append_event
from orchestrator.logs.follow import LogFollower, scrub_log
from orchestrator.machine.files import open_fresh, write_bytes
from orchestrator.machine.rundir import RunDir
from orchestrator.recipe.plan import Command, Plan, Stage
from orchestrator.run.folder import write_run
from orchestrator.run.loop import run_plan
from orchestrator.workers import folders

ROOT = Path(orchestrator.__file__).parent
TOKEN = "hf_" + "Ab3" * 12


def plan_of(root: Path, mark: str = "a") -> Plan:
    code = "print('x')"
    stage = Stage("01-a", "work", mark, Command((sys.executable, "-c", code), (), "."))
    return Plan(mark, str(root), "reranker", "fake", False, {}, (stage,), ())


def test_what_was_planted_under_a_name_of_old_is_not_touched(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in (".x.part", f".x.{os.getpid()}.part", "x"):
        (tmp_path / name).symlink_to(victim)
    write_bytes(tmp_path / "x", b"1")
    (tmp_path / "x").unlink()
    (tmp_path / "x").symlink_to(victim)
    folders.write_text(tmp_path / "x", "2")
    with FileSet() as files:
        files.open(tmp_path / "x").write(b"3")
        files.commit()
    assert (victim.read_text(), (tmp_path / "x").read_text()) == ("precious", "3")
    assert not (tmp_path / "x").is_symlink()


def test_what_exists_is_not_replaced_where_that_is_asked(tmp_path):
    (tmp_path / "x").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError), open_fresh(tmp_path / "x", replace=False) as stream:
        stream.write(b"1")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("name", ["x" * 255, "é" * 127, "."])
def test_names_of_any_length_can_be_written(tmp_path, name):
    path = tmp_path / name if name != "." else tmp_path / "a.b"
    write_bytes(path, b"1")
    folders.write_text(path, "2")
    assert path.read_text() == "2"


def test_what_killed_writers_have_left_is_removed_and_nothing_else(tmp_path):
    for name in (".x.0123456789abcdef.part", ".xy.0123456789abcdef.part", ".x.part", "x"):
        (tmp_path / name).write_text("")
    remove_files([tmp_path / "x"])
    assert sorted(path.name for path in tmp_path.iterdir()) == [".x.part", ".xy.0123456789abcdef.part"]


def write_when_told(root: str, mark: str, barrier, answers) -> None:
    plan = plan_of(Path(root), mark)
    barrier.wait()
    try:
        write_run(plan, f"name: {mark}\n", {"mark": mark})
        answers.put((mark, "written"))
    except RunFolderError as error:
        answers.put((mark, error.problems[0].message))


def test_of_several_who_write_one_folder_at_once_one_wins_and_the_files_are_its_own(tmp_path):
    context = multiprocessing.get_context("fork")
    for number in range(15):
        root = tmp_path / str(number)
        barrier, answers = context.Barrier(3), context.Queue()
        writers = [context.Process(target=write_when_told, args=(str(root), m, barrier, answers)) for m in "abc"]
        for writer in writers:
            writer.start()
        said = dict(answers.get(timeout=30) for _ in writers)
        for writer in writers:
            writer.join()
        (winner,) = [mark for mark, answer in said.items() if answer == "written"]
        assert all("is not empty" in text or "another orch" in text for mark, text in said.items() if mark != winner)
        assert json.loads((root / "plan.json").read_text())["name"] == winner
        assert json.loads((root / "provenance.json").read_text()) == {"mark": winner}
        assert (root / "recipe.yaml").read_text() == f"name: {winner}\n"
        assert not (root / "lock").exists()


@pytest.mark.parametrize("name", ["events.jsonl", "stages/01-a/stdout.log", "stages/01-a/stderr.log", "stages",
                                  "stages/01-a", "data", "files", "stages/01-a/stacks.txt"])  # fmt: skip
def test_a_run_folder_with_a_link_in_the_place_of_its_own_files_is_refused(tmp_path, name):
    run = RunDir(tmp_path / "run")
    plan = plan_of(run.root)
    write_run(plan, "name: a\n", {})
    outside = tmp_path / "outside"
    if name.endswith((".log", ".jsonl", ".txt")):
        outside.write_text("precious")
    else:
        outside.mkdir()
    path = run.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        shutil.rmtree(path)
    path.symlink_to(outside)
    with pytest.raises(RunFolderError, match="is a link to"):
        run_plan(plan, run, poll_s=0.02)
    assert outside.read_text() == "precious" if outside.is_file() else not list(outside.iterdir())


def test_no_log_that_became_a_link_is_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text(f"precious {TOKEN}")
    link = tmp_path / "events.jsonl"
    link.symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"):
        append_event(link, Message("info", "x"))
    assert scrub_log(link, []) == 0
    assert list(LogFollower(link).iter_lines(at_end=True)) == []
    assert victim.read_text() == f"precious {TOKEN}"


def test_the_exit_code_of_a_stage_is_written_past_planted_links(tmp_path):
    run = RunDir(tmp_path / "run")
    plan = plan_of(run.root)
    write_run(plan, "name: a\n", {})
    victim = tmp_path / "victim"
    victim.write_text("precious")
    stage = run.stage("01-a")
    stage.root.mkdir(parents=True, exist_ok=True)
    (stage.root / "exit_code.part").symlink_to(victim)
    run_plan(plan, run, poll_s=0.02)
    assert victim.read_text() == "precious"
    assert stage.exit_code.read_text() == "0\n"
    assert not list(run.root.rglob(".*.part"))


# Who opens files for writing in the core: the door, and those who write where nobody else can. Workers write into fresh
# folders that are renamed when they are whole.
DOORS = {
    "machine/files.py": "the core's door",
    "data/writers.py": "several files at once, by the door's names",
    "cli/__init__.py": "a report of a bug, by mkstemp; the standard streams",
    "logs/follow.py": "overwrites a log in its place, not through a link",
    "run/state.py": "the lock, not through a link",
    "run/folder.py": "the lock, not through a link; the user's key",
    "checks/environments.py": "a lock, not through a link",
    "run/provenance.py": "in a temporary folder of its own",
    "serving/artefact.py": "in a temporary folder of its own",
    "serving/worker.py": "what a failed worker said, by mkstemp",
}
WRITES = re.compile(
    r"\.write_text\((?!run)|\.write_bytes\(|\bopen\([^)]*['\"][rwaxb]*[wax+][rwaxb+]*['\"]|os\.open\([^)]*O_(?:RDWR|WRONLY)"
)


def test_nobody_writes_past_the_door():
    found = set()
    for path in ROOT.rglob("*.py"):
        name = path.relative_to(ROOT).as_posix()
        if name.startswith("workers/"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and (match := WRITES.search(ast.unparse(node))):
                found.add((name, match[0]))
    assert len(found) > 5
    assert sorted(item for item in found if item[0] not in DOORS) == []


def test_no_temporary_name_can_be_guessed():
    names = re.compile(r"with_name\(f?['\"]\.|['\"][^'\"\s*]*\.part['\"]")
    found = {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*.py")
        if names.search(path.read_text(encoding="utf-8"))
    }
    assert found <= {"machine/files.py", "workers/folders.py"}
