"""`AddLoss`: a loss that code adds in its `call`, as a layer. `WithMask`: a mask that it attaches."""

from __future__ import annotations

from typing import Any

import keras


@keras.saving.register_keras_serializable("keras_graft")
class AddLoss(keras.Layer):
    """Returns its first input, and adds the second as losses, as `layer.add_loss` does.

    The first may be a list: all that a block gives. Whatever of it is used, the losses count. A third
    argument keeps calls whose results nothing needs, but which add losses themselves.

    Run `import keras_graft` before you load a file that has one.

    Args:
        in_training: Whether the losses are added in training only.
    """

    def __init__(self, *, in_training: bool = False, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.in_training = bool(in_training)
        self._convert_input_args = False
        self.supports_masking = True
        self.built = True

    def call(self, x: Any, losses: Any, beside: Any = None, training: bool | None = None) -> Any:
        """Add the losses, each a scalar or a tensor that is summed, and return `x`."""
        if self.in_training and not training:
            return x
        for loss in keras.tree.flatten(losses):
            self.add_loss(loss)
        return x

    def compute_output_spec(
        self, x: Any, losses: Any, beside: Any = None, training: bool | None = None
    ) -> Any:
        """Return the spec of `x`."""
        return keras.tree.map_structure(lambda one: keras.KerasTensor(one.shape, one.dtype), x)

    def get_config(self) -> dict[str, Any]:
        """Return the configuration."""
        config = super().get_config()
        config.pop("autocast", None)
        return {**config, "in_training": self.in_training}


@keras.saving.register_keras_serializable("keras_graft")
class WithMask(keras.Layer):
    """Returns its first input with the second attached as its mask.

    A layer that hands a mask on does so around its `call`. Where it is opened, this does it.

    Run `import keras_graft` before you load a file that has one.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self._convert_input_args = False
        self.supports_masking = True
        self.built = True

    def call(self, x: Any, mask: Any = None) -> Any:
        """Return a copy of `x`; Keras attaches the mask, and `x` itself has none for other calls."""
        return keras.ops.copy(x)

    def compute_output_spec(self, x: Any, mask: Any = None) -> Any:
        """Return the spec of `x`."""
        return keras.KerasTensor(x.shape, x.dtype)

    def get_config(self) -> dict[str, Any]:
        """Return the configuration."""
        config = super().get_config()
        config.pop("autocast", None)
        return config
