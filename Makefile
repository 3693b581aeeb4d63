# Each of these installs first.
# make demo: the main job.        make test: lint, and every test but those of faults.
# make test-fast: the tests that are not slow, for a change under way.
# make test-faults: real sites, broken on purpose; most of an hour, and wants root.  make test-faults-quick: a part of it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# glibc gives large blocks back to the system after each step; keeping them makes training 1.5 to 2 times faster.
export MALLOC_MMAP_THRESHOLD_ := 8589934592
export MALLOC_TRIM_THRESHOLD_ := 17179869184
export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1

FAULTS := tests/e2e/test_faults.py tests/e2e/test_intruders.py tests/e2e/test_rotation.py tests/e2e/test_proxies.py \
          tests/client/test_ledger_faults.py

.PHONY: demo test test-fast test-faults test-faults-quick lint bench clean

demo: $(VENV)/installed
	rm -rf runs/demo
	$(BIN)/pmfed simulate --out runs/demo

test: lint
	$(BIN)/pytest -n 2 --dist worksteal

test-fast: $(VENV)/installed
	$(BIN)/pytest -n 2 --dist worksteal -m "not slow"

test-faults: $(VENV)/installed
	PMFED_TEST_FAULTS=1 $(BIN)/pytest $(FAULTS)

test-faults-quick: $(VENV)/installed
	PMFED_TEST_FAULTS=1 $(BIN)/pytest -m quick $(FAULTS)

lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/installed
	$(BIN)/pmfed bench

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) runs
