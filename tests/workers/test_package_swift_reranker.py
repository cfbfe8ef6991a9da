from __future__ import annotations

import json
import re
import shlex
import shutil
from dataclasses import replace

import pytest

from orchestrator.workers import merge, package
from orchestrator.workers.engines.swift import EngineSettings, open_engine, score_in_engine
from orchestrator.workers.eval_files import AWKWARD, EXAMPLES
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.reranker.scoring import load_scorer
from orchestrator.workers.specs import ScoringSpec
from orchestrator.workers.weights import hash_file
from tests.workers.conftest import Trained, copy_with, load_spec, package_arguments
from tests.workers.pinned import check_pinned

pytest.importorskip("swift")

WORDS, HEAD = "generative_reranker", "reranker"
PAIRS = [*EXAMPLES, *AWKWARD, ("", "no query"), ("<|endoftext|> inside", "of a query"), (" spaces", "  around  ")]


def write_spec(path, trained_by, **changes):
    spec = {
        "version": 1,
        "name": "trained-format",
        "label": "tuned, in its training format",
        "scorer": {WORDS: "qwen3-native", HEAD: "qwen3-score-head"}[trained_by],
        "dtype": "float32",
        "trust_remote_code": False,
        "instruction": None,
        "max_length": 320,
        "batch_size": 8,
        "tool": "swift",
        "model_type": "qwen3_reranker",
        "task_type": trained_by,
        "template": "qwen3_reranker",
    }
    path.write_text(json.dumps({**spec, **changes}), encoding="utf-8")
    return path


