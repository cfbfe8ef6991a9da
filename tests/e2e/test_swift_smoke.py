"""Every loss for ms-swift, and its recipes, end to end on a tiny model through `swift sft` and `swift export --merge_lora`."""

from __future__ import annotations

import contextlib
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.e2e.conftest import ENV, SECRET, SWIFT_RUNS, Done, orch, processes_that_name

pytestmark = pytest.mark.smoke

LORA = tuple(name for name in SWIFT_RUNS if name != "qwen3_embedding_full")
TEXTS = ("What does Lantern do when a beacon is late?", "灯塔的信标迟到会怎样？", "plain words")


def load(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def rows_of(path: Path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def stage(folder: Path, kind: str):
    return next(item for item in load(folder / "plan.json")["stages"] if item["kind"] == kind)


@pytest.mark.parametrize("name", SWIFT_RUNS)
def test_a_run_ends_with_a_verdict_and_a_verified_package(swift_runs, name):
    folder = swift_runs[name]
    report = load(folder / "report.json")
    assert report["verdict"] in {"better", "worse", "no measurable difference"}
    assert [system["role"] for system in report["metrics"]["systems"]].count("tuned") == 1
    assert len(report["metrics"]["systems"]) >= 2
    assert (folder / "report.html").stat().st_size > 10_000
    assert (folder / "loss_curve.png").read_bytes()[:4] == b"\x89PNG"
    verification = load(folder / stage(folder, "package")["outputs"][-1])
    assert verification["passed"]
    assert len(verification["checks"]) >= 5
    assert "scoring.json" in {path.name for path in (folder / "model").iterdir()}


@pytest.mark.parametrize("name", SWIFT_RUNS)
def test_what_ran_is_what_was_rendered_and_it_was_the_native_tool(swift_runs, name):
    folder = swift_runs[name]
    for item in load(folder / "plan.json")["stages"]:
        launched = load(folder / "stages" / item["name"] / "command.json")["argv"]
        assert launched == item["command"]["argv"]
    assert "swift.cli.sft" in stage(folder, "train")["command"]["argv"]
    merge = [item for item in load(folder / "plan.json")["stages"] if item["kind"] == "merge"]
    assert bool(merge) == (name in LORA)
    assert all("swift.cli.export" in item["command"]["argv"] for item in merge)


@pytest.mark.parametrize("name", SWIFT_RUNS)
def test_ms_swift_loaded_exactly_the_rows_that_the_ledger_kept(swift_runs, name):
    folder = swift_runs[name]
    loaded = {row["side"]: row["rows"] for row in rows_of(folder / "events.jsonl") if row["type"] == "rows_loaded"}
    kept = {side: found["kept"] for side, found in load(folder / "data" / "ledger.json")["sides"].items()}
    assert loaded["train"] == kept["train"] > 0
    assert loaded.get("validation") == kept.get("validation")
    assert sum(1 for _ in (folder / "data" / "train.jsonl").open()) == kept["train"]


@pytest.mark.parametrize("name", SWIFT_RUNS)
def test_no_secret_and_no_process_is_left(swift_runs, name):
    folder = swift_runs[name]
    assert processes_that_name(str(folder)) == []
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert len(files) > 30
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("qwen3_embedding_lora", "infonce"),
        ("qwen3_embedding_full", "cosine_similarity"),
        ("online_contrastive", "online_contrastive"),
        ("qwen3_reranker_native", "listwise_reranker"),
        ("score_head", "pointwise_reranker"),
    ],
)
def test_each_loss_moves_the_model(swift_runs, name, loss):
    train = stage(swift_runs[name], "train")
    argv = train["command"]["argv"]
    assert argv[argv.index("--loss_type") + 1] == loss
    logged = rows_of(swift_runs[name] / "stages" / train["name"] / "output" / "logging.jsonl")
    losses = [row["loss"] for row in logged if "loss" in row]
    assert len(losses) >= 8
    assert any(value > 0 for value in losses)
    assert len(set(losses)) > 3


def test_a_new_score_head_is_measured_beside_the_model_s_own_prompt(swift_runs):
    systems = load(swift_runs["score_head"] / "report.json")["metrics"]["systems"]
    assert [(system["id"], system["head"]) for system in systems][:2] == [("native", None), ("trained-format", "new")]


def test_the_environment_that_decides_a_loss_is_recorded_with_the_command(swift_runs):
    folder = swift_runs["qwen3_embedding_lora"]
    env = dict(stage(folder, "train")["command"]["env"])
    assert env["INFONCE_TEMPERATURE"] == "0.05"
    assert env["INFONCE_USE_BATCH"] == "true"
    script = (folder / stage(folder, "train")["name"].join(["stages/", "/command.sh"])).read_text()
    assert "INFONCE_TEMPERATURE=0.05" in script


