# Every task of the project. Needs git, make, Python 3.11 or newer, and a POSIX shell.
#
#   make demo                    the whole thing, from nothing
#   make test TEST_ARGS="-k x"   some of the tests
#   make test PYTHON=python3.13  another Python (only where .venv does not exist yet)

help: ## What can be done here
	@while IFS= read -r line; do \
	  case "$$line" in \
	    [a-z]*:*"## "*) printf '  make %-9s %s\n' "$${line%%:*}" "$${line#*"## "}" ;; \
	  esac; \
	done < $(firstword $(MAKEFILE_LIST))

SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
DEMO_VENV := .venv-demo
LOCK_VENV := .venv-lock
BIN := $(VENV)/bin
UV_VERSION := 0.13.9

DEMO_ARGS ?=
TEST_ARGS ?=
BENCH_ARGS ?=
FAULT_ARGS ?=
MINUTES ?= 30
LOCK_ARGS ?=

# pip says nothing unless something fails; the lines around it say what goes on.
PIP_INSTALL := python -m pip install --quiet --disable-pip-version-check --no-input

define check_python
	@command -v $(PYTHON) >/dev/null 2>&1 || { \
	  echo "fraudstream needs Python 3.11 or newer, and there is no '$(PYTHON)' on PATH." >&2; \
	  echo "Install it, or say where it is: make ... PYTHON=/path/to/python3.11" >&2; \
	  exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "fraudstream needs Python 3.11 or newer; '$(PYTHON)' is older, or does not start." >&2; \
	  echo "Say where a newer one is: make ... PYTHON=/path/to/python3.11" >&2; \
	  exit 1; }
endef

# $(call new_environment,FOLDER): a virtual environment there, unless one that works is there.
define new_environment
	@$(1)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(1) || { \
	  echo "'$(PYTHON) -m venv' failed. On Debian and Ubuntu: apt install python3-venv" >&2; \
	  exit 1; }
	@echo '*' > $(1)/.gitignore
endef

# $(call install_project,FOLDER,REQUIREMENTS): the pinned packages, then the project itself.
define install_project
	@$(1)/bin/$(PIP_INSTALL) --require-hashes -r $(2)
	@$(1)/bin/$(PIP_INSTALL) --no-deps --no-build-isolation -e .
	@touch $@
endef

install: $(VENV)/.installed ## Make .venv with everything (355 MB to download, a minute or two)

$(VENV)/.installed: requirements/dev.txt pyproject.toml
	$(check_python)
	@echo "Installing everything into $(VENV): 355 MB to download, 1.3 GB on disk, a minute or two."
	$(call new_environment,$(VENV))
	$(call install_project,$(VENV),requirements/dev.txt)
	@echo "Installed: $(VENV)"

$(DEMO_VENV)/.installed: requirements/demo.txt pyproject.toml
	$(check_python)
	@echo "Installing what the demo needs into $(DEMO_VENV): 110 MB to download, 440 MB on disk,"
	@echo "half a minute to two minutes. The first start then fetches Kafka's jars, 45 MB, once."
	$(call new_environment,$(DEMO_VENV))
	$(call install_project,$(DEMO_VENV),requirements/demo.txt)
	@echo "Installed: $(DEMO_VENV)"

# .venv serves the demo too, where it is there and as fresh as the files that it was made from.
READY = $(shell $(MAKE) -s -q $(VENV)/.installed >/dev/null 2>&1 && echo yes)

demo: ## Real Kafka, Valkey, model and alerts on this machine, a minute (DEMO_ARGS="--seconds 20")
	$(if $(READY),,@$(MAKE) --silent --no-print-directory $(DEMO_VENV)/.installed)
	@exec $(if $(READY),$(VENV),$(DEMO_VENV))/bin/fraudstream demo $(DEMO_ARGS)

test: install ## All tests, on a real Kafka and a real Valkey (TEST_ARGS="-k name")
	@$(BIN)/python -m pytest $(TEST_ARGS)

