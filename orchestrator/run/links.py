"""Refuses a run folder whose own files are links: what a run writes stays in its folder."""

from __future__ import annotations

from orchestrator.errors import RunFolderError, Where
from orchestrator.machine.rundir import RunDir
from orchestrator.recipe.plan import Plan


def refuse_links(plan: Plan, run_dir: RunDir) -> None:
    """Raise RunFolderError where a folder that Orch writes into, or a log that it adds to, is a link.

    Files that are replaced by rename may be links: the link is replaced, never followed.
    """
    paths = [run_dir.root / name for name in ("stages", "files")] + [run_dir.data, run_dir.events_jsonl]
    for stage in plan.stages:
        folder = run_dir.stage(stage.name)
        paths += [folder.root, folder.stdout_log, folder.stderr_log, folder.stacks_txt]
    for path in paths:
        if path.is_symlink():
            name = path.relative_to(run_dir.root)
            raise RunFolderError(
                f"{name} is a link to {path.readlink()}: a run writes into its own folder only",
                hint="remove the link, or put in its place what it leads to",
                where=Where(str(path)),
            )
