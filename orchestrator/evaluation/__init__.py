"""Scores become measures, comparisons and gate decisions."""
