"""Write a model in another form, load it as its user would, and score an eval file by it and by its source in turn."""

from __future__ import annotations

import argparse
import json
import os
import platform
import runpy
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from orchestrator.workers.embedding.folder import read_modules
from orchestrator.workers.embedding.model import Encoder, build_text_reader
from orchestrator.workers.engines.sentence_transformers import IDENTITY, write_cross_encoder
from orchestrator.workers.engines.transformers import load_tokenizer, release
from orchestrator.workers.environment import may_load_pickles, read_versions, weight_options
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.folders import fresh_folder, read_object, refuse_existing, write_json, write_text
from orchestrator.workers.package import hash_and_describe
from orchestrator.workers.pool import choose_devices
from orchestrator.workers.reranker import folder as packaging
from orchestrator.workers.reranker import formats
from orchestrator.workers.reranker.scoring import build_pair_reader, build_scorer
from orchestrator.workers.score import Scored, import_scorer
from orchestrator.workers.score_store import SCORES
from orchestrator.workers.specs import load_raw_spec, parse_embedding_spec, parse_spec
from orchestrator.workers.weights import identify_model, require_safetensors
from orchestrator.workers.whole_weights import SCORES as HEAD
from orchestrator.workers.whole_weights import VECTORS, WORDS, require_whole

# each form of a model, as the core reads it too (backends/exports.py)
TABLE: dict[str, dict[str, dict[str, Any]]] = read_object(Path(__file__).with_name("exports.json"), "the forms")
SOURCE = "source.jsonl"  # beside the export's scores: those of its source, in the same process
# what is a model's own form, or is said anew; all else of a folder (tokenizer, modules, prompts) goes along
_LEFT_OUT = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.pt", "README.md", "scoring.json", "*.gguf",
             "onnx", "openvino", "1_LogitScore", "data_config.json", ".*", "__pycache__")  # fmt: skip
_ROUNDS, _ROUNDS_S = 3, 20.0  # of both models in turn, the best of which is their speed: more only while they are short
# what an LLM does to its logits behind lm_head (Gemma 2, Granite, Cohere): a head of its own would leave it out
_LOGIT_CHANGES = {"final_logit_softcapping": None, "logits_scaling": 1.0, "logit_scale": 1.0}


@dataclass(frozen=True)
class Export:
    """What is written: the source's folder and scoring spec, the form and its row."""

    source: Path
    raw: dict[str, Any]
    form: str
    device: str

    @property
    def row(self) -> dict[str, Any]:
        """What the table says of the form, and of its way under it."""
        row = TABLE["forms"][self.form]
        return {**TABLE["ways"][row["way"]], **row}

    @property
    def ranks(self) -> bool:
        """Whether the model scores pairs; others give vectors, or answers."""
        return self.raw["scorer"] not in {"embedding", "chat"}


