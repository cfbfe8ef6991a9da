"""What each tracker's own client wrote, read back by its own reader: `make test-track`, in an environment with all five.

They have no network here: W&B, SwanLab and MLflow write beside the run, Trackio into its own database.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.track.told import TOLD, list_cautions, make_run, train, work

NAMES = "wandb,swanlab,mlflow,trackio,tensorboard"
KEY = "0123456789abcdef0123456789abcdef01234567"
DIFFERENCE = TOLD["numbers"]["difference/ndcg@10"]


@pytest.fixture(scope="module", name="run")
def _run(tmp_path_factory) -> Path:
    """A run that was trained and judged with all trackers, and sent once more: nothing of it may be there twice."""
    run = make_run(tmp_path_factory.mktemp("track"))
    for done in (train(run, NAMES, "wandb"), work("track", run, NAMES), work("track", run, NAMES)):
        assert done.returncode == 0, done.stderr
        assert [line.split()[1].rstrip(":") for line in list_cautions(done)] == ["wandb", "swanlab", "mlflow"]
    assert json.loads((run / "track" / "sent.json").read_text()).keys() == set(NAMES.split(","))
    return run


def scan(path: Path, reader, record):
    """Yield the records of a log as its client wrote them."""
    reader.open(str(path))
    while (data := reader.scan()) is not None:
        one = record()
        one.ParseFromString(data)
        yield one


def test_wandb(run):
    from swanlab.converter.wb.wbdatastore import WBDataStoreReader  # W&B's own reader is no longer a part of its Python
    from wandb.proto.wandb_internal_pb2 import Record

    files = sorted(run.glob("track/wandb/wandb/offline-run-*/*.wandb"))
    assert len(files) == 3  # the training, and two verdicts
    records = [one for path in files for one in scan(path, WBDataStoreReader(), Record)]
    runs = {
        (one.run.run_id, one.run.project, one.run.display_name, one.run.run_group)
        for one in records
        if one.HasField("run")
    }
    assert runs == {((run / "track" / "id").read_text(), "shop", "a-run", "tries")}

    def values(kind):
        items = ((item.key or "/".join(item.nested_key), item.value_json) for one in records if one.HasField(kind)
                 for item in (one.history.item if kind == "history" else one.summary.update))  # fmt: skip
        return [(name, json.loads(value)) for name, value in items]

    assert [value for name, value in values("history") if name == "train/loss"] == [0.5, 0.25]
    assert ("difference/ndcg@10", DIFFERENCE) in values("summary")
    assert ("verdict", "better") in values("summary")
    sent = {one.path for record in records if record.HasField("request") for one in
            record.request.log_artifact.artifact.manifest.contents}  # fmt: skip
    sent |= {one.path for record in records if record.HasField("artifact") for one in record.artifact.manifest.contents}
    assert sent == {"report.html", "report.json"}


def test_swanlab(run):
    from google.protobuf.json_format import MessageToDict
    from swanlab.proto.swanlab.record.v1.record_pb2 import Record
    from swanlab.sdk.internal.core_python.store import DataStoreReader

    files = sorted(run.glob("track/swanlab/run-*/*.swanlab"))
    assert len(files) == 3
    text = json.dumps([MessageToDict(one) for path in files for one in scan(path, DataStoreReader(), Record)])
    assert (run / "track" / "id").read_text() in text
    for said in ('"shop"', '"a-run"', '"tries"', '"train/loss"', '"difference/ndcg@10"', "report.html"):
        assert said in text
    assert text.count('"number": 0.25') == 1


def test_mlflow(run):
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    from mlflow import MlflowClient

    client = MlflowClient((run / "track" / "mlflow").as_uri())
    experiment = client.get_experiment_by_name("shop")
    (found,) = client.search_runs([experiment.experiment_id])
    assert (found.info.run_name, found.info.status, found.data.tags["group"]) == ("a-run", "FINISHED", "tries")
    assert [(one.step, one.value) for one in client.get_metric_history(found.info.run_id, "loss")] == [
        (1, 0.5),
        (2, 0.25),
    ]
    assert found.data.metrics["difference/ndcg_at_10"] == DIFFERENCE
    assert (found.data.tags["verdict"], found.data.tags["gate"]) == ("better", "passed")
    assert {one.path for one in client.list_artifacts(found.info.run_id)} == {"report.html", "report.json"}


def test_trackio(run):
    os.environ["TRACKIO_DIR"] = str(run.parent / "trackio")
    from trackio.sqlite_storage import SQLiteStorage

    (name,) = SQLiteStorage.get_runs("shop")
    assert name.startswith("a-run-")
    logs = SQLiteStorage.get_logs("shop", name)
    assert [one["train/loss"] for one in logs if "train/loss" in one] == [0.5, 0.25]
    assert DIFFERENCE in [one.get("difference/ndcg@10") for one in logs]
    assert list((run.parent / "trackio" / "artifacts").rglob("*"))


def test_tensorboard(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "track" / "tensorboard"))
    events.Reload()
    assert [(one.step, one.value) for one in events.Scalars("train/loss")] == [(1, 0.5), (2, 0.25)]
    assert events.Scalars("difference/ndcg@10")[0].value == DIFFERENCE


def test_servers_that_nobody_reaches_cost_seconds_and_no_key_is_written(tmp_path):
    run = make_run(tmp_path)
    nowhere = {"WANDB_BASE_URL": "http://127.0.0.1:9", "MLFLOW_TRACKING_URI": "http://user:secret-word@127.0.0.1:9"}
    env = {"WANDB_API_KEY": KEY, "SWANLAB_API_KEY": KEY, "ORCH_TRACK_LIMIT_S": "5"}
    trained = train(run, "wandb,swanlab,mlflow", **nowhere, **env)
    assert trained.returncode == 0, trained.stderr
    assert "trained to the end" in trained.stdout
    assert len(list_cautions(trained)) == 3
    assert all("once that is mended" in line for line in list_cautions(trained))
    assert json.loads((run / "track" / "sent.json").read_text()).keys() == {"wandb", "swanlab", "mlflow"}
    for path in filter(Path.is_file, run.rglob("*")):
        assert not {KEY.encode(), b"secret-word"} & {
            word for word in (KEY.encode(), b"secret-word") if word in path.read_bytes()
        }
