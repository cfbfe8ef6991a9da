"""Sweeps: what sweep.json holds, which settings a recipe and a command line ask for, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from orchestrator.cli import main
from orchestrator.errors import OrchError, RecipeError, RunFolderError, Where
from orchestrator.machine.hardware import CPU
from orchestrator.plan.sweep import (
    Range,
    build_grid,
    draw_settings,
    plan_sweep,
    read_choices,
    require_bounded,
    split_override,
    write_override,
)
from orchestrator.recipe.source import parse_value
from orchestrator.run.study import STORAGE, Study
from orchestrator.run.sweep import (
    DONE,
    FAILED,
    PRUNED,
    Sweep,
    Trial,
    is_sweep,
    load_sweep,
    trial_dir,
    write_sweep,
)
from orchestrator.run.sweeping import Trials


def build_sweep() -> Sweep:
    trials = [
        Trial(0, "trials/000", {"train.learning_rate": 1e-5}, 42, 0, DONE, 0.8, 0.1, (0.02, 0.18)),
        Trial(1, "trials/001", {"train.learning_rate": 2e-5}, 42, 1),
    ]
    return Sweep("/recipes/a.yaml", ["train.learning_rate"], 1, trials, {"set": ["train.learning_rate=1e-5,2e-5"]})


def test_a_sweep_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert not is_sweep(tmp_path)
    write_sweep(tmp_path, build_sweep())
    assert is_sweep(tmp_path)
    assert load_sweep(tmp_path) == build_sweep()
    assert trial_dir(tmp_path, build_sweep().trials[1]).root == tmp_path / "trials" / "001"


def test_a_folder_without_a_sweep_is_said(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="is not a sweep"):
        load_sweep(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        ('{"recipe": "a"}', "cannot be read"),
        ('{"recipe": "a", "parameters": [], "seeds": 1, "trials": [], "format": 2}', "has format 2"),
    ],
)
def test_a_damaged_sweep_is_one_clear_error(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "sweep.json").write_text(text, encoding="utf-8")
    with pytest.raises(RunFolderError, match=said):
        load_sweep(tmp_path)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("a=1e-5,2e-5", (1e-5, 2e-5)),
        ("a=mnrl, gist", ("mnrl", "gist")),
        ("a=[q_proj],[q_proj, v_proj]", (["q_proj"], ["q_proj", "v_proj"])),
        ("a=[q_proj, v_proj]", (["q_proj", "v_proj"],)),
        ("a={type: mnrl, hard_negatives: 1},gist", ({"type": "mnrl", "hard_negatives": 1}, "gist")),
        ("a=\"Given a query, find\",''", ("Given a query, find", "")),
        ("a=a[1].jsonl", ("a[1].jsonl",)),
        ("a=true,null,3", (True, None, 3)),
        ("a=5,5,6", (5, 6)),
    ],
)
def test_commas_part_values_but_not_in_quotes_and_brackets(text, values):
    key, found = split_override(text)
    assert read_choices(key, found) == values
    for value in values:  # what `orch run --set` makes of it
        read, problems = parse_value(write_override(key, value).removeprefix("a="), Where("a"))
        assert (read_choices(key, [read]), problems) == ((value,), [])


def test_a_range_holds_all_numbers_between_two():
    assert read_choices("a", ["1e-6..1e-4 log"]) == Range(1e-6, 1e-4, log=True)
    assert read_choices("a", ["2..8"]) == Range(2, 8)
    for wrong in ("4..4", "5..1", "0..1 log", "-1..1 log"):
        with pytest.raises(RecipeError, match="holds no number"):
            read_choices("a", [wrong])
    with pytest.raises(RecipeError, match="no end of values"):
        list(build_grid({"a": Range(1, 2)}))
    with pytest.raises(RecipeError, match="no values"):
        read_choices("a", [])


def test_draws_are_different_within_their_range_and_the_same_each_time():
    parameters = {"rate": Range(1e-6, 1e-2, log=True), "rank": Range(4, 64), "loss": ("a", "b")}
    drawn = draw_settings(parameters, 40)
    assert drawn == draw_settings(parameters, 40)
    assert len(drawn) == 40
    assert all(1e-6 <= one["rate"] <= 1e-2 and one["rank"] in range(4, 65) for one in drawn)
    assert 10 < sum(one["rate"] < 1e-4 for one in drawn) < 30  # evenly by the logarithm
    assert len(draw_settings({"loss": ("a", "b"), "rank": (1, 2)}, 9)) == 4


def test_an_endless_grid_says_how_many_it_has():
    parameters = {"a": tuple(range(10)), "b": tuple(range(10))}
    require_bounded(parameters, 1, None)
    require_bounded(parameters, 3, 50)
    with pytest.raises(RecipeError, match=r"300 trainings \(10 × 10 × 3\)"):
        require_bounded(parameters, 3, None)


def take_up(planned, folder):
    return Trials.take_up(planned, folder).sweep


def ask(recipe, *sets, **options):
    names = ("seeds", "random", "optuna", "max_trials", "max_hours")
    asked = dict.fromkeys(names) | {"set": list(sets), "smoke": True, "hardware": "auto"} | options
    return plan_sweep(recipe, asked, CPU)


@pytest.fixture
def recipe(recipes, tmp_path):
    text = (recipes / "minilm_embedding.yaml").read_text(encoding="utf-8")
    path = tmp_path / "r.yaml"
    path.write_text(text.replace("../datasets_example", str(recipes.parent / "datasets_example")), encoding="utf-8")
    return path


def test_the_command_line_goes_before_the_recipe(recipe):
    said = "sweep:\n  set:\n    train.learning_rate: [1e-5, 2e-5]\n    loss: [mnrl, gist]\n  seeds: 3\n"
    recipe.write_text(recipe.read_text(encoding="utf-8") + said, encoding="utf-8")
    planned = ask(recipe)
    assert planned.parameters == {"train.learning_rate": (1e-5, 2e-5), "loss": ("mnrl", "gist")}
    assert (len(planned.settings), planned.seeds) == (4, 3)
    planned = ask(recipe, "loss=mnrl", "train.learning_rate=3e-5,4e-5,5e-5", seeds=1, max_trials=2)
    assert [setting["train.learning_rate"] for setting in planned.settings] == [3e-5, 4e-5, 5e-5]
    assert planned.budget.trials == 2
    assert planned.fixed == ("loss=mnrl",)
    assert ask(recipe, random=3).settings == ask(recipe, random=3).settings


def test_every_trial_is_a_command(recipe, tmp_path):
    planned = ask(recipe, "train.learning_rate=1e-5,2e-5", "train.max_length=64", seeds=2)
    trials = Trials.take_up(planned, tmp_path / "s")
    assert [trial.seed for trial in trials.sweep.trials] == [42, 43, 42, 43]
    words = trials.line(trials.sweep.trials[3]).command()
    assert words == (
        "orch", "run", str(recipe), "--set", "train.max_length=64", "--set", "train.learning_rate=2e-05",
        "--set", "train.seed=43", "--set", f"launch.env.HF_DATASETS_CACHE={tmp_path}/s/cache", "--smoke", "-o", str(tmp_path / "s" / "trials" / "003"),
    )  # fmt: skip
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("sets", "options", "said"),
    [
        ((), {}, "nothing to sweep over"),
        (
            ("train.learning_rat=1e-5,2e-5",),
            {},
            r"no trial can use train.learning_rat=1e-05 \(trial 0\): unknown argument",
        ),
        (("loss=mnrl,nono",), {}, r"no trial can use loss=nono \(trial 1\): loss: 'nono' is not one of"),
        (("data.eval=a.jsonl,b.jsonl",), {}, "measured on other rows"),
        (("data.eval=", "data.eval_ratio=0.2", "data.train=a.jsonl,b.jsonl"), {}, "measured on other rows"),
        (("train.seed=1,2",), {"seeds": 2}, "what --seeds sets"),
        (("train.learning_rate=1,2",), {"random": 2, "optuna": 2}, "two ways to search"),
        (("train.learning_rate=1e-6..1e-5",), {}, "no end of values"),
        (("train.max_length",), {"seeds": 2}, "not of the form"),
    ],
)
def test_what_cannot_be_swept_is_one_clear_error(recipe, tmp_path, sets, options, said):
    with pytest.raises(OrchError, match=said) as caught:
        take_up(ask(recipe, *sets, **options), tmp_path / "s")
    assert caught.value.exit_code == 2
    assert len(caught.value.problems) == 1
    assert not (tmp_path / "s").exists()


def test_a_setting_that_cannot_be_run_has_failed_and_the_others_go_on(recipe, tmp_path):
    """hard_negatives belongs to mnrl: only one of four settings asks for what there is not."""
    planned = ask(recipe, "loss.type=mnrl,cached_mnrl", "loss.mini_batch_size=null,8")
    sweep = take_up(planned, tmp_path / "s")
    assert [trial.state for trial in sweep.trials] == ["waiting", FAILED, "waiting", "waiting"]
    assert "mini_batch_size" in sweep.trials[1].note


def test_a_larger_budget_adds_settings_of_a_large_grid(recipe, tmp_path):
    rates = "train.learning_rate=" + ",".join(str(number) for number in range(1, 121))
    sweep = take_up(ask(recipe, rates, max_trials=2), tmp_path / "s")
    assert len(sweep.trials) == 100
    write_sweep(tmp_path / "s", sweep)
    assert [
        trial.set["train.learning_rate"] for trial in take_up(ask(recipe, rates, max_trials=110), tmp_path / "s").trials
    ] == list(range(1, 111))


def test_another_sweep_on_the_folder_is_refused(recipe, tmp_path):
    planned = ask(recipe, "train.learning_rate=1e-5,2e-5")
    write_sweep(tmp_path / "s", take_up(planned, tmp_path / "s"))
    assert len(take_up(planned, tmp_path / "s").trials) == 2
    with pytest.raises(RunFolderError, match="holds another sweep"):
        take_up(ask(recipe, "train.learning_rate=1e-5,3e-5"), tmp_path / "s")
    recipe.write_text(recipe.read_text(encoding="utf-8") + "# changed\n", encoding="utf-8")
    with pytest.raises(RunFolderError, match="has changed since"):
        take_up(ask(recipe, "train.learning_rate=1e-5,2e-5"), tmp_path / "s")


# Optuna


@pytest.fixture
def study_of(recipe, tmp_path):
    planned = ask(recipe, "train.learning_rate=1e-6..1e-3 log", "loss=mnrl,[a]", optuna=3, seeds=2)
    return lambda: Study(tmp_path, planned)


def finish(study, sweep, values):
    """Ask for one more setting, and end its trainings with these values."""
    sweep.add(study.ask(sweep), 42)
    for trial, value in zip(sweep.settings()[-1], values, strict=True):
        trial.state, trial.metric = (DONE, value) if value is not None else (FAILED, None)
    study.tell(sweep, sweep.settings()[-1][0].setting)


def test_a_study_asks_for_settings_and_hears_the_mean_of_their_trainings(study_of):
    study, sweep = study_of(), Sweep("r", [], 2, [])
    finish(study, sweep, (0.5, 0.7))
    finish(study, sweep, (0.4, None))
    finish(study, sweep, (None, None))
    assert study.ask(sweep) is None
    states = [(trial.state.name, trial.value) for trial in study._study.trials]
    assert [state for state, _ in states] == ["COMPLETE", "COMPLETE", "FAIL"]
    assert [value for _, value in states[:2]] == pytest.approx([0.6, 0.4])
    assert all(1e-6 <= trial.set["train.learning_rate"] <= 1e-3 for trial in sweep.trials)
    assert all(trial.set["loss"] in ("mnrl", ["a"]) for trial in sweep.trials)


def test_a_study_that_was_killed_asks_again_for_what_it_had_asked(study_of, tmp_path):
    sweep = Sweep("r", [], 2, [])
    finish(study_of(), sweep, (0.5, 0.7))
    asked = study_of().ask(sweep)  # and killed before it was written down
    study = study_of()
    assert study.ask(sweep) == asked
    finish(study, sweep, (0.1, 0.2))
    assert len(study._study.trials) == 2
    (tmp_path / STORAGE).unlink()  # made anew from the sweep
    study = study_of()
    study.ask(sweep)
    assert [trial.value for trial in study._study.trials[:2]] == pytest.approx([0.6, 0.15])


def test_a_damaged_storage_is_one_clear_error(study_of, tmp_path):
    study_of()
    (tmp_path / STORAGE).write_text('{"op_code": 0,\nnonsense\n{}\n', encoding="utf-8")
    with pytest.raises(RunFolderError, match="Optuna's storage cannot be read"):
        study_of()


def test_a_pruned_setting_is_told_as_pruned(study_of):
    study, sweep = study_of(), Sweep("r", [], 2, [])
    sweep.add(study.ask(sweep), 42)
    for trial in sweep.trials:
        trial.state = PRUNED
    study.tell(sweep, 0)
    assert study._study.trials[0].state.name == "PRUNED"
    assert math.isfinite(sweep.trials[0].set["train.learning_rate"])


def test_a_sweep_is_stopped_by_its_trials_that_are_not_over(tmp_path, monkeypatch, capsys):
    trials = [Trial(number, f"trials/{number:03d}", {}, 42, number) for number in range(3)]
    trials[0].state = "done"
    write_sweep(tmp_path, Sweep("r.yaml", [], 1, trials))
    for name in ("000", "001"):  # the last one has not begun
        (tmp_path / "trials" / name).mkdir(parents=True)
    stopped = []
    monkeypatch.setattr(
        "orchestrator.cli.folder_commands.stop_run", lambda run, **_: stopped.append(run.root.name) or "asked"
    )
    with pytest.raises(SystemExit) as ended:
        main(["stop", str(tmp_path)])
    assert (ended.value.code, stopped) == (0, ["001"])
    assert capsys.readouterr().out == "trials/001: asked\n"


def test_trials_at_once_are_refused_where_they_would_share_one_gpu(recipe):
    for options, sets in (({"hardware": "gpu:2"}, ()), ({}, ('launch.env.CUDA_VISIBLE_DEVICES="0"',))):
        with pytest.raises(RecipeError, match="trials at once share the GPUs"):
            ask(recipe, "train.learning_rate=1e-5,2e-5", *sets, parallel=2, **options)
    with pytest.raises(RecipeError, match="Optuna chooses each setting"):
        ask(recipe, "train.learning_rate=1e-5,2e-5", parallel=2, optuna=3)
