"""Builds a finished run folder as the stages leave it: 60 queries in two languages, three systems, a hostile one.

Two languages, since a report must be legible in both; the noise is seeded, so every run of the tests sees one report.
"""
# ruff: noqa: S311

from __future__ import annotations

import json
import math
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.machine.files import write_json, write_text
from orchestrator.machine.rundir import RunDir
from orchestrator.recipe.plan import Command, File, Plan, Stage

HOSTILE = '<script>alert(1)</script> & "who" may sign?'
TOPICS = json.loads(Path(__file__).with_name("topics.json").read_text(encoding="utf-8"))
SYSTEMS = (  # stage, kind, label, how far a relevant document stands out, scoring
    (
        "02-baseline-native",
        "baseline-native",
        "Qwen3-Reranker-0.6B, its own chat prompt",
        0.9,
        {"scorer": "qwen3-native"},
    ),
    (
        "03-baseline-trained-format",
        "baseline-trained-format",
        "Qwen3-Reranker-0.6B, FlagEmbedding's prompt",
        0.35,
        {"scorer": "flag-llm-reranker"},
    ),
    ("07-evaluate", "evaluate", "Tuned model, FlagEmbedding's prompt", 2.6, {"scorer": "flag-llm-reranker"}),
)


def build_groups() -> list[dict[str, object]]:
    """Return 60 canonical ranking groups: the right document, other topics of its product, other products."""
    groups = []
    for language in TOPICS.values():
        products, topics = language["products"], language["topics"]
        for product in products:
            for topic, (question, answer) in topics.items():
                qid = f"q{len(groups) + 1:06d}"
                wrong = [text.format(product) for name, (_, text) in topics.items() if name != topic]
                wrong += [answer.format(other) for other in products if other != product]
                texts = [(answer.format(product), 1), *((text, 0) for text in wrong)]
                random.Random(qid).shuffle(texts)
                documents = [
                    {"docid": f"{qid}.{place}", "text": text, "label": label}
                    for place, (text, label) in enumerate(texts)
                ]
                groups.append({"qid": qid, "query": question.format(product), "documents": documents})
    groups[7]["query"] = HOSTILE
    return groups


def write_lines(path: Path, rows: list[dict[str, object]]) -> None:
    """Write JSONL."""
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_scores(
    output: Path, groups: list[dict[str, object]], stands_out: float, scoring: dict[str, object], seed: int
) -> None:
    """Write a stage's scores.jsonl and scoring.json: noise, and `stands_out` more for relevant documents."""
    draw = random.Random(seed)
    rows = [
        {"qid": group["qid"], "docid": item["docid"], "score": round(draw.gauss(0, 1) + stands_out * item["label"], 3)}
        for group in groups
        for item in group["documents"]
    ]
    write_lines(output / "scores.jsonl", rows)
    head = scoring.pop("head", None)
    facts = {"device": "cuda", "dtype_used": "float32", **({"head": head} if head else {})}
    write_json(output / "scoring.json", {"version": 1, "model": "…", "spec": {"version": 1, **scoring}, **facts})


def build_plan(root: Path, recipe: dict[str, object]) -> Plan:
    """Return the plan of a LoRA run with the shape of a real one."""
    python = "/opt/orch/bin/python"
    train = (
        "torchrun",
        "--nproc_per_node",
        "1",
        "-m",
        "FlagEmbedding.finetune.reranker.decoder_only.base",
        "--model_name_or_path",
        "Qwen/Qwen3-Reranker-0.6B",
        "--model_type",
        "decoder",
        "--use_lora",
        "True",
        "--lora_rank",
        "8",
        "--target_modules",
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "--train_data",
        f"{root}/data/train.jsonl",
        "--query_instruction_for_rerank",
        "A: ",
        "--passage_instruction_for_rerank",
        "B: ",
        "--learning_rate",
        "2e-4",
        "--output_dir",
        f"{root}/stages/04-train/output",
    )
    score = (python, "/opt/orch/workers", "score", "--data", f"{root}/data/eval.jsonl")
    commands = (
        (
            "01-prepare",
            "prepare",
            "Prepare the data",
            (python, "-m", "orchestrator.data.prepare", "--out", f"{root}/data"),
        ),
        *(
            (name, kind, label, (*score, "--out", f"{root}/stages/{name}/output"))
            for name, kind, label, _, _ in SYSTEMS[:2]
        ),
        ("04-train", "train", "Train", train),
        ("05-merge", "merge", "Merge the adapter", (python, "/opt/orch/workers", "merge")),
        (
            "06-package",
            "package",
            "Package the model",
            (python, "/opt/orch/workers", "package", "--out", f"{root}/model"),
        ),
        ("07-evaluate", "evaluate", "Score the tuned model", (*score, "--model", f"{root}/model")),
        ("08-report", "report", "Report", (python, "-m", "orchestrator.report", str(root))),
    )
    secret = (("OMP_NUM_THREADS", "8"), ("HF_TOKEN", "hf_secret"))
    stages = tuple(
        Stage(name, kind, title, Command(argv, env=secret if kind == "train" else ()))
        for name, kind, title, argv in commands
    )
    files = (
        File("files/ds_stage0.json", '{\n  "zero_optimization": {"stage": 0},\n  "bf16": {"enabled": "auto"}\n}\n'),
    )
    return Plan("qwen3-reranker", str(root), "reranker", "flagembedding", False, recipe, stages, files)


