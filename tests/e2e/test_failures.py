"""What goes wrong goes wrong early, once, and with a way out: exit codes through the command line."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from tests.e2e.conftest import ENV, orch

ROW = '{"query": "q%d", "pos": ["p%d"], "neg": ["n%d"]}\n'


@pytest.fixture
def toy(tmp_path, root):
    (tmp_path / "train.jsonl").write_text("".join(ROW % (i, i, i) for i in range(12)))
    (tmp_path / "eval.jsonl").write_text("".join(ROW % (i, i, i) for i in range(20, 24)))
    recipe = (root / "recipes" / "demo_reranker.yaml").read_text()
    recipe = recipe.replace("../datasets_example/demo.train", "train").replace("../datasets_example/demo.eval", "eval")
    (tmp_path / "recipe.yaml").write_text(recipe)
    return tmp_path


def test_a_recipe_with_mistakes_ends_with_2_and_names_them_all(toy):
    path = toy / "recipe.yaml"
    path.write_text(
        path.read_text().replace("learning_rate:", "learning_rat:").replace("name: demo-reranker", "nmae: demo")
    )
    done = orch("run", str(path), "-o", str(toy / "run"))
    assert done.code == 2
    assert "3 problems" in done.err
    assert "did you mean 'learning_rate'?" in done.err
    assert not (toy / "run").exists()


def test_errors_are_json_for_programs(toy):
    done = orch("check", str(toy / "nowhere.yaml"), "--json")
    assert done.code == 2
    error = json.loads(done.out)["error"]
    assert error["exit_code"] == 2
    assert "orch init" in error["problems"][0]["hint"]


def test_a_bad_row_ends_with_3_names_its_line_and_trains_nothing(toy):
    with (toy / "train.jsonl").open("a") as stream:
        stream.write('{"query": "q", "pos": "not a list", "neg": ["n"]}\n')
    done = orch("run", str(toy / "recipe.yaml"), "-o", str(toy / "run"))
    assert done.code == 3, done.err
    assert "train.jsonl:13" in done.err
    assert not (toy / "run" / "data" / "train.jsonl").exists()


def test_a_backend_that_is_not_installed_ends_with_4_and_the_install_command(toy):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(toy / "bare")], check=True)
    done = orch(
        "run", str(toy / "recipe.yaml"), "--set", f"launch.python={toy}/bare/bin/python", "-o", str(toy / "run")
    )
    assert done.code == 4
    assert "bin/python -m pip install FlagEmbedding torch transformers peft sentence-transformers" in done.err
    assert not (toy / "run").exists()


def test_a_model_that_is_nowhere_ends_with_4_before_anything_runs(toy):
    done = orch("run", str(toy / "recipe.yaml"), "--set", "model=Qwen/Qwen3-Reranker-0.6B", "-o", str(toy / "run"))
    assert done.code == 4
    assert "--smoke" in done.err
    assert not (toy / "run").exists()


@pytest.mark.smoke
def test_a_failing_trainer_ends_with_6_and_the_cause_its_evidence_and_the_log(toy):
    # what a removal that broke off leaves: a package that is listed, and cannot be imported
    broken = toy / "broken" / "bitsandbytes-0.46.0.dist-info"
    broken.mkdir(parents=True)
    (broken / "METADATA").write_text("Metadata-Version: 2.1\nName: bitsandbytes\nVersion: 0.46.0\n")
    overrides = [
        "train.optim=adamw_bnb_8bit",
        "evaluate.baselines=[]",
        "gate={}",
        "train.per_device_train_batch_size=2",
    ]
    flags = [word for item in overrides for word in ("--set", item)]
    env = {**ENV, "PYTHONPATH": str(broken.parent)}
    done = orch("run", str(toy / "recipe.yaml"), *flags, "-o", str(toy / "run"), env=env)
    assert done.code == 6, done.out + done.err
    assert "bitsandbytes" in done.err
    assert "02-train/std" in done.err
    assert "Traceback" not in done.err


def test_a_folder_that_is_no_run_ends_with_9(toy):
    (toy / "run").mkdir()
    (toy / "run" / "precious.txt").write_text("mine")
    done = orch("run", str(toy / "recipe.yaml"), "-o", str(toy / "run"))
    assert done.code == 9
    assert (toy / "run" / "precious.txt").read_text() == "mine"


def test_a_missing_run_ends_with_9_and_says_how_to_list(tmp_path):
    done = orch("resume", "none", "--runs", str(tmp_path))
    assert done.code == 9
    assert "orch ls" in done.err


def test_an_unknown_command_is_answered_with_the_nearest(tmp_path):
    done = orch("rum", cwd=tmp_path)
    assert done.code == 2
    assert "did you mean run?" in done.err


def test_refusing_a_recipe_takes_no_model_and_little_time(toy):
    path = toy / "recipe.yaml"
    path.write_text("name: [")
    begin = time.process_time()
    assert orch("check", str(path)).code == 2
    assert time.process_time() - begin < 5  # of this process; the claim itself is measured in benchmarks/
