"""What to do about a failure of a worker that a command started: there is no recipe to change and no run to resume."""

from __future__ import annotations

from orchestrator.machine.language import Text

_AGAIN = Text("give the command again", "重新执行该命令")
_OTHER_COPY = Text("copy or download that file again", "重新复制或下载该文件")

# By the rule's name; rules that are not here say nothing of recipes and runs, or speak of trainings alone.
REMEDIES: dict[str, Text | None] = {
    "worker-refused": None,  # the line says what is to be done
    "cuda-out-of-memory": Text(
        "lower the batch size or the maximum length (--batch-size, --max-length), or use the CPU",
        "降低批大小或最大长度（--batch-size、--max-length），或改用 CPU",
    ),
    "host-out-of-memory": Text(
        "lower the batch size or the maximum length, or use a machine with more memory",
        "降低批大小或最大长度，或换用内存更大的机器",
    ),
    "too-many-processes": Text(
        "raise it (`ulimit -u`; in a container --pids-limit), or set OMP_NUM_THREADS to less",
        "提高该限制（`ulimit -u`；容器中为 --pids-limit），或调低 OMP_NUM_THREADS",
    ),
    "too-many-open-files": Text(
        "raise it in the shell that starts orch (`ulimit -n 65536`)",
        "在启动 orch 的终端中提高限制（`ulimit -n 65536`）",
    ),
    "disk-full": Text("free some space, then give the command again", "释放空间后重新执行该命令"),
    "disk-failed": Text(
        "see `dmesg` and that the network disk is mounted; then give the command again",
        "查看 `dmesg` 并确认网络磁盘已挂载，然后重新执行该命令",
    ),
    "read-only-file-system": Text(
        "choose another folder (-o, TMPDIR); a disk that turned read-only by itself has errors: see `dmesg`",
        "改用其他目录（-o、TMPDIR）；磁盘自行变为只读说明有错误：查看 `dmesg`",
    ),
    "precision-not-supported": Text(
        "use the CPU, or a machine with a GPU that has this precision", "改用 CPU，或使用支持该精度的 GPU"
    ),
    "no-such-module": Text(
        "install it in the Python that runs the model: the one that runs orch, or the one that --python names",
        "在运行模型的 Python 中安装它：即运行 orch 的 Python，或 --python 指定的 Python",
    ),
    "python-too-old": Text(
        "use Python 3.11 or newer, or install the package again", "使用 Python 3.11 或更新版本，或重新安装该软件包"
    ),
    "hub-refuses": Text(
        "wait and give the command again, log in with `hf auth login`, use a mirror (HF_ENDPOINT), or name a folder",
        "稍候再重新执行该命令，用 `hf auth login` 登录，使用镜像（HF_ENDPOINT），或给出本地目录",
    ),
    "download-broken": Text(
        "give the command again: files that are whole are not downloaded again; HF_ENDPOINT names a mirror",
        "重新执行该命令：已完整下载的文件不会再次下载；HF_ENDPOINT 可指定镜像",
    ),
    "hub-unreachable": Text(
        "check the network or proxy (HF_ENDPOINT for a mirror), or name a local folder",
        "检查网络或代理（HF_ENDPOINT 可指定镜像），或给出本地目录",
    ),
    "damaged-weights": _OTHER_COPY,
    "cut-off-file": _OTHER_COPY,
    "damaged-checkpoint": _OTHER_COPY,
    "resume-mismatch": Text(
        "take config.json, weights and adapter of one and the same model",
        "config.json、权重和适配器须来自同一模型",
    ),
    "needs-remote-code": Text(
        "read that code, then give --trust-remote-code, or choose another model",
        "阅读该代码后使用 --trust-remote-code，或换用其他模型",
    ),
    "missing-model": Text(
        "name a folder with config.json, weights and tokenizer, or a hub id",
        "给出含 config.json、权重和分词器的目录，或站点上的模型名",
    ),
    "shape-mismatch": Text(
        "take config.json, weights and adapter of one and the same model",
        "config.json、权重和适配器须来自同一模型",
    ),
    "missing-file": Text("check the path", "检查该路径"),
    "permission-denied": Text("choose another folder, or mend its permissions", "改用其他目录，或修正其权限"),
    "gpu-failed": Text(
        "look at `nvidia-smi -q` and `dmesg | grep Xid`, leave that GPU out (CUDA_VISIBLE_DEVICES) or use the CPU",
        "查看 `nvidia-smi -q` 和 `dmesg | grep Xid`，排除该 GPU（CUDA_VISIBLE_DEVICES）或改用 CPU",
    ),
    "device-assert": Text(
        "give the command with CUDA_LAUNCH_BLOCKING=1 in front, or on the CPU: the message then names the line",
        "在命令前加 CUDA_LAUNCH_BLOCKING=1 再执行一次，或改用 CPU：错误信息会指出具体位置",
    ),
    "no-gpu": Text(
        "check `nvidia-smi` and CUDA_VISIBLE_DEVICES, install a torch with CUDA, or use the CPU",
        "检查 `nvidia-smi` 和 CUDA_VISIBLE_DEVICES，安装支持 CUDA 的 torch，或改用 CPU",
    ),
    "device-mismatch": Text(
        "check `nvidia-smi`, and that the installed torch was built for this driver",
        "检查 `nvidia-smi`，并确认 torch 与驱动匹配",
    ),
    "killed": Text(
        "lower the batch size or the maximum length, or use a machine with more memory",
        "降低批大小或最大长度，或换用内存更大的机器",
    ),
    "crashed": Text(
        "install the tested versions (constraints.txt): most crashes come from packages built for another torch, CUDA "
        "or processor",
        "安装经过测试的版本（constraints.txt）：崩溃多因软件包是为其他 torch、CUDA 或处理器构建的",
    ),
    "ended-by-signal": _AGAIN,
}  # fmt: skip
