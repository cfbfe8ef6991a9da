"""Weights and checkpoints: damaged files, and files that do not fit this training."""

from __future__ import annotations

from orchestrator.logs.rule import rule
from orchestrator.machine.language import Text

CHECKPOINTS = (
    rule(
        "resume-needs-deepspeed",  # FlagEmbedding issue 1144
        r"has no attribute '_keys_to_ignore_on_save'|Can't find a checkpoint index",
        Text(
            "FlagEmbedding cannot continue a checkpoint that it wrote without DeepSpeed",
            "FlagEmbedding 无法从未使用 DeepSpeed 写出的 checkpoint 继续训练",
        ),
        Text(
            "start a new run, with `deepspeed: stage0` in the recipe if it shall be resumable",
            "重新开始运行；如需可恢复，请在配方中设置 `deepspeed: stage0`",
        ),
    ),
    rule(
        "damaged-checkpoint",
        r"^(?:json\.decoder\.)?JSONDecodeError: .*|^pydantic_core\..*ValidationError.*",
        Text(
            "the newest checkpoint was not written to its end: its trainer_state.json is damaged",
            "最新的 checkpoint 没有写完：其 trainer_state.json 已损坏",
        ),
        Text(
            "remove the newest checkpoint folder, then resume: it continues from the one before",
            "删除最新的 checkpoint 目录后恢复运行，将从上一个 checkpoint 继续",
        ),
        frames=r"trainer_callback\.py.*load_from_json|trainer_state\.json",
    ),
    rule(
        "damaged-weights",
        r"PytorchStreamReader failed|HeaderTooLarge|HeaderTooSmall|MetadataIncompleteBuffer"
        r"|InvalidHeaderDeserialization"
        r"|SafetensorError|failed finding central directory|unexpected EOF, expected"
        r"|invalid header or archive is corrupted|Unable to load weights from pytorch checkpoint file",
        Text(
            "a file of weights or optimizer state is damaged or cut off",
            "权重或优化器状态文件已损坏或不完整",
        ),
        Text(
            "in a checkpoint: remove the newest one, then resume from the one before; in the base model: "
            "download it again",
            "若为 checkpoint：删除最新的一个，再从上一个恢复；若为基座模型：重新下载",
        ),
    ),
    rule(
        "cut-off-file",
        r"^EOFError$|^EOFError: Ran out of input|^OSError: \[Errno 22\] Invalid argument$",
        Text(
            "a file that torch reads is empty or cut off, mostly the optimizer state of a checkpoint",
            "torch 读取的文件为空或不完整，多为 checkpoint 中的优化器状态",
        ),
        Text(
            "remove the newest checkpoint folder, then resume: it continues from the one before",
            "删除最新的 checkpoint 目录后恢复运行，将从上一个 checkpoint 继续",
        ),
        frames=r"torch/(?:serialization|_weights_only_unpickler)\.py",
    ),
    rule(
        "adapter-mismatch",
        r"size mismatch for (base_model\.\S+): copying a param with shape torch\.Size\(\[([\d, ]+)\]\) from "
        r"checkpoint, the shape in current model is torch\.Size\(\[([\d, ]+)\]\)",
        Text(
            "the adapter does not fit its base model: {1} is {2} in the adapter, and {3} in the base",
            "适配器与基座模型不匹配：{1} 在适配器中为 {2}，在基座模型中为 {3}",
        ),
        Text(
            "name the very base that it was trained on (orch merge --base FOLDER); a base whose vocabulary was "
            "enlarged for the training is enlarged again first: model.resize_token_embeddings(N), with the adapter's "
            "number of rows, and model.save_pretrained(FOLDER)",
            "指定训练适配器时所用的基座模型（orch merge --base FOLDER）；若训练时扩展过词表，须先以同样方式扩展基座："
            "以适配器的行数调用 model.resize_token_embeddings(N)，再 model.save_pretrained(FOLDER)",
        ),
    ),
    rule(
        "resume-mismatch",
        r"Can't find a valid checkpoint|Missing key\(s\) in state_dict|Unexpected key\(s\) in state_dict"
        r"|size mismatch for (\S+)|loaded state dict (?:has a different number of|contains a parameter group)",
        Text("the checkpoint does not fit this training", "checkpoint 与本次训练不匹配"),
        Text(
            "resume with the same model, LoRA rank and arguments, or start a new run",
            "使用相同的模型、LoRA rank 和参数恢复，或重新开始运行",
        ),
    ),
    rule(
        "pickle-refused",
        r"Weights only load failed|we now require users to upgrade torch to at least v2\.6"
        r"|Unsupported (?:global|class)",
        Text(
            "the weights are pickled, and torch refuses to load them: loading runs code of their own",
            "权重为 pickle 格式，torch 拒绝加载：加载会执行其中的代码",
        ),
        Text(
            "use a model with .safetensors weights, or convert them where you trust their source",
            "改用 .safetensors 权重的模型；确认来源可信时可先转换格式",
        ),
    ),
)
