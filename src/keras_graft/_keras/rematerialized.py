"""Run a part of a network so that the backward pass computes its inner values again.

`keras.remat` runs a function twice. State must not notice: each run must see the seeds and the
moving statistics that the first one saw, and only the first one may change them. So a run works in
a scope of its own, which keeps what it assigns; what the first run assigned is assigned afterwards.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import keras

from keras_graft._keras import private
from keras_graft.errors import EditError
from keras_graft.printable import shown

_ONCE = ContextVar("once", default=False)


@contextlib.contextmanager
def blocks_once() -> Iterator[None]:
    """Let each block run once: for what takes tensors out of a block, which the second run replaces."""
    token = _ONCE.set(True)
    try:
        yield
    finally:
        _ONCE.reset(token)


class _Scope(keras.StatelessScope):
    """Keeps what is assigned inside. Reads what was kept, else what is outside.

    Uses `StatelessScope.original_scope` (3.12 - 3.16): the scope around this one.
    """

    def __init__(self, before: dict[int, Any]) -> None:
        super().__init__(collect_losses=True, initialize_variables=False)
        self.state_mapping = dict(before)
        self.updates: dict[int, Any] = {}

    def add_update(self, update: Any) -> None:
        super().add_update(update)
        self.updates[id(update[0])] = update[0]

    def get_current_value(self, variable: Any) -> Any:
        found = super().get_current_value(variable)
        if found is None and self.original_scope is not None:
            found = self.original_scope.get_current_value(variable)
        return found


class _First:
    """What the first run gave."""

    def __init__(self) -> None:
        self.done = False
        self.structure: Any = None
        self.variables: list[Any] = []
        self.sizes: tuple[int, int] = (0, 0)
        self.beside: dict[int, Any] = {}
        self.count = 0


def rematerialized(layer: Any, run: Callable[..., Any], inputs: Any, masks: Any) -> Any:
    """Return what `run` gives for inputs and masks; the backward pass runs it again.

    Args:
        layer: The layer that runs. Losses that are added inside are added to it.
        run: Gets inputs and masks, and calls layers.
        inputs: Tensors, in any structure.
        masks: Masks, in any structure.

    Raises:
        EditError: If a layer inside assigns a weight that is trained: its gradient would be another.
    """
    if _ONCE.get():
        return run(inputs, masks)
    given = keras.tree.flatten((inputs, masks))
    if any(isinstance(x, keras.KerasTensor) for x in given) or _abstract(given):
        return run(inputs, masks)
    carried = [i for i, x in enumerate(given) if _has_gradient(x)]
    before: dict[int, Any] = {}
    first = _First()
    beside = keras.backend.backend() == "tensorflow"  # its gradients take floating values only

    # TensorFlow may run what the second run reads after the optimizer's update: a variable is read
    # once, and handed to both runs.
    weights = list(layer.trainable_variables) if beside else []
    if beside:
        before.update((id(v), _kept(v)) for v in layer.non_trainable_variables)

    def compute(*tensors: Any) -> Any:
        leaves = list(given)
        for i, tensor in zip(carried, tensors[len(weights) :], strict=False):
            leaves[i] = tensor
        before.update(zip(map(id, weights), tensors, strict=False))
        own_inputs, own_masks = keras.tree.pack_sequence_as((inputs, masks), leaves)
        with _Scope(before) as scope:
            outputs = run(own_inputs, own_masks)
        _check_state(layer, scope.updates.values())
        flat = keras.tree.flatten(outputs)
        found = [private.get_keras_mask(x) for x in flat]
        changed = [scope.state_mapping[key] for key in scope.updates]
        values = [*flat, *scope.losses, *found, *changed]
        counted = len(flat) + len(scope.losses)
        apart = {
            i: x for i, x in enumerate(values)
            if x is None or (beside and (i >= counted or not _has_gradient(x)))
        }  # fmt: skip
        if not first.done:
            first.done, first.structure = True, outputs
            first.variables = list(scope.updates.values())
            first.sizes, first.count = (len(flat), len(scope.losses)), len(values)
            first.beside = apart
        return tuple(x for i, x in enumerate(values) if i not in apart)

    tensors = [*map(_read, weights), *(given[i] for i in carried)] or [keras.ops.zeros(())]
    with _to_the_end():
        handed = iter(keras.remat(compute)(*tensors))
    values = [first.beside[i] if i in first.beside else next(handed) for i in range(first.count)]
    outputs, losses = first.sizes
    flat = values[:outputs]
    for loss in values[outputs : outputs + losses]:
        keras.Layer.add_loss(layer, loss)  # a model refuses to add one
    for tensor, mask in zip(flat, values[outputs + losses :], strict=False):
        if mask is not None:
            private.set_keras_mask(tensor, mask)
    for variable, value in zip(first.variables, values[2 * outputs + losses :], strict=True):
        if id(variable) not in before:
            before[id(variable)] = _kept(variable)
        variable.assign(value)
    return keras.tree.pack_sequence_as(first.structure, flat)


def _check_state(layer: Any, changed: Any) -> None:
    """Refuse to run a second time what assigns a weight that is trained."""
    for variable in changed:
        if variable.trainable:
            raise EditError(
                f"remat: in the block {shown(layer.name)}, a layer assigns {shown(variable.path)}, which is "
                "trained, when it is called: a second run would start from another value. Open the "
                "blocks: kg.inline(model, kg.layers.Remat)."
            )


@contextlib.contextmanager
def _to_the_end() -> Iterator[None]:
    """Let PyTorch run all of a block again.

    Otherwise it stops in the middle of a layer: a recurrent cell then keeps the dropout masks of
    this run for the next batch.
    """
    if keras.backend.backend() != "torch":
        yield
        return
    from torch.utils.checkpoint import set_checkpoint_early_stop

    with set_checkpoint_early_stop(False):
        yield


def _read(variable: Any) -> Any:
    with private.AutocastScope(None):
        return keras.ops.convert_to_tensor(variable.value)


def _kept(variable: Any) -> Any:
    """Return the value that a variable has, which no later assignment changes."""
    with private.AutocastScope(None):
        return keras.ops.copy(keras.ops.stop_gradient(variable.value))


def _has_gradient(x: Any) -> bool:
    return x is not None and keras.backend.is_float_dtype(keras.backend.standardize_dtype(x.dtype))


def _abstract(tensors: Any) -> bool:
    """Whether PyTorch runs without values, to find shapes."""
    return keras.backend.backend() == "torch" and any(
        x is not None and getattr(x, "device", None) is not None and x.device.type == "meta"
        for x in tensors
    )
