"""Files and folders: no space, not writable, not there."""

from __future__ import annotations

from orchestrator.logs.rule import rule
from orchestrator.machine.language import Text

DISK = (
    rule(
        "disk-full",
        r"No space left on device|ENOSPC|Disk quota exceeded|Not enough disk space"
        r"|iostream error|inline_container\.cc:\d+\] \. unexpected pos|PytorchStreamWriter failed",
        Text("the disk is full", "磁盘已满"),
        Text(
            "free some space, or set save_total_limit to keep fewer checkpoints; then resume the run",
            "清理磁盘空间，或设置 save_total_limit 减少保留的 checkpoint，然后恢复运行",
        ),
    ),
    rule(
        "read-only-file-system",
        r"Read-only file system(?:: '([^']+)')?",
        Text("the file system is mounted read-only: {any}", "文件系统以只读方式挂载：{any}"),
        Text(
            "choose another folder for the runs (-o or --runs); a disk that turned read-only by itself has errors: see "
            "`dmesg`",
            "为运行换一个目录（-o 或 --runs）；若磁盘自行变为只读，说明磁盘出错，请查看 `dmesg`",
        ),
    ),
    rule(
        "disk-failed",
        r"\[Errno (?:5|116|121)\]|Stale file handle|Transport endpoint is not connected",
        Text("a disk or network file system failed", "磁盘或网络文件系统出错"),
        Text(
            "see `dmesg` and that the network disk is mounted; then resume the run",
            "查看 `dmesg`，确认网络磁盘已挂载，然后恢复运行",
        ),
    ),
)

# Ranked after whatever names what the file is
FILES = (
    rule(
        "missing-file",
        r"cannot find file: (.+?),|No such file or directory: '?([^'\n]+)'?|can't open file '([^']+)'"
        r"|Unable to find '([^']+)'|No such file or directory \(os error 2\)",
        Text("a file does not exist: {any}", "文件不存在：{any}"),
        Text(
            "check the path; relative paths start from the recipe's folder",
            "检查路径；相对路径以配方文件所在目录为起点",
        ),
    ),
    rule(
        "permission-denied",
        r"PermissionError: .*?'([^']+)'|[Pp]ermission denied",
        Text("a file or folder may not be written or read: {any}", "没有读写文件或目录的权限：{any}"),
        Text(
            "choose another folder for the runs (-o or --runs), or mend its permissions",
            "为运行换一个目录（-o 或 --runs），或修正目录权限",
        ),
    ),
)
