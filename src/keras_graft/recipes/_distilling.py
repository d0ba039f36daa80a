"""The model that `distill` makes, and the layer in it that compares a student with its teacher."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops, tree

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
