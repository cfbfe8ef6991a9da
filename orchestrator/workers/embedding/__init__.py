"""Embedding models: vectors, searches, and packages that every library reads alike."""
