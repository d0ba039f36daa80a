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
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import keras

from keras_graft._keras import private
from keras_graft._keras.layers import sublayers
from keras_graft.errors import KerasVersionError
from keras_graft.graph.sizes import Doubt

_LOCK = threading.RLock()
_NONE = object()

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

_BINARY = tuple(
    name for name in _OPERATORS if name not in ("neg", "abs", "invert", "round", "getitem", "pos")
)
"""Operators between two values."""

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

    def sliced(self, tensor: Any, key: Any) -> Any:
        """Return a slice of a tensor with data, or NotImplemented if it is cut as usual."""
        ...

    def lost(self, losses: list[Any]) -> None:
        """Take note of symbolic losses that are added."""
        ...

    def weight(self, variable: Any) -> Any:
        """Return a symbolic tensor for a variable."""
        ...

    def operator(self, name: str, tensor: Any, given: Any) -> Any:
        """Return what a Python operator gives; NotImplemented for Keras's op."""
        ...

    def symbolic(self, leaf: Any) -> bool:
        """Whether a leaf that Keras does not know as symbolic is symbolic."""
        ...

    def holds(self, layer: Any) -> bool:
        """Whether a layer is one of those whose code runs, and not made by that code."""
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
            saved.append((owner, name, vars(owner).get(name, _NONE)))
            setattr(owner, name, new)

        warned = warnings.catch_warnings()
        warned.__enter__()
        warnings.simplefilter("ignore")  # the code has been run before, and warned then
        filtering = keras.config.is_traceback_filtering_enabled()
        # Otherwise Keras replaces each error by another one, with the arguments in its text.
        keras.config.disable_traceback_filtering()
        try:
            _exchange_calls(put, on, listener)
            _exchange_variables(put, on, listener)
            _exchange_slices(put, on, listener)
            _exchange_functions(put, on, listener)
            _exchange_gradients(put, on, listener)
            yield
        finally:
            for owner, name, old in reversed(saved):
                if old is _NONE:
                    delattr(owner, name)
                else:
                    setattr(owner, name, old)
            if filtering:
                keras.config.enable_traceback_filtering()
            warned.__exit__(None, None, None)


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
    # Without it, `tokens == 0` is False for any symbolic tensor: no two objects are the same.
    equal = vars(keras.KerasTensor).get("__eq__", object.__eq__)
    put_eq = lambda self, given: keras.ops.equal(self, given) if on() else equal(self, given)  # noqa: E731
    put(keras.KerasTensor, "__eq__", put_eq)
    for name in _BINARY:
        if (old := vars(keras.KerasTensor).get(f"__{name}__")) is not None and name != "eq":
            put(keras.KerasTensor, f"__{name}__", _operator(name, old, on, listener))
    item = vars(keras.KerasTensor)["__getitem__"]

    def get_item(self: Any, key: Any) -> Any:
        # Keras infers no shape for a bare slice, which tensors with data take.
        bare = isinstance(key, slice) or key is None or key is Ellipsis
        return item(self, (key,) if on() and bare else key)

    building = vars(keras.Layer)["_maybe_build"]

    def build(self: Any, *args: Any) -> Any:
        if not on() or self.built:
            return building(self, *args)
        if listener.holds(self) and not _builds_nothing(self):
            raise Doubt(f"it calls the layer {self.name!r}, which was never built")
        listener.active = False  # weights that it draws are no calls of the code
        try:
            return building(self, *args)
        finally:
            listener.active = True

    put(keras.KerasTensor, "__getitem__", get_item)
    put(keras.KerasTensor, "__array_ufunc__", None)  # `np.sqrt(6) * x` asks the tensor first
    put(keras.Layer, "_maybe_build", build)
    put(keras.Operation, "symbolic_call", op)
    put(keras.Layer, "symbolic_call", layer)
    put(keras.Layer, "add_loss", losing)
    put(module, "Node", called)


def _exchange_slices(put: Put, on: On, listener: Listener) -> None:
    """Hear `table[:n]` of a tensor with data: it would take a size that is not known as a number."""
    kind: Any = type(keras.ops.convert_to_tensor(0.0))
    item = kind.__getitem__

    def get_item(self: Any, key: Any) -> Any:
        found = listener.sliced(self, key) if on() else NotImplemented
        return item(self, key) if found is NotImplemented else found

    put(kind, "__getitem__", get_item)


