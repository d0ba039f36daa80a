"""Copy Keras layers and models object by object, with their private state.

A layer's configuration says how it was first made, not how it has changed since: added adapters,
quantized weights, changed attributes, states, seeds, and what it shares with other layers. So the
objects themselves are copied.
"""

from __future__ import annotations

import copy
import functools
import types
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import keras

from keras_graft._keras import private
from keras_graft._keras.inside import NOT_TAKEN, SHARED, WRAPPED, around, is_torch_module, parts
from keras_graft._keras.layers import sublayers
from keras_graft._keras.policies import use_own_policy
from keras_graft._keras.private import guarded
from keras_graft._keras.quantization import save_all_weights


@functools.cache
def _kind(cls: type) -> str:
    """Return how values of a class are copied. Cached: a layer has about a hundred attributes."""
    kind = next((kind for classes, kind in _kinds() if issubclass(cls, classes)), "_other")
    plain = cls is OrderedDict or cls.__module__.startswith(_wrappers())
    if kind in ("_dict", "_list") and not plain:
        return "_reduced"  # a defaultdict holds more than its items
    return "_module" if kind == "_other" and is_torch_module(cls) else kind


@functools.cache
def _wrappers() -> tuple[str, ...]:
    """Return the modules whose containers hold only their items (3.12 - 3.15)."""
    return ("builtins", private.Tracker.__module__, "tensorflow.")


def plain_container(value: Any) -> Any:
    """Return the class of a container that holds only its items; None for all else.

    The containers in which Keras and TensorFlow keep the attributes of layers count too.
    """
    cls = value.__class__  # TensorFlow's dicts are dicts only by `__class__`
    if cls is not OrderedDict and not cls.__module__.startswith(_wrappers()):
        return None
    if hasattr(cls, "_fields"):
        return None
    return next((k for k in (dict, list, tuple, set, frozenset) if issubclass(cls, k)), None)


COMPILED = {
    "optimizer", "_compile_config", "_compiled_trainable_state", "_jax_state", "history",
    "_eval_epoch_iterator", "stop_training", "stop_evaluating", "stop_predicting",
    "train_function", "test_function", "predict_function",
}  # fmt: skip
"""Attributes that `compile` and `fit` set on a model (3.12 - 3.15)."""

CACHED = {"generate_function"}
"""Attributes that a keras_hub model makes on first use, and keeps (0.32)."""


