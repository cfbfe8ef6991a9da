"""Recipes that cannot be run, each with the line and the remedy that its message must name."""

from __future__ import annotations

from tests.bad_input.case import FOLDER, RECIPE, BadInput, Special, edited

CHECK = ("check", "recipe.yaml")


def _recipe(
    name: str,
    story: str,
    content: str | bytes | Special | None,
    *,
    line: str = "",
    says: str,
    remedy: str,
) -> BadInput:
    """Return the case of a recipe.yaml with this content."""
    return BadInput(name, story, CHECK, 2, f"recipe.yaml{line}", says, remedy, {"recipe.yaml": content})


def _edit(name: str, story: str, old: str, new: str, *, line: int, says: str, remedy: str) -> BadInput:
    """Return the case of the good recipe with one mistake in it."""
    return BadInput(name, story, CHECK, 2, f"recipe.yaml:{line}", says, remedy, edited(old, new))


_BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 30))
_DEEP = RECIPE + "watch: " + "[" * 5000 + "]" * 5000 + "\n"

NOT_A_RECIPE = (
    _recipe("no-recipe", "names a recipe that is not there", None, says="no such recipe", remedy="orch init"),
    _recipe("folder", "names a folder", FOLDER, says="a folder", remedy="name a .yaml file"),
    _recipe("empty", "gives an empty file", "", line=":1", says="mapping", remedy="orch init"),
    _recipe("comment-only", "gives comments only", "# later\n", line=":1", says="mapping", remedy="orch init"),
    _recipe("list", "writes a list", "- a\n- b\n", line=":1", says="mapping", remedy="orch init"),
    _recipe("data-as-recipe", "gives a data file", b'{"query": 1}\n' * 100_000, says="larger", remedy="data file"),
    _recipe("binary", "gives a binary file", bytes(range(256)), line=":2", says="not UTF-8", remedy="UTF-8"),
    _recipe("nul", "has a NUL in it", RECIPE.replace("toy", "to\0y"), line=":1", says="U+0000", remedy="remove"),
    _recipe(
        "escape", "has an ESC in it", RECIPE.replace("1e-4", "\x1b[31m"), line=":9", says="U+001B", remedy="remove"
    ),
    _recipe("utf-16", "saves it as UTF-16", RECIPE.encode("utf-16"), says="not UTF-8", remedy="save it as UTF-8"),
    _recipe(
        "gb18030", "saves it as GB18030", "name: 红隼".encode("gb18030"), line=":1", says="not UTF-8", remedy="UTF-8"
    ),
    _recipe("tab", "indents by tabs", RECIPE.replace("  train", "\ttrain"), line=":6", says="YAML", remedy="spaces"),
    _recipe("open-bracket", "forgets a bracket", "name: [1, 2\ntask: x\n", line=":2", says="YAML", remedy="quotes"),
    _recipe("open-quote", "forgets a quote", 'name: "toy\ntask: x\n', line=":3", says="YAML", remedy="quotes"),
    _recipe("indent", "indents wrongly", RECIPE.replace("  eval", " eval"), line=":7", says="YAML", remedy="indent"),
    _recipe("two-documents", "writes two documents", RECIPE + "---\na: b\n", line=":10", says="YAML", remedy="one"),
    _recipe(
        "undefined-alias", "uses an alias of nothing", "name: *x\n", line=":1", says="undefined alias", remedy="quot"
    ),
    _recipe("star", "writes a bare *", RECIPE.replace("./model", "*"), line=":4", says="YAML", remedy="quotes"),
    _recipe("at-sign", "writes a bare @", RECIPE.replace("./model", "@x"), line=":4", says="YAML", remedy="quotes"),
    _recipe("percent", "writes a bare %", RECIPE.replace("./model", "%x"), line=":4", says="YAML", remedy="quotes"),
    _recipe("bad-date", "writes an impossible date", "name: 2024-13-45\n", line=":1", says="YAML", remedy="quotes"),
    _recipe("bomb", "nests aliases", _BOMB, line=":", says="beyond reason", remedy="aliases"),
    _recipe("loop", "lets an alias hold itself", "a: &a [*a]\n", line=":1", says="beyond reason", remedy="aliases"),
    _recipe("deep", "nests 5,000 lists", _DEEP, line=":10", says="beyond reason", remedy="nest"),
    _recipe("huge-number", "writes 6,000 digits", f"name: {'9' * 6000}\n", line=":1", says="YAML", remedy="quotes"),
    _recipe(
        "python-tag", "asks YAML for Python", "name: !!python/name:os.system x\n", line=":1", says="tag", remedy="tag"
    ),
    _recipe("list-as-key", "writes a list as key", "? [a]\n: b\n", line=":1", says="plain text", remedy="in quotes"),
    _recipe(
        "merge-key",
        "uses YAML's merge key",
        RECIPE + "<<: {merge: true}\n",
        line=":10",
        says="'<<'",
        remedy="known keys",
    ),
)

