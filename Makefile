# make demo      set up; train a small DETR on synthetic shapes, evaluate it, save a figure (CPU, minutes)
# make panoptic  set up; train boxes, then masks, of things and stuff on synthetic shapes (CPU with bf16, 15 minutes)
# make test      set up; run the fast tests
# make slow      run the slower tests; make full: the longest tests, not part of CI
# make benchmarks  compare speed and memory with the original's algorithm (ten minutes)
# make lint, make types: static checks; make format: fix what ruff can fix
#
# PYTHON=python3.12 make demo selects the interpreter, TESTS=tests/util make test selects the tests.
# .venv is updated only when a requirements file has changed since it was set up.

PYTHON ?= python3
TESTS ?= tests
VENV := .venv
RUN := $(VENV)/bin/python
# Two processes, one per core; all tests of a file run in the same process, the longest files first
# (tests/conftest.py).
PYTEST = OMP_NUM_THREADS=1 $(RUN) -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder
INSTALL = $(RUN) -m pip install -qq --disable-pip-version-check -c constraints.txt
define INTO_FOLDER
@rm -rf $@
@$(RUN) -m pip install -qq --disable-pip-version-check --no-deps --target $@ -r $<
@touch $@
endef

.PHONY: demo panoptic test slow full benchmarks lint types format clean

demo: $(VENV)/.installed
	$(RUN) main.py @configs/shapes_fast.txt --overwrite

panoptic: $(VENV)/.installed
	$(RUN) main.py @configs/shapes_panoptic_boxes.txt --overwrite
	$(RUN) main.py @configs/shapes_panoptic_masks.txt --overwrite

test: $(VENV)/.installed-dev
	$(PYTEST) -m "not slow and not full and not cuda" $(TESTS)

slow: $(VENV)/.installed-dev $(VENV)/transformers4 $(VENV)/openvino
	$(PYTEST) -m "slow and not cuda" --durations=5 $(TESTS)

full: $(VENV)/.installed-dev $(VENV)/transformers4
	$(PYTEST) -m "full and not cuda" --durations=5 $(TESTS)

benchmarks: $(VENV)/.installed-dev
	$(RUN) -m benchmarks

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

# For tests/export/huggingface/test_transformers4.py; not imported by anything else.
$(VENV)/transformers4: tests/export/huggingface/transformers4.txt | $(VENV)/.installed-dev
	$(INTO_FOLDER)

# For tests/export/test_openvino.py, in the same way.
$(VENV)/openvino: tests/export/openvino.txt | $(VENV)/.installed-dev
	$(INTO_FOLDER)
