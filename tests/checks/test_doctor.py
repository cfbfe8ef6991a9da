"""orch doctor: what a machine has and lacks, each with what to install, and whether a run could start."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading

import pytest
from click.testing import CliRunner

from orchestrator.backends import BACKENDS
from orchestrator.checks import doctor
from orchestrator.checks import machine as packages
from orchestrator.checks.doctor import (
    Finding,
    HubProbe,
    Interpreter,
    can_start,
    describe_gpus,
    describe_memory,
    describe_torch,
    examine_environments,
)
from orchestrator.checks.machine import GpuUser, TorchBuild
from orchestrator.cli import orch
from orchestrator.errors import PreflightError
from orchestrator.machine.hardware import parse_gpus, parse_memory

# /proc/meminfo of Linux 6.12, its first lines
MEMINFO = """\
MemTotal:       24689764 kB
MemFree:        21430924 kB
MemAvailable:   22846380 kB
Buffers:          164068 kB
HugePages_Total:       0
"""
GPUS = """\
0, GPU-b5169cef-2205-c30e-f2b3-220cfa14bafd, NVIDIA TITAN V, 7.0, 12288, 9803, 570.86.15
1, GPU-7518f6b0-991f-ce2b-3d37-c779130d3137, NVIDIA RTX 5880 Ada Generation, 8.9, 49140, 1, 570.86.15
"""
ALL = {"python": "3.11.7", **{name: "1.0" for backend in BACKENDS.values() for name in backend.distributions}}


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path):
    """No question leaves this machine, and nobody's environments are looked at."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))


def invoke(*argv: str):
    return CliRunner().invoke(orch, ["doctor", *argv])


def find(findings, name: str) -> Finding:
    (finding,) = [finding for finding in findings if finding.name == name]
    return finding


def test_a_machine_with_all_backends_can_start(tmp_path):
    done = invoke("--runs", str(tmp_path))
    assert done.exit_code == 0, done.output
    assert "a run could start" in done.output
    assert "tested" in done.output
    assert "/dev/shm" in done.output
    assert not any(line != line.rstrip() for line in done.output.splitlines())


def test_programs_get_the_same_in_the_envelope(tmp_path):
    envelope = json.loads(invoke("--runs", str(tmp_path), "--json").output)
    assert (envelope["command"], envelope["ok"], envelope["data"]["ready"]) == ("doctor", True, True)
    assert {finding["area"] for finding in envelope["data"]["findings"]} >= {
        "hardware",
        "disk",
        "hub",
        "tools",
        "backends",
    }


def test_a_recipes_backend_is_what_counts(recipes, tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "find_versions", lambda _python: {"python": "3.11.7", "torch": "2.13.0"})
    done = invoke(str(recipes / "qwen3_reranker.yaml"), "--runs", str(tmp_path))
    assert done.exit_code == 4
    assert "orch env create flagembedding" in done.output
    assert "cannot start" in done.output


def test_a_recipe_whose_model_must_be_downloaded_cannot_start_without_a_hub(recipes, tmp_path):
    done = invoke(str(recipes / "qwen3_reranker.yaml"), "--runs", str(tmp_path))
    assert done.exit_code == 4
    assert "not asked: HF_HUB_OFFLINE is set, and Qwen/Qwen3-Reranker-0.6B must be downloaded" in done.output
    there = invoke(str(recipes / "demo.yaml"), "--runs", str(tmp_path))
    assert there.exit_code == 0, there.output
    assert "demo.yaml could start" in there.output


def test_a_python_that_is_not_there_is_refused(tmp_path):
    done = invoke("--python", str(tmp_path / "python"))
    assert done.exception is not None
    assert "no such interpreter" in str(done.exception)


@pytest.mark.parametrize("name", ["~no-such-user/python", "./" + "x" * 5000])
def test_a_python_that_cannot_be_looked_up_is_refused_like_one_that_is_not_there(name):
    done = invoke("--python", name)
    assert isinstance(done.exception, PreflightError)
    assert f"no such interpreter: {name}" in str(done.exception)


