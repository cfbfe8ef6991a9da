"""Embedding models with sentence-transformers as they are configured, and what is refused before any training."""

from __future__ import annotations

import json

import pytest

from orchestrator.backends import BACKENDS
from orchestrator.backends.protocol import find_trainer
from orchestrator.data import prepare
from orchestrator.errors import DataError, RecipeError
from orchestrator.machine.hardware import CPU, Hardware
from orchestrator.plan.jobs import build_job
from orchestrator.plan.load import load_recipe
from orchestrator.plan.pipeline import build_plan
from orchestrator.recipe.losses import find_losses
from orchestrator.workers.train_embedding import load_settings

GPU, TWO = Hardware("cuda", 1, bf16=True), Hardware("cuda", 2, bf16=True)
RECIPE = """\
name: toy
task: embedding
backend: sentence-transformers
model: {path: encoder, pooling: mean, prompts: {query: "query: ", document: "passage: "}}
data: {train: train.jsonl, eval: eval.jsonl}
loss: mnrl
"""
GROUPS = [
    {"query": f"q{number}", "pos": [f"p{number}", f"also {number}"], "neg": [f"n{number}", f"m{number}"]}
    for number in range(4)
]
PAIRS = [{"sentence1": f"a{number}", "sentence2": f"b{number}", "score": number / 4} for number in range(4)]
CLASSES = [{"text": f"t{number}", "label": "ab"[number // 4]} for number in range(8)]


@pytest.fixture
def build(tmp_path):
    """A recipe beside a folder that looks like a BERT of 32 numbers, and its rows."""
    (tmp_path / "encoder").mkdir()
    config = {"model_type": "bert", "architectures": ["BertModel"], "hidden_size": 32}
    (tmp_path / "encoder" / "config.json").write_text(json.dumps(config))
    (tmp_path / "recipe.yaml").write_text(RECIPE)

    def build(*overrides, rows=GROUPS, hardware=CPU):
        for side, some in (("train", rows), ("eval", rows[: 2 if "text" in rows[0] else 1])):
            (tmp_path / f"{side}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
        job = build_job(
            load_recipe(tmp_path / "recipe.yaml", ("data.overlap=keep", *overrides)), tmp_path / "run", hardware
        )
        return job, build_plan(job)

    return build


def write_files(job, plan):
    for file in plan.files:
        (job.run_dir / file.path).parent.mkdir(parents=True, exist_ok=True)
        (job.run_dir / file.path).write_text(file.text)
    return job.run_dir / "files" / "train.json"


def run_prepare(plan):
    words = plan.stage("prepare").command.argv
    return prepare.main(words[words.index("-m") + 2 :])


def test_the_config_says_all_that_decides_the_training_and_the_worker_reads_it(build):
    job, plan = build("data.validation_ratio=0.25", "loss={type: mnrl, hard_negatives: 1, matryoshka_dims: [32, 8]}")
    config = json.loads(write_files(job, plan).read_text())
    arguments = config.pop("arguments")
    data = str(job.run_dir / "data")
    assert config == {
        "version": 1,
        "model": str(job.model.location),
        "family": "encoder",
        "trust_remote_code": False,
        "loss": {
            "type": "mnrl",
            "scale": 20.0,
            "hard_negatives": 1,
            "gather_across_devices": False,
            "matryoshka_dims": {"32": 1.0, "8": 1.0},
        },
        "form": "embedding-groups",
        "train": f"{data}/train.jsonl",
        "validation": f"{data}/validation.jsonl",
        "embedding": {
            "max_length": 512,
            "query_prompt": "query: ",
            "document_prompt": "passage: ",
            "pooling": "mean",
            "normalize": True,
        },
        "stable_ratio": None,
        "early_stopping": None,
        "deterministic": False,
    }
    assert arguments["batch_sampler"] == "no_duplicates"
    assert arguments["metric_for_best_model"] == "eval_validation_cosine_ndcg@10"
    assert arguments["greater_is_better"] is True
    settings = load_settings(job.run_dir / "files" / "train.json")
    assert settings.loss.hard_negatives == 1
    assert "train_embedding" in plan.stage("train").command.argv


def test_the_model_is_scored_as_it_is_trained(build):
    _, plan = build("train.max_length=64", "loss={type: mnrl, matryoshka_dims: [8, 32]}")
    scoring = json.loads(next(file.text for file in plan.files if file.path == "files/scoring.packaged.json"))
    wanted = {
        "scorer": "embedding", "max_length": 64, "query_prompt": "query: ", "document_prompt": "passage: ",
        "pooling": "mean", "normalize": True, "truncate_dim": None, "mrl_dims": [32, 8],
    }  # fmt: skip
    assert scoring | wanted == scoring


@pytest.mark.parametrize("facts", find_losses("sentence-transformers", "embedding"), ids=lambda facts: facts.name)
def test_the_rows_of_every_loss_are_prepared_for_the_worker(build, facts):
    taught = facts.form == "embedding-scores"
    rows = (
        CLASSES
        if facts.kinds == ("class",)
        else GROUPS
        if facts.kinds != ("pair",)
        else [row | {"score": round(row["score"])} for row in PAIRS]
    )
    rows = [row | {"pos_scores": [3.5, 2], "neg_scores": [1, -1.5]} for row in rows] if taught else rows
    more = {"guide": ", guide: other/model", "num_labels": ", num_labels: 2"}
    more = "".join(text for name, text in more.items() if name in facts.settings)
    said = f"{{type: {facts.name}{more}}}"
    job, plan = build(f"loss={said if facts.kinds else f'{{type: mnrl, plus: [{said}]}}'}", rows=rows)
    settings = load_settings(write_files(job, plan))
    assert run_prepare(plan) == 0
    lines = [json.loads(line) for line in settings.train.read_text().splitlines()]
    assert len(lines) == {"triplet": 16}.get(facts.name, 4 if facts.kinds == ("pair",) else 8)
    if facts.kinds == ("class",):
        assert lines[4] == {"text": "t4", "label": "b"}
        assert settings.arguments["batch_sampler"] == "group_by_label"
    if taught:
        assert lines[1] == {
            "query": "q0", "positive": "also 0", "negatives": ["n0", "m0"], "scores": [2.0, 1.0, -1.5],
        }  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "key", "message"),
    [
        (("loss=null",), "loss", "no loss is named"),
        (("loss=infonce",), "loss", "is not one of sentence-transformers' embedding models"),
        (("loss=listwise_ce",), "loss", "is not one of sentence-transformers' embedding models"),
        (("loss=gor",), "loss", "gor spreads vectors out, and alone teaches nothing"),
        (("loss={type: mnrl, plus: [cached_mnrl]}",), "loss.plus", "cached_mnrl cannot be added"),
        (("loss={type: mnrl, plus: [cosent]}",), "loss.plus", "cosent cannot be added to mnrl: it reads other rows"),
        (("loss={type: mnrl, plus: [gor, gor]}",), "loss.plus", "gor cannot be added to mnrl: it reads other rows, or is"),
        (("loss={type: mnrl, plus: [{type: gor, scale: 2}]}",), "loss.plus", "gor has no scale"),
        (("loss={type: triplet, plus: [{type: mnrl, hard_negatives: 1}]}",), "loss.plus", "hard_negatives is of the whole"),
        (("loss={type: mnrl, weight: 2}",), "loss.weight", "weight is of a loss that is added to another"),
        (("loss={type: cached_mnrl, plus: [gor]}",), "loss.plus", "cached_mnrl has no plus"),
        (("loss={type: embed_distill, guide: a/b, distance_metric: manhattan}",), "loss.distance_metric", "by cosine or"),
        (("loss=softmax",), "loss", "nothing says how many there are"),
        (("loss={type: batch_hard_triplet, distance_metric: manhattan}",), "loss.distance_metric", "by cosine or"),
        (("loss=batch_hard_triplet",), "loss", "learns texts with classes (text, label), and the rows are queries"),
        (("loss=batch_all_triplet", "train.per_device_train_batch_size=5"), "train.per_device_train_batch_size", "even"),
        (("loss=mnrl", "data.more={s: {files: t.jsonl, loss: batch_all_triplet}}"), "data.more.s.loss", "or classes, and not beside"),
        (("loss={type: softmax, num_labels: 3}", "data.eval=null", "data.eval_ratio=0.5", "data.overlap=drop"), "data.eval_ratio", "no similarity"),
        (("loss={type: embed_distill, guide: a/b}", "deepspeed=zero0"), "loss", "embed_distill has weights of its own"),
        (("loss=cosent",), "loss", "cosent learns labels of pairs, and the rows are queries with documents"),
        (("loss=gist",), "loss", "asks a stronger embedding model"),
        (("data.more={s: {files: t.jsonl, loss: infonce}}",), "data.more.s.loss", "is not one of"),
        (("data.more={s: {files: t.jsonl, loss: margin_mse}}",), "data.more.s.loss", "neither from a teacher nor"),
        (
            ("data.more={s: {files: t.jsonl, loss: cosine_similarity}}", "watch.on_oom=retry", "loss=triplet"),
            "watch.on_oom", "a step would then hold rows of several sets",
        ),
        (
            ("data.train=[train.jsonl, eval.jsonl]", "train.multi_dataset_batch_sampler=proportional",
             "watch.on_oom=retry", "loss=triplet"),
            "watch.on_oom", "a step would then hold rows of several sets",
        ),
        (
            ("data.more={s: {files: t.jsonl, loss: {type: cosent, margin: 1}}}",),
            "data.more.s.loss.margin", "cosent has no margin",
        ),
        (("loss=mse",), "loss", "learns the vectors of a stronger embedding model, and none is named"),
        (("loss={type: gist, guide: nobody}",), "loss.guide", "is neither a folder nor a hub id"),
        (("loss={type: mnrl, temperature: 0.1}",), "loss.temperature", "mnrl has no temperature"),
        (
            ("loss={type: cached_mnrl, n_layers_per_step: 1}",),
            "loss.n_layers_per_step", "cached_mnrl has no n_layers_per_step",
        ),
        (("loss={type: mnrl, matryoshka_dims: [64]}",), "loss.matryoshka_dims", "have sizes from 1 to 32"),
        (("loss={type: mnrl, gather_across_devices: true}",), "loss.gather_across_devices", "there is one"),
        (("train.per_device_train_batch_size=1",), "train.per_device_train_batch_size", "its loss is always 0"),
        (("train.batch_sampler=group_by_label",), "train.batch_sampler", "gathers rows of one label"),
        (
            ("loss={type: cached_mnrl, mini_batch_size: 64}", "train.per_device_train_batch_size=32"),
            "loss.mini_batch_size", "the batch has 32 rows",
        ),
        (("data.instruction=Find it",), "data.instruction", "takes no task"),
        (("model={path: BAAI/bge-en-icl}",), "model", "behind its queries, which no prompt of the library says"),
        (("launch.distributed=fsdp",), "launch.distributed", "are not started with FSDP"),
        (("watch.on_oom=retry",), "watch.on_oom", "the other rows of a batch are the negatives of mnrl"),
        (("train.early_stopping_patience=2",), "train.early_stopping_patience", "validation"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_is_refused_with_its_key_and_a_remedy(build, overrides, key, message):
    with pytest.raises(RecipeError) as caught:
        build(*overrides)
    found = [problem for problem in caught.value.problems if message in problem.message]
    assert found, [problem.message for problem in caught.value.problems]
    assert found[0].hint


@pytest.mark.parametrize("name", ["train_group_size", "query_format", "shuffle_ratio", "num_labels"])
def test_what_only_rerankers_have_is_refused(build, name):
    with pytest.raises(RecipeError, match=f"{name} is of rerankers"):
        build(f"train.{name}=2")


@pytest.mark.parametrize(
    ("loss", "rows", "message"),
    [
        (
            "{type: mnrl}",
            [*GROUPS, {"query": "x", "pos": ["y"], "neg": []}],
            "the row has no negatives, and others have",
        ),
        ("{type: mnrl, hard_negatives: 3}", GROUPS, "the row has 2 negatives, and hard_negatives asks for 3"),
        ("{type: mnrl}", PAIRS, "which corrupts mnrl's groups"),
        (
            "{type: triplet}",
            [{"query": "x", "pos": ["y"], "neg": []}] * 2,
            "the row has no negatives, and triplet needs",
        ),
        ("{type: margin_mse}", GROUPS, "scores"),
        ("{type: cosent}", [row | {"score": 1} for row in PAIRS], "has nothing to contrast"),
        ("{type: contrastive}", PAIRS, "contrastive knows 0 and 1 only"),
        ("{type: cosine_similarity}", [row | {"score": 3} for row in PAIRS], "outside -1 to 1"),
        (
            "{type: softmax, num_labels: 3}",
            [row | {"score": number} for number, row in enumerate(PAIRS)],
            "the row has the label 3, and the classes are 0 to 2",
        ),
        (
            "{type: batch_all_triplet}",
            [*CLASSES, {"text": "alone", "label": "c"}],
            "of 3 classes 1 have one training text: c",
        ),
        (
            "{type: batch_all_triplet}",
            [row | {"label": "a"} for row in CLASSES],
            "of 1 classes 0 have one training text",
        ),
        ("{type: batch_all_triplet}", [*CLASSES, {"text": "T0", "label": "b"}], "has the class b, and another in an"),
        ("{type: mnrl}", CLASSES, "its form has text, label; texts with classes are for loss: batch_all_triplet"),
        ("{type: batch_all_triplet}", [*CLASSES, {"text": "x"}], 'the key "label" is missing'),
        ("{type: batch_all_triplet}", [*CLASSES, {"text": "x", "label": 0.5}], "is a number, not a string"),
        ("{type: batch_all_triplet}", [*CLASSES, {"text": "x", "label": " "}], '"label" is empty or white space'),
        ("{type: angle_triplet}", [{"query": "x", "pos": ["y"], "neg": []}] * 2, "and angle_triplet needs"),
        (
            "{type: mnrl}",
            [{"query": f"q{number}", "pos": [f"class {number % 3}"], "neg": []} for number in range(30)],
            "of the negatives that mnrl takes from a row's batch answer its query",
        ),
    ],
)
def test_rows_that_a_loss_cannot_learn_from_are_refused_before_any_training(build, capsys, loss, rows, message):
    _, plan = build(f"loss={loss}", rows=rows)
    assert run_prepare(plan) == DataError.exit_code
    assert message in capsys.readouterr().err


def test_validation_rows_that_cannot_find_the_best_checkpoint_are_refused_where_the_recipe_asks_them_to(build, capsys):
    rows = [{"sentence1": f"a{number}", "sentence2": f"b{number}", "score": number % 2} for number in range(2)]
    rows = [row | {"sentence1": f"{row['sentence1']} {copy}"} for copy in range(1, 9) for row in rows[:1]] + rows[1:]
    alike = ("loss=cosent", "data.validation_ratio=0.2")
    _, plan = build(*alike, "train.metric_for_best_model=spearman", rows=rows)
    assert run_prepare(plan) == DataError.exit_code
    assert "validation-without-order: of the validation rows" in capsys.readouterr().err
    _, plan = build(*alike, rows=rows)
    assert run_prepare(plan) == 0


CHANGED = ("model.dense={out_features: 16}", "model.layers=[0, 2]")


def test_a_change_of_the_model_stands_in_the_training_and_the_baseline_is_the_model_without_it(build):
    job, plan = build(*CHANGED, "loss={type: mnrl, matryoshka_dims: [16, 8]}")
    settings = load_settings(write_files(job, plan))
    assert (settings.embedding.dense.out_features, settings.embedding.dense.activation) == (16, "tanh")
    assert settings.embedding.layers == [0, 2]
    specs = [file.text for file in plan.files if file.path.startswith("files/scoring.")]
    assert specs
    assert not [text for text in specs if "dense" in text or "layers" in text]
    with pytest.raises(RecipeError, match="have sizes from 1 to 16"):
        build(*CHANGED, "loss={type: mnrl, matryoshka_dims: [32]}")


@pytest.mark.parametrize("overrides", [("train.lora_rank=8",), ("backend=flagembedding", "loss=null")])
def test_a_change_of_the_model_is_refused_where_nothing_makes_it(build, overrides):
    with pytest.raises(RecipeError) as caught:
        build(*CHANGED, *overrides)
    found = [problem.message for problem in caught.value.problems if "all weights are trained" in problem.message]
    assert len(found) == 2


QLORA = ("train.lora_rank=8", "train.quant_method=bnb", "train.quant_bits=4")


def test_qlora_stands_beside_the_adapter_and_needs_one_and_a_gpu(build):
    job, plan = build(*QLORA, hardware=GPU)
    settings = load_settings(write_files(job, plan))
    assert (settings.lora.quant_method, settings.lora.quant_bits) == ("bnb", 4)
    assert not [name for name in settings.arguments if name.startswith("quant")]
    for overrides, hardware, message in (
        (QLORA, CPU, "quantised weights are trained on a GPU, and there is none"),
        (QLORA[1:], GPU, "quant_method without lora_rank"),
        ((*QLORA[:2], "train.quant_bits=3"), GPU, "quant_bits 3: the weights are loaded in 4 or 8 bits by bnb"),
        ((*QLORA, "deepspeed=zero0"), GPU, "DeepSpeed and quantised weights are not tried together"),
    ):
        with pytest.raises(RecipeError) as caught:
            build(*overrides, hardware=hardware)
        assert [problem for problem in caught.value.problems if message in problem.message], overrides


def test_rows_without_negatives_are_pairs_of_a_batch(build):
    job, plan = build(rows=[{"query": f"q{number}", "pos": [f"p{number}"], "neg": []} for number in range(4)])
    write_files(job, plan)
    assert run_prepare(plan) == 0
    assert json.loads((job.run_dir / "data" / "train.jsonl").read_text().splitlines()[0])["negatives"] == []


def test_files_that_make_batches_of_their_own_are_prepared_and_named(build, tmp_path):
    (tmp_path / "more rows.jsonl").write_text(
        "".join(json.dumps(row | {"query": row["query"] + "!"}) + "\n" for row in GROUPS)
    )
    several = ("data.train=[train.jsonl, more rows.jsonl]", "train.multi_dataset_batch_sampler=round_robin")
    job, plan = build(*several)
    settings = load_settings(write_files(job, plan))
    assert settings.sources == ["000-train.jsonl", "001-more-rows.jsonl"]
    assert run_prepare(plan) == 0
    assert {name: len(path.read_text().splitlines()) for name, path in settings.parts.items()} == {
        "000-train": 8,
        "001-more-rows": 8,
    }
    assert "multi_dataset_batch_sampler" in job.backend.smoke_scale(job).leave_out
    with pytest.raises(RecipeError, match="data.train is one file"):
        build("train.multi_dataset_batch_sampler=proportional")


def test_a_batch_of_one_is_no_batch_of_one_where_the_rows_have_negatives_or_other_gpus_gather(build):
    build("train.per_device_train_batch_size=1", "loss={type: mnrl, hard_negatives: 2}")
    build("train.per_device_train_batch_size=1", "loss={type: mnrl, gather_across_devices: true}", hardware=TWO)


def test_a_flat_loss_is_the_logarithm_of_the_candidates_where_they_are_known(build):
    for loss, hardware, expected in (
        ("{type: mnrl, hard_negatives: 1}", GPU, 2.772588722239781),
        ("{type: mnrl, hard_negatives: 1, gather_across_devices: true}", TWO, 3.4657359027997265),
        ("{type: mnrl}", GPU, None),
        ("{type: mnrl, hard_negatives: 1, matryoshka_dims: [32]}", GPU, None),
    ):
        job, _ = build(f"loss={loss}", hardware=hardware)
        training = job.backend.build_training(job, model="m", data="d", output="o")
        assert training.flat_loss == pytest.approx(expected) if expected else training.flat_loss is None


def test_the_smoke_version_has_sizes_and_parts_that_a_tiny_model_has(build):
    job, _ = build("loss={type: cached_mnrl, mini_batch_size: 8, matryoshka_dims: [32, 16, 8]}")
    loss = job.backend.smoke_scale(job).recipe["loss"]
    assert (loss.mini_batch_size, loss.matryoshka_dims) == (1, {32: 1.0, 16: 1.0, 8: 1.0})


def write_embedder(folder, *kinds):
    """Write the files of an embedding model with these modules behind its Transformer, without weights."""
    (folder / "1_Pooling").mkdir(parents=True)
    config = {"model_type": "bert", "architectures": ["BertModel"], "hidden_size": 32}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "1_Pooling" / "config.json").write_text('{"pooling_mode": "cls"}')
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": f"1_{kind}"} for kind in kinds]
    first = {"type": "sentence_transformers.models.Transformer", "path": ""}
    (folder / "modules.json").write_text(json.dumps([first, *modules]))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architectures": ["BertForSequenceClassification"]}, "it has a head, which would be dropped"),
        ({}, "sentence-transformers takes the mean"),
    ],
)
def test_a_guide_that_makes_no_vectors_of_its_own_is_refused_before_any_training(build, tmp_path, config, message):
    write_embedder(tmp_path / "guide", "Pooling")
    (tmp_path / "guide" / "modules.json").unlink()
    (tmp_path / "guide" / "config.json").write_text(json.dumps({"model_type": "bert", "hidden_size": 32} | config))
    with pytest.raises(RecipeError) as caught:
        build("loss={type: gist, guide: guide}")
    (problem,) = caught.value.problems
    assert message in problem.message
    assert problem.hint == "name a whole SentenceTransformer, such as BAAI/bge-m3"


@pytest.mark.parametrize(("loss", "whose"), [("gist", "the trained model's"), ("mse", "its own")])
def test_the_plan_says_behind_whose_prompts_a_guide_reads_texts(build, loss, whose):
    _, plan = build(f"loss={{type: {loss}, guide: BAAI/bge-m3}}")
    assert [note.value for note in plan.notes if note.argument == "loss.guide prompts"] == [whose]


@pytest.mark.parametrize("said", ["pooling: mean", "normalize: false", "prompts: {query: 'q: '}"])
def test_what_is_said_of_a_teachers_vectors_and_never_used_is_refused(build, said):
    taught = ("loss={type: distill_kl, hard_negatives: 1}", f"teacher={{path: BAAI/bge-reranker-v2-m3, {said}}}")
    with pytest.raises(RecipeError, match=rf"teacher\.{said.partition(':')[0]}: a teacher is asked as its own files"):
        build(*taught)


def test_a_guide_whose_vectors_have_another_length_is_refused_before_any_training(build, tmp_path):
    write_embedder(tmp_path / "guide", "Pooling", "Normalize")
    own = "model={path: own}"
    write_embedder(tmp_path / "own", "Pooling", "Normalize")
    build("loss={type: mse, guide: guide}", own)
    config = {"model_type": "bert", "architectures": ["BertModel"], "hidden_size": 64}
    (tmp_path / "guide" / "config.json").write_text(json.dumps(config))
    with pytest.raises(RecipeError, match="have 32 dimensions, and those of the guide 64"):
        build("loss={type: mse, guide: guide}", own)
    build("loss={type: gist, guide: guide}", own)


def test_a_teacher_that_nobody_learns_from_is_refused_once(build):
    with pytest.raises(RecipeError) as caught:
        build("teacher=BAAI/bge-m3")
    assert [problem.message for problem in caught.value.problems] == [
        "the teacher's scores would be computed and not learnt: the loss learns no scores"
    ]


def test_a_teacher_that_does_not_say_how_it_pools_is_refused_at_its_line_with_a_format_that_a_teacher_may_have(build):
    taught = ("loss={type: distill_kl, hard_negatives: 1}", "teacher={path: encoder, native: bi-encoder}")
    with pytest.raises(RecipeError) as caught:
        build(*taught)
    (problem,) = caught.value.problems
    assert "does not say how it pools" in problem.message
    assert problem.hint == "name a whole SentenceTransformer, such as BAAI/bge-m3"
    assert problem.where is not None


def test_a_guide_is_a_folder_from_the_recipe_on_or_a_hub_id(build, tmp_path):
    write_embedder(tmp_path / "guide", "Pooling", "Normalize")
    for said, expected in (("guide", str(tmp_path / "guide")), ("BAAI/bge-m3", "BAAI/bge-m3")):
        job, plan = build(f"loss={{type: gist, guide: {said}}}")
        assert json.loads(write_files(job, plan).read_text())["loss"]["guide"] == expected


def test_the_trainer_of_a_task_is_found_by_the_recipe(build):
    job, _ = build()
    assert find_trainer(job.recipe) is job.backend
    assert job.backend.kind is None
    assert BACKENDS["sentence-transformers"].kind == "labelled"


def test_rows_of_translations_have_no_negatives(build, capsys):
    _, plan = build("loss={type: mse, guide: other/model, translations: true}")
    assert run_prepare(plan) == 3
    assert "the texts of a row mean the same, and the row has negatives (4 such rows)" in capsys.readouterr().err
    _, plan = build("loss={type: mse, guide: other/model}")
    assert run_prepare(plan) == 0


def test_a_further_set_has_rows_a_loss_and_a_ledger_of_its_own_and_nothing_that_is_measured_on(build, tmp_path):
    pairs = [{"sentence1": f"a{number}", "sentence2": f"b{number}", "score": number % 2} for number in range(4)]
    pairs.append({"sentence1": "Q0", "sentence2": "a text for a query of the eval set", "score": 1})
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs))
    job, plan = build(
        "data.more={same: {files: pairs.jsonl, loss: contrastive}}", "data.overlap=drop", "train.num_train_epochs=1"
    )
    settings = load_settings(write_files(job, plan))
    assert settings.more_losses["same"].margin == 0.5
    assert run_prepare(plan) == 0
    words = plan.stage("set-same").command.argv
    assert prepare.main(words[words.index("-m") + 2 :]) == 0
    rows = [json.loads(line) for line in settings.find_rows("same").read_text().splitlines()]
    assert [(row["text1"], row["label"]) for row in rows] == [("a0", 0), ("a1", 1), ("a2", 0), ("a3", 1)]
    ledger = json.loads(settings.find_rows("same").with_name("ledger.json").read_text())
    assert ledger["sides"]["train"]["dropped"] == {"query-also-in-eval": 1}
    assert job.backend.build_training(job, model="m", data="d", output="o").flat_loss is None


def test_only_embedding_models_with_sentence_transformers_have_further_sets(build):
    with pytest.raises(RecipeError) as raised:
        build("backend=swift", "model={path: encoder}", "data.more={same: {files: t.jsonl, loss: contrastive}}")
    assert any("several training sets with a loss each are for" in one.message for one in raised.value.problems)
