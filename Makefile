# Everything lives in .venv; nothing is installed outside it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Builds of torch for processors, a tenth of those for CUDA ("2.13.0+cpu" sorts above "2.13.0"); the registry's own, TORCH_INDEX=https://pypi.org/simple, is for a GPU.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

.PHONY: demo test test-all lint venv calibration peers docs tutorials lock supply-chain wheel-test clean

demo: $(STAMP)
	$(BIN)/maury demo --output demo

test: $(STAMP)
	.ci/test $(BIN)/python

test-all: $(STAMP)
	$(BIN)/python -m pytest -m "slow or not slow" --cov

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

calibration: $(STAMP)
	for model in kurucz-apogee btsettl-apogee; do \
	  $(BIN)/maury check calibration --model $$model --number 2000 --jobs 2 --output docs/results/calibration/$$model; \
	done

# The site, from pages that hold what their tutorials printed. Open build/site/index.html.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# Runs the tutorials and writes what they print and draw into their pages: a quarter of an hour. PAGES="trust survey" runs these alone.
tutorials: $(STAMP)
	$(BIN)/python docs/tools/tutorials.py $(PAGES)

venv: $(STAMP)

# Files are installed only if their SHA-256 stands in hashes.txt; torch goes by its version, since its builds differ from index to index.
$(STAMP): pyproject.toml constraints.txt hashes.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes --requirement hashes.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --extra-index-url $(TORCH_INDEX) torch
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $(STAMP)

# After a change of dependencies: hashes.txt, then the page of licences and the wheel's bill of materials.
lock:
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet uv
	$(PYTHON) docs/tools/lock.py build/lock/bin/uv

supply-chain: $(STAMP)
	$(BIN)/python docs/tools/supply_chain.py

clean:
	rm -rf $(VENV) demo

# What a user installs: built, put into an environment of its own, and tried.
wheel-test: $(STAMP)
	.ci/wheel-test $(BIN)/python

# Each peer in an environment of its own, beside maury; then the paper's network beside nbi's.
peers:
	for peer in nbi sbi lampe; do \
	  $(PYTHON) -m venv .venv-peers/$$peer && \
	  .venv-peers/$$peer/bin/python -m pip install --quiet --constraint constraints.txt torch && \
	  .venv-peers/$$peer/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[train]" $$peer; \
	done
	.venv-peers/nbi/bin/python -m pip install --quiet --constraint constraints.txt pytest
	PYTHONPATH=tests .venv-peers/nbi/bin/python -m pytest -q tests/networks/test_paper.py -p no:cacheprovider
