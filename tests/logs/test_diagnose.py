"""Why a stage failed. captured/failed.RULE[.variant].log are real tails; CONSTRUCTED ones were written by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.logs.diagnose import RULES, diagnose, find_line_number, read_tail

CAPTURED = sorted((Path(__file__).parent / "captured").glob("failed.*.log"))

EVIDENCE = {
    "unknown-argument": "--warmup_ratoi",
    "missing-model": "/data/nomodel",
    "missing-file": "/data/nodata.jsonl",
    "missing-column": "neg",
    "no-such-module": "FlagEmbeding",
}

# Not captured: no GPU, no real hub, and nobody to exhaust the memory of. The messages are the libraries' own.
CONSTRUCTED = {
    "cuda-out-of-memory": "[rank1]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 1 has",
    "host-out-of-memory": "RuntimeError: [enforce fail at alloc_cpu.cpp] . DefaultCPUAllocator: can't allocate memory",
    "unknown-argument": "main.py: error: unrecognized arguments: --lora_rnak 8",
    "permission-denied": "PermissionError: [Errno 13] Permission denied: '/models/out'",
    "access-denied-by-hub": "huggingface_hub.errors.GatedRepoError: 403 Client Error.",
    "missing-eval-loss": "KeyError: 'eval_loss'",
    "device-mismatch": "torch.AcceleratorError: CUDA error: device-side assert triggered",
    "disk-full": "OSError: [Errno 28] No space left on device: '/runs/x/model.safetensors'",
    "worker-refused": "score: the base model folder /m holds no tokenizer",
    "resume-mismatch": "safetensors_rust.SafetensorError: Error while deserializing header: incomplete metadata",
    "no-such-module": "/usr/bin/python3: No module named FlagEmbedding",
}


def test_there_are_captured_failures():
    assert len(CAPTURED) >= 15


@pytest.mark.parametrize("path", CAPTURED, ids=lambda path: path.name)
def test_a_captured_failure_is_recognised(path):
    rule = path.name.split(".")[1]
    found = diagnose(read_tail(path), 1)
    assert found.name == rule
    assert EVIDENCE.get(rule, "") in found.cause
    assert found.remedy
    assert "====" not in found.evidence
    assert find_line_number(path, found.evidence)


@pytest.mark.parametrize("name", CONSTRUCTED)
def test_a_constructed_failure_is_recognised(name):
    found = diagnose(f"loading\n{CONSTRUCTED[name]}\n", 1)
    assert found.name == name
    assert found.evidence in CONSTRUCTED[name]


def test_every_rule_has_a_captured_or_a_constructed_case():
    covered = {path.name.split(".")[1] for path in CAPTURED} | set(CONSTRUCTED)
    assert covered == {rule.name for rule in RULES}


def test_every_captured_failure_without_its_rule_still_shows_the_exception_not_the_frame():
    for path in CAPTURED:
        text = read_tail(path).replace("Error", "Fault")  # no rule knows these
        assert "====" not in (diagnose(text, 1).evidence or "")


def test_an_unknown_exception_is_its_own_cause_and_torchruns_frame_is_not():
    text = (
        '[rank0]: Traceback (most recent call last):\n[rank0]:   File "x.py", line 1, in f\n'
        "[rank0]:     raise WeirdError('KeyError: neg')\n[rank0]: acme.errors.WeirdError: the moon is full\n"
        "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: \n======\n"
        "x FAILED\n------\n  exitcode  : 1\n====\n"
    )
    found = diagnose(text, 1)
    assert (found.name, found.cause) == ("exception", "acme.errors.WeirdError: the moon is full")


def test_exit_code_137_without_a_word_is_a_kill():
    assert diagnose("step 1\nstep 2\n", 137).name == "killed"


def test_a_silent_failure_says_so():
    found = diagnose("", 3)
    assert (found.name, found.evidence) == ("silent", None)


def test_the_more_useful_rule_wins():
    text = CONSTRUCTED["cuda-out-of-memory"] + "\n" + "exitcode  : -9 (pid: 1)  (SIGKILL)\n"
    assert diagnose(text, 1).name == "cuda-out-of-memory"


def test_an_earlier_attempts_text_is_not_read(tmp_path):
    log = tmp_path / "stderr.log"
    log.write_text("KeyError: 'neg'\n")
    offset = log.stat().st_size
    with log.open("a") as stream:
        stream.write("ValueError: other\n")
    assert diagnose(read_tail(log, offset), 1).evidence == "ValueError: other"
