"""LLMs with a head that scores: told apart by their class, asked as they were trained, and never without their head."""

from __future__ import annotations

import json
import re

import pytest

from orchestrator.backends import BACKENDS
from orchestrator.backends.known_models import has_score_head
from orchestrator.backends.models import BaseModel, find_model, learn_from_config
from orchestrator.backends.scorers import build_scoring
from orchestrator.backends.swift_models import find_swift_model
from orchestrator.errors import Problem, RecipeError
from orchestrator.machine.hardware import CPU
from orchestrator.plan.measuring import build_measured
from orchestrator.recipe.schema import ModelRef
from tests.jobs import build_imagined_job

HEAD = ("Qwen3ForSequenceClassification",)
CHATS = {"chat_template": "{% for m in messages %}{{ m.role }}: {{ m.content }}{% endfor %}"}
PAIRS = {"chat_template": "{{ messages | selectattr('role', 'equalto', 'query') }} and 'document'"}
# transformers 5.19: those of its classes that read a text from both ends, or with a decoder beside
BOTH_ENDS = re.compile(
    r"(?:Albert|Bart|Bert|BigBird|BigBirdPegasus|Camembert|Canine|ConvBert|Data2VecText|Deberta|DebertaV2|"
    r"DistilBert|Electra|Ernie|Esm|Esmc|EuroBert|FNet|Flaubert|Funnel|Gte|IBert|JinaEmbeddingsV3|LayoutLM|"
    r"LayoutLMv2|LayoutLMv3|Lilt|Longformer|Luke|MBart|MPNet|MT5|MarkupLM|MegatronBert|MobileBert|ModernBert|"
    r"ModernVBert|Mra|Mvp|NomicBert|Nystromformer|PLBart|Perceiver|Reformer|RemBert|RoCBert|RoFormer|Roberta|"
    r"RobertaPreLayerNorm|SqueezeBert|T5|T5Gemma2|T5Gemma|Tapas|UMT5|XLM|XLMRoberta|XLMRobertaXL|XLNet|Xmod|"
    r"Yoso)ForSequenceClassification"
)


