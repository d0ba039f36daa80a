"""Run a model on the backend: once, compiled, or with gradients. A backend is imported here only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_graft import _keras
from keras_graft.errors import RunError
from keras_graft.printable import words_of

Run = Callable[[], tuple[Any, Any]]
"""Runs a model and writes no state; returns the sum whose gradients are asked for, and the outputs."""


class Watch:
    """One value of a run, at which a gradient is asked for.

    Attributes:
        leaf: What happens to the tensor in the current run; returns the tensor that is read on.
        tensor: That tensor.
    """

    def __init__(self) -> None:
        self.leaf: Callable[[Any], Any] = lambda tensor: tensor
        self.tensor: Any = None

    def __call__(self, tensor: Any) -> Any:
        """Return the tensor that all consumers read."""
        self.tensor = self.leaf(tensor)
        return self.tensor


def run_once(model: Any, x: Any) -> Any:
    """Run a model in inference mode, as it is; no state of its layers is written."""
    with _no_gradients(), keras.StatelessScope():
        return model(x, training=False)


def compiled(model: Any) -> Callable[[Any], Any]:
    """Return a function that runs a model in inference mode, compiled where the backend compiles.

    On PyTorch it runs as it is, as Keras does it.
    """
    backend = keras.backend.backend()
    if backend == "jax" and model.supports_jit:
        import jax

        def stateless(trained: Any, others: Any, x: Any) -> Any:
            return model.stateless_call(trained, others, x, training=False)[0]

        function = jax.jit(stateless)
        return lambda x: function(
            [v.value for v in model.trainable_variables],
            [v.value for v in model.non_trainable_variables],
            x,
        )
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.function(lambda x: run_once(model, x))  # type: ignore[no-any-return]
    return lambda x: run_once(model, x)


def derivatives(run: Run, watches: Sequence[Watch]) -> tuple[list[Any], list[Any], Any]:
    """Run a model, and return the gradients of its sum at the watched values.

    Returns:
        The gradients, the values, and the outputs.

    Raises:
        RunError: If the backend has no gradients, or if the run fails.
    """
    backend = keras.backend.backend()
    found = {"jax": _jax, "tensorflow": _tensorflow, "torch": _torch}.get(backend)
    if found is None:
        raise RunError(
            f"gradients: the backend {backend!r} has no gradients. Set KERAS_BACKEND to jax, "
            "tensorflow or torch."
        )
    try:
        with _keras.blocks_once():  # else the tensors that are watched are those of a second run
            return found(run, watches)
    except RunError:
        raise
    except Exception as error:  # of the backend, or of a function of the user
        raise RunError(
            f"gradients: the run raised {type(error).__name__}: {words_of(error)}"
        ) from error
    finally:
        for watch in watches:
            watch.leaf, watch.tensor = lambda tensor: tensor, None


def _torch(run: Run, watches: Sequence[Watch]) -> tuple[list[Any], list[Any], Any]:
    import torch

    def leaf(tensor: Any) -> Any:
        return tensor if tensor.requires_grad else tensor.detach().requires_grad_()

    for watch in watches:
        watch.leaf = leaf
    with torch.enable_grad():
        total, outputs = run()
        seen = [watch.tensor for watch in watches]
        found = [None] * len(seen)
        if total.requires_grad:  # else no value leads to it
            found = torch.autograd.grad(total, seen, allow_unused=True)
    gradients = [torch.zeros_like(s) if g is None else g for g, s in zip(found, seen, strict=True)]
    plain = keras.tree.map_structure(lambda tensor: tensor.detach(), outputs)
    return gradients, [tensor.detach() for tensor in seen], plain


def _tensorflow(run: Run, watches: Sequence[Watch]) -> tuple[list[Any], list[Any], Any]:
    import tensorflow as tf

    with tf.GradientTape(watch_accessed_variables=False) as tape:

        def leaf(tensor: Any) -> Any:
            tensor = tf.identity(tensor)
            tape.watch(tensor)
            return tensor

        for watch in watches:
            watch.leaf = leaf
        total, outputs = run()
    seen = [watch.tensor for watch in watches]
    found = tape.gradient(total, seen, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    return [tf.convert_to_tensor(gradient) for gradient in found], seen, outputs


def _jax(run: Run, watches: Sequence[Watch]) -> tuple[list[Any], list[Any], Any]:
    import jax

    jax.eval_shape(lambda: run()[0])  # shows the shapes of the values
    zeros = [jax.numpy.zeros(watch.tensor.shape, watch.tensor.dtype) for watch in watches]

    def shifted(by: list[Any]) -> tuple[Any, Any]:
        for watch, delta in zip(watches, by, strict=True):
            watch.leaf = lambda tensor, delta=delta: tensor + delta
        total, outputs = run()
        return total, ([watch.tensor for watch in watches], outputs)

    found, (seen, outputs) = jax.grad(shifted, has_aux=True)(zeros)
    return found, seen, outputs


def _no_gradients() -> Any:
    if keras.backend.backend() == "torch":
        import torch

        return torch.no_grad()
    import contextlib

    return contextlib.nullcontext()


def weight_gradients(
    model: Any, x: Any, total: Callable[[Any], Any]
) -> tuple[list[Any], list[Any]]:
    """Return the trained variables of a model, and the gradients of a sum of its outputs at them.

    The model runs in inference mode, and no state of its layers is written.

    Args:
        model: The model.
        x: One batch.
        total: Returns the sum, one number.
    """
    variables = list(model.trainable_variables)
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        others = [v.value for v in model.non_trainable_variables]

        def run(values: list[Any]) -> Any:
            return total(model.stateless_call(values, others, x, training=False)[0])

        return variables, jax.grad(run)([v.value for v in variables])
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape(watch_accessed_variables=False) as tape:
            for variable in variables:
                tape.watch(variable.value)
            number = total(model(x, training=False))
        zeros = tf.UnconnectedGradients.ZERO
        found = tape.gradient(number, [v.value for v in variables], unconnected_gradients=zeros)
        return variables, [tf.convert_to_tensor(gradient) for gradient in found]
    if backend != "torch":
        raise RunError(
            f"importance: the backend {backend!r} has no gradients. Set KERAS_BACKEND to jax, "
            "tensorflow or torch."
        )
    import torch

    with torch.enable_grad():
        number = total(model(x, training=False))
        seen = [v.value for v in variables]
        given = torch.autograd.grad(number, seen, allow_unused=True)
    return variables, [
        torch.zeros_like(s) if g is None else g for g, s in zip(given, seen, strict=True)
    ]
