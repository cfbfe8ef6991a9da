"""Training with sentence-transformers: what its trainers share, and what the library does not check by itself."""
