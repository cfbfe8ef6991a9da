"""Native commands held against their parsers: by a snapshot, by what the installed backend says, and every refusal."""

from __future__ import annotations

import importlib
import json
import sys
from argparse import ArgumentParser

import pytest
from msgspec.structs import replace

from orchestrator.backends.arguments import items_of
from orchestrator.checks import CHECKS
from orchestrator.checks.arguments import check_arguments, find_command
from orchestrator.plan.pipeline import build_plan
from orchestrator.workers.__main__ import WORKERS as NAMED
from orchestrator.workers.__main__ import load_worker
from tests.backends.take_snapshots import SNAPSHOT_OF
from tests.jobs import TESTED
from tests.shipped import NAMES, build_shipped_job

UNSEEN = TESTED | {"transformers": "5.99.0", "sentence-transformers": "6.2.0"}
# Stands where the workers do, and is run by a real interpreter: it counts, and prints or fails as it is told.
WORKERS = """
import pathlib, sys
here = pathlib.Path(__file__).parent
with (here / "asked").open("a") as asked:
    asked.write(" ".join(sys.argv[1:]) + "\\n")
text = (here / f"{sys.argv[3]}.json").read_text()
sys.stdout.write(text)
sys.exit(not text)
"""


@pytest.fixture
def ask(tmp_path):
    """Return the problems of a recipe where the backend's Python answers with these arguments, or not at all."""
    (tmp_path / "workers.py").write_text(WORKERS)

    def ask(name="qwen3_reranker", *, without=(), answer=True, change=None):
        for module, snapshot in (
            ("FlagEmbedding.finetune.reranker.decoder_only.base", "flagembedding.decoder_only"),
            ("swift.cli.sft", "swift"),
            ("swift.cli.export", "swift_export"),
        ):
            items = [item for item in items_of(snapshot, 0) if item["name"] not in without]
            text = json.dumps({"module": module, "versions": {}, "arguments": items}) if answer else ""
            (tmp_path / f"{module}.json").write_text(text)
        job = replace(
            build_shipped_job(name, versions=UNSEEN),
            backend_python=sys.executable,
            workers=str(tmp_path / "workers.py"),
            cache_dir=str(tmp_path / "cache"),
        )
        plan = build_plan(job)
        return list(check_arguments(job, change(plan) if change else plan))

    return ask


@pytest.fixture
def asked(tmp_path):
    """Return how often the backend was asked, and for which module."""
    return lambda: (tmp_path / "asked").read_text().splitlines() if (tmp_path / "asked").exists() else []


def change_argv(change, kind="train"):
    """Return what makes a plan whose stage of that kind has another command line."""

    def changed(plan):
        stages = tuple(
            replace(stage, command=replace(stage.command, argv=tuple(change(list(stage.command.argv)))))
            if stage.kind == kind
            else stage
            for stage in plan.stages
        )
        return replace(plan, stages=stages)

    return changed


def check(name, change, *, kind="train", versions=TESTED):
    job = build_shipped_job(name, versions=versions)
    return list(check_arguments(job, change_argv(change, kind)(build_plan(job))))


def test_the_check_is_made_before_every_run():
    assert check_arguments in [check.find for check in CHECKS]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("gpus", [1, 2])
def test_every_shipped_recipe_passes_on_the_tested_set_without_asking_anybody(name, gpus, tmp_path, asked):
    job = build_shipped_job(name, versions=TESTED | {"sentence-transformers": "6.2.0"}, gpus=gpus)
    workers = tmp_path / "workers.py"
    workers.write_text(WORKERS)
    job = replace(job, backend_python=sys.executable, workers=str(workers), cache_dir=str(tmp_path / "cache"))
    assert list(check_arguments(job, build_plan(job))) == []
    assert asked() == []


@pytest.mark.parametrize(
    ("words", "says", "hint"),
    [
        (["--warmup_ratio", "0.1"], "there is no argument --warmup_ratio", "has it"),
        (["--learning_rat", "1"], "argparse would take it for --learning_rate", "say --learning_rate"),
        (["--learnin_rate", "1"], "there is no argument --learnin_rate", "did you mean --learning_rate?"),
        (["--learning_rate", "1"], "--learning_rate is given twice", "in the recipe: train.learning_rate"),
        (["--max_steps", "ten"], "--max_steps ten: expected a whole number", "orch render --explain"),
        (["--optim", "best"], "--optim best: one of ", "orch render --explain"),
    ],
)
def test_what_the_trainer_would_refuse_or_misread_is_said_with_stage_version_and_remedy(words, says, hint):
    (problem,) = check("qwen3_reranker", lambda argv: [*argv, *words])
    assert problem.message.startswith(f"{build_plan(build_shipped_job('qwen3_reranker')).stage('train').name}: ")
    assert says in problem.message
    assert "(FlagEmbedding 1.4.2 with transformers 5.19.0)" in problem.message
    assert hint in problem.hint


def test_what_may_not_be_missing_is_said():
    def drop(argv):
        place = argv.index("--model_name_or_path")
        return argv[:place] + argv[place + 2 :]

    (problem,) = check("qwen3_reranker", drop)
    assert "--model_name_or_path is missing" in problem.message


def test_the_merge_behind_the_worker_that_gives_it_a_fresh_folder_is_held_against_its_own_parser():
    (problem,) = check("qwen3_sft_lora", lambda argv: [*argv, "--learning_rate", "1"], kind="merge")
    assert "there is no argument --learning_rate" in problem.message


