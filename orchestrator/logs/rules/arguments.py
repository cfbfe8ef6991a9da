"""Arguments that the backend does not know, or that contradict one another or the machine."""

from __future__ import annotations

from orchestrator.logs.rule import rule
from orchestrator.machine.language import Text

ARGUMENTS = (
    rule(
        "row-too-long",
        r"MaxLengthError: Current length of row\((\d+)\) is larger than the max_length\((\d+)\)",
        Text("a row has {1} tokens, and max_length is {2}", "有一行数据为 {1} 个 token，而 max_length 为 {2}"),
        Text(
            "raise max_length, or shorten or remove the row; with the model on this machine Orch finds such rows "
            "before it trains, with file and line",
            "增大 max_length，或缩短、删除该行；模型在本机时，Orch 会在训练前找出这类数据并给出文件和行号",
        ),
    ),
    rule(
        "unknown-argument",
        r"arguments are not used by the HfArgumentParser: (\[.*\])|unrecognized arguments: (.+)"
        r"|remaining_argv: (\[.*\])|error: (argument .+)|error: (the following arguments are required.*)",
        Text("the backend does not know an argument, or its value: {any}", "后端不认识某个参数或其取值：{any}"),
        Text(
            "correct the name under `train:`; `orch render RECIPE --explain` shows what each argument becomes",
            "修正 `train:` 下的参数名；`orch render RECIPE --explain` 可查看每个参数最终的样子",
        ),
    ),
    rule(
        "precision-not-supported",
        r"Your setup doesn't support bf16/gpu|bf16/gpu|FP16 Mixed precision training .* can only be used on CUDA"
        r"|Bfloat16 is not supported|Your device does not support.*(?:bf16|fp16)",
        Text(
            "this machine has no GPU that can compute in the asked precision",
            "本机没有支持所要求精度的 GPU",
        ),
        Text(
            "remove bf16 and fp16 from the recipe (Orch chooses by the hardware), or run on a GPU that has it",
            "从配方中删除 bf16 和 fp16（Orch 会按硬件选择），或换用支持该精度的 GPU",
        ),
    ),
    rule(
        "deepspeed-mismatch",
        r"correct the following DeepSpeed config values that mismatch TrainingArguments"
        r"|- ds (\S+=\S+ vs hf \S+)|AssertionError: Check batch related parameters\. (.+)",
        Text(
            "the DeepSpeed file and the training arguments say different things",
            "DeepSpeed 配置文件与训练参数不一致",
        ),
        Text(
            'write "auto" for these values in the DeepSpeed file, or use a named one (`deepspeed: zero2`)',
            '在 DeepSpeed 配置文件中将这些值改为 "auto"，或使用内置配置（`deepspeed: zero2`）',
        ),
    ),
    rule(
        "strategies-differ",
        r"load_best_model_at_end requires the sav(?:e and eval strategy to match|ing steps to be a .*multiple.*)",
        Text(
            "the best checkpoint is asked for, and it evaluates and saves at different steps",
            "要求保留最优 checkpoint，但评估与保存不在相同的步上进行",
        ),
        Text(
            "give save_strategy and eval_strategy, save_steps and eval_steps the same values",
            "让 save_strategy 与 eval_strategy、save_steps 与 eval_steps 取值相同",
        ),
    ),
    rule(
        "evaluation-without-rows",
        r"didn't pass an `eval_dataset`|Trainer: evaluation requires an eval_dataset",
        Text(
            "the arguments ask the trainer to evaluate, and there are no validation rows",
            "参数要求训练中评估，但没有验证数据",
        ),
        Text(
            "set data.validation_ratio, or remove eval_strategy and eval_steps",
            "设置 data.validation_ratio，或删除 eval_strategy 和 eval_steps",
        ),
    ),
    rule(
        "no-target-modules",
        r"Target modules (.+?) not found in the base model",
        Text(
            "the model has no layers named {1}: LoRA has nothing to attach to", "模型中没有名为 {1} 的层，LoRA 无处附加"
        ),
        Text(
            "name the model's own layers in target_modules: q_proj, k_proj, v_proj, o_proj in LLMs, query, key, value "
            "in BERT",
            "在 target_modules 中填写模型自己的层名：LLM 为 q_proj、k_proj、v_proj、o_proj，BERT 为 query、key、value",
        ),
    ),
    rule(
        "nothing-to-train",
        r"element 0 of tensors does not require grad and does not have a grad_fn",
        Text(
            "no weight takes a gradient: everything is frozen, or gradient checkpointing cut the graph",
            "没有任何权重需要梯度：全部被冻结，或梯度检查点截断了计算图",
        ),
        Text(
            "check the LoRA and freezing arguments, or turn gradient_checkpointing off",
            "检查 LoRA 与冻结相关参数，或关闭 gradient_checkpointing",
        ),
    ),
)
