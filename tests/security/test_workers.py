"""Workers load safetensors and nothing else, unless pickles are allowed; read from their source, so that none is forgotten."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from orchestrator.workers.environment import ALLOW_PICKLE, weight_options

WORKERS = Path(__file__).resolve().parents[2] / "orchestrator" / "workers"
NO_WEIGHTS = {"AutoTokenizer", "AutoConfig", "AutoProcessor", "PeftConfig", "PreTrainedTokenizerFast"}
ADAPTERS = {
    "PeftModel"
}  # peft reads pickled adapters by torch's unpickler of weights only (peft/utils/save_and_load.py)

GIVEN = {"weights", "arguments"}
LOADERS = {"CrossEncoder", "SentenceTransformer", "Transformer", "getattr(sentence_transformers, kind)"}


def calls() -> Iterator[tuple[str, ast.Call]]:
    for path in sorted(WORKERS.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                yield f"{path.relative_to(WORKERS)}:{node.lineno}", node


def test_every_model_is_loaded_with_the_options_for_weights():
    seen, missing = 0, []
    for place, call in calls():
        name = ast.unparse(call.func).removeprefix("transformers.")
        if call.args and ast.unparse(call.args[0]) == "None":  # names and shapes are compared, and nothing is read
            continue
        if not name.endswith(".from_pretrained") or name.split(".")[0] in NO_WEIGHTS | ADAPTERS:
            continue
        seen += 1
        missing += [place] * ("weight_options()" not in ast.unparse(call))
    assert seen >= 2
    assert missing == []


def test_every_model_of_sentence_transformers_is_loaded_with_the_options_for_weights():
    seen, missing = 0, []
    for place, call in calls():
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        if ast.unparse(call.func) not in LOADERS or "modules" in given:
            continue
        seen += 1
        # `weights` and `arguments` hold what weight_options gave
        text = ast.unparse(given["model_kwargs"] if "model_kwargs" in given else given[None])
        missing += [place] * (text not in GIVEN and "weight_options()" not in text)
    assert seen >= 5
    assert missing == []


def test_no_worker_unpickles_by_itself():
    for place, call in calls():
        name = ast.unparse(call.func)
        assert not name.startswith(("pickle.", "joblib.", "dill.")), place
        if name == "torch.load":
            assert any(
                keyword.arg == "weights_only" and ast.unparse(keyword.value) == "True" for keyword in call.keywords
            ), place


def test_pickles_are_refused_unless_the_environment_of_the_command_allows_them(monkeypatch):
    monkeypatch.delenv(ALLOW_PICKLE, raising=False)
    assert weight_options() == {"use_safetensors": True}
    monkeypatch.setenv(ALLOW_PICKLE, "1")
    assert weight_options() == {}
