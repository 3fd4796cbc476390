# `make help` says what there is. Needs Python 3.11 to 3.13, make and git; everything else goes into .venv.

# Without compiled bytecode MLflow takes a minute and a half to start instead of six seconds.
unexport PYTHONDONTWRITEBYTECODE
export DO_NOT_TRACK = 1
export NO_MKDOCS_2_WARNING = 1
# For what the recipes start in turn: dvc.yaml's commands begin with `python`.
RUN = export PATH="$(CURDIR)/.venv/bin:$$PATH";
STAMP = .venv/.installed

.PHONY: help demo test check docs infra-check ui clean
.DELETE_ON_ERROR:

help:  ## This list
	@awk -F ':.*## ' '/^[a-z.]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(STAMP)  ## Run the whole pipeline on the profile in params.yaml, and print the table
	@$(RUN) \
	if dvc status --quiet; then echo "All stages are fresh: nothing to do."; else dvc repro; fi && python -m sohes table

test: $(STAMP)  ## All tests; what was skipped is listed at the end with the reason
	@$(RUN) python -m pytest -rs

check: $(STAMP)  ## Format, lint, types, layers, packages, dead code, documentation
	@$(RUN) \
	ruff format --check . && ruff check . && mypy && lint-imports && deptry . && vulture && mkdocs build --quiet

docs: $(STAMP)  ## The documentation as pages that work offline: build/docs/index.html
	@$(RUN) mkdocs build --quiet && echo "wrote build/docs/index.html"

infra-check: $(STAMP)  ## Manifests, profiles, job templates, scripts and images of infra/
	@$(RUN) python -m infra.check

ui: $(STAMP)  ## MLflow and Prefect in the browser, on this machine only, until Ctrl-C
	@$(RUN) python -m flows.ui

clean:  ## Remove what the pipeline and the tools have made; .venv and MLflow's records stay
	rm -rf data models predictions metrics reports .sohes .dvc/cache .dvc/tmp build dist
	rm -rf .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis

$(STAMP): pyproject.toml constraints.txt
	@python=; for name in python3 python3.13 python3.12 python3.11; do \
	  if $$name -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null; then \
	    python=$$name; break; fi; done; \
	if [ -z "$$python" ]; then echo "make: Python 3.11, 3.12 or 3.13 is needed and none of them was found" >&2; exit 1; fi; \
	[ -x .venv/bin/python ] || $$python -m venv .venv
# uv installs in a minute and a half what takes pip three; where it cannot be had or cannot reach the index, pip does it.
	@if .venv/bin/python -m pip install --quiet uv && VIRTUAL_ENV="$(CURDIR)/.venv" .venv/bin/uv pip install \
	  --compile-bytecode --constraint constraints.txt --editable '.[dev]'; then :; \
	else echo "uv did not manage: installing with pip"; \
	  .venv/bin/python -m pip install --constraint constraints.txt --editable '.[dev]'; fi
	@touch $@
