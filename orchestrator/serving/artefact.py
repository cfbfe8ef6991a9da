"""A packaged model: the folder, what its scoring.json says, the Python that can load it, and its answers to rows.

A model that Orch did not package becomes one for as long as a server needs it.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from orchestrator.backends.scorers import FORMATS, SCORERS, find_use
from orchestrator.checks.model_loading import NamedModel, Permissions, find_loadable, require_loadable
from orchestrator.errors import DataError, PreflightError, RunFolderError, StageFailedError, Where
from orchestrator.machine.files import read_regular, write_json
from orchestrator.machine.json_files import MOST_BYTES, DamagedJsonError, load_json, parse_json
from orchestrator.machine.places import WORKERS
from orchestrator.recipe.plan import Command, Plan
from orchestrator.report.wording import list_cautions
from orchestrator.run.folder import find_run, is_own_run, load_own_plan
from orchestrator.serving.chosen_models import Reading, choose_model, find_model, require_chosen_load
from orchestrator.serving.worker import Words, run_worker

# scorer → what a client asks the server for
KINDS: dict[str, str] = {
    name: row["kind"] for name, row in SCORERS.items() if row["kind"] in {"reranker", "embedding", "chat"}
}
_GENERIC_NAMES = ("model", "output")
_TEXTS = ("tool", "model_type", "template", "task_type", "system", "dtype")
_SHOWN = 80  # characters
_FACTS = "orch-facts "  # workers/score.py writes them
# By what the model does: what a line of JSON Lines looks like, the keys of which it has one set, and what the worker's
# answer to it holds.
_SHAPES = {
    "reranker": '{"query": "…", "document": "…"}',
    "embedding": '{"query": "…"} or {"document": "…"}',
    "chat": '{"prompt": "…"} or {"messages": […]}',
}
_KEYS: dict[str, tuple[tuple[str, ...], ...]] = {
    "reranker": (("document", "query"),),
    "embedding": (("query",), ("document",)),
    "chat": (("prompt",), ("messages",)),
}
_ANSWERS = {
    "reranker": {"score"},
    "embedding": {"query", "document", "score"},
    "vectors": {"vector"},
    "chat": {"answer"},
}

CHAT = "chat"
AUTHORS = "auto"  # as its authors use it
SERVED_FORMATS = (AUTHORS, *FORMATS, CHAT)
_NEW_TOKENS = 32  # of an answer: what is compared, not what a server may give
_PREPARING = Words("the model cannot be prepared for a server", "the model was not prepared")


@dataclass(frozen=True)
class Artefact:
    """A packaged model: `spec` is its scoring.json; `python` runs the backend, and `workers` is Orch's folder there.

    `env` are the variables that its run's own stages get. `trusts_remote_code` says that its user lets the Python code
    run that the folder brings along: the folder itself is never asked.
    """

    folder: Path
    name: str
    spec: dict[str, Any]
    python: str
    workers: str = str(WORKERS)
    env: Mapping[str, str] = field(default_factory=dict)
    trusts_remote_code: bool = False

    @property
    def scorer(self) -> str:
        """How it is scored."""
        return str(self.spec["scorer"])

    @property
    def kind(self) -> str:
        """What it answers: embedding, reranker or chat."""
        return KINDS[self.scorer]

    @property
    def dtype(self) -> str:
        """The precision that it was measured in."""
        return str(self.spec.get("dtype") or "auto")


def find_artefact(
    name: str,
    runs: Path,
    python: str | None = None,
    *,
    trust_remote_code: bool = False,
    trust_run: bool = False,
    is_only_read: bool = False,
) -> Artefact:
    """Return the artefact that `name` means: a packaged folder, or a run (a folder, a name under `runs`, `last`).

    `trust_remote_code` is what the user says; the recipe of a run says it too. Raises RunFolderError when there is
    none, and for a run that somebody else made, unless the user trusts it (`trust_run`) or nothing of it is executed
    (`is_only_read`).
    """
    folder = Path(name)
    if (folder / "scoring.json").is_file():
        folder = folder.resolve()
        label = folder.parent.name if folder.name in _GENERIC_NAMES else folder.name
        found = load_artefact(folder, label or "model", python or sys.executable)
        return replace(found, trusts_remote_code=trust_remote_code)
    if folder.is_dir() and not (folder / "plan.json").exists():
        hint = "name a run, or the folder that its package stage wrote (RUN/model); orch serve takes any with --format"
        raise RunFolderError(f"{folder} is neither a run nor a packaged model: it has no scoring.json", hint=hint)
    run = find_run(name, runs)
    is_trusted = trust_run or is_own_run(run)
    plan = load_own_plan(run, trust_run=trust_run or is_only_read)
    package = plan.stage("package")
    if package is None:
        hint = "its recipe says merge: false; merge a checkpoint with: orch merge " + run.root.name
        raise RunFolderError(f"{run.root.name} packages no model", hint=hint)
    if not (run.model / "scoring.json").is_file():
        raise RunFolderError(f"{run.root.name} has no packaged model yet", hint=f"finish it: orch resume {run.root}")
    found = load_artefact(run.model, plan.name, python or package.command.argv[0])
    trusts = trust_remote_code or (is_trusted and says_of_model(plan, "trust_remote_code"))
    return replace(found, env=dict(package.command.env), trusts_remote_code=trusts)


def says_of_model(plan: Plan, key: str) -> bool:
    """Tell whether the plan's recipe says yes to a key of its model, such as trust_remote_code."""
    model = plan.recipe.get("model")
    return isinstance(model, dict) and model.get(key) is True


