"""Files that make sentence-transformers load a folder, and what the folder gives there with nothing else said.

The files are written as sentence-transformers' own `save_pretrained` writes them, without loading and saving the
weights once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from orchestrator.workers.engines.transformers import release
from orchestrator.workers.environment import read_versions, weight_options
from orchestrator.workers.folders import read_json, write_json

BATCH_SIZE = 4
TRANSFORMER = "sentence_transformers.base.modules.transformer.Transformer"
LOGIT_SCORE = "sentence_transformers.cross_encoder.modules.logit_score.LogitScore"
LOGIT_SCORE_FOLDER = "1_LogitScore"
# without it CrossEncoder.predict puts a sigmoid over a single label
IDENTITY = "torch.nn.modules.linear.Identity"
LOGITS = {"method": "forward", "method_output_name": "logits"}
# said and not inferred: a vision-language template would make it read lists of parts
CHAT = {"text": LOGITS, "message": {**LOGITS, "format": "flat"}}


def write_words_files(folder: Path, true_token_id: int, false_token_id: int | None = None) -> None:
    """Make the folder a causal language model whose score is one token's logit at the last position.

    With a false token the score is how far the true token's logit is above that one's.
    """
    write_transformer(folder, "text-generation", CHAT, "causal_logits")
    tokens = {"true_token_id": true_token_id, "false_token_id": false_token_id}
    write_json(folder / LOGIT_SCORE_FOLDER / "config.json", {**tokens, "module_input_name": "causal_logits"})
    write_modules(folder, [("", TRANSFORMER), (LOGIT_SCORE_FOLDER, LOGIT_SCORE)])


def write_head_files(folder: Path, pad_token_id: int | None) -> None:
    """Make the folder a decoder with a head, whose score is its one logit at the last token of the chat template."""
    write_transformer(folder, "sequence-classification", CHAT, "scores")
    write_modules(folder, [("", TRANSFORMER)])
    config = read_json(folder / "config.json")
    if config.get("pad_token_id") is None:  # without it no batch of several pairs can be scored
        write_json(folder / "config.json", {**config, "pad_token_id": pad_token_id})


def write_encoder_files(folder: Path) -> None:
    """Make the folder a sequence classifier whose score is its one logit."""
    write_transformer(folder, "sequence-classification", {"text": LOGITS}, "scores")
    write_modules(folder, [("", TRANSFORMER)])
    # before sentence-transformers 6 the activation was read from here
    own = {"activation_fn": IDENTITY, "version": read_versions().get("sentence-transformers")}
    write_json(folder / "config.json", {**read_json(folder / "config.json"), "sentence_transformers": own})


def write_transformer(folder: Path, task: str, modality: dict[str, Any], output: str) -> None:
    """Write how the module over the language model is called."""
    settings = {"transformer_task": task, "modality_config": modality, "module_output_name": output}
    write_json(folder / "sentence_bert_config.json", settings)


def write_modules(folder: Path, modules: list[tuple[str, str]], **settings: Any) -> None:
    """Write the list of modules (path, class) and the settings of the model: a CrossEncoder's, or those given."""
    listed = [
        {"idx": index, "name": str(index), "path": path, "type": kind} for index, (path, kind) in enumerate(modules)
    ]
    write_json(folder / "modules.json", listed)
    versions = read_versions()
    names = {"pytorch": "torch", "sentence_transformers": "sentence-transformers", "transformers": "transformers"}
    settings = settings or {"activation_fn": IDENTITY, "model_type": "CrossEncoder", "prompts": {}}
    write_json(
        folder / "config_sentence_transformers.json",
        {
            "__version__": {name: versions.get(package) for name, package in names.items()},
            "default_prompt_name": None,
            **settings,
        },
    )


def predict(folder: Path, pairs: Sequence[tuple[str, str]], device: str, *, trust_remote_code: bool) -> list[float]:
    """Return the scores of the pairs in `CrossEncoder(folder).predict`, nothing else given but float32."""
    from sentence_transformers import CrossEncoder

    encoder = CrossEncoder(
        str(folder),
        device=device,
        trust_remote_code=trust_remote_code,
        model_kwargs={"torch_dtype": "float32", **weight_options()},
        local_files_only=True,
    )
    scores = [float(value) for value in encoder.predict(list(pairs), batch_size=BATCH_SIZE, show_progress_bar=False)]
    del encoder
    release()
    return scores
