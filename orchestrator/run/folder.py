"""A run folder as a whole: written fresh, found by name, read as a plan, and whose it is.

A plan.json says which programs run, with which environment. So its maker seals it with a key that only they have; the
seal travels with a copy of the folder, and all machines that share the user's home share the key.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import RunFolderError, Where
from orchestrator.machine.files import find_text, hash_path, open_fresh, try_lock, write_json, write_text
from orchestrator.machine.hardware import Hardware
from orchestrator.machine.json_files import build_record, load_object, read_text
from orchestrator.machine.places import find_orch_config
from orchestrator.machine.rundir import RunDir
from orchestrator.recipe.plan import Plan, plan_from_json
from orchestrator.run.provenance import Asked, build_provenance

_WRITTEN_ANEW = frozenset({"report.json", "metrics.json"})  # outputs of a stage that takes seconds
_LONGEST = 500  # characters of a message: a file may hold megabytes where a word should be


def create_run(plan: Plan, asked: Asked, hardware: Hardware, *, trust_run: bool = False) -> RunDir:
    """Write everything that is known before the run starts.

    A folder that holds the same plan is taken up again, where this user made it or trusts it (`trust_run`). Raises
    RunFolderError when it holds anything else.
    """
    run = RunDir(Path(plan.run_dir))
    if run.plan_json.exists():
        if load_plan(run).digest() != plan.digest():
            hint = f"continue that run with: orch resume {run.root}\nor start this one in a fresh folder (without -o)"
            raise RunFolderError(f"{run.root} holds a run of another recipe, machine or Orch version", hint=hint)
        load_own_plan(run, trust_run=trust_run)  # its finished stages would count as ours
        if trust_run:
            adopt_run(run)
        return run
    text = asked.recipe.read_text(encoding="utf-8-sig")
    return write_run(plan, text, build_provenance(plan, hardware, asked))


def write_run(plan: Plan, recipe_text: str, provenance: dict[str, Any]) -> RunDir:
    """Write a fresh run folder, the plan last. Raises RunFolderError when it is not empty or cannot be written."""
    from orchestrator.backends.render import render_files

    run = RunDir(Path(plan.run_dir))
    if run.root.exists() and not run.root.is_dir():
        raise RunFolderError(f"{run.root} is a file", hint="name a fresh folder with -o")
    try:
        with _claimed(run):
            for file in render_files(plan):
                if file.path != run.plan_json.name:
                    write_text(run.root / file.path, file.text)
            write_text(run.recipe_yaml, recipe_text)
            write_json(run.provenance_json, provenance)
            seal(run, plan.to_json())
            write_text(run.plan_json, plan.to_json())  # last: with it the folder is a run
    except OSError as error:
        raise RunFolderError(
            f"{run.root} cannot be written: {error.strerror}", hint="choose a folder with -o"
        ) from error
    return run


@contextmanager
def _claimed(run: RunDir) -> Iterator[None]:
    """Have an empty folder for oneself: of several who want it at one moment one gets it.

    The lock is that of the supervisor, so that nobody writes into a run that has begun; it is gone afterwards. Raises
    RunFolderError where the folder is another's, OSError where it cannot be written.
    """
    fresh = RunFolderError(f"{run.root} is not empty", hint="name a fresh folder: two runs never share one")
    run.root.mkdir(parents=True, exist_ok=True)
    own = {run.lock, run.job}  # an engine's job is there before its run
    if not own.issuperset(run.root.iterdir()):
        raise fresh
    descriptor = os.open(run.lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    try:
        with suppress(OSError):  # a file system without locks
            if not try_lock(descriptor):
                message = f"{run.root} is being written by another orch"
                raise RunFolderError(message, hint="name a fresh folder: two runs never share one")
        # whoever had it before has filled it, and taken the file away that we have locked
        if not own.issuperset(run.root.iterdir()):
            raise fresh
        yield
        run.lock.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def load_plan(run: RunDir) -> Plan:
    """Return the plan of a run folder, to be read. Raises RunFolderError when there is none that can be read."""
    return load_plan_text(run)[0]


def load_own_plan(run: RunDir, *, trust_run: bool) -> Plan:
    """Return the plan of a run folder, to be executed: one that this user has made, or says to trust.

    Raises RunFolderError for any other, and when there is none that can be read.
    """
    plan, text = load_plan_text(run)
    if trust_run or is_own(run, text):
        return plan
    raise RunFolderError(
        f"{run.root} was not made by you, or its plan.json was changed since: its programs would run with your rights",
        hint=f"read its plan.json, then say --trust-run; what it has made can be used by itself: {run.model}",
        where=Where(str(run.plan_json)),
    )


def require_same_recipe(run: RunDir, recipe: Path, overrides: tuple[str, ...], *, smoke: bool) -> None:
    """Raise RunFolderError where a run was not made of this recipe, as it is asked for; one that is gone may be any."""
    asked = {"smoke": smoke, "set": list(overrides)}
    with understood(run.provenance_json):
        made = load_run_object(run.provenance_json)
        same = not recipe.exists() or made["recipe_sha256"] == hash_path(recipe)
        if same and asked == {key: made["asked"][key] for key in asked}:
            return
    hint = "give the recipe, --set and --smoke that the run was made with, or name a fresh folder with -o"
    raise RunFolderError(f"{run.root} holds a run of another recipe, or of one that has changed since", hint=hint)


def is_own_run(run: RunDir) -> bool:
    """Tell whether this user made a run. Raises RunFolderError when it has no plan that can be read."""
    return is_own(run, load_plan_text(run)[1])


def adopt_run(run: RunDir) -> None:
    """Make a run that the user trusts one of their own. Raises RunFolderError when it cannot be read or written."""
    try:
        seal(run, load_plan_text(run)[1])
    except OSError as error:
        message = f"{run.root} cannot be written: {error.strerror}"
        raise RunFolderError(message, hint="make the folder writable for this user") from error


def load_plan_text(run: RunDir) -> tuple[Plan, str]:
    """Return the plan of a run folder, and its text. Raises RunFolderError as `load_plan` does."""
    try:
        text = read_text(run.plan_json)
        return plan_from_json(text), text
    except FileNotFoundError:
        message = f"{run.root} is not a run folder: it has no plan.json"
        raise RunFolderError(message, hint="list runs with: orch ls") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        said = f"it has no {error}" if isinstance(error, KeyError) else getattr(error, "strerror", None) or error
        hint = "start a new run of the recipe"
        raise RunFolderError(f"plan.json cannot be read: {said}", hint=hint, where=Where(str(run.plan_json))) from None


def load_run_object(path: Path) -> dict[str, Any]:
    """Return the object of a file of a run folder. Raises RunFolderError where it cannot be used."""
    try:
        return load_object(path)
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from None


@contextmanager
def understood(path: Path) -> Iterator[None]:
    """Work in this block with what a file of a run folder said. Raises RunFolderError where it says something else.

    The file is JSON, but it lacks what it should hold, or holds another type: somebody has changed it, or another
    version of Orch has written it.
    """
    try:
        yield
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> RunFolderError:
    said = str(error) if isinstance(error, ValueError) else getattr(error, "strerror", None) or repr(error)
    message = f"{path.name} is damaged, or another version of Orch wrote it: {said}"
    hint = "bring it back from a copy, or start a new run of the recipe"
    if path.name in _WRITTEN_ANEW:
        hint = f"remove it, and it is written anew: orch resume {path.parent}"
    return RunFolderError(message[:_LONGEST], hint=hint, where=Where(str(path)))


def is_run(run: RunDir) -> bool:
    """Tell whether a folder holds a run, or the job of one that has not begun."""
    with suppress(OSError):  # a folder that this user may not look into
        return run.plan_json.exists() or run.job_ids.exists()
    return False


def _made_at(folder: Path) -> float:
    with suppress(OSError):
        return folder.stat().st_mtime
    return 0.0


@dataclass(frozen=True)
class Tag:
    """A name for a run whose model is packaged: `run` is its path from the folder of runs, `package` its hash.

    It is a file of its own in RUNS/tags: to move it is one rename.
    """

    run: str
    package: str
    since: float


_TAG_NAME = re.compile(r"(?!last$)[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def find_tag_file(name: str, root: Path) -> Path:
    """Return where the tag of that name lies, whether there is one or not. Raises RunFolderError for no such name."""
    if not _TAG_NAME.fullmatch(name):
        hint = "letters, digits, . _ and -, at most 64, a letter or digit first; `last` is the newest run"
        raise RunFolderError(f"{name!r} cannot be a tag", hint=hint)
    return root / "tags" / f"{name}.json"


def load_tag(path: Path) -> Tag:
    """Return the tag of a file. Raises RunFolderError where it is damaged."""
    with understood(path):
        return build_record(Tag, load_run_object(path))


def list_tags(root: Path) -> dict[str, RunDir]:
    """Return the run of each tag by its name; a damaged one is left out."""
    found = {}
    for path in sorted((root / "tags").glob("*.json")):
        with suppress(RunFolderError):
            found[path.stem] = RunDir((root / load_tag(path).run).resolve())
    return found


def find_run(name: str, root: Path) -> RunDir:
    """Return the run that `name` means: a folder, a name (or its beginning) or path under `root`, a tag, or `last`.

    Raises RunFolderError when it means none, or several.
    """
    for folder in (Path(name), root / name) if "/" in name else (Path(name),):  # GRID/trials/003 is below the runs
        if folder.is_dir() and is_run(RunDir(folder)):
            return RunDir(folder.resolve())
    runs = sorted((path for path in root.glob("*") if is_run(RunDir(path))), key=_made_at)
    if name == "last" and runs:
        return RunDir(runs[-1].resolve())
    found = [path for path in runs if path.name == name]
    if not found and _TAG_NAME.fullmatch(name) and (path := find_tag_file(name, root)).is_file():
        tagged = RunDir((root / load_tag(path).run).resolve())
        if is_run(tagged):
            return tagged
        raise RunFolderError(f"the run of the tag {name} is gone: {tagged.root}", hint=f"move it: orch tag RUN {name}")
    found = found or [path for path in runs if path.name.startswith(name)]
    if len(found) == 1:
        return RunDir(found[0].resolve())
    if found:
        raise RunFolderError(
            f"{name} means {len(found)} runs", hint="one of: " + ", ".join(path.name for path in found)
        )
    raise RunFolderError(f"no run {name!r} in {root}", hint="list runs with: orch ls")


_PURPOSE = b"orch plan.json\0"
_KEY = re.compile(r"[0-9a-f]{64}")
_SEAL_CHARS = 64


def seal(run: RunDir, plan_text: str) -> None:
    """Put this user's seal into a run folder, for the plan whose text is given.

    A user who can keep no key has runs without a seal. Raises OSError when the folder cannot be written.
    """
    if (key := _load_key() or _make_key()) is not None:
        write_text(run.seal, _sign(key, plan_text) + "\n")


def is_own(run: RunDir, plan_text: str) -> bool:
    """Tell whether this user has made the run whose plan.json has this text."""
    key = _load_key()
    found = find_text(run.seal, most_bytes=_SEAL_CHARS, encoding="ascii")
    return key is not None and found is not None and hmac.compare_digest(found, _sign(key, plan_text))


def find_key() -> Path:
    """Return where this user's key lies, whether there is one or not."""
    return find_orch_config() / "key"


def _sign(key: str, text: str) -> str:
    return hmac.new(bytes.fromhex(key), _PURPOSE + text.encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()


def _load_key() -> str | None:
    found = find_text(find_key(), most_bytes=_SEAL_CHARS, encoding="ascii")
    return found if found and _KEY.fullmatch(found) else None


def _make_key() -> str | None:
    """Make the key, readable for its user alone; of several that are made at one moment the first stands.

    Returns None where it cannot be kept.
    """
    path = find_key()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # what lies there and is no key is replaced; a key that another process has just made stands
        with suppress(FileExistsError), open_fresh(path, replace=path.exists() and _load_key() is None) as stream:
            os.fchmod(stream.fileno(), 0o600)
            stream.write(secrets.token_hex(32).encode() + b"\n")
    except OSError:
        return None
    return _load_key()


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
