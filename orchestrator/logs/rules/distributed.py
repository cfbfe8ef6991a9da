"""Several processes: they cannot meet, wait for one another, or one of them was ended."""

from __future__ import annotations

from orchestrator.logs.rule import rule
from orchestrator.machine.language import Text

DISTRIBUTED = (
    rule(
        "port-in-use",
        r"EADDRINUSE|[Aa]ddress already in use",
        Text(
            "the port that the training processes meet at is in use",
            "训练进程会合所用的端口已被占用",
        ),
        Text(
            "let the launcher choose a free port (remove master_port), or wait for the other training to end",
            "让启动器选择空闲端口（删除 master_port），或等另一个训练结束",
        ),
    ),
    rule(
        "rendezvous-settings",
        r"Error initializing torch\.distributed using env:// rendezvous: environment variable (\w+) expected",
        Text(
            "the processes do not know where to meet: {1} is not set",
            "进程不知道在哪里会合：未设置 {1}",
        ),
        Text(
            "remove RANK, WORLD_SIZE and their like from your environment and from launch.env",
            "从环境变量和 launch.env 中删除 RANK、WORLD_SIZE 等变量",
        ),
    ),
    rule(
        "rendezvous-timeout",
        r"Timed out after \d+ seconds waiting for clients|client socket has timed out|RendezvousTimeoutError"
        r"|RendezvousConnectionError|wait timeout after \d+ms|failed to connect to \S+ on \S+.*",
        Text(
            "the training processes did not all arrive where they meet",
            "并非所有训练进程都按时会合",
        ),
        Text(
            "look for a process that failed before; on several machines check MASTER_ADDR, MASTER_PORT and the "
            "firewall",
            "查找此前失败的进程；多机时检查 MASTER_ADDR、MASTER_PORT 和防火墙",
        ),
    ),
    rule(
        "collective-timeout",
        r"Watchdog caught collective operation timeout|Timed out waiting \d+ms for (?:recv|send) operation"
        r"|collective operation timeout|DistBackendError.*(?:timed out|timeout)"
        r"|watchdog got stuck for \d+ seconds|due to ProcessGroupNCCL watchdog hang",
        Text(
            "processes waited for one another until the time limit: one of them hangs, is slower, or does "
            "something else",
            "进程互相等待直至超时：其中一个挂起、过慢，或执行了不同的操作",
        ),
        Text(
            "look at the rank that is silent; raise ddp_timeout where one rank prepares data for long; "
            "NCCL_P2P_DISABLE=1 under launch.env tells whether the link between GPUs is at fault",
            "查看没有输出的 rank；若某个 rank 预处理数据耗时较长，增大 ddp_timeout；"
            "可在 launch.env 中设 NCCL_P2P_DISABLE=1 判断是否为 GPU 间通信故障",
        ),
    ),
    rule(
        "unused-parameters",
        r"Expected to have finished reduction in the prior iteration before starting a new one",
        Text(
            "some weights take no part in the loss, and the processes wait for their gradients",
            "部分权重未参与损失计算，进程仍在等待其梯度",
        ),
        Text("set ddp_find_unused_parameters to true", "将 ddp_find_unused_parameters 设为 true"),
    ),
    rule(
        "parameter-ready-twice",
        r"Expected to mark a variable ready only once",
        Text(
            "a weight got its gradient twice in one step: gradient checkpointing does not fit several processes so",
            "某个权重在一步中两次得到梯度：梯度检查点的这种方式与多进程训练不兼容",
        ),
        Text(
            "set gradient_checkpointing_kwargs to {'use_reentrant': false} and ddp_find_unused_parameters to false, or "
            "turn gradient_checkpointing off",
            "将 gradient_checkpointing_kwargs 设为 {'use_reentrant': false}、ddp_find_unused_parameters 设为 false，"
            "或关闭 gradient_checkpointing",
        ),
    ),
    rule(
        "nccl-error",
        r"NCCL error(?!.*remote process exited)|nccl(?:System|Internal)Error|ncclUnhandledCudaError|ncclInvalidUsage",
        Text("the GPUs cannot talk to one another (NCCL)", "GPU 之间通信失败（NCCL）"),
        Text(
            "run with NCCL_DEBUG=INFO under launch.env; in a container give more shared memory (--shm-size=8g); "
            "NCCL_SOCKET_IFNAME chooses the network card, NCCL_P2P_DISABLE=1 avoids the direct link; two "
            "processes must "
            "not share a GPU",
            "在 launch.env 中设 NCCL_DEBUG=INFO 查看原因；容器中增大共享内存（--shm-size=8g）；"
            "用 NCCL_SOCKET_IFNAME 指定网卡，用 NCCL_P2P_DISABLE=1 关闭直连；两个进程不可共用一块 GPU",
        ),
    ),
)

