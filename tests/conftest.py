"""Fixtures that several test folders share."""

from __future__ import annotations

import gc
import os
import signal
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.warm import start_warm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Answer = Callable[[str, str], tuple[int, bytes]]

ROOT = Path(__file__).resolve().parent.parent

os.environ["ORCH_LANG"] = "en"  # whatever language the developer's terminal speaks
os.environ["XDG_CONFIG_HOME"] = str(Path(tempfile.gettempdir()) / f"orch-tests-{os.getuid()}")  # no key of the user's
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# on a busy machine two threads spin for each other: tiny matrices are ten times faster on one
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Under nohup, or in the background of a script, what the tests start would inherit these as ignored, and never end.
for number, usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, usual)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Keep a file's tests in one process, for they share fixtures; those of tests/e2e that share real runs as well.

    What imports ms-swift into the tests' own process stays together too: that takes ten seconds.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.split("::", 1)[0]
            if path.startswith("tests/e2e/") and path not in OWN_RUNS:
                return "e2e"
            return "swift" if path in IMPORTS_SWIFT else path

    return ByFile(config, log)


OWN_RUNS = {f"tests/e2e/test_{name}.py" for name in ("failures", "swift_refusals", "sweep")}
IMPORTS_SWIFT = {
    f"tests/workers/test_{name}.py"
    for name in ("chat_score", "package_chat", "package_embedding", "package_swift_encoder", "package_swift_reranker")
}
# Folders in the order in which they begin: the real runs, which keep two cores busy; what mostly waits, beside them; and
# what takes long. Quick files come last, so that all processes end together.
FIRST = ("e2e", "cluster", "process", "traps", "workers", "serving", "hubs")
# Folders whose tests train, import a machine-learning library, or wait for real processes.
SLOW = {"e2e", "workers", "traps", "process", "serving", "cluster", "hubs"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the real runs, which take longest."""
    places = {name: place for place, name in enumerate(FIRST)}
    items.sort(
        key=lambda item: (
            places.get(item.path.parent.name, len(FIRST)),
            str(item.path.relative_to(ROOT)) not in IMPORTS_SWIFT,
        )
    )
    for item in items:
        if item.path.parent.name in SLOW:
            item.add_marker("slow")
        if item.path.parent.name == "e2e":  # the first test to ask waits for all runs in front of its own
            item.add_marker(pytest.mark.timeout(2400))


IMPORTED = pytest.StashKey[int]()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Hide modules and tests from the garbage collector: workers ask it often, and it would read a million objects."""
    stash, count = item.config.stash, len(sys.modules)
    if count > stash.get(IMPORTED, 0) + 20:
        gc.collect()
        gc.freeze()
        stash[IMPORTED] = count


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def recipes(root: Path) -> Path:
    return root / "recipes"


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The variables by which a worker is a fork of a warm process, and costs no import."""
    with start_warm(tmp_path_factory.mktemp("warm"), "plain") as variables:
        yield variables


@pytest.fixture(scope="session")
def warm_swift(warm: dict[str, str]) -> Iterator[dict[str, str]]:
    """The same, and ms-swift's own commands and checks of packages are forks of a second one."""
    with start_warm(Path(warm["ORCH_TEST_WARM"]), "swift"):
        yield warm


@pytest.fixture
def start_hub() -> Iterator[Callable[[Answer], str]]:
    """Start hubs on this machine and return their addresses; each says `answer(method, path)`: a status and a body."""
    servers: list[HTTPServer] = []

    def start(answer: Answer) -> str:
        class Hub(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                code, body = answer(self.command, self.path)
                self.send_response(code)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_HEAD = do_GET  # noqa: N815  (the name that http.server asks for)

            def log_message(self, *words: object) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Hub)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()
