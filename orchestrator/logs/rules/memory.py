"""Memory that ran out: of the GPU, of the machine, between processes, and of file handles."""

from __future__ import annotations

from orchestrator.logs.rule import rule
from orchestrator.machine.language import Text

MEMORY = (
    rule(
        "cuda-out-of-memory",
        r"(?:CUDA|NPU) out of memory|OutOfMemoryError(?!: out of resource)"
        r"|CUBLAS_STATUS_ALLOC_FAILED|CUDA error: out of memory",
        Text("the GPU has not enough memory", "GPU 显存不足"),
        Text(
            "turn on gradient_checkpointing, lower the maximum lengths or train_group_size, use LoRA; where the loss "
            "is a mean over rows (docs/watchdogs.md), lower per_device_train_batch_size and raise "
            "gradient_accumulation_steps by as much",
            "开启 gradient_checkpointing，减小最大长度或 train_group_size，或改用 LoRA；若损失是各行的平均"
            "（见 docs/watchdogs.md），也可减小 per_device_train_batch_size 并等比增大 gradient_accumulation_steps",
        ),
    ),
    rule(
        "shared-memory-full",
        r"unable to (?:allocate|open) shared memory|Error while creating shared memory segment"
        r"|out of shared memory|killed by signal: Bus error|unable to write to file </torch_"
        r"|insufficient shared memory \(shm\)",
        Text(
            "shared memory is full: data workers hand their batches over in it",
            "共享内存已满：数据加载进程通过它传递批次",
        ),
        Text(
            "set dataloader_num_workers to 0, or give the container more of it (docker run --shm-size=8g, or "
            "--ipc=host)",
            "将 dataloader_num_workers 设为 0，或为容器分配更多共享内存（docker run --shm-size=8g 或 --ipc=host）",
        ),
    ),
    rule(
        "host-out-of-memory",
        r"\bMemoryError\b|Cannot allocate memory|DefaultCPUAllocator: can't allocate memory|std::bad_alloc",
        Text("the machine has not enough memory", "主机内存不足"),
        Text(
            "use a smaller batch, shorter lengths, fewer dataloader workers, or a machine with more memory",
            "减小批大小、最大长度或 dataloader_num_workers，或换用内存更大的机器",
        ),
    ),
    rule(
        "too-many-processes",
        r"^RuntimeError: can't start new thread|^BlockingIOError: \[Errno 11\]"
        r"|pthread_create failed.*Resource temporarily unavailable|fork: (?:retry: )?Resource temporarily unavailable",
        Text("the limit of processes and threads is reached", "进程和线程数已达上限"),
        Text(
            "raise it (`ulimit -u`; in a container --pids-limit), or start fewer: dataloader_num_workers, "
            "dataset_num_proc, OMP_NUM_THREADS under launch.env",
            "调高上限（`ulimit -u`；容器为 --pids-limit），或减少进程和线程：dataloader_num_workers、dataset_num_proc、"
            "launch.env 中的 OMP_NUM_THREADS",
        ),
    ),
    rule(
        "too-many-open-files",
        r"Too many open files|received 0 items of ancdata",
        Text("the limit of open files is reached", "打开的文件数已达上限"),
        Text(
            "raise it in the shell that starts orch (`ulimit -n 65536`), or set dataloader_num_workers to 0",
            "在启动 orch 的 shell 中调高上限（`ulimit -n 65536`），或将 dataloader_num_workers 设为 0",
        ),
    ),
)
