"""Keras's private state of quantized layers: what is saved, and GPTQ and AWQ."""

from __future__ import annotations

import contextlib
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from keras_graft._keras import private


def quantize_layer(layer: Any, mode: str, config: Any) -> None:
    """Let Keras quantize a layer.

    Keras lets a layer that is built get new weights only by a wrapper around the method, which a
    layer of a changed class lacks. Uses `Layer._tracker` (3.12 - 3.15).
    """
    locked = layer._tracker.locked
    layer._tracker.unlock()
    try:
        layer.quantize(mode, config=config)
    finally:
        if locked:
            layer._tracker.lock()


def quantized_weights(layer: Any, mode: str) -> list[str] | None:
    """Return the names of the weights that a layer saves in a mode; None if it has no such mode.

    Uses `variable_serialization_spec` (3.12 - 3.15).
    """
    spec = getattr(layer, "variable_serialization_spec", None)
    return None if not isinstance(spec, dict) or mode not in spec else list(spec[mode])


def save_all_weights(layer: Any) -> None:
    """Let a quantized layer save each of its weights.

    Keras leaves out the zero points of GPTQ and AWQ (3.14, 3.15.0 and 3.15.1), and cannot load
    what it saved.
    """
    if layer.quantization_mode not in ("gptq", "awq"):
        return
    store: dict[str, Any] = {}
    layer.save_own_variables(store)
    if len(store) < len(layer._trainable_variables) + len(layer._non_trainable_variables):
        layer.__dict__["save_own_variables"] = types.MethodType(_save_all, layer)


def _save_all(layer: Any, store: Any) -> None:
    names = quantized_weights(layer, layer.quantization_mode) or []
    values = [getattr(layer, name, None) for name in names]
    for number, value in enumerate(value for value in values if value is not None):
        store[str(number)] = value


def quantizer_class(mode: str) -> Any:
    """Return Keras's `GPTQ` (3.12 - 3.15) or `AWQ` (3.14, 3.15)."""
    return private.GPTQ if mode == "gptq" else private.AWQ


def tokens(config: Any) -> Any:
    """Return the samples that a configuration of GPTQ or AWQ asks for: shape (samples, length)."""
    found = private.get_dataloader(
        config.tokenizer, config.sequence_length, config.dataset, num_samples=config.num_samples
    )
    return found[:, 0]


@contextlib.contextmanager
def inputs_seen(layers: Sequence[Any], see: Callable[[Any, Any], None]) -> Iterator[None]:
    """Show what each of some layers, which no other model uses, is called with.

    Args:
        layers: The layers, not quantized yet.
        see: Called with a layer and its input before each call.
    """

    def watched(layer: Any) -> Callable[..., Any]:
        call = layer.call

        def run(*args: Any, **kwargs: Any) -> Any:
            see(layer, args[0] if args else kwargs["inputs"])
            return call(*args, **kwargs)

        return run

    before = {id(layer): layer.__dict__.get("call") for layer in layers}
    try:
        for layer in layers:
            layer.__dict__["call"] = watched(layer)
        yield
    finally:
        for layer in layers:
            layer.__dict__.pop("call", None)
            if before[id(layer)] is not None:
                layer.__dict__["call"] = before[id(layer)]


@contextlib.contextmanager
def weights_read_outside(layers: Sequence[Any], read: Callable[[Any], None]) -> Iterator[None]:
    """Tell when code reads the matrix of a layer without calling the layer.

    Args:
        layers: Layers that no other model uses.
        read: Called with the layer.
    """
    classes = [type(layer) for layer in layers]
    running: list[Any] = []

    def watching(layer: Any, cls: Any) -> type:
        def __call__(self: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N807
            running.append(self)
            try:
                return cls.__call__(self, *args, **kwargs)
            finally:
                running.pop()

        def prop(name: str) -> property:
            def get(self: Any) -> Any:
                if not any(one is self for one in running):
                    read(self)
                return getattr(cls, name).fget(self)

            return property(get)

        own = {
            n: prop(n)
            for n in ("kernel", "embeddings")
            if isinstance(getattr(cls, n, None), property)
        }
        return type(
            cls.__name__, (cls,), {"__call__": __call__, "__module__": cls.__module__, **own}
        )

    try:
        for layer, cls in zip(layers, classes, strict=True):
            layer.__class__ = watching(layer, cls)
        yield
    finally:
        for layer, cls in zip(layers, classes, strict=True):
            layer.__class__ = cls
