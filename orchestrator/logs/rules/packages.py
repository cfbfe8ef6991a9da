"""The backend's Python: modules that are missing, do not fit one another, or could not be built."""

from __future__ import annotations

from orchestrator.logs.rule import rule
from orchestrator.machine.language import Text

PACKAGES = (
    rule(
        "flash-attention-missing",
        r"FlashAttention\d? has been toggled on, but it cannot be used|No module named '?flash_attn"
        r"|[Ff]lash[_ ]?[Aa]tt(?:n|ention)\S* .*(?:not (?:seem to be )?installed|is not available)"
        r"|requires the flash.?attn|FlashAttention only supports? (?:Ampere GPUs or newer|.*fp16 and bf16)",
        Text(
            "flash attention is asked for, and is not installed or not made for this GPU or precision",
            "要求使用 flash attention，但未安装，或不支持该 GPU 或精度",
        ),
        Text(
            "set attn_impl (ms-swift) to sdpa, or set use_flash_attn (FlagEmbedding) to false, or install "
            "flash-attn for"
            " this torch and CUDA",
            "将 attn_impl（ms-swift）设为 sdpa，或将 use_flash_attn（FlagEmbedding）设为 false，"
            "或安装与当前 torch 和 CUDA 匹配的 flash-attn",
        ),
    ),
    rule(
        "bitsandbytes-missing",
        r"[Bb]itsandbytes`?.* requires .*bitsandbytes|No module named '?bitsandbytes|No package metadata .*bitsandbytes"
        r"|bitsandbytes.*not (?:available|installed)|Configured CUDA binary not found at \S*bitsandbytes"
        r"|has no attribute 'c(?:get_managed_ptr|(?:de)?quantize_blockwise\w*)'",
        Text(
            "quantization needs bitsandbytes, which is not installed, or not for this CUDA",
            "量化需要 bitsandbytes，但未安装，或与当前 CUDA 不匹配",
        ),
        Text(
            "`pip install bitsandbytes` in the Python that runs the backend, or train without quant_bits",
            "在运行后端的 Python 中 `pip install bitsandbytes`，或去掉 quant_bits",
        ),
    ),
    rule(
        "tracker-missing",
        r"Callback requires (\w+) to be installed",
        Text("the experiment tracker {1} is not installed", "实验跟踪工具 {1} 未安装"),
        Text(
            "`pip install` it in the Python that runs the backend, or set report_to to none",
            "在运行后端的 Python 中用 `pip install` 安装，或将 report_to 设为 none",
        ),
    ),
    rule(
        "tracker-login",
        r"api_key not configured \(no-tty\)",
        Text("wandb has no API key, and nobody can be asked for it", "wandb 没有 API key，且无法交互输入"),
        Text(
            "set WANDB_API_KEY in the shell that starts orch, or WANDB_MODE=offline under launch.env, or report_to to "
            "none",
            "在启动 orch 的 shell 中设置 WANDB_API_KEY，或在 launch.env 中设 WANDB_MODE=offline，"
            "或将 report_to 设为 none",
        ),
    ),
    rule(
        "build-failed",
        r"Error building extension '(\w+)'|CUDA_HOME does not exist|MissingCUDAException|Unable to find (?:nvcc|cl)\b"
        r"|Ninja is required to load C\+\+ extensions|CUDAMismatchException|ninja: build stopped"
        r"|Command '\['ninja', .* returned non-zero exit status|has no attribute 'ds_opt_adam'"
        r"|torch_extensions/\S+\.so: cannot open shared object file|Failed to find C compiler"
        r"|fatal error: Python\.h: No such file",
        Text(
            "an extension of DeepSpeed, torch or Triton could not be compiled",
            "DeepSpeed、torch 或 Triton 的扩展编译失败",
        ),
        Text(
            "install a C++ compiler, Python's headers (python3-dev) and ninja (and, for a GPU, the CUDA toolkit of "
            "torch's version: CUDA_HOME), or train without deepspeed",
            "安装 C++ 编译器、Python 头文件（python3-dev）和 ninja（GPU 还需与 torch 版本一致的 CUDA toolkit，"
            "并设置 CUDA_HOME），或不使用 deepspeed",
        ),
    ),
    rule(
        "no-such-module",
        r"(?:ModuleNotFoundError|ImportError|Error while finding module).*No module named '?([\w.]+)'?"
        r"|: No module named ([\w.]+)$|requires the (\S+) library but it was not found in your environment",
        Text("the backend's Python has no module named {any}", "后端的 Python 中没有名为 {any} 的模块"),
        Text(
            "install it in the Python that runs the backend: launch.python, or else the one that runs Orch",
            "在运行后端的 Python（launch.python，未设置时为运行 Orch 的 Python）中安装",
        ),
    ),
    rule(
        "versions-conflict",
        r"ImportError: cannot import name '([^']+)'|undefined symbol: (\S+)|version `([^']+)' not found"
        r"|ImportError: (\S+ is required for a normal functioning.*)|VersionConflict: (.+)"
        r"|^ImportError: (\S+[<>=!]=?\S+ is required.*)|(numpy\.dtype size changed), may indicate binary incompat"
        r"|TypeError: (Descriptors cannot (?:not )?be created directly)|RuntimeError: (Numpy is not available)",
        Text(
            "packages of the backend do not fit one another: {any}",
            "后端的软件包版本互不兼容：{any}",
        ),
        Text(
            "install the tested versions (constraints.txt), in an environment of their own",
            "在独立的环境中安装经过测试的版本（constraints.txt）",
        ),
    ),
    rule(
        "library-missing",
        r"^(?:ImportError|OSError): (\S+\.so[.\d]*): cannot open shared object file"
        r"|^Could not load library (\S+)\. Error"
        r"|^Unable to load any of \{(\S+?)[,}]",
        Text("a shared library is not there: {any}", "缺少共享库：{any}"),
        Text(
            "CUDA's libraries come with torch: install it again in the backend's Python, and unset an LD_LIBRARY_PATH "
            "that names another CUDA; other libraries come from the system's packages",
            "CUDA 的库随 torch 安装：在后端的 Python 中重新安装 torch，并取消指向其他 CUDA 的 LD_LIBRARY_PATH；"
            "其他库由系统软件包提供",
        ),
    ),
    rule(
        "python-too-old",
        r"^SyntaxError: (.+)|requires a different Python|SyntaxError: (invalid syntax)",
        Text(
            "the backend's Python cannot read a source file: it is too old for it, or the file is damaged",
            "后端的 Python 无法解析某个源文件：Python 版本过旧，或文件已损坏",
        ),
        Text(
            "use Python 3.11 or newer for the backend (launch.python), or install the package again",
            "后端改用 Python 3.11 或更新版本（launch.python），或重新安装该软件包",
        ),
    ),
)
