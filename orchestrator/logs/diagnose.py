"""The tail of a failed stage's logs → why it failed, with the line that shows it and what to do.

The rules are ranked from the most to the least useful: the first that matches wins, and of its matches the last line.
Launchers bury the cause: under torchrun the last line is always `====`, and the `[rank0]:` line that says it stands
some thirty lines above. To add a rule, provoke the failure, put the captured tail in tests/logs/captured/, and add a
`Rule`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

TAIL_BYTES = 256 << 10
KILLED_CODES = frozenset({-9, 137, 247})  # signal 9 as Python, a shell and ms-swift report it
_RANK = re.compile(r"^\s*(?:\[?(?:rank|default)\d+\]?:\s?)+", re.IGNORECASE)
_LAUNCHER_NOISE = re.compile(
    r"ChildFailedError|SignalException|={4,}|-{4,}|^\s*(?:time|host|rank|exitcode|error_file|traceback)\s*:"
)


@dataclass(frozen=True)
class Rule:
    """One known failure. `cause` and `remedy` may use the pattern's groups as {1}, {2}."""

    name: str
    pattern: re.Pattern[str]
    cause: str
    remedy: str


@dataclass(frozen=True)
class Diagnosis:
    """Why a stage failed. `evidence` is the log's own line, None when the logs say nothing."""

    name: str
    cause: str
    remedy: str
    evidence: str | None = None


def _rule(name: str, pattern: str, cause: str, remedy: str) -> Rule:
    return Rule(name, re.compile(pattern), cause, remedy)


