# One virtual environment serves all targets; stamp files inside it make repeated calls quick.
# `make PYTHON=python3.12 test` picks another interpreter for a new .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
MEDIA := examples/media

.NOTPARALLEL:
.PHONY: install dev lint check test fuzz audit docs bench demo wheel lock clean

install: $(VENV)/.mien

dev: $(VENV)/.dev
	$(BIN)/pre-commit install

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

check: $(VENV)/.dev
	$(BIN)/mypy

# TESTS narrows it down: make test TESTS="tests/test_blend.py -k poisson"
test: $(VENV)/.test
	$(BIN)/python -m pytest $(TESTS)

# Coverage-guided where atheris has a wheel for this system, else by mutation alone; TIME is in
# seconds for each reader: make fuzz TIME=600 TARGETS="photo video"
TIME ?= 60
fuzz: $(VENV)/.test
	$(PIP) install --quiet 'atheris>=3,<4' || echo "no atheris for this system"
	$(BIN)/python fuzz/run.py --seconds $(TIME) $(TARGETS)

# Known vulnerabilities of what is locked; says so, and passes, where advisories cannot be reached.
audit: $(VENV)/.dev
	$(BIN)/python scripts/audit_requirements.py

docs: $(VENV)/.dev
	$(BIN)/mkdocs build --strict

bench: $(VENV)/.test
	$(BIN)/mien bench $(ARGS)

demo: $(VENV)/.mien
	@mkdir -p demo
	$(BIN)/mien swap --source $(MEDIA)/portrait-3.jpg --consent synthetic \
	  --target $(MEDIA)/clip.mp4 --target-consent synthetic --output demo/clip.mp4 --overwrite
	$(BIN)/mien swap --source $(MEDIA)/portrait-3.jpg --consent synthetic --faces left \
	  --target $(MEDIA)/photo.jpg --target-consent synthetic --output demo/photo.jpg --overwrite
	$(BIN)/python scripts/readme_picture.py demo/clip.mp4 demo/result.jpg
	@echo "Look at demo/clip.mp4, demo/photo.jpg and demo/result.jpg"

# The wheel as users get it, tried in an environment of its own.
wheel: $(VENV)/.venv
	rm -rf build/wheel
	$(PIP) wheel --quiet --no-deps --wheel-dir build/wheel .
	$(PYTHON) -m venv build/wheel/venv
	build/wheel/venv/bin/python -m pip install --quiet build/wheel/*.whl
	cd build/wheel && venv/bin/mien --version && venv/bin/python -c \
	  "from mien import zoo; print(*[zoo.verify(card).name for card in zoo.SHIPPED], sep='\n')"

# Resolves pyproject.toml anew; uv comes from an environment of its own.
lock:
	$(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet uv
	build/lock/bin/uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-annotate --quiet --upgrade \
	  --custom-compile-command "make lock" --output-file requirements-dev.txt

clean:
	rm -rf $(VENV) build demo dist site .mypy_cache .pytest_cache .ruff_cache .hypothesis

# The stamp, not bin/python, stands for a whole environment: without Debian's python3-venv,
# `python -m venv` leaves half of one behind.
$(VENV)/.venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mien needs Python 3.11 or newer: make PYTHON=/path/to/python3 " + "$(MAKECMDGOALS)")'
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.mien: $(VENV)/.venv pyproject.toml
	$(PIP) install --quiet --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.mien
	$(PIP) install --quiet --editable '.[test]'
	@touch $@

# Pinned; holds all that the other two stamps stand for.
$(VENV)/.dev: $(VENV)/.venv pyproject.toml requirements-dev.txt
	$(PIP) install --quiet --require-hashes --requirement requirements-dev.txt
	$(PIP) install --quiet --no-deps --editable .
	@touch $(VENV)/.mien $(VENV)/.test $@
