"""The worker's door to hubs: fetch a model or a split of a data set, push a packaged model, and say why a hub refuses.

All is done by the hubs' own clients, huggingface_hub and modelscope_hub, which read mirrors and tokens from the
environment: HF_ENDPOINT and HF_TOKEN, MODELSCOPE_ENDPOINT (MODELSCOPE_DOMAIN) and MODELSCOPE_API_TOKEN.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import datetime as dt
import importlib
import json
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.workers.environment import Progress, may_load_pickles
from orchestrator.workers.failure import WorkerError, first_line
from orchestrator.workers.folders import open_fresh, replace_link, write_json
from orchestrator.workers.weights import hash_file

HUBS: dict[str, dict[str, Any]] = json.loads(Path(__file__).with_name("hubs.json").read_text(encoding="utf-8"))
HUB_TIMEOUT_S = 10.0  # for the one question that is asked before anything is loaded
BATCH_ROWS = 1000
MEDIA = ("Audio", "Image", "Nifti", "Pdf", "Video")  # features of the datasets library that hold no text
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")
ORIGIN = "origin.json"  # beside a fetched model: where it is from
# What a model is loaded from; the same weights in other formats, of which some hubs hold ten times as much, stay there.
MODEL_FILES = ["*.json", "*.txt", "*.model", "*.safetensors", "*.py", "*.jinja", "*.tiktoken"]
OTHER_FORMATS = ["onnx/*", "openvino/*", "original/*", "consolidated*"]
PICKLES = ["*.bin", "*.pt", "*.pth"]
WEIGHTS = re.compile(
    r"(?:[^/]*\.safetensors(?:\.index\.json)?|(?:pytorch_)?(?:model|adapter)[^/]*\.bin(?:\.index\.json)?)"
)
HINTS = (
    (r"(?=.*onfig).*(missing|not found)", " (in a recipe: owner/name/CONFIG:split)"),
    ("nknown split", " (in a recipe: owner/name:SPLIT; a subset is no split: owner/name/SUBSET:SPLIT)"),
    (
        "scripts are no longer supported",
        " (its loading code would have to run here: download its data and name the file in the recipe)",
    ),
)
# HTTP status → what a hub means by it, for who reads and for who writes; {token} is the variable, {revision} is asked.
REFUSALS: dict[int, str] = {
    400: "{hub} does not take the request ({said})",
    401: "{hub} wants another token (401): set {token} to one that is valid and may {do} it",
    403: "{hub} forbids it (403): set {token} to one that may {do} it, or ask for access on its page",
    404: "{hub} has no such {kind}; check its spelling, and set {token} if it is private (404)",
    409: "{hub} has another change of it under way (409): repeat the command, what has arrived is not sent again",
    413: "{hub} takes no file or repository of that size (413): ask there for more room, or push to another owner",
    429: "{hub} has had too many requests (429): wait, then repeat the command; what has arrived is not sent again",
}
BROKEN = "{hub} is out of order or busy at the moment ({status}): repeat the command later; what has arrived is kept"
NO_REVISION = "{hub} has no revision {revision} of it"
FAILED = "{hub}'s client fails: {said}"
NO_ANSWER = (
    "the hub {endpoint} cannot be reached ({said}): set {mirror} to a mirror that can be reached; or download the "
    "{kind} where the hub can be reached, and name the {what} in the recipe"
)


class HubError(WorkerError):
    """A hub refuses, or cannot be asked: the machine's or the user's matter, like a preflight's refusal."""

    exit_code = 4  # errors.PreflightError's


@dataclass(frozen=True)
class Repository:
    """A repository of a hub: `hub` is hf or ms, `kind` model or dataset, `revision` a branch, a tag or a commit."""

    hub: str
    id: str
    kind: str = "model"
    revision: str | None = None

    def __str__(self) -> str:
        """Return its name as a recipe writes it."""
        return ("ms://" if self.hub == "ms" else "") + self.id + (f"@{self.revision}" if self.revision else "")

    @property
    def endpoint(self) -> str:
        """The hub's address, or that of its mirror."""
        row = HUBS[self.hub]
        return next((found for name in row["endpoints"] if (found := os.environ.get(name))), str(row["endpoint"]))