def write_seq_cls(asked: Export, folder: Path) -> dict[str, Any]:
    """Write an LLM reranker with one row of its lm_head, or the difference of two, as the head of one label.

    Return what its scoring spec says otherwise. FlagEmbedding's score is the logit of "Yes", Qwen3-Reranker's that of
    "yes" less that of "no": both are linear in the last hidden state. Raises WorkerError where they are not, and for an
    architecture without such a head.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification
    from transformers.models.auto.modeling_auto import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING

    spec, source = parse_spec(asked.raw, "the scoring spec"), asked.source
    options = {"torch_dtype": "auto", "trust_remote_code": spec.trust_remote_code}
    config = AutoConfig.from_pretrained(source, trust_remote_code=spec.trust_remote_code)
    if type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        raise WorkerError(f"{config.model_type}: transformers has no class of it with a head that scores")
    changed = [key for key, neutral in _LOGIT_CHANGES.items() if getattr(config, key, None) not in {None, neutral}]
    require_whole(source, WORDS, trust_remote_code=spec.trust_remote_code)
    causal = AutoModelForCausalLM.from_pretrained(source, **options, **weight_options())
    words = causal.get_output_embeddings()
    if changed or getattr(words, "bias", None) is not None:
        raise WorkerError(
            f"{config.model_type}: a word's logit is more than its row of lm_head ({', '.join(changed) or 'a bias'})"
        )
    tokenizer = load_tokenizer(source, trust_remote_code=spec.trust_remote_code)
    native = spec.scorer == "qwen3-native"
    ids = [*formats.answer_ids(tokenizer, source).values()] if native else [formats.true_token_id(tokenizer, spec)]
    rows = words.weight.detach()[ids].float()
    head = rows[:1] - rows[1:] if native else rows
    del causal, words
    release()
    model = AutoModelForSequenceClassification.from_pretrained(source, num_labels=1, **options, **weight_options())
    model.score.weight = torch.nn.Parameter(head.to(model.score.weight.dtype))
    model.config.pad_token_id = tokenizer.pad_token_id
    model.config.tie_word_embeddings = False  # there is no lm_head any more
    # vLLM would put a sigmoid over the one label
    model.config.sentence_transformers = {"activation_fn": IDENTITY}
    model.save_pretrained(folder)
    if native:
        packaging.write_format(folder, replace(spec, scorer="qwen3-score-head"), source)
        return {"scorer": "qwen3-score-head", "task_type": "reranker"}
    if not (source / "scoring.json").is_file():  # a packaged model has its format in its chat template already
        packaging.write_format(folder, spec, source)
        packaging.write_exact_template(folder, spec, tokenizer, [("a query", "a document")])
        shutil.rmtree(folder / "1_LogitScore")
    write_cross_encoder(folder, pad_token_id=tokenizer.pad_token_id)
    length = formats.sequence_length(tokenizer, spec)
    return {"scorer": "cross-encoder", "max_length": length, "query_instruction": None, "passage_instruction": None}


def write_onnx(asked: Export, folder: Path) -> dict[str, Any]:
    """Write onnx/model.onnx by sentence-transformers' exporters, where servers look for it, whatever its level."""
    from sentence_transformers.backend import export_dynamic_quantized_onnx_model, export_optimized_onnx_model

    encoder, row = open_encoder(asked, asked.source, backend="onnx", export=True), asked.row
    with tempfile.TemporaryDirectory(dir=folder) as made:
        if level := row.get("optimize"):
            export_optimized_onnx_model(encoder, level, made)
        elif row.get("quantize"):
            export_dynamic_quantized_onnx_model(encoder, choose_instructions(), made)
        else:
            encoder.transformers_model.save_pretrained(made)
        files = sorted(Path(made, "onnx").iterdir())
        if len(files) > 1 and (row.get("half") or files[0].name != "model.onnx"):  # whose name the other file names
            raise WorkerError(f"{asked.form}: its weights fill a file of their own (2 GB); take another form")
        if row.get("half"):
            import onnx
            from onnxruntime.transformers.float16 import convert_float_to_float16

            onnx.save(convert_float_to_float16(onnx.load(files[0]), keep_io_types=True), files[0])
        (folder / "onnx").mkdir()
        for path in files:
            path.rename(folder / "onnx" / ("model.onnx" if path.suffix == ".onnx" else path.name))
    return {}


def choose_instructions() -> str:
    """Return for which instructions of this machine's processor a quantised model is written, in optimum's words."""
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").is_file() else ""
    if platform.machine() in {"arm64", "aarch64"}:
        return "arm64"
    return next((name for name in ("avx512_vnni", "avx512f") if name in flags), "avx2").removesuffix("f")


def write_openvino(asked: Export, folder: Path) -> dict[str, Any]:
    """Write openvino/openvino_model.xml by sentence-transformers' exporter; int8 is that of the weights alone."""
    settings = {"load_in_8bit": True} if asked.row.get("quantize") else {}
    model = open_encoder(asked, asked.source, backend="openvino", export=True, **settings).transformers_model
    if asked.row.get("half"):
        model.half()
    with tempfile.TemporaryDirectory(dir=folder) as made:
        model.save_pretrained(made)
        Path(made, "openvino").rename(folder / "openvino")
    return {}


def write_gguf(asked: Export, folder: Path) -> dict[str, Any]:
    """Write model.gguf by llama.cpp's own converter, out of the sources of it that LLAMA_CPP names.

    Raises WorkerError where there is none, for what it does not convert, and for layers that it would leave out.
    """
    script = Path(os.environ.get("LLAMA_CPP", "llama.cpp"), "convert_hf_to_gguf.py").resolve()
    if not script.is_file():
        raise WorkerError(
            "set LLAMA_CPP to the sources of llama.cpp, with convert_hf_to_gguf.py (a clone of it has them)"
        )
    if any(module.kind == "Dense" for module in read_modules(asked.source)):
        raise WorkerError(f"{asked.source}: llama.cpp's converter drops the dense layers behind the pooling")
    words = [str(asked.source), "--outtype", asked.row["outtype"], "--outfile", str(folder / "model.gguf")]
    sys.argv, sys.path[:0] = [str(script), *words], [str(script.parent)]
    try:
        runpy.run_path(str(script), run_name="__main__")
    except (Exception, SystemExit) as error:
        raise WorkerError(f"llama.cpp's converter: {error or type(error).__name__}") from error
    return {}


