"""Encoders that ms-swift trained as rerankers: one score in swift, in transformers and in sentence-transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.workers import package
from orchestrator.workers.failure import WorkerError
from tests.workers.conftest import Trained, package_arguments

pytest.importorskip("swift")

# ms-swift's model type → its template, and the architecture
TYPES = {"modern_bert_gte_reranker": ("bert", "modernbert"), "bge_reranker": ("bge_reranker", "xlm-roberta")}
TEXTS = [
    "What is the capital of France? It's Paris.",
    "Green tea is steamed\nafter the harvest.",
    "北京是中国的首都",
] * 20
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def save_tokenizer(kind: str, folder: Path):
    """Save a tokenizer by the rules of ModernBERT (byte-level BPE) or XLM-RoBERTa (unigrams, blanks at a word's front)."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    modern = kind == "modernbert"
    names = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]") if modern else ("<pad>", "<unk>", "<s>", "</s>", "<mask>")
    pad, unk, cls, sep, mask = names
    if modern:
        core = Tokenizer(models.BPE())
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        trainer = trainers.BpeTrainer(
            vocab_size=400, special_tokens=[*names], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        )
    else:
        core = Tokenizer(models.Unigram())
        core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
        trainer = trainers.UnigramTrainer(vocab_size=120, special_tokens=[*names], unk_token=unk)
    core.train_from_iterator(TEXTS, trainer)
    between = sep if modern else f"{sep} {sep}"
    core.post_processor = processors.TemplateProcessing(
        single=f"{cls} $A {sep}", pair=f"{cls} $A {between} $B {sep}", special_tokens=[(cls, 2), (sep, 3)]
    )
    ends = {} if modern else {"bos_token": cls, "eos_token": sep}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=pad, unk_token=unk, cls_token=cls, sep_token=sep, mask_token=mask, **ends,
        model_max_length=512, model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    return tokenizer


def train(model_type: str, place: Path) -> Trained:
    """Leave what swift leaves of a whole training of a tiny model, whose base has a head already."""
    import torch
    import transformers

    template, kind = TYPES[model_type]
    base, model = place / "base", place / "model"
    size = len(save_tokenizer(kind, base))
    save_tokenizer(kind, model)
    ids = {"pad_token_id": 0, "bos_token_id": 2, "cls_token_id": 2, "eos_token_id": 3, "sep_token_id": 3}
    config = transformers.AutoConfig.for_model(
        kind, vocab_size=size, num_labels=1, max_position_embeddings=514, initializer_range=0.2, **SIZES, **ids
    )
    torch.manual_seed(1)
    made = transformers.AutoModelForSequenceClassification.from_config(config)
    made.save_pretrained(base)
    for parameter in made.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    made.save_pretrained(model)
    engine = {"model_type": model_type, "task_type": "reranker", "template": template}
    kept = {**engine, "model": str(base), "use_chat_template": True, "truncation_strategy": "delete"}
    (model / "args.json").write_text(json.dumps({**kept, "swift_version": "4.6.0"}))
    spec = {"version": 1, "scorer": "cross-encoder", "name": "x", "label": "x", "tool": "swift", "max_length": 256}
    (place / "spec.json").write_text(json.dumps(spec | engine))
    return Trained(base, None, model, place / "spec.json")


@pytest.fixture(scope="module", params=TYPES)
def packaged(request, eval_file, tmp_path_factory):
    trained = train(request.param, tmp_path_factory.mktemp(request.param))
    folder = trained.base.parent / "package"
    assert package.main(package_arguments(trained, eval_file, folder, device="cpu")) == 0
    return folder


def test_swift_transformers_and_a_plain_cross_encoder_agree_on_every_pair(packaged):
    report = json.loads(packaged.with_name("package.verification.json").read_text(encoding="utf-8"))
    assert report["passed"]
    checks = {check["name"]: check for check in report["checks"]}
    assert set(checks) == {
        *("weights", "complete", "tokens", "finite", "changed-weights", "changed-scores", "swift"),
        *("sentence-transformers", "not-constant"),
    }
    assert checks["tokens"]["other"] == 0
    asked = [probe for probe in report["probes"] if not probe["cut"]]
    assert len(asked) >= 10
    for probe in asked:
        assert probe["swift"] == pytest.approx(probe["sentence_transformers"], abs=1e-4)


def test_the_card_says_who_trained_it_and_how_two_texts_are_joined(packaged):
    card = (packaged / "README.md").read_text(encoding="utf-8")
    assert "with ms-swift as a cross-encoder" in card
    assert "as the tokenizer joins two texts" in card


def test_other_tokens_than_swift_s_are_never_shipped(eval_file, tmp_path):
    trained = train("modern_bert_gte_reranker", tmp_path)
    for path in (trained.scoring, trained.model / "args.json"):
        other = {"model_type": "bge_reranker", "template": "bge_reranker"}
        path.write_text(json.dumps(json.loads(path.read_text()) | other))
    with pytest.raises(WorkerError, match="tokens: the packaged"):
        package.main(package_arguments(trained, eval_file, tmp_path / "package", device="cpu"))
    assert not (tmp_path / "package").exists()
