"""Embedding models: the folder around their weights, and their vectors by every way that users load them.

Everything is held against plain transformers, one text at a time: padded batches of it, `SentenceTransformer` over the
packaged folder in batches and one by one, and the tool that trained the model (ms-swift, FlagEmbedding). swift cuts a
long text at its end, end token and all, while sentence-transformers keeps the end token, so texts longer than
`max_length` are not given to a tool.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchestrator.workers import verification_checks as verify
from orchestrator.workers.embedding import folder as packaging
from orchestrator.workers.embedding.model import keep_suffix, load_encoder, normalize
from orchestrator.workers.engines import flagembedding, swift, transformers
from orchestrator.workers.engines.sentence_transformers import open_model
from orchestrator.workers.eval_files import EXAMPLES, TextProbe, build_text_probes
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.folders import read_json, update_settings
from orchestrator.workers.kinds import Described, Request
from orchestrator.workers.merge import attach_adapter
from orchestrator.workers.specs import EmbeddingSpec, parse_embedding_spec
from orchestrator.workers.verification_checks import Check, as_number
from orchestrator.workers.weights import WeightScan, find_folder, hash_parameters

# of servers' endpoints, seen with vLLM 0.32: the first takes an input_type too, and ignores it without a word
PROMPTS_WRITTEN_BY = {"/v1/embeddings": "client", "/v2/embed": "server, by input_type query or document"}
FLAG, SWIFT = "flagembedding", "swift"
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
    base = find_folder(request.base)  # swift would ask another hub than the one it came from
    if base is None:
        raise WorkerError(
            f"{request.base} is neither a folder nor in the Hugging Face cache of this machine: give the folder that "
            "training started from"
        )
    given = (request.model, request.adapter) if spec.saves_modules else ()
    saved = next((one for one in given if one and (one / "modules.json").is_file()), None)
    spec = packaging.settle(spec, request.base, base, read_json(folder / "config.json"), saved)
    trust = spec.trust_remote_code
    trained = transformers.load_tokenizer(request.find_tokenizer(), trust_remote_code=trust)
    update_settings(folder, model_max_length=spec.max_length)
    if spec.pooling == "lasttoken":
        if saved is None and spec.end_token:  # else the tokenizer is the one of the training
            packaging.append_end_token(folder, trust_remote_code=trust)
        update_settings(folder, padding_side="left")
    # no text was ever wrapped as a chat, and a server that finds a chat template may do it
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    packaging.write_modules(folder, spec, saved)
    for name in flagembedding.HEADS if spec.colbert_dim is not None else ():
        if not (request.model / name).is_file():
            raise WorkerError(f"{request.model} holds no {name}: the training did not save bge-m3's heads")
        shutil.copyfile(request.model / name, folder / name)
    packaged = transformers.load_tokenizer(folder, trust_remote_code=trust)
    probes = build_text_probes(request.probes, request.corpus, trained, spec.max_length, request.test_prompt)
    lengths = [len(packaged(spec.wrap(one.kind, one.text), truncation=False)["input_ids"]) for one in probes]
    whole = [index for index, length in enumerate(lengths) if length <= spec.max_length]
    return Subject(request, spec, folder, str(base), trained, packaged, probes, whole, saved)


@dataclass(frozen=True)
class Seen:
    """Float32 vectors [probes, dimensions] by every way, and hashes of the parameters of base and trained model.

    Of the `ways`, `model` and `base` are plain transformers, one text at a time, and `transformers` is `model` in
    padded batches; where plain code cannot follow the modules, the two are theirs in sentence-transformers. `packaged`
    and `reloaded` are the package there; `trained` is what the whole model that was saved gives there, one text at a
    time. The tool that trained, under its name, and the `adapter` on its base are asked of the whole probes only.
    """

    ways: dict[str, Any]
    base_hashes: dict[str, str]
    hashes: dict[str, str]
    missing: tuple[str, ...]
    heads: Sequence[Check]


def observe(subject: Subject) -> Seen:
    """Embed the probes by every way, one model in memory at a time."""
    request, spec = subject.request, subject.spec
    # modules are those of the base where it has its own and the training saved modules; heads are built before swift is
    # imported, which changes classes of transformers
    own = subject.saved is not None and packaging.read_modules(Path(subject.base))
    folders = (Path(subject.base) if own else subject.folder, subject.folder)
    heads = tuple(packaging.build_head(folder, spec, request.device) for folder in folders)
    plain = heads if all(heads) else (None, None)
    base, _, base_hashes, _ = embed_plainly(subject, subject.base, plain[0])
    model, batched, hashes, missing = embed_plainly(subject, subject.folder, plain[1], batches=True)
    ways = {"base": base, "model": model, "transformers": batched}
    ways |= {"packaged": embed_packaged(subject, BATCH_SIZE), "reloaded": embed_packaged(subject, 1)}
    if subject.saved is not None and not missing:
        ways["trained"] = embed_in_library(subject, str(request.model))
    if not all(heads):
        ways |= {"base": embed_in_library(subject, subject.base), "model": ways.get("trained")}
    checks: Sequence[Check] = ()
    if not missing:  # a model with made-up weights is refused without asking anybody else
        if spec.tool:
            ways |= dict(zip((spec.tool, "adapter"), ask_tool(subject), strict=True))
        checks = check_heads(subject) if spec.colbert_dim is not None else ()
    given = {name: vectors for name, vectors in ways.items() if vectors is not None}
    return Seen(given, base_hashes, hashes, missing, checks)


def check_heads(subject: Subject) -> list[Check]:
    """Check that bge-m3's sparse and ColBERT weights of the package are the trained ones, in FlagEmbedding."""
    import numpy as np

    spec, texts = replace(subject.spec, dtype="float32"), [subject.texts[index] for index in subject.whole]
    ours, theirs = (
        flagembedding.embed_by_heads(str(folder), spec, texts, subject.request.device)
        for folder in (subject.folder, subject.request.model)
    )
    differences = {
        "sparse": [
            abs(float(one.get(token, 0)) - float(other.get(token, 0)))
            for one, other in zip(ours["lexical_weights"], theirs["lexical_weights"], strict=True)
            for token in {*one, *other}
        ],
        "colbert": [
            float(np.abs(one - other).max())
            for one, other in zip(ours["colbert_vecs"], theirs["colbert_vecs"], strict=True)
        ],
    }
    checks = []
    for name, found in differences.items():
        largest = as_number(max(found, default=0.0))
        failure = (
            f"the packaged model's {name} weights differ from those of the training in FlagEmbedding by up to "
            f"{largest}, allowed {HEAD_TOLERANCE:g}: what would be shipped is not what was trained"
        )
        numbers = {"max_difference": largest, "allowed": HEAD_TOLERANCE, "compared": len(found)}
        checks.append(Check(name, largest is not None and largest <= HEAD_TOLERANCE, failure, numbers))
    return checks


