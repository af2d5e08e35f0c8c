PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed

# A user's own nnU-Net settings must change neither the tests, nor the demo, nor what is trained for a benchmark: all set
# what they need. What measures a trained model needs the user's nnUNet_preprocessed.
ifeq (,$(filter bench-deploy bench-compression bench-processes,$(MAKECMDGOALS)))
unexport $(filter nnUNet_% PROX_CONFIG,$(.VARIABLES))
endif

.DEFAULT_GOAL := help
.PHONY: help test demo lint bench bench-ranking bench-bundles bench-oct bench-reversible bench-auto3dseg bench-deploy bench-compression bench-processes bench-search bench-step clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 24

test: $(INSTALLED) ## create the environment and run the default test suite
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadgroup

demo: $(INSTALLED) ## train and deploy a small family into runs/demo (OUTPUT=<folder>); DATA=<Decathlon folder> or download
	$(BIN)/prox-monai demo $(if $(DATA),--data "$(DATA)") $(if $(OUTPUT),--output "$(OUTPUT)")

lint: $(INSTALLED) ## check style and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

bench: $(INSTALLED) ## compare trainings on real data: DATA=<Decathlon folder>, METHODS=all, SEEDS="0 1 2", THREADS=1, FULL=1, PUBLISHED=1, OUTPUT=<folder>
	$(BIN)/python benchmarks/paper.py $(if $(DATA),--data "$(DATA)") $(if $(METHODS),--methods $(METHODS)) \
		$(if $(SEEDS),--seeds $(SEEDS)) $(if $(THREADS),--threads $(THREADS)) $(if $(FULL),--full) \
		$(if $(PUBLISHED),--published) $(if $(OUTPUT),--output "$(OUTPUT)")

bench-ranking: $(INSTALLED) ## after bench, with its DATA, THREADS, FULL, PUBLISHED, OUTPUT: the supernet's subnets against the same trained alone
	$(BIN)/python benchmarks/ranking.py $(if $(DATA),--data "$(DATA)") $(if $(THREADS),--threads $(THREADS)) \
		$(if $(FULL),--full) $(if $(PUBLISHED),--published) $(if $(OUTPUT),--output "$(OUTPUT)")

bench-bundles: $(INSTALLED) ## train and measure the bundles with quick settings: DATA=<folder of the data sets>
	$(BIN)/python benchmarks/bundles.py --data "$(DATA)" $(if $(OUTPUT),--output "$(OUTPUT)")

bench-oct: $(INSTALLED) ## compare trainings of the OCT classifier on five folds, hours: DATA=<folder of classes>
	$(BIN)/python benchmarks/oct.py --data "$(DATA)" $(if $(OUTPUT),--output "$(OUTPUT)")

bench-reversible: $(INSTALLED) ## measure what reversible blocks save
	$(BIN)/python benchmarks/reversible.py

bench-auto3dseg: $(INSTALLED) ## prox in Auto3DSeg on the hippocampus, quick settings: DATA=<folder of the Decathlon's tasks>
	$(BIN)/python benchmarks/auto3dseg.py --data "$(DATA)" $(if $(OUTPUT),--output "$(OUTPUT)")

bench-deploy: $(INSTALLED) ## a subnet for a device beside nnU-Net's planned network: MODEL=<folder that ProXTrainer trained>, FOLD=<n>; nnUNet_preprocessed as it was trained
	$(BIN)/python benchmarks/deploy.py --model "$(MODEL)" $(if $(FOLD),--fold $(FOLD)) $(if $(OUTPUT),--output "$(OUTPUT)")

bench-compression: $(INSTALLED) ## a subnet in int8, fine-tuned, and both: MODEL=<folder that ProXTrainer trained>, FOLD=<n>, SUBNET=<name>; nnUNet_preprocessed
	$(BIN)/python benchmarks/compression.py --model "$(MODEL)" $(if $(FOLD),--fold $(FOLD)) $(if $(SUBNET),--subnet "$(SUBNET)") \
	  $(if $(OUTPUT),--output "$(OUTPUT)")

bench-processes: $(INSTALLED) ## two processes on one search and one table, one killed: MODEL=<folder that ProXTrainer trained>, FOLD=<n>; nnUNet_preprocessed
	$(BIN)/python benchmarks/two_processes.py --model "$(MODEL)" $(if $(FOLD),--fold $(FOLD)) $(if $(OUTPUT),--output "$(OUTPUT)")

bench-search: $(INSTALLED) ## search among millions of subnets against random ones, with a synthetic Dice
	$(BIN)/python benchmarks/search.py front

bench-step: $(INSTALLED) ## measure what a training step costs
	$(BIN)/python benchmarks/step_cost.py

clean: ## remove the environment, builds and caches; runs/ stays
	rm -rf .venv build dist .pytest_cache .ruff_cache

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("prox_monai needs Python 3.11 or newer, this is %d.%d; name another: make PYTHON=python3.12 ..." % sys.version_info[:2])'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -e ".[dev,nnunet,monai,auto3dseg,search,export]"
	@touch $@
