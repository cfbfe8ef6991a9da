"""Try a merged model against base and adapter: the same numbers on built-in texts, the same answer to a prompt.

A merged SentenceTransformer gets its modules, prompts and settings, and must give the same vectors by them.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from orchestrator.workers.chat.score import Answer, ChatModel, compare_answers
from orchestrator.workers.engines.sentence_transformers import open_model
from orchestrator.workers.eval_files import AWKWARD, EXAMPLES
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.folders import read_objects
from orchestrator.workers.verification_checks import MERGE_TOLERANCE, compare
from orchestrator.workers.whole_weights import VECTORS as FOR_VECTORS
from orchestrator.workers.whole_weights import require_whole

TEXTS = tuple(f"{query}\n{document}" for query, document in (*EXAMPLES, *AWKWARD[:3]))
# of a vocabulary of 150 000, these many logits tell two models apart as well
MAX_NUMBERS = 512
ANSWER_TOKENS = 32
SHOWN_NUMBERS = 8

MODULES = "modules.json"
_SETTINGS = ("config_sentence_transformers.json", "sentence_*_config.json")

SCORES, VECTORS, LOGITS = "score", "embedding", "generation"


@dataclass(frozen=True)
class Observed:
    """What a model makes of the built-in texts (numbers one after the other) and of the test prompt, if there is one.

    `trial` is the prompt's score (one number), its vector, or nothing beside an `answer`.
    """

    numbers: list[float]
    trial: list[float]
    answer: Answer | None = None
    text: str | None = None
    stop_ids: tuple[int, ...] = ()


def measure(model: Any, tokenizer: Any, kind: str, text: str) -> list[float]:
    """Return a text's score, its last token's vector, or some logits of its last position."""
    import torch

    encoded = tokenizer(text, return_tensors="pt", truncation=True, max_length=512).to(model.device)
    inputs = {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}
    with torch.inference_mode():
        if kind == VECTORS:
            found = model(**inputs, output_hidden_states=True).hidden_states[-1][0, -1]
        elif kind == SCORES:
            found = model(**inputs).logits[0]
        else:
            found = model(**inputs, use_cache=False).logits[0, -1]
            found = found[:: max(1, len(found) // MAX_NUMBERS)]
    return [float(value) for value in found.float()]


def observe(model: Any, tokenizer: Any, kind: str, prompt: str | None) -> Observed:
    """Return what a model makes of the texts and the prompt."""
    numbers = [value for text in TEXTS for value in measure(model, tokenizer, kind, text)]
    if prompt is None:
        return Observed(numbers, [])
    if kind != LOGITS:
        return Observed(numbers, measure(model, tokenizer, kind, prompt))
    chat = ChatModel(model.get_base_model() if hasattr(model, "get_base_model") else model, tokenizer)
    if tokenizer.chat_template:  # then it is a user's message
        asked = [{"role": "user", "content": prompt}]
        prompt = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True, enable_thinking=False)
    ids = tokenizer(prompt, add_special_tokens=not tokenizer.chat_template)["input_ids"]
    answer = chat.answer([list(ids)], ANSWER_TOKENS, top=True)[0]
    text = tokenizer.decode(answer.ids, skip_special_tokens=True)
    return Observed(numbers, [], answer, text, tuple(chat.stop_ids))


def describe_trial(kind: str, observed: Observed) -> Any:
    """Return what the prompt gave, for people to look at."""
    if kind == LOGITS:
        return observed.text
    if kind == SCORES:
        return observed.trial[0]
    norm = sum(value * value for value in observed.trial) ** 0.5
    return {"norm": norm, "first": [value / norm for value in observed.trial[:SHOWN_NUMBERS]] if norm else None}


def compare_merged_numbers(found: list[float], expected: list[float], dtype: str) -> dict[str, Any]:
    """Return whether the numbers agree within what merging in `dtype` rounds away, and how far they are apart."""
    passed, numbers = compare(found, expected, MERGE_TOLERANCE.get(dtype, max(MERGE_TOLERANCE.values())))
    return {"passed": passed, **{key: numbers[key] for key in ("max_difference", "tolerance")}}


def judge(kind: str, adapted: Observed, merged: Observed, dtype: str, prompt: str | None) -> dict[str, Any]:
    """Return the comparison: `passed`, the largest difference and the allowed one, and both models' answers."""
    numbers = compare_merged_numbers(merged.numbers, adapted.numbers, dtype)
    tolerance, passed = numbers["tolerance"] or 0.0, numbers["passed"]
    result: dict[str, Any] = {"kind": kind, "texts": len(TEXTS), **numbers}
    if prompt is None:
        return result
    result["test"] = {
        "prompt": prompt,
        "adapter": describe_trial(kind, adapted),
        "merged": describe_trial(kind, merged),
    }
    if adapted.answer is not None and merged.answer is not None:
        same, facts = compare_answers(adapted.answer, merged.answer, adapted.stop_ids, tolerance)
        result["test"] |= facts
    else:
        same = all(abs(one - two) <= tolerance for one, two in zip(adapted.trial, merged.trial, strict=True))
        result["test"]["same"] = same
    return result | {"passed": passed and same}


def explain(result: dict[str, Any]) -> list[str]:
    """Return one line a thing that differs; none for a merge that passed."""
    if result["passed"]:
        return []
    problems = []
    largest, allowed = result["max_difference"], result["tolerance"]
    if allowed is None:
        problems.append("the merged model gives as many numbers as another vocabulary has: its size was changed")
    elif largest is None or largest > allowed:
        problems.append(
            f"the merged model gives other numbers than base and adapter: up to {largest} apart, allowed {allowed}"
        )
    test = result.get("test")
    if test and not test["same"] and not test.get("tie"):
        problems.append(
            f"the test prompt gives {test['merged']!r} merged, and {test['adapter']!r} from base and adapter"
        )
    return problems


def find_modules(adapter: Path, base: str | None) -> Path | None:
    """Return the folder that says which modules follow the transformer: the adapter's, else the base's, or None."""
    if (adapter / MODULES).is_file():
        return adapter
    if base is None:
        return None
    if Path(base).is_dir():
        return Path(base) if (Path(base) / MODULES).is_file() else None
    from huggingface_hub import snapshot_download

    small = [MODULES, *_SETTINGS, "*/config.json", "[0-9]_*/*.safetensors"]
    try:
        found = Path(snapshot_download(base, allow_patterns=small))
    except Exception:  # noqa: BLE001  no hub, no such model: what loads the base says so
        return None
    return found if (found / MODULES).is_file() else None


def copy_modules(source: Path, target: Path) -> None:
    """Copy modules.json, the folders that it names and the prompts. Raises WorkerError for what is not there."""
    modules = read_objects(source / MODULES, "the list of modules")
    for module in modules:
        named = PurePosixPath(str(module.get("path", "")))
        if named.is_absolute() or ".." in named.parts:
            raise WorkerError(f"{source / MODULES} names {named}, which is outside of its folder")
        if named.parts and (source / named).is_dir():  # Normalize has no files, and hubs keep no empty folders
            shutil.copytree(source / named, target / named, dirs_exist_ok=True)
    shutil.copyfile(source / MODULES, target / MODULES)
    for pattern in _SETTINGS:
        for path in source.glob(pattern):
            shutil.copyfile(path, target / path.name)


def compare_vectors(merged: Path, adapted: Any, dtype: str, *, trust_remote_code: bool) -> dict[str, Any]:
    """Return how the vectors of the merged folder compare with those of base and adapter under the same modules."""
    require_whole(merged, FOR_VECTORS, trust_remote_code=trust_remote_code)
    model = open_model("SentenceTransformer", merged, "cpu", dtype, trust_remote_code=trust_remote_code)
    found = _embed(model)
    model[0].model = adapted.to("cpu").get_base_model()
    return compare_merged_numbers(found, _embed(model), dtype)


def _embed(model: Any) -> list[float]:
    """Return the vectors of the texts as queries and as documents, one number after the other."""
    options = {"show_progress_bar": False, "convert_to_numpy": True}
    vectors = [*model.encode_query(list(TEXTS), **options), *model.encode_document(list(TEXTS), **options)]
    return [float(value) for vector in vectors for value in vector]
