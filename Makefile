# Everything lives in .venv; nothing is installed outside it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test test-all lint venv calibration peers docs wheel-test clean

demo: $(STAMP)
	$(BIN)/maury demo --output demo

test: $(STAMP)
	$(BIN)/python -m pytest --cov --cov-report=term:skip-covered

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

# Tutorials are run as the site is built: minutes. Open build/site/index.html.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

venv: $(STAMP)

# torch first and by its pin: what other packages ask for is then satisfied, and no CUDA build is fetched.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,docs]"
	touch $(STAMP)

clean:
	rm -rf $(VENV) demo

# What a user installs: built, put into an environment of its own, and tried.
wheel-test: $(STAMP)
	.ci/wheel-test $(BIN)/python

# Each peer in an environment of its own, beside maury.
peers:
	for peer in nbi sbi lampe; do \
	  $(PYTHON) -m venv .venv-peers/$$peer && \
	  .venv-peers/$$peer/bin/python -m pip install --quiet --constraint constraints.txt torch && \
	  .venv-peers/$$peer/bin/python -m pip install --quiet --constraint constraints.txt --editable ".[train]" $$peer; \
	done
