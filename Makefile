# One target for each thing a person does with this repository; `make` alone lists them.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup demo test test-long lint bench constraints clean packages

bin := .venv/bin
# What `make setup` installs besides the core; see [project.optional-dependencies] in pyproject.toml.
EXTRAS ?= test
manifest := demo/workspace/released/review/manifest.json

# Peers that need other versions than ours live in an environment of their own.
peer = [ -x build/$(1)/bin/python ] || { $(bin)/python -m venv build/$(1) && build/$(1)/bin/pip -q install $(2); }

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

setup: ## make .venv with everything the tests need (EXTRAS=... for another set, PYTHON=... for another interpreter)
	@.ci/setup-venv "$(EXTRAS)"

demo: ## make a demo dump and run the whole graph on it: sort, de-identify, prepare the review
	@.ci/setup-venv review,demo,codecs
	@echo "Writing the demo dump"
	@$(bin)/python -m tests.builders.demo_dump demo/dump
	@$(bin)/luigi --module pipelines PrepareReview --study configs/demo.toml
	@echo
	@echo "Made, all of it below demo/:"
	@echo "  dump/                          what a scanner leaves: $$(find demo/dump -type f | wc -l) files in one flat folder"
	@echo "  workspace/identified/sorted/   patient / study date / series; patients can be read here, so only you may open it"
	@echo "  workspace/released/export/     de-identified: $$(find demo/workspace/released/export -type f -name '*.dcm' | wc -l) images"
	@echo "  workspace/released/nifti/      the same as a BIDS data set: $$(find demo/workspace/released/nifti -name '*.nii.gz' | wc -l) images"
	@echo "  workspace/released/review/     what a reviewer gets; open index.html in a browser"
	@echo "Check the manifest:  $(bin)/python -m viewer check $(manifest)"
	@echo "Draw every series:   $(bin)/python -m viewer render $(manifest) --out demo/pictures"

test: packages setup lint ## every check and every test, the long ones as a sample
	@$(bin)/python -m pytest -n 2 --dist loadscope -m "not long"

test-long: packages setup lint ## every check and every test in full
	@$(bin)/python -m pytest -n 2 --dist loadscope

# Outside CI what is missing is named, and the tests that need it are left out; pytest says which and why.
packages:
	@.ci/install-debian-packages test || [ "$${CI:-}" != true ]

lint: setup ## ruff, mypy and the rules of the house
	@$(bin)/ruff check .
	@$(bin)/ruff format --check .
	@$(bin)/mypy
	@$(bin)/lint-imports --no-logo

bench: packages ## the measurements, each beside its peers
	@.ci/setup-venv bench
	@for script in benchmarks/{index,deidentify,convert,quality,page,sort,monitor,scale_plan}.py; do echo "== $$script"; $(bin)/python "$$script"; done
	@echo "== benchmarks/viewer.py"
	@$(call peer,napari,"napari[pyqt5]==0.9.2" nibabel)
	@$(call peer,visualqc,visualqc==0.7 "matplotlib<3.9" "numpy<2" setuptools)
	@xvfb-run -a -s "-screen 0 1600x1000x24" $(bin)/python benchmarks/viewer.py \
		--napari build/napari/bin/python --visualqc build/visualqc/bin/python

constraints: ## find the newest versions that fit and pin them in .ci/constraints.txt
	@VENV=build/newest CONSTRAINTS=/dev/null .ci/setup-venv demo,test,bench,ocr
	@echo "# The versions a fresh install gets; written by \`make constraints\`." >.ci/constraints.txt
	@build/newest/bin/python -m pip list --format=freeze --exclude-editable --exclude pip --exclude setuptools \
		>>.ci/constraints.txt
	@rm -rf build/newest
	@echo "Wrote .ci/constraints.txt: $$(grep -c == .ci/constraints.txt) versions"

clean: ## remove everything that was made here, .venv and the demo included
	rm -rf .venv build dist demo .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
