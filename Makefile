.PHONY: demo test check lint bench versions preview dist docs pictures
PY = .venv/bin/python

# Python keeps what it compiled, whatever the environment says: the suite starts some hundred
# processes, and each would compile Keras and its backend again, for longer than it then runs.
export PYTHONDONTWRITEBYTECODE =

# The oldest Keras that is supported, and the last of each minor version since; the newest is the one
# in .venv, which the whole suite runs on.
KERAS = 3.12.0 3.13.2 3.14.1
EACH = tests/_keras tests/edit/test_freeze.py tests/edit/test_unfreeze.py tests/training tests/test_verbs.py \
  tests/ties/test_tied_files.py tests/model/test_opening.py
ON = PYTHONPATH=$(CURDIR)/.cache/keras-{} KERAS_BACKEND=torch $(PY) -m pytest $(EACH)

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
	# What type checkers see of a user's script.
	$(PY) -m pyright tests/typing/user_script.py
	$(PY) -m mypy --strict tests/typing/user_script.py

# For the inner loop, in under a minute: style, types, and the tests that need no trained model.
QUICK = tests/graph tests/look/test_diff.py tests/test_testing.py tests/test_old_files.py tests/edit/test_masks.py
check: .venv/ready
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	printf '%s\n' '-m pyright' '-m pytest $(QUICK)' | KERAS_BACKEND=torch xargs -P 2 -I{} sh -c '$(PY) {}'

# All share the one PyTorch of .venv: only Keras itself is there once more.
.cache/keras-%: | .venv/ready
	rm -rf $@ $@.part
	$(PY) -m pip install -q --no-compile --no-deps --target $@.part keras==$*
	mv $@.part $@

versions: $(KERAS:%=.cache/keras-%)
	printf '%s\n' $(KERAS) | xargs -P 2 -I{} sh -c 'echo Keras {}; $(ON)'

# Not in CI: tomorrow's Keras is another one.
preview: .venv/ready
	rm -rf .cache/keras-nightly
	$(PY) -m pip install -q --no-compile --no-deps --pre --target .cache/keras-nightly keras-nightly
	echo nightly | xargs -I{} sh -c '$(ON)'

test: lint versions
	KERAS_BACKEND=jax $(PY) -m pytest -n 2 --dist worksteal --doctest-modules src tests
	KERAS_BACKEND=tensorflow $(PY) -m pytest -n 2 --dist worksteal tests
	KERAS_BACKEND=torch $(PY) -m pytest -n 2 --dist worksteal tests
	printf '%s\n' photographs masked_language_model digits prune_and_tune | \
	  KERAS_BACKEND=jax xargs -P 2 -I{} $(PY) examples/{}.py

# Into site/, from the sources alone: no Keras and no network is needed, neither to build it nor to read it.
docs: .venv/ready
	NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict
	@echo 'Open site/index.html'

# The pictures in docs/pictures, drawn by kg.show from the code of the pages.
pictures: .venv/ready
	KERAS_BACKEND=torch $(PY) docs/make/pictures.py

bench: .venv/ready
	KERAS_BACKEND=jax $(PY) benchmarks/structure.py
	KERAS_BACKEND=jax $(PY) benchmarks/edits.py
	for b in jax tensorflow torch; do \
	  KERAS_BACKEND=$$b $(PY) benchmarks/weights.py && KERAS_BACKEND=$$b $(PY) benchmarks/loops.py && KERAS_BACKEND=$$b $(PY) benchmarks/features.py && KERAS_BACKEND=$$b $(PY) benchmarks/inside.py && \
	  OMP_NUM_THREADS=1 KERAS_BACKEND=$$b $(PY) benchmarks/opening.py --write || exit 1; \
	done

# The tools that build and check what is released are not in .venv: nothing else needs them.
.cache/dist-tools: | .venv/ready
	rm -rf $@ $@.part
	$(PY) -m pip install -q --no-compile --target $@.part build 'hatchling>=1.27' twine check-wheel-contents
	mv $@.part $@

dist: .cache/dist-tools
	rm -rf dist
	PYTHONPATH=$(CURDIR)/$< $(PY) -m build --no-isolation
	PYTHONPATH=$(CURDIR)/$< $(PY) -m twine check --strict dist/*
	PYTHONPATH=$(CURDIR)/$< $(PY) -m check_wheel_contents dist/*.whl
