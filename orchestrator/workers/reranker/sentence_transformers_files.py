"""The configuration files that make sentence-transformers load a folder as a CrossEncoder that gives raw scores.

Written as `CrossEncoder.save_pretrained` of 6.2 writes them, without loading and saving the weights once more.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from orchestrator.workers.folders import write_json
from orchestrator.workers.tokenizer_files import read_json
from orchestrator.workers.versions import read_versions

TRANSFORMER = "sentence_transformers.base.modules.transformer.Transformer"
LOGIT_SCORE = "sentence_transformers.cross_encoder.modules.logit_score.LogitScore"
LOGIT_SCORE_FOLDER = "1_LogitScore"
# without it CrossEncoder.predict puts a sigmoid over a single label
IDENTITY = "torch.nn.modules.linear.Identity"


def write_decoder_files(folder: Path, true_token_id: int, false_token_id: int | None = None) -> None:
    """Make the folder a causal language model whose score is one token's logit at the last position.

    With a false token the score is how far the true token's logit is above that one's.
    """
    logits = {"method": "forward", "method_output_name": "logits"}
    write_json(
        folder / "sentence_bert_config.json",
        {
            "transformer_task": "text-generation",
            "modality_config": {"text": logits, "message": {**logits, "format": "flat"}},
            "module_output_name": "causal_logits",
        },
    )
    write_json(
        folder / LOGIT_SCORE_FOLDER / "config.json",
        {"true_token_id": true_token_id, "false_token_id": false_token_id, "module_input_name": "causal_logits"},
    )
    write_modules(folder, [("", TRANSFORMER), (LOGIT_SCORE_FOLDER, LOGIT_SCORE)])


def write_score_head_files(folder: Path, pad_token_id: int | None) -> None:
    """Make the folder a decoder with a head, whose score is its one logit at the last token of the chat template."""
    logits = {"method": "forward", "method_output_name": "logits"}
    write_json(
        folder / "sentence_bert_config.json",
        {
            "transformer_task": "sequence-classification",
            "modality_config": {"text": logits, "message": {**logits, "format": "flat"}},
            "module_output_name": "scores",
        },
    )
    write_modules(folder, [("", TRANSFORMER)])
    config = read_json(folder / "config.json")
    if config.get("pad_token_id") is None:  # without it no batch of several pairs can be scored
        write_json(folder / "config.json", {**config, "pad_token_id": pad_token_id})


def write_encoder_files(folder: Path) -> None:
    """Make the folder a sequence classifier whose score is its one logit."""
    write_json(
        folder / "sentence_bert_config.json",
        {
            "transformer_task": "sequence-classification",
            "modality_config": {"text": {"method": "forward", "method_output_name": "logits"}},
            "module_output_name": "scores",
        },
    )
    write_modules(folder, [("", TRANSFORMER)])
    # before sentence-transformers 6 the activation was read from here
    config = read_json(folder / "config.json")
    version = read_versions().get("sentence-transformers")
    write_json(
        folder / "config.json", {**config, "sentence_transformers": {"activation_fn": IDENTITY, "version": version}}
    )


def write_modules(folder: Path, modules: list[tuple[str, str]]) -> None:
    """Write the list of modules and the model's own settings."""
    listed: list[dict[str, Any]] = [
        {"idx": index, "name": str(index), "path": path, "type": kind} for index, (path, kind) in enumerate(modules)
    ]
    write_json(folder / "modules.json", listed)
    versions = read_versions()
    write_json(
        folder / "config_sentence_transformers.json",
        {
            "__version__": {
                "pytorch": versions.get("torch"),
                "sentence_transformers": versions.get("sentence-transformers"),
                "transformers": versions.get("transformers"),
            },
            "activation_fn": IDENTITY,
            "default_prompt_name": None,
            "model_type": "CrossEncoder",
            "prompts": {},
        },
    )
