# Every command that people and CI use. Each makes .venv first if it is missing.
# PYTHON names the Python that .venv is made with: make test PYTHON=python3.13

PYTHON ?= python3
VENV := .venv
ifeq ($(OS),Windows_NT)
  PY := $(VENV)/Scripts/python
else
  PY := $(VENV)/bin/python
endif
READY := $(VENV)/.ready
PIP := $(PY) -m pip --disable-pip-version-check install -c constraints.txt --only-binary=:all:

# Where HOME is missing or read-only, as in some containers, caches and settings go into build/home.
ifneq ($(OS),Windows_NT)
  ifneq ($(shell test -w "$$HOME" && echo yes),yes)
    export HOME := $(CURDIR)/build/home
    $(shell mkdir -p build/home)
  endif
endif

# Bytecode is kept, also where the environment says not to: the tests start some hundred processes.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help book test test-slow lint check rules unit notebooks exported export lab test-cuda test-pretended coverage bench results dist clean
.NOTPARALLEL:

help:
	@echo "make book            execute the notebooks and write them as a book: build/book/index.html"
	@echo "make test            lint, export check, rules, pytest, every notebook as a test (twice)"
	@echo "make coverage        the lines of exported cells that no notebook runs, by cell"
	@echo "make test-slow       the tests marked slow: both engines on 280 situations, pairs of callbacks, fuzz;"
	@echo "                     and the notebooks' experiments with the exported modules"
	@echo "make lab             open the notebooks in JupyterLab"
	@echo "make export          write exp/ from the notebooks"
	@echo "make test-cuda       pytest and the notebooks on a CUDA device"
	@echo "make test-pretended  the same where there is none: on tensors that pretend to be on one"
	@echo "make bench           the side-by-side measurements of benchmarks/"
	@echo "make results         renew the README's tables and pictures from the notebooks and their last run"
	@echo "make dist            the wheel and the sdist, tried in empty environments: build/dist"
	@echo "make clean           remove what the commands above made, except .venv"

# A stamp in .venv says that it holds what pyproject.toml and constraints.txt ask for.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12" >&2; exit 1; }
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV) || \
	  { rm -rf $(VENV); exit 1; }
	@echo "installing into $(VENV) (once; torch is large, so this can take some minutes)"
	@test -t 1 || quiet=-q; $(PIP) $$quiet setuptools && \
	  $(PIP) $$quiet --no-build-isolation -e '.[dev]'
	@git config filter.notebooks.clean "$(PY) -S tools/clean_notebook.py" 2>/dev/null || true
	@touch $@

book: $(READY)
	@$(PY) tools/notebook2script.py
	@$(PY) tools/run_notebook.py --html build/book
	@echo "the book: build/book/index.html"

test: lint check rules unit notebooks exported

lint: $(READY)
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check --quiet tools tests benchmarks || \
	  { echo "run: $(PY) -m ruff format tools tests benchmarks" >&2; exit 1; }

check: $(READY)
	@$(PY) tools/notebook2script.py --check || { echo "run: make export" >&2; exit 1; }

rules: $(READY)
	@$(PY) tools/check_rules.py

unit: $(READY)
	@$(PY) -m pytest -m "not slow" -n auto --dist loadfile --no-loadscope-reorder

test-slow: $(READY)
	@$(PY) -m pytest -m slow
	@$(PY) tools/run_notebook.py --exported --experiments

notebooks: $(READY)
	@$(PY) tools/run_notebook.py $(if $(CI),--all)

exported: $(READY)
	@$(PY) tools/run_notebook.py --exported $(if $(CI),--all)

coverage: $(READY)
	@$(PY) tools/run_notebook.py --coverage build/coverage

export: $(READY)
	@$(PY) tools/notebook2script.py

# Rooted at the repository; notebooks of your own go into scratch/, which git and the tools ignore.
lab: $(READY)
	@mkdir -p scratch
	@$(PY) -m jupyterlab $(if $(filter 0,$(shell id -u 2>/dev/null)),--allow-root) \
	  --LabApp.default_url=/lab/tree/nbs/00_exports.ipynb $(LAB)

test-cuda: $(READY)
	@EXP_DEVICE=cuda $(PY) -m pytest -m "not slow"
	@$(PY) tools/run_notebook.py --device cuda
	@$(PY) tools/run_notebook.py --device cuda --exported

# All but 01b, whose Triton kernel needs a real device; in a copy, whose figures nobody mixes up.
test-pretended: export PYTHONPATH = $(CURDIR)/tests/pretended_cuda
test-pretended: $(READY)
	@EXP_DEVICE=cuda $(PY) -m pytest -m cuda
	@rm -rf build/pretended && mkdir -p build/pretended && \
	  cp -R nbs exp tools settings.ini build/pretended && rm build/pretended/nbs/01b_*
	@cd build/pretended && $(CURDIR)/$(PY) tools/run_notebook.py --device cuda --timeout 300

bench: $(READY)
	@for script in benchmarks/[a-z]*.py; do echo "$$script"; $(PY) "$$script" || exit 1; done

results: $(READY)
	@$(PY) tools/contents.py
	@$(PY) tools/check_rules.py --readme README.md >/dev/null
	@$(PY) tools/results.py

# A source archive and a wheel; what CI publishes has passed in an empty environment.
dist: $(READY)
	@$(PY) -m pytest -m slow tests/test_package.py

clean:
	rm -rf build *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . \( -name .venv -o -name .git \) -prune -o \
	  \( -name __pycache__ -o -name .ipynb_checkpoints \) -prune -exec rm -rf {} +
