VENV ?= .venv
PYTHON ?= python3
INSTALLED := $(VENV)/.installed

.PHONY: bench bench-engine test lint clean

# The main job, on data that needs no download, and its charts.
bench: $(INSTALLED)
	$(VENV)/bin/fgbench run --arch mlp --depth 8
	$(VENV)/bin/fgbench plot "$$(ls -d results/2*/ | tail -n 1)"

# The forward-mode engine beside its targets: about 40 minutes on one thread.
bench-engine: $(INSTALLED)
	$(VENV)/bin/python -m fgbench.experiments.engine
	$(VENV)/bin/fgbench plot results/engine

# Two processes more than cores, and a file of tests in one of them: what a file's tests share is made once. In the
# files' own order, as xdist would leave those with few tests, which are long ones, to the end.
test: lint
	$(VENV)/bin/python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

lint: $(INSTALLED)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --upgrade pip
	$(VENV)/bin/python -m pip install --quiet --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis
