# make demo: install and run the main job.  make test: install and pass the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# glibc gives large blocks back to the system after each step; keeping them makes training 1.5 to 2 times faster.
export MALLOC_MMAP_THRESHOLD_ := 8589934592
export MALLOC_TRIM_THRESHOLD_ := 17179869184
export FLWR_TELEMETRY_ENABLED := 0
export FLWR_DISABLE_UPDATE_CHECK := 1

.PHONY: demo test lint bench clean

demo: $(VENV)/installed
	rm -rf runs/demo
	$(BIN)/pmfed simulate --out runs/demo

test: lint
	$(BIN)/pytest -n 2 --dist worksteal

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
