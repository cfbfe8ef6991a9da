"""Real runs through the command line, shared by all tests of this folder: each costs a minute or more."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ORCH = str(Path(sys.executable).parent / "orch")
SECRET = "hf_thisisasecretthatmustnotbewritten"  # noqa: S105
ENV = {**os.environ, "HF_TOKEN": SECRET, "HF_HUB_OFFLINE": "1"}


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str

    @property
    def data(self):
        return json.loads(self.out)["data"]


def orch(*argv: str, cwd: Path | None = None, env: dict[str, str] | None = None, stdin: str = "") -> Done:
    done = subprocess.run(
        [ORCH, *argv], capture_output=True, text=True, cwd=cwd, env=env or ENV, input=stdin, check=False
    )
    return Done(done.returncode, done.stdout, done.stderr)


def processes_that_name(text: str) -> list[psutil.Process]:
    others = (process for process in psutil.process_iter(["cmdline"]) if process.pid != os.getpid())
    return [process for process in others if any(text in word for word in process.info["cmdline"] or ())]


def find_training_workers(folder: Path, module: str = "decoder_only.base") -> list[psutil.Process]:
    found = [process for process in processes_that_name(module) if str(folder) in " ".join(process.cmdline())]
    return [process for process in found if "orch-stage" not in process.cmdline()]  # the shell that waits for it


def wait_for(condition, timeout_s: float) -> None:
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def run_killed_and_resumed(argv: tuple[str, ...], folder: Path, stage: str, module: str, step: int = 8) -> Path:
    """Kill (-9) the supervisor that a command starts and its training worker after a checkpoint, and resume the run."""
    argv = (ORCH, *argv, "-o", str(folder))
    first = subprocess.Popen(argv, env=ENV, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    output = folder / "stages" / stage / "output"
    wait_for(lambda: output.exists() or first.poll() is not None, 900)
    workers: list[psutil.Process] = []
    wait_for(lambda: workers.extend(find_training_workers(folder, module)) or workers or first.poll() is not None, 300)
    assert first.poll() is None, first.communicate()[0]
    saved = output / f"checkpoint-{step}" / "trainer_state.json"
    wait_for(lambda: saved.exists() or first.poll() is not None, 300)
    found = [at for worker in workers for at in worker.net_connections("inet") if at.status == psutil.CONN_LISTEN]
    (folder / "listening").write_text(" ".join(sorted({at.laddr.ip for at in found})))
    first.send_signal(signal.SIGKILL)
    for worker in workers:
        worker.kill()  # raises when the training was over already
    first.wait()
    done = orch("resume", str(folder))
    (folder / "resume.out").write_text(done.out + done.err)
    assert done.code == 0, done.out + done.err
    return folder


def reproduce_killed_and_resumed(first: Path, folder: Path) -> Path:
    """Repeat a finished run, killed in the middle of its training like any other, to its comparison with the first."""
    return run_killed_and_resumed(("reproduce", str(first)), folder, "04-train", "train_cross_encoder")


def run_plain_bash(recipe: Path, folder: Path, env: dict[str, str]) -> Path:
    """Render a smoke run, and let bash run it with no Orch process around it."""
    rendered = orch("render", str(recipe), "--smoke", "-o", str(folder))
    assert rendered.code == 0, rendered.err
    done = subprocess.run(["bash", str(folder / "run.sh")], env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def run_to_the_end(
    recipe: Path, folder: Path, *argv: str, env: dict[str, str] | None = None, warm: bool = True
) -> Path:
    done = orch("run", str(recipe), "-o", str(folder), *argv, *([] if warm else ["--no-warm"]), env=env)
    assert done.code == 0, f"{folder.name}\n{done.out}\n{done.err}"
    return folder


LABELLED = (
    "data.train=../datasets_example/labelled_pairs.train.jsonl", "data.eval=", "data.eval_ratio=0.2",
    "evaluate.metrics=", "gate={}",
)  # fmt: skip
# run: its recipe, and what is set in it. Every recipe for ms-swift but sft_single_gpu_test, which is qwen3_sft_lora in
# other numbers.
SWIFT_RUNS: dict[str, tuple[str, tuple[str, ...]]] = {
    "qwen3_embedding_lora": ("qwen3_embedding_lora", ()),
    "qwen3_embedding_full": ("qwen3_embedding_full", ()),
    "qwen3_reranker_native": ("qwen3_reranker_native", ("export=seq-cls",)),
    "qwen3_sft_lora": ("qwen3_sft_lora", ()),
    "qwen3_sft_finance": ("qwen3_sft_finance", ()),
    "online_contrastive": ("qwen3_embedding_lora", (*LABELLED, "loss=online_contrastive")),
    "score_head": ("qwen3_reranker_native", ("train.task_type=reranker", "loss=pointwise")),
}
# Runs whose stages start alone; the others' are forks, also of a process that all tests share. The first starts each of
# its stages so; the one by ms-swift, and FlagEmbedding's by bash, those that call the backend: training, merge and
# package. The runs that are killed, and the demos, have residents of their own, as users' have.
COLD = frozenset({"bge_pointwise", "qwen3_embedding_lora"})
ALIKE = {"ORCH_TEST_WARM_ONLY": "tiny_model score"}  # the workers that are the same for every backend
# every recipe whose model is a cross-encoder, but for that of the demo
CROSS_ENCODER_RUNS = (
    "bge_reranker", "bge_pointwise", "bert_pointwise", "bert_ranknet", "llm_pointwise", "distill_llm_to_bert",
    "reranker_lora",
)  # fmt: skip
# every recipe of an embedding model that sentence-transformers trains, but for that of the demo
EMBEDDING_RUNS = (
    "minilm_embedding", "e5_embedding", "embeddinggemma_lora", "qwen3_embedding_st", "distill_embedding", "topic_embedding",
)  # fmt: skip


def start_of(name: str, warm: dict[str, str]) -> dict[str, object]:
    """Return how the stages of a run start, as `run_to_the_end` wants it."""
    if name not in COLD:
        return {"env": warm}
    return {"warm": False, "env": warm | ALIKE if name in SWIFT_RUNS else ENV}


DEMOS = {"demo": (), "demo_reranker": ("--set", "train.num_train_epochs=1")}  # half of its training shows it already
CLASSES_STEPS = 26  # of two epochs over texts with classes, of which one is saved each


@pytest.fixture(scope="session")
def started(request, recipes, tmp_path_factory) -> Iterator[dict[str, Future[Path]]]:
    """The runs that the collected tests ask for, two at a time: most of each keeps one core busy."""
    wanted = {name for item in request.session.items for name in item.fixturenames}
    root = tmp_path_factory.mktemp("runs")
    warm = ENV
    if {"swift_runs", "cross_encoder_runs", "embedding_runs", "plain_bash"} & wanted:
        warm = ENV | request.getfixturevalue("warm_swift" if "swift_runs" in wanted else "warm")

    reranker, embedding = recipes / "qwen3_reranker.yaml", recipes / "qwen3_embedding_lora.yaml"
    started: dict[str, Future[Path]] = {}
    jobs: dict[str, tuple[str, Callable[[], Path]]] = {}  # in the order in which the files of this folder ask for them
    for name in CROSS_ENCODER_RUNS:
        path, folder = recipes / f"{name}.yaml", root / "cross-encoder" / name
        jobs[name] = (
            "cross_encoder_runs",
            partial(run_to_the_end, path, folder, "--smoke", **start_of(name, warm)),
        )
    for name in EMBEDDING_RUNS:
        path, folder = recipes / f"{name}.yaml", root / "embedding" / name
        jobs[name] = ("embedding_runs", partial(run_to_the_end, path, folder, "--smoke", env=warm))
    argv = ("run", str(recipes / "topic_embedding.yaml"), "--smoke")
    folder = root / "embedding-killed"
    killed = partial(run_killed_and_resumed, argv, folder, "04-train", "train_embedding", CLASSES_STEPS // 2)
    jobs["embedding-killed"] = ("embedding_killed_and_resumed", killed)
    jobs["cross-encoder-killed"] = (
        "cross_encoder_killed_and_resumed",
        # it was submitted before, so that it is done or under way when this one is begun
        lambda: reproduce_killed_and_resumed(started["bge_pointwise"].result(), root / "cross-encoder-killed"),
    )
    folder = root / "killed" / "run with spaces 红隼"
    argv = ("run", str(reranker), "--smoke")
    killed = partial(run_killed_and_resumed, argv, folder, "05-train", "decoder_only.base")
    jobs["killed"] = ("killed_and_resumed", killed)
    jobs["bash"] = ("plain_bash", partial(run_plain_bash, reranker, root / "bash", warm | ALIKE))
    for name, (recipe, values) in SWIFT_RUNS.items():
        sets = ["--smoke", *(word for value in values for word in ("--set", value))]
        path, folder = recipes / f"{recipe}.yaml", root / "swift" / name
        jobs[name] = ("swift_runs", partial(run_to_the_end, path, folder, *sets, **start_of(name, warm)))
    argv = ("run", str(embedding), "--smoke")
    killed = partial(run_killed_and_resumed, argv, root / "swift-killed", "04-train", "swift.cli.sft")
    jobs["swift-killed"] = ("swift_killed_and_resumed", killed)
    demos = {
        name: partial(run_to_the_end, recipes / f"{name}.yaml", root / name, "--json", *sets)
        for name, sets in DEMOS.items()
    }
    with ThreadPoolExecutor(max_workers=2) as pool, ThreadPoolExecutor(max_workers=1) as beside:
        for name, job in demos.items():
            if name in wanted:
                started[name] = beside.submit(job)
        for name, (fixture, job) in jobs.items():
            if fixture in wanted:
                started[name] = pool.submit(job)
        yield started


@pytest.fixture(scope="session")
def demo(started) -> Path:
    """The demo."""
    return started["demo"].result()


@pytest.fixture(scope="session")
def demo_reranker(started) -> Path:
    """The demo of a reranker, after the other one."""
    return started["demo_reranker"].result()


@pytest.fixture(scope="session")
def killed_and_resumed(started) -> Path:
    """A smoke run whose supervisor and training worker are killed (-9) after the first checkpoint, then resumed."""
    return started["killed"].result()


@pytest.fixture(scope="session")
def plain_bash(started) -> Path:
    """The same smoke run, rendered and then run by bash, with no Orch process around it."""
    return started["bash"].result()


@pytest.fixture(scope="session")
def swift_runs(started) -> dict[str, Path]:
    """Every recipe and loss for ms-swift, from data to verdict on a tiny model."""
    return {name: started[name].result() for name in SWIFT_RUNS}


@pytest.fixture(scope="session")
def swift_killed_and_resumed(started) -> Path:
    return started["swift-killed"].result()


@pytest.fixture(scope="session")
def embedding_runs(started) -> dict[str, Path]:
    """Every recipe of an embedding model with sentence-transformers, from data to verdict on a tiny model."""
    return {name: started[name].result() for name in EMBEDDING_RUNS}


@pytest.fixture(scope="session")
def embedding_killed_and_resumed(started) -> Path:
    """A smoke run over texts with classes whose supervisor and training are killed (-9) after the first epoch."""
    return started["embedding-killed"].result()


@pytest.fixture(scope="session")
def cross_encoder_runs(started) -> dict[str, Path]:
    """Every cross-encoder recipe, from data to verdict on a tiny model."""
    return {name: started[name].result() for name in CROSS_ENCODER_RUNS}


@pytest.fixture(scope="session")
def cross_encoder_killed_and_resumed(started) -> Path:
    return started["cross-encoder-killed"].result()