def train(base, place, task_type):
    """Leave what swift leaves: an adapter without tokenizer, with the head in it when there is one, and the merge."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    torch.manual_seed(7)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "down_proj"]}
    if task_type == WORDS:
        model = AutoModelForCausalLM.from_pretrained(base)
        lora = LoraConfig(task_type="CAUSAL_LM", **settings)
    else:
        model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
        lora = LoraConfig(task_type="SEQ_CLS", modules_to_save=["classifier", "score"], **settings)
    model = get_peft_model(model, lora)
    for name, parameter in model.named_parameters():
        if "lora_B" in name or "modules_to_save" in name:
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    folder = place / task_type
    model.save_pretrained(folder / "adapter")
    merging = ["--base", str(base), "--adapter", str(folder / "adapter"), "--out", str(folder / "merged")]
    assert merge.main(merging) == 0
    # what swift's engine reads of the arguments that swift leaves in every checkpoint
    template = {"template": "qwen3_reranker", "use_chat_template": True, "truncation_strategy": "delete"}
    kinds = {"model_type": "qwen3_reranker", "task_type": task_type, "swift_version": "4.6.0"}
    for kept in ("adapter", "merged"):
        (folder / kept / "args.json").write_text(json.dumps({"model": str(base), **kinds, **template}))
    return Trained(base, folder / "adapter", folder / "merged", write_spec(folder / "spec.json", task_type))


@pytest.fixture(scope="module")
def trained(decoder, tmp_path_factory):
    place = tmp_path_factory.mktemp("swift")
    return {task_type: train(decoder, place, task_type) for task_type in (WORDS, HEAD)}


@pytest.fixture(scope="module")
def packaged(trained, eval_file, tmp_path_factory):
    place = tmp_path_factory.mktemp("packaged")
    for task_type, one in trained.items():
        assert package.main(package_arguments(one, eval_file, place / task_type, device="cpu")) == 0
    return {task_type: place / task_type for task_type in trained}


def furthest(scores, others):
    return max(abs(one - other) for one, other in zip(scores, others, strict=True))


def predict(folder, pairs, batch_size=8):
    from sentence_transformers import CrossEncoder

    encoder = CrossEncoder(str(folder), device="cpu")
    return [float(score) for score in encoder.predict(pairs, batch_size=batch_size, show_progress_bar=False)]


@pytest.mark.parametrize("task_type", [WORDS, HEAD])
def test_a_plain_cross_encoder_gives_the_raw_score_of_swift(packaged, trained, task_type):
    settings = EngineSettings("qwen3_reranker", task_type, "qwen3_reranker")
    engine = open_engine(trained[task_type].base, settings, "cpu", trained[task_type].adapter)
    expected = score_in_engine(engine, ScoringSpec("qwen3-native").effective_instruction, PAIRS)
    scores = predict(packaged[task_type], PAIRS)
    assert furthest(scores, expected) < 1e-4
    assert max(scores) - min(scores) > 0.1


@pytest.mark.parametrize("task_type", [WORDS, HEAD])
def test_batches_give_the_scores_of_single_pairs_in_the_worker_too(packaged, trained, task_type):
    single = predict(packaged[task_type], PAIRS, batch_size=1)
    for model in (packaged[task_type], trained[task_type].model):
        scorer = load_scorer(str(model), load_spec(trained[task_type].scoring), "cpu")
        assert furthest(scorer.score(PAIRS, None), single) < 1e-4


@pytest.mark.parametrize("task_type", [WORDS, HEAD])
def test_what_is_written_is_what_is_pinned(packaged, task_type):
    folder = packaged[task_type]
    check_pinned(f"swift-{task_type}", folder, folder.with_name(f"{task_type}.verification.json"))


@pytest.mark.parametrize("task_type", [WORDS, HEAD])
def test_the_report_holds_every_check_and_gives_swift_no_pair_that_is_cut(packaged, task_type):
    path = packaged[task_type].with_name(f"{task_type}.verification.json")
    report = json.loads(path.read_text(encoding="utf-8"))
    assert report["passed"]
    assert {check["name"] for check in report["checks"]} == {
        *("weights", "complete", "tokens", "finite", "changed-weights", "changed-scores", "swift"),
        *("sentence-transformers", "not-constant", "merged", "merge-keeps-training"),
    }
    for probe in report["probes"]:
        asked = {probe["swift"] is not None, probe["adapter"] is not None, probe["base"] is not None}
        assert asked == {not probe["cut"]}
        assert probe["model"] == pytest.approx(probe["sentence_transformers"], abs=1e-4)
    assert [probe["origin"] for probe in report["probes"] if probe["cut"]] == ["long"]
    assert report["versions"]["ms-swift"]
    assert report["base_head"] == {WORDS: None, HEAD: "trained"}[task_type]


@pytest.mark.parametrize("task_type", [WORDS, HEAD])
def test_the_folder_describes_itself_and_carries_nothing_of_the_training(packaged, trained, task_type):
    folder = packaged[task_type]
    described = json.loads((folder / "scoring.json").read_text(encoding="utf-8"))
    assert len(described["probes"]) == 4
    pairs = [(probe["query"], probe["document"]) for probe in described["probes"]]
    assert furthest(predict(folder, pairs), [probe["score"] for probe in described["probes"]]) < 1e-4
    assert (described["tool"], described["task_type"]) == ("swift", task_type)
    assert ("true_token_id" in described) == ("false_token_id" in described) == (task_type == WORDS)
    listed = {*described["files"], "README.md", "scoring.json"}
    assert listed == {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert not (folder / "args.json").exists()
    assert hash_file(folder / "model.safetensors") == hash_file(trained[task_type].model / "model.safetensors")
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert (settings["padding_side"], settings["model_max_length"]) == ("left", 320)


@pytest.mark.parametrize("task_type", [WORDS, HEAD])
def test_the_cards_snippets_score_as_measured_and_its_server_gets_the_prompt(packaged, task_type, capsys):
    folder = packaged[task_type]
    card = (folder / "README.md").read_text(encoding="utf-8").replace("path/to/this/folder", str(folder))
    assert "<!-- orch:results -->" in card
    expected = [probe["score"] for probe in json.loads((folder / "scoring.json").read_text())["probes"]][:2]
    snippets = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    assert len(snippets) == 2
    for snippet in snippets:
        names = {}
        exec(snippet, names)  # noqa: S102
        assert furthest([float(score) for score in names["scores"]], expected) < 1e-4
    capsys.readouterr()
    (block,) = re.findall(r"```bash\n(.*?)```", card, re.DOTALL)
    serve = shlex.split(block.splitlines()[0])
    assert (folder / "chat_template.jinja").samefile(serve[serve.index("--chat-template") + 1])
    if task_type == WORDS:
        overrides = json.loads(serve[serve.index("--hf_overrides") + 1])
        assert overrides["classifier_from_token"] == ["no", "yes"]
    else:
        assert "--hf_overrides" not in serve


def test_an_instruction_of_the_runs_own_is_swifts_system_message(trained, eval_file, tmp_path):
    spec = write_spec(tmp_path / "spec.json", WORDS, instruction='Find the "law" {{ that applies }}')
    arguments = package_arguments(replace(trained[WORDS], scoring=spec), eval_file, tmp_path / "model", device="cpu")
    assert package.main(arguments) == 0
    template = (tmp_path / "model" / "chat_template.jinja").read_text(encoding="utf-8")
    assert "{{ that applies }}" in template
    assert furthest(predict(tmp_path / "model", PAIRS), predict_with_default(trained, tmp_path)) > 1e-3


def predict_with_default(trained, tmp_path):
    spec = load_spec(write_spec(tmp_path / "default.json", WORDS))
    return load_scorer(str(trained[WORDS].model), spec, "cpu").score(PAIRS, None)


def test_a_fully_trained_model_without_pad_token_and_cache_is_packaged_fit_for_batches(trained, eval_file, tmp_path):
    shutil.copytree(trained[HEAD].model, tmp_path / "m")
    config = tmp_path / "m" / "config.json"
    changed = {**json.loads(config.read_text(encoding="utf-8")), "pad_token_id": None, "use_cache": False}
    config.write_text(json.dumps(changed), encoding="utf-8")
    full = replace(trained[HEAD], model=tmp_path / "m", adapter=None)
    single = load_scorer(str(full.model), replace(load_spec(full.scoring), batch_size=1), "cpu").score(PAIRS, None)
    assert furthest(load_scorer(str(full.model), load_spec(full.scoring), "cpu").score(PAIRS, None), single) < 1e-4
    assert package.main(package_arguments(full, eval_file, tmp_path / "model", device="cpu")) == 0
    assert furthest(predict(tmp_path / "model", PAIRS), single) < 1e-4
    packaged = json.loads((tmp_path / "model" / "config.json").read_text(encoding="utf-8"))
    assert packaged["pad_token_id"] is not None
    assert packaged["use_cache"] is True
    check_pinned("swift-reranker.full", tmp_path / "model", tmp_path / "model.verification.json")


def test_a_base_without_a_head_gets_the_same_new_one_each_time(decoder, trained):
    spec = load_spec(trained[HEAD].scoring)
    first, again = (load_scorer(str(decoder), spec, "cpu") for _ in range(2))
    assert first.reader.facts["head"] == "new"
    assert first.score(PAIRS, None) == again.score(PAIRS, None)
    assert load_scorer(str(trained[HEAD].model), spec, "cpu").reader.facts["head"] == "pretrained"


def refuse(trained, eval_file, out, **changes):
    with pytest.raises(WorkerError) as caught:
        package.main(package_arguments(trained, eval_file, out, device="cpu", **changes))
    assert not out.exists()
    return {problem.split(":")[0] for problem in caught.value.problems}


def test_a_weight_changed_after_the_merge_is_refused(trained, eval_file, tmp_path):
    tampered = copy_with(trained[WORDS], tmp_path / "m", lambda name, one: one * 1.5 if "1.mlp.up" in name else one)
    failed = refuse(tampered, eval_file, tmp_path / "out")
    assert {"merged"} <= failed <= {"merged", "merge-keeps-training"}


def test_the_base_in_place_of_the_trained_model_is_refused(trained, eval_file, tmp_path):
    failed = refuse(replace(trained[WORDS], model=trained[WORDS].base), eval_file, tmp_path / "out")
    assert {"changed-weights", "changed-scores", "merged", "merge-keeps-training"} <= failed
    check_pinned("swift-generative_reranker.base", None, tmp_path / "out.verification.json")


def test_a_trained_head_on_an_untrained_model_is_refused(trained, eval_file, tmp_path):
    from safetensors.torch import load_file

    base = load_file(trained[HEAD].base / "model.safetensors")
    only_head = copy_with(trained[HEAD], tmp_path / "m", base.get)
    failed = refuse(replace(only_head, adapter=None), eval_file, tmp_path / "out")
    assert failed == {"changed-weights", "changed-scores"}


def test_a_head_that_gives_one_number_for_everything_is_refused(trained, eval_file, tmp_path):
    constant = copy_with(trained[HEAD], tmp_path / "m", lambda name, one: one * 0 if name == "score.weight" else one)
    assert "not-constant" in refuse(replace(constant, adapter=None), eval_file, tmp_path / "out")


def test_weights_that_are_nan_are_refused(trained, eval_file, tmp_path):
    broken = copy_with(
        trained[WORDS], tmp_path / "m", lambda name, one: one * float("nan") if "q_proj" in name else one
    )
    assert refuse(broken, eval_file, tmp_path / "out") == {"weights"}


def test_a_head_that_is_missing_is_refused(trained, eval_file, tmp_path):
    headless = copy_with(trained[HEAD], tmp_path / "m", lambda name, one: None if name == "score.weight" else one)
    assert "complete" in refuse(headless, eval_file, tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"task_type": "reranker"}, "does not fit the scorer"),
        ({"template": "qwen3"}, "cannot be packaged"),
        ({"tool": None}, "when its tool is swift"),
        ({"max_length": 40}, "max_length 40 cuts 27 of 27 probes"),
        ({"scorer": "bi-encoder"}, "a bi-encoder model cannot be packaged"),
    ],
)
def test_a_spec_that_does_not_fit_is_refused(trained, eval_file, tmp_path, changes, reason):
    spec = write_spec(tmp_path / "spec.json", WORDS, **changes)
    with pytest.raises(WorkerError, match=reason):
        package.main(
            package_arguments(replace(trained[WORDS], scoring=spec), eval_file, tmp_path / "out", device="cpu")
        )
