# Every target does its own set-up, once: `make quickstart` in a fresh clone is all there is to type.
#   PYTHON  the interpreter that makes the environment (3.11 or newer)
#   VENV    where the environment is made; one that exists is completed
PYTHON ?= python3
VENV ?= .venv
QUICKSTART_OUTPUT ?= output/quickstart
SHAPES_OUTPUT ?= output/shapes
QUICKSTART_ARGS ?=
SHAPES_ARGS ?=
PYTEST_ARGS ?=
BENCH_OP_ARGS ?=
LEARN_ARGS ?=
FUZZ ?= 2000

BIN := $(VENV)/bin
CSRC := $(sort $(foreach kind,h cpp cu cuh,$(wildcard csrc/*/*.$(kind))))
INSTALLER := tools/install_detectron2.py $(sort $(wildcard tools/_detectron2_*.py))

# A step is done when its stamp exists. A stamp's name holds a checksum of what the step depends on
# (files, and a command's output) and is written last: an interrupted or outdated step runs again, a
# finished one never.
stamp = $(VENV)/.done-$(1)-$(shell (cat $(2); $(3)) 2>/dev/null | cksum | cut -d' ' -f1)
VENV_DONE := $(VENV)/.done-venv
TORCH_DONE := $(call stamp,torch,constraints.txt,:)
DETECTRON2_DONE := $(call stamp,detectron2,constraints.txt $(INSTALLER),:)
PROJECT := constraints.txt setup.py pyproject.toml $(CSRC)
PROJECT_DONE := $(call stamp,project,$(PROJECT),command -v c++ g++)

START := $(shell date +%s)
say = @echo "== [$$(( $$(date +%s) - $(START) )) s] $(1)"
# constraints.txt holds in every step, what the user constrains as well. Bytecode is written on
# first use ("no" is how pip spells yes here): compiling all of torch takes longer than it saves.
PIP_ENV := PIP_CONSTRAINT="$$PIP_CONSTRAINT constraints.txt" PIP_NO_COMPILE=no \
    PIP_DISABLE_PIP_VERSION_CHECK=1

.DEFAULT_GOAL := help
.PHONY: help setup quickstart shapes learn faults test asan bench-op fuzz lint format doctor clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | \
	    awk -F'|' '{ printf "make %-12s %s\n", $$1, $$2 }'

setup: $(PROJECT_DONE) ## make the environment and build the kernels

quickstart: setup ## train a small Mask2Former on generated images, evaluate it, draw what it sees
	$(BIN)/python datasets/make_shapes.py
	$(BIN)/python tools/train_net.py \
	    --config-file configs/shapes/mask2former_vit_adapter_quickstart.py \
	    train.output_dir=$(QUICKSTART_OUTPUT) $(QUICKSTART_ARGS)

shapes: setup ## the same model, trained longer (up to 30 minutes on 2 cores)
	$(BIN)/python datasets/make_shapes.py
	$(BIN)/python tools/train_net.py \
	    --config-file configs/shapes/mask2former_vit_adapter_shapes.py \
	    train.output_dir=$(SHAPES_OUTPUT) $(SHAPES_ARGS)

# The quick start's result is made when it is missing, not when it is old.
$(QUICKSTART_OUTPUT)/model_final.pth:
	$(MAKE) quickstart

learn: setup $(QUICKSTART_OUTPUT)/model_final.pth ## train every detection framework, print one table (2 hours)
	$(BIN)/python tools/learn.py --trunk $(QUICKSTART_OUTPUT)/model_final.pth $(LEARN_ARGS)

faults: setup ## provoke what can go wrong in a training, print one table of what happened
	OMP_NUM_THREADS=1 $(BIN)/python tools/faults.py

test: setup ## run all tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 4 $(PYTEST_ARGS)

asan: setup ## run the op's tests on CPU kernels built with AddressSanitizer and UBSan
	$(BIN)/python tools/check_memory.py

fuzz: setup ## compare the op with a float64 formulation on FUZZ random calls per backend
	OMP_NUM_THREADS=1 VITADAPTER_FUZZ=$(FUZZ) $(BIN)/python -m pytest tests/ops/test_fuzz.py

bench-op: setup ## time the op against the grid_sample formulation
	$(BIN)/python tools/benchmark_op.py $(BENCH_OP_ARGS)

lint: setup ## check style, types and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CSRC)

format: setup ## repair style and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CSRC)

doctor: ## say what is installed, what runs, what is missing and how to get it
	@if [ -x $(BIN)/python ]; then $(BIN)/python tools/doctor.py; else $(PYTHON) tools/doctor.py; fi

clean: ## remove the environment, build products and caches; data and results stay
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find vitadapter_d2 -name '*.so' -delete
	find . -name __pycache__ -not -path './.git/*' -prune -exec rm -rf {} +

$(VENV_DONE):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11"; exit 1; }
	$(call say,Making $(VENV))
	@$(PYTHON) -m venv $(VENV)
	@touch $@

# The build of the kernels needs torch first; the last step brings the rest.
$(TORCH_DONE): | $(VENV_DONE)
	$(call say,Installing torch (on Linux 3 GB to download))
	@rm -f $(VENV)/.done-torch-*
	@$(PIP_ENV) $(BIN)/python -m pip install torch torchvision setuptools wheel
	@touch $@

$(DETECTRON2_DONE): | $(TORCH_DONE)
	$(call say,Installing detectron2 and what it needs)
	@rm -f $(VENV)/.done-detectron2-*
	@$(PIP_ENV) $(BIN)/python tools/install_detectron2.py
	@touch $@

$(PROJECT_DONE): | $(DETECTRON2_DONE)
	$(call say,Building the kernels and installing the project with its tools)
	@rm -f $(VENV)/.done-project-*
	@$(PIP_ENV) $(BIN)/python -m pip install --no-build-isolation -e '.[dev]'
	@# It asks for an OpenCV with windows, which would lie over the one that is there.
	@$(PIP_ENV) $(BIN)/python -m pip install --no-deps lvis
	@touch $@
	$(call say,Ready; to use it by hand: source $(BIN)/activate)
