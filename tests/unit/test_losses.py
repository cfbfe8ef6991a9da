"""What is known of every loss, in one place: the schema, the writers and the worker have the same ones."""

from __future__ import annotations

from dataclasses import fields

import pytest

from orchestrator.backends import BACKENDS
from orchestrator.data.forms import TRAIN_FORMS
from orchestrator.data.rows.records import KINDS
from orchestrator.recipe.losses import LOSSES, find_losses, list_names
from orchestrator.recipe.schema import Loss
from orchestrator.workers import cross_encoder_losses as of_worker
from orchestrator.workers.embedding import losses as of_embeddings


def test_every_loss_is_of_a_backend_a_task_a_writer_and_kinds_of_rows_that_there_are():
    for name, facts in LOSSES.items():
        assert name == (facts.backend, facts.task, facts.name)
        assert facts.task in BACKENDS[facts.backend].tasks, name
        assert set(facts.kinds) <= {*KINDS}, name
        assert set(facts.kinds) <= {*TRAIN_FORMS[facts.form].kinds}, name
        assert set(facts.settings) <= Loss.model_fields.keys() - {"type", "target"}, name


def test_every_setting_of_the_schema_is_some_loss_s():
    known = {name for facts in LOSSES.values() for name in facts.settings}
    assert known == Loss.model_fields.keys() - {"type", "target"}


def test_the_schema_offers_every_loss():
    assert Loss.model_json_schema()["$defs"]["Loss"]["properties"]["type"]["enum"] == list_names()


def test_the_worker_trains_every_loss_of_cross_encoders_from_the_same_rows():
    own = {facts.name: facts for facts in find_losses("sentence-transformers", "reranker")}
    assert own.keys() == of_worker.LOSSES.keys()
    for name, facts in own.items():
        assert (facts.form, tuple(facts.settings)) == (of_worker.LOSSES[name].form, of_worker.LOSSES[name].settings)


def test_the_worker_trains_every_loss_of_embedding_models_from_the_same_rows():
    own = {facts.name: facts for facts in find_losses("sentence-transformers", "embedding")}
    assert own.keys() == of_embeddings.LOSSES.keys()
    for name, facts in own.items():
        theirs = of_embeddings.LOSSES[name]
        assert (facts.form, {*facts.settings}, facts.in_batch) == (theirs.form, {*theirs.settings}, theirs.in_batch)


@pytest.mark.parametrize("worker", [of_worker, of_embeddings])
def test_the_worker_reads_every_setting_of_its_losses_and_no_other(worker):
    known = {field.name for field in fields(worker.LossSettings)} - {"type"}
    assert known == {name for loss in worker.LOSSES.values() for name in loss.settings}
