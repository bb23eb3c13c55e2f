# The verbs of the template. Those of a generated project are in its folder.

TEMPLATE = {{cookiecutter.project_slug}}
include $(TEMPLATE)/setup.mk

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup demo test test-faults test-cluster lint bench size site release pins clean

help: ## list the verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' Makefile

setup: $(READY) ## install what the template needs into .venv
	@echo "$(VENV) is ready"

demo: $(READY) ## generate a project into build/demo, and run its whole path on simulated logs
	@$(PY) demo.py

# The tests also import the project in place, so they need the packages that it pins.
$(VENV)/.tests: $(READY) $(TEMPLATE)/requirements.txt
	@$(INSTALL) --require-hashes -r "$(TEMPLATE)/requirements.txt"
	@$(INSTALL) --no-deps --no-build-isolation -e .
	@touch $@

test: $(VENV)/.tests ## the template's tests, under 10 minutes
	$(PY) -m pytest -n auto --dist loadfile -m "not faults and not cluster"

test-faults: $(VENV)/.tests ## the slow tests: kills, hostile corpora, real logs in full
	$(PY) -m pytest -n auto --dist loadfile -m faults

test-cluster: $(VENV)/.tests ## the tests of many machines, shards and Spark, which needs Java
	$(PY) -m pytest -n auto --dist loadfile -m cluster

lint: $(VENV)/.tests ## ruff, sqlfluff, imports, English, portable SQL and the workflows' schema
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(VENV)/bin/lint-imports
	$(PY) tools/lint_english.py
	$(PY) tools/lint_portable.py
	cd "$(TEMPLATE)" && "$(CURDIR)/$(VENV)/bin/jollyboat" link > /dev/null \
		&& "$(CURDIR)/$(PY)" -m sqlfluff lint -q --config .sqlfluff \
		dbt/models ../src/jollyboat/dbt/models
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.github-workflows \
		.github/workflows/*.yml "$(TEMPLATE)"/.github/workflows/*.yml

bench: demo ## measure the whole path, the data run and the server, and print the tables
	@build/demo/.venv/bin/python bench/path.py
	@build/demo/.venv/bin/python bench/data.py 100000 --days 0
	@build/demo/.venv/bin/python bench/serving.py

size: $(READY) ## files and lines of a generated project and of the library, by folder
	@$(PY) tools/size.py

$(VENV)/.site: $(VENV)/.tests docs/requirements.txt
	@$(INSTALL) --require-hashes -r docs/requirements.txt
	@touch $@

site: $(VENV)/.site ## build the documentation into build/site; a warning or a dead link fails
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

release: $(VENV)/.site ## date the changelog, and build the wheel and the site into dist/
	@NO_MKDOCS_2_WARNING=1 $(PY) tools/release.py

PIN = $(VENV)/bin/uv pip compile -q --universal --python-version 3.11 --upgrade --generate-hashes \
	--no-strip-extras --no-header --no-annotate --no-emit-index-url
pins: $(READY) ## write requirements.txt again from requirements.in, of the site too
	$(PIN) requirements.in -o requirements.txt
	$(PIN) docs/requirements.in -o docs/requirements.txt \
		-c requirements.txt -c "$(TEMPLATE)/requirements.txt"

clean: ## remove build/ (with the generated project) and dist/
	rm -rf build dist
