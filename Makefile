# These commands do everything on a fresh Debian or Ubuntu machine, set-up included:
#
#   make demo    build a box from its committed lock, boot it, run a notebook inside it
#   make test    every check and every test but the heavy ones
#   make test-boxes   the heavy ones: shipped boxes of several gigabytes, boxes on every hypervisor's hardware
#   make bench   every benchmark; BENCH="build cli --runs 9" chooses
#
# Set-up is done once and again only when pyproject.toml or tools/host-setup change.

PYTHON ?= python3
BIN := .venv/bin
SETUP := .setup

.DELETE_ON_ERROR:
.PHONY: demo test test-boxes check unit boot bench clean

demo: $(SETUP)/package
	$(BIN)/python tools/demo.py

test: check $(SETUP)/host-test
	$(BIN)/python -m pytest -m "not heavy" --durations=40 $(PYTEST_ARGS)

test-boxes: $(SETUP)/host-test $(SETUP)/package
	$(BIN)/python -m pytest -m heavy $(PYTEST_ARGS)

check: $(SETUP)/package
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: $(SETUP)/host-test $(SETUP)/package
	$(BIN)/python -m pytest -m "not jupyter and not boot and not network and not golden and not browser and not vagrant" $(PYTEST_ARGS)

boot: $(SETUP)/host-test $(SETUP)/package
	$(BIN)/python -m pytest -m boot $(PYTEST_ARGS)

bench: $(SETUP)/host-bench $(SETUP)/package
	$(BIN)/python -m benchmarks $(BENCH)

clean:
	rm -rf .venv $(SETUP)

$(SETUP)/host: tools/host-setup
	@mkdir -p $(SETUP)
	tools/host-setup
	@touch $@

$(SETUP)/host-test: tools/host-setup
	@mkdir -p $(SETUP)
	tools/host-setup test
	@touch $@

$(SETUP)/host-bench: tools/host-setup
	@mkdir -p $(SETUP)
	tools/host-setup bench
	@touch $@

$(SETUP)/package: pyproject.toml $(SETUP)/host
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --editable . --group test
	@touch $@