def is_offline() -> bool:
    """Whether the user has forbidden hub calls; the libraries then use what an earlier fetch left in their cache."""
    return any(os.environ.get(name, "").upper() in {"1", "ON", "YES", "TRUE"} for name in OFFLINE)


def explain(where: Repository, error: Exception, do: str = "read") -> str:
    """Return what an error of a hub's client means for its user, in one line. The clients' errors chain up."""
    chain: list[BaseException] = [error]
    link: BaseException = error
    while (following := link.__cause__ or link.__context__) is not None and following not in chain:
        chain.append(link := following)
    row, names = HUBS[where.hub], {type(one).__name__ for one in chain}
    status = next((found for one in chain if (found := _find_status(one)) is not None), None)
    if "HFValidationError" in names or ("InvalidParameter" in names and status is None):
        return f"{where.id}: this is no folder and no name of a {_say_kind(where)}: {first_line(error)}"
    if status is None:
        text = NO_ANSWER if any(isinstance(one, OSError) for one in chain) else FAILED
    elif "RevisionNotFoundError" in names or (status == 404 and where.revision and _exists(where)):  # noqa: PLR2004
        text = NO_REVISION
    elif "GatedRepoError" in names:
        text = "it is gated at {hub}: accept its conditions on its page, then set {token} ({status})"
    else:
        text = REFUSALS.get(status, BROKEN if status >= 500 else REFUSALS[400])  # noqa: PLR2004
    said = text.format(
        hub=row["name"], endpoint=where.endpoint, mirror=row["endpoints"][0], token=row["tokens"][0], status=status,
        revision=where.revision, do=do, said=first_line(error), kind=_say_kind(where),
        what="folder" if where.kind == "model" else ".jsonl, .csv or .parquet file",
    )  # fmt: skip
    return f"{where}: {said}"


@contextlib.contextmanager
def refusals(where: Repository, kind: type[WorkerError] = WorkerError, do: str = "read") -> Iterator[None]:
    """Turn every error of a client inside the block into one of that kind, of one line."""
    try:
        yield
    except WorkerError:
        raise
    except Exception as error:  # the clients' errors, which change between versions
        what = "folder" if where.kind == "model" else "file"
        offline = (
            f"{where}: it is not in the cache, and the environment forbids to ask the hub (HF_HUB_OFFLINE): "
            f"fetch it once without that, or name a {what} in the recipe"
        )
        raise kind(offline if is_offline() else explain(where, error, do)) from error


def _say_kind(where: Repository) -> str:
    return "data set" if where.kind == "dataset" else "model"


def _find_status(error: BaseException) -> int | None:
    """Return the HTTP status of a client's error; None where no hub has answered."""
    response = getattr(error, "response", None)
    status = getattr(error, "status_code", None) or getattr(response, "status_code", None)
    return status if isinstance(status, int) and status >= 400 else None  # noqa: PLR2004


def _exists(where: Repository) -> bool:
    """Tell whether the repository is there at all: a hub says 404 of a revision too."""
    try:
        if where.hub == "ms":
            return bool(_modelscope(where).repo_exists(where.id, where.kind))
        from huggingface_hub import HfApi

        return HfApi().repo_exists(where.id, repo_type=where.kind)
    except Exception:  # noqa: BLE001  the first error is the one that is told
        return False


def _modelscope(where: Repository) -> Any:
    """Return ModelScope's client. Raises HubError where it is not installed."""
    try:
        client = importlib.import_module("modelscope_hub")
    except ImportError as error:
        raise HubError(
            f"{where}: ModelScope's client is not installed for {sys.executable}: "
            f"{sys.executable} -m pip install modelscope-hub"
        ) from error
    os.environ.setdefault("MODELSCOPE_LOG_LEVEL", "40")  # errors
    return client.HubApi()


