"""Import one trainer once, then run its real entry point in a fork for each request read from stdin."""

from __future__ import annotations

import faulthandler
import gc
import importlib
import json
import os
import runpy
import sys
import traceback
from pathlib import Path

WORKERS_PARENT = str(Path(__file__).resolve().parents[2])

# What a start of each trainer spends its time on: also what it imports late, or each fork would import it again.
# Nothing here may compute: a thread of torch does not survive a fork.
LATE = (
    "datasets.packaged_modules.json.json",
    "scipy.io",  # datasets patches it before it reads a file
    "torch.profiler._cupti_monitor",
    "transformers.hf_argparser",
    "transformers.models.bert.modeling_bert",
    "transformers.models.qwen3.modeling_qwen3",
)
LATE_WITH_LORA = ("peft.tuners.lora", "peft.utils.transformers_weight_conversion", *LATE)
IMPORTS = {
    "flagembedding": (
        "deepspeed",
        "FlagEmbedding.finetune.reranker.decoder_only.base",
        "FlagEmbedding.finetune.reranker.encoder_only.base",
        *LATE_WITH_LORA,
    ),
    "sentence-transformers": ("sentence_transformers.cross_encoder", *LATE),
    "swift": (
        "deepspeed",
        "swift.pipelines.train.sft",
        "swift.pipelines.export.export",
        "swift.callbacks",
        "swift.trainers",
        "swift.trainers.embedding_trainer",
        "swift.trainers.reranker_trainer",
        "swift.trainers.seq2seq_trainer",
        "swift.loss_scale",
        "swift.optimizers",
        "modelscope.hub.check_model",
        *LATE_WITH_LORA,
    ),
}


def run_module(request: dict[str, object]) -> int:
    """Run `python -m module argv` in this process, its output in files; return what a shell would see."""
    for stream, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(str(request[name]), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(file, stream)
    os.chdir(str(request["cwd"]))
    os.environ.update(request["env"])  # type: ignore[call-overload]
    sys.argv = [str(request["module"]), *request["argv"]]  # type: ignore[misc]
    faulthandler.dump_traceback_later(int(request["limit_s"]), exit=True)  # type: ignore[call-overload]
    try:
        runpy.run_module(str(request["module"]), run_name="__main__", alter_sys=True)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:  # noqa: BLE001  as the interpreter ends on what nobody caught
        traceback.print_exc()
        return 1
    return 0


def serve(replies: int) -> None:
    """Answer one JSON line a request, {"code": exit code} or {"signal": number}, until stdin ends."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            code = 70
            try:
                code = run_module(json.loads(line))
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)
        ended = os.waitstatus_to_exitcode(status)
        reply = {"code": ended} if ended >= 0 else {"signal": -ended}
        os.write(replies, (json.dumps(reply) + "\n").encode())


def main() -> int:
    """Import the trainer named by the first argument, say that it is ready, and serve."""
    replies = os.dup(1)
    os.dup2(2, 1)  # what an import prints is no reply
    sys.path.insert(0, WORKERS_PARENT)
    for name in IMPORTS[sys.argv[1]]:
        importlib.import_module(name)
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    get_checkpoint_conversion_mapping("qwen3")  # thousands of patterns, compiled once
    gc.collect()
    gc.freeze()  # a child's collections leave the imported modules alone
    os.write(replies, b'{"ready": true}\n')
    serve(replies)
    return 0


if __name__ == "__main__":
    sys.exit(main())