def ask_tool(subject: Subject) -> tuple[Any, Any]:
    """Return the vectors of the whole probes in the tool that trained, and of the adapter on its base, where asked.

    ms-swift gives both, of the trained model, and FlagEmbedding those of the package; what sentence-transformers gives
    is `trained`. Elsewhere the adapter is asked in plain transformers: what stands behind the transformer is trained
    whole and stands in the package.
    """
    request, spec, texts = subject.request, subject.spec, [subject.texts[index] for index in subject.whole]
    if spec.tool == SWIFT:
        settings = swift.EngineSettings(model_type=spec.model_type, task_type="embedding", template=spec.template)
        in_swift = swift.embed(request.model, settings, texts, request.device)
        if request.adapter is None:
            return in_swift, None
        return in_swift, swift.embed(subject.base, settings, texts, request.device, request.adapter)
    asked = spec.tool == FLAG
    in_tool = flagembedding.embed(str(subject.folder), spec, texts, request.device) if asked else None
    head = packaging.build_head(subject.folder, spec, request.device)
    if request.adapter is None or head is None:
        return in_tool, None
    return in_tool, embed_plainly(subject, subject.base, head, adapter=request.adapter)[0][subject.whole]


def encode_ids(subject: Subject, text: str) -> list[int]:
    """Return the ids of training: the text's own, cut from the right, then the end token when it is what is pooled."""
    tokenizer, spec = subject.trained, subject.spec
    if spec.ends_texts and subject.saved is None:
        ids = tokenizer(text, add_special_tokens=False, truncation=False)["input_ids"]
        return [*ids[: spec.max_length - 1], packaging.require_end_token(tokenizer, "the trained model")]
    return list(tokenizer(text, truncation=True, max_length=spec.max_length, padding=False)["input_ids"])


