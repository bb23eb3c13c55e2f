# Makes a virtual environment with the packages of requirements.txt when a verb first needs it.

VENV ?= .venv
PY = $(VENV)/bin/python
# Its name has a hash of the folder, because a virtual environment does not work after a move.
READY := $(VENV)/.ready-$(shell pwd -P | cksum | cut -d' ' -f1)

PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	"$$python" -c '$(IS_SUPPORTED)' 2>/dev/null && command -v "$$python" && break; done)
IS_SUPPORTED = import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))

# uv installs in seconds: the one on PATH, else the pinned one. INSTALLER=pip uses pip alone.
INSTALLER ?= uv
export PIP_DISABLE_PIP_VERSION_CHECK = 1
ifeq ($(INSTALLER),pip)
CREATE = "$(PYTHON)" -m venv --clear $(VENV)
INSTALL = $(PY) -m pip install -qq
else ifneq ($(shell command -v uv || true),)
CREATE = uv venv -q --clear --no-python-downloads --python "$(PYTHON)" $(VENV)
INSTALL = uv pip install -q --compile-bytecode --python $(PY)
else
CREATE = "$(PYTHON)" -m venv --clear $(VENV) \
	&& awk '/^[a-z]/ {is_uv = /^uv==/} is_uv' requirements.txt > $(VENV)/uv.txt \
	&& $(PY) -m pip install -qq --require-hashes -r $(VENV)/uv.txt
INSTALL = $(VENV)/bin/uv pip install -q --compile-bytecode --python $(PY)
endif

# A project pins the library in vendor/. The template in place has an empty pin, and the source.
ifneq ($(wildcard project.toml),)
CHECK_LIBRARY = test -s vendor/jollyboat.txt || test -f ../src/jollyboat/__init__.py || { echo \
	"vendor/jollyboat.txt pins no version of the library. Generate the project from a whole clone" \
	"and accept its hooks, or see \"The library\" in README.md." >&2; exit 1; }
INSTALL_LIBRARY = test -s vendor/jollyboat.txt || $(INSTALL) --no-deps --no-build-isolation -e ..
endif

$(READY): requirements.txt $(wildcard vendor/jollyboat.txt)
	@case "$$(uname -s)" in Linux|Darwin) ;; *) \
		echo "This runs on Linux and macOS. On Windows, use WSL." >&2; exit 1;; esac
	@test -n "$(PYTHON)" && "$(PYTHON)" -c '$(IS_SUPPORTED)' || { echo \
		"This runs on Python 3.11, 3.12 or 3.13; $(or $(PYTHON),the python3 on PATH) is another" \
		"version. Name one that fits: make setup PYTHON=/path/to/python3.13" >&2; exit 1; }
	@$(CHECK_LIBRARY)
	@test ! -L $(VENV) || { echo "$(VENV) is a link. Remove it, then run this again." >&2; exit 1; }
	@echo "setting up $(VENV) with $(INSTALLER)"
	@$(CREATE)
	@$(INSTALL) --require-hashes -r requirements.txt
	@$(INSTALL_LIBRARY)
	@$(if $(wildcard dbt),$(VENV)/bin/jollyboat link > /dev/null)
	@rm -f $(VENV)/.ready-*; touch $@
