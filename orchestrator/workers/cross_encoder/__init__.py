"""Training a cross-encoder with sentence-transformers: what the library does not decide or check by itself."""
