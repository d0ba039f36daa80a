"""Keras's private names: looked up on first use, with a clear error if one is gone.

`private.Functional` is the class that Keras keeps in a private module, looked up once. A name that
moved is found in another way, where there is one. Otherwise its use raises a `KerasVersionError`,
with the verb that was called and the version of Keras. Importing never fails because of one.

To use another private name: add it to `NAMES`, and write `private.NAME` where it is used; a class
to inherit from is `base("NAME")`. Private attributes need no entry: a `guarded` function raises the
same error for them, and all functions that `_keras` exports are guarded.
"""

from __future__ import annotations

import functools
import pkgutil
import re
import sys
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, TypeVar

import keras

from keras_graft.errors import GraftError, KerasVersionError

RUN_ON = (3, 12), (3, 16)
"""The oldest and newest minor versions of Keras that this was run on; the newest as a preview."""

VERSION = tuple(int(number) for number in keras.__version__.split(".")[:2])
"""The minor version of Keras that is installed."""

_T = TypeVar("_T", bound=Callable[..., Any])


def _history() -> Any:
    x: Any = keras.Input((1,))
    return x._keras_history


def _node() -> Any:
    return _history().operation._inbound_nodes[0]


def _model() -> Any:
    x = keras.Input((1,))
    return keras.Model(x, keras.layers.Identity()(x))


def _operation_fn() -> Any:
    """Return an `operation_fn` that runs operations as Keras 3.16 does: a recorded flag stays."""

    def operation_fn(operation: Any, training: bool | None = None) -> Callable[..., Any]:
        if training is None or not getattr(operation, "_call_has_training_arg", False):
            return operation
        return lambda *args, **kwargs: operation(*args, **{"training": training, **kwargs})

    return operation_fn


NAMES: dict[str, tuple[str, Callable[[], Any] | None]] = {
    "Functional": ("keras.src.models.functional.Functional", lambda: type(_model())),
    "operation_fn": ("keras.src.models.functional.operation_fn", _operation_fn),
    "Node": ("keras.src.ops.node.Node", lambda: type(_node())),
    "KerasHistory": ("keras.src.ops.node.KerasHistory", lambda: type(_history())),
    "SymbolicArguments": (
        "keras.src.ops.symbolic_arguments.SymbolicArguments",
        lambda: type(_node().arguments),
    ),
    "KerasSaveable": (
        "keras.src.saving.keras_saveable.KerasSaveable",
        lambda: next(c for c in keras.Layer.__mro__ if c.__name__ == "KerasSaveable"),
    ),
    "Tracker": ("keras.src.utils.tracking.Tracker", lambda: type(keras.Layer()._tracker)),
    # Without it, a run on abstract tensors clears the losses of a donor's last call.
    "CallContext": ("keras.src.layers.layer.CallContext", lambda: None),
    "global_state": (
        "keras.src.backend.common.global_state",
        lambda: sys.modules[keras.utils.clear_session.__module__],
    ),
    "AutocastScope": ("keras.src.backend.common.variables.AutocastScope", None),
    "H5IOStore": ("keras.src.saving.saving_lib.H5IOStore", None),
    "save_state": ("keras.src.saving.saving_lib._save_state", None),
    "model_from_config": ("keras.src.saving.saving_lib._model_from_config", None),
    "legacy_model_from_config": ("keras.src.legacy.saving.saving_utils.model_from_config", None),
    "option_scope": ("keras.src.legacy.saving.saving_options.keras_option_scope", None),
    "decode_json": ("keras.src.legacy.saving.json_utils.decode", None),
    "SafeModeScope": ("keras.src.saving.serialization_lib.SafeModeScope", None),
    "retrieve_class": ("keras.src.saving.serialization_lib._retrieve_class_or_fn", None),
    "get_keras_mask": ("keras.src.backend.common.masking.get_keras_mask", None),
    "set_keras_mask": ("keras.src.backend.common.masking.set_keras_mask", None),
    "to_snake_case": ("keras.src.utils.naming.to_snake_case", None),
    "GPTQ": ("keras.src.quantizers.gptq.GPTQ", None),
    "AWQ": ("keras.src.quantizers.awq.AWQ", None),
    "get_dataloader": ("keras.src.quantizers.gptq_core.get_dataloader", None),
    # Without it, Keras imports TensorFlow to write a configuration: slow, but correct.
    "tensorflow": ("keras.src.utils.module_utils.tensorflow", lambda: None),
}
"""For each private name: its place in Keras, and another way to find it, if any."""


