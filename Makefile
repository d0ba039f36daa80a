.PHONY: demo test lint bench
PY = .venv/bin/python

.venv/ready: requirements-test.txt pyproject.toml
	python3 -m venv .venv
	# Python compiles what is imported when it is: pip would compile all of four gigabytes.
	$(PY) -m pip install -q --no-compile -r requirements-test.txt
	$(PY) -m pip install -q --no-compile -e .
	touch $@

demo: .venv/ready
	KERAS_BACKEND=jax $(PY) examples/digits.py

lint: .venv/ready
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m pyright

test: lint
	KERAS_BACKEND=jax $(PY) -m pytest -n 2 --dist worksteal --doctest-modules src tests
	KERAS_BACKEND=tensorflow $(PY) -m pytest -n 2 --dist worksteal tests
	KERAS_BACKEND=torch $(PY) -m pytest -n 2 --dist worksteal tests
	KERAS_BACKEND=jax $(PY) examples/digits.py
	KERAS_BACKEND=jax $(PY) examples/photographs.py
	KERAS_BACKEND=jax $(PY) examples/masked_language_model.py

bench: .venv/ready
	KERAS_BACKEND=jax $(PY) benchmarks/structure.py
	KERAS_BACKEND=jax $(PY) benchmarks/edits.py
	for b in jax tensorflow torch; do \
	  KERAS_BACKEND=$$b $(PY) benchmarks/weights.py && KERAS_BACKEND=$$b $(PY) benchmarks/loops.py && KERAS_BACKEND=$$b $(PY) benchmarks/features.py || exit 1; \
	done