def write_training(run: RunDir) -> None:
    """Write two checkpoints of which the newer one holds the whole log, in the strings that transformers 5 logs."""
    draw = random.Random(3)
    history = [
        {
            "step": step,
            "epoch": round(step / 120, 3),
            "loss": f"{0.22 + 1.9 * math.exp(-step / 70) + draw.gauss(0, 0.07):.4f}",
            "learning_rate": f"{2e-4 * min(step / 36, (360 - step) / 324):.4e}",
        }
        for step in range(3, 361, 3)
    ]
    output = run.stage("04-train").output
    for step in (180, 360):
        log = [entry for entry in history if entry["step"] <= step]
        write_json(output / f"checkpoint-{step}" / "trainer_state.json", {"global_step": step, "log_history": log})


def write_data(run: RunDir, groups: list[dict[str, object]]) -> None:
    """Write what the prepare stage leaves."""
    write_lines(run.eval_jsonl, groups)
    sides = {
        "train": {
            "files": [{"path": "datasets_example/reranker.train.jsonl", "sha256": "5f" * 32, "rows_in": 640}],
            "rows_in": 640,
            "kept": 566,
            "moved_to_eval": 60,
            "dropped": {"duplicate": 9, "no-negative": 5},
        },
        "eval": {"files": [], "rows_in": 0, "kept": 0, "moved_to_eval": 0, "dropped": {}},
    }
    warning = {
        "code": "short-document",
        "message": "3 documents have fewer than 5 characters",
        "count": 3,
        "examples": ["n/a", "无"],
    }
    write_json(run.ledger_json, {"version": 1, "sides": sides, "dropped_rows": [], "warnings": [warning]})
    side = {
        "rows": 566,
        "queries": 566,
        "positives": 566,
        "negatives": 3962,
        "positives_per_row": {"min": 1, "mean": 1.0, "max": 1},
        "negatives_per_row": {"min": 7, "mean": 7.0, "max": 7},
        "query_chars": {"min": 9, "p50": 31, "p95": 74, "p99": 88, "max": 102},
        "document_chars": {"min": 4, "p50": 214, "p95": 342, "p99": 401, "max": 913},
        "scripts": {"latin": 301, "han": 265},
    }
    tokens = {
        "query": {"p50": 14, "p95": 25, "max": 38},
        "document": {"p50": 74, "p95": 128, "max": 611},
        "queries_cut": 0,
        "documents_cut": 4,
        "tokens_cut": 188,
        "tokenizer": "Qwen/Qwen3-Reranker-0.6B",
    }
    write_json(
        run.stats_json,
        {
            "version": 1,
            "train": {**side, "tokens": tokens},
            "eval": {**side, "rows": 60, "queries": 60, "positives": 60, "negatives": 540},
        },
    )


def write_provenance(run: RunDir) -> None:
    """Write versions and hardware."""
    write_json(
        run.provenance_json,
        {
            "version": 1,
            "orch": "0.1.0",
            "plan_sha256": "9c" * 32,
            "versions": {"python": "3.11.9", "FlagEmbedding": "1.4.2", "transformers": "5.19.0", "torch": "2.13.0"},
            "cpu_count": 16,
            "hardware": {"kind": "cuda", "count": 1, "names": ["NVIDIA H100 80GB HBM3"], "memory_mib": [81559]},
            "git": {"commit": "9c1f0a7e4b6d", "changed": False},
        },
    )