def test_a_recipes_python_that_is_not_there_is_refused_with_its_line(recipes, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    said = "launch: {python: ~no-such-user/python}"
    shipped = (recipes / "qwen3_reranker.yaml").read_text().replace("../", f"{recipes.parent}/")
    recipe.write_text(re.sub(r"(?m)^launch: .*$", said, shipped))
    done = invoke(str(recipe))
    assert isinstance(done.exception, PreflightError)
    (problem,) = done.exception.problems
    assert problem.message == "launch.python: no such interpreter: ~no-such-user/python"
    assert problem.where.line == recipe.read_text().splitlines().index(said) + 1


def test_doctor_loads_no_ml_library():
    program = (
        "import sys; from orchestrator.cli import main\n"
        "try: main(['doctor', '--json'])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'transformers', 'numpy', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_each_backend_is_looked_for_in_every_python():
    own = Interpreter("Orch's Python", "/orch", {"python": "3.11.7"})
    other = Interpreter("launch.python", "/other", ALL)
    findings = list(examine_environments((own, other), None))
    assert find(findings, "swift").value == "in /other"
    assert can_start(tuple(findings))


def test_a_recipes_own_python_must_hold_the_backend_itself():
    own, other = (
        Interpreter("Orch's Python", "/orch", ALL),
        Interpreter("launch.python", "/other", {"python": "3.11.7"}),
    )
    findings = tuple(examine_environments((own, other), "swift", "/other"))
    assert find(findings, "swift").value.startswith("not installed (ms-swift, torch")
    assert not can_start(findings)
    assert can_start(tuple(examine_environments((own, other), "swift", "/orch")))


def test_without_any_backend_no_run_can_start():
    own = Interpreter("Orch's Python", "/orch", {"python": "3.11.7"})
    findings = tuple(examine_environments((own,), None))
    assert find(findings, "swift").state == "missing"
    assert find(findings, "swift").remedy == "orch env create swift"
    assert not can_start(findings)


def test_a_backend_that_nobody_asked_for_may_be_missing():
    have = dict.fromkeys(BACKENDS["swift"].distributions, "1")
    findings = tuple(examine_environments((Interpreter("Orch's Python", "/orch", have),), "swift"))
    assert find(findings, "flagembedding").state == "note"
    assert can_start(findings)


def test_a_python_that_cannot_be_run_is_missing():
    findings = tuple(examine_environments((Interpreter("launch.python", "/broken", {}),), "swift"))
    assert findings[0].value == "it cannot be run"
    assert not can_start(findings)


def test_a_version_that_is_not_known_to_work_comes_with_the_tested_one():
    findings = tuple(examine_environments((Interpreter("Orch's Python", "/orch", {**ALL, "torch": "1.9.0"}),), None))
    torch = find(findings, "torch")
    assert torch.state == "note"
    assert torch.value.startswith("1.9.0, not known to work (tested: 2.")
    assert torch.remedy.startswith("/orch -m pip install torch==2.")


def test_the_reports_packages_are_needed_in_orchs_own_python(monkeypatch):
    monkeypatch.setattr(packages, "REPORT_MODULES", ("no_such_module",))
    findings = tuple(examine_environments((Interpreter("Orch's Python", "/orch", ALL),), None))
    assert find(findings, "packages").remedy == f"{sys.executable} -m pip install no-such-module"
    assert not can_start(findings)


def test_gpus_are_shown_with_what_uses_them():
    users = (GpuUser("GPU-b5169cef-2205-c30e-f2b3-220cfa14bafd", 21344, "python", 9012),)
    busy, idle = describe_gpus(parse_gpus(GPUS), users)
    assert busy.state == "note"
    assert busy.value.startswith("NVIDIA TITAN V, 12288 MiB, fp16, driver 570.86.15; GPU 0 has 9803 of 12288 MiB")
    assert "python (pid 21344)" in busy.value
    assert (idle.state, idle.value) == ("ok", "NVIDIA RTX 5880 Ada Generation, 49140 MiB, bf16, driver 570.86.15")


def test_a_torch_for_the_cpu_beside_gpus_is_missing():
    assert describe_torch(TorchBuild("2.13.0+cpu"), "/orch", 2).state == "missing"
    assert describe_torch(TorchBuild("2.13.0", "12.8"), "/orch", 2).value == "CUDA 12.8"
    assert describe_torch(TorchBuild("2.13.0", None, "6.4"), "/orch", 2).value == "ROCm 6.4"
    assert describe_torch(TorchBuild(), "/orch", 2).value == "not installed"


@pytest.mark.parametrize(
    ("limits", "says"),
    [
        (["max\n"], "24 GiB, 22 GiB of it free"),
        (["9223372036854771712\n"], "24 GiB, 22 GiB of it free"),  # cgroup v1 without a limit
        (["8589934592\n", ""], "24 GiB, 22 GiB of it free; this control group may take 8.0 GiB"),
        (["1099511627776\n"], "24 GiB, 22 GiB of it free"),  # more than there is
    ],
)
def test_a_control_groups_limit_is_part_of_the_memory(limits, says):
    assert describe_memory(parse_memory(MEMINFO), limits).value == says


def test_memory_that_cannot_be_read_is_said():
    assert describe_memory({}, []).state == "note"


def test_tight_limits_come_with_a_remedy(monkeypatch):
    monkeypatch.setattr(doctor.resource, "getrlimit", lambda _which: (1024, 524288))
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _path: doctor.shutil._ntuple_diskusage(64 * 1024**2, 0, 0))
    monkeypatch.setattr(doctor.shutil, "which", lambda _name: None)
    findings = list(doctor.examine_machine(sys.executable))
    assert "--shm-size" in find(findings, "/dev/shm").remedy
    assert find(findings, "open files").remedy == "ulimit -n 65536"
    assert find(findings, "py-spy").remedy == "pip install py-spy"
    monkeypatch.setattr(doctor.resource, "getrlimit", lambda _which: (1024, 1024))
    assert "limits.conf" in find(doctor.examine_machine(sys.executable), "open files").remedy


def test_a_runs_folder_that_cannot_be_written_stops_a_run(tmp_path):
    (tmp_path / "runs").write_text("")
    findings = tuple(doctor.examine_places(tmp_path / "runs"))
    assert find(findings, "runs").state == "missing"
    assert not can_start(findings)


def test_little_room_is_a_note(tmp_path, monkeypatch):
    usage = doctor.shutil._ntuple_diskusage(10**12, 0, 3 * 1024**3)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _path: usage)
    runs = find(doctor.examine_places(tmp_path), "runs")
    assert runs.state == "note"
    assert "3.0 GiB of 931 GiB free" in runs.value