@pytest.fixture
def folder(tmp_path):
    """Make a model folder called like Qwen's reranker, of configs only: {file: content}."""

    def make(architecture=HEAD[0], **files):
        root = tmp_path / "Qwen3-Reranker-0.6B-seq-cls"
        root.mkdir()
        for name, content in {"config": {"architectures": [architecture]}, **files}.items():
            (root / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
        return root

    return make


def read(folder, **ref):
    return find_model(ModelRef(path=str(folder), **ref), folder)


def build(model, **options):
    return build_scoring(model, **{"dtype": "float32", "name": "model", **options})


def said(found):
    assert isinstance(found, Problem)
    return f"{found.message} {found.hint}"


def test_every_class_that_transformers_has_for_it_is_known_as_an_llm_s_or_another():
    auto = pytest.importorskip("transformers.models.auto.modeling_auto")
    names = set(auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES.values())
    others = {name for name in names if not has_score_head({"architectures": [name]})}
    assert len(names) > 80
    assert [name for name in sorted(others) if not BOTH_ENDS.fullmatch(name)] == []
    assert {f"{name}ForSequenceClassification" for name in ("Bert", "XLMRoberta", "ModernBert")} <= others


def test_a_class_that_nobody_knows_is_an_llm_s_where_its_queries_share_their_keys():
    named = {"architectures": ["NewestForSequenceClassification"]}
    assert has_score_head({**named, "num_key_value_heads": 2})
    assert not has_score_head(named)
    assert not has_score_head({"architectures": ["EuroBertForSequenceClassification"], "num_key_value_heads": 2})


def test_a_head_that_nobody_explains_is_refused_with_the_formats_that_fit_it_whatever_its_folder_is_called(folder):
    model = read(folder(tokenizer_config=CHATS))
    assert (model.family, model.native, model.score_head) == ("decoder", None, True)
    message = said(build(model))
    assert "none of its files says in which format" in message
    assert "qwen3-score-head" in message
    assert "reward-model" in message
    assert "cross-encoder" not in message
    assert "qwen3-native" not in message


@pytest.mark.parametrize(
    ("files", "scorer"),
    [
        ({"args": {"task_type": "reranker", "model_type": "qwen3_reranker", "template": "qwen3_reranker"}}, "qwen3-score-head"),
        ({"args": {"task_type": "seq_cls", "rlhf_type": "rm", "template": "qwen3"}, "tokenizer_config": CHATS}, "reward-model"),
        ({"scoring": {"scorer": "qwen3-score-head", "max_length": 64}}, "qwen3-score-head"),
        ({"modules": [{"type": "sentence_transformers.cross_encoder.modules.X"}], "tokenizer_config": PAIRS}, "cross-encoder"),
    ],
    ids=["ms-swift's reranker", "ms-swift's reward model", "packaged", "sentence-transformers"],
)  # fmt: skip
def test_the_files_that_a_trainer_left_tell_the_format(folder, files, scorer):
    assert build(read(folder(**files)))["scorer"] == scorer


def test_a_template_that_orch_does_not_know_tells_none(folder):
    args = {"task_type": "reranker", "model_type": "qwen3", "template": "qwen3"}
    assert "say how it is scored" in said(build(read(folder(args=args, tokenizer_config=CHATS))))


@pytest.mark.parametrize("chosen", ["qwen3-native", "flag-llm-reranker", "embedding", "bi-encoder"])
def test_a_format_that_would_drop_the_head_is_refused(folder, chosen):
    message = said(build(read(folder(tokenizer_config=CHATS)), format=chosen))
    assert "head would be dropped; say how it is scored: qwen3-score-head" in message


def test_a_scoring_json_that_would_drop_the_head_is_refused(folder):
    assert "head would be dropped" in said(build(read(folder(scoring={"scorer": "qwen3-native"}))))


@pytest.mark.parametrize(
    "name", ["InternLM2ForRewardModel", "Qwen2ForProcessRewardModel", "BertForTokenClassification"]
)
def test_any_other_head_is_not_dropped_for_a_word_either(folder, name):
    model = read(folder(name), family="decoder")
    assert "head would be dropped" in said(build(model, format="qwen3-native"))


def test_the_pair_is_never_put_into_a_chat_that_knows_no_query_and_document(folder):
    model = read(folder(tokenizer_config=CHATS))
    assert "its chat template knows no query and document" in said(build(model, format="cross-encoder"))


@pytest.mark.parametrize("files", [{}, {"tokenizer_config": PAIRS}])
def test_who_says_so_may_have_the_pair_read_as_a_pair(folder, files):
    assert build(read(folder(**files)), format="cross-encoder")["scorer"] == "cross-encoder"


def test_the_two_formats_are_for_llms_with_a_head_alone(folder):
    assert "is no LLM with a head" in said(build(read(folder("Qwen3ForCausalLM")), format="reward-model"))


def test_a_hub_s_config_tells_that_the_name_was_wrong():
    model = BaseModel("owner/Qwen3-Reranker-seq-cls", "owner/Qwen3-Reranker-seq-cls", None, "decoder", "qwen3-native")
    assert build(model)["scorer"] == "qwen3-native"
    seen = learn_from_config(model, {"architectures": [*HEAD]})
    assert "head would be dropped" in said(build(seen))
    assert build(seen, format="qwen3-score-head")["scorer"] == "qwen3-score-head"


def test_a_recipe_that_calls_it_an_encoder_is_refused(folder):
    with pytest.raises(RecipeError, match="an LLM with a head that scores"):
        read(folder(), family="encoder")


def job_with(recipe, *overrides, native=None):
    model = BaseModel("head", "owner/head", None, "decoder", native, architectures=HEAD, score_head=True)
    return build_imagined_job(recipe, model, CPU, overrides=overrides)


def find_problems(job):
    found = [said(problem) for _, problem in BACKENDS[job.recipe.backend].check_job(job)]
    return [problem for problem in found if "an LLM with a head that scores" in problem]


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ("qwen3_reranker", "FlagEmbedding's trainer asks an LLM for a word"),
        ("qwen3_reranker_native", "say train: {task_type: reranker}"),
        ("qwen3_embedding_lora", "task embedding would drop it"),
        ("qwen3_sft_lora", "task sft would drop it"),
    ],
)
def test_a_training_that_would_drop_the_head_is_refused(recipe, message):
    assert message in " ".join(find_problems(job_with(recipe, native="reward-model")))


def test_a_reference_of_unknown_format_is_refused_and_each_way_out_is_one():
    swift = ("qwen3_reranker_native", "train.task_type=reranker", "loss.type=pointwise")
    (problem,) = find_problems(job_with(*swift))
    assert "native: …}, qwen3-score-head or reward-model" in problem
    assert find_problems(job_with(*swift, "evaluate.baselines=[trained-format]")) == []
    assert find_problems(job_with(*swift, native="reward-model")) == []


def test_the_reference_asks_the_head_in_its_own_format():
    job = job_with("llm_pointwise", native="qwen3-score-head")
    measured = build_measured(job, BACKENDS[job.recipe.backend].build_training(job, model="m", data="/d", output="/o"))
    assert [system.spec["scorer"] for system in measured.baselines] == ["qwen3-score-head", "formatted-head"]


def test_ms_swift_trains_the_head_of_a_qwen3_reranker_by_its_own_name():
    job = job_with("qwen3_reranker_native")
    named = find_swift_model(job.model, "reranker", job.versions)
    assert not isinstance(named, Problem)
    assert (named.model_type, named.template) == ("qwen3_reranker", "qwen3_reranker")