def write_verification(run: RunDir) -> None:
    """Write the package stage's checks."""
    agreement = {"max_difference": 3.8e-06, "tolerance": 1e-3, "share_of_scale": 1e-4, "scale": 9.7, "pairs": 32}
    checks = [
        {"name": "weights", "passed": True, "tensors": 310, "parameters": 595776512},
        {"name": "complete", "passed": True, "missing": []},
        {"name": "finite", "passed": True, "not_finite": {"base": 0, "model": 0, "adapter": 0}},
        {"name": "changed-scores", "passed": True, "max_difference": 4.27, "least": 1.1e-05},
        {
            "name": "sentence-transformers",
            "passed": True,
            **agreement,
            "cut_pairs": 1,
            "cut_max_difference": 0.02,
            "agrees": True,
        },
        {"name": "merged", "passed": True, **agreement},
    ]
    write_json(run.stage("06-package").output / "verification.json", {"version": 1, "passed": True, "checks": checks})


def build_run(root: Path, *, seed: int = 1) -> RunDir:
    """Write a whole finished run folder (all but the report stage's own files) and return it."""
    run = RunDir(root)
    recipe: dict[str, object] = {
        "name": "qwen3-reranker",
        "model": "Qwen/Qwen3-Reranker-0.6B",
        "evaluate": {"metrics": ["ndcg@10", "mrr@10", "map"], "baselines": ["native", "trained-format"]},
        "gate": {"ndcg@10": "> baseline", "mrr@10": ">= baseline + 0.02"},
    }
    plan = build_plan(root, recipe)
    write_text(run.plan_json, plan.to_json())
    write_text(
        run.recipe_yaml,
        "# LoRA fine-tuning of Qwen3-Reranker-0.6B\nname: qwen3-reranker\ntask: reranker\nbackend: flagembedding\n"
        "model: Qwen/Qwen3-Reranker-0.6B\ntrain:\n  lora_rank: 8\n  learning_rate: 2e-4\n"
        "gate: {ndcg@10: '> baseline'}\n",
    )
    groups = build_groups()
    write_data(run, groups)
    for number, (name, _, label, stands_out, scoring) in enumerate(SYSTEMS):
        write_scores(run.stage(name).output, groups, stands_out, {**scoring, "label": label}, seed=100 * seed + number)
    write_training(run)
    write_provenance(run)
    write_verification(run)
    seconds = (2.4, 31.8, 29.5, 412.6, 9.1, 17.3, 30.2)
    for stage, took in zip(plan.stages, seconds, strict=False):
        write_json(
            run.stage(stage.name).result_json,
            {"version": 1, "stage": stage.name, "status": "done", "exit_code": 0, "seconds": took, "attempts": 1},
        )
    write_text(run.model / "README.md", "# qwen3-reranker\n\n## Results\n\n<!-- orch:results -->\n\n## Use\n")
    return run


def build_kind_run(root: Path, kind: str, **evaluate: object) -> RunDir:
    """Write a finished run folder whose evaluation set is of another kind: `retrieval`, `pair` or `chat`."""
    task = "sft" if kind == "chat" else "embedding"
    stages = [
        ("02-baseline-native", "baseline-native", "Score the base model"),
        ("04-train", "train", "Train"),
        ("06-package", "package", "Package the model"),
        ("07-evaluate", "evaluate", "Score the tuned model"),
        ("08-report", "report", "Report"),
    ]
    run = RunDir(root)
    recipe: dict[str, object] = {"model": "Qwen/Qwen3-0.6B", "evaluate": {"metrics": None, **evaluate}}
    recipe["gate"] = {"loss": "< baseline"} if kind == "chat" else {}
    plan = Plan(f"qwen3-{task}", str(root), task, "swift", False, recipe, tuple(
        Stage(name, stage_kind, title, Command(("true",))) for name, stage_kind, title in stages
    ), ())  # fmt: skip
    write_text(run.plan_json, plan.to_json())
    groups = build_groups()
    write_data(run, groups)
    {"retrieval": write_retrieval, "pair": write_pairs, "chat": write_chat}[kind](run, groups)
    log = Path(__file__).with_name("swift_logging.jsonl").read_text(encoding="utf-8")
    write_text(run.stage("04-train").output / "logging.jsonl", log)
    write_verification(run)
    write_provenance(run)
    write_text(run.recipe_yaml, f"name: {plan.name}\ntask: {task}\nbackend: swift\n")
    write_text(run.model / "README.md", "# model\n\n<!-- orch:results -->\n")
    return run


SIDES = (("02-baseline-native", "Base model", 0.6), ("07-evaluate", "Tuned model", 0.1))  # stage, label, noise


