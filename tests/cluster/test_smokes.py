"""A smoke of every backend on a real Slurm, from `orch submit` to its verdict, each thrice taken away from its machine.

All five run at once and are disturbed together: a time limit, a machine that is killed, and a preemption by the very
runs that they are held against, which are submitted as urgent ones and left alone.
"""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from safetensors.numpy import load_file

from orchestrator.cli import main
from orchestrator.machine.rundir import RunDir
from orchestrator.run.slurm import find_job_id
from orchestrator.run.state import find_state
from tests.cluster.conftest import CPUS, look, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

pytestmark = [pytest.mark.smoke, pytest.mark.timeout(1200)]

# Each tool by each of its trainers. ms-swift's and FlagEmbedding's own checkpoints are continued, and ours.
SMOKES = ("bert_pointwise", "qwen3_reranker", "bge_embedding", "qwen3_embedding_lora", "qwen3_sft_lora")


def submit(recipes: Path, folder: Path, name: str, **cluster: object) -> RunDir:
    sets = [f"cluster.{key}={value}" for key, value in {"cpus": 1, **cluster}.items()]
    words = ["submit", str(recipes / f"{name}.yaml"), "--smoke", "-o", str(folder)]
    with pytest.raises(SystemExit) as ended:
        main([*words, *(word for value in sets for word in ("--set", value))])
    assert ended.value.code == 0
    return RunDir(folder)


def read_trainings(run: RunDir) -> list[dict[str, object]]:
    """Return how each attempt at the training began."""
    if not run.events_jsonl.exists():
        return []
    rows = [json.loads(line) for line in run.events_jsonl.read_text().splitlines() if '"stage_started"' in line]
    return [row for row in rows if row["stage"].endswith("-train")]


def find_training(run: RunDir, attempt: int) -> int | None:
    """Return the process group of an attempt at the training, None before it has begun, and saved a checkpoint."""
    state = find_state(run)
    if not (state and state.child and (state.stage or "").endswith("-train") and len(read_trainings(run)) == attempt):
        return None
    has_saved = any(run.root.glob("stages/*-train/output/checkpoint-*/trainer_state.json"))
    return state.child.pgid if has_saved else None


def send(groups: Iterable[int], number: int) -> None:
    for group in groups:
        with suppress(ProcessLookupError):
            os.killpg(group, number)


def pause(runs: Iterable[RunDir], attempt: int) -> list[int]:
    """Stop each run's training as soon as it may be continued, so that it is not over before it is disturbed."""
    paused: dict[RunDir, int] = {}
    waiting = list(runs)

    def are_all() -> bool:
        for run in waiting:
            if run not in paused and (group := find_training(run, attempt)):
                send([group], signal.SIGSTOP)
                paused[run] = group
        return len(paused) == len(waiting)

    wait_until(are_all, 300, every_s=0.02)
    return list(paused.values())


def are_asked_to_end(groups: list[int]) -> bool:
    """Tell whether an interrupt waits for each of these groups, which are stopped."""
    asked = 0
    for group in groups:
        with suppress(OSError):
            status = Path(f"/proc/{group}/status").read_text()
            asked += bool(int(status.partition("ShdPnd:")[2].split()[0], 16) & 1 << signal.SIGINT - 1)
    return asked == len(groups)


