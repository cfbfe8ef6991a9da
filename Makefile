# The verbs of the README and of CI. Everything lives in .venv, made from constraints.txt.
PYTHON ?= python3
BIN := .venv/bin
RUNS ?= runs
# three processes on two cores: many tests wait for a clock, a signal or Slurm
PYTEST := $(BIN)/python -m pytest -n 3 --dist loadscope --no-loadscope-reorder

.PHONY: help setup demo test test-fast test-serving test-track check bench golden clean

help:            ## list these verbs
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 12

setup: .venv/ready  ## create .venv with the tested versions

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: setup      ## fine-tune a small real embedding model on the CPU and show the verdict
	$(BIN)/orch run recipes/demo.yaml --open

# Every test that starts a process would compile the package anew where bytecode is not written.
test: export PYTHONDONTWRITEBYTECODE =
test: setup      ## every test, the real backends on tiny models included
	$(PYTEST) -m "not alone"
	$(PYTEST) -m alone

test-fast: export PYTHONDONTWRITEBYTECODE =
test-fast: setup ## the tests that need neither a training nor a machine-learning library
	$(PYTEST) -m "not slow and not alone"

test-serving: setup  ## vLLM on the CPU, Infinity, llama.cpp and Xinference against a packaged model of each kind; needs the network
	sh tests/serving/real_servers.sh .venv-serving

test-track: setup ## the five experiment trackers' own clients, read back by their own readers; needs a package index
	sh tests/track/real_trackers.sh .venv-track

check: setup     ## format, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/orch schema | cmp - recipes/recipe.schema.json

bench: setup     ## what the performance claims are measured with
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/losses.py
	$(BIN)/python benchmarks/embedding.py
	$(BIN)/python benchmarks/bad_input.py
	$(BIN)/python benchmarks/faults.py
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/verdict.py
	$(BIN)/python benchmarks/stages.py
	$(BIN)/python benchmarks/sweep.py
	$(BIN)/python benchmarks/curves.py --most 100000
	$(BIN)/python benchmarks/table.py

golden: setup    ## write golden files, the schema and the man page anew; read the diff
	$(BIN)/python -m tests.golden.regenerate
	$(BIN)/orch schema > recipes/recipe.schema.json
	$(BIN)/python -m tests.docs.man_page > docs/orch.1

clean:           ## remove the environment and all runs
	rm -rf .venv runs