def _builds_nothing(layer: Any) -> bool:
    """Whether building a layer makes no weights: a merge, or a layer without a `build` of its own."""
    merge = keras.layers.Add.__mro__[1]
    own = isinstance(layer, merge) or type(layer).build is keras.Layer.build
    return own and not sublayers(layer)


def _operator(name: str, old: Any, on: On, listener: Listener) -> Any:
    @functools.wraps(old)
    def method(self: Any, given: Any) -> Any:
        if on():
            found = listener.operator(name, self, given)
            if found is not NotImplemented:
                return found
        return old(self, given)

    return method


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
                raise Doubt(f"its code reads the value of the weight {self.path!r}")
            return old(self, *args, **kwargs)

        return method

    for name in _OPERATORS:
        name = f"__{name}__"
        if name in vars(cls):
            new = _itself(listener, on) if name == "__pos__" else operator(name, vars(cls)[name])
            put(cls, name, new)
    for owner in keras.Variable.__mro__:
        for name in _READS:
            if name in vars(owner) and owner.__module__.startswith("keras."):
                put(owner, name, read(name, vars(owner)[name]))

    value, assign = vars(cls)["value"], vars(cls)["assign"]

    def get(self: Any) -> Any:
        if on():
            raise Doubt(f"its code reads the value of the weight {self.path!r}")
        return value.fget(self)

    def assigning(self: Any, *args: Any, **kwargs: Any) -> Any:
        if on():
            raise Doubt(f"its code assigns the weight {self.path!r}")
        return assign(self, *args, **kwargs)

    def rows(self: Any) -> Any:
        if not on():
            return (self[i] for i in range(self.shape[0]))
        weight = listener.weight(self)
        return iter([weight[i] for i in range(weight.shape[0])])

    put(cls, "__iter__", rows)
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
    ndim = keras.ops.ndim

    def rank(x: Any) -> Any:
        return len(x.shape) if on() and isinstance(x, keras.KerasTensor) else ndim(x)

    for module in {id(m): m for m in (keras.ops, sys.modules["keras.src.ops"])}.values():
        if vars(module).get("ndim") is ndim:
            put(module, "ndim", rank)
    known = vars(backend)["any_symbolic_tensors"]

    def any_symbolic(args: Any = None, kwargs: Any = None) -> bool:
        if known(args, kwargs):
            return True
        return on() and any(map(listener.symbolic, keras.tree.flatten((args, kwargs))))

    places = "keras.src.ops", "keras.src.layers.layer", "keras.src.activations"
    for name, module in list(sys.modules.items()):
        if name.startswith(places) and vars(module).get("any_symbolic_tensors") is known:
            put(module, "any_symbolic_tensors", any_symbolic)
    if vars(backend)["any_symbolic_tensors"] is known:
        put(backend, "any_symbolic_tensors", any_symbolic)


def _exchange_gradients(put: Put, on: On, listener: Listener) -> None:
    """Refuse gradient rules of the code's own: a graph of calls has none."""

    def refusing(old: Any) -> Any:
        @functools.wraps(old)
        def function(*args: Any, **kwargs: Any) -> Any:
            if on():
                raise Doubt("its code has a gradient rule of its own")
            return old(*args, **kwargs)

        return function

    backend = keras.backend.backend()
    if backend == "torch":
        torch: Any = sys.modules["torch"]
        apply = torch.autograd.Function.apply
        put(
            torch.autograd.Function,
            "apply",
            classmethod(lambda cls, *a, **k: refusing(apply.__func__)(cls, *a, **k)),
        )
    elif backend == "jax":
        jax: Any = sys.modules["jax"]
        for cls in (jax.custom_vjp, jax.custom_jvp):
            put(cls, "__call__", refusing(vars(cls)["__call__"]))
    elif (module := sys.modules.get("tensorflow.python.ops.custom_gradient")) is not None:
        for name in ("_eager_mode_decorator", "_graph_mode_decorator"):
            if name in vars(module):
                put(module, name, refusing(vars(module)[name]))


def records_gradients() -> bool:
    """Whether gradients are recorded; PyTorch alone can turn that off around some code."""
    torch = sys.modules.get("torch") if keras.backend.backend() == "torch" else None
    return torch is None or bool(torch.is_grad_enabled())


def _no(what: str) -> str:
    return f"read: Keras {keras.__version__} has no {what}, which is needed to open a layer."