RULES: tuple[Rule, ...] = (
    _rule(
        "cuda-out-of-memory",
        r"CUDA out of memory|OutOfMemoryError|CUBLAS_STATUS_ALLOC_FAILED|CUDA error: out of memory",
        "the GPU has not enough memory",
        "lower per_device_train_batch_size (raise gradient_accumulation_steps by as much), train_group_size or the "
        "maximum lengths, turn on gradient_checkpointing, or use LoRA",
    ),
    _rule(
        "worker-refused",  # the one line that Orch's own workers print before they end with code 1
        r"^(?:score|merge|package|tiny_model|predict|arguments|fresh|fetch|train_cross_encoder|score_pairs|mine)"
        r": (.+)$",
        "{1}",
        "put that right, then resume the run",
    ),
    _rule(
        "disk-full",
        r"No space left on device|ENOSPC|Disk quota exceeded"
        r"|iostream error|inline_container\.cc:\d+\] \. unexpected pos|PytorchStreamWriter failed",
        "the disk is full",
        "free some space, or set save_total_limit to keep fewer checkpoints; then resume the run",
    ),
    _rule(
        "host-out-of-memory",
        r"^MemoryError\b|: MemoryError\b|Cannot allocate memory|DefaultCPUAllocator: can't allocate memory",
        "the machine has not enough memory",
        "use a smaller batch, shorter lengths, fewer dataloader workers, or a machine with more memory",
    ),
    _rule(
        "row-too-long",
        r"MaxLengthError: Current length of row\((\d+)\) is larger than the max_length\((\d+)\)",
        "a row has {1} tokens, and max_length is {2}",
        "raise max_length, or shorten or remove the row; with the model on this machine Orch finds such rows before it "
        "trains, with file and line",
    ),
    _rule(
        "unknown-argument",
        r"arguments are not used by the HfArgumentParser: (\[.*\])|unrecognized arguments: (.+)"
        r"|remaining_argv: (\[.*\])|error: (argument .+)|error: (the following arguments are required.*)",
        "the backend does not know an argument, or its value: {any}",
        "correct the name under `train:`; `orch render --explain` shows what each argument becomes",
    ),
    _rule(
        "precision-not-supported",
        r"Your setup doesn't support bf16/gpu|bf16/gpu|FP16 Mixed precision training .* can only be used on CUDA"
        r"|Bfloat16 is not supported|Your device does not support.*(?:bf16|fp16)",
        "this machine has no GPU that can compute in the asked precision",
        "remove bf16 and fp16 from the recipe (Orch chooses by the hardware), or run on a GPU that has it",
    ),
    _rule(
        "no-such-module",
        r"(?:ModuleNotFoundError|ImportError|Error while finding module).*No module named '?([\w.]+)'?"
        r"|: No module named ([\w.]+)$",
        "the backend's Python has no module named {any}",
        "install it in the Python that runs the backend: launch.python, or else the one that runs Orch",
    ),
    _rule(
        "rows-without-negatives",
        r"ZeroDivisionError: (?:integer )?division(?: or modulo)? by zero",
        "a division by zero: in FlagEmbedding's dataset that is a row with an empty `neg` list",
        "give every training row at least one negative",
    ),
    _rule(
        "rows-without-positives",
        r"IndexError: Cannot choose from an empty sequence",
        "a training row has an empty `pos` list",
        "give every training row at least one positive",
    ),
    _rule(
        "missing-column",
        r"KeyError: '(query|pos|neg|pos_scores|neg_scores|prompt|messages|label|positive_messages|negative_messages)'",
        "a training row has no `{1}`",
        "give all rows the same keys; `pos_scores` and `neg_scores` are needed for knowledge_distillation",
    ),
    _rule(
        "missing-eval-loss",
        r"KeyError: 'eval_loss'|KeyError: .*set to 'eval_loss', which is not found",
        "the evaluation set is smaller than one batch, so the backend dropped it",
        "lower per_device_eval_batch_size, or raise data.validation_ratio",
    ),
    _rule(
        "unreadable-rows",
        r"DatasetGenerationError|JSON parse error|JSONDecodeError|ArrowInvalid|UnicodeDecodeError|Couldn't cast",
        "a data file holds rows that are not valid JSON, or not all of one shape",
        "`orch data check FILE` names the lines",
    ),
    _rule(
        "resume-needs-deepspeed",  # FlagEmbedding issue 1144
        r"has no attribute '_keys_to_ignore_on_save'|Can't find a checkpoint index",
        "FlagEmbedding cannot continue a checkpoint that it wrote without DeepSpeed",
        "start a new run, with `deepspeed: stage0` in the recipe if it shall be resumable",
    ),
    _rule(
        "resume-mismatch",
        r"Can't find a valid checkpoint|PytorchStreamReader failed|HeaderTooLarge|MetadataIncompleteBuffer"
        r"|SafetensorError|EOFError: Ran out of input"
        r"|Missing key\(s\) in state_dict|size mismatch for|failed finding central directory",
        "the checkpoint does not fit this training, or is damaged",
        "remove the newest checkpoint to continue from the one before it, or start a new run",
    ),
    _rule(
        "hub-unreachable",
        r"We couldn't connect to '(\S+)'|LocalEntryNotFoundError|OfflineModeIsEnabled|Max retries exceeded"
        r"|Name or service not known|Temporary failure in name resolution",
        "the model hub cannot be reached, and the model is not in the local cache",
        "check the network or proxy (HF_ENDPOINT for a mirror), or name a local folder under `model:`",
    ),
    _rule(
        "access-denied-by-hub",
        r"GatedRepoError|Access to model .+ is restricted|401 Client Error|403 Client Error",
        "the model hub refuses access to this model",
        "accept its licence on its page and log in with `hf auth login`",
    ),
    _rule(
        "missing-model",
        r"Repo id must be in the form .*: '([^']+)'|is not a local folder and is not a valid model identifier"
        r"|does not appear to have a file named (\S+)|Unrecognized model in (\S+)|RepositoryNotFoundError"
        r"|no file named model\.safetensors",
        "the model cannot be found, or its folder is incomplete: {any}",
        "check `model:` in the recipe: a folder with config.json, weights and tokenizer, or a hub id",
    ),
    _rule(
        "port-in-use",
        r"EADDRINUSE|[Aa]ddress already in use",
        "the port that the training processes meet at is in use",
        "let the launcher choose a free port (remove master_port), or wait for the other training to end",
    ),
    _rule(
        "missing-file",
        r"cannot find file: (.+?),|No such file or directory: '?([^'\n]+)'?|can't open file '([^']+)'",
        "a file does not exist: {any}",
        "check the path; relative paths start from the recipe's folder",
    ),
    _rule(
        "permission-denied",
        r"PermissionError: .*?'([^']+)'|[Pp]ermission denied|Read-only file system",
        "a file or folder may not be written or read: {any}",
        "choose another folder for the runs, or mend its permissions",
    ),
    _rule(
        "device-mismatch",
        r"CUDA error: (.+)|no kernel image is available|NCCL error|ncclUnhandledCudaError|Found no NVIDIA driver",
        "the GPU or its driver reported an error: {any}",
        "check `nvidia-smi`, and that the installed torch was built for this driver; then resume the run",
    ),
    _rule(
        "killed",
        r"exitcode\s*:\s*-9|\(SIGKILL\)|failed \(exitcode: -9\)",
        "a process was killed (signal 9); when nobody did it by hand, the kernel did because memory ran out",
        "use a smaller batch, shorter lengths or fewer processes, or a machine with more memory; then resume the run",
    ),
    _rule(
        "ended-by-signal",
        r"^KeyboardInterrupt|Received \d+ death signal|SignalException: .*got signal: (\d+)|\(SIGTERM\)|\(SIGINT\)",
        "the stage was ended by a signal from outside",
        "resume the run",
    ),
)

# The fallbacks: an exception's own line. A frame's source line is indented, an exception's line is not.
_EXCEPTION = re.compile(r"^(?:[\w]+\.)*[A-Z]\w*(?:Error|Exception|Warning|Interrupt|Failed|Invalid\w*)\b(?::.*)?$")
_ASSERTION = re.compile(r"^AssertionError\b.*")
_SAYS_ERROR = re.compile(r"\b(?:error|fatal|cannot|failed)\b", re.IGNORECASE)


def diagnose(text: str, exit_code: int | None = None) -> Diagnosis:
    """Return the best explanation of a failure. `text` is the end of stdout, a line end, and the end of stderr."""
    lines = [_RANK.sub("", line).rstrip() for line in re.split(r"[\r\n]+", text)]
    said = [line for line in lines if not _is_source(line)]
    for rule in RULES:
        for line in reversed(said):
            match = rule.pattern.search(line)
            if match:
                return _explain(rule, match, line)
    if exit_code in KILLED_CODES:
        killed = next(rule for rule in RULES if rule.name == "killed")
        return Diagnosis(killed.name, killed.cause, killed.remedy)
    return _fall_back([line for line in said if line.strip() and not _LAUNCHER_NOISE.search(line)], exit_code)


def read_tail(path: Path, offset: int = 0) -> str:
    """Return the end of a log, at most `TAIL_BYTES`, nothing from before `offset` (an earlier attempt's text)."""
    try:
        with path.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(max(offset, size - TAIL_BYTES))
            return stream.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return ""


def find_line_number(path: Path, evidence: str) -> int | None:
    """Return the number (from 1, as editors count) of the last line that holds `evidence`."""
    found = None
    try:
        with path.open(encoding="utf-8", errors="replace", newline="\n") as stream:
            for number, line in enumerate(stream, 1):
                if evidence in line:
                    found = number
    except FileNotFoundError:
        return None
    return found


def _is_source(line: str) -> bool:
    """Tell whether the line is a frame of a traceback or its source: these quote messages that were not raised."""
    return line.startswith(("  File ", "    ")) or "raise " in line


def _explain(rule: Rule, match: re.Match[str], line: str) -> Diagnosis:
    groups = [group or "" for group in match.groups()]
    named = next((group for group in groups if group), match[0]).strip()
    cause = rule.cause.replace("{any}", named).replace("{1}", groups[0] if groups else named)
    return Diagnosis(rule.name, cause, rule.remedy, line.strip())


def _fall_back(said: list[str], exit_code: int | None) -> Diagnosis:
    remedy = "read the log around that line"
    for pattern in (_EXCEPTION, _SAYS_ERROR):
        line = next((line.strip() for line in reversed(said) if pattern.search(line)), None)
        if line:
            name = "exception" if pattern is _EXCEPTION else "error-line"
            return Diagnosis(name, line, remedy, line)
    if said:
        return Diagnosis("last-line", f"it ended after saying: {said[-1].strip()}", remedy, said[-1].strip())
    return Diagnosis("silent", "it ended without a word", f"run its command.sh by hand (exit code {exit_code})")