def open_gguf(asked: Export, folder: Path) -> Any:
    """Return what a job of scoring reads texts by, over llama.cpp's server, which is given them as texts."""
    import xllamacpp as llama

    spec = parse_embedding_spec(asked.raw, "the scoring spec")
    tokenizer, settings = load_tokenizer(folder, trust_remote_code=spec.trust_remote_code), llama.CommonParams()
    settings.model.path, settings.embedding, settings.port = str(folder / "model.gguf"), True, 0  # any free one
    settings.n_ctx = settings.n_batch = settings.n_ubatch = spec.max_length
    settings.n_parallel = 1
    server = llama.Server(settings)

    def encode(texts: Sequence[str], **_: Any) -> list[list[float]]:
        ids = tokenizer(list(texts), truncation=True, max_length=spec.max_length)["input_ids"]
        cut = [tokenizer.decode(one, skip_special_tokens=True) if len(one) == spec.max_length else text
               for one, text in zip(ids, texts, strict=True)]  # fmt: skip
        answer = server.handle_embeddings({"input": cut})
        if "data" not in answer:
            raise WorkerError(f"llama.cpp: {answer}")
        return [row["embedding"] for row in answer["data"]]

    model = SimpleNamespace(encode=encode, tokenizer=tokenizer)
    return build_text_reader(Encoder(model, spec, {"max_length": spec.max_length}), asked.device)


def open_encoder(asked: Export, folder: Path, **settings: Any) -> Any:
    """Return the folder as its user opens it: a CrossEncoder of raw scores, or a SentenceTransformer."""
    from sentence_transformers import CrossEncoder, SentenceTransformer
    from torch import nn

    backend, trust = settings.pop("backend", "torch"), bool(asked.raw.get("trust_remote_code"))
    options = {"backend": backend, "device": asked.device, "local_files_only": True, "trust_remote_code": trust}
    arguments = {**settings, **(weight_options() if backend == "torch" else {})}
    if settings.get("export") and not may_load_pickles():  # optimum opens it, and knows no such option
        require_safetensors(folder)
    if not asked.ranks:
        return SentenceTransformer(str(folder), model_kwargs=arguments, **options)
    return CrossEncoder(str(folder), activation_fn=nn.Identity(), model_kwargs=arguments, **options)


def open_export(asked: Export, folder: Path) -> Any:
    """Return what a job of scoring reads pairs or texts by, over the folder as its user opens it."""
    way = asked.row["way"]
    if way == "gguf":
        return open_gguf(asked, folder)
    if way == "seq-cls":
        encoder = open_encoder(asked, folder, torch_dtype=asked.raw.get("dtype", "float32"))
    else:
        encoder = open_encoder(asked, folder, backend=way)
    if asked.ranks:
        spec = parse_spec(asked.raw, "the scoring spec")
        encoder[0].max_seq_length = spec.max_length
        return build_scorer(build_pair_reader(encoder, spec, {}, wrap=spec.scorer == "cross-encoder"), spec)
    text_spec = parse_embedding_spec(asked.raw, "the scoring spec")
    encoder.max_seq_length = min(text_spec.max_length, encoder.max_seq_length or text_spec.max_length)
    encoder.truncate_dim = None  # a vector is cut by the spec
    return build_text_reader(Encoder(encoder, text_spec, {"max_length": encoder.max_seq_length}), asked.device)


WRITERS: dict[str, Callable[[Export, Path], dict[str, Any]]] = {
    "seq-cls": write_seq_cls, "onnx": write_onnx, "openvino": write_openvino, "gguf": write_gguf,
}  # fmt: skip


def count_bytes(folder: Path) -> int:
    """Return the size of a model's files, without what only describes it."""
    names = {"README.md", "scoring.json", "export.json"}
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.name not in names)


