"""A job → its plan: which stages, in which order, with which files. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from orchestrator.backends import BACKENDS
from orchestrator.plan import Command, File, Note, Plan, Stage
from orchestrator.render import render_command
from orchestrator.rundir import RunDir

if TYPE_CHECKING:
    from orchestrator.backends.protocol import Backend, Job, SmokeScale, Training

QWEN3_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
_DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
# FlagLLMReranker computes the logits of every position over the whole vocabulary: 5 GB for 8 × 1024 tokens of Qwen3.
_BATCH_SIZES = {"decoder": 8, "encoder": 32}
_QWEN3_PROMPT_TOKENS = 128  # its chat template counts against max_length; FlagEmbedding's prompt comes on top
_BI_ENCODER_TOKENS = 512
_LABELS = {
    "qwen3-native": "base model in Qwen3-Reranker's own prompt",
    "cross-encoder": "base model as the cross-encoder it is",
    "bi-encoder": "base model as the bi-encoder it is (cosine of its embeddings)",
}


@dataclass
class _Stages:
    """Collects stages and numbers them as they come."""

    timeout_s: float | None
    items: list[Stage]

    def add(self, kind: str, title: str, command: Command, **fields: Any) -> Stage:
        name = f"{len(self.items) + 1:02d}-{kind}"
        stage = Stage(name=name, kind=kind, title=title, command=command, timeout_s=self.timeout_s, **fields)
        self.items.append(stage)
        return stage


def shrink_job(job: Job) -> tuple[Job, SmokeScale]:
    """Return the smoke version of a job: same recipe, stages and templates, on a tiny model with few rows and steps."""
    scale = BACKENDS[job.recipe.backend].smoke_scale(job)
    train = {name: value for name, value in job.recipe.train.items() if name not in scale.leave_out}
    recipe = job.recipe.model_copy(update={"train": train | scale.train, "gate": {}})
    return replace(job, recipe=recipe, smoke=True), scale


def build_plan(job: Job) -> Plan:
    """Return the plan of a job. Raises RenderError when a value cannot be rendered."""
    return _Builder(job).plan()


class _Builder:
    """Builds one plan; every path in it is absolute or relative to the run folder."""

    def __init__(self, job: Job) -> None:
        self.scale: SmokeScale | None = None
        if job.smoke:
            job, self.scale = shrink_job(job)
        self.job = job
        self.backend: Backend = BACKENDS[job.recipe.backend]
        self.run = RunDir(job.run_dir)
        self.stages = _Stages(job.recipe.launch.timeout_s, [])
        self.files: list[File] = []
        self.notes: list[Note] = []

    def plan(self) -> Plan:
        """Return the whole plan, stage by stage in the order of the run."""
        job, recipe = self.job, self.job.recipe
        model = job.model.location
        if job.smoke:
            model = str(self.run.stage("02-tiny-model").output)
        train_output = str(self.run.stage(self._train_name()).output)
        training = self.backend.build_training(
            job, model=model, train_file=str(self.run.train_jsonl), output=train_output
        )

        self._prepare(training)
        if job.smoke:
            self._tiny_model()
        trained_format = self._scoring_file(
            "trained-format", training.scoring, "base model in the format of the training"
        )
        for name, scoring, title in self._baselines(training, trained_format):
            self._score(f"baseline-{name}", title, model, scoring)
        self._train(training, model)
        weights, adapter = train_output, None
        if training.lora and recipe.merge:
            adapter, weights = train_output, self._merge(model, train_output)
        if not training.lora or recipe.merge:
            label = "tuned model, packaged, in the format of its training"
            self._package(weights, model, adapter, self._scoring_file("packaged", training.scoring, label))
            self._score("evaluate", "Score the packaged model as its user loads it", str(self.run.model), None)
        self._report()
        return Plan(
            name=recipe.name,
            run_dir=str(job.run_dir),
            task=recipe.task,
            backend=recipe.backend,
            smoke=job.smoke,
            recipe=recipe.model_dump(mode="json"),
            stages=tuple(self.stages.items),
            files=(*self.files, *training.files),
            notes=(*self.notes, *training.notes),
            versions=job.versions,
        )

    def _train_name(self) -> str:
        """Return the train stage's folder name, which its own arguments hold, before the stages in front are built."""
        before = 1 + int(self.job.smoke) + len(self._baseline_names())
        return f"{before + 1:02d}-train"

    def _baseline_names(self) -> list[str]:
        """Return the baselines to score; a model without a native format of its own is scored in the trained one."""
        names: list[str] = []
        for asked in self.job.recipe.evaluate.baselines:
            name = asked if asked == "trained-format" or self._native() else "trained-format"
            if name not in names:
                names.append(name)
        return names

    def _native(self) -> str | None:
        """Return the native scorer, unless it is the same as the training's own format."""
        native = self.job.model.native
        return None if native == "cross-encoder" else native

    def _prepare(self, training: Training) -> None:
        data, job = self.job.recipe.data, self.job
        lengths = [{"name": name, "value": value} for name, value in training.lengths.items()]
        if job.model.has_tokenizer_json and not job.smoke:
            lengths.append({"name": "tokenizer", "value": str(job.model.folder)})
        lengths.append({"name": "full-batch", "value": training.full_batch_rows})
        if self.scale:
            lengths += [
                {"name": "limit-train", "value": self.scale.limit_train},
                {"name": "limit-eval", "value": self.scale.limit_eval},
            ]
        files = {
            side: [str((job.recipe_folder / name).expanduser().resolve()) for name in getattr(data, side) or ()]
            for side in ("train", "eval")
        }
        command = self._orch(
            "orch/prepare.j2",
            data={**files, "eval_ratio": data.eval_ratio, "max_dropped": data.max_dropped, "seed": data.seed},
            form=self.backend.data_form,
            out=str(self.run.data),
            lengths=lengths,
        )
        outputs = tuple(f"data/{name}" for name in ("train.jsonl", "eval.jsonl", "ledger.json", "stats.json"))
        inputs = (*files["train"], *files["eval"])
        self.stages.add("prepare", "Read, check and split the data", command, inputs=inputs, outputs=outputs)

    def _tiny_model(self) -> None:
        stage_output = self.run.stage("02-tiny-model").output
        command = self._worker(
            "orch/tiny_model.j2",
            like=self.job.model.family,
            model_type="qwen3" if self.job.model.family == "decoder" else "bert",
            texts=[str(self.run.train_jsonl), str(self.run.eval_jsonl)],
            out=str(stage_output),
        )
        inputs = ("data/train.jsonl", "data/eval.jsonl")
        self.stages.add("tiny-model", "Build a tiny model of the same architecture", command, inputs=inputs,
                        outputs=(f"{stage_output}/config.json",))  # fmt: skip

    def _scoring_file(self, name: str, scoring: dict[str, Any], label: str) -> str:
        spec = {
            "version": 1,
            "name": name,
            "label": label,
            "dtype": _DTYPES[self.job.hardware.precision],
            "trust_remote_code": self.job.model.trust_remote_code,
            "batch_size": self.job.recipe.evaluate.batch_size or _BATCH_SIZES[self.job.model.family],
            **scoring,
        }
        path = f"files/scoring.{name}.json"
        self.files.append(File(path, json.dumps(spec, ensure_ascii=False, indent=2) + "\n"))
        return path

    def _baselines(self, training: Training, trained_format: str) -> list[tuple[str, str, str]]:
        """Return (name, scoring file, title) of each baseline."""
        native, found = self._native(), []
        if native is None and "native" in self.job.recipe.evaluate.baselines:
            why = "the base model has no way of scoring of its own, or it is the training's"
            self.notes.append(Note("baseline", "native", "trained-format", "orch", why))
        for name in self._baseline_names():
            if name == "native" and native:
                max_length = training.scoring["max_length"]
                spec: dict[str, Any] = {"scorer": native, "max_length": max_length}
                if native == "bi-encoder":  # it reads query and document apart, up to its own length
                    spec["max_length"] = max(max_length, _BI_ENCODER_TOKENS)
                if native == "qwen3-native":
                    spec["max_length"] += _QWEN3_PROMPT_TOKENS
                    spec["instruction"] = self.job.recipe.evaluate.instruction or QWEN3_INSTRUCTION
                path = self._scoring_file("native", spec, _LABELS[native])
                found.append((name, path, f"Score the untouched {_LABELS[native]}"))
            else:
                found.append((name, trained_format, "Score the untouched base model in the format of the training"))
        return found

    def _score(self, kind: str, title: str, model: str, scoring: str | None) -> None:
        spec = scoring or "model/scoring.json"
        output = self.run.stage(f"{len(self.stages.items) + 1:02d}-{kind}").output
        command = self._worker(
            "orch/score.j2",
            model=model,
            scoring=str(self.run.root / spec),
            data=str(self.run.eval_jsonl),
            out=str(output),
            device="cpu" if self.job.hardware.kind == "cpu" else None,
            cache=f"{self.job.cache_dir}/scores" if scoring and not self.job.smoke else None,
        )
        # A packaged model is known by its scoring.json, which holds its hashes: its README changes with every report.
        known_by = f"{model}/scoring.json" if scoring is None else model
        inputs = ("data/eval.jsonl", *((known_by,) if model.startswith("/") else ()))
        outputs = (f"{output}/scores.jsonl", f"{output}/scoring.json")
        files = (scoring,) if scoring else ()
        self.stages.add(kind, title, command, inputs=inputs, outputs=outputs, files=files)

    def _train(self, training: Training, model: str) -> None:
        title = f"Fine-tune with {self.job.recipe.backend}" + (" and LoRA" if training.lora else "")
        self.stages.add(
            "train",
            title,
            training.command,
            inputs=("data/train.jsonl", *((model,) if model.startswith("/") else ())),
            outputs=training.outputs,
            files=tuple(file.path for file in training.files),
            resume=training.resume,
        )

    def _merge(self, base: str, adapter: str) -> str:
        output = str(self.run.stage(f"{len(self.stages.items) + 1:02d}-merge").output)
        trust = self.job.model.trust_remote_code
        command = self._worker("orch/merge.j2", base=base, adapter=adapter, out=output, trust_remote_code=trust)
        inputs = (f"{adapter}/adapter_model.safetensors", f"{adapter}/adapter_config.json")
        self.stages.add(
            "merge",
            "Merge the LoRA weights into the base model",
            command,
            inputs=inputs,
            outputs=(f"{output}/config.json",),
        )
        return output

    def _package(self, weights: str, base: str, adapter: str | None, scoring: str) -> None:
        report = str(self.run.stage(f"{len(self.stages.items) + 1:02d}-package").output / "verification.json")
        command = self._worker(
            "orch/package.j2",
            model=weights,
            base=base,
            adapter=adapter,
            scoring=str(self.run.root / scoring),
            probes=str(self.run.eval_jsonl),
            out=str(self.run.model),
            report=report,
        )
        self.stages.add(
            "package",
            "Make the model describe itself, and verify it",
            command,
            inputs=(weights, "data/eval.jsonl"),
            outputs=("model/config.json", "model/scoring.json", report),
            files=(scoring,),
        )

    def _report(self) -> None:
        command = self._orch("orch/report.j2", run_dir=str(self.run.root))
        inputs = tuple(
            f"{stage.folder}/output/scores.jsonl"
            for stage in self.stages.items
            if stage.kind == "evaluate" or stage.kind.startswith("baseline-")
        )
        outputs = ("metrics.json", "report.json", "report.html")
        # 8: the report is written and the gate is missed
        self.stages.add(
            "report", "Compare, judge and report", command, inputs=inputs, outputs=outputs, done_codes=(0, 8)
        )

    def _orch(self, template: str, **values: Any) -> Command:
        env = {"PYTHONUNBUFFERED": "1"} | self.job.recipe.launch.env
        return render_command(template, env=env, cwd=str(self.run.root), python=self.job.orch_python, **values)

    def _worker(self, template: str, **values: Any) -> Command:
        job, env = self.job, self.job.environment()
        python, workers = job.backend_python, job.workers
        return render_command(template, env=env, cwd=str(self.run.root), python=python, workers=workers, **values)
