"""One page over many runs and sweeps: what they measured, with which settings, how they learned; a file, or served."""

from __future__ import annotations

import base64
import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain
from pathlib import Path
from threading import Lock
from typing import Any
from urllib.parse import quote, urlsplit

from orchestrator.backends.render import find_templates
from orchestrator.errors import PreflightError, RunFolderError
from orchestrator.evaluation.measures import TUNED, display_name
from orchestrator.machine.files import open_regular, write_text
from orchestrator.machine.rundir import RunDir
from orchestrator.machine.tables import load_record
from orchestrator.machine.terminal import Language, current_language, format_json
from orchestrator.report.figures import smoothed
from orchestrator.report.page import build_environment
from orchestrator.report.record import LossPoint, load_training_log, parse_number
from orchestrator.report.wording import plain
from orchestrator.run.folder import is_run, list_tags, load_plan, load_run_object, understood
from orchestrator.run.runs import RunSummary, list_runs, summarise
from orchestrator.run.slurm import add_jobs
from orchestrator.run.sweep import Trial, is_sweep, load_sweep, trial_dir

LOOPBACK = "127.0.0.1"
_MOST_POINTS = 60  # of a loss curve: so a page of 1,000 runs stays below a few MB
_MOST_KEYS = 40  # settings that differ between the runs
_MOST_CHARS = 200  # of a setting
_HASH_SHOWN = 8
# Of a comparison: the tuned model's mean, the headline baseline's, their difference, its 95 % interval.
_MEASURE = ("after", "before", "difference", "low", "high", "p", "verdict")
# Sections of a recipe that say where a run is made and how it is judged: no settings of the training.
_NOT_SETTINGS = frozenset({"name", "launch", "evaluate", "gate", "cluster", "export", "seeds", "sweep", "track"})
_SHORT = {"loss.type": "loss", "model.path": "model", "model.package": "model"}  # as `--set` may say them


class Board:
    """The runs and sweeps in some folders; a run is read again only where its files have changed."""

    def __init__(self, folders: Sequence[Path]) -> None:
        """Take folders of runs, of a sweep or of a run. Raises RunFolderError for one that is not there."""
        for folder in folders:
            if not folder.is_dir():
                raise RunFolderError(f"{folder} is no folder", hint="name a folder of runs, a sweep or a run")
        self._folders = tuple(folder.resolve() for folder in folders)
        homes = (one.parent if is_sweep(one) or is_run(RunDir(one)) else one for one in self._folders)
        home = os.path.commonpath([*homes]).rstrip(os.sep)
        self._home = re.compile(rf"(?<![\w.~/-]){re.escape(home)}/") if home else None  # folders of the root share none
        self._known: dict[Path, tuple[object, dict[str, Any]]] = {}

    def load(self, link: Callable[[Path], str]) -> dict[str, Any]:
        """Return what the page shows; `link` gives the address of a report.

        {"runs": [{"name", "path", "state", "note", "started", "seconds", "report": address or null, "tags",
          of a trial "sweep": name and "trial": number, and what `_read_run` could read}],
         "sweeps": [{"name", and what its sweep.json says}], "keys": settings that differ between the runs,
         "metrics": {name: {"title", "higher": whether higher is better}}}

        Paths begin at the folder of runs, of several at the one that holds them all.
        """
        rows: dict[Path, dict[str, Any]] = {}
        sweeps: dict[str, dict[str, Any]] = {}
        places = ((folder, *sorted(filter(is_sweep, folder.glob("*")))) for folder in self._folders)
        for place in dict.fromkeys(chain.from_iterable(places)):
            trials: dict[Path, Trial] = {}
            name = place.name if place.name not in sweeps else self._shorten(str(place))
            if is_sweep(place):
                try:
                    sweep = load_sweep(place)
                    trials = {trial_dir(place, trial).root: trial for trial in sweep.trials}
                    said = {key: value for key, value in asdict(sweep).items() if key not in {"recipe", "asked"}}
                    sweeps[name] = {"name": name, **self._shorten(said)}
                except RunFolderError as error:
                    fault = RunSummary(name, place, "damaged", message=error.problems[0].message)
                    rows[place] = self._shorten(_describe(fault))
            for run in add_jobs(_list_runs(place)):
                report, trial = RunDir(run.path).report_html, trials.get(run.path)
                row = self._shorten(_describe(run) | self._read(run))
                row["report"] = link(report) if report.is_file() else None
                rows[run.path] = row | ({"sweep": name, "trial": trial.number} if trial else {})
        for tag, tagged in chain.from_iterable(list_tags(folder).items() for folder in self._folders):
            if tagged.root in rows:
                rows[tagged.root]["tags"].append(tag)
        directions: dict[str, bool] = {}
        for row in rows.values():
            directions |= row.pop("directions", {})
        keys = _choose_keys(rows.values(), chain.from_iterable(sweep["parameters"] for sweep in sweeps.values()))
        for row in rows.values():
            row["set"] = {key: row["set"][key] for key in keys if key in row["set"]}
        titles = {name: {"title": display_name(name), "higher": higher} for name, higher in directions.items()}
        return {"runs": list(rows.values()), "sweeps": list(sweeps.values()), "keys": keys, "metrics": titles}

    def _shorten(self, said: Any) -> Any:
        """Return what files say without the folder before the paths in it: the page goes to people with other ones."""
        if isinstance(said, dict):
            return {key: self._shorten(value) for key, value in said.items()}
        if isinstance(said, list):
            return [self._shorten(value) for value in said]
        return self._home.sub("", said) if self._home and isinstance(said, str) else said

    def _read(self, run: RunSummary) -> dict[str, Any]:
        folder = RunDir(run.path)
        files = (folder.plan_json, folder.report_json, folder.state_json, folder.events_jsonl)
        stamp = [(stat.st_mtime_ns, stat.st_size) for path in files if path.exists() and (stat := path.stat())]
        if (known := self._known.get(run.path)) and known[0] == stamp:
            return dict(known[1])
        try:
            found = _read_run(folder)
        except RunFolderError as error:
            return {"state": "damaged", "note": error.problems[0].message}
        self._known[run.path] = (stamp, found)
        return dict(found)


