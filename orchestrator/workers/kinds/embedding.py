"""Embedding models: the folder around their weights, and their vectors by every way that users load them.

Everything is held against plain transformers, one text at a time: padded batches of it, `SentenceTransformer` over the
packaged folder in batches and one by one, and the tool that trained the model (ms-swift, FlagEmbedding). swift cuts a
long text at its end, end token and all, while sentence-transformers keeps the end token, so texts longer than
`max_length` are not given to a tool.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.workers.embedding.folder import (
    Head,
    append_end_token,
    build_head,
    find_whole,
    read_modules,
    require_end_token,
    settle,
    write_modules,
)
from orchestrator.workers.embedding.model import keep_suffix, load_encoder
from orchestrator.workers.engines import flagembedding, swift
from orchestrator.workers.engines.transformers import load_float32, load_tokenizer, release
from orchestrator.workers.environment import weight_options
from orchestrator.workers.eval_files import EXAMPLES, TextProbe, build_text_probes
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.folders import read_json, update_settings
from orchestrator.workers.kinds import Described, Request
from orchestrator.workers.merge import attach_adapter
from orchestrator.workers.specs import EmbeddingSpec, parse_embedding_spec
from orchestrator.workers.verification_checks import (
    Check,
    as_number,
    check_changed_weights,
    check_finite,
    check_merge_keeps_training,
    merge_tolerance,
)
from orchestrator.workers.weights import WeightScan, hash_parameters

# of servers' endpoints, seen with vLLM 0.32: the first takes an input_type too, and ignores it without a word
PROMPTS_WRITTEN_BY = {"/v1/embeddings": "client", "/v2/embed": "server, by input_type query or document"}
BATCH_SIZE = 4
SHOWN_NUMBERS = 8
NEAREST = 3
# what a server of this model is asked to see that it serves this model
KNOWN_TEXTS = (
    ("query", EXAMPLES[0][0]),
    ("document", EXAMPLES[0][1]),
    ("document", EXAMPLES[1][1]),
    ("query", EXAMPLES[2][0]),
)

# Allowed cosine distance of two ways to one vector. It is half the square of the angle: 1e-6 is an angle of 0.0014.
# Everything is computed in float32; what a merge rounds away depends on the dtype that its weights are stored in.
COMPUTE_DISTANCE = 1e-6
MERGE_DISTANCE = {"float32": 1e-6, "float16": 1e-5, "bfloat16": 1e-3}
# vectors that are nearer to each other than this are one
CONSTANT_DISTANCE = 1e-6
NORM_TOLERANCE = 1e-4
HEAD_TOLERANCE = 1e-4  # of one number, in float32


@dataclass(frozen=True)
class Subject:
    """What is verified: `folder` is the package, `trained` the tokenizer of the training and `packaged` the package's.

    `base` is the base model's folder; `whole` are the places of the probes that `max_length` does not cut; `saved` is
    the whole SentenceTransformer that the training saved, where it did.
    """

    request: Request
    spec: EmbeddingSpec
    folder: Path
    base: str
    trained: Any
    packaged: Any
    probes: Sequence[TextProbe]
    whole: list[int]
    saved: Path | None = None

    @property
    def texts(self) -> list[str]:
        """The probes as the model reads them."""
        spec = self.spec
        wrapped = [spec.wrap(probe.kind, probe.text) for probe in self.probes]
        return [keep_suffix(self.trained, text, spec.query_suffix, spec.max_length) for text in wrapped]

    def body(self, place: int) -> str:
        """Return what a user hands over of a probe, its prompt left out: sentence-transformers says prompts itself."""
        prompt = self.spec.query_prompt if self.probes[place].kind == "query" else self.spec.document_prompt
        return self.texts[place].removeprefix(prompt)


def parse(request: Request) -> EmbeddingSpec:
    """Return the scoring spec. Raises WorkerError for one that is wrong, or an adapter that no known tool trained."""
    spec = parse_embedding_spec(request.raw_spec, "the scoring spec")
    if request.adapter is not None and not spec.tool:
        message = "the adapter of an embedding model is verified in swift, or in the tool that made it"
        raise WorkerError(f'{message}: the spec must say which, such as "tool": "swift"')
    return spec


def prepare(request: Request, spec: EmbeddingSpec, folder: Path) -> Subject:
    """Make tokenizer and modules those of the training, whatever the base folder lacked.

    The weights stay as swift saves them, byte for byte, as Qwen3ForCausalLM with a head: AutoModel (and with it
    sentence-transformers) drops the `model.` in front of names and leaves out a head; vLLM knows Qwen3-Embedding by
    that very architecture, and makes a pooling model of it. A rewrite would only be one more thing to go wrong.
    """
    base = find_folder(request.base)
    saved = find_whole(spec, request.model, request.adapter)
    spec = settle(spec, request.base, Path(base), read_json(folder / "config.json"), saved)
    trust = spec.trust_remote_code
    trained = load_tokenizer(request.find_tokenizer(), trust_remote_code=trust)
    update_settings(folder, model_max_length=spec.max_length)
    if spec.pooling == "lasttoken":
        if saved is None and spec.end_token:  # else the tokenizer is the one of the training
            append_end_token(folder, trust_remote_code=trust)
        update_settings(folder, padding_side="left")
    # no text was ever wrapped as a chat, and a server that finds a chat template may do it
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    write_modules(folder, spec, saved)
    for name in flagembedding.HEADS if spec.colbert_dim is not None else ():
        if not (request.model / name).is_file():
            raise WorkerError(f"{request.model} holds no {name}: the training did not save bge-m3's heads")
        shutil.copyfile(request.model / name, folder / name)
    packaged = load_tokenizer(folder, trust_remote_code=trust)
    probes = build_text_probes(request.probes, request.corpus, trained, spec.max_length, request.test_prompt)
    lengths = [len(packaged(spec.wrap(one.kind, one.text), truncation=False)["input_ids"]) for one in probes]
    whole = [index for index, length in enumerate(lengths) if length <= spec.max_length]
    return Subject(request, spec, folder, base, trained, packaged, probes, whole, saved)


def find_folder(model: str) -> str:
    """Return the folder of a model that is on this machine: swift would ask another hub than the one it came from.

    Raises WorkerError for a hub id that was never downloaded.
    """
    if Path(model).is_dir():
        return model
    from huggingface_hub import snapshot_download

    try:
        return str(snapshot_download(model, local_files_only=True))
    except (OSError, ValueError) as error:
        raise WorkerError(
            f"{model} is neither a folder nor in the Hugging Face cache of this machine: give the folder that training "
            "started from"
        ) from error


@dataclass(frozen=True)
class Seen:
    """Float32 vectors [probes, dimensions] by every way; `tool` and `adapter` are of the whole probes only.

    `model` and `base` are plain transformers, one text at a time, and `batched` is `model` in padded batches. Where
    plain code cannot follow the modules, `base` and `model` are theirs in sentence-transformers, and `batched` is None.
    `trained` is what the whole model that was saved gives there, one text at a time.
    """

    base: Any
    base_hashes: dict[str, str]
    model: Any
    batched: Any
    hashes: dict[str, str]
    missing: tuple[str, ...]
    packaged: Any
    reloaded: Any
    tool: Any = None
    adapter: Any = None
    trained: Any = None
    heads: Sequence[Check] = ()


def observe(subject: Subject) -> Seen:
    """Embed the probes by every way, one model in memory at a time."""
    request, spec = subject.request, subject.spec
    # before swift is imported, which changes classes of transformers
    device = request.device
    heads = tuple(build_head(folder, spec, device) for folder in (find_base_head(subject), subject.folder))
    plain = heads if all(heads) else (None, None)
    base, _, base_hashes, _ = embed_plainly(subject, subject.base, plain[0])
    model, batched, hashes, missing = embed_plainly(subject, subject.folder, plain[1], batches=True)
    packaged, reloaded = (embed_packaged(subject, batch_size) for batch_size in (BATCH_SIZE, 1))
    trained = None if subject.saved is None or missing else embed_in_library(subject, str(request.model))
    if not all(heads):
        base, model = embed_in_library(subject, subject.base), trained
    in_tool = adapter = None
    # a model with made-up weights is refused without asking anybody else
    if spec.tool in TOOLS and not missing:
        in_tool, adapter = TOOLS[spec.tool].ask(subject, [subject.texts[index] for index in subject.whole])
    heads_checks = check_heads(subject) if spec.colbert_dim is not None and not missing else ()
    return Seen(
        *(base, base_hashes, model, batched, hashes, missing, packaged, reloaded, in_tool, adapter, trained),
        heads=heads_checks,
    )


def check_heads(subject: Subject) -> list[Check]:
    """Return that bge-m3's sparse and ColBERT weights of the package are the trained ones, in FlagEmbedding."""
    import numpy as np

    texts = [subject.texts[index] for index in subject.whole]
    folders = (str(subject.folder), str(subject.request.model))
    ours, theirs = (
        flagembedding.embed_by_heads(one, replace(subject.spec, dtype="float32"), texts, subject.request.device)
        for one in folders
    )
    sparse = [
        abs(float(one.get(token, 0)) - float(other.get(token, 0)))
        for one, other in zip(ours["lexical_weights"], theirs["lexical_weights"], strict=True)
        for token in {*one, *other}
    ]
    pairs = zip(ours["colbert_vecs"], theirs["colbert_vecs"], strict=True)
    colbert = [float(np.abs(one - other).max()) for one, other in pairs]
    return [check_head(name, differences) for name, differences in (("sparse", sparse), ("colbert", colbert))]


