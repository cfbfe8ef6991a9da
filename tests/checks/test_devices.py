"""GPUs in use, and a torch that cannot use them: nvidia-smi's CSV as its users have published it."""

from __future__ import annotations

import os
import sys

import pytest
from msgspec.structs import replace

from orchestrator.checks import machine as devices
from orchestrator.checks.machine import (
    TorchBuild,
    advise_devices,
    check_devices,
    find_torch_build,
    parse_gpu_users,
)
from orchestrator.machine import hardware
from orchestrator.machine.hardware import CPU, Hardware, find_hardware, parse_gpus, select_visible
from orchestrator.machine.process import Completed

# index, uuid, name, compute_cap, memory.total, memory.used, driver_version
TWO = """\
0, GPU-b5169cef-2205-c30e-f2b3-220cfa14bafd, NVIDIA TITAN V, 7.0, 12288, 9803, 570.86.15
1, GPU-7518f6b0-991f-ce2b-3d37-c779130d3137, NVIDIA RTX 5880 Ada Generation, 8.9, 49140, 1, 570.86.15
"""
# gpu_uuid, pid, process_name, used_memory
USERS = """\
GPU-b5169cef-2205-c30e-f2b3-220cfa14bafd, 21344, python, 9012
GPU-b5169cef-2205-c30e-f2b3-220cfa14bafd, 21999, /opt/my, old/bin/python3, [N/A]
"""
VERSION = """\
from typing import Optional

__all__ = ['__version__', 'debug', 'cuda', 'git_version', 'hip', 'rocm', 'xpu']
__version__ = '{version}'
debug = False
cuda: Optional[str] = {cuda}
git_version = 'cf30153c4c131c8164ee7798e5022d810682e2cb'
hip: Optional[str] = {hip}
"""


@pytest.fixture
def smi(monkeypatch):
    """Be an nvidia-smi that shows these GPUs and processes, and keep what it is asked; torch is asked in earnest."""
    real = devices.run

    def smi(gpus: str = TWO, users: str = USERS, code: int = 0) -> list[str]:
        asked: list[str] = []

        def answer(argv, timeout_s, **more):
            if argv[0] != "nvidia-smi":
                return real(argv, timeout_s, **more)
            asked.append(argv[1].partition("=")[0])
            return Completed(argv, code, users if "compute-apps" in argv[1] else gpus, "")

        monkeypatch.setattr(devices, "run", answer)
        monkeypatch.setattr("orchestrator.machine.process.run", answer)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        hardware.find_gpus.cache_clear()
        return asked

    yield smi
    hardware.find_gpus.cache_clear()


@pytest.fixture
def gpu_job(plan_for, folder):
    job, plan = plan_for(folder.model(), hardware=Hardware("cuda", 2, bf16=True))
    return replace(job, backend_python=sys.executable), plan


def test_each_gpu_is_read_with_its_memory_and_driver():
    first, second = parse_gpus(TWO)
    assert (first.index, first.name, first.capability) == ("0", "NVIDIA TITAN V", 7.0)
    assert (second.memory_mib, second.used_mib, second.driver) == (49140, 1, "570.86.15")


def test_what_a_driver_does_not_say_is_unknown():
    (gpu,) = parse_gpus("0, GPU-1, NVIDIA GB10, 12.1, [N/A], [N/A], 580.95.05\nFailed to initialize NVML\n")
    assert (gpu.memory_mib, gpu.used_mib) == (None, None)


@pytest.mark.parametrize(
    ("visible", "indices"),
    [
        (None, ["0", "1"]),
        ("1", ["1"]),
        ("0,1", ["0", "1"]),
        ("GPU-7518", ["1"]),
        ("5", []),
        ("", []),
        ("1,0", ["1", "0"]),
        ("0,-1,1", ["0"]),
    ],
)
def test_visible_gpus_are_those_that_cuda_would_see(visible, indices):
    assert [gpu.index for gpu in select_visible(parse_gpus(TWO), visible)] == indices


