"""The libraries that load a model: plain transformers, FlagEmbedding, sentence-transformers, ms-swift."""
