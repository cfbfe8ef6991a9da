"""Why layerwise rerankers are refused: FlagEmbedding's own code does not load with transformers 5 (decision 0055)."""

import pytest

from orchestrator.backends.known_models import refuse_layerwise

pytest.importorskip("FlagEmbedding")
pytestmark = pytest.mark.slow
SIZES = {
    "vocab_size": 50, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "start_layer": 1,
}  # fmt: skip


def build_layerwise():
    from FlagEmbedding.inference.reranker.decoder_only.models import configuration_minicpm_reranker as settings
    from FlagEmbedding.inference.reranker.decoder_only.models import modeling_minicpm_reranker as code

    return code.LayerWiseMiniCPMForCausalLM(settings.LayerWiseMiniCPMConfig(**SIZES))


def build_lightweight():
    from FlagEmbedding.inference.reranker.decoder_only.models import gemma_config, gemma_model

    return gemma_model.CostWiseGemmaForCausalLM(gemma_config.CostWiseGemmaConfig(**SIZES, head_dim=8))


@pytest.mark.parametrize(
    ("name", "build", "error", "says"),
    [
        ("BAAI/bge-reranker-v2-minicpm-layerwise", build_layerwise, KeyError, "type"),
        ("BAAI/bge-reranker-v2.5-gemma2-lightweight", build_lightweight, AttributeError, "has no attribute 'keys'"),
    ],
)
def test_what_is_refused_does_not_load_in_the_installed_versions(name, build, error, says):
    with pytest.raises(error, match=says):
        build()
    assert "transformers 5" in refuse_layerwise(name)