def test_the_hardware_is_that_of_the_visible_gpus(smi, monkeypatch):
    smi()
    assert find_hardware().count == 2
    assert find_hardware().precision == "fp16"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert find_hardware() == Hardware(
        "cuda", 1, bf16=True, names=("NVIDIA RTX 5880 Ada Generation",), memory_mib=(49140,)
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert find_hardware() == CPU


@pytest.mark.parametrize(
    ("says", "code"),
    [
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n", 9),
        ("No devices were found\n", 6),
        ("", None),  # it hangs
    ],
)
def test_without_a_driver_there_is_a_cpu(smi, says, code):
    smi(says, code=code)
    assert find_hardware() == CPU
    assert hardware.find_gpus() == ()


@pytest.mark.parametrize(
    ("says", "code"),
    [
        ("WARNING: infoROM is corrupted at gpu 0000:3B:00.0\n", 14),
        ("Unable to determine the device handle for GPU 0000:AF:00.0: GPU is lost.  Reboot the system\n", 15),
    ],
)
def test_what_is_wrong_with_one_gpu_does_not_hide_the_others(smi, says, code):
    smi(says + TWO, code=code)
    assert find_hardware().count == 2


@pytest.mark.parametrize(
    "visible",
    [
        "MIG-5f6f1b2c-2a11-5222-8333-944444444444",
        "MIG-5f6f1b2c-2a11-5222-8333-944444444444,MIG-6a7b1b2c-2a11-5222-8333-955555555555",
        "MIG-GPU-b5169cef-2205-c30e-f2b3-220cfa14bafd/1/0",
    ],
)
def test_a_slice_of_a_gpu_is_one_gpu_of_unknown_memory(smi, monkeypatch, gpu_job, visible):
    smi(TWO.replace("7.0", "8.0"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert find_hardware() == Hardware("cuda", 1, bf16=True, names=("NVIDIA TITAN V",))
    assert list(advise_devices(*gpu_job)) == []  # what the whole GPU is used for is not this slice's load


def test_a_torch_that_only_the_shell_s_path_leads_to_is_found(tmp_path, monkeypatch):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("")
    (tmp_path / "torch" / "version.py").write_text(VERSION.format(version="2.99.0+cu999", cuda="'99.9'", hip="None"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert find_torch_build(sys.executable) == TorchBuild("2.99.0+cu999", "99.9")


def test_what_lies_in_the_working_directory_is_no_torch(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path)
    assert find_torch_build(sys.executable).version is not None


def test_a_process_name_may_hold_commas():
    first, second = parse_gpu_users(USERS + "No running processes found\n")
    assert (first.pid, first.name, first.used_mib) == (21344, "python", 9012)
    assert (second.pid, second.name, second.used_mib) == (21999, "/opt/my, old/bin/python3", None)


def test_a_busy_gpu_is_named_with_who_uses_it_and_which_are_free(smi, gpu_job):
    smi()
    (problem,) = advise_devices(*gpu_job)
    assert problem.message == (
        "GPU 0 has 9803 of 12288 MiB in use by python (pid 21344), /opt/my, old/bin/python3 (pid 21999)"
    )
    assert problem.hint == "choose free ones: CUDA_VISIBLE_DEVICES=1"


def test_one_command_asks_once_which_gpus_there_are(smi, gpu_job):
    asked = smi()
    found = find_hardware()
    job, plan = gpu_job
    job = replace(job, hardware=found)
    for check in (check_devices, advise_devices):
        list(check(job, plan))
    assert asked == ["--query-gpu", "--query-compute-apps"]


def test_gpus_that_the_recipe_does_not_use_may_be_busy(smi, gpu_job):
    smi()
    job, plan = gpu_job
    launch = job.recipe.launch.model_copy(update={"env": {"CUDA_VISIBLE_DEVICES": "1"}})
    chosen = replace(job, recipe=job.recipe.model_copy(update={"launch": launch}))
    assert list(advise_devices(chosen, plan)) == []


def test_where_every_gpu_is_busy_none_is_recommended(smi, gpu_job):
    smi(TWO.replace(" 1, 570", " 40000, 570"), users="")
    (problem,) = advise_devices(*gpu_job)
    assert "GPU 0 has 9803 of 12288 MiB in use; GPU 1 has 40000 of 49140 MiB in use" in problem.message
    assert "CUDA_VISIBLE_DEVICES" not in problem.hint


def test_idle_gpus_and_cpus_get_no_advice(smi, gpu_job):
    smi(TWO.replace("9803", "3"))
    job, plan = gpu_job
    assert list(advise_devices(job, plan)) == []
    assert list(advise_devices(replace(job, hardware=CPU), plan)) == []
    assert list(check_devices(replace(job, hardware=CPU), plan)) == []
    assert list(check_devices(replace(job, smoke=True), plan)) == []


@pytest.mark.parametrize(
    ("version", "cuda", "hip", "cpu_only"),
    [
        ("2.13.0+cpu", "None", "None", True),
        ("2.13.0+cu128", "'12.8'", "None", False),
        ("2.13.0", "'12.8'", "None", False),
        ("2.13.0+rocm6.4", "None", "'6.4.43482-0f2d60242'", False),
    ],
)
def test_torch_says_what_it_was_built_for_without_being_imported(tmp_path, version, cuda, hip, cpu_only):
    import subprocess

    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise SystemExit('imported')")
    (tmp_path / "torch" / "version.py").write_text(VERSION.format(version=version, cuda=cuda, hip=hip))
    program = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{devices._PROBE}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    import json

    found = json.loads(done.stdout)
    build = TorchBuild(found.get("__version__"), found.get("cuda"), found.get("hip"))
    assert build.version == version
    assert build.cpu_only is cpu_only


def test_a_torch_that_is_not_there_is_not_blamed(tmp_path):
    assert find_torch_build(str(tmp_path / "python")) == TorchBuild()
    assert not TorchBuild().cpu_only


def test_a_torch_for_the_cpu_on_a_machine_with_gpus_ends_the_run_before_it_starts(smi, gpu_job, monkeypatch):
    smi()
    monkeypatch.setattr(devices, "find_torch_build", lambda _python: TorchBuild("2.13.0+cpu"))
    (problem,) = check_devices(*gpu_job)
    assert "torch 2.13.0+cpu of " in problem.message
    assert "built for the CPU only, and this machine has 2 GPU(s)" in problem.message
    assert "--hardware cpu" in problem.hint
    monkeypatch.setattr(devices, "find_torch_build", lambda _python: TorchBuild("2.13.0+cu128", "12.8"))
    assert list(check_devices(*gpu_job)) == []


def test_a_plan_for_gpus_made_where_there_are_none_is_let_through(smi, gpu_job):
    smi("")
    assert list(check_devices(*gpu_job)) == []


def test_the_kernels_sizes_are_bytes_and_its_counts_are_left_out():
    text = "MemTotal:       24689764 kB\nMemAvailable:   22846380 kB\nHugePages_Total:       0\nDirectMap4k:  many kB\n"
    assert hardware.parse_memory(text) == {"MemTotal": 24689764 * 1024, "MemAvailable": 22846380 * 1024}


def test_the_memory_of_this_machine_is_what_the_system_says():
    pages, page = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    assert hardware.find_memory()["MemTotal"] == pages * page


def test_without_the_kernels_file_the_memory_is_not_known(monkeypatch, tmp_path):
    monkeypatch.setattr(hardware, "_MEMINFO", tmp_path / "none")
    assert hardware.find_memory() == {}
