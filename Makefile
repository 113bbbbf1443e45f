# make demo    set up, then train a small DETR on drawn shapes, evaluate it and save a picture (CPU, minutes)
# make panoptic  set up, then train boxes and masks of things and stuff on drawn shapes (CPU, 15 minutes)
# make test    set up, then run the fast tests
# make slow    the tests that take longer; make full: those that CI has no time for, half an hour
# make lint, make types: the static checks
#
# PYTHON=python3.12 make demo chooses the interpreter; TESTS=tests/util make test chooses the tests.
# The environment in .venv is touched only when a requirements file has changed since it was set up.

PYTHON ?= python3
TESTS ?= tests
VENV := .venv
RUN := $(VENV)/bin/python
# A process for each of two cores, a file of tests in one of them.
PYTEST = OMP_NUM_THREADS=1 $(RUN) -m pytest -q -n 2 --dist loadfile
INSTALL = $(RUN) -m pip install -qq --disable-pip-version-check -c constraints.txt

.PHONY: demo panoptic test slow full lint types format clean

demo: $(VENV)/.installed
	$(RUN) main.py @configs/shapes.txt --overwrite

panoptic: $(VENV)/.installed
	$(RUN) main.py @configs/shapes_panoptic_boxes.txt --overwrite
	$(RUN) main.py @configs/shapes_panoptic_masks.txt --overwrite

test: $(VENV)/.installed-dev
	$(PYTEST) -m "not slow and not full and not cuda" $(TESTS)

slow: $(VENV)/.installed-dev
	$(PYTEST) -m "slow and not cuda" --durations=5 $(TESTS)

full: $(VENV)/.installed-dev
	$(PYTEST) -m "full and not cuda" --durations=5 $(TESTS)

lint: $(VENV)/.installed-dev
	$(RUN) -m ruff check --quiet .
	$(RUN) -m ruff format --quiet --check .

types: $(VENV)/.installed-dev
	$(RUN) -m mypy

format: $(VENV)/.installed-dev
	$(RUN) -m ruff check --quiet --fix .
	$(RUN) -m ruff format --quiet .

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache

$(VENV)/.installed: requirements.txt constraints.txt
	@echo "Setting up $(VENV): PyTorch is a large download, the first time takes minutes"
	@$(PYTHON) -m venv $(VENV)
	@$(INSTALL) -r requirements.txt
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed requirements-dev.txt
	@$(INSTALL) -r requirements-dev.txt
	@touch $@
