"""Where a recipe lies decides nothing: no repository around it, and none planted beside it, gets a command to run."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from orchestrator import checks as preflight
from orchestrator.cli import orch
from orchestrator.machine.hardware import CPU
from orchestrator.plan.pipeline import build_plan
from orchestrator.run.provenance import Asked, build_provenance, find_git_state

ENV = {**{k: v for k, v in os.environ.items() if not k.startswith("GIT_")}, "GIT_CONFIG_GLOBAL": os.devnull}


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=main")
    done = subprocess.run(["git", *who, "-C", str(folder), *words], check=True, capture_output=True, text=True, env=ENV)
    return done.stdout.strip()


@pytest.fixture
def repository(folder: Path) -> Path:
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "one")
    return folder


def plant_config(git_dir: Path, pwned: Path) -> None:
    """Every key of a repository that names a command which a status, or a look at a commit, might run."""
    command = f"touch {pwned}; cat"
    (git_dir / "more").write_text(f'[filter "evil2"]\n\tclean = "{command}"\n\trequired = true\n')
    with (git_dir / "config").open("a") as stream:
        stream.write(
            f'[core]\n\tfsmonitor = "touch {pwned}; false"\n\tsshCommand = "{command}"\n\thooksPath = {git_dir}/hooks\n'
            f'\tpager = "{command}"\n[diff]\n\texternal = "{command}"\n[filter "evil"]\n\tclean = "{command}"\n'
            f'\tprocess = "{command}"\n[include]\n\tpath = {git_dir}/more\n[alias]\n\tstatus = "!{command}"\n'
        )
    for name in ("post-index-change", "fsmonitor-watchman", "post-checkout"):
        hook = git_dir / "hooks" / name
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(f"#!/bin/sh\ntouch {pwned}\n")
        hook.chmod(0o755)


def touch_everything(folder: Path) -> None:
    """Make git look into every tracked file: their times differ from those of the index."""
    for path in folder.rglob("*"):
        if path.is_file() and ".git" not in path.parts:
            os.utime(path, (1_000_000_000, 1_000_000_000))


def look(folder: Path, make_job, tmp_path: Path) -> None:
    """Do what `render -o` and `run` do with the recipe's folder."""
    plan = build_plan(make_job())
    assert build_provenance(plan, CPU, Asked(folder / "recipe.yaml"))["recipe"] == str(folder / "recipe.yaml")
    done = CliRunner().invoke(orch, ["render", str(folder / "recipe.yaml"), "-o", str(tmp_path / "rendered")])
    assert done.exit_code == 0, done.output
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            preflight, "CHECKS", [check for check in preflight.CHECKS if check.kind != "ask"]
        )  # this folder's model is none that loads
        assert CliRunner().invoke(orch, ["check", str(folder / "recipe.yaml")]).exit_code == 0


def test_no_command_of_a_repositorys_config_runs(repository, make_job, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    pwned = elsewhere / "pwned"
    (repository / ".gitattributes").write_text("*.yaml filter=evil\n*.jsonl filter=evil2 diff=evil\n")
    git(repository, "add", "-A")
    git(repository, "commit", "-qm", "two")
    plant_config(repository / ".git", pwned)
    touch_everything(repository)
    look(repository, make_job, elsewhere)
    assert not pwned.exists()
    assert find_git_state(repository) is not None


def test_a_bare_repository_among_the_files_is_only_files(folder, make_job, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    pwned = elsewhere / "pwned"
    for name in ("objects", "refs/heads"):
        (folder / name).mkdir(parents=True)
    (folder / "HEAD").write_text("ref: refs/heads/main\n")
    (folder / "refs/heads/main").write_text("1" * 40 + "\n")
    (folder / "config").write_text("[core]\n\tbare = false\n\tworktree = ..\n")
    plant_config(folder, pwned)
    look(folder, make_job, elsewhere)
    assert not pwned.exists()
    assert (find_git_state(folder) or {}).get("commit") != "1" * 40


def test_a_submodules_config_is_not_read(repository, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "other").mkdir()
    (elsewhere / "other" / "file").write_text("x")
    git(elsewhere / "other", "init", "-q")
    git(elsewhere / "other", "add", "-A")
    git(elsewhere / "other", "commit", "-qm", "one")
    git(repository, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(elsewhere / "other"), "sub")
    git(repository, "commit", "-qm", "two")
    plant_config(repository / ".git" / "modules" / "sub", elsewhere / "pwned")
    touch_everything(repository)
    assert find_git_state(repository) == {"commit": git(repository, "rev-parse", "HEAD"), "changed": False}
    assert not (elsewhere / "pwned").exists()


def test_commit_and_changes_are_those_of_git(repository):
    head = git(repository, "rev-parse", "HEAD")
    assert find_git_state(repository) == {"commit": head, "changed": False}
    (repository / "sub").mkdir()
    (repository / "untracked").write_text("x")
    touch_everything(repository)
    assert find_git_state(repository / "sub") == {"commit": head, "changed": False}
    with (repository / "recipe.yaml").open("a") as stream:
        stream.write("# more\n")
    assert find_git_state(repository) == {"commit": head, "changed": True}
    git(repository, "add", "recipe.yaml")
    assert find_git_state(repository) == {"commit": head, "changed": True}  # in the index, and in no commit


def test_a_commit_is_found_where_refs_are_packed_detached_or_of_a_linked_work_tree(repository, tmp_path_factory):
    head = git(repository, "rev-parse", "HEAD")
    git(repository, "pack-refs", "--all")
    assert find_git_state(repository) == {"commit": head, "changed": False}
    linked = tmp_path_factory.mktemp("elsewhere") / "linked"
    git(repository, "worktree", "add", "-q", "-b", "other", str(linked))
    assert find_git_state(linked) == {"commit": head, "changed": False}
    git(repository, "checkout", "-q", "--detach")
    assert find_git_state(repository) == {"commit": head, "changed": False}


def test_without_git_the_commit_is_known_and_the_changes_are_not(repository, monkeypatch):
    head = git(repository, "rev-parse", "HEAD")
    monkeypatch.setenv("PATH", str(repository))
    assert find_git_state(repository) == {"commit": head, "changed": None}
