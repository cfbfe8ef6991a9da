"""GPUs: none, a failed kernel, a failed card, a driver that does not fit."""

from __future__ import annotations

from orchestrator.logs.rule import rule
from orchestrator.machine.language import Text

DEVICES = (
    rule(
        "kernel-too-large",
        r"out of resource: [^\n]*Required: \d+",
        Text(
            "a compiled kernel (Triton) needs more of the GPU's shared memory than there is",
            "编译出的内核（Triton）所需的 GPU 共享内存超出上限",
        ),
        Text(
            "turn torch_compile and fused kernels (use_liger_kernel) off, or update torch and triton",
            "关闭 torch_compile 和融合内核（use_liger_kernel），或升级 torch 和 triton",
        ),
    ),
    rule(
        "gpu-failed",
        r"uncorrectable ECC error|GPU is lost|fallen off the bus|NVRM: Xid|CUDA error: hardware error",
        Text("a GPU failed", "GPU 硬件故障"),
        Text(
            "look at `nvidia-smi -q` and `dmesg | grep Xid`, leave that GPU out (CUDA_VISIBLE_DEVICES) or restart the "
            "machine; then resume the run",
            "查看 `nvidia-smi -q` 和 `dmesg | grep Xid`，用 CUDA_VISIBLE_DEVICES 排除该 GPU 或重启机器，然后恢复运行",
        ),
    ),
    rule(
        "device-assert",
        r"device-side assert triggered",
        Text(
            "a kernel on the GPU refused its input, mostly an id or a label that is out of range",
            "GPU 内核拒绝了输入，多为 id 或标签越界",
        ),
        Text(
            "run once with `--set launch.env.CUDA_LAUNCH_BLOCKING=1`, or on the CPU: the message then names the line",
            "用 `--set launch.env.CUDA_LAUNCH_BLOCKING=1` 或在 CPU 上运行一次，报错会指出具体位置",
        ),
    ),
    rule(
        "driver-mismatch",
        r"Error: The NVIDIA driver on your system is too old|no kernel image is available"
        r"|CUDA driver version is insufficient|forward compatibility was attempted|Driver/library version mismatch",
        Text(
            "the GPU, its driver and the installed torch do not fit one another",
            "GPU、驱动与已安装的 torch 互不兼容",
        ),
        Text(
            "update the driver, or install a torch that was built for it (`nvidia-smi` shows the newest CUDA "
            "that it has)",
            "升级驱动，或安装与之匹配的 torch（`nvidia-smi` 显示驱动支持的最高 CUDA 版本）",
        ),
    ),
    rule(
        "no-gpu",
        r"Torch not compiled with CUDA enabled|Error: Found no NVIDIA driver|No CUDA GPUs are available"
        r"|CUDA error: no CUDA-capable device|torch\.cuda\.is_available\(\) is False|invalid device ordinal",
        Text(
            "a GPU is asked for that is not there, or the installed torch is one for CPUs",
            "要求使用的 GPU 不存在，或安装的 torch 是 CPU 版本",
        ),
        Text(
            "check `nvidia-smi` and CUDA_VISIBLE_DEVICES, install a torch with CUDA, or lower launch.nproc_per_node",
            "检查 `nvidia-smi` 和 CUDA_VISIBLE_DEVICES，安装带 CUDA 的 torch，或减小 launch.nproc_per_node",
        ),
    ),
    rule(
        "device-mismatch",
        r"CUDA error: (.+)|CUBLAS_STATUS_\w+|CUDNN_STATUS_\w+"
        r"|^RuntimeError: Unexpected error from cudaGetDeviceCount\(\)\. .*(Error \d+: .+)",
        Text("the GPU or its driver reported an error: {any}", "GPU 或驱动报告错误：{any}"),
        Text(
            "check `nvidia-smi`, and that the installed torch was built for this driver; then resume the run",
            "检查 `nvidia-smi`，并确认已安装的 torch 与驱动匹配，然后恢复运行",
        ),
    ),
)