def look(where: Repository) -> tuple[str | None, list[str]]:
    """Ask the hub once for a revision: its commit and the names of its files. Raises what its client raises.

    ModelScope names the commit that changed each file last; the newest of them is the revision's.
    """
    if where.hub == "ms":
        client = _modelscope(where)
        rows = client.legacy.list_repo_files(where.id, where.kind, where.revision or HUBS["ms"]["branch"])
        files = [row for row in rows if (row.get("Type") or "blob") != "tree"]
        newest: dict[str, Any] = max(files, key=lambda row: row.get("CommittedDate") or 0, default={})
        return newest.get("Revision") or None, [row["Path"] for row in files]
    from huggingface_hub import HfApi

    found: Any = HfApi().repo_info(where.id, repo_type=where.kind, revision=where.revision, timeout=HUB_TIMEOUT_S)
    return found.sha, [file.rfilename for file in found.siblings or ()]


def download(where: Repository, allow: list[str] | None = None) -> Path:
    """Return the folder of a revision in the hub's own cache, whole. Raises what its client raises."""
    options: dict[str, Any] = {
        "revision": where.revision, "allow_patterns": allow, "ignore_patterns": OTHER_FORMATS if allow else None,
        "local_files_only": is_offline(),
    }  # fmt: skip
    if where.hub == "ms":
        return Path(_modelscope(where).download_repo(where.id, where.kind, **options))
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(where.id, repo_type=where.kind, **options))


