"""Private state of Keras where a layer is made a second time, object by object.

A layer's configuration says how it was first made, not what became of it since: adapters that
were put in, weights that were quantized, attributes that were changed, states, seeds, and who
shares what with whom. So a copy is made of what there is.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras.src.models.functional import Functional  # 3.12 - 3.15
from keras.src.saving.keras_saveable import KerasSaveable  # 3.12 - 3.15
from keras.src.utils.tracking import Tracker  # 3.12 - 3.15

_SHARED = (
    int, float, complex, str, bytes, bool, type(None), type, types.ModuleType, np.ndarray,
    np.generic, types.BuiltinFunctionType, keras.DTypePolicy, keras.initializers.Initializer,
    keras.regularizers.Regularizer, keras.constraints.Constraint, keras.KerasTensor,
)  # fmt: skip
"""What a copy shares with its original: nothing of it ever changes."""


@functools.cache
def _kind(cls: type) -> str:
    """Return how values of a class are copied: asked for each of the hundred attributes of a layer."""
    return next((kind for classes, kind in _KINDS if issubclass(cls, classes)), "_other")


_NOT_TAKEN = {"build", "quantize", "_inbound_nodes", "_outbound_nodes", "_torch_params"}
"""Attributes of one layer that a copy has of its own: `build` and `quantize` are bound to it."""

COMPILED = {
    "optimizer", "_compile_config", "_compiled_trainable_state", "_jax_state", "history",
    "_eval_epoch_iterator", "stop_training", "stop_evaluating", "stop_predicting",
    "train_function", "test_function", "predict_function",
}  # fmt: skip
"""What `compile` and `fit` make of a model (3.12 - 3.15)."""


class Copier:
    """Makes layers again, with everything in them, and keeps who shares what.

    Uses `Layer.__dict__` as a whole, `Layer.__new__`, `Tracker.config`, `Tracker.stored_ids`,
    `TorchLayer._track_variables`, and the attributes that `Trainer.__init__` makes (3.12 - 3.15).

    Args:
        variable: Gives the variable that a copy has instead of one of the original.
        model: Gives a Functional or Sequential model again: its graph is no plain state.
        class_of: Gives the class of a copy for that of the original.
    """

    def __init__(
        self,
        variable: Callable[[Any], Any],
        model: Callable[[Any], Any] | None = None,
        class_of: Callable[[type], type] = lambda cls: cls,
    ) -> None:
        self._class_of = class_of
        self._variable_for = variable
        self._model = model
        # The originals are kept, so that no identity is given to another object meanwhile.
        self._made: dict[int, tuple[Any, Any]] = {}
        self._holders: dict[int, tuple[Any, bool]] = {}

    def keep(self, value: Any) -> None:
        """Have `value` stand for itself in every copy, with all that it holds."""
        stack = [value]
        while stack:
            item = stack.pop()
            if id(item) in self._made or not self._holds(item):
                continue
            self._made[id(item)] = item, item
            stack += _parts(item)

    def new(self, value: Any) -> bool:
        """Whether nothing stands for `value` yet."""
        return id(value) not in self._made

    def put(self, old: Any, new: Any) -> None:
        """Have `new` stand for `old` in every copy."""
        self._made[id(old)] = old, new

    def __call__(self, value: Any) -> Any:
        """Return `value` again: a copy if it holds layers or variables, else itself."""
        if id(value) in self._made:
            return self._made[id(value)][1]
        kind = _kind(value.__class__)  # TensorFlow's dicts only say that they are dicts
        return value if kind in ("plain", "shared") else getattr(self, kind)(value)

    def _variable(self, value: Any) -> Any:
        new = self._variable_for(value)
        self.put(value, new)
        return new

    def _method(self, value: Any) -> Any:
        owner = self(value.__self__)
        return value if owner is value.__self__ else types.MethodType(value.__func__, owner)

    def _partial(self, value: Any) -> Any:
        return functools.partial(self(value.func), *self(value.args), **self(dict(value.keywords)))

    def _tuple(self, value: Any) -> Any:
        items = [self(item) for item in value]
        if all(a is b for a, b in zip(items, value, strict=True)):
            return value
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)

    def _functional(self, value: Any) -> Any:
        return self.object(value) if self._model is None else self._model(value)

    def _other(self, value: Any) -> Any:
        return self.object(value) if self._holds(value) else value

    def object(self, old: Any) -> Any:
        """Return an object of the same class with a copy of each attribute."""
        layer = isinstance(old, keras.Layer)
        cls = self._class_of(type(old))
        new = cls.__new__(cls) if layer else object.__new__(cls)  # type: ignore[call-overload]
        self.put(old, new)
        left = _NOT_TAKEN | COMPILED if isinstance(old, keras.Model) else _NOT_TAKEN
        for name, value in list(vars(old).items()):
            if name not in left:
                new.__dict__[name] = value if _kind(value.__class__) == "plain" else self(value)
        if isinstance(old, keras.Operation):
            new.__dict__.update(_inbound_nodes=[], _outbound_nodes=[])
        if isinstance(old, keras.Model):
            keras.Model.__bases__[0].__init__(new)  # the Trainer of the backend begins anew
        if layer and old.built:
            track_on_torch(new)
        return new

    def _dict(self, old: Any) -> Any:
        new = old.__class__.__new__(old.__class__)
        self.put(old, new)
        for key, value in old.items():
            dict.__setitem__(new, self(key), self(value))
        return self._wrapper(old, new)

    def _list(self, old: Any) -> Any:
        new = old.__class__.__new__(old.__class__)
        self.put(old, new)
        items = [self(item) for item in old]
        (set.update if isinstance(old, set) else list.extend)(new, items)
        return self._wrapper(old, new)

    def _wrapper(self, old: Any, new: Any) -> Any:
        """Give a container of a class of its own the attributes of the original.

        TensorFlow's dicts only say that they are dicts: such a copy is one.
        """
        if type(new) is not type(old):
            return new
        for name, value in getattr(old, "__dict__", {}).items():
            new.__dict__[name] = self(value)
        return new

    def _tracker(self, old: Tracker) -> Tracker:
        new = object.__new__(Tracker)
        self.put(old, new)
        stores = {name: (test, self(store)) for name, (test, store) in old.config.items()}
        new.__dict__.update(
            vars(old),
            config=stores,
            stored_ids={name: {id(x) for x in store} for name, (_, store) in stores.items()},
        )
        return new

    def _function(self, function: Any) -> Any:
        for cell in function.__closure__ or ():
            try:
                inside = cell.cell_contents
            except ValueError:  # a name that was never given a value
                continue
            if self._holds(inside) and self(inside) is not inside:
                raise TypeError(
                    f"the function {function.__qualname__!r} works with {inside!r}, which cannot "
                    "be taken out of it"
                )
        return function

    def _holds(self, value: Any) -> bool:
        """Whether a layer or a variable is found by following the attributes of `value`."""
        seen: dict[int, Any] = {}
        stack = [value]
        while stack:
            item = stack.pop()
            if isinstance(item, (keras.Variable, keras.layers.Layer, KerasSaveable)):
                return True
            if id(item) in self._holders or id(item) in seen or isinstance(item, _SHARED):
                continue
            seen[id(item)] = item
            stack += _parts(item)
        self._holders.update((key, (item, False)) for key, item in seen.items())
        return False


_KINDS: tuple[tuple[Any, str], ...] = (
    (keras.KerasTensor, "shared"),  # unless one of the copy stands for it
    (_SHARED, "plain"),
    (keras.Variable, "_variable"),
    ((keras.Sequential, Functional), "_functional"),
    (Tracker, "_tracker"),
    (types.MethodType, "_method"),
    (types.FunctionType, "_function"),
    (functools.partial, "_partial"),
    (dict, "_dict"),
    ((list, set), "_list"),
    (tuple, "_tuple"),
    (KerasSaveable, "object"),
)
"""How values are copied: by which method of `Copier`. The first that fits."""


def _parts(item: Any) -> list[Any]:
    if isinstance(item, dict):
        return [*item.keys(), *item.values()]
    if isinstance(item, (list, tuple, set, frozenset)):
        return list(item)
    if isinstance(item, types.MethodType):
        return [item.__self__]
    if isinstance(item, functools.partial):
        return [item.func, *item.args, *item.keywords.values()]
    if isinstance(item, (types.FunctionType, *_SHARED)):
        return []
    # Not through the nodes of a layer: they lead to whatever else was called behind it.
    return [v for k, v in getattr(item, "__dict__", {}).items() if k not in _NOT_TAKEN]


def track_on_torch(layer: Any) -> None:
    """Tell PyTorch anew which parameters a layer has; nothing elsewhere."""
    if hasattr(layer, "_track_variables"):
        layer._modules.pop("_torch_params", None)
        layer._track_variables()


def variable_like(old: Any, value: Any = None, path: str | None = None) -> Any:
    """Return a variable like another, with memory of its own.

    Uses the attributes of `Variable` (3.12 - 3.15).

    Args:
        old: The variable.
        value: What the new one holds, of the same shape; what the old one holds if None.
        path: The path of the new one; that of the old one if None.
    """
    if value is None:
        # On JAX a training step gives away the memory of what it updates, so never the donor's.
        value = keras.ops.copy(keras.ops.stop_gradient(old.value))
    new = keras.Variable(
        value, dtype=old._dtype, trainable=old._trainable, autocast=old._autocast,
        aggregation=old._aggregation, synchronization=old._synchronization, name=old._name,
        layout=old._layout,
    )  # fmt: skip
    for name in ("_regularizer", "_constraint", "_overwrite_with_gradient"):
        new.__dict__[name] = old.__dict__[name]
    new.__dict__["_path"] = old._path if path is None else path
    return new


def with_body_of(functional: Any, cls: type) -> Any:
    """Return a model of a subclass of Functional that is in all else what `functional` is."""
    model: Any = cls.__new__(cls)  # type: ignore[call-overload]
    for name, value in vars(functional).items():
        if name not in ("build", "quantize"):
            model.__dict__[name] = value
    return model


def attributes(model: Any) -> dict[str, Any]:
    """Return the attributes of a model, those included that PyTorch keeps elsewhere."""
    modules = vars(model).get("_modules", {})
    return vars(model) | {k: v for k, v in modules.items() if k != "_torch_params"}


def order_layers(model: Any, like: Any, copy: Callable[[Any], Any]) -> None:
    """Let a model list its layers, and so its weights, in the order of the one it is a copy of.

    Uses `Layer._layers` (3.12 - 3.15): a subclass may have named its layers before it called them.
    """
    place = {id(copy(layer)): number for number, layer in enumerate(like._layers)}
    model._layers.sort(key=lambda layer: place.get(id(layer), len(place)))
