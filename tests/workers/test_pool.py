"""Several processes share the batches of one scoring: the same bytes, whoever dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from orchestrator.workers import pool, score, score_pairs
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.pool import choose_devices, open_reader
from orchestrator.workers.reranker.scoring import Key, build_scorer
from tests.workers.conftest import TOPICS, WORKERS, kill_once_kept, load_spec, write_spec

PLAIN = {"scorer": "cross-encoder", "query_instruction": None, "passage_instruction": None, "max_length": 192}
ROWS = [
    {
        "qid": f"q{number}",
        "query": f"what about {number}? " * (1 + number % 7),
        "documents": [
            {"docid": f"{number}-{name}", "text": text * (1 + number % 5), "label": 1} for name, text in TOPICS.items()
        ],
    }
    for number in range(60)
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("pool") / "eval.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def arguments(folder, model, data, device, **more):
    named = {
        "model": model,
        "scoring": write_spec(folder / "spec.json", **PLAIN),
        "data": data,
        "out": folder / device.replace(",", "-"),
        "device": device,
        **more,
    }
    return [part for name, value in named.items() for part in (f"--{name}", str(value))]


@pytest.mark.usefixtures("warm_workers")
def test_two_processes_leave_the_same_bytes_as_one(tmp_path, tuned_encoder, data):
    for device in ("cpu", "cpu,cpu"):
        assert score.main(arguments(tmp_path, tuned_encoder.model, data, device)) == 0
    one, two = (tmp_path / name / "scores.jsonl" for name in ("cpu", "cpu-cpu"))
    assert two.read_bytes() == one.read_bytes()
    facts = json.loads((tmp_path / "cpu-cpu" / "scoring.json").read_text())
    assert facts["devices"] == ["cpu", "cpu"]
    assert (facts["pairs_counted"], facts["head"]) == (300, "pretrained")
    assert "cautions" not in facts


@pytest.mark.usefixtures("warm_workers")
def test_vectors_are_shared_as_pairs_are(tmp_path, decoder):
    from orchestrator.workers.embedding.model import encode_texts
    from orchestrator.workers.specs import parse_embedding_spec
    from tests.workers.test_embedding_score import SPEC

    spec = parse_embedding_spec(SPEC, "spec")
    texts = [document["text"] + row["query"] for row in ROWS[:12] for document in row["documents"]]
    one, two = (encode_texts(open_reader(str(decoder), spec, devices), texts) for devices in (["cpu"], ["cpu", "cpu"]))
    assert one.tobytes() == two.tobytes()


@pytest.mark.usefixtures("warm_workers")
def test_a_teacher_is_shared_and_its_journal_is_kept_by_the_parent(tmp_path, tuned_encoder):
    path = tmp_path / "pairs.jsonl"
    rows = [
        {"pid": one["docid"], "query": row["query"], "document": one["text"]}
        for row in ROWS
        for one in row["documents"]
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = write_spec(tmp_path / "s.json", **PLAIN)
    for device in ("cpu", "cpu,cpu"):
        given = [
            "--model",
            str(tuned_encoder.model),
            "--scoring",
            str(spec),
            "--pairs",
            str(path),
            "--out",
            str(tmp_path / device),
            "--device",
            device,
            "--cache",
            str(tmp_path / f"cache {device}"),
        ]
        assert score_pairs.main(given) == 0
    assert (tmp_path / "cpu,cpu" / "scores.jsonl").read_bytes() == (tmp_path / "cpu" / "scores.jsonl").read_bytes()
    [journal] = tmp_path.glob("cache cpu,cpu/*/scores.jsonl")
    unique = {(row["query"], row["document"]) for row in rows}
    assert len(journal.read_text().splitlines()) == len(unique)


@pytest.fixture
def shared(tuned_encoder, tmp_path, warm_workers):
    spec = load_spec(write_spec(tmp_path / "spec.json", **PLAIN))
    reader = open_reader(str(tuned_encoder.model), spec, ["cpu", "cpu"])
    yield build_scorer(reader, spec)
    for child in reader.share.__self__.children:
        child.process.kill()


KEYS = [Key(row["query"], document["text"]) for row in ROWS for document in row["documents"]]


@pytest.mark.parametrize("number", [0, 1])
def test_the_rest_of_a_process_that_dies_is_done_by_the_others(shared, number, tuned_encoder, tmp_path):
    alone = build_scorer(
        open_reader(str(tuned_encoder.model), load_spec(tmp_path / "spec.json"), ["cpu"]),
        load_spec(tmp_path / "spec.json"),
    )
    expected = alone.score([key[:2] for key in KEYS])
    found = {}
    children = shared.reader.share.__self__.children
    victim = children[number].process
    for places, scores in shared.score_keys(KEYS):
        if not found:
            victim.send_signal(signal.SIGKILL)
        found.update(zip(places, scores, strict=True))
    assert [found[place] for place in range(len(KEYS))] == expected
    assert shared.reader.facts["cautions"] == [
        "the process on cpu ended with -9 while it scored: the others have done its rest"
    ]


def test_an_error_names_the_device_when_no_process_is_left(shared):
    for child in shared.reader.share.__self__.children:
        child.process.send_signal(signal.SIGKILL)
        child.process.wait()
    with pytest.raises(WorkerError, match="the process on cpu ended with -9 while it scored, and no other is left"):
        shared.score([key[:2] for key in KEYS])


@pytest.mark.usefixtures("warm_workers")
def test_what_a_process_refuses_is_said_once_and_as_it_is(decoder, tmp_path):
    spec = load_spec(write_spec(tmp_path / "spec.json", **{**PLAIN, "scorer": "reward-model"}))
    with pytest.raises(WorkerError, match="would be filled with random numbers"):
        open_reader(str(decoder), spec, ["cpu", "cpu"])


def test_processes_end_with_a_parent_that_is_killed(tmp_path, tuned_encoder, data):
    command = arguments(tmp_path, tuned_encoder.model, data, "cpu,cpu", **{"batch-size": 1})
    parent = subprocess.Popen(
        [sys.executable, str(WORKERS), "score", *command], stdout=subprocess.DEVNULL, start_new_session=True
    )
    watched = psutil.Process(parent.pid)
    try:
        while len(children := watched.children()) < 2:
            assert parent.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
    finally:
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
    assert psutil.wait_procs(children, timeout=300)[1] == []


@pytest.mark.usefixtures("warm_workers")
def test_a_stopped_scoring_continues_from_what_is_kept_with_the_same_bytes(tmp_path, tuned_encoder, data):
    command = arguments(tmp_path, tuned_encoder.model, data, "cpu", cache=tmp_path / "cache", **{"batch-size": 1})
    kill_once_kept(tmp_path / "cache", "score", *command)
    [kept] = tmp_path.glob("cache/*/scores.jsonl")
    before = len(kept.read_text().splitlines())
    assert score.main(command) == 0
    assert (
        score.main(
            [
                *arguments(tmp_path, tuned_encoder.model, data, "cpu", **{"batch-size": 1}),
                "--out",
                str(tmp_path / "whole"),
            ]
        )
        == 0
    )
    assert (tmp_path / "cpu" / "scores.jsonl").read_bytes() == (tmp_path / "whole" / "scores.jsonl").read_bytes()
    assert before > 0
    assert not kept.exists()


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ("cpu,", "not cpu, cuda"),
        ("cuda:x", "not cpu, cuda"),
        ("cuda", "PyTorch sees no GPU"),
        ("cpu,cuda:3", "PyTorch sees no GPU"),
    ],
)
def test_a_device_that_is_not_there_is_refused(wanted, said):
    with pytest.raises(WorkerError, match=said):
        choose_devices(wanted)


def test_every_gpu_that_there_is_work_for_is_taken_where_none_is_named(tmp_path, monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    path = tmp_path / "data"
    path.write_bytes(b"x" * (pool.BYTES_A_DEVICE * 2))
    assert choose_devices(None, path) == ["cuda:0", "cuda:1", "cuda:2"]
    assert choose_devices(None, path, path) == [f"cuda:{number}" for number in range(4)]
    path.write_bytes(b"x")
    assert choose_devices(None, path, None) == ["cuda:0"]
    assert choose_devices("cuda:3,cuda") == ["cuda:3", "cuda:0"]


@pytest.mark.parametrize(("visible", "own"), [("", "1"), ("5,7", "7"), ("GPU-a,GPU-b", "GPU-b")])
def test_a_process_sees_its_own_gpu_alone(monkeypatch, visible, own):
    seen = {}

    class Started:
        def __init__(self, _command, env, **_):
            seen.update(env)

    monkeypatch.setattr(pool.subprocess, "Popen", Started)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    child = pool.Child("cuda:1", 2)
    assert seen["CUDA_VISIBLE_DEVICES"] == own
    assert child.own_device == "cuda:0"
    child.pipe.close()