@pytest.fixture(scope="module")
def runs(slurm, recipes, warm, warm_swift, tmp_path_factory) -> Iterator[dict[str, tuple[RunDir, RunDir]]]:
    """Each smoke's run that was disturbed, and the one that was not."""
    root = tmp_path_factory.mktemp("smokes")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (warm | warm_swift).items():
            patch.setenv(name, value)
        patch.setenv("SLURM_CONF", str(slurm.conf))
        disturbed = {name: submit(recipes, root / name, name, time=10, warn_s=50) for name in SMOKES}
        mine = list(disturbed.values())
        jobs = [find_job_id(run) for run in mine]

        paused = pause(mine, 1)
        for job in jobs:  # the warning comes at once, and leaves time to hear it
            assert slurm.limit(job, (slurm.run_time(job) + 20) // 60 + 1)
        wait_until(lambda: are_asked_to_end(paused))
        send(paused, signal.SIGCONT)
        wait_until(lambda: all(slurm.field(job, "Restarts") == "1" for job in jobs), 180)
        wait_until(lambda: all(slurm.limit(job, 10) for job in jobs))

        paused = pause(mine, 2)
        [node] = {look(run).nodes for run in mine}
        slurm.kill_node(node)
        send(paused, signal.SIGKILL)  # forks of a warm process are no children of the node's
        paused = pause(mine, 3)
        undisturbed = {}
        for name in SMOKES:  # the first one asks for the whole machine that is left, and gets it from all five
            asked = {"partition": "urgent", "cpus": CPUS if not undisturbed else 1}
            undisturbed[name] = submit(recipes, root / f"{name}-urgent", name, **asked)
        wait_until(lambda: are_asked_to_end(paused))
        send(paused, signal.SIGCONT)
        slurm.start_node(node)
        both = {name: (disturbed[name], undisturbed[name]) for name in SMOKES}
        wait_until(lambda: all(look(run).is_over for pair in both.values() for run in pair), 300)
        yield both


@pytest.mark.parametrize("name", SMOKES)
def test_a_smoke_that_was_taken_away_thrice_reaches_its_verdict_with_the_weights_of_one_that_was_not(slurm, runs, name):
    disturbed, undisturbed = runs[name]
    for run, restarts in ((disturbed, 3), (undisturbed, 0)):
        assert look(run).state == "COMPLETED", (run.job / "slurm.log").read_text()
        assert slurm.field(find_job_id(run), "Restarts") == str(restarts)
        assert json.loads(run.report_json.read_text())["verdict"]
        assert len(read_trainings(run)) == restarts + 1
    assert [bool(row.get("resumed_from")) for row in read_trainings(disturbed)] == [False, True, True, True]
    one, other = (load_file(run.model / "model.safetensors") for run in runs[name])
    assert one.keys() == other.keys()
    assert len(one) > 10
    assert [key for key, tensor in one.items() if (tensor != other[key]).any()] == []


def test_a_recipe_that_was_broken_while_it_waited_ends_once_and_for_good(slurm, recipes, tmp_path):
    (tmp_path / "recipes").mkdir()
    (tmp_path / "datasets_example").symlink_to(recipes.parent / "datasets_example")
    recipe = tmp_path / "recipes" / "bert_pointwise.yaml"
    recipe.write_text((recipes / recipe.name).read_text())
    run = submit(recipe.parent, tmp_path / "run", "bert_pointwise", extra="[--hold]")
    recipe.write_text(recipe.read_text().replace("task: reranker", "task: rerankr"))
    slurm.ask("scontrol", "release", find_job_id(run))
    wait_until(lambda: look(run).is_over)
    assert look(run).state == "FAILED"
    assert slurm.field(find_job_id(run), "ExitCode") == "2:0"
    assert slurm.field(find_job_id(run), "Restarts") == "0"
    assert "rerankr" in (run.job / "slurm.log").read_text()


def test_a_sweep_hands_in_a_job_for_each_trial_and_chooses_once_all_are_over(
    slurm, recipes, warm, tmp_path, monkeypatch, capsys
):
    for name, value in warm.items():
        monkeypatch.setenv(name, value)
    words = ["sweep", str(recipes / "bert_pointwise.yaml"), "--smoke", "-o", str(tmp_path / "sweep"), "--to", "slurm"]
    words += ["--set", "loss.type=pointwise_bce,pointwise_mse", "--set", "cluster.cpus=1"]

    def sweep() -> tuple[int, str]:
        with pytest.raises(SystemExit) as ended:
            main(words)
        said = capsys.readouterr()
        return ended.value.code, said.out + said.err

    code, said = sweep()
    assert code == 0, said
    trials = [RunDir(tmp_path / "sweep" / "trials" / name) for name in ("000", "001")]
    first = [find_job_id(run) for run in trials]
    assert all(first)
    assert "2 trials wait or run" in said
    assert sweep()[0] == 0  # hands in nothing twice
    assert [find_job_id(run) for run in trials] == first
    wait_until(lambda: all(look(run).is_over for run in trials), 300)
    code, said = sweep()
    assert code == 0, said
    assert "chosen from 2 settings" in said
    assert slurm.is_empty()
