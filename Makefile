# Two commands: `make book` builds the book, `make test` runs every test. `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
CONSTRAINTS ?= -c constraints.txt
STAMPS := _build/stamps
# the tests of samkit itself, but for those in a browser
MIRROR := tests --ignore tests/book --ignore tests/tools --ignore tests/paper/interactive
SAMKIT := $(shell find samkit -type f -not -name '*.pyc' -not -name '*.nb[ci]')
NOTEBOOKS := $(wildcard notebooks/*.ipynb)
RESULTS := $(filter-out results/mutants.json, $(wildcard results/*.json*))
COLAB_PYTHON ?= python3.13
COLAB_PACKAGES ?= tests/colab/packages.txt

.PHONY: help book gate serve test nbval more quick lint unit coverage notebooks colab pages archive mutants rerun core links bench clean
.NOTPARALLEL:  # two targets may want to execute the same chapter

help:  ## what can be made
	@sed -nE 's/^([a-z]+):.*  ## (.*)/  make \1\t\2/p' Makefile | expand -t 18

book: $(VENV)/installed  ## execute the chapters and build the pages into _build/html
	$(PY) -m tools.book build

gate: book  ## nothing is wrong with the built pages: they may be published
	$(PY) -m tools.book check
	$(PY) -m tools.notebooks check

serve: book  ## show the built book at http://127.0.0.1:8000
	$(PY) -m tools.book serve

test: lint unit pages  ## what must pass before a commit

nbval: $(STAMPS)/nbval  ## every notebook runs, and its reference outputs hold

more: book  ## what takes longer: searches for faults, SAM in the frameworks it is used in, Colab, Firefox
	$(PY) -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) -e '.[firefox,frameworks]'
	$(PY) -m tools.browser firefox
	$(PY) -m pytest tests -m long -n 3

quick: $(VENV)/installed  ## lint, types and nine tenths of the tests of samkit, in two minutes
	$(VENV)/bin/ruff check --quiet .
	$(VENV)/bin/ruff format --quiet --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports
	OMP_NUM_THREADS=1 $(PY) -m pytest $(MIRROR) -q -m "not slow and not long" -n 2

lint: $(VENV)/installed  ## style, types, the wall between library and companion, workflows
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-cache
	$(VENV)/bin/zizmor --quiet --offline --pedantic .github
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff

# Many tests wait for a browser or another process: four at a time keep two cores busy.
unit: $(VENV)/installed  ## samkit with the examples of its docstrings, the ledger, the tools
	$(PY) -m pytest samkit tests --doctest-modules --ignore tests/book/test_pages.py -n 4

# The tests in a browser never call samkit; numba's loops are seen only where it does not compile.
coverage: $(VENV)/installed  ## the share of samkit's lines and branches that the unit tests run
	$(PY) -m pytest tests --ignore tests/book --ignore tests/tools --ignore tests/paper/interactive/test_browser.py -n 2 --cov --cov-report= --cov-fail-under=0
	NUMBA_DISABLE_JIT=1 $(PY) -m pytest tests/diagonal/test_dynamics.py tests/training/test_relu1d.py -k kernel --cov --cov-append

$(STAMPS)/nbval: $(VENV)/installed $(NOTEBOOKS) $(SAMKIT) $(RESULTS)
	OMP_NUM_THREADS=1 $(PY) -m pytest --nbval-lax --nbval-current-env --nbval-cell-timeout 600 -n 2 --dist loadfile notebooks
	mkdir -p $(STAMPS) && touch $@

pages: book  ## the built pages in a real browser
	$(PY) -m tools.browser
	$(PY) -m pytest tests/book/test_pages.py -n 4

notebooks: $(VENV)/installed  ## regenerate notebooks/ and their reference outputs from book/
	$(PY) -m tools.notebooks write

# Where torch comes as a CUDA build, as on Linux, this takes 7 GB.
colab: $(VENV)/installed  ## every notebook where it has to install samkit, among Colab's packages
	$(PY) -m tools.colab $(COLAB_PYTHON) $(COLAB_PACKAGES)

archive: book  ## the book, its notebooks, the records and the package in one file of dist/
	$(PY) -m tools.archive write

links: book  ## every link out of the book leads somewhere; needs a network
	$(PY) -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) -e '.[links]'
	$(VENV)/bin/lychee --no-progress --max-retries 3 '_build/html/book/*.html' README.md CHANGELOG.md

mutants: $(VENV)/installed  ## inject the faults of tests/mutants.toml: each row must notice
	$(PY) -m tools.mutants rows

rerun: $(VENV)/installed  ## one recorded run of each experiment again: does today's code repeat it?
	OMP_NUM_THREADS=1 $(PY) -m samkit.paper.experiments.rerun

core: $(VENV)/installed  ## inject mechanical faults into the core modules: their tests must notice
	$(PY) -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) -e '.[mutation]'
	$(PY) -m tools.mutants core

bench: $(VENV)/installed  ## speed, as ratios against named peers; all but the first two write results/
	$(PY) -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS) -e '.[bench]'
	$(PY) -m benchmarks.bench_diagonal
	$(PY) -m benchmarks.bench_frames
	$(PY) -m benchmarks.bench_grid
	$(PY) -m benchmarks.bench_sam
	$(PY) -m benchmarks.bench_msam
	$(PY) -m benchmarks.bench_growth
	$(PY) -m benchmarks.bench_epoch $(if $(shell command -v nvidia-smi),,--width 8 --images 1280)

# torch comes from pip's default index: on Linux that is a CUDA build; install a CPU build into
# .venv beforehand to save the disk.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --disable-pip-version-check $(CONSTRAINTS) -e '.[test]'
	touch $@

# A Python that is asked for by name is the one that is used.
ifneq ($(origin PYTHON), file)
ifneq ($(wildcard $(PY)),)
VERSION = -c 'import sys; print(*sys.version_info[:2], sep=".")'
ifneq ($(shell $(PYTHON) $(VERSION)), $(shell $(PY) $(VERSION)))
$(error $(VENV) holds Python $(shell $(PY) $(VERSION)), not $(PYTHON): run `make clean` first)
endif
endif
endif

clean:  ## forget everything built
	rm -rf _build $(VENV)