def check_head(name: str, differences: Sequence[float]) -> Check:
    """Check that one of bge-m3's heads gives in the package what it gave after the training."""
    largest = as_number(max(differences, default=0.0))
    failure = (
        f"the packaged model's {name} weights differ from those of the training in FlagEmbedding by up to {largest}, "
        f"allowed {HEAD_TOLERANCE:g}: what would be shipped is not what was trained"
    )
    numbers = {"max_difference": largest, "allowed": HEAD_TOLERANCE, "compared": len(differences)}
    return Check(name, largest is not None and largest <= HEAD_TOLERANCE, failure, numbers)


def ask_swift(subject: Subject, texts: Sequence[str]) -> tuple[Any, Any]:
    """Return the vectors of the trained model in ms-swift's engine, and of the adapter on its base there."""
    request, spec = subject.request, subject.spec
    settings = swift.EngineSettings(model_type=spec.model_type, task_type="embedding", template=spec.template)
    in_swift = swift.embed(request.model, settings, texts, request.device)
    if request.adapter is None:
        return in_swift, None
    return in_swift, swift.embed(subject.base, settings, texts, request.device, request.adapter)


def ask_flagembedding(subject: Subject, texts: Sequence[str]) -> tuple[Any, Any]:
    """Return the packaged model's vectors in FlagEmbedding, and plain transformers' of the adapter on its base."""
    in_tool = flagembedding.embed(str(subject.folder), subject.spec, texts, subject.request.device)
    return in_tool, embed_adapter(subject)


