"""`DynamicOp`: an op with sizes among its arguments, which it reads from its tensors at each call."""

from __future__ import annotations

from typing import Any

import keras

from keras_graft.layers.sized_call import SizedCall


@keras.saving.register_keras_serializable("keras_graft")
class DynamicOp(keras.Operation):
    """An op of Keras with sizes among its arguments: `ops.reshape(x, (ops.shape(x)[0], -1))`.

    Keras records arguments as they are at the time of the call, and a size that is not known would
    be None there. `kg.read` makes these ops when it opens a layer. They read the sizes from their
    tensors at each call.

    Run `import keras_graft` before you load a file that has one.

    Args:
        sized: The call, as plain data or as a `SizedCall`.
        name: The name.
    """

    def __init__(self, sized: Any, name: str | None = None) -> None:
        super().__init__(name=name)
        self.sized = sized if isinstance(sized, SizedCall) else SizedCall.from_config(sized)

    def call(self, *tensors: Any) -> Any:
        """Read the sizes, and make the call."""
        return self.sized.run(tensors[: len(self.sized.worlds)])

    def compute_output_spec(self, *tensors: Any) -> Any:
        """Return the spec: inferred with two values for each size that is not known."""
        return self.sized.spec(tensors[: len(self.sized.worlds)])

    def get_config(self) -> dict[str, Any]:
        """Return the call as plain data."""
        return {"sized": self.sized.get_config(), "name": self.name}
