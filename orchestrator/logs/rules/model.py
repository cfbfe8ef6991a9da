"""The model: not found, of an unknown kind, or not of the size that its input needs."""

from __future__ import annotations

from orchestrator.logs.rule import rule
from orchestrator.machine.language import Text

MODEL = (
    rule(
        "needs-remote-code",
        r"contains custom code which must be executed|requires you to execute the (?:configuration|modeling|model) file"
        r"|trust_remote_code=True` to (?:remove this error|allow custom code)",
        Text(
            "the model brings Python code of its own along, which does not run unasked",
            "模型自带 Python 代码，未经允许不会运行",
        ),
        Text(
            "read that code, then set `model: {path: …, trust_remote_code: true}`, or choose another model",
            "阅读该代码后设置 `model: {path: …, trust_remote_code: true}`，或换用其他模型",
        ),
    ),
    rule(
        "unknown-architecture",
        r"model type `(\S+)` but Transformers does not recognize this architecture|unrecognized model type (\S+)",
        Text(
            "the installed transformers does not know models of type {any}",
            "已安装的 transformers 不支持 {any} 类型的模型",
        ),
        Text(
            "update transformers within what the backend allows, or choose a model that it knows",
            "在后端允许的范围内升级 transformers，或换用其支持的模型",
        ),
    ),
    rule(
        "unclear-model-type",
        r"Failed to automatically match|Please explicitly (?:pass|specify) the|[Mm]ultiple possible types found"
        r"|template_type: \S+ not in \[",
        Text(
            "ms-swift cannot tell the model's type or template, or does not know it",
            "ms-swift 无法判断模型的 model_type 或 template，或不认识给定的值",
        ),
        Text(
            "name them: `model: {path: …, model_type: …, template: …}`",
            "明确指定：`model: {path: …, model_type: …, template: …}`",
        ),
    ),
    rule(
        "tokenizer-unusable",
        r"Tokenizer class (\S+) does not exist|Can't load tokenizer for '([^']+)'|untagged enum \w+"
        r"|Couldn't instantiate the backend tokenizer|Error while (?:deserializing|parsing) tokenizer"
        r"|Converting from .*(?:SentencePiece|Tiktoken).* failed|unable to load (?:vocabulary|tokenizer).*",
        Text(
            "the model's tokenizer cannot be loaded: its files are missing, or of a newer format",
            "无法加载模型的分词器：文件缺失，或格式比当前版本新",
        ),
        Text(
            "copy tokenizer.json, tokenizer_config.json and their like from the base model again, or update "
            "transformers and tokenizers",
            "从基座模型重新复制 tokenizer.json、tokenizer_config.json 等文件，或升级 transformers 和 tokenizers",
        ),
    ),
    rule(
        "tokenizer-damaged",
        r"^(?:json\.decoder\.)?JSONDecodeError: (.+)|^Exception: (.+ at line \d+ column \d+.*)",
        Text(
            "a file of the model's tokenizer is damaged or cut off: {any}",
            "模型的分词器文件已损坏或不完整：{any}",
        ),
        Text(
            "copy tokenizer.json, tokenizer_config.json and their like from the base model again",
            "从基座模型重新复制 tokenizer.json、tokenizer_config.json 等文件",
        ),
        frames=r"tokenization_|tokenizers?[./]",
    ),
    rule(
        "missing-model",
        r"Repo id must be in the form .*: '([^']+)'|is not a local folder and is not a valid model identifier"
        r"|does not appear to have a file named (\S+)|Unrecognized model in (\S+)"
        r"|RepositoryNotFoundError|path: '([^']+)' not found"
        r"|no file named model\.safetensors|404 Client Error",
        Text("the model cannot be found, or its folder is incomplete: {any}", "找不到模型，或其目录不完整：{any}"),
        Text(
            "check `model:` in the recipe: a folder with config.json, weights and tokenizer, or a hub id",
            "检查配方中的 `model:`：应为含 config.json、权重和分词器的目录，或站点上的模型名",
        ),
    ),
    rule(
        "no-padding-token",
        r"[Aa]sking to pad but the tokenizer does not have a padding token"
        r"|Cannot handle batch sizes > 1 if no padding token is defined",
        Text(
            "the tokenizer has no padding token, and several texts are computed at once",
            "分词器没有填充 token，无法一次计算多条文本",
        ),
        Text(
            "add pad_token to the model's tokenizer_config.json and pad_token_id to its config.json (the end "
            "token will "
            "do)",
            "在模型的 tokenizer_config.json 中设置 pad_token，并在 config.json 中设置 pad_token_id（可用结束 token）",
        ),
    ),
    rule(
        "id-out-of-range",
        r"IndexError: index out of range in self|srcIndex < srcSelectDimSize|ind >= 0 && ind < ind_dim_size",
        Text(
            "a token id is larger than the embedding matrix: tokenizer and model do not belong together",
            "token id 超出词嵌入矩阵：分词器与模型不配套",
        ),
        Text(
            "take tokenizer and weights from one model; tokens that were added need resized embeddings",
            "分词器与权重须来自同一模型；若新增过 token，需相应扩展词嵌入",
        ),
    ),
    rule(
        "longer-than-model",
        r"size of (?:the )?tensor \S*\s*\(\d+\) must match the (?:existing )?size (?:of tensor b )?\(\d+\) "
        r"at non-singleton dimension 1\b.*",
        Text(
            "texts are longer than the positions that the model has",
            "文本长度超过模型的最大位置数",
        ),
        Text(
            "lower the maximum lengths to the model's max_position_embeddings (config.json), mostly 512 for BERT",
            "将最大长度降至模型的 max_position_embeddings（见 config.json），BERT 通常为 512",
        ),
        frames=r"modeling_|embeddings|position",
    ),
    rule(
        "shape-mismatch",
        r"mat1 and mat2 shapes cannot be multiplied \((\S+ and \S+)\)|size of tensor a \(\d+\) must match"
        r"|expanded size of the tensor \(\d+\) must match|shape '\[.*\]' is invalid for input of size",
        Text(
            "two tensors do not fit: the head, the adapter or the loss is for another model or other rows",
            "张量形状不匹配：头部、适配器或损失函数不适用于该模型或数据",
        ),
        Text(
            "check that the model is of the recipe's task, that the adapter was trained on it, and that the loss fits "
            "the rows",
            "检查模型是否适合该任务、适配器是否在此模型上训练、损失函数是否适合数据",
        ),
    ),
    rule(
        "type-mismatch",
        r"mat1 and mat2 must have the same dtype|expected (?:m1 and m2|scalar type) .* (?:same dtype|but found)"
        r"|Attempting to unscale FP16 gradients|Input type \(.*\) and (?:weight|bias) type \(.*\) should be the same",
        Text("weights and inputs have different number formats", "权重与输入的数值类型不同"),
        Text(
            "let bf16, fp16 and torch_dtype say the same, or remove them: Orch chooses by the hardware",
            "让 bf16、fp16 与 torch_dtype 保持一致，或将其删除：Orch 会按硬件选择",
        ),
    ),
    rule(
        "tensors-on-two-devices",
        r"Expected all tensors to be on the same device, but (?:found at least two devices, (.+?)!|got .*)"
        r"|Tensor on device (.+ is not on the expected device .+)!",
        Text("parts of the model are on different devices: {any}", "模型的各部分位于不同设备：{any}"),
        Text(
            "remove device_map; Orch starts one process a GPU (launch.nproc_per_node)",
            "删除 device_map；Orch 为每块 GPU 启动一个进程（launch.nproc_per_node）",
        ),
    ),
)
