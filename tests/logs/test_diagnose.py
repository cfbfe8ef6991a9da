"""Why a stage failed, from real logs: captured/failed.RULE.VARIANT.log, most of them provoked by provocations/."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orchestrator.logs.diagnose import (
    count_ranks,
    diagnose,
    find_line_number,
    is_said,
    load_rules,
    read_lines,
    read_tail,
)
from orchestrator.machine.terminal import Text
from orchestrator.workers.__main__ import WORKERS

HERE = Path(__file__).parent
RULES = load_rules()
CAPTURED = sorted((HERE / "captured").glob("failed.*.log"))
HEALTHY = sorted((HERE / "captured").glob("trained.*.log"))
PROVOKED = sorted((HERE / "provocations").glob("*.sh"))

EVIDENCE = {
    "adapter-mismatch.vocabulary": "is 40, 16 in the adapter, and 32, 16 in the base",
    "damaged-weights.checkpoint": "damaged",
    "missing-column": "neg",
    "missing-column.error-file": "pos",
    "missing-file": "/data/nodata.jsonl",
    "missing-file.dataset": "/data/nodata.jsonl",
    "missing-model": "/data/nomodel",
    "missing-model.swift": "/data/Qwen3-0.6B",
    "no-such-module": "FlagEmbeding",
    "no-target-modules.peft": "q_proj",
    "permission-denied.folder": "/root/models",
    "read-only-file-system.folder": "/mnt/runs",
    "rendezvous-settings.rank": "RANK",
    "row-too-long": "max_length is",
    "shape-mismatch.second-rank": "do not fit",
    "tracker-missing.wandb": "wandb",
    "unknown-argument": "--warmup_ratoi",
    "unknown-argument.swift": "--lora_rnak",
    "unknown-argument.torchrun": "--nprocs",
    "unknown-argument.value": "--num_train_epochs",
    "unknown-architecture.config": "qwen9",
    "versions-conflict.name": "AdamW",
    "versions-conflict.requirement": "torch>=99.0",
    "versions-conflict.undefined-symbol": "at_of_another_torch",
    "worker-refused.merge": "adapter_config.json",
}

# Only a GPU, a limit or a network at fault says these, so they could not be captured: one line each, in the words of the
# library's source. Threads that show them in full stand in captured/SOURCES.md.
CONSTRUCTED = {
    "cuda-out-of-memory": "[rank1]: torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 1 has",
    "device-assert": "torch.AcceleratorError: CUDA error: device-side assert triggered",
    "device-mismatch": "RuntimeError: CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
    "driver-mismatch": "RuntimeError: The NVIDIA driver on your system is too old (found version 11040).",
    "gpu-failed": "RuntimeError: CUDA error: uncorrectable ECC error encountered",
    "nccl-error": "torch.distributed.DistBackendError: NCCL error in: ProcessGroupNCCL.cpp:1333, unhandled system error",
    "collective-timeout": "[rank3]:[E ProcessGroupNCCL.cpp:607] [Rank 3] Watchdog caught collective operation timeout: W",
    "no-gpu": "RuntimeError: No CUDA GPUs are available",
    "access-denied-by-hub": "huggingface_hub.errors.GatedRepoError: 403 Client Error.",
    "missing-eval-loss": "KeyError: 'eval_loss'",
    "disk-failed": "OSError: [Errno 116] Stale file handle",
    "download-broken": "requests.exceptions.ChunkedEncodingError: ('Connection broken: IncompleteRead(10 bytes read)'",
    "kernel-too-large": "triton.runtime.errors.OutOfResources: out of resource: shared memory, Required: 163840, Hardwa",
    "library-missing": "ImportError: libcudart.so.12: cannot open shared object file: No such file or directory",
    "parameter-ready-twice": "RuntimeError: Expected to mark a variable ready only once. This error is caused by one o",
    "too-many-processes": "RuntimeError: can't start new thread",
    "tracker-login": "wandb.errors.errors.UsageError: api_key not configured (no-tty). call wandb.login(key=[your_api_k",
}
UNCAPTURED = {"cuda-out-of-memory", "device-assert", "device-mismatch", "driver-mismatch", "gpu-failed", "nccl-error"}
UNCAPTURED |= {"disk-failed", "download-broken", "kernel-too-large", "library-missing", "parameter-ready-twice"}
UNCAPTURED |= {"too-many-processes", "tracker-login"}  # in rules.yaml they have no `capture`

# captured/forms.tsv: other forms of failures that are captured or constructed above, the message's lines alone; with `-`,
# what a log says the like of where all is well, or where something else has failed.
SAID = [line.replace("\\n", "\n").split("\t") for line in (HERE / "captured" / "forms.tsv").read_text().splitlines()]
FORMS = [(name, said) for name, said in SAID if name != "-"]
HARMLESS = [said for name, said in SAID if name == "-"]


def rule_of(path):
    return path.name.split(".")[1]


def variant_of(path):
    return path.name.removeprefix("failed.").removesuffix(".log")


def test_there_are_captured_failures():
    assert len(CAPTURED) >= 60
    assert len(HEALTHY) >= 8


@pytest.mark.parametrize("path", CAPTURED, ids=variant_of)
def test_a_captured_failure_is_recognised(path):
    found = diagnose(read_tail(path), 1)
    assert found.name == rule_of(path)
    assert EVIDENCE.get(variant_of(path), "") in found.cause
    assert found.remedy
    assert "====" not in found.evidence
    assert find_line_number(path, found.evidence)


@pytest.mark.parametrize("name", CONSTRUCTED)
def test_a_constructed_failure_is_recognised(name):
    found = diagnose(f"loading\n{CONSTRUCTED[name]}\n", 1)
    assert found.name == name
    assert found.evidence in CONSTRUCTED[name]


def test_there_are_other_forms():
    assert len(FORMS) >= 25
    assert len(HARMLESS) >= 5


@pytest.mark.parametrize(("name", "said"), FORMS)
def test_another_form_of_a_failure_is_recognised(name, said):
    found = diagnose(f"loading\nTraceback (most recent call last):\n{said}\n", 1)
    assert found.name == name
    assert found.evidence in said


@pytest.mark.parametrize("said", HARMLESS)
def test_whatis_said_in_passing_explains_no_failure(said):
    assert diagnose(f"{said}\nstep 1\nacme.WeirdError: the moon is full\n", 1).name == "exception"


def test_a_message_that_begins_on_the_next_line_is_shown():
    said = (
        "[rank1]: RuntimeError: \n[rank0]: step 1\n[rank1]:     Some tensors share memory, this will lead to duplicates"
    )
    assert diagnose(said, 1).cause == "RuntimeError: Some tensors share memory, this will lead to duplicates"


def test_a_sentence_that_asks_to_raise_something_is_no_frame():
    assert is_said("RuntimeError: full. Please try to raise your limit.")
    assert not any(map(is_said, ("raise WeirdError(", "│ ❱ 20 │   raise RuntimeError(", "-> 3349 raise Fault")))


def test_every_rule_but_the_gpus_has_a_captured_log():
    assert {rule.name for rule in RULES} - {rule_of(path) for path in CAPTURED} == UNCAPTURED
    assert {rule.name for rule in RULES if rule.capture is None} == UNCAPTURED
    assert {rule.capture for rule in RULES} - {None} <= set(map(variant_of, CAPTURED))
    assert not [rule.name for rule in RULES if rule.capture and rule.capture.partition(".")[0] != rule.name]
    assert set(CONSTRUCTED) >= UNCAPTURED


def test_there_are_at_least_thirty_rules_of_different_names():
    assert len({rule.name for rule in RULES}) == len(RULES) >= 30


def test_every_provocation_has_its_log():
    assert {path.stem for path in PROVOKED} <= {variant_of(path) for path in CAPTURED}
    assert len(PROVOKED) >= 50


def test_where_several_rules_match_a_log_its_own_is_ranked_first():
    overlaps = 0
    for path in CAPTURED:
        lines = read_lines(read_tail(path))
        said = [line.text for line in lines if is_said(line.text)]
        matching = [rule.name for rule in RULES if not rule.frames and any(map(rule.pattern.search, said))]
        own = next(rule for rule in RULES if rule.name == rule_of(path))
        overlaps += len(matching) > 1
        if count_ranks(lines) < 2 and not own.frames:
            assert matching[0] == own.name
    assert overlaps > 5


@pytest.mark.parametrize("path", HEALTHY, ids=lambda path: path.name)
def test_no_rule_reads_a_failure_into_a_healthy_log(path):
    assert not [
        rule.name
        for rule in RULES
        if not rule.secondary and any(map(rule.pattern.search, read_tail(path).splitlines()))
    ]


def test_no_captured_log_names_this_machine_or_a_person():
    for path in CAPTURED:
        assert not re.findall(r"/home/|/work/|/Users/|@\w+\.(?:com|cn|org)", path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_a_rule_speaks_both_languages_and_fills_in_the_same(rule):
    for text in filter(None, (rule.cause, rule.remedy, rule.outside_run)):
        if text == Text("", "") and rule.name == "worker-refused":  # its line says what is to be done
            continue
        assert text.en
        assert text.zh
        assert set(re.findall(r"\{\w+\}", text.en)) == set(re.findall(r"\{\w+\}", text.zh))
        assert re.search(r"[\u4e00-\u9fff]", text.zh) or text == Text("{1}", "{1}")
        assert not re.search(r"[\u4e00-\u9fff]", text.en)
        assert not re.search(r"[\u4e00-\u9fff][,;:!?]", text.zh)  # Chinese text has full-width punctuation
    groups = rule.pattern.groups
    assert all(int(number) <= groups for number in re.findall(r"\{(\d)\}", rule.cause.en + rule.remedy.en))


def test_a_chinese_diagnosis_has_the_name_and_the_evidence_of_the_english_one():
    for path in CAPTURED:
        english, chinese = (diagnose(read_tail(path), 1, language) for language in ("en", "zh"))
        assert (english.name, english.evidence, english.rank) == (chinese.name, chinese.evidence, chinese.rank)
        assert english.remedy != chinese.remedy
        assert "{" not in english.cause.replace("{'", "")


def test_what_the_fallbacks_say_is_chinese_too():
    assert diagnose("", 3, "zh").cause == "结束时没有任何输出"
    assert "3" in diagnose("", 3, "zh").remedy
    assert diagnose("step 1\n", 1, "zh").cause == "结束前的最后输出：step 1"


def test_the_groups_of_a_pattern_are_put_into_the_cause():
    found = diagnose("swift.MaxLengthError: Current length of row(700) is larger than the max_length(512).\n", 1)
    assert found.cause == "a row has 700 tokens, and max_length is 512"


def test_every_captured_failure_without_its_rule_still_shows_the_exception_not_the_frame():
    for path in CAPTURED:
        text = read_tail(path).replace("Error", "Fault")  # few rules know these
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


@pytest.mark.parametrize(("code", "name"), [(137, "killed"), (247, "killed"), (139, "crashed"), (134, "crashed")])
def test_an_exit_code_of_a_signal_without_a_word_names_the_signal(code, name):
    assert diagnose("step 1\nstep 2\n", code).name == name


def test_an_exception_explains_a_crash_better_than_its_code():
    assert diagnose("acme.WeirdError: the moon is full\n", 134).cause == "acme.WeirdError: the moon is full"


def test_a_silent_failure_says_so():
    found = diagnose("", 3)
    assert (found.name, found.evidence) == ("silent", None)


def test_every_worker_of_orch_explains_its_own_end():
    for name in set(WORKERS) - {"launch"}:  # it becomes the launcher of a backend
        assert diagnose(f"step 1\n{name}: that is not there\n", 1).cause == "that is not there"


def test_the_more_useful_rule_wins():
    text = CONSTRUCTED["cuda-out-of-memory"] + "\n" + "exitcode  : -9 (pid: 1)  (SIGKILL)\n"
    assert diagnose(text, 1).name == "cuda-out-of-memory"


def test_a_rule_that_needs_frames_is_silent_without_them():
    assert diagnose("ZeroDivisionError: integer division or modulo by zero\n", 1).name == "exception"


def test_a_warning_about_the_driver_is_no_failure():
    text = "UserWarning: CUDA initialization: The NVIDIA driver on your system is too old (found version 11040).\n"
    assert diagnose(f"{text}ValueError: other\n", 1).evidence == "ValueError: other"


def test_an_earlier_attempts_text_is_not_read(tmp_path):
    log = tmp_path / "stderr.log"
    log.write_text("KeyError: 'neg'\n")
    offset = log.stat().st_size
    with log.open("a") as stream:
        stream.write("ValueError: other\n")
    assert diagnose(read_tail(log, offset), 1).evidence == "ValueError: other"