def test_the_best_checkpoint_is_the_one_that_was_merged(swift_runs):
    folder = swift_runs["qwen3_embedding_lora"]
    output = folder / "stages" / stage(folder, "train")["name"] / "output"
    adapters = stage(folder, "merge")["command"]["argv"]
    assert adapters[adapters.index("--adapters") + 1] == f"{output}/best"
    state = load(output / "best" / "trainer_state.json")
    evaluated = {row["step"]: row["eval_loss"] for row in state["log_history"] if "eval_loss" in row}
    assert Path(state["best_model_checkpoint"]).name == (output / "best").resolve().name
    assert evaluated[state["best_global_step"]] == min(evaluated.values())


@pytest.mark.parametrize("name", ["qwen3_embedding_lora", "qwen3_embedding_full"])
def test_swift_sentence_transformers_and_orch_predict_give_one_vector_for_one_text(swift_runs, warm, name):
    import numpy as np
    from sentence_transformers import SentenceTransformer
    from swift.infer_engine import InferRequest, TransformersEngine

    folder = swift_runs[name]
    prompt = load(folder / "model" / "scoring.json")["query_prompt"]
    stdin = "".join(json.dumps({"query": text}, ensure_ascii=False) + "\n" for text in TEXTS)
    done = orch("predict", str(folder), "--vectors", "--json", stdin=stdin, env=ENV | warm)
    assert done.code == 0, done.err
    predicted = np.array([row["vector"] for row in done.data])
    loaded = SentenceTransformer(str(folder / "model"), device="cpu", local_files_only=True)
    encoded = loaded.encode(list(TEXTS), prompt_name="query")
    stages = load(folder / "plan.json")["stages"]
    merged = next((item for item in stages if item["kind"] == "merge"), None)
    trained = merged["outputs"][0] if merged else stage(folder, "train")["outputs"][0]
    engine = TransformersEngine(
        str(Path(trained).parent), model_type="qwen3_emb", task_type="embedding", torch_dtype=None, device_map="cpu"
    )
    answers = engine.infer([InferRequest(messages=[{"role": "user", "content": prompt + text}]) for text in TEXTS])
    own = np.array([answer.data[0].embedding for answer in answers])
    assert np.allclose(np.linalg.norm(own, axis=1), 1, atol=1e-5)
    assert np.abs(own - encoded).max() < 1e-5
    assert np.abs(predicted - encoded).max() < 1e-5
    assert np.abs(own[0] - own[2]).max() > 1e-3


def test_orch_predict_ranks_documents_by_similarity(swift_runs, warm):
    folder = swift_runs["qwen3_embedding_lora"]
    texts = ("-q", "one", "-q", "two", "-d", "first text", "-d", "second text")
    done = orch("predict", str(folder), *texts, "--json", env=ENV | warm)
    assert done.code == 0, done.err
    assert [row["query"] for row in done.data] == ["one", "one", "two", "two"]
    assert done.data[0]["score"] >= done.data[1]["score"]


def test_orch_predict_answers_with_an_llm(swift_runs, warm):
    done = orch("predict", str(swift_runs["qwen3_sft_lora"]), "-p", "What is Lantern?", "--json", env=ENV | warm)
    assert done.code == 0, done.err
    assert isinstance(done.data[0]["answer"], str)


def test_the_native_reranker_package_gives_the_measured_scores(swift_runs, warm):
    folder = swift_runs["qwen3_reranker_native"]
    group = rows_of(folder / "data" / "eval.jsonl")[0]
    name = stage(folder, "evaluate")["name"]
    measured = {row["docid"]: row["score"] for row in rows_of(folder / "stages" / name / "output" / "scores.jsonl")}
    documents = [word for item in group["documents"] for word in ("-d", item["text"])]
    done = orch("predict", str(folder), "-q", group["query"], *documents, "--json", env=ENV | warm)
    assert done.code == 0, done.err
    predicted = {row["document"]: row["score"] for row in done.data}
    for item in group["documents"]:
        assert abs(predicted[item["text"]] - measured[item["docid"]]) < 1e-4


KEYED = "qwen3_sft_finance"  # served by the worker that hands swift a key


@pytest.fixture(scope="module")
def listening() -> set[str]:
    """The addresses that the servers were seen to listen on."""
    return set()


@pytest.fixture(scope="module")
def served(swift_runs, listening) -> dict[str, Done]:
    """`orch serve --check` of a package of each kind that ms-swift serves."""
    names = ("qwen3_embedding_full", "qwen3_reranker_native", KEYED)
    with ThreadPoolExecutor(max_workers=2) as pool:
        checks = {
            name: pool.submit(
                orch,
                *("serve", str(swift_runs[name]), "--check", "--json"),
                env={**ENV, "ORCH_API_KEY": "sesame"} if name == KEYED else None,
            )
            for name in names
        }
        while not all(check.done() for check in checks.values()):
            for server in processes_that_name("--served_model_name"):
                with contextlib.suppress(psutil.Error):
                    found = server.net_connections("inet")
                    listening.update(at.laddr.ip for at in found if at.status == psutil.CONN_LISTEN)
            time.sleep(0.2)
        return {name: check.result() for name, check in checks.items()}