def embed_adapter(subject: Subject) -> Any:
    """Return plain transformers' vectors of the adapter on its base, of the whole probes; None without an adapter.

    What stands behind the transformer is trained whole and stands in the package.
    """
    request = subject.request
    head = build_head(subject.folder, subject.spec, request.device)
    if request.adapter is None or head is None:
        return None
    return embed_plainly(subject, subject.base, head, adapter=request.adapter)[0][subject.whole]


@dataclass(frozen=True)
class Tool:
    """A tool that trains embedding models: what it is asked, and where an adapter's vectors come from."""

    ask: Callable[[Subject, Sequence[str]], tuple[Any, Any]]
    adapters_in: str


TOOLS = {
    "swift": Tool(ask_swift, "swift"),
    "flagembedding": Tool(ask_flagembedding, "plain transformers"),
    # what it gives itself is `trained`
    "sentence-transformers": Tool(lambda subject, _: (None, embed_adapter(subject)), "plain transformers"),
}


def find_base_head(subject: Subject) -> Path:
    """Return the folder whose modules make the base model's vectors: its own, else those of the package."""
    own = subject.saved is not None and read_modules(Path(subject.base))
    return Path(subject.base) if own else subject.folder


def encode_ids(subject: Subject, text: str) -> list[int]:
    """Return the ids of training: the text's own, cut from the right, then the end token when it is what is pooled."""
    tokenizer, spec = subject.trained, subject.spec
    if spec.ends_texts and subject.saved is None:
        ids = tokenizer(text, add_special_tokens=False, truncation=False)["input_ids"]
        return [*ids[: spec.max_length - 1], require_end_token(tokenizer, "the trained model")]
    return list(tokenizer(text, truncation=True, max_length=spec.max_length, padding=False)["input_ids"])


