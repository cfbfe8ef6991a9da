"""The worker's door to hubs, with the real clients against a fake hub: what is fetched, what is pushed, what is refused."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.hubs.fake_hub import READ, WRITE
from tests.workers.conftest import WORKERS

HUBS = ("hf", "ms")
MODEL = {"config.json": b'{"model_type": "bert"}', "model.safetensors": b"weights", "pytorch_model.bin": b"pickle"}


@pytest.fixture
def package(tmp_path):
    folder = tmp_path / "package"
    (folder / "1_Pooling").mkdir(parents=True)
    files = {
        "README.md": b"---\nlicense: mit\n---\n# card\n", "scoring.json": b"{}", "1_Pooling/config.json": b"{}",
        "model-00001-of-00002.safetensors": b"a" * 90_000, "model-00002-of-00002.safetensors": b"b" * 90_000,
    }  # fmt: skip
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder, files


def push(worker, hub, folder, *words, **changes):
    return worker("push", "--hub", hub, "--id", "me/tuned", "--folder", folder, "--message", "m", *words, **changes)


@pytest.mark.parametrize("name", HUBS)
@pytest.mark.parametrize("revision", [None, "v1"])
def test_a_model_is_fetched_at_its_revision_and_the_commit_is_recorded(hub, worker, tmp_path, name, revision):
    old = hub.add("org/model", MODEL)
    hub.repos["models/org/model"].refs["v1"] = old
    new = hub.add("org/model", {"model.safetensors": b"newer"})
    out = tmp_path / "out" / "model"
    words = ["--revision", revision] if revision else []
    done = worker("fetch", "--kind", "model", "--hub", name, "--id", "org/model", *words, "--out", out)
    assert done.returncode == 0, done.stderr
    assert (out / "model.safetensors").read_bytes() == (b"weights" if revision else b"newer")
    assert not (out / "pytorch_model.bin").exists()
    origin = json.loads((out.parent / "origin.json").read_text())
    assert origin["commit"] == (old if revision else new)
    assert (origin["hub"], origin["id"], origin["revision"], origin["files"]) == (name, "org/model", revision, 2)


@pytest.mark.parametrize("name", HUBS)
def test_what_was_fetched_once_is_there_offline(hub, worker, tmp_path, name):
    hub.add("org/model", MODEL)
    words = ("fetch", "--kind", "model", "--hub", name, "--id", "org/model", "--out", tmp_path / "out" / "model")
    refused = worker(*words, HF_HUB_OFFLINE="1")
    assert refused.returncode == 1
    assert "the environment forbids to ask the hub (HF_HUB_OFFLINE)" in refused.stderr
    assert worker(*words).returncode == 0
    asked = len(hub.log)
    assert worker(*words, HF_HUB_OFFLINE="1").returncode == 0
    assert len(hub.log) == asked


@pytest.mark.parametrize("name", HUBS)
def test_a_revision_and_a_model_that_are_not_there_are_two_errors(hub, worker, tmp_path, name):
    hub.add("org/model", MODEL)
    words = ("fetch", "--kind", "model", "--hub", name, "--out", tmp_path / "out" / "model", "--id")
    said = worker(*words, "org/model", "--revision", "v9").stderr
    assert "has no revision v9 of it" in said
    said = worker(*words, "org/none").stderr
    assert "has no such model; check its spelling" in said
    assert len(said.strip().splitlines()) == 1


@pytest.mark.parametrize("name", HUBS)
def test_a_repository_of_pickles_is_refused_before_its_download(hub, worker, tmp_path, name):
    hub.add("org/model", {"config.json": b"{}", "pytorch_model.bin": b"pickle"})
    words = ("fetch", "--kind", "model", "--hub", name, "--id", "org/model", "--out", tmp_path / "out" / "model")
    done = worker(*words)
    assert "it holds no safetensors, and loading a pickle runs code" in done.stderr
    assert not (tmp_path / "out").exists()
    assert worker(*words, ORCH_ALLOW_PICKLE="1").returncode == 0
    assert (tmp_path / "out" / "model" / "pytorch_model.bin").exists()


@pytest.mark.parametrize("name", HUBS)
def test_a_split_of_a_data_set_is_fetched_at_its_revision(hub, worker, tmp_path, name):
    hub.add("org/rows", {"train.jsonl": b'{"query": "old"}\n'}, kind="dataset")
    hub.repos["datasets/org/rows"].refs["v1"] = hub.repos["datasets/org/rows"].refs["main"]
    hub.add("org/rows", {"train.jsonl": b'{"query": "new"}\n'}, kind="dataset")
    out = tmp_path / "rows.jsonl"
    done = worker("fetch", "--hub", name, "--id", "org/rows", "--revision", "v1", "--out", out)
    assert done.returncode == 0, done.stderr
    assert json.loads(out.read_text()) == {"query": "old"}


@pytest.mark.parametrize("name", HUBS)
def test_a_push_is_one_commit_of_every_file_and_a_second_one_sends_no_weights(hub, worker, package, name):
    folder, files = package
    done = push(worker, name, folder)
    assert done.returncode == 0, done.stderr
    repo = hub.repos["models/me/tuned"]
    branch = {"hf": "main", "ms": "master"}[name]
    there = repo.commits[repo.refs[branch]]
    assert {path: content for path, content in there.items() if path != ".gitattributes"} == files
    assert len(repo.commits) == 2  # the hub's own, and ours
    assert json.loads(done.stdout) == {"commit": repo.refs[branch], "url": json.loads(done.stdout)["url"]}
    assert hub.count("PUT /lfs/") == 2
    assert push(worker, name, folder).returncode == 0
    assert hub.count("PUT /lfs/") == 2


@pytest.mark.parametrize("name", HUBS)
def test_a_push_that_is_killed_leaves_nothing_and_the_next_one_sends_only_what_is_missing(
    hub, hub_env, worker, package, name
):
    folder, files = package
    last = hashlib.sha256(files["model-00002-of-00002.safetensors"]).hexdigest()
    hub.hold = lambda line: line == f"PUT /lfs/{last}"
    words = ["push", "--hub", name, "--id", "me/tuned", "--folder", str(folder), "--message", "m"]
    first = subprocess.Popen([sys.executable, str(WORKERS), *words], env=hub_env, start_new_session=True)
    assert hub.held.wait(60)
    while not hub.stored:  # the other one may be under way: Hugging Face's client sends several at once
        time.sleep(0.01)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    repo = hub.repos["models/me/tuned"]
    assert len(hub.stored) == 1
    assert [set(commit) for commit in repo.commits.values()] == [{".gitattributes"}]
    hub.hold = lambda _line: False
    sent = hub.count("PUT /lfs/")
    done = push(worker, name, folder)
    assert done.returncode == 0, done.stderr
    assert hub.count("PUT /lfs/") == sent + 1
    assert repo.commits[json.loads(done.stdout)["commit"]].keys() == {*files, ".gitattributes"}


@pytest.mark.parametrize("name", HUBS)
@pytest.mark.parametrize(
    ("token", "says"), [(READ, "forbids it (403): set {} to one that may write to it"), ("hf_wrong", "set {} to one")]
)
def test_a_token_that_may_not_write_is_refused_with_its_variable(hub, worker, package, name, token, says):
    variable = {"hf": "HF_TOKEN", "ms": "MODELSCOPE_API_TOKEN"}[name]
    done = push(worker, name, package[0], **{variable: token})
    assert done.returncode == 4
    assert says.format(variable) in done.stderr
    assert not hub.repos
    assert token not in done.stderr + done.stdout


@pytest.mark.parametrize("name", HUBS)
@pytest.mark.parametrize(
    ("status", "says"), [(409, "repeat the command"), (413, "ask there for more room"), (429, "too many requests")]
)
def test_what_a_hub_refuses_at_the_commit_is_said_and_leaves_nothing(hub, worker, package, name, status, says):
    hub.faults = {"/commit/": status}
    done = push(worker, name, package[0])
    assert done.returncode == 4
    assert says in done.stderr
    assert len(hub.repos["models/me/tuned"].commits) == 1


@pytest.mark.parametrize("name", HUBS)
def test_a_hub_that_is_out_of_order_is_said(hub, worker, package, name):
    hub.faults = {"/api/": 500, "/openapi/": 500}
    done = push(worker, name, package[0])
    assert done.returncode == 4
    assert "is out of order or busy at the moment (500)" in done.stderr


@pytest.mark.parametrize("name", HUBS)
def test_other_weights_in_the_repository_and_a_public_one_are_refused(hub, worker, package, name):
    hub.add("me/tuned", {"model.safetensors": b"old"})
    done = push(worker, name, package[0])
    assert "it holds other weights (model.safetensors)" in done.stderr
    done = push(worker, name, package[0], "--private")
    assert "it is there, and public" in done.stderr
    assert not hub.stored


@pytest.mark.parametrize("name", HUBS)
def test_a_new_private_repository_is_private(hub, worker, package, name):
    assert push(worker, name, package[0], "--private").returncode == 0
    assert hub.repos["models/me/tuned"].private
    assert hub.tokens == {WRITE}


def test_a_branch_is_made_by_hugging_face_and_asked_for_at_modelscope(hub, worker, package):
    assert push(worker, "hf", package[0], "--revision", "v2").returncode == 0
    repo = hub.repos["models/me/tuned"]
    assert set(repo.commits[repo.refs["main"]]) == {".gitattributes"}
    assert "scoring.json" in repo.commits[repo.refs["v2"]]
    done = push(worker, "ms", package[0], "--revision", "v3")
    assert "it has no branch v3" in done.stderr
    assert push(worker, "ms", package[0], "--revision", "v2").returncode == 0


def test_offline_nothing_is_pushed(hub, worker, package):
    done = push(worker, "hf", package[0], HF_HUB_OFFLINE="1")
    assert done.returncode == 4
    assert "unset HF_HUB_OFFLINE" in done.stderr
    assert not hub.log