def write_retrieval(run: RunDir, groups: list[dict[str, object]]) -> None:
    """Write queries over one corpus of every distinct document; each system found the 20 best of it."""
    corpus = sorted({item["text"] for group in groups for item in group["documents"]})
    random.Random(5).shuffle(corpus)
    docids = {text: f"d{place:06d}" for place, text in enumerate(corpus)}
    write_lines(run.data / "corpus.jsonl", [{"docid": docid, "text": text} for text, docid in docids.items()])
    rows = [
        {
            "qid": group["qid"],
            "query": group["query"],
            "relevant": [docids[item["text"]] for item in group["documents"] if item["label"]],
        }
        for group in groups
    ]
    write_lines(run.eval_jsonl, rows)
    for number, (stage, label, noise) in enumerate(SIDES):
        draw = random.Random(number)
        found = []
        for row in rows:
            scores = {docid: draw.gauss(0.35 * (docid in row["relevant"]), noise / 3) for docid in docids.values()}
            best = sorted(scores, key=lambda docid: -scores[docid])[:20]
            found += [{"qid": row["qid"], "docid": docid, "score": scores[docid]} for docid in best]
        write_lines(run.stage(stage).output / "scores.jsonl", found)
        write_json(run.stage(stage).output / "scoring.json", {"spec": {"scorer": "embedding", "label": label}})


def write_pairs(run: RunDir, groups: list[dict[str, object]]) -> None:
    """Write 120 pairs of a query and a document, scored 0 to 5."""
    draw = random.Random(11)
    rows = []
    for group in groups:
        for item in sorted(group["documents"], key=lambda item: -item["label"])[:2]:
            score = round(min(5.0, max(0.0, draw.gauss(4 if item["label"] else 1.5, 1))), 1)
            texts = {"text1": group["query"], "text2": item["text"]}
            rows.append({"pid": f"p{len(rows) + 1:06d}", **texts, "score": score})
    write_lines(run.eval_jsonl, rows)
    for stage, label, noise in SIDES:
        scores = [{"pid": row["pid"], "score": row["score"] / 8 + draw.gauss(0.2, noise / 2)} for row in rows]
        write_lines(run.stage(stage).output / "scores.jsonl", scores)
        write_json(run.stage(stage).output / "scoring.json", {"spec": {"scorer": "embedding", "label": label}})


def write_chat(run: RunDir, groups: list[dict[str, object]]) -> None:
    """Write 60 chat rows; the first 40 have generations, of which the base model's miss and the tuned one's come near."""
    rows = []
    for group in groups:
        answer = next(item["text"] for item in group["documents"] if item["label"])
        system = {"role": "system", "content": "Answer from the handbook."}
        messages = [system, {"role": "user", "content": group["query"]}]
        rows.append({"id": f"r{len(rows) + 1:06d}", "messages": messages, "reference": answer})
    write_lines(run.eval_jsonl, rows)
    for number, (stage, label, _) in enumerate(SIDES):
        draw = random.Random(20 + number)
        scores = []
        for place, row in enumerate(rows):
            tokens = max(4, len(row["reference"]) // 4)
            loss = max(0.05, draw.gauss(3.2 if number == 0 else 2.1, 0.9))
            kept = row["reference"] if draw.random() < 0.3 else row["reference"][: len(row["reference"]) // 2] + "…"
            said = f"I am <b>not</b> sure & cannot say.\n- {row['reference'][:20]}" if number == 0 else kept
            text = said if place < 40 else None
            scores.append({"id": row["id"], "nll": loss * tokens, "tokens": tokens, "generation": text})
        write_lines(run.stage(stage).output / "scores.jsonl", scores)
        facts = {"max_new_tokens": 256, "hit_max_new_tokens": 3 * number, "references_cut": 0}
        write_json(run.stage(stage).output / "scoring.json", {"spec": {"scorer": "chat", "label": label}, **facts})


@pytest.fixture(scope="session", params=["retrieval", "pair", "chat"])
def pristine_kind(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """(kind, a finished run folder of it that no test may change)."""
    kind: str = request.param
    return kind, build_kind_run(tmp_path_factory.mktemp("kinds") / kind, kind).root


@pytest.fixture
def make_kind(tmp_path: Path) -> Callable[..., RunDir]:
    """Make a finished run folder of a kind, to change at will."""
    return lambda kind, **evaluate: build_kind_run(tmp_path / kind, kind, **evaluate)


@pytest.fixture(scope="session")
def pristine_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run folder that no test may change."""
    return build_run(tmp_path_factory.mktemp("runs") / "qwen3-reranker-1").root


@pytest.fixture
def run(pristine_run: Path, tmp_path: Path) -> RunDir:
    """A copy of the finished run folder, to change at will."""
    root = tmp_path / "run"
    shutil.copytree(pristine_run, root)
    return RunDir(root)
