"""A package that a single argument asks for is missed before the run, not by the trainer after the baseline."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from orchestrator.checks import CHECKS
from orchestrator.checks.machine import check_packages
from orchestrator.checks.settings import check_argument_packages, load_needs
from orchestrator.machine.packages import DISTRIBUTIONS, OPTIONAL
from orchestrator.plan.pipeline import build_plan
from tests.jobs import TESTED
from tests.shipped import build_shipped_job


def check(name, *overrides, installed=()):
    job = build_shipped_job(name, *overrides, versions=TESTED | dict.fromkeys(("peft", *installed), "1.0"))
    return list(check_argument_packages(job, build_plan(job)))


@pytest.mark.parametrize(
    ("name", "given", "package"),
    [
        ("qwen3_sft_lora", ["train.quant_method=bnb", "train.quant_bits=4"], "bitsandbytes"),
        ("qwen3_sft_lora", ["train.quant_method=hqq", "train.quant_bits=4"], "hqq"),
        ("qwen3_sft_lora", ["train.quant_method=quanto", "train.quant_bits=8"], "optimum-quanto"),
        ("qwen3_sft_lora", ["train.report_to=[tensorboard]"], "tensorboard"),
        ("qwen3_sft_lora", ["train.eval_metric=nlg"], "jieba"),
        ("qwen3_reranker", ["train.report_to=wandb"], "wandb"),
        ("bge_pointwise", ["train.optim=adamw_bnb_8bit"], "bitsandbytes"),
    ],
)
def test_what_an_argument_asks_for_is_missed_before_the_run(name, given, package):
    (problem,) = check(name, *given)
    assert f"asks for {package}, which is not installed" in problem.message
    assert f"-m pip install {package}" in problem.hint
    assert check(name, *given, installed=[package]) == []


def test_it_is_checked_before_every_run_and_every_package_is_looked_for():
    assert check_argument_packages in [check.find for check in CHECKS]
    assert {name for *_, names in load_needs() for name in names} <= {*DISTRIBUTIONS, *OPTIONAL}
    assert check("qwen3_sft_lora", "train.optim=adamw_torch") == []


def test_an_exporter_s_packages_are_looked_for_in_its_own_python(tmp_path):
    python = tmp_path / "python-without"
    python.write_text('#!/bin/sh\necho \'{"python": "3.11.7", "sentence_transformers": "6.2.0"}\'\n', encoding="utf-8")
    python.chmod(0o755)
    job = build_shipped_job("bge_pointwise", "export=[onnx]")
    job = replace(job, export_python=str(python))
    (problem,) = [found for found in check_packages(job, build_plan(job)) if "is written with" in found.message]
    assert problem.message == f"{python} has no optimum-onnx, onnxruntime, which onnx is written with"
    assert f"{python} -m pip install optimum-onnx onnxruntime" in problem.hint
    assert "export.python" in problem.hint