def has(name: str) -> bool:
    """Return whether this Keras has a private name at its usual place."""
    try:
        pkgutil.resolve_name(NAMES[name][0])
    except (ImportError, AttributeError):
        return False
    return True


def __getattr__(name: str) -> Any:
    if name not in NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    place, otherwise = NAMES[name]
    try:
        found = pkgutil.resolve_name(place)
    except (ImportError, AttributeError) as error:
        if otherwise is None:
            raise _moved(place) from error
        try:
            found = otherwise()
        except (ImportError, AttributeError, KeyError, StopIteration):
            raise _moved(place) from error
    globals()[name] = found  # looked up only once
    return found


def base(name: str) -> Any:
    """Return a class of Keras to inherit from; if it is gone, one that cannot be instantiated."""
    try:
        return __getattr__(name)
    except KerasVersionError:

        def refuse(cls: type, *args: Any, **kwargs: Any) -> Any:
            raise _moved(NAMES[name][0])

        return type(name, (), {"__new__": refuse})


def guarded(function: _T) -> _T:
    """Let a function raise KerasVersionError if a private attribute or argument is gone."""

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except (AttributeError, TypeError) as error:
            if (what := _gone(error)) is None:
                raise
            raise _moved(what) from error

    return call  # type: ignore[return-value]


def _gone(error: AttributeError | TypeError) -> str | None:
    """Return the private name that `_keras` found missing; None for any other error."""
    if not _from_here(error.__traceback__):
        return None
    if isinstance(error, TypeError):
        wrong = re.match(r"(\S+\(\)) (got an unexpected|missing|takes) .*argument", str(error))
        return f"{wrong[1]} with these arguments" if wrong else None
    of = type(error.obj) if not isinstance(error.obj, type) else error.obj
    kerass = any(cls.__module__.startswith("keras.") for cls in of.__mro__)
    private = str(error.name).startswith("_")
    return f"{of.__name__}.{error.name}" if kerass and private else None


def _from_here(traceback: TracebackType | None) -> bool:
    """Whether an error was raised by code in this folder, not by code that it called."""
    names = []
    while traceback is not None:
        frame = traceback.tb_frame
        if frame.f_code.co_name != "__getattr__":  # PyTorch's modules raise there
            names.append(frame.f_globals.get("__name__", ""))
        traceback = traceback.tb_next
    return bool(names) and names[-1].startswith(__package__ or "")


def _moved(what: str) -> GraftError:
    (_, low), (major, high) = RUN_ON
    return KerasVersionError(
        f"{_verb()}: Keras {keras.__version__} has no {what}, a private name of Keras that this "
        f"needs. keras-graft was tested on Keras {major}.{low} to {major}.{high}. Update keras-graft, "
        f'or install one of these: pip install "keras>={major}.{low},<{major}.{high + 1}".'
    )


def _verb() -> str:
    """Return the public function that is running: the outermost one on the stack."""
    verbs: set[str] = set()
    for module in ("keras_graft", "keras_graft.features", "keras_graft.recipes"):
        verbs.update(getattr(sys.modules.get(module), "__all__", ()))
    found = "keras_graft"
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_globals.get("__name__", "").startswith("keras_graft"):
            # A model is read for a verb before the function of that name runs: see `@verb`.
            decorated = getattr(frame.f_locals.get("function"), "__name__", None)
            names = {frame.f_code.co_name, decorated} & verbs
            found = min(names, default=found)
        frame = frame.f_back
    return found
