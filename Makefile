# Every target sets up what it needs, in ./.venv, from a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DONE := $(VENV)/.installed
# One thread a worker: the tiny models are too small for more.
export OMP_NUM_THREADS ?= 1
export HF_HUB_OFFLINE ?= 1

.PHONY: demo test lint bench wheel clean setup

setup: $(DONE)

$(DONE): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	# torch first and by its exact version, so that a local CPU build is taken where there is one.
	$(BIN)/python -m pip install -q -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@

demo: $(DONE)
	$(BIN)/hermes ask sample --questions hermes/samples/questions.jsonl --memory-map runs/demo/memory_map.png policy.budget=64 video.fps=2 generation.max_new_tokens=24

test: $(DONE)
	$(BIN)/python -m pytest -c pyproject.toml -n 2 --dist loadscope $(ARGS)

lint: $(DONE)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(DONE)
	$(BIN)/python -m benchmarks.step

wheel: $(DONE)
	$(BIN)/python -m build -q

clean:
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache
