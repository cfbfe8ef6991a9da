from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace

import pytest

from orchestrator.workers import package
from orchestrator.workers.eval_files import read_candidates
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.reranker import folder as reranker_folder
from orchestrator.workers.reranker.scoring import load_scorer
from orchestrator.workers.weights import hash_file
from tests.workers.conftest import copy_with, load_spec, package_arguments
from tests.workers.pinned import check_pinned


@pytest.fixture(scope="module")
def pairs(eval_file):
    found = [(candidate.query, candidate.document) for candidate in read_candidates(eval_file)]
    return [*found, ("ends with a stop.", "a line break\n"), ("问题？", "答案。"), (" spaces", "  around  ")]


def furthest(scores, others):
    return max(abs(one - other) for one, other in zip(scores, others, strict=True))


def predict(encoder, pairs):
    return [float(score) for score in encoder.predict(pairs, batch_size=8, show_progress_bar=False)]


def test_the_decoder_scores_the_same_in_both_libraries_and_after_saving_again(packaged_decoder, pairs, tmp_path):
    from sentence_transformers import CrossEncoder

    spec = load_spec(packaged_decoder / "scoring.json")
    native = load_scorer(str(packaged_decoder), spec, "cpu").score(pairs, None)
    encoder = CrossEncoder(str(packaged_decoder), device="cpu")
    scores = predict(encoder, pairs)
    assert furthest(native, scores) < 1e-4
    assert max(scores) - min(scores) > 0.1
    encoder.save_pretrained(str(tmp_path / "again"))
    assert furthest(predict(CrossEncoder(str(tmp_path / "again"), device="cpu"), pairs), scores) < 1e-5


def test_the_encoder_scores_the_same_in_both_libraries_as_raw_logits(packaged_encoder, pairs):
    from FlagEmbedding import FlagReranker
    from sentence_transformers import CrossEncoder

    native = FlagReranker(str(packaged_encoder), max_length=192, devices=["cpu"]).compute_score(list(map(list, pairs)))
    scores = predict(CrossEncoder(str(packaged_encoder), device="cpu"), pairs)
    assert furthest(native, scores) < 1e-4
    assert max(scores) - min(scores) > 0.05


def test_the_encoders_scores_are_logits_and_not_sigmoids(packaged_encoder):
    from sentence_transformers import CrossEncoder

    assert type(CrossEncoder(str(packaged_encoder), device="cpu").activation_fn).__name__ == "Identity"
    config = json.loads((packaged_encoder / "config.json").read_text(encoding="utf-8"))
    assert config["sentence_transformers"]["activation_fn"].endswith("Identity")


def test_the_card_loads_the_model_as_it_says(packaged_decoder, packaged_encoder, capsys):
    for folder in (packaged_decoder, packaged_encoder):
        card = (folder / "README.md").read_text(encoding="utf-8")
        assert "<!-- orch:results -->" in card
        snippets = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
        assert len(snippets) == 2
        described = json.loads((folder / "scoring.json").read_text(encoding="utf-8"))
        expected = [row["score"] for row in described["examples"]][:2]
        for snippet in snippets:
            names = {}
            exec(snippet.replace("path/to/this/folder", str(folder)), names)  # noqa: S102
            assert furthest([float(score) for score in names["scores"]], expected) < 1e-4
    capsys.readouterr()