def fetch_model(where: Repository, out: Path) -> None:
    """Download a model, point `out` to it and write origin.json beside: hub, id, revision, commit, files and bytes.

    Raises WorkerError for what the hub refuses, and for a model whose weights are pickles which nobody has allowed.
    """
    patterns = [*MODEL_FILES, *(PICKLES if may_load_pickles() else [])]
    with refusals(where):
        commit, files = (None, None) if is_offline() else look(where)
        if files is not None and not may_load_pickles() and not any(name.endswith(".safetensors") for name in files):
            raise WorkerError(
                f"{where}: it holds no safetensors, and loading a pickle runs code that it brings along: take a model "
                "with safetensors, or say allow_pickle: true of this one"
            )
        folder = download(where, patterns)
    commit = find_commit(folder) if files is None else commit
    sizes = [path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    out.parent.mkdir(parents=True, exist_ok=True)
    replace_link(out, str(folder.resolve()))
    origin = {"hub": where.hub, "id": where.id, "revision": where.revision, "commit": commit}
    write_json(out.parent / ORIGIN, {**origin, "files": len(sizes), "bytes": sum(sizes)})
    sys.stdout.write(f"{where}: {len(sizes)} files, {sum(sizes):,} bytes, commit {commit or 'unknown'}, in {folder}\n")


def find_commit(folder: Path) -> str | None:
    """Return the commit of a folder in Hugging Face's cache, which is called after it; None for any other."""
    return folder.name if re.fullmatch(r"[0-9a-f]{40}", folder.name) else None


def find_origin(model: str) -> dict[str, Any] | None:
    """Return where a model is from: {"hub", "id", "revision", "commit"}; None for a folder that nobody fetched."""
    path = Path(model)
    if path.exists():
        try:
            origin: dict[str, Any] = json.loads((path.parent / ORIGIN).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            # …/models--OWNER--NAME/snapshots/COMMIT, or ModelScope's …/OWNER--NAME/snapshots/REVISION
            place = path.resolve()
            found = re.fullmatch(r"(models--)?(.+?)--(.+)", place.parent.parent.name)
            if found is None or place.parent.name != "snapshots":
                return None
            hub, commit = "hf" if found[1] else "ms", find_commit(place)
            return {"hub": hub, "id": f"{found[2]}/{found[3]}", "revision": commit or place.name, "commit": commit}
        return {key: origin.get(key) for key in ("hub", "id", "revision", "commit")}
    try:
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(model, local_files_only=True))
    except (ImportError, OSError, ValueError):
        return None
    return {"hub": "hf", "id": model, "revision": None, "commit": find_commit(folder)}


def load_split(where: Repository, config: str | None, split: str) -> Any:
    """Return one split of a data set on a hub or in a folder, without its pictures and sounds. Raises WorkerError."""
    name, revision = where.id, where.revision
    if not Path(name).is_dir():
        with refusals(where):
            if not is_offline():  # once, for load_dataset asks six times before it gives up
                look(where)
            if where.hub == "ms":
                name, revision = str(download(where)), None
    import datasets

    datasets.disable_progress_bars()
    with refusals(where):
        try:
            rows = datasets.load_dataset(name, config, split=split, revision=revision)
        except ConnectionError:
            raise
        except Exception as error:
            hint = next((hint for pattern, hint in HINTS if re.search(pattern, str(error), re.DOTALL)), "")
            raise WorkerError(f"{where}: split {split} cannot be loaded: {first_line(error)}{hint}") from error
    media = [column for column, feature in rows.features.items() if type(feature).__name__ in MEDIA]
    if media:
        sys.stdout.write(f"left out, as they hold no text: {', '.join(media)}\n")
        rows = rows.remove_columns(media)
    return rows


def to_json(value: Any) -> Any:
    """Return a value as JSON has it; absent ones (None, NaN) leave their key out. Raises ValueError for other bytes."""
    if isinstance(value, dict):
        found = {key: to_json(part) for key, part in value.items()}
        return {key: part for key, part in found.items() if part is not None}
    if isinstance(value, list | tuple):
        return [to_json(part) for part in value]
    if isinstance(value, float):
        return None if math.isnan(value) else value
    if isinstance(value, bytes):
        return value.decode()
    return value.isoformat() if isinstance(value, dt.date | dt.time) else value


def write_rows(rows: Any, out: Path) -> None:
    """Write every row to `out`, which appears when it is complete. Raises WorkerError when a row is no JSON."""
    progress = Progress(len(rows))
    with open_fresh(out) as stream:
        for start in range(0, len(rows), BATCH_ROWS):
            batch = rows.select(range(start, min(start + BATCH_ROWS, len(rows)))).to_list()
            for number, row in enumerate(batch, start + 1):
                stream.write(format_row(row, number) + "\n")
            progress.advance(len(batch))


def format_row(row: dict[str, Any], number: int) -> str:
    """Return one line of JSON. Raises WorkerError, with the row's number, when a value is none."""
    try:
        return json.dumps(to_json(row), ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise WorkerError(f"row {number} holds a value that JSON has not: {first_line(error)}") from error


def fetch(argv: list[str]) -> int:
    """Fetch a model, or one split of one data set."""
    parser = argparse.ArgumentParser(prog="workers fetch", description=__doc__, allow_abbrev=False)
    parser.add_argument("--id", required=True, help="owner/name on the hub, or a folder that load_dataset reads")
    parser.add_argument("--hub", choices=list(HUBS), default="hf")
    parser.add_argument("--kind", choices=("model", "dataset"), default="dataset")
    parser.add_argument("--config", help="the data set's subset, where it has several")
    parser.add_argument("--split", default="train", help="of a data set")
    parser.add_argument("--revision", help="a branch, tag or commit; default: the newest")
    parser.add_argument("--out", type=Path, required=True, help="the .jsonl file to write, or the link to the model")
    options = parser.parse_args(argv)
    where = Repository(options.hub, options.id, options.kind, options.revision)
    if options.kind == "model":
        fetch_model(where, options.out)
        return 0
    rows = load_split(where, options.config, options.split)
    if not len(rows):
        raise WorkerError(f"{where}: split {options.split} has no rows")
    write_rows(rows, options.out)
    sys.stdout.write(f"{where}: {len(rows)} rows of split {options.split} in {options.out}\n")
    return 0


def push(argv: list[str]) -> int:
    """Send every file of a folder to a hub in one commit, and print {"commit", "url", "sent", "kept"} as JSON."""
    parser = argparse.ArgumentParser(prog="workers push", description=push.__doc__, allow_abbrev=False)
    parser.add_argument("--hub", choices=list(HUBS), required=True)
    parser.add_argument("--id", required=True, help="owner/name")
    parser.add_argument("--folder", type=Path, required=True, help="the files to send, and no other")
    parser.add_argument("--revision", help="a branch; default: the hub's own")
    parser.add_argument("--private", action="store_true", help="a new repository is private")
    parser.add_argument("--message", required=True, help="of the commit")
    options = parser.parse_args(argv)
    where = Repository(options.hub, options.id, "model", options.revision)
    if is_offline():
        raise HubError(f"{where}: the environment forbids to ask the hub: unset HF_HUB_OFFLINE, then push")
    files = sorted(path.relative_to(options.folder).as_posix() for path in options.folder.rglob("*") if path.is_file())
    send = _push_to_modelscope if where.hub == "ms" else _push_to_hugging_face
    with refusals(where, HubError, "write to"), contextlib.redirect_stdout(sys.stderr):
        commit = send(where, options.folder, files, options)
    url = f"{where.endpoint}/{'models/' if where.hub == 'ms' else ''}{where.id}"
    sys.stdout.write(json.dumps({"commit": commit, "url": url}) + "\n")
    return 0


def _push_to_hugging_face(where: Repository, folder: Path, files: list[str], options: argparse.Namespace) -> str:
    """Send the files by upload_folder: large ones first, each once, and then one commit of all."""
    from huggingface_hub import HfApi

    client = HfApi()
    client.create_repo(where.id, private=options.private or None, exist_ok=True)
    if where.revision:
        client.create_branch(where.id, branch=where.revision, exist_ok=True)
    refuse_others(where, look(where)[1], files, leaks=options.private and not client.repo_info(where.id).private)
    done = client.upload_folder(
        repo_id=where.id, folder_path=folder, revision=where.revision, commit_message=options.message
    )
    return str(done.oid)


def _push_to_modelscope(where: Repository, folder: Path, files: list[str], options: argparse.Namespace) -> str | None:
    """Send large files to the hub's storage, each once, and then one commit of all.

    The client's own upload_folder commits what has arrived where a file fails, which leaves half a model behind.
    """
    from modelscope_hub import constants

    client, branch = _modelscope(where), where.revision or HUBS["ms"]["branch"]
    if not client.repo_exists(where.id, "model"):
        client.create_repo(where.id, "model", visibility="private" if options.private else "public")
    branches = {row.get("Revision") for row in client.list_repo_revisions(where.id, "model")}
    if where.revision and where.revision not in branches:
        raise HubError(f"{where}: it has no branch {branch}, and ModelScope's client makes none: make it on its page")
    leaks = options.private and client.get_repo(where.id, "model").visibility not in {1, "private"}
    refuse_others(where, look(where)[1], files, leaks=leaks)
    actions: list[dict[str, Any]] = []
    for name in files:
        path, size = folder / name, (folder / name).stat().st_size
        large = size > constants.UPLOAD_LFS_FORCE_THRESHOLD_BYTES or path.suffix in constants.MODEL_LFS_SUFFIX
        if large and name != "README.md":
            held = {"type": "lfs", "sha256": hash_file(path), "content": "", "encoding": ""}
        else:
            content = base64.b64encode(path.read_bytes()).decode()
            held = {"type": "normal", "sha256": "", "content": content, "encoding": "base64"}
        actions.append({"action": "create", "path": name, "size": size, **held})
    wanted = [{"oid": action["sha256"], "size": action["size"]} for action in actions if action["type"] == "lfs"]
    missing = client.legacy.validate_blobs(where.id, "model", wanted)  # what it has, has no address
    for name, action in zip(files, actions, strict=True):
        if address := missing.pop(action["sha256"], None):
            with (folder / name).open("rb") as stream:
                client.legacy.upload_blob(address, stream, action["size"])
            sys.stderr.write(f"sent {name}\n")
    client.legacy.create_commit(where.id, "model", actions, options.message, branch)
    return look(where)[0]


def refuse_others(where: Repository, there: Iterable[str], files: list[str], *, leaks: bool) -> None:
    """Raise HubError where the repository has weights that would stay beside these, or is public and must not be."""
    if leaks:
        raise HubError(f"{where}: it is there, and public: make it private on its page, or leave --private out")
    if others := sorted(name for name in there if WEIGHTS.fullmatch(name) and name not in files):
        raise HubError(
            f"{where}: it holds other weights ({', '.join(others[:3])}), which would be loaded with these or before "
            "them: remove them on its page, or push to another repository"
        )
