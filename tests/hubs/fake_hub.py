"""A hub on this machine that speaks what huggingface_hub and modelscope_hub ask, over one set of repositories.

Hugging Face: https://huggingface.co/docs/hub/api, the git-lfs batch API with basic transfers, and the headers of
file_download.py. ModelScope: the routes of modelscope_hub/_legacy_api.py and _openapi.py. No Xet, no multipart.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

WRITE, READ = "hf_" + "w" * 34, "hf_" + "r" * 34
BRANCH = {"hf": "main", "ms": "master"}


@dataclass
class Repo:
    """A repository: every commit's files by path, and which commit a branch or tag is."""

    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, ref: str, files: dict[str, bytes]) -> str:
        before = self.commits.get(self.refs.get(ref, ""), {})
        sha = hashlib.sha1(f"{len(self.commits)}{sorted(files)}{ref}".encode()).hexdigest()  # noqa: S324
        self.commits[sha] = {**before, **files}
        self.refs[ref] = sha
        return sha

    def find(self, revision: str) -> str | None:
        return self.refs.get(revision, revision if revision in self.commits else None)


@dataclass
class FakeHub:
    """What the hub holds, what it was asked (`log`), and what it is to refuse (`faults`: part of a path → status)."""

    repos: dict[str, Repo] = field(default_factory=dict)
    stored: dict[str, bytes] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    faults: dict[str, int] = field(default_factory=dict)
    hold: Callable[[str], bool] = lambda _line: False
    held: threading.Event = field(default_factory=threading.Event)
    address: str = ""

    def add(self, name: str, files: dict[str, bytes], *, kind: str = "model", private: bool = False) -> str:
        """Make a repository of one commit on both hubs' default branches; return the commit."""
        repo = self.repos.setdefault(f"{kind}s/{name}", Repo(private))
        sha = repo.commit("main", files)
        repo.refs["master"] = sha
        return sha

    def count(self, part: str) -> int:
        return sum(part in line for line in self.log)


class RefusedError(Exception):
    def __init__(self, status: int, code: str = "", message: str = "refused") -> None:
        super().__init__(message)
        self.status, self.code = status, code