def test_the_artefact_carries_nothing_of_the_training_machinery(packaged_decoder, packaged_encoder, tuned_decoder):
    for folder in (packaged_decoder, packaged_encoder):
        core = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        assert (core["truncation"], core["padding"]) == (None, None)
        described = json.loads((folder / "scoring.json").read_text(encoding="utf-8"))
        assert described["files"]["model.safetensors"] == hash_file(folder / "model.safetensors")
        listed = {*described["files"], "README.md", "scoring.json"}
        assert listed == {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert not list(folder.rglob("*.bin"))
    assert hash_file(packaged_decoder / "model.safetensors") == hash_file(tuned_decoder.model / "model.safetensors")


def test_what_is_written_is_what_is_pinned(packaged_decoder, packaged_encoder):
    for name, folder in (("flag-decoder", packaged_decoder), ("flag-encoder", packaged_encoder)):
        check_pinned(name, folder, folder.with_name(f"{folder.name}.verification.json"))


def test_the_report_holds_every_check_and_every_score(packaged_decoder):
    report = json.loads(packaged_decoder.with_name("packaged-decoder.verification.json").read_text(encoding="utf-8"))
    assert report["passed"]
    assert report["chat_template"] == "exact"
    assert {check["name"] for check in report["checks"]} == {
        *("weights", "complete", "finite", "changed-weights", "changed-scores", "flagembedding"),
        *("sentence-transformers", "not-constant", "merged", "merge-keeps-training"),
    }
    names = {"base", "adapter", "model", "flagembedding", "sentence_transformers"}
    assert all(names <= probe.keys() for probe in report["probes"])
    assert {probe["origin"] for probe in report["probes"]} == {"data", "example", "awkward", "long"}
    assert [probe["origin"] for probe in report["probes"] if probe["cut"]] == ["long"]


def refuse(trained, eval_file, out, **changes):
    with pytest.raises(WorkerError) as caught:
        package.main(package_arguments(trained, eval_file, out, **changes))
    assert [path.name for path in out.parent.iterdir() if path.name.startswith((".", "refused"))] in (
        [],
        ["refused.verification.json"],
    )
    return caught.value.problems


def test_a_weight_changed_after_the_merge_is_refused(tuned_decoder, eval_file, tmp_path):
    tampered = copy_with(
        tuned_decoder, tmp_path / "m", lambda name, one: one * 1.5 if "layers.1.mlp.up" in name else one
    )
    problems = refuse(tampered, eval_file, tmp_path / "refused")
    assert [problem.split(":")[0] for problem in problems] == ["merged"]
    report = json.loads((tmp_path / "refused.verification.json").read_text(encoding="utf-8"))
    assert not report["passed"]


def test_the_base_model_in_place_of_the_trained_one_is_refused(tuned_decoder, eval_file, tmp_path):
    problems = refuse(replace(tuned_decoder, model=tuned_decoder.base), eval_file, tmp_path / "refused")
    failed = {problem.split(":")[0] for problem in problems}
    assert {"changed-weights", "changed-scores", "merged", "merge-keeps-training"} <= failed
    check_pinned("flag-decoder.base", None, tmp_path / "refused.verification.json")


def test_weights_that_are_nan_are_refused_before_anything_is_loaded(tuned_decoder, eval_file, tmp_path):
    broken = copy_with(tuned_decoder, tmp_path / "m", lambda name, one: one * float("nan") if "q_proj" in name else one)
    problems = refuse(broken, eval_file, tmp_path / "refused")
    assert "NaN" in problems[0]
    assert not json.loads((tmp_path / "refused.verification.json").read_text(encoding="utf-8"))["passed"]
    check_pinned("flag-decoder.nan", None, tmp_path / "refused.verification.json")


def test_a_weight_that_is_missing_is_refused(tuned_encoder, eval_file, tmp_path):
    headless = copy_with(tuned_encoder, tmp_path / "m", lambda name, one: None if name == "classifier.weight" else one)
    problems = refuse(headless, eval_file, tmp_path / "refused")
    assert any(problem.startswith("complete: 1 weights are not in the files") for problem in problems)


def test_a_scorer_that_gives_one_number_for_everything_is_refused(tuned_encoder, eval_file, tmp_path):
    dead = copy_with(tuned_encoder, tmp_path / "m", lambda name, one: one * 0 if name == "classifier.weight" else one)
    problems = refuse(dead, eval_file, tmp_path / "refused")
    assert [problem.split(":")[0] for problem in problems] == ["not-constant"]


def test_a_model_saved_as_a_pickle_is_refused(tuned_encoder, eval_file, tmp_path):
    shutil.copytree(tuned_encoder.model, tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").rename(tmp_path / "m" / "pytorch_model.bin")
    problems = refuse(replace(tuned_encoder, model=tmp_path / "m"), eval_file, tmp_path / "refused")
    assert "only safetensors" in problems[0]


def test_an_older_artefact_stays_until_a_new_one_is_proved(tuned_encoder, eval_file, tmp_path):
    out = tmp_path / "model"
    out.mkdir()
    (out / "older").write_text("")
    dead = copy_with(tuned_encoder, tmp_path / "m", lambda name, one: one * 0 if name == "classifier.weight" else one)
    with pytest.raises(WorkerError):
        package.main(package_arguments(dead, eval_file, out))
    assert (out / "older").is_file()
    assert package.main(package_arguments(tuned_encoder, eval_file, out)) == 0
    assert not (out / "older").exists()
    assert (out / "scoring.json").is_file()


def test_a_tokenizer_that_cannot_be_split_is_packaged_as_approximate(tuned_decoder, eval_file, tmp_path, monkeypatch):
    monkeypatch.setattr(reranker_folder, "add_sentinel", lambda _folder, _sentinel: False)
    shutil.copytree(tuned_decoder.model, tmp_path / "m")
    config = tmp_path / "m" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "use_cache": False}))
    trained = replace(tuned_decoder, model=tmp_path / "m")
    assert package.main(package_arguments(trained, eval_file, tmp_path / "model")) == 0
    described = json.loads((tmp_path / "model" / "scoring.json").read_text(encoding="utf-8"))
    assert described["sentence_transformers"]["chat_template"] == "approximate"
    assert described["sentence_transformers"]["agrees"] is False
    assert "FlagEmbedding is the exact one" in (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    # the trainer saves use_cache off, which would slow generation
    assert json.loads((tmp_path / "model" / "config.json").read_text())["use_cache"] is True
    check_pinned("flag-decoder.approximate", tmp_path / "model", tmp_path / "model.verification.json")
