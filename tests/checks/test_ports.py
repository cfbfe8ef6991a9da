"""MASTER_PORT: refused where a training would take it and cannot, ignored where it meets at a port of its own."""

from __future__ import annotations

import socket

import pytest
from msgspec.structs import replace

from orchestrator.checks.machine import check_ports, find_port_refusal
from orchestrator.machine.hardware import CPU, Hardware


@pytest.fixture
def taken():
    """A port that another program listens on."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


@pytest.fixture
def swift_plan(plan_for, folder):
    """One process of ms-swift, which nothing launches."""
    return plan_for(folder.model(), recipe="qwen3_sft_lora", hardware=Hardware("cuda", 1, bf16=True))


def test_a_port_in_use_is_named_with_where_it_comes_from(swift_plan, taken, monkeypatch):
    monkeypatch.setenv("MASTER_PORT", str(taken))
    (problem,) = check_ports(*swift_plan)
    assert problem.message == f"MASTER_PORT={taken} in your shell: another program listens on that port"
    assert problem.hint == "unset MASTER_PORT, or name a free port"


def test_the_recipes_own_port_wins_over_the_shells(swift_plan, taken, monkeypatch):
    monkeypatch.setenv("MASTER_PORT", "none")
    job, plan = swift_plan
    launch = job.recipe.launch.model_copy(update={"env": {"MASTER_PORT": str(taken)}})
    (problem,) = check_ports(replace(job, recipe=job.recipe.model_copy(update={"launch": launch})), plan)
    assert "in launch.env: another program" in problem.message
    assert problem.hint.startswith("remove MASTER_PORT from launch.env")


def test_a_free_port_is_let_through(swift_plan, taken, monkeypatch):
    with socket.socket() as other:
        other.bind(("", 0))
        free = other.getsockname()[1]
    monkeypatch.setenv("MASTER_PORT", str(free))
    assert list(check_ports(*swift_plan)) == []
    monkeypatch.delenv("MASTER_PORT")
    assert list(check_ports(*swift_plan)) == []


@pytest.mark.parametrize("value", ["none", "0", "65536", "-1", "29500.5"])
def test_what_is_no_port_is_refused(swift_plan, monkeypatch, value):
    monkeypatch.setenv("MASTER_PORT", value)
    (problem,) = check_ports(*swift_plan)
    assert f"MASTER_PORT={value} in your shell is no port" in problem.message


def test_a_training_that_meets_at_a_port_of_its_own_ignores_it(plan_for, folder, taken, monkeypatch):
    monkeypatch.setenv("MASTER_PORT", str(taken))
    assert list(check_ports(*plan_for(folder.model(), hardware=CPU))) == []


def test_a_port_that_may_not_be_listened_on_is_said(monkeypatch):
    def refuse(self, address):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    assert find_port_refusal(80) == "it cannot be listened on: Permission denied"