def load_artefact(folder: Path, name: str, python: str) -> Artefact:
    """Return a packaged folder as an artefact.

    Raises RunFolderError when its scoring.json names no known scorer, or cannot be read where the folder is a run's;
    PreflightError when that of another folder cannot be read.
    """
    path = folder / "scoring.json"
    hint = "package the model again"
    kind = RunFolderError if (folder.parent / "plan.json").is_file() else PreflightError
    try:
        spec = load_json(path, constants=True)
    except (OSError, ValueError, RecursionError) as error:
        raise kind(f"scoring.json cannot be read: {error}", hint=hint, where=Where(str(path))) from None
    scorer = spec.get("scorer") if isinstance(spec, dict) else None
    if not isinstance(scorer, str) or scorer not in KINDS:
        hint = f"known are {', '.join(KINDS)}"
        raise RunFolderError(f"a {scorer!r} model cannot be served", hint=hint, where=Where(str(path)))
    if key := _find_wrong_type(spec):
        said = f"scoring.json cannot be read: {key} is {str(spec[key])[:_SHOWN]!r}"
        raise kind(said, hint=hint, where=Where(str(path)))
    return Artefact(folder, name, spec, python)


def _find_wrong_type(spec: dict[str, Any]) -> str | None:
    """Return the first key that is to be a word of a server's command and is none."""
    if key := next((key for key in _TEXTS if not isinstance(spec.get(key), str | None)), None):
        return key
    arguments = spec.get("template_args") or {}
    is_plain = isinstance(arguments, dict) and not any(isinstance(value, list | dict) for value in arguments.values())
    return None if is_plain else "template_args"


def require_trusted_code(artefact: Artefact, *, is_run_anyway: bool) -> None:
    """Raise PreflightError for a folder that brings code along which nobody trusts.

    With `is_run_anyway` whatever code it brings would run, as in a server; else only what its scoring.json asks for.
    """
    if artefact.trusts_remote_code or not (is_run_anyway or artefact.spec.get("trust_remote_code")):
        return
    if found := find_remote_code(artefact.folder):
        raise PreflightError(
            f"{artefact.folder} brings Python code of its own ({found}), and only you can trust it",
            hint="read that code; then say --trust-remote-code",
        )