def embed_plainly(
    subject: Subject,
    model: Path | str,
    head: packaging.Head | None,
    *,
    batches: bool = False,
    adapter: Path | None = None,
) -> tuple[Any, Any, dict[str, str], tuple[str, ...]]:
    """Return AutoModel's vectors of single texts and (if asked) of padded batches, hashes, and the missing weights.

    Without a `head`, which turns hidden states into vectors, there are no vectors. With an adapter on top, if given.
    """
    import torch

    spec, device, texts = subject.spec, subject.request.device, subject.texts
    loaded, missing = transformers.load_float32("AutoModel", model, device, trust_remote_code=spec.trust_remote_code)
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
    return np.stack(found).astype(np.float32)


def embed_packaged(subject: Subject, batch_size: int) -> Any:
    """Return the vectors of `SentenceTransformer(folder)` with its own prompts, nothing else given but float32."""
    import numpy as np

    options: dict[str, Any] = {"trust_remote_code": subject.spec.trust_remote_code, "local_files_only": True}
    encoder = open_model("SentenceTransformer", subject.folder, subject.request.device, **options)
    probes = subject.probes
    vectors: Any = np.empty((len(probes), int(encoder.get_embedding_dimension() or 0)), dtype=np.float32)
    for kind, encode in (("query", encoder.encode_query), ("document", encoder.encode_document)):
        rows = [index for index, probe in enumerate(probes) if probe.kind == kind]
        vectors[rows] = encode([subject.body(row) for row in rows], batch_size=batch_size, show_progress_bar=False)
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
    import numpy as np

    ways, tool, texts = seen.ways, subject.spec.tool or "", subject.texts
    base, model, packaged = (ways[name] for name in ("base", "model", "packaged"))
    named = ("base", "model", "packaged", tool, "adapter")
    other = [
        text
        for text in texts
        if list(subject.packaged(text, truncation=True)["input_ids"]) != encode_ids(subject, text)
    ]
    failure = (
        f"the packaged tokenizer gives other tokens than the training for {len(other)} of {len(texts)} probes, such as "
        f"{other[0][:60] if other else ''!r}: the end token, or the place where long texts are cut, is not that of the "
        "training"
    )
    lengths, apart = np.linalg.norm(packaged, axis=1), measure_distances(packaged, packaged[:1])
    furthest, spread = float(np.abs(lengths - 1).max()), float(apart.max())
    other_length = f"vectors are not of length 1 (up to {furthest:.3g} off): dot products would not be cosines"
    one = f"all {len(packaged)} probes get the same vector (within {spread:.3g}): the model tells no texts apart"
    unit = Check("unit-length", not furthest > NORM_TOLERANCE, other_length, {"furthest": as_number(furthest)})
    trained = "the packaged model's vectors differ from"
    checks = [
        Check("tokens", not other, failure, {"texts": len(texts), "other": len(other)}),
        verify.check_finite({name: ways[name].ravel().tolist() for name in named if name in ways}),
        *([unit] if subject.spec.normalize else []),
        Check("not-constant", not spread <= CONSTANT_DISTANCE, one, {"max_distance": as_number(spread)}),
        verify.check_changed_weights(seen.base_hashes, seen.hashes),
        check_changed_vectors(base, model),
    ]
    again = "the packaged model, loaded once more, differs from itself"
    padded = "plain transformers' vectors of padded batches differ from those of single texts"
    pairs = [
        ("sentence-transformers", f"{trained} the trained model's", packaged, model),
        ("reloaded", again, ways["reloaded"], packaged),
        ("transformers", padded, ways.get("transformers"), model),
        ("trained", f"{trained} those of the trained folder in sentence-transformers", packaged, ways.get("trained")),
        (tool, f"{trained} those of the trained model in {tool}", packaged[subject.whole], ways.get(tool)),
    ]
    checks += [check_same_vectors(*pair) for pair in pairs if pair[2] is not None and pair[3] is not None]
    checks += seen.heads
    if (adapter := ways.get("adapter")) is not None:
        library = SWIFT if tool == SWIFT else "plain transformers"
        what = f"the merged model's vectors differ from those of the adapter on its base in {library}"
        allowed = verify.merge_tolerance(scan.dtypes, MERGE_DISTANCE)
        merged = ways.get(tool, model[subject.whole])
        checks.append(check_same_vectors("merged", what, merged, adapter, allowed))
        three = (base[subject.whole], adapter, merged)
        checks.append(verify.check_merge_keeps_training(*(part.ravel().tolist() for part in three)))
    test = find_test_prompt(subject)
    return checks if test is None else [*checks, check_test_prompt(packaged[test], base[test])]


