from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from orchestrator.data.prepare import main

if TYPE_CHECKING:
    from pathlib import Path

relaxed = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Stage:
    """Runs the stage in this process and keeps what it said."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.out = folder / "run" / "data"
        self._capsys = capsys
        self.stdout = self.stderr = ""

    def __call__(self, *argv: object) -> int:
        code = main([*map(str, argv), "--form", "flagembedding", "--out", str(self.out)])
        self.stdout, self.stderr = self._capsys.readouterr()
        return code

    def lines(self, name: str) -> list[dict]:
        return [json.loads(line) for line in (self.out / name).read_text(encoding="utf-8").splitlines()]

    def json(self, name: str) -> dict:
        return json.loads((self.out / name).read_text(encoding="utf-8"))

    def names(self) -> list[str]:
        return sorted(path.name for path in self.out.iterdir()) if self.out.exists() else []


@pytest.fixture
def stage(tmp_path, capsys):
    return Stage(tmp_path, capsys)


@pytest.fixture
def train(files, row):
    return files.lines("train.jsonl", *[row(number) for number in range(40)])


@pytest.fixture
def evaluation(files, row):
    return files.lines("eval.jsonl", *[row(number) for number in range(100, 103)])


def test_the_four_files_appear_and_nothing_else(stage, train, evaluation):
    assert stage("--train", train, "--eval", evaluation) == 0
    assert stage.names() == ["eval.jsonl", "ledger.json", "stats.json", "train.jsonl"]


def test_training_rows_are_what_the_backend_reads(stage, train, evaluation, row):
    stage("--train", train, "--eval", evaluation)
    assert stage.lines("train.jsonl") == [row(number) for number in range(40)]


def test_eval_rows_are_canonical_groups(stage, train, evaluation):
    stage("--train", train, "--eval", evaluation)
    rows = stage.lines("eval.jsonl")
    assert [(found["qid"], found["source"], found["line"]) for found in rows] == [
        ("q000001", "eval.jsonl", 1),
        ("q000002", "eval.jsonl", 2),
        ("q000003", "eval.jsonl", 3),
    ]
    assert sorted(found["label"] for found in rows[0]["documents"]) == [0, 0, 1]


def test_the_ledger_names_files_hashes_and_counts(stage, train, evaluation):
    stage("--train", train, "--eval", evaluation)
    ledger = stage.json("ledger.json")
    assert ledger["version"] == 1
    side = ledger["sides"]["train"]
    assert {key: side[key] for key in ("rows_in", "kept", "moved_to_eval", "dropped")} == {
        "rows_in": 40,
        "kept": 40,
        "moved_to_eval": 0,
        "dropped": {},
    }
    assert side["files"][0]["path"] == str(train)
    assert side["files"][0]["rows_in"] == 40
    assert len(side["files"][0]["sha256"]) == 64


def test_statistics_are_of_the_kept_rows(stage, train, evaluation):
    stage("--train", train, "--eval", evaluation, "--limit-train", 5)
    stats = stage.json("stats.json")
    assert (stats["version"], stats["train"]["rows"], stats["eval"]["rows"]) == (1, 5, 3)


def test_several_files_are_read_one_after_the_other(stage, files, evaluation, row):
    first, second = files.lines("a.jsonl", row(1)), files.raw("b.json", json.dumps([row(2), row(3)]))
    assert stage("--train", first, second, "--eval", evaluation) == 0
    assert [found["query"] for found in stage.lines("train.jsonl")] == ["question 1", "question 2", "question 3"]


def test_without_an_eval_side_there_is_no_eval_file(stage, train):
    assert stage("--train", train) == 0
    assert stage.names() == ["ledger.json", "stats.json", "train.jsonl"]


def test_prepared_files_are_the_same_byte_for_byte_whenever_they_are_made(stage, train):
    def contents():
        stage("--train", train, "--eval-ratio", 0.2)
        return {name: (stage.out / name).read_bytes() for name in stage.names()}

    assert contents() == contents()


def test_the_same_rows_in_another_order_have_the_same_split(stage, files, row):
    def split(*numbers):
        stage("--train", files.lines("t.jsonl", *[row(number) for number in numbers]), "--eval-ratio", 0.3)
        return {found["query"] for found in stage.lines("eval.jsonl")}

    assert split(*range(40)) == split(*reversed(range(40)))


def test_added_rows_leave_the_others_on_their_side(stage, files, row):
    def split(count):
        stage("--train", files.lines("t.jsonl", *[row(number) for number in range(count)]), "--eval-ratio", 0.3)
        return {found["query"] for found in stage.lines("eval.jsonl")}

    fewer, more = split(40), split(60)
    assert fewer == {query for query in more if int(query.split()[1]) < 40}


def test_a_split_puts_all_rows_of_a_query_on_one_side(stage, files, row):
    rows = [row(number, query=f"{'Q ' if number % 2 else ' q  '}{number // 2}") for number in range(80)]
    stage("--train", files.lines("t.jsonl", *rows), "--eval-ratio", 0.3)
    sides = [
        {found["query"].lower().split()[1] for found in stage.lines(name)} for name in ("train.jsonl", "eval.jsonl")
    ]
    assert all(sides)
    assert not sides[0] & sides[1]


def test_a_split_is_in_the_ledger_of_both_sides(stage, train):
    stage("--train", train, "--eval-ratio", 0.2)
    sides = stage.json("ledger.json")["sides"]
    moved = sides["train"]["moved_to_eval"]
    assert 0 < moved < 40
    assert sides["train"]["kept"] == 40 - moved
    assert (sides["eval"]["files"], sides["eval"]["rows_in"], sides["eval"]["kept"]) == ([], moved, moved)


@pytest.mark.parametrize("ratio", [0.0001, 0.9999])
def test_a_ratio_that_would_leave_a_side_empty_gives_it_one_query(stage, train, ratio):
    assert stage("--train", train, "--eval-ratio", ratio) == 0
    kept = [side["kept"] for side in stage.json("ledger.json")["sides"].values()]
    assert sorted(kept) == [1, 39]


def test_limits_keep_the_first_rows_of_each_side(stage, train, evaluation):
    stage("--train", train, "--eval", evaluation, "--limit-train", 2, "--limit-eval", 1)
    assert [found["query"] for found in stage.lines("train.jsonl")] == ["question 0", "question 1"]
    assert [found["query"] for found in stage.lines("eval.jsonl")] == ["question 100"]
    assert stage.json("ledger.json")["sides"]["eval"]["dropped"] == {"over-limit": 2}


def test_a_query_over_the_eval_limit_is_still_kept_out_of_training(stage, files, evaluation, row):
    train = files.lines("t.jsonl", row(1), row(102, neg=["x"]))
    stage("--train", train, "--eval", evaluation, "--limit-eval", 1)
    assert stage.json("ledger.json")["sides"]["train"]["dropped"] == {"query-also-in-eval": 1}


def test_a_bad_row_ends_with_code_3_and_its_place(stage, files, row):
    train = files.lines("t.jsonl", row(1), row(2, neg=[]))
    assert stage("--train", train) == 3
    remedy = "add documents that do not answer, or mine hard negatives"
    assert stage.stderr == f'{train}:2: no-negative: "neg" is an empty list — {remedy}\n'


def test_of_bad_data_only_the_failed_ledger_is_left(stage, files, row):
    assert stage("--train", files.lines("t.jsonl", row(1), row(2, neg=[])), "--eval-ratio", 0.5) == 3
    assert stage.names() == ["ledger.failed.json"]
    assert stage.json("ledger.failed.json")["sides"]["train"]["dropped"] == {"no-negative": 1}


def test_bad_data_removes_what_an_earlier_call_prepared(stage, files, row, train):
    stage("--train", train)
    assert stage("--train", files.lines("t.jsonl", row(2, neg=[]))) == 3
    assert stage.names() == ["ledger.failed.json"]


def test_good_data_removes_the_ledger_of_an_earlier_failure(stage, files, row, train):
    stage("--train", files.lines("t.jsonl", row(2, neg=[])))
    assert stage("--train", train) == 0
    assert "ledger.failed.json" not in stage.names()


def test_bad_rows_of_one_kind_are_one_line_with_their_places(stage, files, row):
    rows = [row(number, neg=[]) for number in range(25)] + [row(number, pos="x") for number in range(2)]
    train = files.lines("t.jsonl", row(99), *rows)
    stage("--train", train)
    first, second = stage.stderr.splitlines()
    assert first.startswith(f"{train}:2: no-negative: ")
    assert "(also lines 3, 4, 5, 6, 7 and 19 more)" in first
    assert second.startswith(f"{train}:27: wrong-type: ")
    assert "(also line 28)" in second


def test_the_first_20_kinds_of_bad_rows_are_shown_and_the_rest_counted_by_reason(stage, files, row):
    rows = [row(number) | {"pos": "x" * (number + 1)} for number in range(25)] + [row(9, neg=[])] * 3
    stage("--train", files.lines("t.jsonl", row(99), *rows))
    shown = stage.stderr.splitlines()
    assert len(shown) == 21
    assert shown[-1] == "and 8 more bad rows; in all: no-negative 3, wrong-type 25"


def test_as_many_bad_rows_as_allowed_are_dropped_and_said(stage, files, row):
    train = files.lines("t.jsonl", row(1), row(2, neg=[]))
    assert stage("--train", train, "--max-dropped", 1) == 0
    assert stage.stderr.startswith(f"dropped: {train}:2: no-negative: ")
    assert stage.stdout.splitlines()[-1] == "train: 2 rows in = 1 kept + 1 no-negative"


def test_one_bad_row_more_than_allowed_ends_with_code_3(stage, files, row):
    train = files.lines("t.jsonl", row(1), row(2, neg=[]), row(3, neg=[]))
    assert stage("--train", train, "--max-dropped", 1) == 3
    assert "2 bad rows are more than the 1 that may be dropped" in stage.stderr


def test_duplicates_are_not_bad(stage, files, row):
    assert stage("--train", files.lines("t.jsonl", row(1), row(1), row(1))) == 0
    assert stage.stdout.splitlines()[-1] == "train: 3 rows in = 1 kept + 2 duplicate"


def test_no_row_left_ends_with_code_3_whatever_is_allowed(stage, files, row, evaluation):
    assert stage("--train", files.lines("t.jsonl", row(100, neg=["x"])), "--eval", evaluation, "--max-dropped", 9) == 3
    assert "no-rows-kept: no train row is left of 1 (query-also-in-eval 1)" in stage.stderr


def test_fewer_rows_than_one_step_takes_end_with_code_3(stage, train):
    assert stage("--train", train, "--full-batch", 40) == 0
    assert stage("--train", train, "--full-batch", 41) == 3
    assert stage.stderr.startswith("too-few-rows: 40 training rows are left, and one step of the trainer takes 41 — ")
    assert stage.names() == ["ledger.failed.json"]


def test_rows_that_fill_no_batch_are_said_on_standard_error_and_in_the_ledger(stage, train):
    assert stage("--train", train, "--full-batch", 8) == 0
    assert stage.stderr == ""
    assert stage("--train", train, "--full-batch", 12) == 0
    said = "4 of 40 training rows do not fill a batch of 12: each epoch leaves out others"
    assert stage.stderr == f"warning: rows-left-over: {said}\n"
    assert [(one["code"], one["count"], one["message"]) for one in stage.json("ledger.json")["warnings"]] == [
        ("rows-left-over", 4, said)
    ]


def test_warnings_go_to_standard_error(stage, files, row):
    train = files.lines("t.jsonl", row(1, id=1))
    assert stage("--train", train) == 0
    assert stage.stderr == f'warning: unknown-keys: keys that are not used (in how many rows): "id" (1) ({train}:1)\n'


def test_progress_ends_with_all_bytes_of_all_files(stage, train, evaluation):
    stage("--train", train, "--eval", evaluation)
    total = train.stat().st_size + evaluation.stat().st_size
    assert stage.stdout.splitlines()[0] == f"orch-progress {total}/{total}"


def test_an_input_is_never_overwritten(stage, train):
    stage.out.mkdir(parents=True)
    inside = stage.out / "train.jsonl"
    inside.write_bytes(train.read_bytes())
    assert stage("--train", inside) == 3
    assert "input-is-output: " in stage.stderr
    assert inside.read_bytes() == train.read_bytes()


def test_a_missing_input_removes_what_an_earlier_call_prepared(stage, files, train):
    stage("--train", train)
    assert stage("--train", files.folder / "missing.jsonl") == 3
    assert stage.names() == []


def test_a_file_whose_name_is_not_utf_8_can_be_used(stage, files, row, train):
    odd = files.lines(os.fsdecode(b"\xff.jsonl"), row(100))
    assert stage("--train", train, "--eval", odd) == 0
    assert stage.lines("eval.jsonl")[0]["source"] == "?.jsonl"


def test_a_folder_that_cannot_be_written_ends_with_code_4(stage, train):
    stage.out.parent.mkdir()
    stage.out.write_text("a file where the folder should be")
    assert stage("--train", train) == 4
    assert "the prepared data cannot be written" in stage.stderr


def test_teacher_scores_and_prompts_reach_the_training_file(stage, files, row):
    given = row(1, pos_scores=[1.5], neg_scores=[0, -2], prompt="Judge.")
    stage("--train", files.lines("t.jsonl", given))
    assert stage.lines("train.jsonl") == [given]


def test_a_prompt_reaches_the_eval_file(stage, files, row, train):
    stage("--train", train, "--eval", files.lines("e.jsonl", row(100, prompt="Judge.")))
    assert stage.lines("eval.jsonl")[0]["prompt"] == "Judge."


@pytest.mark.parametrize(
    "argv",
    [
        ["--eval-ratio", "1.5"],
        ["--limit-train", "0"],
        ["--max-dropped", "-1"],
        ["--query-max-len", "32"],
        ["--lim", "3"],
    ],
)
def test_an_argument_that_makes_no_sense_ends_with_code_2(stage, train, argv):
    with pytest.raises(SystemExit) as caught:
        stage("--train", train, *argv)
    assert caught.value.code == 2


def test_the_stage_runs_as_a_command_and_imports_no_machine_learning_library(stage, train):
    probe = (
        "import runpy, sys; sys.argv[0] = 'prepare'\n"
        "try: runpy.run_module('orchestrator.data.prepare', run_name='__main__')\n"
        "except SystemExit as end: assert end.code == 0, end.code\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "assert not loaded & {'torch', 'transformers', 'datasets', 'numpy', 'pandas', 'tokenizers'}, loaded\n"
    )
    argv = ["--train", str(train), "--form", "flagembedding", "--out", str(stage.out)]
    done = subprocess.run([sys.executable, "-c", probe, *argv], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (stage.out / "train.jsonl").exists()


@relaxed
@given(st.binary(max_size=120), st.booleans())
def test_arbitrary_bytes_end_with_data_or_with_code_3(stage, files, data, is_list):
    path = files.raw("a.json", b"[" + data + b"]" if is_list else data)
    assert stage("--train", path, "--eval-ratio", 0.5, "--max-dropped", 99) in {0, 3}
    assert "train.jsonl" not in stage.names() or stage.names()[0] == "eval.jsonl"
