"""What a recipe may say: frozen pydantic models, and the JSON Schema that editors use."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class ModelRef(_Part):
    """The base model: a hub id or folder (`path`), or a model that a Python package carries (`package`)."""

    path: str | None = Field(None, min_length=1, description="a hub id such as Qwen/Qwen3-Reranker-0.6B, or a folder")
    package: str | None = Field(None, min_length=1, description="an installed Python package that carries the model")
    family: Literal["decoder", "encoder"] | None = Field(
        None, description="decoder (LLM) or encoder (BERT-like); found from the model's config or name when left out"
    )
    native: Literal["qwen3-native", "cross-encoder", "bi-encoder"] | None = Field(
        None, description="how its authors score with it; found from the model's config or name when left out"
    )
    trust_remote_code: bool = Field(False, description="run Python code that the model folder brings along")

    @model_validator(mode="after")
    def _one_source(self) -> ModelRef:
        if (self.path is None) == (self.package is None):
            raise ValueError("give the model by path or by package, one of the two")
        return self

    @property
    def name(self) -> str:
        """What people call this model."""
        return self.path or self.package or ""


class Data(_Part):
    """Training and evaluation files, and what may be dropped from them."""

    train: tuple[str, ...] = Field(min_length=1, description="JSONL or JSON files, relative to the recipe")
    eval: tuple[str, ...] | None = Field(None, min_length=1, description="files to measure on, never trained on")
    eval_ratio: float | None = Field(
        None, gt=0, lt=1, description="instead of eval: this share of the queries is held out"
    )
    max_dropped: int = Field(0, ge=0, description="bad rows that may be dropped (and counted) before the run ends")
    seed: int = Field(42, description="decides the split and the order of candidates")

    @model_validator(mode="before")
    @classmethod
    def _lists(cls, value: Any) -> Any:
        if isinstance(value, dict):
            value = {
                key: [item] if key in {"train", "eval"} and isinstance(item, str) else item
                for key, item in value.items()
            }
        return value

    @model_validator(mode="after")
    def _one_eval(self) -> Data:
        if (self.eval is None) == (self.eval_ratio is None):
            raise ValueError("say what to measure on: eval (files) or eval_ratio (a share of train), one of the two")
        return self


class Evaluate(_Part):
    """How models are measured."""

    metrics: tuple[str, ...] = Field(
        ("ndcg@10", "mrr@10", "map", "hit@1"), min_length=1, description="the first is the headline"
    )
    baselines: tuple[Literal["native", "trained-format"], ...] = Field(
        ("native", "trained-format"),
        description="native: as the base model's authors use it; trained-format: as this recipe trains it; the first "
        "is the yardstick",
    )
    instruction: str | None = Field(
        None, description="task sentence for base models that take one (Qwen3-Reranker's native prompt)"
    )
    batch_size: int | None = Field(None, ge=1, description="pairs scored at once (8 for an LLM, 32 for an encoder)")
    seed: int = Field(42, description="decides bootstrap resamples and permutations")


class Launch(_Part):
    """Where and how the backend's processes run."""

    nproc_per_node: int | Literal["auto"] = Field("auto", description="processes; auto: one a GPU, one on a CPU")
    env: dict[str, str] = Field(default_factory=dict, description="environment of every stage; no secrets")
    python: str | None = Field(None, description="the backend's own Python, when it is not Orch's")
    timeout_s: float | None = Field(None, gt=0, description="time limit of each stage, in seconds")
    stop_patience_s: float = Field(15.0, ge=0, description="seconds that a stage has to end after INT")

    @model_validator(mode="after")
    def _positive(self) -> Launch:
        if isinstance(self.nproc_per_node, int) and self.nproc_per_node < 1:
            raise ValueError("nproc_per_node is at least 1")
        return self


class Recipe(_Part):
    """One fine-tuning job, from data to verdict."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="names the run folder")
    task: Literal["reranker"] = Field(description="what the model will do")
    backend: Literal["flagembedding"] = Field(description="the tool that trains")
    model: ModelRef = Field(description="the base model")
    data: Data
    train: dict[str, Any] = Field(default_factory=dict, description="the backend's own arguments, under its own names")
    deepspeed: str | None = Field(None, description="stage0, or a DeepSpeed JSON file relative to the recipe")
    merge: bool = Field(True, description="merge LoRA weights into the base model")
    evaluate: Evaluate = Evaluate()
    gate: dict[str, str] = Field(default_factory=dict, description='what must hold, such as {ndcg@10: "> baseline"}')
    launch: Launch = Launch()

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("model"), str):
            value = {**value, "model": {"path": value["model"]}}
        return value


def build_json_schema(train_arguments: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the recipe's JSON Schema (draft 2020-12).

    `train_arguments` maps each argument that a backend accepts under `train:` to its own schema; others are errors.
    """
    schema = Recipe.model_json_schema()
    properties, definitions = schema["properties"], schema["$defs"]
    properties["model"] = {
        "description": properties["model"]["description"],
        "anyOf": [{"type": "string", "minLength": 1}, {"$ref": "#/$defs/ModelRef"}],
    }
    for side in ("train", "eval"):
        field = definitions["Data"]["properties"][side]
        definitions["Data"]["properties"][side] = {
            "description": field["description"],
            "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}],
        }
    properties["train"] |= {"properties": train_arguments, "additionalProperties": False}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Orch recipe", **schema}
