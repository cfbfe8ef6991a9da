"""What the supervisor says about a stage that did not end well, in both languages."""

from __future__ import annotations

from orchestrator.machine.language import Text

ENDED = Text("{stage} ended with {how}: {cause}", "{stage} 异常结束（{how}）：{cause}")
EXIT_CODE = Text("exit code {0}", "退出码 {0}")
NO_EXIT_CODE = Text("no exit code: its launcher was killed", "无退出码：启动器被杀死")
FIRST_RANK = Text("{how}, rank {rank} failed first", "{how}，rank {rank} 最先失败")
KILLED_BY_KERNEL = Text("the kernel killed it because memory ran out", "内存耗尽，进程被内核杀死")
TRY = Text("try: orch run RECIPE {0}", "可尝试：orch run RECIPE {0}")
RESUME = Text("resume it with `orch resume {0}`", "用 `orch resume {0}` 恢复运行")
TIMED_OUT = Text("{0} ran longer than its limit of {1:g} s and was stopped", "{0} 运行时间超过上限 {1:g} 秒，已被停止")
NOTHING_NEW = Text("said nothing new", "没有新的输出")
NO_STEP = Text("made no step", "没有前进一步")
STALLED = Text("{stage} {what} for {seconds:g} s, since {since}", "{stage} 已有 {seconds:g} 秒{what}（自 {since} 起）")
STALLED_AT = Text(" at {0}: it was stopped", "，停在 {0}：已被停止")
STALLED_THERE = Text(": it was stopped", "：已被停止")
SUSPENDED = Text("process {0} is stopped (state T): somebody suspended it", "进程 {0} 处于停止状态（T）：有人将其挂起")
STACKS = Text(
    "{0} shows from line {1} on where its processes stood; {2}", "{0} 从第 {1} 行起记录了各进程当时的位置；{2}"
)
LOSS_STOPPED = Text("{0} was stopped: {1}", "{0} 已被停止：{1}")
LOSS_GOES_ON = Text(
    "{remedy}; `watch: {{{kind}: warn}}` in the recipe lets it go on",
    "{remedy}；在配方中设置 `watch: {{{kind}: warn}}` 可让训练继续",
)
ROWS_MISSING = Text(
    "{stage} has loaded {rows} {side} rows, and {expected} were prepared: it was stopped",
    "{stage} 加载了 {rows} 条 {side} 数据，而准备了 {expected} 条：已被停止",
)
ROWS_REMEDY = Text(
    "the trainer leaves out rows that are too long or malformed: raise max_length, or see its log for the reason",
    "训练器会丢弃过长或格式错误的数据：增大 max_length，或查看其日志中的原因",
)
OUTPUT_MISSING = Text("{0} ended with exit code {1} but did not write {2}", "{0} 以退出码 {1} 结束，但没有写出 {2}")
OUTPUT_REMEDY = Text("read its log: it may have skipped its work in silence", "查看其日志：可能悄悄跳过了工作")
STOPPED_AT = Text("stopped at {0}", "已停在 {0}")
GO_ON = Text("go on with `orch resume {0}`", "用 `orch resume {0}` 继续")
