"""Let a listener take part in the symbolic calls of layers and ops, while code of a user runs.

Keras does the calling: casts, masks, build, flags and scopes stay its own. Exchanged are the
methods that infer what a call gives, what Keras does with weights and sizes outside of calls, and
`Node`, so that nothing is written to any layer.

Uses `Operation.symbolic_call`, `Layer.symbolic_call`, the name `Node` of the module of `Layer`,
`any_symbolic_tensors` in the modules of ops, and the functions of `keras.src.backend.numpy` and
`.random` that make tensors (3.12 - 3.15).
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import keras

from keras_graft._keras import private
from keras_graft.errors import KerasVersionError

_LOCK = threading.RLock()

MAKES = (
    "arange", "zeros", "ones", "full", "eye", "identity", "tri", "linspace", "empty",
)  # fmt: skip
"""Functions that make a tensor of sizes."""

DRAWS = (
    "normal", "uniform", "truncated_normal", "randint", "categorical", "gamma", "beta", "binomial",
    "shuffle", "dropout",
)  # fmt: skip
"""Functions that draw random numbers."""

_OPERATORS = (
    "neg", "abs", "invert", "eq", "ne", "lt", "le", "gt", "ge", "add", "radd", "sub", "rsub", "mul",
    "rmul", "truediv", "rtruediv", "floordiv", "rfloordiv", "mod", "rmod", "pow", "rpow", "matmul",
    "rmatmul", "and", "rand", "or", "ror", "xor", "rxor", "round", "getitem", "pos",
)  # fmt: skip

_READS = ("__array__", "__int__", "__float__", "__bool__", "__jax_array__", "numpy")
"""Methods that read the value of a variable."""


class Listener(Protocol):
    """What takes part in calls."""

    active: bool
    """Whether code of a user runs. While it is False, Keras works as always."""

    def op(self, op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return what an op gives for symbolic arguments."""
        ...

    def layer(self, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Return what a layer gives for symbolic arguments."""
        ...

    def called(
        self, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any], outputs: Any
    ) -> None:
        """Take note of a call of a layer."""
        ...

    def made(
        self, name: str, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], random: bool
    ) -> Any:
        """Return what a function gives that makes or draws a tensor; NotImplemented for Keras's."""
        ...

    def lost(self, losses: list[Any]) -> None:
        """Take note of symbolic losses that are added."""
        ...

    def weight(self, variable: Any) -> Any:
        """Return a symbolic tensor for a variable."""
        ...

    def symbolic(self, leaf: Any) -> bool:
        """Whether a leaf that Keras does not know as symbolic is symbolic."""
        ...

    def refuse(self, why: str) -> None:
        """Refuse what code does; raises."""
        ...


@contextlib.contextmanager
def heard(listener: Listener) -> Iterator[None]:
    """Let a listener take part in all calls of this thread.

    Other threads that call Keras meanwhile are not affected; one that listens too waits.
    """
    thread = threading.get_ident()

    def on() -> bool:
        return listener.active and threading.get_ident() == thread

    with _LOCK:
        saved: list[tuple[Any, str, Any]] = []

        def put(owner: Any, name: str, new: Any) -> None:
            saved.append((owner, name, vars(owner)[name]))
            setattr(owner, name, new)

        filtering = keras.config.is_traceback_filtering_enabled()
        # Otherwise Keras replaces each error by another one, with the arguments in its text.
        keras.config.disable_traceback_filtering()
        try:
            _exchange_calls(put, on, listener)
            _exchange_variables(put, on, listener)
            _exchange_functions(put, on, listener)
            yield
        finally:
            for owner, name, old in reversed(saved):
                setattr(owner, name, old)
            if filtering:
                keras.config.enable_traceback_filtering()


Put = Callable[[Any, str, Any], None]
On = Callable[[], bool]


def _exchange_calls(put: Put, on: On, listener: Listener) -> None:
    op_call, layer_call = keras.Operation.symbolic_call, keras.Layer.symbolic_call
    node, add_loss = private.Node, keras.Layer.add_loss

    def op(self: Any, *args: Any, **kwargs: Any) -> Any:
        return listener.op(self, args, kwargs) if on() else op_call(self, *args, **kwargs)

    def layer(self: Any, *args: Any, **kwargs: Any) -> Any:
        return listener.layer(self, args, kwargs) if on() else layer_call(self, *args, **kwargs)

    def called(operation: Any, call_args: Any, call_kwargs: Any, outputs: Any) -> Any:
        if on():
            return listener.called(operation, call_args, call_kwargs, outputs)
        return node(operation, call_args=call_args, call_kwargs=call_kwargs, outputs=outputs)

    def losing(self: Any, loss: Any) -> Any:
        losses = keras.tree.flatten(loss)
        if on() and any(isinstance(one, keras.KerasTensor) for one in losses):
            return listener.lost(losses)
        return add_loss(self, loss)

    module = sys.modules[layer_call.__module__]
    if "Node" not in vars(module):
        raise KerasVersionError(_no("the name Node in the module of Layer"))
    put(keras.Operation, "symbolic_call", op)
    put(keras.Layer, "symbolic_call", layer)
    put(keras.Layer, "add_loss", losing)
    put(module, "Node", called)


def _exchange_variables(put: Put, on: On, listener: Listener) -> None:
    cls = _variable_class()

    def operator(name: str, old: Any) -> Any:
        @functools.wraps(old)
        def method(self: Any, *args: Any) -> Any:
            return getattr(listener.weight(self), name)(*args) if on() else old(self, *args)

        return method

    def read(name: str, old: Any) -> Any:
        @functools.wraps(old)
        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            if on():
                listener.refuse(f"its code reads the value of the weight {self.path!r}")
            return old(self, *args, **kwargs)

        return method

    for name in _OPERATORS:
        name = f"__{name}__"
        if name in vars(cls):
            new = _itself(listener, on) if name == "__pos__" else operator(name, vars(cls)[name])
            put(cls, name, new)
    for owner in type(cls).mro(keras.Variable):
        for name in _READS:
            if name in vars(owner) and owner.__module__.startswith("keras."):
                put(owner, name, read(name, vars(owner)[name]))

    value, assign = vars(cls)["value"], vars(cls)["assign"]

    def get(self: Any) -> Any:
        if on():
            listener.refuse(f"its code reads the value of the weight {self.path!r}")
        return value.fget(self)

    def assigning(self: Any, *args: Any, **kwargs: Any) -> Any:
        if on():
            listener.refuse(f"its code assigns the weight {self.path!r}")
        return assign(self, *args, **kwargs)

    put(cls, "value", property(get, value.fset))
    put(cls, "assign", assigning)


def _itself(listener: Listener, on: On) -> Any:
    return lambda self: listener.weight(self) if on() else self.value


def _variable_class() -> Any:
    """Return the class in which Keras defines what all backends' variables have in common."""
    for cls in keras.Variable.__mro__:
        if "assign" in vars(cls) and isinstance(vars(cls).get("value"), property):
            return cls
    raise KerasVersionError(_no("class with Variable.assign and Variable.value"))


def _exchange_functions(put: Put, on: On, listener: Listener) -> None:
    def making(name: str, old: Any, random: bool) -> Any:
        @functools.wraps(old)
        def function(*args: Any, **kwargs: Any) -> Any:
            if on():
                found = listener.made(name, old, args, kwargs, random)
                if found is not NotImplemented:
                    return found
            return old(*args, **kwargs)

        return function

    backend = sys.modules["keras.src.backend"]
    for module, names, random in ((backend.numpy, MAKES, False), (backend.random, DRAWS, True)):  # type: ignore[attr-defined]
        for name in names:
            if name in vars(module):
                put(module, name, making(name, vars(module)[name], random))
    known = vars(backend)["any_symbolic_tensors"]

    def any_symbolic(args: Any = None, kwargs: Any = None) -> bool:
        if known(args, kwargs):
            return True
        return on() and any(map(listener.symbolic, keras.tree.flatten((args, kwargs))))

    for name, module in list(sys.modules.items()):
        if name.startswith(("keras.src.ops", "keras.src.layers.layer", "keras.src.activations")):
            if vars(module).get("any_symbolic_tensors") is known:
                put(module, "any_symbolic_tensors", any_symbolic)
    if vars(backend)["any_symbolic_tensors"] is known:
        put(backend, "any_symbolic_tensors", any_symbolic)


def _no(what: str) -> str:
    return f"read: Keras {keras.__version__} has no {what}, which is needed to open a layer."


def function_named(name: str, random: bool) -> Any:
    """Return the public function of Keras that makes or draws a tensor."""
    return getattr(keras.random if random else keras.ops, name)


def bound(name: str, random: bool, function: Any, args: Any, kwargs: Any) -> dict[str, Any]:
    """Return the arguments of a function of the backend by the names that the public one has."""
    given = inspect.signature(inspect.unwrap(function)).bind(*args, **kwargs).arguments
    public = inspect.signature(inspect.unwrap(function_named(name, random))).parameters
    renamed = dict(zip(given, given.values(), strict=True))
    first, *_ = public
    if first not in renamed and renamed:
        renamed = {first if i == 0 else k: v for i, (k, v) in enumerate(renamed.items())}
    return {k: v for k, v in renamed.items() if k in public}


@functools.cache
def _ops() -> dict[str, type]:
    found: dict[str, type] = {}
    for name, module in list(sys.modules.items()):
        if not name.startswith("keras.src.ops"):
            continue
        for key, value in vars(module).items():
            if isinstance(value, type) and issubclass(value, keras.Operation):
                if value.__module__ == name and not issubclass(value, keras.Layer):
                    found[f"{name.removeprefix('keras.src.ops.')}.{key}"] = value
    return found


def op_class(name: str) -> type | None:
    """Return the class of an op of Keras by the name that `op_name` gives."""
    return _ops().get(name)


def op_name(op: Any) -> str | None:
    """Return a name for the class of an op of Keras, such as `"numpy.Reshape"`."""
    cls = type(op)
    name = f"{cls.__module__.removeprefix('keras.src.ops.')}.{cls.__name__}"
    return name if _ops().get(name) is cls else None


def bare_op(cls: type, attributes: dict[str, Any], name: str) -> Any:
    """Return an op with these attributes, made without its constructor.

    Uses `Operation._inbound_nodes`, `_outbound_nodes` (3.12 - 3.15).
    """
    op = object.__new__(cls)
    op.__dict__.update(attributes, name=name, _inbound_nodes=[], _outbound_nodes=[])
    return op


def op_attributes(op: Any) -> dict[str, Any]:
    """Return the attributes of an op that say what it does."""
    return {k: v for k, v in vars(op).items() if k != "name" and not k.startswith("_")}


def loose_node(operation: Any, args: Any, kwargs: Any, outputs: Any, index: int) -> Any:
    """Return a Keras node for a call that is not written to the operation."""
    from keras_graft._keras.nodes import _Real

    node = _Real(operation, args, kwargs, [t for t in keras.tree.flatten(outputs) if t is not None])
    for place, tensor in enumerate(node.outputs):
        tensor._keras_history = private.KerasHistory(None, index, place)
    return node


def dtype_of(variable: Any) -> str:
    """Return the dtype of a variable as it is stored (`Variable._dtype`, 3.12 - 3.15)."""
    return keras.backend.standardize_dtype(variable._dtype)


def set_shape(tensor: Any, shape: Any) -> None:
    """Set the shape of a symbolic tensor (`KerasTensor._shape`, 3.12 - 3.15)."""
    tensor._shape = shape


def shuts(layer: Any) -> str | None:
    """Return why Keras does more for a layer than its `call` says, or None.

    Uses `Operation._remat_mode`, `quantization_mode` (3.12 - 3.15).
    """
    if layer.activity_regularizer is not None:
        return "it has an activity regularizer, which works outside of its code"
    if getattr(layer, "quantization_mode", None) is not None:
        return "it is quantized as a whole"
    if getattr(layer, "_remat_mode", None) is not None:
        return "it is computed again for gradients (remat)"
    return None


def is_kerass(layer: Any) -> bool:
    """Whether the class of a layer is one of Keras itself."""
    return type(layer).__module__.startswith(("keras.src.", "keras.layers."))


def runtime_mask(tensor: Any) -> Any:
    """Return the mask that Keras attached to a tensor with data (`get_keras_mask`, 3.12 - 3.15)."""
    return private.get_keras_mask(tensor)


def set_runtime_mask(tensor: Any, mask: Any) -> None:
    """Attach a mask to a tensor with data (`set_keras_mask`, 3.12 - 3.15)."""
    private.set_keras_mask(tensor, mask)


@contextlib.contextmanager
def losses_kept(layer: Any) -> Iterator[None]:
    """Restore what a layer and those inside it keep of the losses of their last call.

    Uses `Layer._losses`, `_loss_ids` (3.12 - 3.15).
    """
    layers = list(layer._flatten_layers())
    before = [(one, list(one._losses), set(one._loss_ids)) for one in layers]
    try:
        yield
    finally:
        for one, losses, ids in before:
            one._losses[:] = losses
            one._loss_ids.clear()
            one._loss_ids.update(ids)


def autocast_of(layer: Any) -> Any:
    """Return a scope in which variables are read as they are in the `call` of a layer."""
    if not layer.autocast or layer.compute_dtype == layer.variable_dtype:
        return contextlib.nullcontext()
    return private.AutocastScope(layer.compute_dtype)