@pytest.fixture
def endpoint(start_hub):
    """A hub that answers with this code."""
    return lambda code: start_hub(lambda _method, _path: (code, b""))


@pytest.mark.parametrize(("code", "state"), [(200, "ok"), (404, "ok"), (401, "ok"), (503, "note")])
def test_any_answer_of_a_hub_is_one_but_a_broken_one(endpoint, code, state):
    assert HubProbe({"HF_ENDPOINT": endpoint(code)}).finding().state == state


def test_a_hub_that_is_not_there_comes_with_a_mirror():
    finding = HubProbe({"HF_ENDPOINT": "http://127.0.0.1:9"}).finding()
    assert finding.value.startswith("cannot be reached: ")
    assert "HF_ENDPOINT" in finding.remedy


def test_a_hub_that_is_not_there_ends_it_where_a_model_must_be_downloaded():
    finding = HubProbe({"HF_ENDPOINT": "http://127.0.0.1:9"}).finding(("owner/model",))
    assert finding.state == "missing"
    assert finding.value.endswith(", and owner/model must be downloaded")


def test_offline_mode_asks_nobody_and_says_so():
    assert (
        "HF_HUB_OFFLINE is set"
        in HubProbe({"HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}).finding().value
    )


def test_an_endpoint_that_is_no_web_address_is_said():
    assert "no web address" in HubProbe({"HF_ENDPOINT": "ftp://hub"}).finding().value


def test_a_hub_that_never_answers_is_left_behind(monkeypatch):
    monkeypatch.setattr(doctor, "HUB_TIMEOUT_S", 0.01)
    done = threading.Event()

    def hang(*_args, **_more):
        done.wait(30)
        raise OSError

    monkeypatch.setattr("urllib.request.urlopen", hang)
    assert "no answer within" in HubProbe({}).finding().value
    done.set()


def test_a_password_in_the_endpoint_is_not_shown():
    finding = HubProbe({"HF_ENDPOINT": "http://me:hunter2@127.0.0.1:9"}).finding()
    assert "hunter2" not in str(finding)


def test_an_address_that_cannot_be_asked_is_said():
    assert "is no HTTP" in HubProbe({"HF_ENDPOINT": "http://127.0.0.1:none"}).finding().value
