"""`importance`: how much the loss would change without a unit, from the gradients of a few batches."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_graft import _keras
from keras_graft.errors import RunError
from keras_graft.inside.running import weight_gradients
from keras_graft.printable import shown, words_of
from keras_graft.pruning.call import variable_behind_views
from keras_graft.pruning.group import Group

tree = keras.tree


class Importance:
    """A score for each unit of a group, for `kg.prune(..., by=...)`, from `kg.importance`.

    Attributes:
        batches: How many batches it was computed from.
    """

    def __init__(self, products: dict[int, np.ndarray], variables: list[Any], batches: int) -> None:
        self._products = products
        self._variables = variables  # as long as they live, no other has their identity
        self.batches = batches

    def __call__(self, group: Group) -> np.ndarray:
        """Return one number for each unit: the sum over the weights that compute it.

        Raises:
            RunError: If none of these weights is trained.
        """
        total, known = np.zeros(group.count), False
        for member in group.members:
            variable = variable_behind_views(member.variable)
            if isinstance(variable, _keras.Tied):
                variable = variable.source
            product = self._products.get(id(variable))
            if not member.gives or product is None:
                continue
            known = True
            sums = product.sum(tuple(i for i in range(product.ndim) if i != member.axis))
            mine = member.units >= 0
            np.add.at(total, member.units[mine], sums[mine])
        if not known:
            raise RunError(
                f"importance: no weight that computes the group of {group.layer!r} is trained in the "
                "model that it was computed for, so there are no gradients. Let it train, or use "
                'by="magnitude".'
            )
        return total


def importance(
    model: Any, data: Any, loss: Any = None, batches: int = 8, batch_size: int = 32
) -> Importance:
    """Return a score of units by a Taylor expansion of the loss, for `kg.prune(..., by=...)`.

    The score of a unit is the sum of `|weight * gradient|` over the weights that compute it, and
    over a few batches: what the loss would change, to first order, if they were zero (Molchanov et
    al., "Pruning Convolutional Neural Networks for Resource Efficient Inference", 2017,
    arXiv:1611.06440; "Importance Estimation for Neural Network Pruning", 2019, arXiv:1906.10771).
    The model runs in inference mode, on JAX, TensorFlow and PyTorch, and is not changed. Penalties
    on weights and inner values (`model.losses`) do not count.

    Args:
        model: A Keras model.
        data: A tuple `(x, y)` of arrays, or anything that gives batches `(x, y)`. A third element
            weights the samples, as in `fit`.
        loss: The name of a loss of Keras, a loss, or a function of labels and outputs; a structure
            of these, as the outputs are. None: that of `compile()`, with its `loss_weights`.
        batches: How many batches are used, at most.
        batch_size: For arrays.

    Returns:
        A function of a `Group`, which gives one number for each unit.

    Raises:
        RunError: If there is no loss, no batch, or the model does not run on one; if the model has
            a `compute_loss` of its own, and `loss` is None.

    >>> import keras, numpy as np, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> y = keras.layers.Dense(8, name="a", activation="relu")(x)
    >>> model = keras.Model(x, keras.layers.Dense(1, name="b")(y))
    >>> by = kg.importance(model, (np.ones((8, 4)), np.ones((8, 1))), loss="mse")
    >>> by(kg.group(model, "a")).shape, kg.prune(model, {"a": 0.5}, by=by).get_layer("a").units
    ((8,), 4)
    """
    if not isinstance(model, keras.Model):
        raise RunError(
            f"importance: takes a Keras model, got {shown(model)}. A graph is built first: "
            "kg.build(graph)."
        )
    for name, number in (("batches", batches), ("batch_size", batch_size)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise RunError(
                f"importance: {name} must be a whole number above 0, got {shown(number)}."
            )
    shares = None
    if loss is None:
        if type(model).compute_loss is not keras.Model.compute_loss:
            raise RunError(
                f"importance: {type(model).__name__} has a compute_loss() of its own, which may need more "
                "than labels and outputs. Give loss=, or the model inside that has no such method."
            )
        loss = getattr(model, "loss", None)
        told: Any = model.get_compile_config() or {}
        shares = told.get("loss_weights") if loss else None
    if loss is None:
        raise RunError(
            f'importance: {model.name!r} is not compiled with a loss. Give one, such as loss="mse".'
        )
    measure = _Measure(loss, shares)
    products: dict[int, np.ndarray] = {}
    variables: list[Any] = []
    count = 0
    for x, y, weights in _tensors(data, batch_size, min(batches, sys.maxsize)):
        try:
            variables, found = weight_gradients(
                model, x, lambda outputs, y=y, w=weights: measure(y, outputs, w)
            )
        except RunError:
            raise
        except Exception as error:  # of the backend, of a layer, or of a function of the user
            raise RunError(
                f"importance: a run raised {type(error).__name__}: {words_of(error)}"
            ) from error
        for variable, gradient in zip(variables, found, strict=True):
            arrays = (
                np.asarray(keras.ops.convert_to_numpy(a), "float64") for a in (variable, gradient)
            )
            product = np.abs(np.multiply(*arrays))
            products[id(variable)] = products.get(id(variable), 0) + product
        count += 1
    if not count:
        raise RunError(
            "importance: data gives no batch: a tuple (x, y), or batches (x, y), is needed."
        )
    return Importance(products, variables, count)


class _Measure:
    """The loss of a batch as one number."""

    def __init__(self, loss: Any, shares: Any) -> None:
        get = lambda item: item if callable(item) else keras.losses.get(item)  # noqa: E731
        try:
            self._loss = tree.map_structure(get, loss)
        except Exception as error:  # of Keras, for any object
            raise RunError(
                f"importance: {shown(loss)} is no loss. Give the name of one in keras.losses, such as "
                '"mse", or a function of labels and outputs.'
            ) from error
        self._shares = shares

    def __call__(self, y: Any, outputs: Any, weights: Any = None) -> Any:
        given, known = tree.flatten(outputs), tree.flatten(y)
        losses, shares, samples = (
            [None] if part is None else tree.flatten(part)
            for part in (self._loss, self._shares, weights)
        )
        if isinstance(self._loss, dict) and isinstance(outputs, dict):
            given, known, shares, samples = (
                [part[name] for name in self._loss] if isinstance(part, dict) else flat
                for part, flat in (
                    (outputs, given), (y, known), (self._shares, shares), (weights, samples)
                )
            )  # fmt: skip
            losses = list(self._loss.values())
        if len(losses) == 1:
            losses = losses * len(given)
        if not len(losses) == len(given) == len(known):
            raise RunError(
                f"importance: {len(given)} outputs, {len(known)} labels and {len(losses)} losses do "
                "not fit."
            )
        shares, samples = (
            part * len(given) if len(part) == 1 else part for part in (shares, samples)
        )
        rows = zip(losses, known, given, shares, samples, strict=True)
        parts: list[Any] = [
            _mean(loss, label, output, weight) * (1.0 if share is None else share)
            for loss, label, output, share, weight in rows
            if loss is not None
        ]
        return sum(parts[1:], parts[0])


def _mean(loss: Any, label: Any, output: Any, weight: Any) -> Any:
    """Return the mean of a loss, with weights for the samples as Keras counts them."""
    if weight is None:
        return keras.ops.mean(loss(label, output))
    if isinstance(loss, keras.losses.Loss):
        return keras.ops.mean(loss(label, output, sample_weight=weight))
    losses: Any = loss(label, output)
    weight = keras.ops.cast(weight, losses.dtype)
    missing = len(losses.shape) - len(weight.shape)
    return keras.ops.mean(losses * keras.ops.reshape(weight, (*weight.shape, *[1] * missing)))


def _tensors(data: Any, size: int, most: int) -> Iterator[tuple[Any, Any, Any]]:
    """Yield inputs, labels, and weights of samples (or None) as tensors.

    Raises:
        RunError: If it is no data.
    """
    batches = iter(_batches(data, size))
    for _ in range(most):
        try:
            x, y, weights = (
                None if part is None else tree.map_structure(keras.ops.convert_to_tensor, part)
                for part in next(batches)
            )
        except StopIteration:
            return
        except Exception as error:  # of the data
            raise RunError(
                f"importance: data={shown(data)} is neither a tuple (x, y) of arrays nor gives batches "
                f"(x, y): {type(error).__name__}."
            ) from error
        yield x, y, weights


def _batches(data: Any, size: int) -> Iterator[tuple[Any, Any, Any]]:
    """Yield batches of inputs, labels, and weights of samples, or None."""
    if isinstance(data, tuple):
        x, y, weights = (
            None if part is None else tree.map_structure(np.asarray, part)
            for part in (*data, None)[:3]
        )
        count = len(tree.flatten(x)[0])
        for start in range(0, count, size):
            cut = lambda leaf, start=start: leaf[start : start + size]  # noqa: E731
            rest = None if weights is None else tree.map_structure(cut, weights)
            yield tree.map_structure(cut, x), tree.map_structure(cut, y), rest
        return
    if isinstance(data, keras.utils.PyDataset):
        data = map(data.__getitem__, range(len(data)))  # type: ignore[arg-type]
    for batch in data:
        yield batch[0], batch[1], batch[2] if len(batch) > 2 else None
