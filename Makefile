# Lockstep: every target calls what it depends on; `make help` lists them.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
UV := $(VENV)/bin/uv
UV_VERSION := 0.13.9
CRD := crds/lockstep.dev_federatedjobs.yaml
CHART_CRD := charts/lockstep/files/federatedjobs.yaml
CHART_RIGHTS := charts/lockstep/templates/operator/_rights.tpl
STAMP := $(VENV)/.installed
# The cluster, the images and the demo need few packages: a developer's .venv serves them where there
# is one, else a small one of theirs.
SMALL := .venv-demo
RUN_STAMP := $(if $(wildcard $(STAMP)),$(STAMP),$(SMALL)/.installed)
RUN := $(if $(wildcard $(STAMP)),$(PY),$(SMALL)/bin/python)
LOAD := $(RUN) -m tests.cluster load $$($(RUN) images/build.py paths)

.DEFAULT_GOAL := help
.PHONY: help preflight venv cluster-up cluster-down cluster-status images demo test test-fast lint format docs docs-reference release crds monitoring dashboards dashboard-pictures lock sbom push bench bench-work bench-allocator bench-online bench-resizes bench-planning bench-reproducible bench-scale bench-simulator bench-telemetry bench-fidelity bench-strategies bench-robust bench-joint bench-split bench-split-wire chaos faults soak fuzz clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-16s %s\n", $$1, $$2}'

preflight: ## whether this machine will do for cluster and demo, before anything is fetched
	@$(PYTHON) -m tests.cluster.preflight

venv: $(STAMP) ## .venv with everything that the other targets need

define check_python
@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(not (3, 11) <= v <= (3, 13) and f"Lockstep needs Python 3.11 to 3.13, this is {v[0]}.{v[1]}: name another with PYTHON=python3.12")'
@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "Lockstep needs the venv module: apt-get install python3-venv"; exit 1; }
endef

$(STAMP): requirements/dev.lock pyproject.toml
	$(check_python)
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	test -x $(UV) || $(PY) -m pip install --quiet uv==$(UV_VERSION)
	$(UV) pip install --python $(PY) --no-deps --require-hashes -r requirements/dev.lock
	$(UV) pip install --python $(PY) --no-deps -e .
	@touch $(STAMP)

$(SMALL)/.installed: requirements/demo.lock
	$(check_python)
	test -x $(SMALL)/bin/python || $(PYTHON) -m venv $(SMALL)
	$(SMALL)/bin/python -m pip install --quiet --require-hashes -r requirements/demo.lock
	@$(SMALL)/bin/python -c 'import sysconfig; open(sysconfig.get_path("purelib") + "/lockstep.pth", "w").write("$(CURDIR)/operator\n")'
	@touch $@

cluster-up: preflight $(RUN_STAMP) ## a real Kubernetes on this machine (CLUSTER=existing KUBECONFIG=… uses yours)
	$(RUN) -m tests.cluster up

cluster-down: $(RUN_STAMP) ## removes it: processes, namespaces, mounts, cgroups (not packages, caches)
	$(RUN) -m tests.cluster down

cluster-status: $(RUN_STAMP) ## what runs, and where the kubeconfig is
	$(RUN) -m tests.cluster status

images: $(RUN_STAMP) ## builds what changed, loads it into the cluster when one is up
	$(RUN) images/build.py
	@if $(RUN) -m tests.cluster status >/dev/null 2>&1; then $(LOAD); \
	else echo "no cluster is up: make cluster-up, then make images again loads them"; fi

demo: preflight ## one FederatedJob trains on a real Kubernetes, from an empty machine
	@$(PYTHON) -m tests.demo --python $(RUN) --stamp $(RUN_STAMP)

test: preflight venv ## lint, unit, property, wire and e2e tests (with the embedded cluster)
	$(PY) -m tests.run

test-fast: venv lint ## the same without a cluster and the slowest tests
	$(PY) -m tests.run --fast

lint: venv
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy $(wildcard operator/lockstep_*) $(wildcard workers/lockstep_*) images tests
	$(VENV)/bin/lint-imports
	@$(VENV)/bin/lockstep-crds /dev/stdout | cmp - $(CRD) || { echo "$(CRD) is not what the models say: run make crds"; exit 1; }
	@cmp $(CRD) $(CHART_CRD) || { echo "$(CHART_CRD) differs from $(CRD): run make crds"; exit 1; }
	@$(PY) -m tests.docs --check
	$(PY) -m lockstep_monitoring --check

bench: venv ## measures a round's overhead on the wire, beside raw sockets
	$(PY) -m tests.bench.wire_round

bench-work: venv ## measures whether a round takes W/f seconds from 0.1 to 1 core (root)
	$(PY) -m tests.bench.work

bench-allocator: venv ## measures the policy on held-out traces (TRACES=…), writes docs/benchmarks
	$(PY) -m tests.bench.allocator --traces $(TRACES)

bench-strategies: venv ## measures all strategies beside each other (DATA=… USERS=… BUDGET=minutes)
	$(PY) -m tests.bench.strategies $(if $(DATA),--data $(DATA)) $(if $(USERS),--users $(USERS)) $(if $(BUDGET),--budget $(BUDGET))

bench-robust: venv ## measures what dishonest clients do to a job (DATA=folder), writes docs/benchmarks/robust.md
	$(PY) -m tests.bench.robust $(if $(DATA),--data $(DATA)) --write

bench-joint: venv ## measures plans of frequency and steps beside each other (DATA=… TRACES=… BUDGET=minutes)
	$(PY) -m tests.bench.joint $(if $(DATA),--data $(DATA)) $(if $(TRACES),--traces $(TRACES)) $(if $(BUDGET),--budget $(BUDGET))