class Copier:
    """Copies layers with everything in them; what they share stays shared.

    Uses `Layer.__dict__` as a whole, `Tracker.config`, `Tracker.stored_ids`,
    `TorchLayer._track_variables`, `Variable._value`, the attributes that `Trainer.__init__` makes,
    and those in which TensorFlow lists all the others for its checkpoints (3.12 - 3.15).

    Args:
        variable: Returns the variable of a copy for a variable of the original.
        model: Returns a copy of a Functional or Sequential model: its graph is not plain state.
        class_of: Returns the class of a copy for the class of the original.
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
        # The originals are kept, so that Python does not reuse their ids meanwhile.
        self._made: dict[int, tuple[Any, Any]] = {}
        self._holders: dict[int, tuple[Any, bool]] = {}

    def keep(self, value: Any) -> None:
        """Share `value`, with all that it holds, with every copy."""
        stack = [value]
        while stack:
            item = stack.pop()
            if id(item) in self._made or not self._holds(item):
                continue
            self._made[id(item)] = item, item
            stack += parts(item)

    def new(self, value: Any) -> bool:
        """Whether `value` has no copy yet."""
        return id(value) not in self._made

    def put(self, old: Any, new: Any) -> None:
        """Use `new` in place of `old` in every copy."""
        self._made[id(old)] = old, new

    def __call__(self, value: Any) -> Any:
        """Return a copy of `value` if it holds layers or variables, else `value` itself."""
        if id(value) in self._made:
            return self._made[id(value)][1]
        kind = _kind(value.__class__)  # TensorFlow's dicts are dicts only by `__class__`
        return value if kind in ("plain", "shared") else getattr(self, kind)(value)

    def _variable(self, value: Any) -> Any:
        new = self._variable_for(value)
        self.put(value, new)
        # On PyTorch, modules hold its memory too. Of a computed variable there is none.
        if type(vars(value).get("_value")).__name__ == "Parameter":
            self.put(value._value, new._value)
        return new

    def _module(self, value: Any) -> Any:
        """Copy a PyTorch module; the layer around it made its parameters into variables."""
        made = {id(p): self._made[id(p)] for p in value.parameters() if id(p) in self._made}
        if made and all(old is new for old, new in made.values()):
            return value
        new = copy.deepcopy(value, {key: new for key, (_, new) in made.items()})
        self.put(value, new)
        return new

    def _method(self, value: Any) -> Any:
        owner = self(value.__self__)
        return value if owner is value.__self__ else types.MethodType(value.__func__, owner)

    def _partial(self, value: Any) -> Any:
        return functools.partial(self(value.func), *self(value.args), **self(dict(value.keywords)))

    def _weak(self, value: Any) -> Any:
        target = value()
        return value if target is None or not self._holds(target) else type(value)(self(target))

    def _tuple(self, value: Any) -> Any:
        items = [self(item) for item in value]
        if all(a is b for a, b in zip(items, value, strict=True)):
            return value
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)

    def _functional(self, value: Any) -> Any:
        return self.object(value) if self._model is None else self._model(value)

    def _other(self, value: Any) -> Any:
        return self._reduced(value) if self._holds(value) else value

    def _reduced(self, old: Any) -> Any:
        """Copy an object of any class as `copy.deepcopy` does, by its `__reduce_ex__`."""
        if type(old) is not old.__class__:
            old = old.__wrapped__  # the dict inside a wrapper of TensorFlow
        parts: Any = old.__reduce_ex__(4)
        if isinstance(parts, str):  # the name of a global object
            return old
        rest: list[Any] = [*parts, None, None, None]
        make, args, state, items, pairs = rest[:5]
        new = make(*self(args))
        self.put(old, new)
        both: Any = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
        if state is not None and hasattr(new, "__setstate__"):
            new.__setstate__(self(state))
        else:
            for values in both:  # of its __dict__, of its slots
                for name, value in (values or {}).items():
                    object.__setattr__(new, name, self(value))  # also in a frozen dataclass
        for item in items or ():
            new.append(self(item))
        for key, value in pairs or ():
            new[self(key)] = self(value)
        return new

    @guarded
    def object(self, old: Any) -> Any:
        """Return an object of the same class with a copy of each attribute."""
        layer = isinstance(old, keras.Layer)
        cls = self._class_of(type(old))
        # Not by `Layer.__new__`: what it makes is in the attributes, and it inspects the signature
        # of the constructor, which takes longer than all the rest.
        new = object.__new__(cls)
        self.put(old, new)
        left = NOT_TAKEN | COMPILED if isinstance(old, keras.Model) else NOT_TAKEN
        if layer:
            self(old._tracker)  # its variables first: other attributes hold their memory too
            # PyTorch's list of them is made again below.
            self.put(vars(old).get("_modules", {}).get("_torch_params", old), new)
        for name, value in list(vars(old).items()):
            if name in CACHED and isinstance(old, keras.Model):
                new.__dict__[name] = None
            elif name == "_self_unconditional_checkpoint_dependencies":
                new.__dict__[name] = [self(ref) for ref in value if ref.name not in left]
            elif name == "_self_unconditional_dependency_names":
                new.__dict__[name] = {key: self(v) for key, v in value.items() if key not in left}
            elif name not in left:
                new.__dict__[name] = value if _kind(value.__class__) == "plain" else self(value)
            elif name in WRAPPED and hasattr(value, "__wrapped__"):
                new.__dict__[name] = _rebound(value, getattr(new, name), new)
        if isinstance(old, keras.Operation):
            new.__dict__.update(_inbound_nodes=[], _outbound_nodes=[])
        if layer and getattr(old, "quantization_mode", None) is not None:
            use_own_policy(new)  # Keras 3.15 saves no quantized layer whose policy is in a map
            save_all_weights(new)
        if isinstance(old, keras.Model):
            keras.Model.__bases__[0].__init__(new)  # reset the Trainer of the backend
        if layer and old.built:
            track_on_torch(new)
        return new

    def _optimizer(self, old: Any) -> Any:
        """Copy an optimizer that a layer or a model holds: it finds variables by their identities.

        Uses `Optimizer._trainable_variables_indices`, `_var_key` (3.12 - 3.15).
        """
        new = self.object(old)
        new._trainable_variables_indices = {
            new._var_key(v): i for i, v in enumerate(new._trainable_variables)
        }
        return new

    def _dict(self, old: Any) -> Any:
        new = old.__class__.__new__(old.__class__)
        self.put(old, new)
        put = (OrderedDict if isinstance(new, OrderedDict) else dict).__setitem__
        for key, value in old.items():
            put(new, self(key), self(value))
        return self._wrapper(old, new)

    def _list(self, old: Any) -> Any:
        new = old.__class__.__new__(old.__class__)
        self.put(old, new)
        items = [self(item) for item in old]
        (set.update if isinstance(old, set) else list.extend)(new, items)
        return self._wrapper(old, new)

    def _wrapper(self, old: Any, new: Any) -> Any:
        """Give a container of a special class the attributes of the original.

        TensorFlow's dicts are dicts only by `__class__`; their copies are real dicts.
        """
        if type(new) is not type(old):
            return new
        for name, value in getattr(old, "__dict__", {}).items():
            new.__dict__[name] = self(value)
        return new

    def _tracker(self, old: Any) -> Any:
        new = object.__new__(type(old))
        self.put(old, new)
        stores = {name: (test, self(store)) for name, (test, store) in old.config.items()}
        new.__dict__.update(
            vars(old),
            config=stores,
            stored_ids={name: {id(x) for x in store} for name, (_, store) in stores.items()},
        )
        return new

    def _function(self, function: Any) -> Any:
        for inside in around(function):
            if self._holds(inside) and self(inside) is not inside:
                raise TypeError(
                    f"the function {function.__qualname__!r} uses {inside!r}, which cannot be "
                    "replaced in it"
                )
        return function

    def _holds(self, value: Any) -> bool:
        """Whether a layer or a variable is found by following the attributes of `value`."""
        seen: dict[int, Any] = {}
        stack = [value]
        while stack:
            item = stack.pop()
            if isinstance(item, (keras.Variable, keras.layers.Layer, private.KerasSaveable)):
                return True
            if id(item) in self._holders or id(item) in seen or isinstance(item, SHARED):
                continue
            if _kind(item.__class__) == "_module":
                return True
            seen[id(item)] = item
            stack += parts(item)
        self._holders.update((key, (item, False)) for key, item in seen.items())
        return False


@functools.cache
def _kinds() -> tuple[tuple[Any, str], ...]:
    """Return how values are copied: the `Copier` method for each class. The first match counts."""
    return (
        (keras.KerasTensor, "shared"),  # unless `put` was given a copy
        (SHARED, "plain"),
        (keras.Variable, "_variable"),
        ((keras.Sequential, private.Functional), "_functional"),
        (private.Tracker, "_tracker"),
        (types.MethodType, "_method"),
        (types.FunctionType, "_function"),
        (functools.partial, "_partial"),
        (weakref.ref, "_weak"),
        (dict, "_dict"),
        ((list, set), "_list"),
        (tuple, "_tuple"),
        (keras.optimizers.Optimizer, "_optimizer"),
        (private.KerasSaveable, "object"),
    )


def _rebound(wrapper: Any, method: Any, layer: Any) -> Any:
    """Return the wrapper of `Layer.__new__` around a method, for the method of another layer."""
    cells = [
        types.CellType(method if name.startswith("original_") else layer)
        for name in wrapper.__code__.co_freevars
    ]
    new = types.FunctionType(
        wrapper.__code__, wrapper.__globals__, wrapper.__name__, wrapper.__defaults__, tuple(cells)
    )
    return functools.update_wrapper(new, method)


def track_on_torch(layer: Any) -> None:
    """Tell PyTorch again which parameters a layer has; do nothing on other backends."""
    if hasattr(layer, "_track_variables"):
        layer._modules.pop("_torch_params", None)
        layer._track_variables()


def variable_like(old: Any, value: Any = None, path: str | None = None) -> Any:
    """Return a variable like another, with memory of its own.

    Uses the attributes of `Variable` (3.12 - 3.15).

    Args:
        old: The variable.
        value: The value of the new variable, of the same shape; that of the old one if None.
        path: The path of the new variable; that of the old one if None.
    """
    if value is None:
        # On JAX a training step frees the memory of what it updates: it must not be the donor's.
        value = old.value
        if getattr(value, "requires_grad", False):  # on PyTorch
            value = keras.ops.stop_gradient(value)
        value = keras.ops.copy(value)
    layout = {"layout": old._layout} if hasattr(old, "_layout") else {}  # in 3.12 only on JAX
    new = keras.Variable(
        value, dtype=old._dtype, trainable=old._trainable, autocast=old._autocast,
        aggregation=old._aggregation, synchronization=old._synchronization, name=old._name,
        **layout,
    )  # fmt: skip
    for name in ("_regularizer", "_constraint", "_overwrite_with_gradient"):
        new.__dict__[name] = old.__dict__[name]
    new.__dict__["_path"] = old._path if path is None else path
    return new


def with_body_of(functional: Any, cls: type) -> Any:
    """Return a model of a subclass of Functional that is otherwise the same as `functional`."""
    model: Any = cls.__new__(cls)  # type: ignore[call-overload]
    for name, value in vars(functional).items():
        if name not in ("build", "quantize"):
            model.__dict__[name] = value
    return model


def attributes(model: Any) -> dict[str, Any]:
    """Return the attributes of a model, including those that PyTorch keeps in `_modules`.

    Those that `compile` and `fit` set are left out; those that are made on first use are None.
    """
    found = vars(model) | vars(model).get("_modules", {})
    left = COMPILED | {"_torch_params"}
    return {k: None if k in CACHED else v for k, v in found.items() if k not in left}


def order_layers(model: Any, like: Any, copy: Callable[[Any], Any]) -> None:
    """Put the layers of a copied model, and so its weights, in the order of the original.

    Uses `Layer._layers` (3.12 - 3.15): a subclass may have named its layers before it called them.
    """
    place = {id(copy(layer)): number for number, layer in enumerate(like._layers)}
    model._layers.sort(key=lambda layer: place.get(id(layer), len(place)))


def twin(model: Any) -> Any:
    """Return another model of the same class and attributes, with the same layers and weights."""
    copier = Copier(lambda variable: variable)
    for layer in sublayers(model):
        copier.keep(layer)
    return copier.object(model)