parity: install ## A week of published features, whole, through the file and the live consumer
	@FRAUDSTREAM_TEST_PARITY=full $(BIN)/python -m pytest tests/parity $(TEST_ARGS)

quality: install ## Train the committed recipes whole, beside the published figures (half an hour and more)
	@FRAUDSTREAM_TEST_QUALITY=full $(BIN)/python -m pytest tests/parity/test_model_quality.py \
	  tests/parity/test_leak_guard.py $(TEST_ARGS)
	@$(BIN)/python -m benchmarks.quality $(BENCH_ARGS)

lint: install ## Style, types and the import contract
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

format: install ## Put the code into the one form that lint accepts
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

faults: install ## Every fault at full length, and docs/reliability-results.md (FAULT_ARGS="--faults 1,5-9")
	@$(BIN)/python tests/faults/matrix.py $(FAULT_ARGS)

soak: install ## A random mixture of faults, as long as you like (MINUTES=30)
	@$(BIN)/python tests/faults/matrix.py --faults 27 --again 27 --minutes $(MINUTES) $(FAULT_ARGS)

bench: bench-throughput bench-latency ## Both of the following, and what was asked for: two to three hours
	@$(BIN)/python -m benchmarks.check

bench-throughput: install ## Against peers and the limit (BENCH_ARGS="--without kafka-streams")
	@$(BIN)/python -m benchmarks.contest $(BENCH_ARGS)

bench-latency: install ## From due to readable, open loop (BENCH_ARGS="--rate 1000 --episodes 0")
	@$(BIN)/python -m benchmarks.latency $(BENCH_ARGS)

bench-scale: install ## Workers, partitions, keys and records a key (BENCH_ARGS="--what cards")
	@$(BIN)/python -m benchmarks.scale $(BENCH_ARGS)

bench-capacity: install ## What one core carries, and docs/capacity.md (prices: configs/prices.yaml)
	@$(BIN)/python -m benchmarks.capacity --page docs/capacity.md $(BENCH_ARGS)

bench-check: install ## Measure shortly, and fail where a ratio in benchmarks/bounds.toml is worse
	@$(BIN)/python -m benchmarks.contest --rounds 2 $(BENCH_ARGS)
	@$(BIN)/python -m benchmarks.latency --rate 1000 --rounds 2 --episodes 0 --delivery exactly_once
	@$(BIN)/python -m benchmarks.check

schemas: install ## Write docs/schemas/v1 anew from the code
	@$(BIN)/python -m fraudstream.schemas docs/schemas/v1

# The demo and the run-time files may only hold versions that the full set holds too.
UV_COMPILE := $(LOCK_VENV)/bin/uv pip compile --quiet --universal --generate-hashes \
  --no-emit-index-url --python-version 3.11 --custom-compile-command "make lock" $(LOCK_ARGS)

lock: ## Pin requirements/*.txt anew from pyproject.toml (LOCK_ARGS=--upgrade for newer versions)
	$(check_python)
	$(call new_environment,$(LOCK_VENV))
	@$(LOCK_VENV)/bin/$(PIP_INSTALL) uv==$(UV_VERSION)
	@echo "Resolving requirements/dev.txt, demo.txt and run.txt"
	@$(UV_COMPILE) --extra dev pyproject.toml -o requirements/dev.txt
	@$(UV_COMPILE) --extra local --extra build -c requirements/dev.txt pyproject.toml \
	  -o requirements/demo.txt
	@$(UV_COMPILE) --extra stream --extra build -c requirements/dev.txt pyproject.toml \
	  -o requirements/run.txt

clean: ## Remove the environments, caches and build products (Kafka's jars stay cached)
	@rm -rf $(VENV) $(DEMO_VENV) $(LOCK_VENV) build dist \
	  .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	@git clean -fdXq -- fraudstream tests benchmarks

.PHONY: help install demo test parity quality faults soak lint format bench bench-throughput bench-latency \
  bench-scale bench-capacity bench-check schemas lock clean
.DELETE_ON_ERROR:
