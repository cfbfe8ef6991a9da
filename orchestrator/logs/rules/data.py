"""Rows: unreadable, incomplete, too few, filtered away; and a loss that is no number."""

from __future__ import annotations

from orchestrator.logs.rule import rule
from orchestrator.machine.language import Text

DATA = (
    rule(
        "no-rows-left",
        r"filtered dataset length: 0$|num_samples should be a positive integer value, but got num_samples=0"
        r"|EmptyDatasetError",
        Text("no training row is left: all were filtered away", "没有剩余的训练数据：全部被过滤"),
        Text(
            "look above in the log for why they were left out (malformed or longer than max_length), and "
            "`orch data check FILE`",
            "在日志上文查找被过滤的原因（格式错误或超过 max_length），并运行 `orch data check FILE`",
        ),
    ),
    rule(
        "too-few-rows",
        r"max_steps must be set to a positive value if dataloader does not have a length",
        Text(
            "the training rows are fewer than one batch, and incomplete batches are dropped",
            "训练数据不足一个批次，而不完整的批次会被丢弃",
        ),
        Text(
            "add rows, or lower per_device_train_batch_size or launch.nproc_per_node",
            "增加数据，或减小 per_device_train_batch_size 或 launch.nproc_per_node",
        ),
    ),
    rule(
        "rows-without-negatives",
        r"ZeroDivisionError: (?:integer )?division(?: or modulo)? by zero",
        Text(
            "a division by zero: in FlagEmbedding's dataset that is a row with an empty `neg` list",
            "除以零：在 FlagEmbedding 的数据集中，这表示某行的 `neg` 列表为空",
        ),
        Text("give every training row at least one negative", "为每条训练数据提供至少一个负例"),
        frames=r"FlagEmbedding",
    ),
    rule(
        "rows-without-positives",
        r"IndexError: Cannot choose from an empty sequence",
        Text("a training row has an empty `pos` list", "某条训练数据的 `pos` 列表为空"),
        Text("give every training row at least one positive", "为每条训练数据提供至少一个正例"),
    ),
    rule(
        "missing-column",
        r"KeyError: '(query|pos|neg|pos_scores|neg_scores|prompt|messages|label|positive_messages|negative_messages)'",
        Text("a training row has no `{1}`", "某条训练数据缺少 `{1}`"),
        Text(
            "give all rows the same keys; `pos_scores` and `neg_scores` are needed for knowledge_distillation",
            "让所有数据行具有相同的键；knowledge_distillation 需要 `pos_scores` 和 `neg_scores`",
        ),
    ),
    rule(
        "missing-eval-loss",
        r"KeyError: 'eval_loss'|KeyError: .*set to 'eval_loss', which is not found",
        Text(
            "the evaluation set is smaller than one batch, so the backend dropped it",
            "验证集不足一个批次，被后端丢弃",
        ),
        Text(
            "lower per_device_eval_batch_size, or raise data.validation_ratio",
            "减小 per_device_eval_batch_size，或增大 data.validation_ratio",
        ),
    ),
    rule(
        "damaged-dataset-cache",
        r"ArrowInvalid: (?:Expected to (?:be able to )?read .*|Tried reading schema message.*|Not an Arrow file.*)"
        r"|NonMatching(?:SplitsSizes|Checksum)Error",
        Text("the cache of `datasets` is damaged", "`datasets` 的缓存已损坏"),
        Text(
            "remove the stage's cache folder (stages/NN-train/cache, or ~/.cache/huggingface/datasets), then resume",
            "删除该阶段的缓存目录（stages/NN-train/cache 或 ~/.cache/huggingface/datasets），然后恢复运行",
        ),
    ),
    rule(
        "unreadable-rows",
        r"DatasetGenerationError|JSON parse error|JSONDecodeError|ArrowInvalid|UnicodeDecodeError|Couldn't cast",
        Text(
            "a data file holds rows that are not valid JSON, or not all of one shape",
            "数据文件中有不合法的 JSON 行，或各行结构不一致",
        ),
        Text("`orch data check FILE` names the lines", "用 `orch data check FILE` 找出对应的行"),
    ),
    rule(
        "not-finite",
        r"probability tensor contains either `inf`, `nan`|returned nan values in its \d+th output"
        r"|Current loss scale already at minimum|(?:contains|contain) (?:NaN|infinity)\b"
        r"|Input (?:\w+ )?contains NaN|loss is (?:nan|NaN)",
        Text(
            "a loss, gradient or score is NaN or infinite: the training diverged",
            "损失、梯度或分数出现 NaN 或无穷大：训练发散",
        ),
        Text(
            "lower learning_rate, set max_grad_norm to 1.0, use bf16 instead of fp16, and look for labels that are NaN",
            "降低 learning_rate，将 max_grad_norm 设为 1.0，用 bf16 代替 fp16，并检查标签中是否有 NaN",
        ),
    ),
)