def require_artefact_loads(artefact: Artefact) -> None:
    """Raise PreflightError with everything that keeps a packaged model from being loaded in its Python.

    It is checked as a run checks its own models, before anything starts.
    """
    permissions = Permissions(allow="package its run again, which writes safetensors", trust="say --trust-remote-code")
    model = find_loadable(str(artefact.folder), trust_remote_code=artefact.trusts_remote_code)
    require_loadable([NamedModel(model, artefact.python, artefact.env, permissions, find_use(artefact.scorer))])


def find_remote_code(folder: Path) -> str | None:
    """Return what makes a server run code from the model's folder, or None: ms-swift always trusts such code."""
    if file := next(folder.rglob("*.py"), None):
        return str(file.relative_to(folder))
    for path in sorted(folder.rglob("*config.json")):
        try:
            config = load_json(path, constants=True)
        except (OSError, ValueError):
            if _mentions_code(path):  # transformers may read what is unfit for us
                return f"auto_map in {path.relative_to(folder)}"
            continue
        if isinstance(config, dict) and config.get("auto_map"):
            return f"auto_map in {path.relative_to(folder)}"
    return None


def _mentions_code(path: Path) -> bool:
    try:
        content = read_regular(path, most_bytes=MOST_BYTES)
        return b"auto_map" in content or len(content) == MOST_BYTES
    except OSError:
        return True


def read_rows(kind: str, lines: Iterable[str]) -> list[dict[str, Any]]:
    """Return the rows of JSON Lines from stdin for a kind of model. Raises DataError for another row, or for none."""
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except DamagedJsonError:
            row = None
        if not isinstance(row, dict) or not any(row.keys() >= set(keys) for keys in _KEYS[kind]):
            raise DataError("not such a row", hint=f"a line reads {_SHAPES[kind]}", where=Where("<stdin>", number))
        rows.append({key: row[key] for keys in _KEYS[kind] for key in keys if key in row})
    if not rows:
        raise DataError("no rows on stdin", hint=f"write lines such as {_SHAPES[kind]}, or give options")
    return rows