WRONG_VALUES = (
    _edit("unknown-key", "misspells a key", "name:", "nmae:", line=1, says="'nmae'", remedy="did you mean 'name'?"),
    _edit(
        "look-alike", "types a Cyrillic a", "name:", "nаme:", line=1, says="unknown key", remedy="did you mean 'name'?"
    ),
    _edit(
        "twice", "gives a key twice", "name: toy", "name: toy\nname: b", line=2, says="stands twice", remedy="keep one"
    ),
    _edit(
        "wrong-level",
        "puts a key too high",
        "data:",
        "lora_rank: 8\ndata:",
        line=5,
        says="lora_rank",
        remedy="under train",
    ),
    _edit("no-name", "leaves the name out", "name: toy\n", "", line=1, says="name is missing", remedy="run folder"),
    _edit("name-number", "names a run 2024", "name: toy", "name: 2024", line=1, says="name: expected", remedy="quotes"),
    _edit(
        "traversal",
        "names a run ../up",
        "name: toy",
        "name: ../up",
        line=1,
        says="cannot name a folder",
        remedy="letters",
    ),
    _edit(
        "name-newline",
        "ends a name in a line feed",
        "name: toy",
        'name: "toy\\n"',
        line=1,
        says="cannot name",
        remedy="letters",
    ),
    _edit("name-nul", "has a NUL in a name", "name: toy", 'name: "to\\0y"', line=1, says="NUL", remedy="remove it"),
    _edit(
        "task", "misspells the task", "reranker", "rerank", line=2, says="'rerank'", remedy="did you mean 'reranker'?"
    ),
    _edit("task-null", "leaves the task empty", "task: reranker", "task:", line=2, says="task", remedy="reranker"),
    _edit(
        "backend", "names another tool", "flagembedding", "axolotl", line=3, says="'axolotl'", remedy="flagembedding"
    ),
    _edit(
        "layerwise",
        "trains a reranker that scores by its layers",
        "./model",
        "{path: BAAI/bge-reranker-v2-minicpm-layerwise, trust_remote_code: true}",
        line=4,
        says="scores by layers of its own choice",
        remedy="BAAI/bge-reranker-v2-gemma",
    ),
    _edit(
        "published",
        "publishes a model before it is measured",
        "train:\n",
        "train:\n  push_to_hub: true\n",
        line=9,
        says="nothing is published before it is measured",
        remedy="orch push",
    ),
    _edit(
        "axolotl-names",
        "writes axolotl's names",
        "train:\n",
        "train:\n  micro_batch_size: 2\n",
        line=9,
        says="'micro_batch_size'",
        remedy="per_device_train_batch_size",
    ),
    _edit(
        "two-machines",
        "trains on two machines",
        "name: toy\n",
        "name: toy\nlaunch: {env: {NNODES: '2'}}\n",
        line=2,
        says="each host has its own",
        remedy="launch.nproc_per_node",
    ),
    _edit(
        "backend-task",
        "trains an LLM with a tool for rankers",
        "task: reranker",
        "task: sft",
        line=3,
        says="does not train",
        remedy="backend: swift",
    ),
    _edit(
        "data-list",
        "writes data as a list",
        "data:\n  train: train.jsonl\n  eval: eval.jsonl",
        "data: [a, b]",
        line=5,
        says="data: expected",
        remedy="mapping",
    ),
    _edit(
        "no-eval",
        "measures on nothing",
        "  eval: eval.jsonl\n",
        "",
        line=5,
        says="what to measure on",
        remedy="eval_ratio",
    ),
    _edit(
        "both-evals",
        "measures on two things",
        "  eval:",
        "  eval_ratio: 0.1\n  eval:",
        line=5,
        says="one of the two",
        remedy="eval",
    ),
    _edit(
        "ratio",
        "holds out more than all",
        "eval: eval.jsonl",
        "eval_ratio: 1.5",
        line=7,
        says="eval_ratio",
        remedy="share",
    ),
    _edit(
        "ratio-nan", "holds out NaN", "eval: eval.jsonl", "eval_ratio: .nan", line=7, says="eval_ratio", remedy="share"
    ),
    _edit(
        "no-data-file",
        "names data that is not there",
        "train.jsonl",
        "nowhere.jsonl",
        line=6,
        says="nowhere.jsonl",
        remedy="paths start from",
    ),
    _edit(
        "data-folder",
        "names a folder as data",
        "train.jsonl",
        "model",
        line=6,
        says="a model's folder, and no data",
        remedy="paths start from",
    ),
    _edit(
        "data-path-nul", "has a NUL in a path", "train.jsonl", '"a\\0b.jsonl"', line=6, says="NUL", remedy="remove it"
    ),
    _edit(
        "data-home",
        "writes $HOME in a path",
        "train.jsonl",
        "$HOME/rows.jsonl",
        line=6,
        says="$HOME/rows.jsonl",
        remedy="paths start from",
    ),
    _edit(
        "data-nobody",
        "writes the home of nobody",
        "train.jsonl",
        "~nobody-here/rows.jsonl",
        line=6,
        says="~nobody-here",
        remedy="paths start from",
    ),
    _edit(
        "data-star",
        "writes a pattern as path",
        "train.jsonl",
        '"*.jsonl"',
        line=6,
        says="both sides",
        remedy="*train*.jsonl",
    ),
    _edit(
        "data-long",
        "writes a very long path",
        "train.jsonl",
        "a/" * 3000 + "x.jsonl",
        line=6,
        says="data.train",
        remedy="paths start from",
    ),
    _edit(
        "data-columns",
        "maps columns by a list",
        "data:",
        "data:\n  columns: [a]",
        line=6,
        says="data.columns",
        remedy="new name",
    ),
    _edit(
        "seed-infinite",
        "writes an infinite seed",
        "data:",
        "data:\n  seed: .inf",
        line=6,
        says="data.seed",
        remedy="split",
    ),
    _edit(
        "argument",
        "misspells an argument",
        "learning_rate",
        "learning_rat",
        line=9,
        says="'learning_rat'",
        remedy="did you mean",
    ),
    _edit(
        "argument-text",
        "writes a number as word",
        "1e-4",
        "fast",
        line=9,
        says="expected a number",
        remedy="for example 5e-05",
    ),
    _edit("argument-nan", "writes NaN", "1e-4", ".nan", line=9, says="expected a number", remedy="for example 5e-05"),
    _edit(
        "argument-infinite",
        "writes infinity",
        "1e-4",
        ".inf",
        line=9,
        says="expected a number",
        remedy="for example 5e-05",
    ),
    _edit(
        "argument-null",
        "leaves a value out",
        "learning_rate: 1e-4",
        "learning_rate:",
        line=9,
        says="no value",
        remedy="give one",
    ),
    _edit(
        "argument-bytes",
        "gives bytes",
        "1e-4",
        "!!binary aGVsbG8=",
        line=9,
        says="cannot hold bytes",
        remedy="remove the tag",
    ),
    _edit(
        "argument-date", "gives a date", "1e-4", "2024-01-01", line=9, says="learning_rate", remedy="for example 5e-05"
    ),
    _edit(
        "argument-nested", "gives a mapping", "1e-4", "{a: b}", line=9, says="learning_rate", remedy="for example 5e-05"
    ),
    _edit(
        "argument-owned",
        "sets the output folder",
        "learning_rate: 1e-4",
        "output_dir: /tmp/x",
        line=9,
        says="output_dir",
        remedy="run folder",
    ),
    _edit(
        "train-list",
        "writes train as a list",
        "train:\n  learning_rate: 1e-4",
        "train: [a]",
        line=8,
        says="train: expected",
        remedy="arguments",
    ),
    _edit(
        "loss",
        "misspells a loss",
        "train:\n  l",
        "loss: lambdaloss\ntrain:\n  l",
        line=8,
        says="'lambdaloss'",
        remedy="lambda_loss",
    ),
    _edit(
        "loss-backend",
        "gives a loss to a tool without",
        "train:\n  l",
        "loss: lambda_loss\ntrain:\n  l",
        line=8,
        says="have no loss",
        remedy="remove it",
    ),
    _edit(
        "metric",
        "misspells a metric",
        "train:\n  l",
        "evaluate: {metrics: [ndgc@10]}\ntrain:\n  l",
        line=8,
        says="ndgc@10",
        remedy="ndcg@10",
    ),
    _edit(
        "metric-cutoff",
        "cuts a metric at 0",
        "train:\n  l",
        "evaluate: {metrics: [ndcg@0]}\ntrain:\n  l",
        line=8,
        says="'0' is not a cutoff",
        remedy="ndcg@10",
    ),
    _edit(
        "metric-huge",
        "cuts a metric at 10^5000",
        "train:\n  l",
        "evaluate: {metrics: [ndcg@1" + "0" * 5000 + "]}\ntrain:\n  l",
        line=8,
        says="is not a cutoff",
        remedy="ndcg@10",
    ),
    _edit(
        "gate",
        "writes a gate in words",
        "train:\n  l",
        "gate: {ndcg@10: better}\ntrain:\n  l",
        line=8,
        says="not a gate",
        remedy="baseline",
    ),
    _edit(
        "gate-nan",
        "asks for more than NaN",
        "train:\n  l",
        "gate: {ndcg@10: '> nan'}\ntrain:\n  l",
        line=8,
        says="not a gate",
        remedy="baseline",
    ),
    _edit(
        "gate-list",
        "writes gates as a list",
        "train:\n  l",
        "gate: [ndcg@10]\ntrain:\n  l",
        line=8,
        says="gate: expected",
        remedy="what must hold",
    ),
    _edit(
        "gate-number",
        "writes a bare number",
        "train:\n  l",
        "gate: {ndcg@10: 0.5}\ntrain:\n  l",
        line=8,
        says="no operator",
        remedy="write '> 0.5'",
    ),
    _edit(
        "guard-name",
        "names a guard ../up",
        "train:\n  l",
        "evaluate: {guard: {../up: eval.jsonl}}\ntrain:\n  l",
        line=8,
        says="cannot name a folder",
        remedy="letters",
    ),
    _edit(
        "guard-file",
        "guards with no file",
        "train:\n  l",
        "evaluate: {guard: {general: x.jsonl}}\ntrain:\n  l",
        line=8,
        says="x.jsonl",
        remedy="paths start from",
    ),
    _edit(
        "secret",
        "writes a token into env",
        "train:\n  l",
        "launch: {env: {HF_TOKEN: hf_abc}}\ntrain:\n  l",
        line=8,
        says="looks like a secret",
        remedy="your shell",
    ),
    _edit(
        "secret-url",
        "writes a password into a URL",
        "train:\n  l",
        "launch: {env: {HTTPS_PROXY: 'http://me:pw@proxy:80'}}\ntrain:\n  l",
        line=8,
        says="a URL that holds a password",
        remedy="your shell",
    ),
    _edit(
        "secret-url-slash",
        "writes a password with a slash into a URL",
        "train:\n  l",
        "launch: {env: {HTTPS_PROXY: 'http://me:p/w@proxy:80'}}\ntrain:\n  l",
        line=8,
        says="a URL that holds a password",
        remedy="your shell",
    ),
    _edit(
        "secret-form",
        "keeps a token of GitLab in a comment",
        "name: toy",
        "name: toy  # glpat-" + "a1" * 10,
        line=1,
        says="looks like a token",
        remedy="your shell",
    ),
    _edit(
        "secret-comment",
        "keeps a token in a comment",
        "name: toy",
        "name: toy  # hf_" + "a" * 34,
        line=1,
        says="looks like a token",
        remedy="your shell",
    ),
    _edit(
        "env-name",
        "names a variable A=B",
        "train:\n  l",
        "launch: {env: {'A=B': c}}\ntrain:\n  l",
        line=8,
        says="A=B",
        remedy="letters",
    ),
    _edit(
        "env-nul",
        "has a NUL in a variable",
        "train:\n  l",
        'launch: {env: {A: "b\\0"}}\ntrain:\n  l',
        line=8,
        says="NUL",
        remedy="remove",
    ),
    _edit(
        "env-number",
        "gives a variable a number",
        "train:\n  l",
        "launch: {env: {A: 1}}\ntrain:\n  l",
        line=8,
        says="launch.env.A",
        remedy="quotes",
    ),
    _edit(
        "processes",
        "asks for 0 processes",
        "train:\n  l",
        "launch: {nproc_per_node: 0}\ntrain:\n  l",
        line=8,
        says="at least 1",
        remedy="its keys: nproc_per_node",
    ),
    _edit(
        "timeout",
        "sets a negative time limit",
        "train:\n  l",
        "launch: {timeout_s: -1}\ntrain:\n  l",
        line=8,
        says="timeout_s",
        remedy="seconds",
    ),
    _edit(
        "bool",
        "writes perhaps",
        "train:\n  l",
        "merge: perhaps\ntrain:\n  l",
        line=8,
        says="merge: expected",
        remedy="merge LoRA",
    ),
    _edit(
        "checkpoint",
        "names a checkpoint by path",
        "train:\n  l",
        "checkpoint: ../../etc\ntrain:\n  l",
        line=8,
        says="checkpoint",
        remedy="best",
    ),
    _edit(
        "teacher",
        "misspells a teacher's key",
        "train:\n  l",
        "teacher: {path: a/b, max_lenght: 9}\ntrain:\n  l",
        line=8,
        says="max_lenght",
        remedy="max_length",
    ),
    BadInput(
        "package-dots",
        "names a package by dots",
        CHECK,
        4,
        "recipe.yaml:4",
        "not installed",
        "the name that Python imports",
        edited("./model", "{package: ../../etc}"),
    ),
)