def _list_runs(place: Path) -> list[RunSummary]:
    if is_sweep(place):
        return list_runs(place / "trials", judged=False)
    return [summarise(RunDir(place))] if is_run(RunDir(place)) else list_runs(place, judged=False)


def _describe(run: RunSummary) -> dict[str, Any]:
    """Return a row with what a run's summary says."""
    return {
        "name": run.name, "path": str(run.path), "state": run.status, "started": run.started, "tags": [], "set": {},
        "note": run.message or (run.stage if run.status != "done" else None),
        "seconds": run.finished - run.started if run.finished and run.started else None,
    }  # fmt: skip


def _read_run(run: RunDir) -> dict[str, Any]:
    """Return what a run's plan, training log and report say. Raises RunFolderError where one of them is damaged."""
    if not run.plan_json.exists():  # a job that has not begun
        return {}
    plan = load_plan(run)
    recipe = plan.recipe
    with understood(run.plan_json):
        given = {key: value for key, value in recipe.items() if key not in _NOT_SETTINGS}
        settings = {_SHORT.get(key, key): value for key, value in _find_settings(given)}
        model, loss = plan.model_name, recipe.get("loss") or {}
        losses = [loss, *(loss.get("plus") or ())] if isinstance(loss, dict) else [{"type": loss}]
        log = load_training_log(run, plan)
    row = {
        "recipe": plan.name, "task": plan.task, "backend": plan.backend, "set": settings,
        "model": str(model or ""),
        "loss": " + ".join(str(one.get("type") or "") for one in losses), "seed": settings.get("train.seed"),
        "rate": settings.get("train.learning_rate"),
        "curve": _thin(log.points), "validation": _thin(log.evaluations),
    }  # fmt: skip
    if not run.report_json.exists():
        return row
    report = load_run_object(run.report_json)
    with understood(run.report_json):
        return row | _read_report(report)


def _read_report(report: Mapping[str, Any]) -> dict[str, Any]:
    metrics, compared, measured = report["metrics"], report["comparisons"], report["eval"] or {}
    tuned: Mapping[str, Any] = next((system["means"] for system in metrics["systems"] if system["id"] == TUNED), {})
    measures = {name: {"after": tuned[name]} for name in metrics["names"] if name in tuned}
    for row in compared:
        if row["baseline"] == compared[0]["baseline"]:
            measures[row["metric"]] = {key: row[key] for key in _MEASURE}
    evaluation = {
        "units": measured.get("units", measured.get("queries")),  # the first version counted queries only
        "unit": report.get("unit", "query"), "hash": str(measured.get("sha256"))[:_HASH_SHOWN],
    }  # fmt: skip
    return {
        "headline": metrics["headline"], "verdict": report["verdict"], "gate": report["gate"]["passed"],
        "measures": measures, "eval": evaluation if measured else None,
        "directions": {name: metrics["directions"][name] != "lower" for name in measures},
    }  # fmt: skip