def _blob(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()  # noqa: S324


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _is_large(path: str, content_size: int) -> bool:
    return path.endswith(".safetensors") or content_size > 1 << 20


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def log_message(self, *words: object) -> None:
        pass

    def answer(self) -> None:
        parts = urlsplit(self.path)
        self.route, self.query = unquote(parts.path), {key: one[0] for key, one in parse_qs(parts.query).items()}
        self.body = self._read()
        line = f"{self.command} {self.route}"
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        self.hub.log.append(line)
        if token:
            self.hub.tokens.add(token)
        self.token = token
        try:
            self.require_allowed(line)
            said = self.modelscope() or self.hugging_face()
            self.say(*(said or (404, {"error": "no such route"})))
        except RefusedError as error:
            text = {"error": str(error), "Message": str(error), "Code": error.status, "Success": False}
            if error.status == 409 and self.route.endswith(
                "/repos/create"
            ):  # the client reads the address of what is there
                text["url"] = f"{self.hub.address}/{self.json.get('organization')}/{self.json.get('name')}"
            self.say(error.status, text, {"X-Error-Code": error.code} if error.code else {})
        except BrokenPipeError:  # the client was killed
            self.close_connection = True

    def require_allowed(self, line: str) -> None:
        for part, status in self.hub.faults.items():
            if part in line:
                raise RefusedError(status)
        if self.token not in {"", WRITE, READ}:
            raise RefusedError(401, message="Invalid credentials")
        if self.hub.hold(line):
            self.hub.held.set()
            threading.Event().wait(20)

    do_GET = do_HEAD = do_POST = do_PUT = answer  # noqa: N815

    def _read(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            found = b""
            while size := int(self.rfile.readline(), 16):
                found += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return found
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def say(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def require_writer(self) -> None:
        if self.token != WRITE:
            raise RefusedError(403 if self.token else 401, message="a token with write rights is needed")

    def find(self, kind: str, name: str, revision: str | None = None) -> tuple[Repo, str]:
        repo = self.hub.repos.get(f"{kind}/{name}")
        if repo is None or (repo.private and not self.token):
            raise RefusedError(404, "RepoNotFound", "Repository not found")
        sha = repo.find(revision) if revision else next(iter(repo.refs.values()))
        if sha is None:
            raise RefusedError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        return repo, sha

    # The routes of Hugging Face.

    def hugging_face(self) -> tuple[Any, ...] | None:
        words = self.route.strip("/").split("/")
        if self.route == "/api/repos/create":
            return self.create(f"{self.json['organization']}/{self.json['name']}", self.json.get("visibility"))
        if self.route == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if words[0] == "lfs":
            return self.store(words[1])
        if self.route.endswith(".git/info/lfs/objects/batch"):
            return self.batch(lambda objects: {"transfer": "basic", "objects": objects}, keeps=True)
        if words[0] == "api" and words[1] in {"models", "datasets"} and len(words) > 3:
            return self.api(words[1], f"{words[2]}/{words[3]}", words[4:])
        kind = words.pop(0) if words[0] == "datasets" else "models"
        if len(words) > 4 and words[2] == "resolve":
            repo, sha = self.find(kind, f"{words[0]}/{words[1]}", words[3])
            return self.file(repo.commits[sha], "/".join(words[4:]), sha)
        return None

    def api(self, kind: str, name: str, rest: list[str]) -> tuple[Any, ...] | None:
        if not rest or rest[0] == "revision":
            repo, sha = self.find(kind, name, rest[1] if rest else None)
            rows = [
                {"rfilename": path, "size": len(content), "blobId": _blob(content)}
                for path, content in repo.commits[sha].items()
            ]
            row = {"id": name, "sha": sha, "private": repo.private, "siblings": rows, "tags": [], "gated": False}
            return 200, row | {"disabled": False, "downloads": 0, "likes": 0}
        if rest[0] in {"tree", "paths-info"}:
            repo, sha = self.find(kind, name, rest[1])
            rows = [self.describe(path, content) for path, content in repo.commits[sha].items()]
            if rest[0] == "paths-info":
                asked = self.json["paths"] if self.body.startswith(b"{") else parse_qs(self.body.decode())["paths"]
                rows = [row for row in rows if row["path"] in asked]
            return 200, rows
        if rest[0] == "refs":
            repo, sha = self.find(kind, name)
            rows = [{"name": ref, "ref": f"refs/heads/{ref}", "targetCommit": at} for ref, at in repo.refs.items()]
            return 200, {"branches": rows, "tags": [], "converts": []}
        self.require_writer()
        if rest[0] == "branch":
            repo, sha = self.find(kind, name)
            if rest[1] in repo.refs:
                raise RefusedError(409, message="Reference already exists")
            repo.refs[rest[1]] = sha
            return 200, {}
        if rest[0] == "preupload":
            repo, sha = self.find(kind, name, rest[1])
            there = repo.commits[sha]
            return 200, {"files": [self.plan_upload(row, there) for row in self.json["files"]]}
        if rest[0] == "commit":
            return self.commit_hugging_face(kind, name, rest[1])
        return None

    def plan_upload(self, row: dict[str, Any], there: dict[str, bytes]) -> dict[str, Any]:
        mode = "lfs" if _is_large(row["path"], row["size"]) else "regular"
        found = {"path": row["path"], "uploadMode": mode, "shouldIgnore": False}
        if (content := there.get(row["path"])) is not None:
            found["oid"] = _sha256(content) if mode == "lfs" else _blob(content)
        return found

    def describe(self, path: str, content: bytes) -> dict[str, Any]:
        row: dict[str, Any] = {"type": "file", "path": path, "size": len(content), "oid": _blob(content)}
        if _is_large(path, len(content)):
            row["lfs"] = {"oid": _sha256(content), "size": len(content), "pointerSize": 130}
        return row

    def commit_hugging_face(self, kind: str, name: str, ref: str) -> tuple[Any, ...]:
        files = {}
        for line in self.body.splitlines():
            row = json.loads(line)
            value = row["value"]
            if row["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif row["key"] == "lfsFile":
                files[value["path"]] = self.require_stored(value["oid"])
        repo, _ = self.find(kind, name, ref)
        sha = repo.commit(ref, files)
        return 200, {"commitUrl": f"{self.hub.address}/{name}/commit/{sha}", "commitOid": sha, "hookOutput": ""}

    def file(self, files: dict[str, bytes], path: str, sha: str) -> tuple[Any, ...]:
        if path not in files:
            raise RefusedError(404, "EntryNotFound", "Entry not found")
        content = files[path]
        etag = _sha256(content) if _is_large(path, len(content)) else _blob(content)
        return 200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": sha, "X-Linked-Size": str(len(content))}

    # What both have.

    def create(self, name: str, visibility: Any) -> tuple[Any, ...]:
        self.require_writer()
        if f"models/{name}" in self.hub.repos:
            raise RefusedError(409, message="You already created this model repo")
        self.hub.add(name, {".gitattributes": b"*.safetensors filter=lfs\n"}, private=visibility in {"private", 1})
        return 200, {"url": f"{self.hub.address}/{name}", "name": name, "id": name, "Data": {"Name": name}}

    def batch(self, wrap: Callable[[list[Any]], Any], *, keeps: bool) -> tuple[Any, ...]:
        self.require_writer()
        rows = []
        for row in self.json["objects"]:
            has = row["oid"] in self.hub.stored
            upload = {"actions": {"upload": {"href": f"{self.hub.address}/lfs/{row['oid']}", "header": {}}}}
            rows += [row | ({} if has else upload)] if keeps or not has else []
        return 200, wrap(rows)

    def store(self, oid: str) -> tuple[Any, ...]:
        if _sha256(self.body) != oid:
            raise RefusedError(422, message="the content has another hash")
        self.hub.stored[oid] = self.body
        return 200, {}

    def require_stored(self, oid: str) -> bytes:
        if oid not in self.hub.stored:
            raise RefusedError(400, message=f"LFS object {oid} was never uploaded")
        return self.hub.stored[oid]

    # The routes of ModelScope.

    def modelscope(self) -> tuple[Any, ...] | None:  # noqa: PLR0911  a route each
        words = self.route.strip("/").split("/")
        if words[:2] == ["openapi", "v1"]:
            repo, _ = self.find(words[2], f"{words[3]}/{words[4]}")
            return 200, {"success": True, "data": {"visibility": "private" if repo.private else "public"}}
        if words[:2] != ["api", "v1"]:
            return None
        words = words[2:]
        if words == ["models"]:
            return self.create(f"{self.json['Path']}/{self.json['Name']}", self.json["Visibility"])
        if words[0] == "repos":
            self.require_writer()
            if words[4:] == ["info", "lfs", "objects", "batch"]:
                return self.batch(lambda objects: {"Code": 200, "Data": {"objects": objects}}, keeps=False)
            return self.commit_modelscope(words[1], f"{words[2]}/{words[3]}", words[5])
        kind, name, rest = words[0], f"{words[1]}/{words[2]}", words[3:]
        if not rest:
            self.find(kind, name)
            return 200, {"Code": 200, "Data": {"Name": name}}
        if rest == ["revisions"]:
            repo, _ = self.find(kind, name)
            rows = [{"Revision": ref} for ref in repo.refs]
            return 200, {"Code": 200, "Data": {"RevisionMap": {"Branches": rows, "Tags": []}}}
        repo, sha = self.find(kind, name, self.query.get("Revision") or "master")
        if rest in (["repo", "files"], ["repo", "tree"]):
            rows = [
                {"Path": path, "Name": path, "Type": "blob", "Size": len(content), "Sha256": _sha256(content),
                 "Revision": sha, "CommittedDate": 1_700_000_000}
                for path, content in repo.commits[sha].items()
            ]  # fmt: skip
            return 200, {"Code": 200, "Data": {"Files": rows}}
        return self.file(repo.commits[sha], self.query["FilePath"], sha)

    def commit_modelscope(self, kind: str, name: str, ref: str) -> tuple[Any, ...]:
        files = {}
        for row in self.json["actions"]:
            content = self.require_stored(row["sha256"]) if row["type"] == "lfs" else base64.b64decode(row["content"])
            files[row["path"]] = content
        repo, _ = self.find(kind, name, ref)
        return 200, {"Code": 200, "Success": True, "Data": {"oid": repo.commit(ref, files)}}


@contextmanager
def serving() -> Iterator[FakeHub]:
    """Run such a hub on a free port of this machine."""
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield hub
    server.shutdown()
    server.server_close()
