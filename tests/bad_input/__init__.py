"""Bad inputs as a table: what a user does wrong, and what Orch must say. Tests and benchmarks/bad_input.py share it."""