def embed_plainly(
    subject: Subject, model: Path | str, head: Head | None, *, batches: bool = False, adapter: Path | None = None
) -> tuple[Any, Any, dict[str, str], tuple[str, ...]]:
    """Return AutoModel's vectors of single texts and (if asked) of padded batches, hashes, and the missing weights.

    Without a `head`, which turns hidden states into vectors, there are no vectors. With an adapter on top, if given.
    """
    import torch

    spec, device, texts = subject.spec, subject.request.device, subject.texts
    loaded, missing = load_float32("AutoModel", model, device, trust_remote_code=spec.trust_remote_code)
    if adapter is not None:
        loaded = attach_adapter(loaded, adapter).eval()

    def run(model: Any, inputs: Mapping[str, Any]) -> Any:
        return head(model(**inputs).last_hidden_state, inputs["attention_mask"]) if head else None

    with torch.inference_mode():
        rows = [torch.tensor([encode_ids(subject, text)], device=device) for text in texts if head]
        single = [run(loaded, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}) for ids in rows]
        options = {"padding": True, "truncation": True, "max_length": spec.max_length, "return_tensors": "pt"}
        batched = [
            run(loaded, subject.packaged(texts[start : start + BATCH_SIZE], **options).to(device))
            for start in range(0, len(texts) if batches and head else 0, BATCH_SIZE)
        ]
    # a pooler is no part of the vector: BERT folders often come without its weights
    hashes = {name: value for name, value in hash_parameters(loaded).items() if not name.startswith("pooler.")}
    del loaded
    release()
    vectors, of_batches = (torch.cat(found).float().cpu().numpy() if found else None for found in (single, batched))
    return vectors, of_batches, hashes, tuple(name for name in missing if not name.startswith("pooler."))


def embed_in_library(subject: Subject, model: str) -> Any:
    """Return the vectors of a model in sentence-transformers, one text at a time, with the spec's prompts."""
    import numpy as np

    encoder = load_encoder(model, replace(subject.spec, dtype="float32"), subject.request.device, local_files_only=True)
    prompts = {"query": subject.spec.query_prompt, "document": subject.spec.document_prompt}
    found = [
        encoder.model.encode([subject.body(place)], prompt=prompts[probe.kind], show_progress_bar=False)[0]
        for place, probe in enumerate(subject.probes)
    ]
    del encoder
    release()
    return np.stack(found).astype(np.float32)


def embed_packaged(subject: Subject, batch_size: int) -> Any:
    """Return the vectors of `SentenceTransformer(folder)` with its own prompts, nothing else given but float32."""
    import numpy as np
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(
        str(subject.folder),
        device=subject.request.device,
        trust_remote_code=subject.spec.trust_remote_code,
        model_kwargs={"torch_dtype": "float32", **weight_options()},
        local_files_only=True,
    )
    probes = subject.probes
    vectors: Any = np.empty((len(probes), int(encoder.get_embedding_dimension() or 0)), dtype=np.float32)
    for kind, encode in (("query", encoder.encode_query), ("document", encoder.encode_document)):
        rows = [index for index, probe in enumerate(probes) if probe.kind == kind]
        vectors[rows] = encode([subject.body(row) for row in rows], batch_size=batch_size, show_progress_bar=False)
    del encoder
    release()
    return vectors


