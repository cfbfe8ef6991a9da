"""A recipe is read whole: every problem at once, each with its line and a way out."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.errors import RecipeError
from orchestrator.plan.load import load_recipe

GOOD = """\
name: toy
task: reranker
backend: flagembedding
model: Qwen/Qwen3-Reranker-0.6B
data:
  train: train.jsonl
  eval: eval.jsonl
train:
  learning_rate: 1e-4
"""


@pytest.fixture
def write(tmp_path: Path):
    (tmp_path / "train.jsonl").write_text("{}\n")
    (tmp_path / "eval.jsonl").write_text("{}\n")

    def write(text: str) -> Path:
        path = tmp_path / "recipe.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def problems_of(path: Path, *overrides: str) -> list[tuple[int | None, str, str | None]]:
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides)
    return [
        (problem.where.line if problem.where else None, problem.message, problem.hint)
        for problem in caught.value.problems
    ]


def test_a_good_recipe_is_read_and_one_path_becomes_a_list(write):
    recipe = load_recipe(write(GOOD)).recipe
    assert recipe.data.train == ("train.jsonl",)
    assert recipe.model.path == "Qwen/Qwen3-Reranker-0.6B"
    assert recipe.merge is True


def test_every_problem_is_reported_at_once_in_the_order_of_the_file(write):
    text = (
        GOOD.replace("name: toy", "nmae: toy").replace("learning_rate: 1e-4", "learning_rat: 1e-4")
        + "gate: {ndgc@10: '> baseline'}\n"
    )
    found = problems_of(write(text))
    assert [line for line, _, _ in found] == sorted(line for line, _, _ in found)
    messages = " | ".join(message for _, message, _ in found)
    assert "unknown key 'nmae'" in messages
    assert "name is missing" in messages
    assert "unknown argument 'learning_rat'" in messages
    assert "ndgc@10" in messages


@pytest.mark.parametrize(
    ("old", "new", "line", "message", "hint"),
    [
        ("name: toy", "nmae: toy\nname: toy", 1, "unknown key 'nmae'", "did you mean 'name'?"),
        ("learning_rate: 1e-4", "lora_rnk: 8", 9, "unknown argument 'lora_rnk'", "did you mean 'lora_rank'?"),
        ("learning_rate: 1e-4", "learning_rate: fast", 9, "learning_rate: expected a number", None),
        ("learning_rate: 1e-4", "learning_rate:", 9, "learning_rate has no value", "give one"),
        ("learning_rate: 1e-4", "learning_rate: .nan", 9, "learning_rate: expected a number", None),
        ("learning_rate: 1e-4", "train_group_size: 1", 9, "nothing to rank", None),
        ("learning_rate: 1e-4", "query_max_len: 0", 9, "at least 1", None),
        ("learning_rate: 1e-4", "output_dir: /tmp/x", 9, "train.output_dir is not set here", "run folder"),
        ("learning_rate: 1e-4", "hub_token: abc", 9, "train.hub_token is not set here", "HF_TOKEN"),
        ("learning_rate: 1e-4", "lr_scheduler_type: cosin", 9, "'cosin' is not one of", None),
        ("learning_rate: 1e-4", "use_lra: true", 9, "unknown argument 'use_lra'", "did you mean 'use_lora'?"),
        ("learning_rate: 1e-4", "use_badam: true", 9, "unknown argument 'use_badam'", "lists every argument"),
        ("learning_rate: 1e-4", "report_to: wandb,tensorboard", 9, "takes one name", "keep one of them"),
        ("learning_rate: 1e-4", "report_to: [wandb, tensorboard]", 9, "takes one name", "keep one of them"),
        ("data:", "loss: BinaryCrossEntropyLoss\ndata:", 5, "is not one of", "say pointwise_bce"),
        ("data:", "loss: {type: ListNetLoss}\ndata:", 5, "is not one of", "say list_net"),
        ("task: reranker", "task: rerank", 2, "'rerank' is not one of", "did you mean 'reranker'?"),
        ("name: toy", "name: ../toy", 1, "cannot name a folder", "letters"),
        ("train: train.jsonl", "train: nowhere.jsonl", 6, "no such file: nowhere.jsonl", "paths start from"),
        ("train: train.jsonl", "train: [train.jsonl, nowhere.jsonl]", 6, "no such file: nowhere.jsonl", None),
        ("  eval: eval.jsonl\n", "", 5, "say what to measure on", None),
        ("eval: eval.jsonl", "eval: eval.jsonl\n  eval_ratio: 0.1", 5, "one of the two", None),
        ("eval: eval.jsonl", "eval_ratio: 0.5\n  overlap: keep", 5, "overlap: keep is about queries", None),
        ("eval: eval.jsonl", "eval: 0.1", 7, "data.eval: expected a name or a list of them", "say eval_ratio: 0.1"),
        ("eval: eval.jsonl", "eval: {path: eval.jsonl}", 7, "data.eval: expected a name", "say eval: eval.jsonl;"),
        ("train: train.jsonl", "train: {a: b}", 6, "data.train: expected a name or a list of them", "files"),
        ("eval: eval.jsonl", "eval_ratio: 1.5", 7, "data.eval_ratio", None),
        ("name: toy", "name: toy\nname: toy2", 2, "the key 'name' stands twice (first on line 1)", "keep one"),
        ("data:", "merge: perhaps\ndata:", 5, "merge: expected", None),
        ("data:", "evaluate: {metrics: [ndgc@10]}\ndata:", 5, "ndgc", None),
        ("data:", "gate: {ndcg@10: better}\ndata:", 5, "is not a gate", None),
        ("data:", "lora_rank: 8\ndata:", 5, "unknown key 'lora_rank'", "it belongs under train"),
        ("data:", "launch: {env: {HF_TOKEN: abc}}\ndata:", 5, "looks like a secret", "environment of your shell"),
        ("data:", "launch: {nproc_per_node: 0}\ndata:", 5, "at least 1", None),
        ("model: Qwen/Qwen3-Reranker-0.6B", "model: {path: a/b, package: c}", 4, "one of the two", None),
        ("data:", "teacher: {path: a/b, max_lenght: 9}\ndata:", 5, "unknown key 'max_lenght'", "mean 'max_length'?"),
        ("data:", "teacher: {path: a/b, package: c}\ndata:", 5, "one of the two", None),
        ("data:", "teacher: {path: a/b, max_length: 1}\ndata:", 5, "teacher.max_length", "longest pair"),
        ("eval: eval.jsonl", "eval: eval.jsonl\n  min_label: 1", 5, "min_label needs max_label", None),
        ("eval: eval.jsonl", "eval: eval.jsonl\n  max_label: 0", 5, "max_label must lie above min_label", None),
        ("data:", "launch: {strategy: zero}\ndata:", 5, "'zero' is not one of", None),
        ("data:", "deterministic: perhaps\ndata:", 5, "deterministic: expected", None),
        ("data:", "teacher: a/b\ndata:\n  scores_as_labels: true", 1, "leaves no scores for a teacher", None),
        ("data:", "loss: pointwise_bec\ndata:", 5, "'pointwise_bec' is not one of", "mean 'pointwise_bce'?"),
    ],
)
def test_each_mistake_is_named_with_its_line_and_a_way_out(write, old, new, line, message, hint):
    refuse_change(write, old, new, line, message, hint)


@pytest.mark.parametrize(
    ("guard", "message", "hint"),
    [
        ("nowhere.jsonl", "evaluate.guard.general: no such file: nowhere.jsonl", "paths start from"),
        ("[eval.jsonl, nowhere.jsonl]", "evaluate.guard.general: no such file: nowhere.jsonl", None),
        ("{data: nowhere.jsonl}", "evaluate.guard.general.data: no such file: nowhere.jsonl", None),
        ("{data: [eval.jsonl, nowhere.jsonl]}", "no such file: nowhere.jsonl", None),
        ("{data: eval.jsonl, gat: {}}", "unknown key 'gat'", "did you mean 'gate'?"),
        ("{gate: {}}", "data is missing", "files in a form"),
        ("{data: eval.jsonl, gate: {ndgc@10: '> baseline'}}", "unknown metric 'ndgc@10'", "did you mean 'ndcg@10'?"),
        ("{data: eval.jsonl, gate: {ndcg@10: better}}", "is not a gate", "an operator"),
    ],
)
def test_a_guard_s_mistakes_are_those_of_evaluation_data_and_gates(write, guard, message, hint):
    refuse_change(write, "data:", f"evaluate:\n  guard:\n    general: {guard}\ndata:", 7, message, hint)


def test_a_guard_s_name_must_name_a_folder(write):
    refuse_change(write, "data:", "evaluate: {guard: {../up: eval.jsonl}}\ndata:", 5, "cannot name a folder", None)


def refuse_change(write, old, new, line, message, hint):
    assert old in GOOD
    found = problems_of(write(GOOD.replace(old, new)))
    assert any(at == line and message in said and (hint is None or hint in (way or "")) for at, said, way in found), (
        found
    )


@pytest.mark.parametrize(
    ("text", "line", "message"),
    [
        ("name: [1, 2\ntask: x", 2, "not valid YAML"),
        ("- a\n- b\n", 1, "a recipe is a mapping"),
        ("", 1, "a recipe is a mapping"),
        ("name:\ttoy: x", 1, "not valid YAML"),
        ("!!python/object/apply:os.system [echo]", 1, "a recipe is a mapping"),
        ("name: !!python/object/apply:os.system [echo]", 1, None),
        ("a: &a [*a]\n", 1, None),
        ("? [a]\n: b\n", 1, "a key must be plain text"),
        ("name: 2024-13-45\n", None, "not valid YAML"),
    ],
)
def test_text_that_is_no_recipe_is_refused_with_its_line(write, text, line, message):
    found = problems_of(write(text))
    assert line is None or found[0][0] == line
    assert message is None or any(message in said for _, said, _ in found)


def test_a_document_built_to_explode_is_refused(write):
    bomb = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 30))
    assert any("beyond reason" in message for _, message, _ in problems_of(write(bomb)))


def test_a_missing_recipe_says_how_to_start_one(tmp_path):
    assert "orch init" in (problems_of(tmp_path / "none.yaml")[0][2] or "")


def test_text_that_is_not_utf8_is_refused(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_bytes("name: 红隼".encode("gb18030"))
    assert "not UTF-8" in problems_of(path)[0][1]


def test_a_byte_order_mark_and_crlf_are_no_problem(write, tmp_path):
    path = write("")
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode())
    assert load_recipe(path).recipe.name == "toy"


def test_teacher_and_guards_have_short_forms(write):
    text = GOOD + "teacher: Qwen/Qwen3-Reranker-4B\nevaluate: {guard: {a: eval.jsonl, b: {data: eval.jsonl}}}\n"
    recipe = load_recipe(write(text)).recipe
    assert (recipe.teacher.name, recipe.teacher.max_length) == ("Qwen/Qwen3-Reranker-4B", 512)
    assert [guard.data for guard in recipe.evaluate.guard.values()] == [("eval.jsonl",), ("eval.jsonl",)]


def test_the_file_of_a_guard_may_lie_on_a_hub(write):
    recipe = load_recipe(write(GOOD + "evaluate: {guard: {general: 'owner/name:test'}}\n")).recipe
    assert recipe.evaluate.guard["general"].data == ("owner/name:test",)


def test_a_key_that_a_teacher_has_too_is_sent_where_it_was_meant(write):
    (found,) = problems_of(write(GOOD + "max_length: 512\n"))
    assert found[1:] == ("unknown key 'max_length'", "it belongs under train")


def test_an_override_may_add_a_guard_and_its_mistake_points_there(write):
    path = write(GOOD)
    assert load_recipe(path, ("evaluate.guard.general=eval.jsonl",)).recipe.evaluate.guard["general"].data
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, ("evaluate.guard.general=nowhere.jsonl",))
    assert str(caught.value.problems[0].where) == "--set evaluate.guard.general=nowhere.jsonl"


def test_overrides_replace_values_and_make_missing_groups(write):
    recipe = load_recipe(write(GOOD), ("train.learning_rate=2e-5", "launch.env.A=b", "evaluate.metrics=[mrr@5]")).recipe
    assert recipe.train["learning_rate"] == "2e-5"
    assert recipe.launch.env == {"A": "b"}
    assert recipe.evaluate.metrics == ("mrr@5",)


def test_an_override_s_mistake_points_to_the_override(write):
    with pytest.raises(RecipeError) as caught:
        load_recipe(write(GOOD), ("train.lora_rnk=8",))
    assert str(caught.value.problems[0].where) == "--set train.lora_rnk=8"


@pytest.mark.parametrize("empty", ["", "null", "  "])
def test_an_empty_override_takes_a_key_of_the_backend_away(write, empty):
    path = write(GOOD + "launch: {env: {A: b}}\n")
    assert "learning_rate" in load_recipe(path).recipe.train
    recipe = load_recipe(
        path, (f"train.learning_rate={empty}", f"launch.env.A={empty}", f"train.unheard={empty}")
    ).recipe
    assert not {"learning_rate", "unheard"} & recipe.train.keys()
    assert recipe.launch.env == {}


@pytest.mark.parametrize(
    ("changed", "says", "hint"),
    [
        ("data.train=3", "data.train: expected a name or a list of them, got 3", "relative to the recipe"),
        ("data.train=[]", "data.train: expected at least 1 entry, got []", "relative to the recipe"),
        ("data.seed=1.5", "data.seed: expected a whole number, got 1.5", "order of candidates"),
        ("evaluate.metrics=ndcg@10", "evaluate.metrics: expected a list, got 'ndcg@10'", "write [ndcg@10]"),
        ("launch.nproc_per_node=many", "launch.nproc_per_node: expected a whole number or 'auto', got 'many'", "auto"),
        ("checkpoint=newest", "expected 'best' or 'last' or a whole number, got 'newest'", "did you mean 'best'?"),
        ("model=3", "model: expected a hub id, a folder or a mapping, got 3", "the base model"),
        ("merge=perhaps", "merge: expected true or false, got 'perhaps'", "merge LoRA"),
        ("launch.env={A: 1}", "launch.env.A: expected text, got 1", "put it in quotes"),
        ("launch.timeout_s=-1", "launch.timeout_s: expected a number above 0, got -1", "in seconds"),
        ("gate={ndcg@10: 3}", "the gate 3 has no operator", "write '> 3'"),
        ("loss={type: lambda_loss, gain: x}", "unknown key 'gain'", "known keys: type, target, k"),
        ("loss={type: lambda_loss, weighting_scheme: x}", "unknown key 'weighting_scheme'", "did you mean 'weighting'?"),
        ("evaluate.metrics=[accuracy]", "unknown metric 'accuracy'", "for classifiers"),
        ("evaluate.metrics=[em]", "unknown metric 'em'", "known: ndcg@k"),
        ("micro_batch_size=2", "unknown key 'micro_batch_size'", "under train: say per_device_train_batch_size"),
        ("train.bf16=auto", "bf16: expected true or false, got 'auto'", "remove it"),
        ("launch.env.NPROC_PER_NODE='2'", "another launcher", "launch: {nproc_per_node: 2}"),
        ("launch.env.NNODES='2'", "each host has its own", "launch.nproc_per_node"),
        ("launch.env.NODE_RANK='1'", "each host has its own", "launch.nproc_per_node"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_is_said_once_in_the_words_of_a_recipe(write, changed, says, hint):
    (found,) = problems_of(write(GOOD), changed)
    assert says in found[1]
    assert hint in found[2]
    assert not [word for word in ("tuple", "valid", "instance", "parse", "input") if word in found[1]]


def test_one_machine_s_values_of_a_launcher_s_variables_are_let_through(write):
    env = ("NNODES='1'", "NODE_RANK='0'", "MASTER_PORT='29500'")
    assert load_recipe(write(GOOD), tuple(f"launch.env.{one}" for one in env)).recipe.launch.env["NNODES"] == "1"


def test_an_override_without_a_value_is_refused(write):
    assert "a.b=value" in problems_of(write(GOOD), "train.lora_rank")[0][1]


def test_every_shipped_recipe_is_valid_and_names_its_schema(recipes):
    paths = sorted(recipes.glob("*.yaml"))
    assert len(paths) >= 2
    for path in paths:
        assert load_recipe(path).recipe.name
        assert path.read_text(encoding="utf-8").startswith("# yaml-language-server: $schema=recipe.schema.json")
