"""A Keras whose private names have moved: importing works, and a verb works or says what is gone."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

import keras_graft as kg
from keras_graft import _keras
from keras_graft._keras import private

pytestmark = pytest.mark.once

HIDE = """
import pkgutil, sys
import keras

find = pkgutil.resolve_name
hidden = set(sys.argv[1:])

def resolve_name(name):
    if name in hidden:
        raise AttributeError(f"no {name}")
    return find(name)

pkgutil.resolve_name = resolve_name
"""
"""Let what is looked up by name not be there; Keras itself keeps it."""

VERBS = """
import numpy as np
import keras_graft as kg
from keras import layers

x = keras.Input((6,), name="x")
h = layers.Dense(4, activation="relu", name="h")(x)
inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="in")], name="inner")
y = layers.Dense(4, name="out")(layers.Dropout(0.5, name="drop")(inner(h)))
model = keras.Model(x, y, name="m")
data = np.ones((3, 6), "float32")
want = keras.ops.convert_to_numpy(model(data))
seen = {}

def run(verb, *args, **kwargs):
    try:
        result = getattr(kg, verb)(*args, **kwargs)
        seen[verb] = "works"
        return result
    except kg.KerasVersionError as error:
        assert str(error).startswith(f"{verb}: Keras {keras.__version__} has no keras.src."), error
        seen[verb] = "refused"

def same(result):
    assert result is None or (keras.ops.convert_to_numpy(result(data)) == want).all()

same(run("clone", model))
same(run("inline", model, "inner"))
same(run("insert", model, layers.Activation("linear"), after="h"))
same(run("replace", model, "drop", layers.Dropout(0.25)))
parts = run("split", model, at="h")
if parts:
    same(run("join", *parts))
run("tie", model, "out/kernel", "inner/in/kernel")
run("freeze", model)
run("transplant", model, model)
run("diff", model, model)
run("extract", model, "h")
print(sorted(seen.items()))
"""


def script(code, *arguments):
    run = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return dict(eval(run.stdout.splitlines()[-1]))


def test_with_all_private_names_gone_importing_works_and_most_verbs_too():
    """Most are found by other means; what is not says so, with the verb."""
    seen = script(HIDE + VERBS, *(place for place, _ in private.NAMES.values()))
    refused = {verb for verb, how in seen.items() if how == "refused"}
    assert len(seen) == 11 and refused == {"transplant"}, seen


MASTER = """
import types
import keras
from keras.src.models import functional
from keras.src.saving import saving_lib

def keep(function):
    "Give a function of Keras the names of its module as they are now."
    return types.FunctionType(
        function.__code__, dict(vars(functional if "call" in function.__name__ else saving_lib)),
        function.__name__, function.__defaults__, function.__closure__,
    )

if hasattr(functional, "operation_fn"):
    def call(self, inputs, training=None, mask=None):
        inputs = self._standardize_inputs(inputs)
        for x, found in zip(inputs, keras.tree.flatten(mask)) if mask is not None else ():
            if found is not None:
                x._keras_mask = found
        outputs = self._run_through_graph(inputs, operation_fn=lambda operation: operation)
        return functional.unpack_singleton(outputs)

    functional.Functional.call = call
    del functional.operation_fn
if hasattr(saving_lib, "NpzIOStore"):
    saving_lib.NpzIOStore = saving_lib.H5IOStore
    for name in ("_save_state", "_save_container_state"):
        setattr(saving_lib, name, keep(vars(saving_lib)[name]))
    del saving_lib.NpzIOStore
new = keras.Layer.__new__

def without_quantize(cls, *args, **kwargs):
    layer = new(cls, *args, **kwargs)
    layer.__dict__.pop("quantize", None)
    return layer

keras.Layer.__new__ = without_quantize
"""
"""What Keras 3.16 took away, taken away from any other."""


def test_every_verb_works_without_what_keras_3_16_took_away():
    seen = script(MASTER + VERBS)
    assert len(seen) == 11 and set(seen.values()) == {"works"}, seen


@pytest.fixture
def model():
    x = keras.Input((6,), name="x")
    return keras.Model(x, layers.Dense(2, name="out")(layers.Dense(4, name="h")(x)), name="m")


@pytest.mark.parametrize("name", sorted(private.NAMES))
def test_what_finds_a_name_otherwise_finds_the_same(name, monkeypatch):
    place, otherwise = private.NAMES[name]
    if otherwise is None or name == "operation_fn" or otherwise() is None:
        pytest.skip("nothing else finds it")
    found = getattr(private, name)
    monkeypatch.setitem(private.NAMES, name, (place + "_gone", otherwise))
    monkeypatch.delitem(vars(private), name)
    assert getattr(private, name) is found and not private.has(name)


def test_a_name_that_is_gone_is_refused_with_the_verb_and_the_version(model, monkeypatch):
    monkeypatch.setitem(private.NAMES, "global_state", ("keras.src.gone.global_state", None))
    monkeypatch.delitem(vars(private), "global_state", raising=False)
    frozen = kg.layers.Frozen(model.get_layer("h"))
    with pytest.raises(kg.KerasVersionError) as error:
        kg.freeze(model)(np.ones((1, 6)))
    with pytest.raises(kg.GraftError, match="keras.src.gone.global_state"):
        frozen(np.ones((1, 6)))
    assert 'pip install "keras>=3.12,<3.17"' in str(error.value)
    assert f"Keras {keras.__version__} has no keras.src.gone.global_state" in str(error.value)


def test_a_class_to_inherit_from_that_is_gone_cannot_be_made(monkeypatch):
    monkeypatch.setitem(private.NAMES, "H5IOStore", ("keras.src.gone.H5IOStore", None))
    monkeypatch.delitem(vars(private), "H5IOStore", raising=False)

    class Store(private.base("H5IOStore")):
        pass

    with pytest.raises(kg.KerasVersionError, match="has no keras.src.gone.H5IOStore"):
        Store("somewhere")


def test_a_private_attribute_that_is_gone_is_refused_with_the_verb(model):
    del model._nodes_by_depth
    with pytest.raises(kg.KerasVersionError) as error:
        kg.insert(model, layers.ReLU(), after="h")
    said = f"insert: Keras {keras.__version__} has no Functional._nodes_by_depth, a private name"
    assert str(error.value).startswith(said)
    assert isinstance(error.value.__cause__, AttributeError)


def test_an_argument_that_is_gone_is_refused(model, monkeypatch):
    def save_state(saveable, store):
        raise AssertionError

    monkeypatch.setattr(private, "save_state", save_state)
    with pytest.raises(kg.KerasVersionError, match=r"save_state\(\) with these arguments"):
        _keras.saving_paths(model)


def test_errors_that_have_another_cause_stay_what_they_are(model):
    class Mine(layers.Layer):
        def call(self, x):
            return x + self._mine

    with pytest.raises(AttributeError, match="_mine"):
        Mine()(np.ones((1, 2)))
    with pytest.raises(AttributeError) as error:
        private.guarded(lambda: model.no_such_thing)()
    assert not isinstance(error.value, kg.GraftError)
    with pytest.raises(TypeError, match="missing 1 required"):
        kg.insert(model)