def _find_settings(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, number or short text) of each setting that is given."""
    for key, item in value.items():
        if isinstance(item, dict):
            yield from _find_settings(item, f"{prefix}{key}.")
        elif item is not None and f"{prefix}{key}" != "data.eval":
            number = None if isinstance(item, bool | list) else parse_number(item)  # YAML reads 2e-4 as a text
            yield f"{prefix}{key}", plain(item)[:_MOST_CHARS] if number is None else number


def _choose_keys(rows: Iterable[Mapping[str, Any]], first: Iterable[str]) -> list[str]:
    """Return the settings that differ between runs, those that a sweep tries first, then those that most runs have."""
    values: dict[str, list[Any]] = {}
    for row in rows:
        for key, value in row["set"].items():
            values.setdefault(key, []).append(value)
    differ = [key for key, found in values.items() if len(set(found)) > 1]
    asked = [key for key in dict.fromkeys(_SHORT.get(key, key) for key in first) if key in differ]
    rest = sorted((key for key in differ if key not in asked), key=lambda key: -len(values[key]))
    return [*asked, *rest][:_MOST_KEYS]


def _thin(points: Sequence[LossPoint]) -> list[tuple[int, float]]:
    """Return (step, loss), smoothed as in the report, of at most `_MOST_POINTS` points with the first and the last."""
    found = [(point.step, point.loss) for point in points if point.loss is not None]
    losses = smoothed([loss for _, loss in found])
    count = min(len(found), _MOST_POINTS)
    places = {round(number * (len(found) - 1) / max(1, count - 1)) for number in range(count)}
    return [(found[place][0], float(f"{losses[place]:.5g}")) for place in sorted(places)]


def render_board(data: Mapping[str, Any], language: Language, *, live: bool = False) -> str:
    """Return the page's HTML; with `live` it asks its server for newer data.

    What data says reaches the page as JSON without `<`, and its script puts it there as text only.
    """
    from markupsafe import Markup

    def embed(value: Any) -> str:
        return Markup(format_json(value, indent=None).replace("<", "\\u003c"))  # noqa: S704  nothing of it ends a script

    environment = build_environment()
    folder = find_templates() / "report"
    script = (folder / "board.js").read_text(encoding="utf-8")
    words = load_record(folder / "board_words.yaml", dict[str, tuple[str, str]])
    texts = {code: {key: pair[place] for key, pair in words.items()} for place, code in enumerate(("en", "zh"))}
    return environment.get_template("board.html.j2").render(
        data=embed(data),
        texts=embed(texts),
        words=texts[language],
        language=language,
        live=live,
        script=Markup(script),  # noqa: S704  (Orch's own file)
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def write_board(folders: Sequence[Path], path: Path) -> int:
    """Write the page over some folders to a file, with relative links to reports; return how many runs it shows."""
    beside = path.absolute().parent
    data = Board(folders).load(lambda report: quote(os.fsencode(os.path.relpath(report, beside))))
    write_text(path, render_board(data, current_language()))
    return len(data["runs"])


class BoardServer(ThreadingHTTPServer):
    """Serves a board to this machine alone: GET of the page, of its data, and of the reports that the page leads to.

    A report is found by its exact address in the data; no address is ever made into a path.
    """

    def __init__(self, folders: Sequence[Path], port: int = 0) -> None:
        """Listen on a port; 0 lets the system choose. Raises PreflightError for one that cannot be had."""
        self._board, self._lock = Board(folders), Lock()
        try:
            super().__init__((LOOPBACK, port), _Handler)
        except OSError as error:
            message = f"port {port} cannot be had: {error.strerror}"
            raise PreflightError(message, hint="leave --port out: the system chooses one") from error
        self.hosts = {f"{name}:{self.server_port}" for name in (LOOPBACK, "localhost")}

    def load(self) -> tuple[dict[str, Any], dict[str, Path]]:
        """Return what the page shows now, and the reports that it leads to, by their addresses."""
        reports: dict[str, Path] = {}

        def link(report: Path) -> str:
            address = quote(os.fsencode(f"/report{report}"))
            reports[address] = report
            return address

        with self._lock:
            return self._board.load(link), reports


class _Handler(BaseHTTPRequestHandler):
    server: BoardServer
    server_version, sys_version = "orch", ""

    def do_GET(self) -> None:
        if self.headers.get("Host") not in self.server.hosts:  # another name that was made to lead here: DNS rebinding
            self.send_error(HTTPStatus.FORBIDDEN)
            return
        path = urlsplit(self.path).path
        try:
            data, reports = self.server.load()
            if path == "/":
                self._answer("text/html", render_board(data, current_language(), live=True).encode())
            elif path == "/board.json":
                self._answer("application/json", format_json(data, indent=None).encode())
            else:  # a report that somebody else wrote may do nothing here
                with open_regular(reports[path], follow=False) as page:
                    self._answer("text/html", page.read(), "sandbox")
        except (KeyError, OSError):
            self.send_error(HTTPStatus.NOT_FOUND)

    def _answer(self, kind: str, body: bytes, policy: str = "frame-ancestors 'none'") -> None:
        self.send_response(HTTPStatus.OK)
        for name, value in {
            "Content-Type": f"{kind}; charset=utf-8", "Content-Length": str(len(body)), "Cache-Control": "no-store",
            "Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff",
        }.items():  # fmt: skip
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: the terminal is the user's."""