def score_in_turn(scorings: dict[str, Callable[[], Scored]]) -> tuple[dict[str, Scored], dict[str, Any]]:
    """Return the scores of each, and its speed: of up to three rounds in turn, in one process, the best.

    Beside units a second it says the seconds of processor time, which other work on the machine does not change.
    """
    found: dict[str, Scored] = {}
    walls: dict[str, list[float]] = {name: [] for name in scorings}
    works: dict[str, list[float]] = {name: [] for name in scorings}
    started = time.monotonic()
    while not found or (len(walls["source"]) < _ROUNDS and time.monotonic() - started < _ROUNDS_S):
        for name, score in scorings.items():
            begun, worked = time.monotonic(), time.process_time()
            scored = score()
            walls[name].append(time.monotonic() - begun)
            works[name].append(time.process_time() - worked)
            found.setdefault(name, scored)
    first = found["source"]
    count, unit = first.count or len(first.rows), first.unit or "rows"
    speeds = {name: round(count / min(seconds), 3) for name, seconds in walls.items()}
    work = {f"{name}_cpu_s": round(min(seconds), 3) for name, seconds in works.items()}
    return found, {"unit": unit, "count": count, "rounds": len(walls["source"]), **speeds, **work}


def export(asked: Export, options: argparse.Namespace) -> None:
    """Write the export to `options.out`, then the scores of both and what was measured to `options.scores`.

    Raises WorkerError for a model that has no such form.
    """
    way, packages = asked.row["way"], tuple(asked.row["packages"])
    job = import_scorer(asked.raw).open_job(asked.raw, options)
    if way != "seq-cls":  # which asks for itself
        require_whole(str(asked.source), HEAD if asked.ranks else VECTORS)
    with fresh_folder(options.out) as folder:
        shutil.copytree(asked.source, folder, ignore=shutil.ignore_patterns(*_LEFT_OUT), dirs_exist_ok=True)
        raw = {**asked.raw, **WRITERS[way](asked, folder)}
        if way == "seq-cls":
            require_whole(str(folder), HEAD)
        written, source = open_export(replace(asked, raw=raw), folder), job.load(str(asked.source), [asked.device])
        found, speed = score_in_turn({"source": lambda: job.score(source), "export": lambda: job.score(written)})
        facts = {
            "version": 1,
            "form": asked.form,
            "source": {"model": str(asked.source), "base_model": asked.raw.get("base_model"),
                       "scorer": asked.raw["scorer"], "files": identify_model(str(asked.source))},
            "device": asked.device,
            "versions": read_versions(*packages),
            "speed": speed,
            "bytes": {"source": count_bytes(asked.source), "export": count_bytes(folder)},
            "load": asked.row["load"].format_map(
                {"folder": "path/to/this/folder", "class": "CrossEncoder" if asked.ranks else "SentenceTransformer"}
            ),
        }  # fmt: skip
        hash_and_describe(folder, {**raw, "export": facts})
    for name, file in (("export", SCORES), ("source", SOURCE)):
        write_text(
            options.scores / file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found[name].rows)
        )
    write_json(options.scores / "scoring.json", {**facts, "spec": raw})


def main(argv: list[str]) -> int:
    """Write the export, and the scores of both."""
    parser = argparse.ArgumentParser(prog="workers export", description=__doc__, allow_abbrev=False)
    parser.add_argument("--model", type=Path, required=True, help="the source: a folder")
    parser.add_argument("--scoring", type=Path, required=True, help="its scoring spec, JSON")
    parser.add_argument("--form", required=True, choices=list(TABLE["forms"]))
    parser.add_argument("--data", type=Path, required=True, help="the canonical eval file, JSONL")
    parser.add_argument("--corpus", type=Path, help="the documents that a retrieval eval searches, JSONL")
    parser.add_argument("--out", type=Path, required=True, help="a folder that does not exist yet")
    parser.add_argument("--replace", action="store_true", help="put the new folder in the place of an older one")
    parser.add_argument("--scores", type=Path, required=True, help="a folder for the scores of both")
    parser.add_argument("--device", help="cpu or cuda; the GPU when there is one")
    parser.add_argument("--trust-remote-code", action="store_true", help="run Python code that the folder brings along")
    options = parser.parse_args(argv)
    refuse_existing(options.out, replace=options.replace)
    raw = {**load_raw_spec(options.scoring), "trust_remote_code": options.trust_remote_code}
    device = choose_devices(options.device, options.data, options.corpus)[0]
    export(Export(options.model, raw, options.form, device), options)
    return 0