_CROSS = RECIPE.replace("backend: flagembedding", "backend: sentence-transformers\nloss: pointwise_bce").replace(
    "./model", "{path: ./model, family: encoder}"
)

DISAGREEING = (
    _recipe(
        "saves-elsewhere",
        "evaluates at other steps than it saves at",
        _CROSS.replace("eval.jsonl", "eval.jsonl\n  validation_ratio: 0.2")
        + "  save_strategy: epoch\n  eval_steps: 5\n",
        says="the best one may not be saved",
        remedy="save_strategy: steps and save_steps: 5",
    ),
    _recipe(
        "saves-nothing",
        "saves no checkpoint",
        _CROSS + "  save_strategy: 'no'\n",
        line=":11",
        says="no model to package",
        remedy="say epoch or steps",
    ),
    _recipe(
        "shared-by-three",
        "shares layers among more processes than there are",
        RECIPE + "  parallelism_config: {tp_size: 3}\n",
        line=":10",
        says="tp_size 3 shares layers",
        remedy="one of 1",
    ),
)

_EMBEDDING = _CROSS.replace("task: reranker", "task: embedding").replace("pointwise_bce", "mnrl")


def _embedding(name: str, story: str, model: str, *, says: str, remedy: str) -> BadInput:
    """Return the case of an embedding model's recipe with this model."""
    content = _EMBEDDING.replace("{path: ./model, family: encoder}", model)
    return _recipe(name, story, content, line=":5", says=says, remedy=remedy)


