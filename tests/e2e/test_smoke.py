"""The Qwen3 reranker recipe, end to end on a tiny model through the real tools, survives kill -9 and equals plain bash."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.conftest import ENV, SECRET, orch, processes_that_name

pytestmark = pytest.mark.smoke


def load(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_a_killed_run_continues_from_its_checkpoint_and_repeats_no_finished_stage(killed_and_resumed):
    events = [json.loads(line) for line in (killed_and_resumed / "events.jsonl").read_text().splitlines()]
    started = [event for event in events if event["type"] == "stage_started"]
    trainings = [event for event in started if event["stage"] == "05-train"]
    assert len(trainings) == 2
    assert trainings[1]["resumed_from"].endswith("checkpoint-8")
    assert [event["stage"] for event in started].count("01-prepare") == 1
    assert [event["stage"] for event in started].count("02-tiny-model") == 1


def test_a_resumed_run_and_an_undisturbed_plain_bash_run_make_the_same_weights(killed_and_resumed, plain_bash):
    from safetensors.numpy import load_file

    resumed, undisturbed = (load_file(run / "model" / "model.safetensors") for run in (killed_and_resumed, plain_bash))
    assert resumed.keys() == undisturbed.keys()
    assert len(resumed) > 10
    for name, tensor in resumed.items():
        assert (tensor == undisturbed[name]).all(), name


def test_plain_bash_leaves_the_same_model_folder_and_report(killed_and_resumed, plain_bash):
    names = [
        sorted(path.name for path in (run / "model").rglob("*") if path.is_file())
        for run in (killed_and_resumed, plain_bash)
    ]
    assert names[0] == names[1]
    assert "modules.json" in names[0]
    assert (plain_bash / "report.html").exists()


def test_no_process_is_left(killed_and_resumed):
    assert processes_that_name(str(killed_and_resumed)) == []


def test_what_ran_is_what_was_rendered(killed_and_resumed):
    plan = load(killed_and_resumed / "plan.json")
    for stage in plan["stages"]:
        launched = load(killed_and_resumed / "stages" / stage["name"] / "command.json")["argv"]
        assert launched[: len(stage["command"]["argv"])] == stage["command"]["argv"]
        extra = launched[len(stage["command"]["argv"]) :]
        assert not extra or extra[0] == "--resume_from_checkpoint"


def test_a_training_with_deepspeed_listens_on_the_loopback_interface_only(killed_and_resumed):
    assert (killed_and_resumed / "listening").read_text() == "127.0.0.1"  # gloo's sockets


def test_training_passed_through_the_launcher_and_deepspeed(killed_and_resumed):
    log = "".join(
        path.read_text(errors="replace") for path in (killed_and_resumed / "stages" / "05-train").glob("std*.log")
    )
    argv = load(killed_and_resumed / "stages" / "05-train" / "command.json")["argv"]
    assert "launch" in argv
    assert "deepspeed" in log.lower()
    checkpoint = killed_and_resumed / "stages" / "05-train" / "output" / "checkpoint-16"
    assert list(checkpoint.glob("global_step*"))


def test_the_package_is_verified_and_holds_what_was_trained(killed_and_resumed):
    verification = load(killed_and_resumed / "stages" / "07-package" / "output" / "verification.json")
    assert verification["passed"] is True
    assert len(verification["checks"]) >= 6
    assert all(check["passed"] for check in verification["checks"])


def test_the_packaged_model_scores_alike_in_both_libraries(killed_and_resumed):
    from FlagEmbedding import FlagLLMReranker
    from sentence_transformers import CrossEncoder

    pairs = [
        ("what does storage cost?", "Kestrel bills each nest by the day.\nThe first is free."),
        ("存储怎么收费？", "红隼按天计费。"),
        ("ends with a colon:", "(brackets)  and  spaces "),
    ]
    model = str(killed_and_resumed / "model")
    scoring = load(killed_and_resumed / "model" / "scoring.json")
    reranker = FlagLLMReranker(
        model,
        use_fp16=False,
        query_instruction_for_rerank=scoring["query_instruction"],
        passage_instruction_for_rerank=scoring["passage_instruction"],
        devices="cpu",
    )
    native = reranker.compute_score(pairs)
    portable = CrossEncoder(model, device="cpu").predict(pairs).tolist()
    assert len(set(native)) == 3
    assert portable == pytest.approx(native, abs=1e-4)


def test_the_tokenizer_of_the_package_does_not_truncate(killed_and_resumed):
    assert load(killed_and_resumed / "model" / "tokenizer.json").get("truncation") is None


def test_the_report_has_its_three_rows_and_works_offline(killed_and_resumed):
    report = load(killed_and_resumed / "report.json")
    assert [system["id"] for system in report["metrics"]["systems"]] == ["native", "trained-format", "tuned"]
    html = (killed_and_resumed / "report.html").read_text(encoding="utf-8")
    assert "Content-Security-Policy" in html
    assert 'src="http' not in html
    assert (killed_and_resumed / "loss_curve.png").stat().st_size > 5000


def test_the_ledger_adds_up(killed_and_resumed):
    for side in load(killed_and_resumed / "data" / "ledger.json")["sides"].values():
        assert side["rows_in"] == side["kept"] + side["moved_to_eval"] + sum(side["dropped"].values())


def test_no_secret_of_the_environment_is_in_any_file(killed_and_resumed):
    files = [path for path in killed_and_resumed.rglob("*") if path.is_file()]
    assert len(files) > 50
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []


def test_resuming_a_finished_run_does_nothing_again(killed_and_resumed):
    before = {path: path.stat().st_mtime_ns for path in killed_and_resumed.glob("stages/*/result.json")}
    assert len(before) == 9
    done = orch("resume", str(killed_and_resumed), "--json")
    assert done.code == 0, done.err
    assert done.data["exit_code"] == 0
    assert {path: path.stat().st_mtime_ns for path in killed_and_resumed.glob("stages/*/result.json")} == before


def test_a_finished_run_tells_an_engine_so_at_once(killed_and_resumed, recipes):
    recipe = recipes / "qwen3_reranker.yaml"
    before = (killed_and_resumed / "events.jsonl").read_bytes()
    done = orch("resume", "--or-run", str(recipe), "-o", str(killed_and_resumed), "--smoke", "--json")
    assert done.code == done.data["exit_code"] == 0, done.err
    assert (killed_and_resumed / "events.jsonl").read_bytes() == before
    other = orch("resume", "--or-run", str(recipe), "-o", str(killed_and_resumed))
    assert other.code == 9
    assert "another recipe" in other.err
    for words in (["--or-run", str(recipe)], ["--smoke"], [str(killed_and_resumed), "--tries", "2"]):
        assert orch("resume", *words).code == 2


def test_the_folder_commands_read_the_run(killed_and_resumed, plain_bash):
    runs = str(killed_and_resumed.parent)
    listed = orch("ls", "--runs", runs, "--json").data
    assert [(run["name"], run["status"]) for run in listed] == [(killed_and_resumed.name, "done")]
    assert "05-train" in orch("show", str(killed_and_resumed)).out
    assert "loss" in orch("logs", str(killed_and_resumed), "05-train").out
    assert "nothing runs" in orch("stop", str(killed_and_resumed)).out
    compared = orch("compare", str(killed_and_resumed), str(plain_bash))
    assert compared.code == 0, compared.err
    assert "no measurable difference" in compared.out


def test_predict_scores_as_the_evaluation_did(killed_and_resumed, warm):
    group = json.loads((killed_and_resumed / "data" / "eval.jsonl").read_text(encoding="utf-8").splitlines()[0])
    lines = (killed_and_resumed / "stages" / "08-evaluate" / "output" / "scores.jsonl").read_text().splitlines()
    measured = {row["docid"]: row["score"] for row in map(json.loads, lines) if row["qid"] == group["qid"]}
    pairs = [{"query": group["query"], "document": document["text"]} for document in group["documents"]]
    stdin = "".join(json.dumps(pair) + "\n" for pair in pairs)
    done = orch("predict", str(killed_and_resumed), "--json", stdin=stdin, env=ENV | warm)
    assert done.code == 0, done.err
    scores = [row["score"] for row in done.data]
    assert scores == pytest.approx([measured[document["docid"]] for document in group["documents"]], abs=1e-4)


def test_another_recipe_in_the_same_folder_is_refused(killed_and_resumed, recipes):
    done = orch(
        "run", str(recipes / "qwen3_reranker.yaml"), "--smoke", "--set", "train.seed=7", "-o", str(killed_and_resumed)
    )
    assert done.code == 9
    assert "orch resume" in done.err
