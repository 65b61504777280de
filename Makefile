# Two commands: `make book` builds the book, `make test` runs every test. The rest serves them.
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMPS := _build/stamps
SAMKIT := $(shell find samkit -type f -not -name '*.pyc' -not -name '*.nb[ci]')
NOTEBOOKS := $(wildcard notebooks/*.ipynb)
RESULTS := $(filter-out results/mutants.json, $(wildcard results/*.json*))

.PHONY: book serve test lint unit notebooks pages mutants bench clean

book: $(VENV)/installed  ## execute the chapters and build the pages into _build/html
	$(PY) -m tools.book build

serve: book  ## show the built book at http://127.0.0.1:8000
	$(PY) -m tools.book serve

test: lint unit $(STAMPS)/nbval pages  ## everything that must pass

lint: $(VENV)/installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

unit: $(VENV)/installed  ## samkit, the ledger, the notebooks' round trip
	$(PY) -m pytest tests --ignore tests/book/test_pages.py -n 2

$(STAMPS)/nbval: $(VENV)/installed $(NOTEBOOKS) $(SAMKIT) $(RESULTS)  ## every notebook runs and its reference outputs hold
	OMP_NUM_THREADS=1 $(PY) -m pytest --nbval-lax --nbval-current-env --nbval-cell-timeout 600 -n 2 --dist loadfile notebooks
	mkdir -p $(STAMPS) && touch $@

pages: book  ## the built pages in a real browser
	$(PY) -m tools.browser
	$(PY) -m pytest tests/book/test_pages.py -n 2

notebooks: $(VENV)/installed  ## regenerate notebooks/ and their reference outputs from book/
	$(PY) -m tools.notebooks write

mutants: $(VENV)/installed  ## inject the faults of tests/mutants.toml, into results/mutants.json
	$(PY) -m tools.mutants run

bench: $(VENV)/installed  ## speed, as ratios against named peers; the last two write results/
	$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(PY) -m benchmarks.bench_diagonal
	$(PY) -m benchmarks.bench_frames
	$(PY) -m benchmarks.bench_sam
	$(PY) -m benchmarks.bench_msam

# torch comes from pip's default index: on Linux that is a CUDA build; install a CPU build into
# .venv beforehand to save the disk.
$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.11") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --disable-pip-version-check -c constraints.txt -e '.[test]'
	touch $@

clean:  ## forget everything built
	rm -rf _build $(VENV)
