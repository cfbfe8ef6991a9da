"""What a plan's stages will read: steps, sequences and tokens, found by the data pass itself in a folder of its own.

Of large files the first rows of each are read, and all are counted; tokens are those of the model's tokenizer where it
is on this machine, else estimated from the size of the texts. Which it was is said.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from orchestrator.backends import sharing
from orchestrator.backends.protocol import Job, eval_kind
from orchestrator.checks import cost, memory
from orchestrator.checks.data_files import PREPARE, PREPARE_EVAL, are_small
from orchestrator.checks.model_size import ModelSize, find_model_size
from orchestrator.checks.settings import is_on, read_train_values
from orchestrator.errors import OrchError
from orchestrator.machine.json_files import find_object
from orchestrator.recipe.plan import Plan, Stage

if TYPE_CHECKING:
    from orchestrator.data.request import Outputs, Request

FIRST_ROWS = 2000
_NEWEST = 50  # runs that are looked at, by their reports, for what this hardware reached


class Side(msgspec.Struct, frozen=True):
    """One side of the data: rows as the trainer reads them, documents of all queries, mean tokens by what is read.

    `tokens` are stats.json's: query and document, or text, or conversation; `corpus` counts distinct documents.
    """

    rows: float
    queries: float
    documents: float
    tokens: Mapping[str, Any]
    corpus: float = 0.0

    @property
    def paired(self) -> float | None:
        """The mean tokens of a query and a document as one sequence; None where each is read for itself."""
        return self.tokens.get("pair_mean")

    def mean(self, *names: str) -> float:
        """Return the mean tokens of the first of these parts that there is; 0 for none."""
        return next((float(self.tokens[name]["mean"]) for name in names if name in self.tokens), 0.0)

    def count_training(self, texts: float | None) -> tuple[float, float]:
        """Return sequences and tokens of one row, of which the trainer reads `texts` (None: as many as it has)."""
        if self.paired is not None:
            pairs = texts or self.documents / self.rows
            return pairs, pairs * self.paired
        if one := self.mean("text", "conversation"):
            return texts or 1, (texts or 1) * one
        texts = texts or 1 + self.documents / self.rows
        return texts, self.mean("query") + (texts - 1) * self.mean("document")

    def count_scoring(self, *, searched: bool) -> tuple[float, float]:
        """Return sequences and tokens that a scorer reads: pairs, each text, or the queries and the corpus."""
        if self.paired is not None and not searched:
            return self.documents, self.documents * self.paired
        if one := self.mean("text"):
            return 2 * self.rows, 2 * self.rows * one
        if one := self.mean("conversation"):
            return self.rows, self.rows * one
        documents = self.corpus if searched else self.documents
        return self.queries + documents, self.queries * self.mean("query") + documents * self.mean("document")


def read_side(
    stats: Mapping[str, Any], *, lines: int | None = None, scale: float = 1.0, corpus: int = 0
) -> Side | None:
    """Return a side of stats.json, `scale` times as large; None where it has no rows, or no tokens were counted."""
    rows = stats.get("rows")
    if not rows or "tokens" not in stats:
        return None
    documents = stats.get("documents", stats.get("positives", 0) + stats.get("negatives", 0))
    lines = lines or stats.get("lines") or rows
    queries = stats.get("queries", rows)
    return Side(lines * scale, queries * scale, documents * scale, stats["tokens"], corpus * scale)


def find_passes(job: Job, values: Mapping[str, str], model: ModelSize) -> cost.Passes:
    """Return how often the job's training goes through the model; `values` are the train command's arguments."""
    size = memory.find_training_size(job, values, model)
    parts = job.loss.facts.at_once(job.loss) if job.loss else None
    adapter = (size.adapter or 0) if job.backend.trains_lora(job) else None
    return cost.Passes(int(size.checkpointing) + bool(parts), adapter, size.logits in {"scores", "loss"})


def describe_group(job: Job, plan: Plan) -> dict[str, int]:
    """Return how many processes train together, and the rows of one optimizer step of them all."""
    values = read_train_values(plan)
    rows = sharing.count_step_rows(job, values) * int(values.get("gradient_accumulation_steps", 1))
    return {"world_size": job.world_size(), "step_rows": rows}


def plan_cost(job: Job, plan: Plan, gpu: cost.Gpu | None, runs: Path) -> cost.Cost:
    """Return what the plan's stages compute. Raises DataError where the data would be refused."""
    name = job.hardware.names[0] if job.hardware.names else ""
    gpu = gpu or (cost.find_gpu(name) if name else None)
    device, what = name or job.hardware.kind, "share_of_peak" if gpu else "flops_per_s"
    reports = sorted(filter(Path.is_file, runs.glob("*/report.json")), key=lambda path: path.stat().st_mtime)[-_NEWEST:]
    earlier = ((find_object(path) or {}).get("cost") or {} for path in reports)
    reached = [one[what] for one in earlier if one.get("device") == device and isinstance(one.get(what), float)]
    efficiency = cost.expect_efficiency(reached)
    if efficiency is None and gpu:
        efficiency = cost.Efficiency(*cost.PUBLISHED, "published for large trainings; no earlier run here")
    reader = _Reader(job, plan)
    works, gaps = reader.list_works()
    if not efficiency:
        gaps = [*gaps, "hours: no peak rate is known of this hardware, and no earlier run here; name a GPU with --gpu"]
    return cost.Cost(tuple(works), reader.describe(), gpu, efficiency, tuple(gaps))