bench-split: venv ## measures split training beside federated averaging (DATA=… BUDGET=minutes)
	$(PY) -m tests.bench.split $(if $(DATA),--data $(DATA)) $(if $(BUDGET),--budget $(BUDGET))

bench-split-wire: venv ## measures a step of split training on the wire, beside raw sockets
	$(PY) -m tests.bench.split_wire

bench-simulator: venv ## measures how fast jobs are simulated (FLOWER=a Python that has flwr[simulation], DIGITS=digits.npz)
	$(PY) -m tests.bench.simulator $(if $(FLOWER),--flower $(FLOWER)) $(if $(DIGITS),--digits $(DIGITS))

bench-telemetry: venv ## measures what series of up to 1,000 devices cost Prometheus; writes docs/benchmarks/telemetry.md
	$(PY) -m tests.bench.telemetry --write

bench-resizes: venv ## measures how fast 50 CPU limits are in force (root, cluster up)
	$(PY) -m tests.bench.resizes

bench-online: venv ## measures what learning on the job is worth (TRACES=…), writes docs/benchmarks
	$(PY) -m tests.bench.online --traces $(TRACES)

bench-reproducible: venv ## builds all images twice from nothing and compares them
	$(PY) -m tests.bench.reproducible

bench-planning: venv ## measures how long a plan takes for 50, 500 and 10,000 devices
	$(PY) -m tests.bench.planning

bench-scale: venv ## measures what jobs of 100 to 5,000 devices cost the operator (kwok, cluster up)
	$(PY) -m tests.bench.scale

bench-fidelity: venv ## compares simulated jobs with real pods (cluster up, HISTORY=dir), writes docs/benchmarks
	$(PY) images/build.py
	$(PY) -m tests.bench.fidelity --history $(or $(HISTORY),build/fidelity)

fuzz: venv ## fuzzes what strangers' bytes reach (FUZZ_SECONDS=60 a target), new examples for property tests
	$(PY) -m tests.fuzz --seconds $(or $(FUZZ_SECONDS),60)
	LOCKSTEP_SCHEMA_EXAMPLES=200 $(PY) -m pytest -q tests/fuzz/test_schemas.py
	LOCKSTEP_NEW_EXAMPLES=1 $(PY) -m pytest -q -m "hypothesis and not cluster and not cores"

chaos: venv ## 30 random kills in each mode on a real cluster; the model must not change (SEED=… KILLS=… MODE=…)
	$(PY) images/build.py
	$(PY) -m tests.cluster up $$($(PY) images/build.py paths)
	$(PY) -m tests.chaos $(if $(SEED),--seed $(SEED)) $(if $(KILLS),--kills $(KILLS)) $(if $(MODE),--mode $(MODE))

faults: venv ## faults that last, on a real cluster: Kubernetes slow or away, no operator … (ONLY=slow_apiserver SHARE=0.1)
	$(PY) images/build.py
	$(PY) -m tests.cluster up $$($(PY) images/build.py paths)
	$(PY) -m tests.long_faults $(if $(ONLY),--only $(ONLY)) $(if $(SHARE),--share $(SHARE))

soak: venv ## many rounds on a real cluster; no process may grow (ROUNDS=500 MODE=…)
	$(PY) images/build.py
	$(PY) -m tests.cluster up $$($(PY) images/build.py paths)
	$(PY) -m tests.soak $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(MODE),--mode $(MODE))

format: venv ## formats the Python code
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

docs: venv ## the site of docs/, into build/site (any warning fails)
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

docs-reference: venv ## regenerates the pages that are made from code (docs/reference)
	$(PY) -m tests.docs

crds: venv ## regenerates the CRD from the models, and the operator's roles from its table
	$(VENV)/bin/lockstep-crds $(CRD)
	cp $(CRD) $(CHART_CRD)
	$(PY) -m lockstep_operator.rights $(CHART_RIGHTS)

monitoring: venv ## regenerates what is made of code: rules and alerts, dashboards, lists of metrics
	$(PY) -m lockstep_monitoring

dashboards: monitoring ## the same

dashboard-pictures: venv ## draws every dashboard of a running job as PNG (JOB=namespace/name NAMESPACE=… PROMETHEUS=url)
	KUBECTL="$$($(PY) -m tests.cluster tools)/kubectl --kubeconfig $$($(PY) -m tests.cluster kubeconfig)" \
	$(PY) -m lockstep_monitoring.drawing $(if $(JOB),--job $(JOB)) $(if $(NAMESPACE),--namespace $(NAMESPACE)) $(if $(PROMETHEUS),--prometheus $(PROMETHEUS))

lock: venv ## pins the newest versions of all Python dependencies
	$(PY) -m images.lock

sbom: venv ## lists of parts (CycloneDX) of the images and the wheel, and their licences, into build/sbom
	$(PY) images/build.py
	$(PY) -m images.sbom

push: $(RUN_STAMP) ## pushes the images: make push REGISTRY=registry.example.org/team
	@test -n "$(REGISTRY)" || { echo "say where to: make push REGISTRY=registry.example.org/team"; exit 1; }
	$(RUN) images/build.py push --registry $(REGISTRY)

release: venv ## builds a release into build/release: make release VERSION=0.2.0
	@test -n "$(VERSION)" || { echo "say which: make release VERSION=0.2.0"; exit 1; }
	PATH="$$($(PY) -m tests.cluster tools):$$PATH" $(PY) -m images.release $(VERSION)

clean: ## removes environments and caches of this checkout (not the cluster: make cluster-down)
	rm -rf $(VENV) $(SMALL) build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
