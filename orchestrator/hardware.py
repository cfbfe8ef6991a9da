"""What the machine can compute on: GPUs and the precision they support, or a CPU."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from orchestrator.errors import PreflightError

BF16_CAPABILITY = 8.0  # Ampere and later have bfloat16 units


@dataclass(frozen=True)
class Hardware:
    """The devices that a plan is made for."""

    kind: str  # cuda | cpu
    count: int = 1
    bf16: bool = False
    names: tuple[str, ...] = ()
    memory_mib: tuple[int, ...] = ()

    @property
    def precision(self) -> str:
        """bf16 where the hardware has it, fp16 on other GPUs, fp32 on a CPU."""
        if self.kind == "cpu":
            return "fp32"
        return "bf16" if self.bf16 else "fp16"

    def __str__(self) -> str:
        """Return the hardware in words."""
        if self.kind == "cpu":
            return "CPU (fp32)"
        name = self.names[0] if self.names else "GPU"
        return f"{self.count} × {name} ({self.precision})"


CPU = Hardware("cpu")


def parse_hardware(text: str) -> Hardware:
    """Return the hardware that `cpu`, `gpu`, `gpu:4` or `gpu:2:fp16` names. Raises PreflightError for other text."""
    found = re.fullmatch(r"(cpu)|gpu(?::(\d+))?(?::(bf16|fp16))?", text)
    if not found or found[2] == "0":
        raise PreflightError(f"no such hardware: {text!r}", hint="auto, cpu, gpu, gpu:4 or gpu:2:fp16")
    if found[1]:
        return CPU
    return Hardware("cuda", int(found[2] or 1), found[3] != "fp16")


def find_hardware() -> Hardware:
    """Return this machine's hardware, as CUDA_VISIBLE_DEVICES restricts it; CPU where nvidia-smi finds nothing."""
    from orchestrator.process import run

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and not visible.strip().strip("-1"):
        return CPU
    probe = run(
        ("nvidia-smi", "--query-gpu=index,uuid,name,compute_cap,memory.total", "--format=csv,noheader,nounits"), 10.0
    )
    return parse_nvidia_smi(probe.stdout, visible) if probe.exit_code == 0 else CPU


def parse_nvidia_smi(text: str, visible: str | None = None) -> Hardware:
    """Return the GPUs of nvidia-smi's CSV (index, uuid, name, compute capability, MiB), restricted to `visible`."""
    rows = [[field.strip() for field in line.split(",")] for line in text.splitlines() if line.count(",") == 4]  # noqa: PLR2004
    if visible is not None:
        wanted = [name.strip() for name in visible.split(",")]
        rows = [row for row in rows if row[0] in wanted or any(name and row[1].startswith(name) for name in wanted)]
    if not rows:
        return CPU
    return Hardware(
        "cuda",
        len(rows),
        all(float(row[3]) >= BF16_CAPABILITY for row in rows if _is_number(row[3])),
        tuple(row[2] for row in rows),
        tuple(int(row[4]) for row in rows if row[4].isdigit()),
    )


def _is_number(text: str) -> bool:
    return bool(re.fullmatch(r"\d+(\.\d+)?", text))
