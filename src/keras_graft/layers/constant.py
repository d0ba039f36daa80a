"""`Constant`: a tensor that no data changes, as an op."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_graft.errors import BuildError
from keras_graft.printable import shown


@keras.saving.register_keras_serializable("keras_graft")
class Constant(keras.Operation):
    """Gives the same tensor at each call, whatever it reads.

    A layer may give a tensor that depends on no input, such as the empty cache of a decoder. `kg.read`
    makes one of these for it.

    Run `import keras_graft` before you load a file that has one.

    Args:
        value: The tensor or array; or its bytes in base64, with `shape` and `kind`.
        dtype: The dtype of the tensor; that of the value if None.
        shape: The shape, if `value` is bytes.
        kind: The dtype of NumPy, if `value` is bytes.
        name: The name.

    >>> import keras, numpy as np, keras_graft as kg
    >>> x = keras.Input((2,), name="x")
    >>> model = keras.Model(x, kg.layers.Constant(np.ones(3, "float32"))(x))
    >>> tuple(model(keras.ops.zeros((5, 2))).shape)
    (3,)
    """

    def __init__(
        self, value: Any, dtype: str | None = None, shape: Sequence[int] | None = None,
        kind: str | None = None, name: str | None = None,
    ) -> None:  # fmt: skip
        super().__init__(name=name)
        if isinstance(value, str):
            self.value = _read(value, shape, kind)
        else:
            self.value = np.array(keras.ops.convert_to_numpy(value))
            dtype = dtype or keras.backend.standardize_dtype(value.dtype)
        self.dtype = dtype or str(self.value.dtype)

    def call(self, anchor: Any) -> Any:
        """Return the tensor; `anchor` is any tensor, and is not used."""
        return keras.ops.convert_to_tensor(self.value, dtype=self.dtype)

    def compute_output_spec(self, anchor: Any) -> Any:
        """Return the spec of the tensor."""
        return keras.KerasTensor(self.value.shape, self.dtype)

    def get_config(self) -> dict[str, Any]:
        """Return the bytes of the tensor as text."""
        value = np.ascontiguousarray(self.value)
        return {
            "value": base64.b64encode(value.tobytes()).decode("ascii"),
            "dtype": self.dtype,
            "shape": list(self.value.shape),
            "kind": value.dtype.str,
            "name": self.name,
        }


def _read(text: str, shape: Any, kind: Any) -> np.ndarray:
    """Return the array that bytes of a file hold; a file may be forged."""
    try:
        known = np.dtype(kind)
        if known.hasobject:
            raise ValueError("objects")
        data = np.frombuffer(base64.b64decode(text, validate=True), known)
        return data.reshape([int(size) for size in shape])
    except (TypeError, ValueError) as error:
        raise BuildError(
            f"The bytes of a Constant do not make a tensor of shape {shown(shape)} and dtype {shown(kind)}."
        ) from error
