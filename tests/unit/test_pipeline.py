"""A job becomes stages: a teacher's in front of the data, guards' around the training, both small in a smoke run."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from orchestrator.backends.models import BaseModel
from orchestrator.evaluation.metrics import scoring_stages
from orchestrator.machine.hardware import CPU
from orchestrator.machine.rundir import RunDir
from orchestrator.plan.pipeline import build_plan
from orchestrator.recipe.plan import plan_from_json
from orchestrator.run.resume import list_inputs

LABELLED = {"query": "q", "content": "a", "label": 1}
SCORED = {"sentence1": "a", "sentence2": "b", "score": 0.5}
PLAIN = """\
name: toy
task: reranker
backend: sentence-transformers
model: BAAI/bge-reranker-base
data: {train: train.jsonl, eval: eval.jsonl}
"""
DISTILLED = PLAIN + "loss: margin_mse\nteacher: Qwen/Qwen3-Reranker-4B\n"
GUARDED = PLAIN + 'evaluate: {guard: {general: {data: guard.jsonl, gate: {ndcg@10: ">= baseline - 0.02"}}}}\n'
EMBEDDING = """\
name: toy
task: embedding
backend: swift
model: Qwen/Qwen3-Embedding-0.6B
data: {train: train.jsonl, eval: eval.jsonl}
loss: infonce
evaluate: {guard: {general: guard.jsonl}}
"""


@pytest.fixture
def plan_of(build_toy_job):
    def plan_of(text: str, *, smoke: bool = False, **rows):
        return build_plan(build_toy_job(text, CPU, smoke=smoke, **rows))

    return plan_of


def kinds(plan):
    return [stage.kind for stage in plan.stages]


def option(stage, name):
    argv = stage.command.argv
    return argv[argv.index(name) + 1]


def rows_of(stage, name="--rows"):
    """Return the values of a list of files."""
    argv = stage.command.argv
    values = argv[argv.index(name) + 1 :]
    return values[: next((at for at, word in enumerate(values) if word.startswith("--")), len(values))]


def test_a_plan_without_teacher_and_guards_has_the_stages_that_it_always_had(plan_of):
    assert kinds(plan_of(PLAIN)) == [
        "prepare", "baseline-trained-format", "train", "package", "evaluate", "report",
    ]  # fmt: skip


def test_a_teacher_scores_before_the_data_are_prepared_and_is_the_last_baseline(plan_of):
    assert kinds(plan_of(DISTILLED)) == [
        "teacher-pairs", "teacher-scores", "teacher", "prepare", "baseline-trained-format", "baseline-teacher",
        "train", "package", "evaluate", "report",
    ]  # fmt: skip


def test_each_of_the_teacher_s_stages_reads_what_the_one_before_wrote(plan_of, tmp_path):
    plan = plan_of(DISTILLED)
    pairs, scores, join = (plan.stage(kind) for kind in ("teacher-pairs", "teacher-scores", "teacher"))
    raw = str(tmp_path / "train.jsonl")
    assert rows_of(pairs) == rows_of(join) == (raw,)
    assert option(scores, "--pairs") == pairs.outputs[0]
    assert option(join, "--scores") == scores.outputs[0]
    assert rows_of(plan.stage("prepare"), "--train") == join.outputs
    assert rows_of(plan.stage("prepare"), "--eval") == (str(tmp_path / "eval.jsonl"),)


def test_a_teacher_s_stage_runs_again_when_what_it_reads_has_changed(plan_of, tmp_path):
    plan = plan_of(DISTILLED)
    pairs, scores, join = (plan.stage(kind) for kind in ("teacher-pairs", "teacher-scores", "teacher"))
    raw = str(tmp_path / "train.jsonl")
    assert raw in list_inputs(plan, pairs)
    assert set(pairs.outputs) <= set(list_inputs(plan, scores))
    assert {raw, scores.outputs[0]} <= set(list_inputs(plan, join))
    assert set(join.outputs) <= set(list_inputs(plan, plan.stage("prepare")))
    assert scores.files == plan.stage("baseline-teacher").files == ("files/scoring.teacher.json",)


def test_a_local_teacher_s_folder_decides_its_scores(build_toy_job):
    job = build_toy_job(DISTILLED, CPU)
    teacher = BaseModel("mine", "/models/mine", None, "encoder", "cross-encoder")
    plan = build_plan(replace(job, teacher=teacher))
    assert "/models/mine" in plan.stage("teacher-scores").inputs
    assert option(plan.stage("baseline-teacher"), "--model") == "/models/mine"


def test_only_a_stage_whose_model_is_here_is_kept_from_the_hub(build_toy_job, tmp_path):
    job = build_toy_job(DISTILLED, CPU)
    plan = build_plan(replace(job, model=replace(job.model, folder=tmp_path)))
    offline = {stage.kind for stage in plan.stages if dict(stage.command.env).get("HF_HUB_OFFLINE")}
    assert "baseline-trained-format" in offline
    assert not {"teacher-scores", "baseline-teacher"} & offline


def test_renamed_columns_reach_the_teacher_s_stages(plan_of):
    text = DISTILLED.replace("eval: eval.jsonl", "eval: eval.jsonl, columns: {query: question}")
    plan = plan_of(text)
    for kind in ("teacher-pairs", "teacher"):
        assert option(plan.stage(kind), "--columns") == "query=question"


def test_keys_that_are_not_needed_reach_every_stage_that_reads_rows(plan_of):
    ignoring = ", ignore: [context, id]}"
    for text, stages in (
        (DISTILLED, ("teacher-pairs", "teacher", "prepare")),
        (GUARDED, ("prepare", "guard-general-data")),
    ):
        plan = plan_of(text.replace("eval: eval.jsonl}", f"eval: eval.jsonl{ignoring}"), guard=LABELLED)
        assert [rows_of(plan.stage(kind), "--ignore") for kind in stages] == [("context", "id")] * len(stages)


@pytest.mark.parametrize(("said", "flag"), [("true", "--scores-as-labels"), ("false", "--no-scores-as-labels")])
def test_what_the_rows_scores_are_reaches_the_stages_that_read_labels(plan_of, said, flag):
    plan = plan_of(
        GUARDED.replace("eval: eval.jsonl}", f"eval: eval.jsonl, scores_as_labels: {said}}}"), guard=LABELLED
    )
    assert flag in plan.stage("prepare").command.argv
    assert flag not in plan_of(PLAIN).stage("prepare").command.argv


def test_a_teacher_s_scores_are_kept_across_runs_unless_it_is_tiny(plan_of):
    assert option(plan_of(DISTILLED).stage("teacher-scores"), "--cache").endswith("/orch/teacher")
    assert "--cache" not in plan_of(DISTILLED, smoke=True).stage("teacher-scores").command.argv


def test_a_smoke_run_has_a_tiny_teacher_of_another_seed_and_scores_few_rows(plan_of):
    plan = plan_of(DISTILLED, smoke=True)
    tiny = plan.stage("tiny-teacher")
    assert kinds(plan)[:5] == ["teacher-pairs", "tiny-teacher", "teacher-scores", "teacher", "prepare"]
    assert (option(tiny, "--like"), option(tiny, "--seed")) == ("decoder", "7")
    assert option(tiny, "--texts") == plan.stage("teacher-pairs").outputs[0]
    assert {option(plan.stage(kind), "--limit") for kind in ("teacher-pairs", "teacher")} == {"16"}
    model = option(tiny, "--out")
    assert [option(plan.stage(kind), "--model") for kind in ("teacher-scores", "baseline-teacher")] == [model, model]


def test_a_smoke_run_scores_enough_rows_for_every_side_that_is_split_off(plan_of):
    text = DISTILLED.replace("eval: eval.jsonl", "eval_ratio: 0.1, validation_ratio: 0.5")
    assert int(option(plan_of(text, smoke=True).stage("teacher"), "--limit")) >= 2 * 12 / 0.1


def test_a_smoke_run_takes_its_own_tiny_model_and_trains_in_the_folder_that_was_said(plan_of):
    plan = plan_of(DISTILLED + "evaluate: {guard: {general: guard.jsonl}}\n", smoke=True, guard=LABELLED)
    tiny, train = plan.stage("tiny-model"), plan.stage("train")
    assert option(plan.stage("baseline-trained-format"), "--model") == option(tiny, "--out")
    assert all(f"/stages/{train.name}/output" in path for path in train.outputs)


def test_a_guard_is_checked_before_the_training_and_measured_before_and_after_it(plan_of):
    assert kinds(plan_of(GUARDED, guard=LABELLED)) == [
        "prepare", "guard-general-data", "baseline-trained-format", "train", "package", "evaluate",
        "guard-general-before", "guard-general-after", "report",
    ]  # fmt: skip


def test_a_guard_is_scored_by_the_reference_s_format_and_by_the_packaged_model_s_own(plan_of, tmp_path):
    plan = plan_of(GUARDED, guard=LABELLED)
    run = RunDir(tmp_path / "run")
    before, after = plan.stage("guard-general-before"), plan.stage("guard-general-after")
    assert option(before, "--model") == "BAAI/bge-reranker-base"
    assert before.files == plan.stage("baseline-trained-format").files
    assert option(after, "--model") == str(run.model)
    assert option(before, "--data") == option(after, "--data") == str(run.guard("general") / "eval.jsonl")
    assert {"data/guard/general/eval.jsonl", f"{run.model}/scoring.json"} <= set(after.inputs)


def test_an_overlap_is_kept_where_the_recipe_says_so(plan_of):
    plain = EMBEDDING.replace("evaluate: {guard: {general: guard.jsonl}}\n", "")
    assert "--allow-overlap" not in plan_of(plain).stage("prepare").command.argv
    kept = plan_of(plain.replace("eval: eval.jsonl", "eval: eval.jsonl, overlap: keep"))
    assert "--allow-overlap" in kept.stage("prepare").command.argv


def test_a_guard_s_data_are_read_as_those_of_the_evaluation(plan_of, tmp_path):
    text = GUARDED.replace("eval: eval.jsonl", "eval: eval.jsonl, max_label: 2, max_dropped: 3, seed: 7")
    stage = plan_of(text, guard=LABELLED).stage("guard-general-data")
    words = ("--kind", "--max-label", "--min-label", "--max-dropped", "--seed")
    assert [option(stage, word) for word in words] == ["labelled", "2.0", "0.0", "3", "7"]
    assert rows_of(stage, "--eval") == stage.inputs == (str(tmp_path / "guard.jsonl"),)
    assert stage.outputs[0] == "data/guard/general/eval.jsonl"


def test_a_guard_without_labels_has_none_to_scale(plan_of):
    text = GUARDED.replace("eval: eval.jsonl", "eval: eval.jsonl, max_label: 2")
    plan = plan_of(text, guard={"query": "q", "pos": ["a"], "neg": ["b"]})
    assert "--max-label" not in plan.stage("guard-general-data").command.argv
    assert option(plan.stage("prepare"), "--max-label") == "2.0"


def test_an_embedding_model_searches_a_guard_s_own_corpus(plan_of):
    plan = plan_of(EMBEDDING, guard={"query": "q", "pos": ["a"], "neg": ["b"]})
    assert "--corpus" in plan.stage("guard-general-data").command.argv
    for kind in ("guard-general-before", "guard-general-after"):
        assert option(plan.stage(kind), "--corpus").endswith("/data/guard/general/corpus.jsonl")


def test_a_guard_of_pairs_has_no_corpus(plan_of):
    plan = plan_of(EMBEDDING, guard=SCORED)
    assert "--corpus" not in plan.stage("guard-general-data").command.argv
    assert "--corpus" not in plan.stage("guard-general-after").command.argv
    assert "--corpus" in plan.stage("evaluate").command.argv


def test_a_guard_of_a_hub_is_fetched_first(plan_of):
    plan = plan_of(PLAIN + "evaluate: {guard: {general: 'owner/name:test'}}\n")
    assert kinds(plan)[0] == "fetch"
    assert plan.stage("guard-general-data").inputs == plan.stage("fetch").outputs


def test_a_smoke_run_reads_few_rows_of_a_guard_and_has_no_gate_there(plan_of):
    plan = plan_of(GUARDED, smoke=True, guard=LABELLED)
    assert option(plan.stage("guard-general-data"), "--limit-eval") == "12"
    assert plan.recipe["evaluate"]["guard"]["general"]["gate"] == {}


def test_without_baselines_a_guard_is_measured_in_the_training_s_format(plan_of):
    plan = plan_of(PLAIN + "evaluate: {baselines: [], guard: {general: guard.jsonl}}\n", guard=LABELLED)
    assert plan.stage("guard-general-before").files == ("files/scoring.trained-format.json",)
    assert plan.file("files/scoring.trained-format.json")


def test_teachers_and_guards_are_no_systems_of_the_run_s_evaluation_but_the_teacher_s_baseline(plan_of):
    plan = plan_of(DISTILLED + "evaluate: {guard: {general: guard.jsonl}}\n", guard=LABELLED)
    assert list(scoring_stages(plan)) == ["trained-format", "teacher", "tuned"]


def test_the_report_reads_every_scored_file(plan_of):
    plan = plan_of(DISTILLED + "evaluate: {guard: {general: guard.jsonl}}\n", guard=LABELLED)
    read = [path.split("/")[1].split("-", 1)[1] for path in plan.stage("report").inputs]
    assert read == [
        "baseline-trained-format", "baseline-teacher", "evaluate", "guard-general-before", "guard-general-after",
    ]  # fmt: skip


def test_every_stage_has_a_folder_of_its_own_and_survives_json(plan_of):
    plan = plan_of(DISTILLED + "evaluate: {guard: {a: guard.jsonl, a-data: guard.jsonl}}\n", guard=LABELLED)
    assert len({stage.kind for stage in plan.stages}) == len(plan.stages)
    assert plan_from_json(plan.to_json()) == plan


EXPORTED = PLAIN + 'export: {forms: [onnx, onnx-int8, onnx], gate: {ndcg@10: ">= source - 0.005"}, python: python3}\n'


def test_each_form_is_a_command_between_evaluation_and_report_in_the_exporter_s_python(plan_of):
    plan = plan_of(EXPORTED)
    assert kinds(plan)[-4:] == ["evaluate", "export-onnx", "export-onnx-int8", "report"]
    stage, report = plan.stages[-2:]
    assert Path(stage.command.argv[0]).name == "python3"
    assert option(stage, "--out") == f"{plan.run_dir}/export/onnx-int8"
    assert {"data/eval.jsonl", "model/scoring.json"} <= set(stage.inputs)
    assert "export/onnx-int8/scoring.json" in stage.outputs
    assert f"{stage.folder}/output/scores.jsonl" in report.inputs
    assert plan.recipe["export"]["gate"] == {"ndcg@10": ">= source - 0.005"}


def test_a_smoke_run_exports_without_a_gate(plan_of):
    plan = plan_of(EXPORTED, smoke=True)
    assert kinds(plan)[-3:] == ["export-onnx", "export-onnx-int8", "report"]
    assert plan.recipe["export"]["gate"] == {}


def test_a_recipe_without_exports_says_nothing_of_them(plan_of):
    assert "export" not in plan_of(PLAIN).recipe