def measure_distances(vectors: Any, others: Any) -> Any:
    """Return the cosine distance of each row to its counterpart; exact where the cosine itself rounds to 1.

    Vectors that are not of length 1 are measured in units of the others' lengths: another length is a distance, too.
    Rows of two widths are infinitely far apart.
    """
    import numpy as np

    if vectors.shape[1:] != others.shape[1:]:
        return np.full(len(vectors), np.inf)
    ones, twos = np.asarray(vectors, dtype=np.float64), np.asarray(others, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return 0.5 * ((ones - twos) ** 2).sum(axis=1) / (twos**2).sum(axis=1)


def compare(subject: Subject, seen: Seen, scan: WeightScan) -> list[Check]:
    """Return the checks of tokens and vectors."""
    named = {"base": seen.base, "model": seen.model, "packaged": seen.packaged}
    tool = subject.spec.tool or ""
    others = {tool: seen.tool, "adapter": seen.adapter}
    named |= {name: vectors for name, vectors in others.items() if vectors is not None}
    trained, packaged = "the packaged model's vectors differ from", seen.packaged
    checks = [
        check_same_ids(subject),
        check_finite({name: vectors.ravel().tolist() for name, vectors in named.items()}),
        *([check_unit_length(packaged)] if subject.spec.normalize else []),
        check_distinct_vectors(packaged),
        check_changed_weights(seen.base_hashes, seen.hashes),
        check_changed_vectors(seen.base, seen.model),
        check_same_vectors("sentence-transformers", f"{trained} the trained model's", packaged, seen.model),
        check_same_vectors(
            *("reloaded", "the packaged model, loaded once more, differs from itself", seen.reloaded, packaged)
        ),
    ]
    if seen.batched is not None:
        what = "plain transformers' vectors of padded batches differ from those of single texts"
        checks.append(check_same_vectors("transformers", what, seen.batched, seen.model))
    if seen.trained is not None:
        what = f"{trained} those of the trained folder in sentence-transformers"
        checks.append(check_same_vectors("trained", what, packaged, seen.trained))
    if seen.tool is not None:
        what = f"{trained} those of the trained model in {tool}"
        checks.append(check_same_vectors(tool, what, packaged[subject.whole], seen.tool))
    checks += seen.heads
    if seen.adapter is not None:
        what = f"the merged model's vectors differ from those of the adapter on its base in {TOOLS[tool].adapters_in}"
        allowed = merge_tolerance(scan.dtypes, MERGE_DISTANCE)
        merged = seen.model[subject.whole] if seen.tool is None else seen.tool
        checks.append(check_same_vectors("merged", what, merged, seen.adapter, allowed))
        three = (seen.base[subject.whole], seen.adapter, merged)
        checks.append(check_merge_keeps_training(*(part.ravel().tolist() for part in three)))
    test = find_test_prompt(subject)
    return checks if test is None else [*checks, check_test_prompt(packaged[test], seen.base[test])]


def find_test_prompt(subject: Subject) -> int | None:
    """Return the place of the user's own text."""
    return next((index for index, probe in enumerate(subject.probes) if probe.origin == "test-prompt"), None)


def check_same_ids(subject: Subject) -> Check:
    """Check that the packaged tokenizer, asked plainly, gives the ids of training for every probe."""
    texts = subject.texts
    other = [
        text
        for text in texts
        if list(subject.packaged(text, truncation=True)["input_ids"]) != encode_ids(subject, text)
    ]
    example = repr(other[0][:60]) if other else ""
    failure = (
        f"the packaged tokenizer gives other tokens than the training for {len(other)} of {len(texts)} probes, such as "
        f"{example}: the end token, or the place where long texts are cut, is not that of the training"
    )
    return Check("tokens", not other, failure, {"texts": len(texts), "other": len(other)})


def check_same_vectors(name: str, what: str, vectors: Any, expected: Any, allowed: float = COMPUTE_DISTANCE) -> Check:
    """Check that two ways of embedding with the same weights agree on every text."""
    distances = measure_distances(vectors, expected)
    largest = as_number(float(distances.max()))
    numbers = {"max_distance": largest, "allowed": allowed, "texts": len(distances)}
    apart = f"by up to {largest} in cosine distance, allowed {allowed:g}"
    failure = f"{what} {apart}: what would be shipped is not what was trained"
    return Check(name, largest is not None and largest <= allowed, failure, numbers)


def check_changed_vectors(base: Any, model: Any) -> Check:
    """Check that training moved at least one vector."""
    import numpy as np

    largest = float(np.abs(base - model).max()) if base.shape == model.shape else float("inf")
    failure = f"every vector equals the base model's (largest difference {largest:.3g}): training had no effect"
    # NaN is check_finite's to report
    return Check("changed-vectors", not largest <= COMPUTE_DISTANCE, failure, {"max_difference": as_number(largest)})


def check_unit_length(vectors: Any) -> Check:
    """Check that the packaged model gives vectors of length 1."""
    import numpy as np

    furthest = float(np.abs(np.linalg.norm(vectors, axis=1) - 1).max())
    failure = f"vectors are not of length 1 (up to {furthest:.3g} off): dot products would not be cosines"
    return Check("unit-length", not furthest > NORM_TOLERANCE, failure, {"furthest": as_number(furthest)})


def check_distinct_vectors(vectors: Any) -> Check:
    """Check that different texts get different vectors."""
    spread = float(measure_distances(vectors, vectors[:1]).max())
    failure = f"all {len(vectors)} probes get the same vector (within {spread:.3g}): the model tells no texts apart"
    return Check("not-constant", not spread <= CONSTANT_DISTANCE, failure, {"max_distance": as_number(spread)})


def check_test_prompt(vector: Any, base: Any) -> Check:
    """Check that the user's own text gets a finite vector that is not the base model's."""
    import numpy as np

    difference = float(np.abs(vector - base).max()) if vector.shape == base.shape else math.inf  # another width
    failure = "the test prompt's vector is NaN or infinite: the model is broken"
    finite = bool(np.isfinite(vector).all())
    if finite:
        failure = (
            f"the test prompt gets the base model's vector (difference {difference:.3g}): training had no effect on it"
        )
    passed = finite and difference > COMPUTE_DISTANCE
    return Check("test-prompt", passed, failure, {"difference": as_number(difference)})


def report(subject: Subject, seen: Seen) -> dict[str, Any]:
    """Return the cosine distance of the packaged vector to every other one, probe by probe, and the test prompt's."""
    every = range(len(subject.probes))
    columns: dict[str, dict[int, float]] = {}
    for name, places, vectors in (
        ("base", every, seen.base),
        ("model", every, seen.model),
        ("transformers", every, seen.batched),
        ("trained", every, seen.trained),
        (subject.spec.tool or "", subject.whole, seen.tool),
        ("adapter", subject.whole, seen.adapter),
    ):
        if vectors is not None:
            distances = measure_distances(seen.packaged[list(places)], vectors).tolist()
            columns[name] = dict(zip(places, distances, strict=True))
    found: dict[str, Any] = {"dims": int(seen.packaged.shape[1])}
    found["probes"] = [
        {
            "origin": probe.origin,
            "kind": probe.kind,
            "text": probe.text[:80],
            "cut": index not in subject.whole,
            "distances": {
                name: as_number(values[index]) if index in values else None for name, values in columns.items()
            },
        }
        for index, probe in enumerate(subject.probes)
    ]
    test = find_test_prompt(subject)
    return found if test is None else {**found, "test_prompt": describe_neighbours(seen.packaged, subject.probes, test)}


def describe_neighbours(vectors: Any, probes: Sequence[TextProbe], index: int) -> dict[str, Any]:
    """Return the text, its vector, and the probes whose vectors are nearest to it."""
    import numpy as np

    with np.errstate(invalid="ignore", divide="ignore"):
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit[index]
    nearest = [other for other in np.argsort(-cosines, kind="stable").tolist() if other != index][:NEAREST]
    return {
        "text": probes[index].text,
        "vector": [as_number(value) for value in vectors[index].tolist()],
        "nearest": [{"text": probes[i].text[:200], "cosine": as_number(float(cosines[i]))} for i in nearest],
    }


def to_unit(vector: list[float]) -> list[float]:
    """Return a vector in length 1."""
    length = math.hypot(*vector) or 1.0
    return [number / length for number in vector]


def describe(subject: Subject, seen: Seen, report: Mapping[str, Any]) -> Described:
    """Return the card, and what scoring.json says: length, pooling, prompts, example vectors and known texts."""
    spec, distances = subject.spec, {check["name"]: check.get("max_distance") for check in report["checks"]}
    prompts = {"query": spec.query_prompt, "document": spec.document_prompt}
    places = {(probe.kind, probe.text): index for index, probe in enumerate(subject.probes)}
    known = [
        {"text": text, "kind": kind, "vector": seen.packaged[places[kind, text]].tolist()} for kind, text in KNOWN_TEXTS
    ]
    vectors = [to_unit(row["vector"]) for row in known[:3]]
    examples = {
        "texts": [{**row, "vector": row["vector"][:SHOWN_NUMBERS]} for row in known[:3]],
        "cosines": [[sum(a * b for a, b in zip(one, other, strict=True)) for other in vectors] for one in vectors],
    }
    facts = {
        "spec": spec,
        "dims": report["dims"],
        "distance": max(distances.get(name) or 0 for name in ("sentence-transformers", "transformers", "trained")),
        "plain": seen.batched is not None,
        "layers": [module.kind for module in read_modules(subject.folder)].count("Dense"),
        "query": EXAMPLES[0][0],
        "documents": [EXAMPLES[0][1], EXAMPLES[1][1]],
    }
    scoring = {
        "version": 1,
        "max_length": spec.max_length,
        "pooling": spec.pooling,
        "normalize": spec.normalize,
        "dims": report["dims"],
        "mrl_dims": list(spec.mrl_dims),
        "prompts": prompts,
        **({"prompts_written_by": PROMPTS_WRITTEN_BY} if any(prompts.values()) else {}),
        **({"query_suffix": spec.query_suffix} if spec.query_suffix else {}),
        "examples_dtype": report["compute_dtype"],
        "examples": examples,
        "probes": known,
    }
    return Described("embedding", facts, scoring)
