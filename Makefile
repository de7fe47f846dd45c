# `make demo` and `make test` work on a fresh clone; nothing else is needed but Python 3.11 or newer.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

# pip installs without compiled modules, which saves time: they have to be written by whoever imports them first.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test soak lint coverage wheel plans screenshots messages clean

demo: $(VENV)/.installed
	$(BIN)/lorasmith demo

# Three workers, for two cores: tests of screens mostly wait.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist worksteal

soak: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -m soak

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

coverage: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist worksteal --cov --cov-report=term:skip-covered

wheel:
	rm -rf dist build/wheel
	$(PYTHON) -m venv build/wheel
	build/wheel/bin/python -m pip --disable-pip-version-check install -q build
	build/wheel/bin/python -m build --outdir dist
	build/wheel/bin/python -m pip --disable-pip-version-check install -q -c constraints.txt dist/*.whl
	cd build && wheel/bin/lorasmith --version && wheel/bin/lorasmith presets && wheel/bin/lorasmith --preset demo --dry-run

plans: $(VENV)/.dev
	$(BIN)/python tools/plans.py

screenshots: $(VENV)/.dev
	$(BIN)/python tools/screenshots.py
	$(BIN)/python tools/animation.py

# The texts of screens and commands for translators: a .po beside it in LANGUAGE/LC_MESSAGES, compiled by `pybabel compile`.
messages: $(VENV)/.dev
	$(BIN)/python tools/messages.py

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) install -q --no-compile -c constraints.txt -e .
	touch $@

$(VENV)/.dev: $(VENV)/.installed
	$(PIP) install -q --no-compile -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache demo
