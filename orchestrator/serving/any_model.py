"""A model that Orch did not package, as one that is served and checked: its folder for a server, and its own numbers.

Its probes are answered by the worker of `orch predict`, in this Python, before the server starts.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator.backends.scorers import FORMATS
from orchestrator.errors import PreflightError
from orchestrator.machine.files import write_json
from orchestrator.machine.json_files import load_json
from orchestrator.machine.places import WORKERS
from orchestrator.recipe.plan import Command
from orchestrator.serving.artefact import Artefact, ask_model, load_artefact
from orchestrator.serving.chosen_models import Reading, choose_model, find_model, require_chosen_load
from orchestrator.serving.worker import Words, run_worker

CHAT = "chat"
AUTHORS = "auto"  # as its authors use it
SERVED_FORMATS = (AUTHORS, *FORMATS, CHAT)
_NEW_TOKENS = 32  # of an answer: what is compared, not what a server may give
_WORDS = Words("the model cannot be prepared for a server", "the model was not prepared")


@contextmanager
def opened(
    name: str, reading: Reading, python: str, *, precision: str, with_probes: bool, tell: Callable[[str], None]
) -> Iterator[Artefact]:
    """Give a model as an artefact that lives as long as the block; `with_probes`, it has answered its probes.

    `python` loads it and has the server. Raises PreflightError for a model that is not here, cannot be loaded, or
    scores in no known way, and what the worker's run raises.
    """
    folder, spec = _find_spec(name, reading, python, precision)
    with tempfile.TemporaryDirectory(prefix="orch-serve-") as place:
        scoring, out = Path(place, "scoring.json"), Path(place, spec["name"])
        write_json(scoring, spec)
        argv = (python, str(WORKERS), "serve_folder", "--model", str(folder), "--scoring", str(scoring))
        run_worker(Command((*argv, "--out", str(out)), env=(("HF_HUB_OFFLINE", "1"),), cwd=place), _WORDS)
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
