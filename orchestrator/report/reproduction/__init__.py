"""Runs a finished run once more, and says whether the same came out."""
