# Every target makes .venv and installs what it needs. `make PYTHON=python3.12 test` picks another Python,
# `make LAB="--no-browser --port 9000" lab` passes options to JupyterLab.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
PROMPT ?= a red circle on a blue background
LAB    ?=

.PHONY: demo lab test export clean-notebooks benchmark

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

demo: $(READY)  ## draw a picture and the heatmap of the embedding it was made from
	mkdir -p out
	$(BIN)/llm-dit generate "$(PROMPT)" -o out/picture.png
	$(BIN)/llm-dit encode "$(PROMPT)" --heatmap out/heatmap.png

lab: $(READY)  ## open JupyterLab on the Playground
	$(BIN)/jupyter lab nbs/tutorials/playground.ipynb --notebook-dir=nbs $(if $(filter 0,$(shell id -u)),--allow-root) $(LAB)

test: $(READY)  ## notebooks, export, package and command-line checks
	$(BIN)/pytest

export: $(READY)  ## notebooks -> llm_dit/, README.md and the templates' JSON Schema
	$(BIN)/nbdev_export
	$(BIN)/python tools/template_schema.py
	$(BIN)/python tools/readme.py

clean-notebooks: $(READY)  ## strip what does not belong in git
	$(BIN)/nbdev_clean

benchmark: $(READY)  ## time of a short prompt as a ratio to diffusers
	$(BIN)/python tests/benchmark_encoding.py
