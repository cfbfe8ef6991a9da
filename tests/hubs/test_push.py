"""`orch push`: what is sent of a judged run, and which runs are not."""

from __future__ import annotations

import json

import pytest
import yaml
from click.testing import CliRunner

from orchestrator.errors import GateMissedError, PreflightError, RunFolderError
from orchestrator.machine.files import write_json
from orchestrator.recipe.plan import Plan
from orchestrator.report.publish import build_model_index
from orchestrator.serving.push import Target, build_parcel, parse_target
from tests.hubs.conftest import CARD, METRICS

TO = Target("hf", "me/tuned")


def parcel(run, **options):
    return build_parcel(str(run.root), run.root.parent, TO, **{"even_if_worse": False, **options})


def test_the_card_s_evaluation_block_is_read_back_by_hugging_face(judged):
    from huggingface_hub import ModelCard

    card = ModelCard(parcel(judged()).card)
    assert card.data.pipeline_tag == "text-ranking"
    assert card.text.strip() == "# Reranker"
    found = {(row.metric_name, row.metric_value) for row in card.data.eval_results}
    names = {("nDCG@10 (Tuned)", 0.75), ("nDCG@10 (Base)", 0.5), ("MAP (Tuned)", 0.5), ("MAP (Base)", 0.4)}
    assert found == names
    first = card.data.eval_results[0]
    assert first.metric_args == {
        "baseline": "Base", "difference": 0.25, "low": 0.2, "high": 0.3, "p": 0.0001, "verdict": "better",
    }  # fmt: skip
    assert (first.task_type, first.dataset_type) == ("text-ranking", "dev.jsonl")
    assert first.dataset_name == "dev.jsonl: 60 queries, 10 candidates each"
    assert "/secret/place" not in str(card)


def test_a_card_without_a_head_gets_one_and_the_same_card_twice(judged):
    run = judged()
    plan = Plan("toy", str(run.root), "reranker", "flagembedding", False, {}, (), ())
    once = build_model_index("# Mine\n", "tuned", plan, METRICS)
    head = yaml.safe_load(once.split("---\n")[1])
    assert head["model-index"][0]["results"][0]["task"] == {"type": "reranker"}
    assert once.endswith("---\n# Mine\n")
    assert build_model_index(once, "tuned", plan, METRICS) == once


def test_what_is_sent_is_the_package_and_nothing_else(judged):
    rows = {row["name"]: row["bytes"] for row in parcel(judged()).describe()}
    assert set(rows) == {"README.md", "scoring.json", "config.json", "model.safetensors", "1_Pooling/config.json"}
    assert rows["model.safetensors"] == len(b"weights")
    assert rows["README.md"] > len(CARD)


def test_a_dry_run_names_every_file_and_needs_no_token_and_no_hub(judged, monkeypatch):
    from orchestrator.cli import orch

    run = judged()
    monkeypatch.delenv("HF_TOKEN", raising=False)
    done = CliRunner().invoke(orch, ["push", str(run.root), "--to", "hf:me/tuned", "--dry-run", "--json"])
    assert done.exit_code == 0, done.output
    data = json.loads(done.output)["data"]
    assert (data["to"], len(data["files"])) == ("hf:me/tuned", 5)


@pytest.mark.parametrize(
    ("report", "says"),
    [
        ({"verdict": "worse", "headline": "nDCG@10 fell"}, "its verdict is worse (nDCG@10 fell)"),
        ({"gate": {"passed": False, "rules": [{"passed": False, "sentence": "map is 0.1, not > 0.5"}]}}, "not > 0.5"),
        ({"smoke": True}, "it is a smoke run"),
    ],
)
def test_a_model_that_is_no_better_goes_only_where_it_is_said(judged, report, says):
    run = judged(**report)
    with pytest.raises(GateMissedError) as error:
        parcel(run)
    assert says in str(error.value)
    assert "--even-if-worse" in error.value.problems[0].hint
    assert parcel(run, even_if_worse=True).files


@pytest.mark.parametrize("name", ["report.json", "stages/03-report/result.json", "stages/02-evaluate/result.json"])
def test_a_run_that_is_not_judged_is_refused(judged, name):
    run = judged()
    (run.root / name).unlink()
    with pytest.raises(RunFolderError, match="is not judged yet") as error:
        parcel(run)
    assert f"orch resume {run.root}" in error.value.problems[0].hint


def test_a_package_that_was_changed_since_is_refused(judged):
    run = judged()
    spec = json.loads((run.model / "scoring.json").read_text())
    write_json(run.model / "scoring.json", spec | {"max_length": 9})
    with pytest.raises(RunFolderError, match="the verdict is of another model"):
        parcel(run)


@pytest.mark.parametrize(
    ("name", "content"), [("model.safetensors", b"others!"), ("config.json", None), ("optimizer.pt", b"state")]
)
def test_a_file_that_is_new_gone_or_another_is_refused_by_its_hash(judged, monkeypatch, name, content):
    run = judged()
    (run.model / name).unlink(missing_ok=True)
    if content is not None:
        (run.model / name).write_bytes(content)
    monkeypatch.setattr("orchestrator.serving.push.stage_digest", lambda _plan, stage: read_digest(run, stage.name))
    with pytest.raises(RunFolderError, match=rf"no longer what was packaged: {name}"):
        parcel(run)


def read_digest(run, stage: str) -> str:
    return json.loads(run.stage(stage).result_json.read_text())["digest"]


@pytest.mark.parametrize("what", ["a path of this machine", "the value of MY_API_KEY", "what looks like a token"])
def test_a_secret_and_a_path_of_this_machine_stay_here(judged, monkeypatch, what):
    run = judged()
    monkeypatch.setenv("MY_API_KEY", "s3cr3t-value-of-mine")
    text = {
        "a path of this machine": f"trained in {run.root}/stages",
        "the value of MY_API_KEY": "s3cr3t-value-of-mine",
        "what looks like a token": "hf_" + "a" * 34,
    }[what]
    (run.model / "README.md").write_text(f"{CARD}\n{text}\n", encoding="utf-8")
    with pytest.raises(PreflightError, match=what) as error:
        parcel(run)
    assert "README.md" in str(error.value)


@pytest.mark.parametrize("text", ["me/tuned", "hf:tuned", "gh:me/tuned", "hf:me/tuned@v1", "ms:/me/tuned"])
def test_a_target_that_names_no_repository_is_refused(text):
    with pytest.raises(PreflightError, match="names no repository of a hub"):
        parse_target(text, None, private=False)


@pytest.mark.parametrize(("to", "variable"), [("hf:me/tuned", "HF_TOKEN"), ("ms:me/tuned", "MODELSCOPE_API_TOKEN")])
def test_without_a_token_nothing_starts_and_the_variable_is_named(judged, monkeypatch, to, variable):
    from orchestrator.serving.push import push

    run = judged()
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "MODELSCOPE_API_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(PreflightError, match="takes nothing without a token") as error:
        push(parcel(run), parse_target(to, None, private=False))
    assert f"set {variable} in your environment" in error.value.problems[0].hint
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(PreflightError, match="HF_HUB_OFFLINE forbids"):
        push(parcel(run), parse_target(to, None, private=False))