def test_a_server_listens_on_the_loopback_interface_only(served, listening):
    assert listening == {"127.0.0.1"}


@pytest.mark.parametrize("name", ["qwen3_embedding_full", "qwen3_reranker_native", KEYED])
def test_a_server_gives_the_numbers_of_the_package(served, swift_runs, name):
    done = served[name]
    assert done.code == 0, done.out + done.err
    assert done.data["check"]["passed"]
    assert len(done.data["check"]["rows"]) >= 2
    assert all(probe["passed"] for probe in done.data["check"]["rows"])
    assert ("deploy_with_key" in done.data["argv"]) is (name == KEYED)
    assert "sesame" not in done.out + done.err
    assert processes_that_name(str(swift_runs[name] / "model")) == []


def test_a_served_score_is_a_sigmoid_of_the_stored_one(served, swift_runs):
    probes = load(swift_runs["qwen3_reranker_native"] / "model" / "scoring.json")["probes"]
    rows = served["qwen3_reranker_native"].data["check"]["rows"]
    assert len({row["got"] for row in rows}) > 1
    assert all(0 < float(row["got"]) < 1 for row in rows)
    assert any(abs(float(row["got"]) - probe["score"]) > 0.01 for row, probe in zip(rows, probes, strict=True))


def test_a_reranker_is_exported_as_a_head_that_gives_its_scores(swift_runs):
    folder = swift_runs["qwen3_reranker_native"]
    (found,) = load(folder / "report.json")["exports"]
    assert found == load(folder / "export" / "seq-cls" / "export.json")
    assert found["changes"]["largest"] < 1e-4
    assert found["means"]["export"] == found["means"]["source"]
    assert load(folder / "export" / "seq-cls" / "scoring.json")["scorer"] == "qwen3-score-head"
    assert "Exports" in (folder / "report.html").read_text(encoding="utf-8")
    assert "export seq-cls" in orch("show", str(folder)).out


def test_an_earlier_checkpoint_is_merged_on_its_own_and_never_over_a_folder(swift_runs, warm):
    folder = swift_runs["qwen3_sft_lora"]
    argv = ("merge", str(folder), "--checkpoint", "8", "--test-prompt", "What is Lantern?", "--json")
    done = orch(*argv, env=ENV | warm)
    assert done.code == 0, done.err
    out = folder / "merged" / "checkpoint-8"
    assert (done.data["checkpoint"], done.data["out"], done.data["passed"]) == ("checkpoint-8", str(out), True)
    assert done.data["test"]["adapter"] == done.data["test"]["merged"]
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in out.iterdir()}
    again = orch(*argv)
    assert again.code == 9
    assert "exists already" in again.out


def test_the_report_of_an_llm_shows_both_models_answers_beside_the_reference(swift_runs):
    folder = swift_runs["qwen3_sft_lora"]
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "perplexity" in page.lower()
    row = rows_of(folder / "data" / "eval.jsonl")[0]
    assert row["reference"][:20] in page
    report = load(folder / "report.json")
    assert set(report["metrics"]["names"]) == {"loss", "perplexity", "exact_match", "rouge_l"}


def test_a_killed_swift_training_continues_in_the_same_folder_and_repeats_the_undisturbed_one(
    swift_killed_and_resumed, swift_runs
):
    from safetensors.numpy import load_file

    events = rows_of(swift_killed_and_resumed / "events.jsonl")
    trainings = [event for event in events if event["type"] == "stage_started" and event["stage"] == "04-train"]
    assert len(trainings) == 2
    assert trainings[1]["resumed_from"].endswith("checkpoint-8")
    output = swift_killed_and_resumed / "stages" / "04-train" / "output"
    assert {path.name for path in output.glob("checkpoint-*")} == {"checkpoint-8", "checkpoint-16"}
    undisturbed = swift_runs["qwen3_embedding_lora"]
    one, other = (load_file(run / "model" / "model.safetensors") for run in (swift_killed_and_resumed, undisturbed))
    assert one.keys() == other.keys()
    assert all((tensor == other[key]).all() for key, tensor in one.items())


def test_a_finished_run_is_not_run_again(swift_runs):
    done = orch("resume", str(swift_runs["qwen3_sft_lora"]))
    assert done.code == 0, done.err
    events = rows_of(swift_runs["qwen3_sft_lora"] / "events.jsonl")
    assert [event["type"] for event in events].count("stage_skipped") >= 7