class _Reader:
    """Reads the data of a plan's stages once, and counts by it."""

    def __init__(self, job: Job, plan: Plan) -> None:
        self.job, self.plan = job, plan
        self.values = read_train_values(plan)
        self.sampled = self.estimated = False
        self.gaps: list[str] = []
        self.model = find_model_size(job.model)
        self.teacher = find_model_size(job.teacher) if job.teacher else None
        for model, size in ((job.model, self.model), (job.teacher, self.teacher)):
            if model and not size:
                self.gaps.append(f"{model.name}: FLOPs, before it is on this machine")

    def describe(self) -> str:
        """Return how rows and tokens were counted."""
        rows = f"by the first {FIRST_ROWS:,} rows of each large file" if self.sampled else "by all rows"
        tokens = "about one token for 4 bytes of text" if self.estimated else "tokens of the model's own tokenizer"
        return f"{rows}, {tokens}, padding left out"

    def list_works(self) -> tuple[list[cost.Work], list[str]]:
        """Return the work of every stage that runs a model, in their order, and what could not be counted."""
        sides: dict[str, Side] = {}
        for stage in self.plan.stages:
            if {PREPARE, PREPARE_EVAL} & {*stage.command.argv}:
                sides |= self._read(stage)
        found = (self._count(stage, sides) for stage in self.plan.stages)
        works = [work for work in found if work]
        if eval_kind(self.job) == "chat":
            self.gaps.append("answers that are generated for the evaluation")
        left = "validation during the training, start-up, loading and saving of models, merge and package"
        return works, [*self.gaps, left]

    def _read(self, stage: Stage) -> dict[str, Side]:
        """Return the sides that a prepare stage will write: train, eval, set-NAME or guard-NAME."""
        from orchestrator.data.prepare import prepare  # the data pass takes as long to import as small files to read
        from orchestrator.data.writers import CORPUS, TRAIN

        request, outputs = self._find_request(stage)
        files = (*request.train_files, *request.eval_files)
        if absent := [path for path in files if not path.is_file()]:
            self.gaps.append(f"{stage.title.lower()}: {absent[0].name} is not here before the run")
            return {}
        first = None if are_small(files) else FIRST_ROWS
        tokenizer = self.job.model.folder if self.job.model.has_tokenizer_json else None
        request = replace(request, tokenizer=tokenizer, estimates=True, first_rows=first, seen=())
        try:
            with tempfile.TemporaryDirectory(prefix="orch-cost-") as name:
                folder = Path(name)
                outputs = replace(outputs, folder=folder, full_batch_rows=1, max_dropped=sys.maxsize)
                stats = prepare(request, outputs).stats
                lines, corpus = (count_lines(folder / file) for file in (TRAIN, CORPUS))
        except OrchError as error:
            self.gaps.append(f"{stage.title.lower()}: {error}")
            return {}
        self.sampled |= first is not None
        found = {}
        for key in ("train", "eval"):
            given = request.eval_files if key == "eval" and request.eval_files else request.train_files
            scale = _find_scale(given, first, request.rules.encoding) if first and key in stats else 1.0
            count = lines if key == "train" else None
            if side := read_side(stats.get(key, {}), lines=count, scale=scale, corpus=corpus):
                self.estimated |= side.tokens["tokenizer"] is None
                found[key if stage.kind == "prepare" else stage.kind.removesuffix("-data")] = side
        return found

    def _find_request(self, stage: Stage) -> tuple[Request, Outputs]:
        """Return what a prepare stage asks for; of rows that a teacher will score, without the scores."""
        from orchestrator.data import prepare_eval, request

        if words := _words_behind(PREPARE_EVAL, stage):
            return prepare_eval.parse_arguments(words)
        asked, outputs = request.parse_arguments(_words_behind(PREPARE, stage))
        if (pairs := self.plan.stage("teacher-pairs")) and stage.kind == "prepare":
            asked = replace(asked, train_files=tuple(map(Path, pairs.inputs)), takes_scores=False)
            asked = replace(asked, rules=replace(asked.rules, needs_scores=False))
            form = outputs.form.replace("-scores", "-groups")
            outputs = replace(outputs, form=form, options=replace(outputs.options, target="label"))
        return asked, outputs

    def _count(self, stage: Stage, sides: Mapping[str, Side]) -> cost.Work | None:
        """Return the work of a stage that runs a model, and whose data could be read."""
        kind = stage.kind
        if kind == "train":
            return self._count_train(stage, sides)
        guard = kind.removesuffix("-before").removesuffix("-after")
        names = {"teacher-scores": "train", "evaluate": "eval"}
        side = sides.get(names.get(kind, "eval" if kind.startswith("baseline-") else guard if guard != kind else ""))
        if side is None:
            return None
        model, (sequences, tokens) = self.model, side.count_scoring(searched=side.corpus > 0)
        if kind.endswith("teacher") or kind == "teacher-scores":  # it reads pairs, whatever is trained
            each = side.paired or side.mean("query") + side.mean("document")
            model, sequences, tokens = self.teacher, side.documents, side.documents * each
        logits = self.job.recipe.task == "sft"
        flops = cost.count_forward(model, tokens, tokens / sequences, logits=logits) if model else None
        return cost.Work(stage.name, sequences, tokens, flops, half=self.job.hardware.precision != "fp32")

    def _count_train(self, stage: Stage, sides: Mapping[str, Side]) -> cost.Work | None:
        found = [side for name, side in sides.items() if name == "train" or name.startswith("set-")]
        if "train" not in sides:
            return None
        job, values = self.job, self.values
        texts = None if memory.assumes_documents(job) else memory.count_texts_of_a_row(job, values)
        each = [side.count_training(texts) for side in found]
        rows = sum(side.rows for side in found)
        read = [sum(one[place] * side.rows for one, side in zip(each, found, strict=True)) for place in (0, 1)]
        if is_on(values, "packing"):  # conversations fill sequences of the longest length
            rows = read[0] = max(1.0, read[1] / memory.find_tokens(job, values))
        epochs = float(values.get("num_train_epochs", 3))
        accumulation = int(values.get("gradient_accumulation_steps", 1))
        step_rows, most = sharing.count_step_rows(job, values), int(values.get("max_steps", -1))
        steps = cost.count_steps(
            round(rows), step_rows=step_rows, accumulation=accumulation, epochs=epochs, max_steps=most,
            drops=is_on(values, "dataloader_drop_last"),
        )  # fmt: skip
        share = steps * step_rows * accumulation / rows if most > 0 else epochs
        sequences, tokens = (one * share for one in read)
        flops = None
        if self.model:
            passes = find_passes(job, values, self.model)
            flops = cost.count_training(self.model, passes, tokens, tokens / sequences)
        half = is_on(values, "bf16") or is_on(values, "fp16")
        return cost.Work(stage.name, sequences, tokens, flops, job.world_size(), half, steps)


def count_lines(path: Path) -> int:
    """Return the lines of a file; 0 where there is none."""
    if not path.is_file():
        return 0
    with path.open("rb") as stream:
        return sum(block.count(b"\n") for block in iter(lambda: stream.read(1 << 20), b""))


def _words_behind(module: str, stage: Stage) -> tuple[str, ...]:
    argv = stage.command.argv
    return argv[argv.index(module) + 1 :] if module in argv else ()


def _find_scale(paths: Sequence[Path], first: int, encoding: str | None) -> float:
    """Return how many times more rows the files have than were read, the first of each."""
    from orchestrator.data.reading.readers import Source

    counts = [
        count_lines(path) if path.suffix == ".jsonl" else sum(1 for _ in Source(path, encoding=encoding).rows())
        for path in paths
    ]
    return sum(counts) / sum(min(count, first) for count in counts)
