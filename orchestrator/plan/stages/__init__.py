"""The stages of a run: each function adds some to the draft of a plan. Their order stands in pipeline.py."""
