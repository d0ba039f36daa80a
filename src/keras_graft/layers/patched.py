"""`Patched`: another value in the place of a tensor, with its shape, dtype and mask."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np


@keras.saving.register_keras_serializable("keras_graft")
class Patched(keras.Layer):
    """Returns another value in the place of the tensor that it is called with.

    `kg.patch` puts it into a model. The value is broadcast to the shape of the tensor, as NumPy
    does it, and cast to its dtype. The mask of the tensor goes on with the value. It has no
    weights: a value that is given here is part of the configuration.

    Run `import keras_graft` before you load a file that has one.

    Args:
        value: A number or an array. None: the layer is called with two tensors, and returns the
            second one in the place of the first.
        kwargs: As for every layer.

    >>> import keras, keras_graft as kg
    >>> layer = kg.layers.Patched([1.0, 2.0])
    >>> keras.ops.convert_to_numpy(layer(keras.ops.zeros((2, 2)))).tolist()
    [[1.0, 2.0], [1.0, 2.0]]
    """

    keras_graft_checked = True
    """What it is put in for is checked by `kg.patch`: an array may only fit one batch size."""

    def __init__(self, value: Any = None, **kwargs: Any) -> None:
        # The value has the dtype of the tensor, whatever the policy is.
        super().__init__(autocast=False, **kwargs)
        self.__dict__["value"] = None if value is None else np.asarray(value)
        self.supports_masking = True
        self.built = True

    def call(self, inputs: Any) -> Any:
        """Return the value in the place of the tensor."""
        tensor, new = (inputs, self.value) if self.value is not None else inputs
        new = keras.ops.cast(keras.ops.convert_to_tensor(new), tensor.dtype)
        return keras.ops.broadcast_to(new, keras.ops.shape(tensor))

    def compute_output_spec(self, inputs: Any) -> Any:
        """Return the spec of the tensor.

        Raises:
            ValueError: If the value does not fit it, as after an edit that changes the shape of one.
        """
        tensor, new = (inputs, self.value) if self.value is not None else inputs
        if not _fits(new.shape, tensor.shape):
            raise ValueError(
                f"{self.name} puts a value of shape {tuple(new.shape)} in the place of a tensor of "
                f"shape {tuple(tensor.shape)}, and cannot be broadcast to it"
            )
        return keras.KerasTensor(tensor.shape, tensor.dtype)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        """Return the mask of the tensor."""
        return previous_mask[0] if isinstance(previous_mask, list | tuple) else previous_mask

    def get_config(self) -> dict[str, Any]:
        """Return the configuration, with the value as nested lists."""
        config = super().get_config()
        config.pop("dtype")
        value = self.value
        return {**config, "value": None if value is None else value.tolist()}


def _fits(shape: Any, whole: Any) -> bool:
    """Whether an array of a shape can be broadcast to another one; None may be any size."""
    pairs = zip(reversed(shape), reversed(whole), strict=False)
    return len(shape) <= len(whole) and all(d in (1, None, n) or n is None for d, n in pairs)
