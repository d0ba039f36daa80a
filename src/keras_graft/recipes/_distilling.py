"""The model that `distill` makes, and the layer in it that compares a student with its teacher."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops, tree

import keras_graft as kg
from keras_graft.printable import shown

REGISTERED = keras.saving.register_keras_serializable("keras_graft")


@REGISTERED
class Compare(keras.layers.Layer):
    """Gives the student's outputs, and adds what they and its taps differ from the teacher's as a loss.

    Args:
        temperature: For the softmax of the outputs; None: they are compared as they are.
        alpha: The weight of the outputs.
        pair_weight: The weight of each pair of taps.
        logs: Whether the outputs of the student, and of the teacher, are probabilities.
        **kwargs: Those of every layer.
    """

    def __init__(
        self, temperature: float | None, alpha: float, pair_weight: float, logs: Any, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.temperature, self.alpha, self.pair_weight = temperature, alpha, pair_weight
        self.logs = tuple(logs)

    def call(self, outputs: Any, teacher: Any, taps: Any, targets: Any) -> Any:
        """Add the loss; return the student's outputs.

        Args:
            outputs: What the student gives: a tensor, or a structure of tensors.
            teacher: A list of what the teacher gives.
            taps: A list of inner values of the student.
            targets: A list of those of the teacher, of the same shapes.
        """
        float32 = lambda t: ops.cast(t, "float32")  # noqa: E731
        given, known = ([float32(t) for t in tree.flatten(part)] for part in (outputs, teacher))
        if self.temperature is None:
            losses = [self.alpha * _nearness(k, g) for g, k in zip(given, known, strict=True)]
        else:
            # Given by its name, it would be a function, and Keras would compare logits as they are.
            divergence: Any = keras.losses.KLDivergence()
            kind: Any = keras.distillation.LogitsDistillation(self.temperature, divergence)
            given, known = (
                [_logarithm(t) if log else t for t in part]
                for part, log in zip((given, known), self.logs, strict=True)
            )
            losses = [
                self.alpha * kind.compute_loss(k, g) for g, k in zip(given, known, strict=True)
            ]
        losses += [
            self.pair_weight * _nearness(float32(target), float32(tap))
            for tap, target in zip(taps, targets, strict=True)
        ]
        self.add_loss(sum(losses))
        return tree.map_structure(lambda t: t, outputs)

    def compute_output_spec(self, outputs: Any, teacher: Any, taps: Any, targets: Any) -> Any:
        """Return the outputs as they are: nothing has to run to know them."""
        return tree.map_structure(lambda t: keras.KerasTensor(t.shape, t.dtype), outputs)

    def get_config(self) -> dict[str, Any]:
        """Return the configuration."""
        own = {
            name: getattr(self, name) for name in ("temperature", "alpha", "pair_weight", "logs")
        }
        return {**super().get_config(), **own}


def _logarithm(probabilities: Any) -> Any:
    return ops.log(ops.add(probabilities, keras.config.epsilon()))


def _nearness(target: Any, tap: Any) -> Any:
    return keras.distillation.FeatureDistillation("mse").compute_loss(target, tap)


@REGISTERED
class Distillation(keras.Model):
    """A student with its teacher, which `fit` trains; gives what the student gives."""

    @property
    def student(self) -> keras.Model:
        """The student alone: a plain model with the same layers."""
        inner = self.get_layer("student")
        flat = [inner.output[f"output_{i}"] for i in range(len(tree.flatten(self.output)))]
        outputs = tree.pack_sequence_as(self.output, flat)
        return keras.Model(inner.input, outputs, name=self.name)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None,
        training: bool = True,
    ) -> Any:  # fmt: skip
        """Return `(1 - alpha)` times the loss of the labels, and all other losses."""
        total = super().compute_loss(x, y, y_pred, sample_weight, training)
        alpha = self.get_layer("compare").alpha
        # The other losses are in the total; they are not weighted again.
        others: list[Any] = [ops.sum(loss) for loss in self.losses]
        return (1 - alpha) * total + alpha * sum(others)


def channels_of(graph: kg.Graph, selector: Any) -> int:
    """Return which axis of a value has its channels: what the nearest layer that says so has."""
    value = kg.select(graph, selector).values[0]
    rank = None if value.spec is None else len(value.spec.shape)
    while value.spec is not None and len(value.spec.shape) == rank:
        node = value.producer
        layout = None if node is None else getattr(node.operation, "data_format", None)
        if layout is not None or node is None or not node.inputs or node.kind in _MOVES:
            return 1 if layout == "channels_first" else -1
        value = node.inputs[0].within(node.home, node.scope)
    return -1


_MOVES = ("Permute", "Transpose", "Moveaxis", "Swapaxes", "Reshape", "Dense", "EinsumDense")
"""Classes after which channels are last, or no layer says where they are."""


def projected(tap: Any, target: Any, axes: list[int], number: int, mine: Any, its: Any) -> Any:
    """Return a value of the student in the width of the teacher's.

    Args:
        tap: The value of the student.
        target: That of the teacher.
        axes: Which axis has the channels, of the teacher's and of the student's.
        number: Which pair it is.
        mine: The selector of the student's value.
        its: That of the teacher's.
    """
    one, other = list(tap.shape), list(target.shape)
    last = len(other) - 1
    axes = [axis % max(last + 1, 1) for axis in axes]
    axis = axes[0]
    fits = len(one) == len(other) > 1 and axes[0] == axes[1]
    widths = (one.pop(axis), other.pop(axis)) if fits else (None, None)
    fits = fits and all(a == b or None in (a, b) for a, b in zip(one, other, strict=True))
    if not fits or None in widths:
        where = "the last axis" if set(axes) == {last} else "the axis of the channels"
        raise kg.EditError(
            f"distill: {shown(mine)} of the student is {tuple(tap.shape)}, and {shown(its)} of the "
            f"teacher is {tuple(target.shape)}: only {where} may differ. kg.stages(model) lists the "
            "values of each resolution."
        )
    if widths[0] == widths[1]:
        return tap
    name = f"projection_{number}"
    if axis == last:
        return keras.layers.Dense(widths[1], dtype=tap.dtype, name=name)(tap)
    places = "defghijk"[: last - 1]
    shape = (widths[1], *other[1:])
    layer = keras.layers.EinsumDense(
        f"ab{places},bc->ac{places}", shape, bias_axes="c", dtype=tap.dtype, name=name
    )
    return layer(tap)
