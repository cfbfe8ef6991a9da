"""Rerankers: every way to score a pair, and packages that are proved to give the trained scores."""
