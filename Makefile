# `make help` lists the targets. Needs Python 3.11 to 3.14, make and git; everything else goes into .venv.

# Without compiled bytecode MLflow takes a minute and a half to start instead of six seconds.
unexport PYTHONDONTWRITEBYTECODE
export DO_NOT_TRACK = 1
export NO_MKDOCS_2_WARNING = 1
# Commands of dvc.yaml begin with `python`, which must be .venv's.
RUN = export PATH="$(CURDIR)/.venv/bin:$$PATH";
STAMP = .venv/.installed

.PHONY: help install demo test check docs infra-check fuzz ui clean
.DELETE_ON_ERROR:

help:  ## This list
	@awk -F ':.*## ' '/^[a-z.]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP)  ## Everything into .venv, which the others do first

demo: $(STAMP)  ## Run the whole pipeline on the profile in params.yaml, and print the table
	@$(RUN) \
	if dvc status --quiet; then echo "All stages are fresh: nothing to do."; else dvc repro; fi && python -m sohes table

test: $(STAMP)  ## All tests; skipped ones are listed at the end with the reason
	@$(RUN) python -m pytest -rs --numprocesses 2 --dist loadfile  # a file in one process: its tests share servers

check: $(STAMP)  ## Format, lint, types, layers, packages, dead code, documentation
	@$(RUN) \
	ruff format --check . && ruff check . && mypy && lint-imports && deptry . && vulture && mkdocs build --quiet

docs: $(STAMP)  ## The documentation as pages that work offline: build/docs/index.html
	@$(RUN) mkdocs build --quiet && echo "wrote build/docs/index.html"

infra-check: $(STAMP)  ## Manifests, profiles, job templates, scripts and images of infra/
	@$(RUN) python -m infra.check

fuzz: $(STAMP)  ## Damaged foreign files through every reader: SECONDS=600, and SEED=0 for the same ones again
	@$(RUN) python -m infra.fuzz $(or $(SECONDS),600) $(SEED)

ui: $(STAMP)  ## MLflow and Prefect in the browser, for this machine only, until Ctrl-C
	@$(RUN) python -m flows.ui

clean:  ## Remove what the pipeline and the tools made, but not .venv and MLflow's records
	rm -rf data models predictions metrics reports .sohes .dvc/cache .dvc/tmp build dist
	rm -rf .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

$(STAMP): pyproject.toml constraints.txt
	@python=; for name in python3 python3.14 python3.13 python3.12 python3.11; do \
	  if $$name -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null; then \
	    python=$$name; break; fi; done; \
	if [ -z "$$python" ]; then echo "make: found no Python 3.11 to 3.14: install one of them" >&2; exit 1; fi; \
	[ -x .venv/bin/python ] || $$python -m venv .venv
# uv takes half as long as pip, which is the fallback where uv is missing or cannot reach the index.
	@if .venv/bin/python -m pip install --quiet uv && VIRTUAL_ENV="$(CURDIR)/.venv" .venv/bin/uv pip install \
	  --compile-bytecode --constraint constraints.txt --editable '.[dev]'; then :; \
	else echo "uv failed: installing with pip"; \
	  .venv/bin/python -m pip install --constraint constraints.txt --editable '.[dev]'; fi
	@touch $@
