# MyLLM. `make help` lists what can be made; `make book` is the one to begin with.

SHELL := /bin/sh
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# Choose another build of PyTorch or another Python with `make book TORCH="…" PYTHON=python3.12`.
TORCH ?= torch==2.13.0
PORT ?= 8000
VENV ?= .venv
PYTHON ?=
BIN := $(VENV)/bin
PY := $(BIN)/python

# Reproducible sums, two processes on two cores, and no colours in logs. `make test` runs two stages side by
# side with one process each: no stage waits for its last test, and each loads its libraries once.
WORKERS ?= 2
export MYLLM_WORKERS := $(WORKERS)
PYTEST := $(PY) -m pytest -n $(WORKERS:1=0)
export OMP_NUM_THREADS ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYDEVD_DISABLE_FILE_VALIDATION := 1
# Hundreds of processes import the package: none of them shall compile it anew.
unexport PYTHONDONTWRITEBYTECODE
step = @printf '\n== %s\n' "$(1)"
NOT_UNIT := --ignore tests/browser --ignore tests/book --ignore tests/exercises
# In the order in which they begin: what others wait for, what fails soon, the longest, and the shortest at the end,
# so that both processes are busy until then.
GATES := gate-0 gate-1 gate-2 gate-3
STAGES := execute lint layers types unit mutants $(GATES) browser proofs compare widgets built

.PHONY: help course-models book html lab test install weights execute site serve lint types layers unit full proofs mutants wheel colab distributed harness compare gate $(GATES) built browser widgets constraints clean

help: ## List what can be made
	@echo "MyLLM: build a large language model from nothing, chapter by chapter."
	@echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | while IFS='|' read -r name what; do printf '%-20s %s\n' "$$name" "$$what"; done
	@echo
	@echo '  make book PORT=8010             serve at another port'
	@echo '  make book TORCH="torch==2.13.0" install another build of PyTorch'

book: html ## Install, execute the chapters, build the book and serve it at http://localhost:8000
	@$(PY) tools/serve.py $(PORT)

html: weights site ## The same without serving: the book is then in _build/html

lab: install weights ## Open the chapters as notebooks in JupyterLab (in notebooks/; your changes are kept)
	$(call step,Writing the notebooks)
	@$(PY) tools/make_notebooks.py notebooks
	@$(PY) -m jupyterlab notebooks

test: install weights ## Everything that must hold: lint, types, layers, unit tests, proofs, book, notebooks, exercises, browser
	@printf '\nTwo stages side by side, each shown when it has ended.\n'
	@$(MAKE) -j2 $(if $(filter output-sync,$(.FEATURES)),-Otarget) WORKERS=1 $(STAGES)
	@printf '\nAll tests passed.\n'

install: $(VENV)/.installed ## Make .venv and install the package with all that the book and the tests need

$(VENV)/.installed: pyproject.toml constraints.txt
	@PYTHON="$(PYTHON)" tools/make_venv.sh "$(VENV)" "$(TORCH)"
	@touch $@

weights: install ## Fetch the published model that some chapters run at their end (98 MB, once)
	$(call step,A published model: SmolLM2-135M)
	@$(BIN)/myllm download smollm2 || { test "$$MYLLM_REAL" != required && echo "Going on without it: the cells that run it will say so."; }

execute: install ## Execute the chapters whose outputs are not in the cache
	$(call step,Executing the chapters)
	@$(PY) tools/execute.py

site: execute
	$(call step,Building the book)
	@NO_COLOR=1 $(BIN)/jupyter-book build . -W --keep-going -q

serve: ## Serve the built book again
	@$(PY) tools/serve.py $(PORT)

lint: install ## Format and lint (ruff)
	$(call step,Format and lint)
	@$(PY) -m ruff format --check .
	@$(PY) -m ruff check .

types: install ## Types of the package (basedpyright, strict)
	$(call step,Types)
	@$(PY) -m basedpyright

