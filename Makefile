# Everything happens in .venv, which the first target that needs it creates.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: demo test lint fast slow torture fuzz docs bench clean

demo: $(STAMP)
	$(BIN)/python docs/demo.py demo

test: lint fast slow

lint: $(STAMP)
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --check .
	mkdir -p .venv/typing && ln -sfn "$(CURDIR)" .venv/typing/onepass
	MYPYPATH=.venv/typing $(BIN)/mypy -p onepass.features -p onepass.extract -p onepass.heads -m onepass -m onepass.cli
	MYPYPATH=.venv/typing:docs:benchmarks $(BIN)/mypy --explicit-package-bases docs benchmarks

fast: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadscope -m "not slow"

slow: $(STAMP)
	$(BIN)/python -m pytest -n 2 --dist loadscope -m slow

# A hundred kills of each command at random moments, and disks that fill up.
torture: $(STAMP)
	ONEPASS_TORTURE=100 $(BIN)/python -m pytest -n 2 --dist loadscope tests/test_torture.py tests/test_kills.py tests/test_disks.py

# Ten thousand damaged files of each format, tables and archives too, and three thousand with a single flipped bit.
fuzz: $(STAMP)
	ONEPASS_FUZZ=10000 ONEPASS_FLIPS=3000 $(BIN)/python -m pytest -n 2 tests/test_fuzz.py tests/test_flips.py tests/extract/data

# The documentation as a site, in build/site.
docs: $(STAMP)
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build

# make bench DATA=photos/ WEIGHTS=resnet50.weights.h5
bench: $(STAMP)
	$(BIN)/python benchmarks/extraction.py $(DATA) --backbone $(or $(BACKBONE),resnet50) $(if $(WEIGHTS),--weights $(WEIGHTS))

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	touch $(STAMP)

clean:
	rm -rf .venv demo .pytest_cache .mypy_cache .ruff_cache
