"""The source of `carry_optimizer`: a trained model, or its optimizer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras

from keras_graft import _keras
from keras_graft.errors import WeightsError
from keras_graft.graph.names import listed
from keras_graft.printable import shown, words_of


@dataclass(frozen=True)
class Trained:
    """A used optimizer, and its model if that was given."""

    optimizer: Any
    model: Any = None

    def variables(self) -> list[Any]:
        """Return the variables of the model, or those that were trained."""
        if self.model is not None:
            return list(self.model.variables)
        return [v for part in _keras.slots(self.optimizer).values() for v in part.variables]


def trained(old: Any, new: Any) -> Trained:
    """Return what the user gave as `old`: a model or an optimizer, possibly that of `new`."""
    if not isinstance(old, keras.optimizers.Optimizer):
        optimizer = getattr(old, "optimizer", None)
        if not isinstance(old, keras.Model) or optimizer is None:
            raise WeightsError(
                "carry_optimizer: old must be a compiled model or an optimizer, got "
                f"{shown(old)} without an optimizer."
            )
        return Trained(optimizer, old)
    if getattr(new, "optimizer", None) is old:
        return Trained(old, new)
    if isinstance(new, keras.Model) and not new.compiled:
        raise WeightsError(
            f"carry_optimizer: {new.name!r} is not compiled, and an optimizer does not say "
            f"which loss to use. Compile it first, with an optimizer of class {type(old).__name__}."
        )
    return Trained(old)


def options_of(before: Trained, new: Any) -> dict[str, Any]:
    """Return how the old model was compiled, without the optimizer."""
    try:
        return _keras.compilation(before.model, metrics_again=before.model is not new)
    except Exception as error:
        raise WeightsError(
            f"carry_optimizer: a metric of old cannot be made again from its configuration: {words_of(error)}. "
            f"Compile new first, with an optimizer of class {type(before.optimizer).__name__}."
        ) from error


def slots_of(before: Trained, new: Any) -> dict[str, _keras.Slots]:
    """Return the slots and other variables of the old optimizer."""
    optimizer = before.optimizer
    if not optimizer.built:
        raise WeightsError(
            "carry_optimizer: the optimizer of old has made no step, so it holds nothing to carry. "
            + (
                "compile() gives a model a new one. Keep the one that was trained: old = "
                "model.optimizer before compile(), then kg.carry_optimizer(old, model)."
                if before.model is new
                else "Compile the new model."
            )
        )
    found = _keras.slots(optimizer)
    named = {
        id(v)
        for part in found.values()
        for v in (*part.single.values(), *(x for row in part.lists.values() for x in row))
    }
    if strange := [v.path for v in optimizer.variables if id(v) not in named]:
        raise WeightsError(
            f"carry_optimizer: {type(optimizer).__name__} holds variables of unknown purpose: "
            f"{listed(strange)}. It must keep them in lists in the order of "
            "the variables it was built for, as Keras's optimizers do."
        )
    if not all(_keras.has_value(v) for v in optimizer.variables):
        raise WeightsError(
            "carry_optimizer: the optimizer of old has lost its values in a training step that "
            "failed, or in `fit` with use_ema=True on JAX. Load the model again."
        )
    return found