layers: install ## Who may import whom (import-linter)
	$(call step,Layers: who may import whom)
	@$(BIN)/lint-imports

unit: install ## Unit tests, without the long proofs
	$(call step,Unit tests)
	@$(PYTEST) --dist loadfile -m "not slow" $(NOT_UNIT)

full: install ## The same with twenty times the random cases, others in every run (not part of `make test`)
	$(call step,Unit tests with many random cases)
	@$(PYTEST) --dist loadfile -m "not slow" $(NOT_UNIT) --hypothesis-profile full

PROOFS := -m slow $(NOT_UNIT)

mutants: install ## Wrong versions of the package: the tests kill each
	$(call step,Mutants)
	@$(PYTEST) --dist loadfile -k "mutant or right_source" $(PROOFS)

proofs: install ## The other long proofs: compiled graphs, two processes, a published model
	$(call step,Long proofs)
	@$(PYTEST) --dist loadfile -k "not mutant and not right_source" $(PROOFS)

wheel: install ## Build the wheel, install it into an empty environment and use it there (needs a network)
	$(call step,The wheel in an empty environment)
	@$(PY) tools/check_wheel.py $(TORCH)

colab: install ## Run every chapter's notebook as Colab would, installing the wheel by its first cell (needs a network)
	$(call step,The notebooks as Colab runs them)
	@$(PY) tools/check_colab.py "$(TORCH)"

# Not a part of `make test`: with DeepSpeed installed, transformers imports it and prints a line into chapter 9.
distributed: install ## Install the extras for training and prove their parts, ZeRO over two processes among them
	$(call step,Extras: DeepSpeed and TensorBoard)
	@$(PY) -m pip install -c constraints.txt -e ".[distributed,logging]"
	@$(PY) -m pytest tests/training/test_strategies.py tests/training/test_journal.py

harness: install ## Install EleutherAI's harness and prove that it gets the numbers of ours
	$(call step,Extra: lm_eval)
	@$(PY) -m pip install -c constraints.txt -e ".[evaluate]"
	@$(PY) -m pytest tests/evaluation/test_lm_eval.py

compare: execute ## Run every chapter a second time and compare its outputs, strictly; the canaries must fail
	$(call step,Second run of every chapter: strict comparison)
	@$(PY) tools/compare.py build/executed
	$(call step,The canaries: notebooks that must fail)
	@$(PYTEST) tests/book/test_canaries.py

gate: $(GATES) ## The exercise gate: stubs score 0, solutions 100 %, wrong answers are named

# Parts of about the same length: chapters 1 to 9, 10 to 19, all later ones, and what is no gate.
gate-0: PART := test_gate.py -k "[0"
gate-1: PART := test_gate.py -k "[1"
gate-2: PART := test_gate.py -k "not [0 and not [1"
gate-3: PART := . --ignore tests/exercises/test_gate.py
$(GATES): install
	$(call step,Exercise gate: $@)
	@$(PYTEST) tests/exercises/$(PART)

SITE_TESTS := MYLLM_SITE=required $(PYTEST) --dist loadfile

built: site ## The built site: links, names, notebooks, figures
	$(call step,The built site)
	@$(SITE_TESTS) tests/book --deselect tests/book/test_canaries.py

browser: site ## With Chromium: accessibility, phone width, search, quizzes
	$(call step,The site in a browser)
	@$(SITE_TESTS) tests/browser --ignore tests/browser/test_widgets.py

widgets: site ## With Chromium: every widget of the book
	$(call step,The widgets in a browser)
	@$(SITE_TESTS) tests/browser/test_widgets.py

course-models: install ## Train the models that the package ships, course-base and course-sft (50 minutes; it resumes)
	$(call step,The course's own models)
	@$(PY) -m bench.course_models

constraints: install ## Resolve constraints.txt anew (needs a network)
	$(call step,Resolving constraints.txt)
	@tools/make_constraints.sh "$(VENV)"

clean: ## Remove what was built (the environment .venv stays)
	rm -rf _build build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