def test_what_continues_a_training_must_be_an_argument_too():
    job = build_shipped_job("qwen3_sft_lora")
    plan = build_plan(job)
    train = plan.stage("train")
    wrong = replace(train, resume=replace(train.resume, flag="--resume_here"))
    plan = replace(plan, stages=tuple(wrong if stage is train else stage for stage in plan.stages))
    (problem,) = check_arguments(job, plan)
    assert "--resume_here" in problem.message


def test_the_config_of_a_cross_encoder_is_held_against_its_trainer_s_arguments():
    job = build_shipped_job("bge_pointwise", versions=TESTED | {"sentence-transformers": "6.2.0"})
    plan = build_plan(job)
    config = json.loads(plan.file("files/train.json").text)
    config["arguments"] |= {"learnin_rate": 1, "num_train_epochs": "many"}
    changed = tuple(
        replace(file, text=json.dumps(config)) if file.path == "files/train.json" else file for file in plan.files
    )
    unknown, wrong = sorted(
        check_arguments(job, replace(plan, files=changed)), key=lambda one: one.message, reverse=True
    )
    assert "there is no argument --learnin_rate" in unknown.message
    assert "num_train_epochs: expected a number, got 'many'" in wrong.message


def test_a_backend_that_is_not_installed_is_for_another_check_to_say():
    job = build_shipped_job("qwen3_reranker", versions={})
    assert list(check_arguments(job, build_plan(job))) == []


def test_versions_without_a_snapshot_are_asked_once_and_kept(ask, asked, tmp_path):
    assert ask() == ask() == []
    assert asked() == ["arguments --module FlagEmbedding.finetune.reranker.decoder_only.base"]
    (kept,) = (tmp_path / "cache" / "arguments").iterdir()
    assert json.loads(kept.read_text())["arguments"]


def test_what_the_installed_version_itself_says_decides(ask):
    (problem,) = ask(without={"train_group_size"})
    assert "there is no argument --train_group_size (FlagEmbedding 1.4.2 with transformers 5.99.0)" in problem.message
    assert "in the recipe: train.train_group_size" in problem.hint
    assert "FlagEmbedding 1.4.2 with transformers 5.19.0 has it" in problem.hint


def test_what_orch_itself_sets_is_said_to_be_so(ask):
    (problem,) = ask(without={"ddp_timeout"})
    assert "Orch sets it: a lost process" in problem.hint


@pytest.mark.parametrize("text", ["", "{", "[]", '{"module": "another", "arguments": []}', '{"module": 1}', "\xff"])
def test_a_damaged_cache_is_read_anew(ask, asked, tmp_path, text):
    ask()
    (kept,) = (tmp_path / "cache" / "arguments").iterdir()
    whole = kept.read_text()
    kept.write_bytes(text.encode("latin-1"))
    assert ask() == []
    assert len(asked()) == 2
    assert kept.read_text() == whole


def test_a_cache_that_cannot_be_written_is_no_problem(ask, asked, tmp_path):
    (tmp_path / "cache").write_text("a file")
    assert ask() == ask() == []
    assert len(asked()) == 2


def test_a_backend_that_gives_no_answer_is_held_against_the_nearest_snapshot(ask, tmp_path):
    assert ask(answer=False) == []
    assert not (tmp_path / "cache").exists()
    (problem,) = ask(answer=False, change=change_argv(lambda argv: [*argv, "--no_such_thing", "1"]))
    assert "FlagEmbedding 1.4.2 with transformers 5.99.0" in problem.message
    assert "by FlagEmbedding 1.4.2 with transformers 5.23.0, the nearest one known" in problem.message


def test_both_commands_of_ms_swift_are_asked_for(ask, asked):
    assert ask("qwen3_sft_lora") == []
    assert [line.rpartition(" ")[2] for line in asked()] == ["swift.cli.sft", "swift.cli.export"]


class Parsed(BaseException):
    """Ends a worker once it has read its command line."""


def test_orch_s_own_stages_have_command_lines_that_their_own_parsers_take(monkeypatch):
    real = ArgumentParser.parse_args

    def parse(parser, args=None, namespace=None):
        real(parser, args, namespace)
        raise Parsed

    monkeypatch.setattr(ArgumentParser, "parse_args", parse)
    seen = set()
    for name in NAMES:
        for smoke in (False, True):
            for stage in build_plan(build_shipped_job(name, smoke=smoke)).stages:
                argv = stage.command.argv
                if "/orch/orchestrator/workers" in argv:
                    place = argv.index("/orch/orchestrator/workers")
                    module, words = f"orchestrator.workers.{argv[place + 1]}", argv[place + 2 :]
                elif find_command(stage, SNAPSHOT_OF) is None:
                    place = argv.index("-m")
                    module, words = argv[place + 1], argv[place + 2 :]
                else:
                    continue
                seen.add(module)
                if module == "orchestrator.report":  # takes a folder and has no parser
                    assert len(words) == 1
                    continue
                worker = module.removeprefix("orchestrator.workers.")
                main = load_worker(worker) if worker in NAMED else importlib.import_module(module).main
                with pytest.raises(Parsed):
                    main(list(words))
    assert len(seen) >= 9
    assert {"orchestrator.workers.fresh", "orchestrator.workers.score", "orchestrator.data.prepare"} <= seen
