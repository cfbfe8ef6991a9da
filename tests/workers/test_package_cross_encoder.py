"""Checkpoints of sentence-transformers' trainer become folders that score as they were trained, of both families."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from orchestrator.workers import package, score
from orchestrator.workers.eval_files import AWKWARD, EXAMPLES
from orchestrator.workers.failure import WorkerError
from orchestrator.workers.kinds import reranker as reranker_kind
from orchestrator.workers.reranker.formats import PairFormat
from orchestrator.workers.reranker.scoring import load_formatted_head, load_scorer
from orchestrator.workers.specs import ScoringSpec
from orchestrator.workers.weights import hash_file
from tests.workers.conftest import Trained, copy_with, load_spec, package_arguments
from tests.workers.pinned import check_pinned

ENCODER, DECODER = "cross-encoder", "formatted-head"
FORMAT = PairFormat("query: {}", "document: {}", " ", "</s>")
MAX_LENGTH = 96
LONG = ("where does the river meet the sea " * 30, "The river bends twice before it meets the sea. " * 30)
PAIRS = [*EXAMPLES, *AWKWARD, ("", "no query"), ("</s> inside", "[SEP] inside"), LONG]
LEFT_BY_THE_TRAINER = ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "trainer_state.json")


def write_spec(path, scorer, **changes):
    spec = {
        "version": 1,
        "name": "trained-format",
        "label": "tuned, in its training format",
        "scorer": scorer,
        "tool": "sentence-transformers",
        "dtype": "float32",
        "trust_remote_code": False,
        "max_length": MAX_LENGTH,
        "batch_size": 8,
        **({"prompt": None} if scorer == ENCODER else vars(FORMAT)),
    }
    path.write_text(json.dumps({**spec, **changes}), encoding="utf-8")
    return path


def load_untrained(base, scorer):
    import torch
    from sentence_transformers import CrossEncoder
    from torch import nn

    if scorer == DECODER:
        return load_formatted_head(str(base), FORMAT, ScoringSpec("formatted-head", max_length=MAX_LENGTH), "cpu")
    torch.manual_seed(42)
    return CrossEncoder(str(base), num_labels=1, max_length=MAX_LENGTH, activation_fn=nn.Identity(), device="cpu")


def train(base, scorer, folder):
    """Leave what the trainer leaves of a model whose weights have moved."""
    import torch

    encoder = load_untrained(base, scorer)
    torch.manual_seed(9)
    for parameter in encoder.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    # a loss tokenizes before the trainer saves
    encoder.preprocess([LONG])
    encoder.save_pretrained(str(folder))
    for name in LEFT_BY_THE_TRAINER:
        (folder / name).write_bytes(b"not for others")
    return Trained(base, None, folder, write_spec(folder.parent / f"{folder.name}.spec.json", scorer))


@dataclass(frozen=True)
class Packaged:
    trained: Trained
    folder: Path

    @property
    def described(self):
        return json.loads((self.folder / "scoring.json").read_text(encoding="utf-8"))

    @property
    def report(self):
        path = self.folder.with_name(f"{self.folder.name}.verification.json")
        return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def trained(encoder, decoder, tmp_path_factory):
    place = tmp_path_factory.mktemp("cross-encoders")
    return {ENCODER: train(encoder, ENCODER, place / "e"), DECODER: train(decoder, DECODER, place / "d")}


@pytest.fixture(scope="module")
def packages(trained, eval_file, tmp_path_factory):
    place = tmp_path_factory.mktemp("packaged")
    for scorer, one in trained.items():
        assert package.main(package_arguments(one, eval_file, place / scorer, device="cpu")) == 0
    return {scorer: Packaged(one, place / scorer) for scorer, one in trained.items()}


@pytest.fixture(params=[ENCODER, DECODER])
def packaged(request, packages):
    return packages[request.param]


def furthest(scores, others):
    return max(abs(float(one) - float(other)) for one, other in zip(scores, others, strict=True))


def ask(folder, pairs=PAIRS):
    from sentence_transformers import CrossEncoder

    return CrossEncoder(str(folder), device="cpu").predict(pairs, batch_size=8, show_progress_bar=False)


def refuse(trained, eval_file, out, **changes):
    with pytest.raises(WorkerError) as caught:
        package.main(package_arguments(trained, eval_file, out, device="cpu", **changes))
    assert not out.exists()
    return caught.value.problems


def test_a_plain_cross_encoder_gives_the_scores_of_the_trained_checkpoint(packaged):
    scores = ask(packaged.folder)
    assert furthest(scores, ask(packaged.trained.model)) < 1e-4
    assert max(scores) - min(scores) > 0.1


def test_the_measured_scores_are_those_of_the_folder(packaged):
    scorer = load_scorer(str(packaged.folder), load_spec(packaged.folder / "scoring.json"), "cpu")
    assert furthest(scorer.score(PAIRS, None), ask(packaged.folder)) < 1e-5


def test_nothing_of_the_training_but_weights_config_and_tokenizer_is_packaged(packaged):
    found = {path.relative_to(packaged.folder).as_posix() for path in packaged.folder.rglob("*") if path.is_file()}
    assert found == {*packaged.described["files"], "README.md", "scoring.json"}
    assert not found & {*LEFT_BY_THE_TRAINER}
    assert not [name for name in found if Path(name).suffix in {".bin", ".pt", ".pth", ".pkl"}]
    name = "model.safetensors"
    assert packaged.described["files"][name] == hash_file(packaged.trained.model / name)
    core = json.loads((packaged.folder / "tokenizer.json").read_text(encoding="utf-8"))
    assert (core["truncation"], core["padding"]) == (None, None)


def test_the_folder_describes_format_and_probes(packaged):
    described = packaged.described
    assert (described["tool"], described["max_seq_length"]) == ("sentence-transformers", MAX_LENGTH)
    assert described["sentence_transformers"]["agrees"] is True
    pairs = [(probe["query"], probe["document"]) for probe in described["probes"]]
    assert len(pairs) == 4
    assert furthest(ask(packaged.folder, pairs), [probe["score"] for probe in described["probes"]]) < 1e-5
    if described["scorer"] == DECODER:
        assert {name: described[name] for name in vars(FORMAT)} == vars(FORMAT)
        assert described["adds_special_tokens"] is False


def test_what_is_written_is_what_is_pinned(packaged):
    folder = packaged.folder
    check_pinned(f"st-{folder.name}", folder, folder.with_name(f"{folder.name}.verification.json"))


def test_the_report_holds_every_check_and_compares_pairs_that_are_cut_as_well(packaged):
    report, formatted = packaged.report, packaged.described["scorer"] == DECODER
    assert report["passed"]
    assert {check["name"] for check in report["checks"]} == {
        *("weights", "complete", "finite", "changed-weights", "changed-scores", "sentence-transformers"),
        *("not-constant", *(["tokens"] if formatted else [])),
    }
    assert "long" in {probe["origin"] for probe in report["probes"] if probe["cut"]}
    assert ("</s>" if formatted else "[SEP]") in report["probes"][-1]["query"]
    assert next(check for check in report["checks"] if check["name"] == "sentence-transformers")["cut_pairs"] == 0
    for probe in report["probes"]:
        assert probe["model"] == pytest.approx(probe["sentence_transformers"], abs=1e-4)
    assert report["base_head"] == "trained"
    assert report["versions"]["sentence-transformers"]


def test_the_cards_snippets_give_the_stored_scores(packaged, capsys):
    card = (packaged.folder / "README.md").read_text(encoding="utf-8")
    assert "<!-- orch:results -->" in card
    expected = [probe["score"] for probe in packaged.described["probes"]][:2]
    snippets = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    shown = [packaged.described["scorer"] == ENCODER and packaged.report["flagembedding"] is not None, True].count(True)
    assert len(snippets) == shown
    for snippet in snippets:
        names = {}
        exec(snippet.replace("path/to/this/folder", str(packaged.folder)), names)  # noqa: S102
        assert furthest(names["scores"], expected) < 1e-4
    capsys.readouterr()


def test_without_flagembedding_the_card_does_not_speak_of_it(trained, eval_file, tmp_path, monkeypatch):
    monkeypatch.setattr(reranker_kind.importlib.util, "find_spec", lambda _name: None)
    assert package.main(package_arguments(trained[ENCODER], eval_file, tmp_path / "m", device="cpu")) == 0
    assert "FlagEmbedding" not in (tmp_path / "m" / "README.md").read_text(encoding="utf-8")


def test_predict_answers_with_the_scores_of_the_folder(packaged, monkeypatch, capsys):
    import io

    rows = [json.dumps({"query": query, "document": document}) for query, document in PAIRS]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(rows)))
    assert score.predict(["--model", str(packaged.folder), "--device", "cpu"]) == 0
    answers = [json.loads(line)["score"] for line in capsys.readouterr().out.splitlines()]
    assert furthest(answers, ask(packaged.folder)) < 1e-5


@pytest.mark.parametrize("scorer", [ENCODER, DECODER])
def test_a_model_that_was_not_trained_behind_its_head_is_refused(scorer, trained, eval_file, tmp_path):
    base = trained[scorer].base
    # the head of the trained model on the weights of the base: any new head gives other scores
    load_untrained(base, scorer).save_pretrained(str(tmp_path / "m"))
    problems = refuse(replace(trained[scorer], model=tmp_path / "m"), eval_file, tmp_path / "out")
    assert {problem.split(":")[0] for problem in problems} == {"changed-weights", "changed-scores"}
    check_pinned(f"st-{scorer}.base", None, tmp_path / "out.verification.json")


def test_a_base_with_a_head_of_its_own_is_compared_with_it(trained, eval_file, tmp_path):
    grown = replace(trained[ENCODER], base=trained[ENCODER].model)
    further = copy_with(grown, tmp_path / "m", lambda name, one: one * 1.5 if name == "classifier.weight" else one)
    assert package.main(package_arguments(further, eval_file, tmp_path / "out", device="cpu")) == 0
    report = json.loads((tmp_path / "out.verification.json").read_text(encoding="utf-8"))
    assert report["base_head"] == "own"
    assert next(check for check in report["checks"] if check["name"] == "changed-weights")["changed"] == 1


def test_a_masked_language_model_without_pooler_is_a_base_too(trained, eval_file, tmp_path):
    from transformers import AutoTokenizer, BertForMaskedLM

    base = trained[ENCODER].base
    BertForMaskedLM.from_pretrained(base).save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "base")
    one = train(tmp_path / "base", ENCODER, tmp_path / "m")
    assert package.main(package_arguments(one, eval_file, tmp_path / "out", device="cpu")) == 0


def test_a_weight_that_is_missing_is_refused(trained, eval_file, tmp_path):
    headless = copy_with(trained[DECODER], tmp_path / "m", lambda name, one: None if name == "score.weight" else one)
    problems = refuse(headless, eval_file, tmp_path / "out")
    assert any(problem.startswith("complete: 1 weights are not in the files") for problem in problems)


def test_a_head_that_gives_one_number_for_everything_is_refused(trained, eval_file, tmp_path):
    dead = copy_with(trained[DECODER], tmp_path / "m", lambda name, one: one * 0 if name == "score.weight" else one)
    assert "not-constant" in {problem.split(":")[0] for problem in refuse(dead, eval_file, tmp_path / "out")}


def test_weights_that_are_nan_are_refused(trained, eval_file, tmp_path):
    broken = copy_with(
        trained[ENCODER], tmp_path / "m", lambda name, one: one * float("nan") if "query" in name else one
    )
    assert "NaN" in refuse(broken, eval_file, tmp_path / "out")[0]


def test_another_tool_or_what_is_no_adapter_is_refused_by_name(trained, eval_file, tmp_path):
    other = write_spec(tmp_path / "spec.json", DECODER, tool="swift")
    problems = refuse(replace(trained[DECODER], scoring=other), eval_file, tmp_path / "out")
    assert "its tool is sentence-transformers, not 'swift'" in problems[0]
    problems = refuse(replace(trained[DECODER], adapter=tmp_path), eval_file, tmp_path / "out")
    assert "it is not a LoRA adapter" in problems[0]


def test_a_checkpoint_without_pad_token_is_packaged_fit_for_batches(trained, eval_file, tmp_path):
    shutil.copytree(trained[DECODER].model, tmp_path / "m")
    for name, key in (("config.json", "pad_token_id"), ("tokenizer_config.json", "pad_token")):
        path = tmp_path / "m" / name
        path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), key: None}), encoding="utf-8")
    one = replace(trained[DECODER], model=tmp_path / "m")
    assert package.main(package_arguments(one, eval_file, tmp_path / "out", device="cpu")) == 0
    assert furthest(ask(tmp_path / "out"), ask(trained[DECODER].model)) < 1e-4