# Ranked last: how a process ended, which anything that was said before explains better
ENDINGS = (
    rule(
        "killed",
        r"^Killed$|line \d+: +\d+ Killed\b|Detected \d+ oom[-_]kill event"
        r"|exitcode\s*:\s*-9|\(SIGKILL\)|failed \(exitcode: -9\)|DataLoader worker .* killed by signal: Killed",
        Text(
            "a process was killed (signal 9); when nobody did it by hand, the kernel did because memory ran out",
            "进程被杀死（信号 9）；若非人为，则是内核因内存耗尽所为",
        ),
        Text(
            "use a smaller batch, shorter lengths or fewer processes, or a machine with more memory; then "
            "resume the run",
            "减小批大小、最大长度或进程数，或换用内存更大的机器，然后恢复运行",
        ),
    ),
    rule(
        "crashed",
        r"Fatal Python error: (Segmentation fault|Aborted|Bus error|Illegal instruction)"
        r"|exitcode\s*:\s*-(?:4|6|7|8|11)\b|\(SIG(SEGV|ABRT|BUS|ILL|FPE)\)|failed \(exitcode: -(?:4|6|7|8|11)\)"
        r"|^(Segmentation fault|Aborted|Bus error|Illegal instruction)(?: \(core dumped\))?$",
        Text(
            "a process crashed in native code: {any}",
            "进程在本地代码中崩溃：{any}",
        ),
        Text(
            "install the tested versions (constraints.txt): most crashes come from packages built for another torch, "
            "CUDA or processor; then resume the run",
            "安装经过测试的版本（constraints.txt）：崩溃多因软件包是为其他版本的 "
            "torch、CUDA 或其他处理器编译；然后恢复运行",
        ),
    ),
    rule(
        "worker-died",
        r"DataLoader worker \(pid.*\) (?:exited unexpectedly|is killed by signal)",
        Text(
            "a process that prepares batches ended without a word, mostly for want of memory",
            "准备批次的进程意外退出，多为内存不足",
        ),
        Text(
            "set dataloader_num_workers to 0: the error then shows, or is gone",
            "将 dataloader_num_workers 设为 0：错误会显示出来，或不再出现",
        ),
    ),
    rule(
        "ended-by-signal",
        r"^KeyboardInterrupt|Received \d+ death signal|SignalException: .*got signal: (\d+)|\(SIGTERM\)|\(SIGINT\)"
        r"|failed \(exitcode: -(?:1|2|15)\)",
        Text("the stage was ended by a signal from outside", "阶段被外部信号终止"),
        Text("resume the run", "恢复运行"),
    ),
    rule(
        "peer-gone",
        r"Connection closed by peer|Connection reset by peer|Broken pipe"
        r"|remote process exited or there was a network error|ncclRemoteError|recvValue failed",
        Text(
            "another process of the training ended first, and its own log does not say why",
            "训练中的另一个进程先行结束，且日志未说明原因",
        ),
        Text(
            "look for a process that was killed (`dmesg`), and at the other machines' logs; then resume the run",
            "检查是否有进程被杀死（`dmesg`）以及其他机器的日志，然后恢复运行",
        ),
        secondary=True,
    ),
)
