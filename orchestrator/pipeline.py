"""A job → its plan: which stages, in which order, with which files. Pure."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from orchestrator.backends import BACKENDS
from orchestrator.backends.protocol import eval_kind
from orchestrator.data.reading.hub_ids import parse_hub_id
from orchestrator.measuring import build_measured
from orchestrator.plan import Command, File, Note, Plan, Stage
from orchestrator.render import render_command
from orchestrator.rundir import RunDir

if TYPE_CHECKING:
    from orchestrator.backends.protocol import Backend, Job, SmokeScale, Training
    from orchestrator.measuring import System

_TINY_MODELS = {"embedding": ("embedding", "qwen3"), "sft": ("chat", "qwen3")}


@dataclass
class _Stages:
    """Collects stages and numbers them as they come."""

    timeout_s: float | None
    items: list[Stage]

    def next_name(self, kind: str, after: int = 0) -> str:
        """Return the folder name of the stage of that kind that is added once `after` others have been."""
        return f"{len(self.items) + after + 1:02d}-{kind}"

    def add(self, kind: str, title: str, command: Command, **fields: Any) -> Stage:
        name = self.next_name(kind)
        stage = Stage(name=name, kind=kind, title=title, command=command, timeout_s=self.timeout_s, **fields)
        self.items.append(stage)
        return stage


def shrink_job(job: Job) -> tuple[Job, SmokeScale]:
    """Return the smoke version of a job: same recipe, stages and templates, on a tiny model with few rows and steps."""
    scale = BACKENDS[job.recipe.backend].smoke_scale(job)
    train = {name: value for name, value in job.recipe.train.items() if name not in scale.leave_out}
    recipe = job.recipe.model_copy(update={**scale.recipe, "train": train | scale.train, "gate": {}})
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
        files = {
            side: [self._find_data(name) for name in getattr(recipe.data, side) or ()] for side in ("train", "eval")
        }
        model = job.model.location
        if job.smoke:
            model = self._output("tiny-model", after=1)
        # The train stage's arguments name its folder, before the stages in front of it are added.
        baselines = len(build_measured(job, self._training(model, output="")).baselines)
        output = self._output("train", after=1 + int(job.smoke) + baselines)
        training = self._training(model, output)
        measured = build_measured(job, training)
        self.notes += measured.notes

        self._prepare(training, files)
        if job.smoke:
            self._tiny_model()
        for system in measured.baselines:
            self._score(f"baseline-{system.name}", system.title, model, self._scoring_file(system))
        self._train(training, model)
        weights, adapter = training.weights, None
        if training.lora and recipe.merge:
            adapter, weights = weights, self._merge(model, weights)
        if not training.lora or recipe.merge:
            self._package(weights, model, adapter, self._scoring_file(measured.packaged))
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

    def _training(self, model: str, output: str) -> Training:
        return self.backend.build_training(self.job, model=model, data=str(self.run.data), output=output)

    def _output(self, kind: str, after: int = 0) -> str:
        """Return the output folder of a stage that is added after so many others."""
        return str(self.run.stage(self.stages.next_name(kind, after)).output)

    @property
    def _corpus(self) -> str | None:
        """The documents of the evaluation set, where a query is searched in all of them."""
        return str(self.run.corpus_jsonl) if eval_kind(self.job) == "retrieval" else None

    def _find_data(self, name: str) -> str:
        """Return a data file's path; what is no file is a data set of a hub, which a stage of its own fetches."""
        path = (self.job.recipe_folder / name).expanduser()
        hub_id = None if path.is_file() else parse_hub_id(name)
        if hub_id is None:
            return str(path.resolve())
        out = f"{self._output('fetch')}/rows.jsonl"
        command = render_command(
            "orch/fetch.j2",
            env={"PYTHONUNBUFFERED": "1"} | self.job.recipe.launch.env,  # not offline, as a model on this machine is
            cwd=str(self.run.root),
            python=self.job.backend_python,
            workers=self.job.workers,
            id=hub_id.id,
            config=hub_id.config,
            split=hub_id.split or "train",
            out=out,
        )
        self.stages.add("fetch", f"Fetch {hub_id}", command, outputs=(out,))
        return out

    def _prepare(self, training: Training, files: dict[str, list[str]]) -> None:
        data, job = self.job.recipe.data, self.job
        flags: dict[str, Any] = dict(training.prepare)
        if job.model.has_tokenizer_json and not job.smoke:
            flags["tokenizer"] = str(job.model.folder)
        flags["full-batch"] = training.full_batch_rows
        if self._corpus:
            flags["corpus"] = True
        if self.scale:
            flags |= {"limit-train": self.scale.limit_train, "limit-eval": self.scale.limit_eval}
        command = self._orch(
            "orch/prepare.j2",
            data={**files, "eval_ratio": data.eval_ratio, "max_dropped": data.max_dropped, "seed": data.seed},
            kind=job.kind,
            columns=[f"{new}={old}" for new, old in data.columns.items()],
            form=self.backend.data_form(job),
            out=str(self.run.data),
            flags=[{"name": name, "value": value} for name, value in flags.items()],
        )
        names = ["train.jsonl", "eval.jsonl", "ledger.json", "stats.json"]
        names += ["corpus.jsonl"] if self._corpus else []
        names += ["validation.jsonl"] if data.validation_ratio else []
        self.stages.add(
            "prepare",
            "Read, check and split the data",
            command,
            inputs=(*files["train"], *files["eval"]),
            outputs=tuple(f"data/{name}" for name in names),
        )

    def _tiny_model(self) -> None:
        encoder = ("encoder", "bert") if self.job.model.family == "encoder" else ("decoder", "qwen3")
        like, model_type = _TINY_MODELS.get(self.job.recipe.task, encoder)
        output = self._output("tiny-model")
        texts = [self.run.train_jsonl, self.run.eval_jsonl, *([self.run.corpus_jsonl] if self._corpus else [])]
        command = self._worker(
            "orch/tiny_model.j2", like=like, model_type=model_type, texts=[str(path) for path in texts], out=output
        )
        inputs = tuple(f"data/{path.name}" for path in texts)
        self.stages.add("tiny-model", "Build a tiny model of the same architecture", command, inputs=inputs,
                        outputs=(f"{output}/config.json",))  # fmt: skip

    def _scoring_file(self, system: System) -> str:
        path = f"files/scoring.{system.name}.json"
        self.files.append(File(path, json.dumps(system.spec, ensure_ascii=False, indent=2) + "\n"))
        return path

    def _score(self, kind: str, title: str, model: str, scoring: str | None) -> None:
        spec = scoring or "model/scoring.json"
        output = self._output(kind)
        command = self._worker(
            "orch/score.j2",
            model=model,
            scoring=str(self.run.root / spec),
            data=str(self.run.eval_jsonl),
            corpus=self._corpus,
            out=output,
            device="cpu" if self.job.hardware.kind == "cpu" else None,
            cache=f"{self.job.cache_dir}/scores" if scoring and not self.job.smoke else None,
        )
        # A packaged model is known by its scoring.json, which holds its hashes: its README changes with every report.
        known_by = f"{model}/scoring.json" if scoring is None else model
        inputs = ("data/eval.jsonl", *(("data/corpus.jsonl",) if self._corpus else ()))
        inputs += (known_by,) if model.startswith("/") else ()
        outputs = (f"{output}/scores.jsonl", f"{output}/scoring.json")
        files = (scoring,) if scoring else ()
        self.stages.add(kind, title, command, inputs=inputs, outputs=outputs, files=files)

    def _train(self, training: Training, model: str) -> None:
        title = f"Fine-tune with {self.job.recipe.backend}" + (" and LoRA" if training.lora else "")
        data = ["data/train.jsonl", *(["data/validation.jsonl"] if self.job.recipe.data.validation_ratio else [])]
        self.stages.add(
            "train",
            title,
            training.command,
            inputs=(*data, *((model,) if model.startswith("/") else ())),
            outputs=training.outputs,
            files=tuple(file.path for file in training.files),
            resume=training.resume,
            counts_rows=training.counts_rows,
        )

    def _merge(self, base: str, adapter: str) -> str:
        output = self._output("merge")
        command = self.backend.build_merge(self.job, base=base, adapter=adapter, output=output)
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
        report = f"{self._output('package')}/verification.json"
        command = self._worker(
            "orch/package.j2",
            model=weights,
            base=base,
            adapter=adapter,
            scoring=str(self.run.root / scoring),
            probes=str(self.run.eval_jsonl),
            corpus=self._corpus,
            test_prompt=self.job.recipe.evaluate.test_prompt,
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