def find_test_prompt(subject: Subject) -> int | None:
    """Return the place of the user's own text."""
    return next((index for index, probe in enumerate(subject.probes) if probe.origin == "test-prompt"), None)


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
    packaged, tool = seen.ways["packaged"], subject.spec.tool
    columns: dict[str, dict[int, float]] = {}
    for name, vectors in seen.ways.items():
        if name not in {"packaged", "reloaded"}:
            places = subject.whole if name in {tool, "adapter"} else range(len(subject.probes))
            columns[name] = dict(zip(places, measure_distances(packaged[list(places)], vectors).tolist(), strict=True))
    found: dict[str, Any] = {"dims": int(packaged.shape[1])}
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
    return found if test is None else {**found, "test_prompt": describe_neighbours(packaged, subject.probes, test)}


def describe_neighbours(vectors: Any, probes: Sequence[TextProbe], index: int) -> dict[str, Any]:
    """Return the text, its vector, and the probes whose vectors are nearest to it."""
    import numpy as np

    unit = normalize(vectors)
    cosines = unit @ unit[index]
    nearest = [other for other in np.argsort(-cosines, kind="stable").tolist() if other != index][:NEAREST]
    return {
        "text": probes[index].text,
        "vector": [as_number(value) for value in vectors[index].tolist()],
        "nearest": [{"text": probes[i].text[:200], "cosine": as_number(float(cosines[i]))} for i in nearest],
    }


def describe(subject: Subject, seen: Seen, report: Mapping[str, Any]) -> Described:
    """Return the card, and what scoring.json says: length, pooling, prompts, example vectors and known texts."""
    spec, distances = subject.spec, {check["name"]: check.get("max_distance") for check in report["checks"]}
    prompts = {"query": spec.query_prompt, "document": spec.document_prompt}
    places = {(probe.kind, probe.text): index for index, probe in enumerate(subject.probes)}
    known = [
        {"text": text, "kind": kind, "vector": seen.ways["packaged"][places[kind, text]].tolist()}
        for kind, text in KNOWN_TEXTS
    ]
    unit = normalize([row["vector"] for row in known[:3]])
    examples = {
        "texts": [{**row, "vector": row["vector"][:SHOWN_NUMBERS]} for row in known[:3]],
        "cosines": (unit @ unit.T).tolist(),
    }
    facts = {
        "spec": spec,
        "dims": report["dims"],
        "distance": max(distances.get(name) or 0 for name in ("sentence-transformers", "transformers", "trained")),
        "plain": "transformers" in seen.ways,
        "layers": [module.kind for module in packaging.read_modules(subject.folder)].count("Dense"),
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
