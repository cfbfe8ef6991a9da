"""A sweep of the demo over learning rate and loss, two seeds each, killed (-9) in its middle and begun again.

Trial after trial at first, and two at once after the kill.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from orchestrator.machine.places import WORKERS
from tests.e2e.conftest import ENV, ORCH, Done, orch, wait_for

pytestmark = pytest.mark.smoke

RECIPE = """
name: demo
task: embedding
backend: sentence-transformers
model: {{path: {model}, pooling: mean, prompts: {{query: "query: ", document: ""}}}}
data: {{train: {data}/demo.train.jsonl, eval: {data}/demo.eval.jsonl}}
loss: mnrl
train: {{max_steps: 2, per_device_train_batch_size: 4, max_length: 32}}
gate: {{ndcg@10: ">= 0"}}
launch: {{env: {{OMP_NUM_THREADS: "1"}}}}
sweep:
  set:
    train.learning_rate: [1e-3, 3e-3]
    loss: [mnrl, cached_mnrl]
  seeds: 2
"""
KILLED = 3  # the trial whose training runs when the sweep is killed


@dataclass(frozen=True)
class Swept:
    folder: Path
    recipe: Path
    done: Done
    before: dict[int, float]  # when the trials that were done by the kill had ended

    @property
    def data(self):
        return json.loads((self.folder / "sweep.json").read_text(encoding="utf-8"))

    def events(self, number: int):
        path = self.folder / "trials" / f"{number:03d}" / "events.jsonl"
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def sweep(root, warm, tmp_path_factory) -> Swept:
    place, env = tmp_path_factory.mktemp("sweep"), ENV | warm
    data = root / "datasets_example"
    words = ["tiny_model", "--like", "encoder", "--model-type", "bert", "--texts", data / "demo.train.jsonl"]
    argv = [sys.executable, str(WORKERS), *map(str, words), "--out", str(place / "tiny")]
    subprocess.run(argv, check=True, capture_output=True, env=env)
    recipe, folder = place / "demo.yaml", place / "sweep"
    recipe.write_text(RECIPE.format(model=place / "tiny", data=data), encoding="utf-8")
    argv = (ORCH, "sweep", str(recipe), "-o", str(folder))
    first = subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    begun = folder / "trials" / f"{KILLED:03d}" / "stages" / "03-train" / "stdout.log"
    wait_for(lambda: begun.exists() or first.poll() is not None, 900)
    assert first.poll() is None, first.communicate()[0]
    first.send_signal(signal.SIGKILL)
    first.wait()
    states = {number: folder / "trials" / f"{number:03d}" / "state.json" for number in range(KILLED)}
    before = {number: json.loads(path.read_text())["finished"] for number, path in states.items()}
    return Swept(folder, recipe, orch("sweep", str(recipe), "-o", str(folder), "--parallel", "2", env=env), before)


def test_the_sweep_ends_with_a_confirmed_winner(sweep):
    assert sweep.done.code == 0, sweep.done.out + sweep.done.err
    data = sweep.data
    assert [(trial["state"], trial["seed"]) for trial in data["trials"]] == [("done", seed) for seed in (42, 43)] * 4
    choice = data["choice"]
    assert (choice["rule"], choice["chosen_from"], choice["units"]) == ("confirmed", 4, 40)
    assert len(choice["winner"]["trials"]) == 2
    assert choice["winner"]["verdict"] in {"better", "not shown", "worse"}
    assert choice["gate"]["passed"] is True
    assert "confirmed on the other, 40 rows" in sweep.done.out


def test_no_finished_trial_is_repeated(sweep):
    for number, finished in sweep.before.items():
        state = sweep.folder / "trials" / f"{number:03d}" / "state.json"
        assert json.loads(state.read_text())["finished"] == finished
        assert [event["type"] for event in sweep.events(number)].count("run_started") == 1
    assert [event["type"] for event in sweep.events(KILLED)].count("run_started") == 2
    assert 8 <= count_starts(sweep)["03-train"] <= 9  # the killed one was followed to its end, or went on


def count_starts(sweep) -> Counter[str]:
    events = (event for number in range(8) for event in sweep.events(number))
    return Counter(event["stage"] for event in events if event["type"] == "stage_started")


def test_data_and_baseline_are_made_once_and_shared_by_content(sweep):
    starts = count_starts(sweep)
    assert 2 <= starts["01-prepare"] <= 3  # cached_mnrl asks for batches of another kind; its first two ran at once
    assert starts["02-baseline-native"] == 1
    first, second, last = (sweep.folder / "trials" / name for name in ("000", "001", "007"))
    assert (first / "data/train.jsonl").stat().st_ino == (second / "data/train.jsonl").stat().st_ino
    scoring = (last / "stages/02-baseline-native/output/scoring.json").read_text(encoding="utf-8")
    assert "trials/000" not in scoring


def test_trials_differ_by_setting_and_by_seed(sweep):
    metrics = {(*trial["set"].values(), trial["seed"]): trial["metric"] for trial in sweep.data["trials"]}
    assert len(metrics) == 8
    assert len(set(metrics.values())) > 3


def test_a_trial_is_a_run_like_any_other(sweep):
    winner = sweep.data["choice"]["winner"]["trials"][0]
    shown = orch("show", f"{winner:03d}", "--runs", str(sweep.folder / "trials"), "--json")
    assert shown.data["status"] == "done"
    dry = orch("reproduce", str(sweep.folder / "trials" / f"{winner:03d}"), "--dry-run")
    assert (dry.code, dry.out.strip()) == (0, "nothing has changed since")


def test_the_board_shows_the_sweep(sweep, tmp_path):
    page = tmp_path / "board.html"
    shown = orch("board", "--runs", str(sweep.folder.parent), "-o", str(page))
    assert shown.code == 0, shown.out + shown.err
    assert "cached_mnrl" in page.read_text(encoding="utf-8")


def test_a_finished_sweep_is_taken_up_and_trains_nothing(sweep):
    events = (sweep.folder / "trials" / "007" / "events.jsonl").stat().st_size
    again = orch("resume", str(sweep.folder), "--json")
    assert again.code == 0, again.out + again.err
    assert again.data["choice"] == sweep.data["choice"]
    assert (sweep.folder / "trials" / "007" / "events.jsonl").stat().st_size == events
    changed = orch("sweep", str(sweep.recipe), "--seeds", "3", "-o", str(sweep.folder))
    assert changed.code == 9
    assert "holds another sweep" in changed.err