def ask_model(
    artefact: Artefact, rows: list[dict[str, Any]], *, vectors: bool, tell: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Return the model's answers; `tell` hears which texts were cut. Raises what `run_worker` does.

    A reranker gives {"query", "document", "score"} of each row, an embedding model the same of each query with each
    document, or with `vectors` {"vector", …} of each row, an LLM {"answer"}.
    """
    with tempfile.TemporaryDirectory(prefix="orch-predict-") as folder:
        asked = Path(folder, "rows.jsonl")
        asked.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        argv = [artefact.python, artefact.workers, "predict", "--model", str(artefact.folder), "--rows", str(asked)]
        argv += ["--vectors"] if vectors else []
        argv += ["--trust-remote-code"] if artefact.trusts_remote_code else []
        command = Command(tuple(argv), env=tuple(artefact.env.items()), cwd=str(Path.cwd()))
        said = run_worker(command, Words("the model cannot be asked", "the model was not asked to the end"))
    for line in said.splitlines():
        if line.startswith(_FACTS):
            for caution in list_cautions(parse_json(line.removeprefix(_FACTS))):
                tell(caution)
    answers = parse_answers(said, rows, "vectors" if vectors else artefact.kind)
    if artefact.kind == "reranker":
        return [{**row, **answer} for row, answer in zip(rows, answers, strict=True)]
    return answers


def parse_answers(text: str, rows: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """Return the worker's answers. Raises StageFailedError where they are not answers to the rows."""
    answers: list[dict[str, Any]] = []
    hint = "ask fewer rows at once; if it stays so, package the model again"
    try:
        for line in text.splitlines():
            if line.startswith("["):
                answers += parse_json(line, constants=True)
            elif line.startswith("{"):
                answers.append(parse_json(line, constants=True))
    except DamagedJsonError as error:
        raise StageFailedError(f"the model's answers cannot be read: {error}", hint=hint) from None
    whole = all(isinstance(answer, dict) and _ANSWERS[kind] <= answer.keys() for answer in answers)
    if kind == "embedding":  # each query with each document
        asked = {row["query"] for row in rows if "query" in row}
        whole = whole and all(answer["query"] in asked for answer in answers)
    elif len(answers) != len(rows):
        whole = False
    if not whole:
        raise StageFailedError(f"the model gave {len(answers)} answers to {len(rows)} rows", hint=hint)
    return answers


@contextmanager
def opened(
    name: str, reading: Reading, python: str, *, precision: str, with_probes: bool, tell: Callable[[str], None]
) -> Iterator[Artefact]:
    """Give a model that Orch did not package as an artefact that lives as long as the block.

    `python` loads it and has the server. `with_probes` it has been asked them before, as `orch predict` asks. Raises
    PreflightError for a model that is not here, cannot be loaded, or scores in no known way, and what the worker's run
    raises.
    """
    folder, spec = _find_spec(name, reading, python, precision)
    with tempfile.TemporaryDirectory(prefix="orch-serve-") as place:
        scoring, out = Path(place, "scoring.json"), Path(place, spec["name"])
        write_json(scoring, spec)
        argv = (python, str(WORKERS), "serve_folder", "--model", str(folder), "--scoring", str(scoring))
        run_worker(Command((*argv, "--out", str(out)), env=(("HF_HUB_OFFLINE", "1"),), cwd=place), _PREPARING)
        artefact = load_artefact(out, spec["name"], python)
        artefact = replace(artefact, trusts_remote_code=reading.trust_remote_code, env=reading.permissions.env)
        if with_probes:
            tell(f"asking {artefact.name} as orch predict does")
            artefact = replace(artefact, spec={**artefact.spec, "probes": _answer_probes(artefact, tell)})
        yield artefact


def _find_spec(name: str, reading: Reading, python: str, precision: str) -> tuple[Path, dict[str, Any]]:
    """Return the model's folder and its scoring spec, once it is known to load."""
    form = None if reading.format in {AUTHORS, CHAT} else reading.format
    family = reading.family or ("decoder" if reading.format == CHAT else None)
    model = find_model(name, replace(reading, format=form, family=family))
    if model.folder is None:
        hint = f"fetch it first, such as: hf download {name} --local-dir FOLDER"
        raise PreflightError(f"{name} is not on this machine, and a server is to serve what was looked at", hint=hint)
    label = model.folder.resolve().name or "model"
    # a way of scoring that is no chat is wanted by all that looks at the model, chat or not
    asked = replace(reading, format="flag-llm-reranker" if reading.format == CHAT else form, family=family)
    chosen = choose_model(model, label, asked, precision=precision, vectors=True)
    require_chosen_load([chosen], python)
    spec = chosen.spec
    if reading.format == CHAT:
        shared = {key: spec[key] for key in ("version", "name", "dtype", "trust_remote_code")}
        spec = {**shared, "scorer": CHAT, "max_new_tokens": _NEW_TOKENS}
    return model.folder, spec


def _answer_probes(artefact: Artefact, tell: Callable[[str], None]) -> list[dict[str, Any]]:
    """Return the texts that packaged models keep, with this model's answers."""
    texts = load_json(WORKERS / "probes.json")
    if artefact.kind == CHAT:
        asked = [{"prompt": chat["texts"][0]} for chat in texts["chats"] if len(chat["texts"]) == 2][:2]  # noqa: PLR2004
        answers = ask_model(artefact, asked, vectors=False, tell=tell)
        return [
            {"messages": [{"role": "user", "content": row["prompt"]}], "answer": answer["answer"]}
            for row, answer in zip(asked, answers, strict=True)
        ]
    pairs = [{"query": query, "document": document} for query, document in texts["examples"]]
    if artefact.kind == "reranker":
        return ask_model(artefact, pairs, vectors=False, tell=tell)
    sides = [{side: pair[side]} for pair in pairs for side in ("query", "document")]
    answers = ask_model(artefact, sides, vectors=True, tell=tell)
    return [
        {"text": text, "kind": side, "vector": answer["vector"]}
        for row, answer in zip(sides, answers, strict=True)
        for side, text in row.items()
    ]