EMBEDDINGS = (
    _embedding(
        "bare-encoder",
        "trains an encoder of which nobody knows how it pools",
        "owner/plain-bert",
        says="nothing says how owner/plain-bert makes one vector",
        remedy="pooling: mean",
    ),
    _embedding(
        "other-pooling",
        "pools a known model in another way",
        "{path: BAAI/bge-m3, pooling: mean}",
        says="model.pooling is mean, and its model card (https://huggingface.co/BAAI/bge-m3) says cls",
        remedy="remove it",
    ),
    _embedding(
        "other-prompt",
        "gives a known model a prompt that it does not have",
        "{path: intfloat/e5-base-v2, prompts: {query: 'question: '}}",
        says="has no prompt 'question: ' for queries",
        remedy="'query: '",
    ),
    _embedding(
        "prompt-side",
        "misspells a side of the prompts",
        "{path: intfloat/e5-base-v2, prompts: {passage: 'passage: '}}",
        says="unknown key 'passage'",
        remedy="document",
    ),
    _embedding(
        "embeds-by-code",
        "trains a model that brings code without a word of it",
        "nomic-ai/nomic-embed-text-v1.5",
        says="brings Python code along",
        remedy="trust_remote_code: true",
    ),
    _recipe(
        "pooling-of-a-reranker",
        "says of a reranker how it pools",
        _CROSS.replace("family: encoder}", "family: encoder, pooling: cls}"),
        line=":5",
        says="it is of embedding models",
        remedy="remove it",
    ),
)

CASES = NOT_A_RECIPE + WRONG_VALUES + DISAGREEING + EMBEDDINGS
