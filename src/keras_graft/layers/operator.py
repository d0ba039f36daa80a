"""`Operator`: a Python operator between tensors, as the backend computes it."""

from __future__ import annotations

import operator
from typing import Any

import keras

from keras_graft.errors import BuildError
from keras_graft.printable import shown

SIGNS = (
    "add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul", "eq", "ne", "lt", "le", "gt",
    "ge", "and", "or", "xor",
)  # fmt: skip


@keras.saving.register_keras_serializable("keras_graft")
class Operator(keras.Operation):
    """A Python operator: `x ** 2`, computed by the backend's own tensors.

    `keras.ops.power(x, 2)` makes a tensor of 2 first, and may give other last bits than `x ** 2` in a
    `call`. `kg.read` uses this where the difference is seen.

    Run `import keras_graft` before you load a file that has one.

    Args:
        sign: The name of the operator in Python's module `operator`: `"pow"`.
        name: The name.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((2,), name="x")
    >>> model = keras.Model(x, kg.layers.Operator("pow")(x, 2))
    >>> model(keras.ops.full((1, 2), 3.0)).shape[1]
    2
    """

    def __init__(self, sign: str, name: str | None = None) -> None:
        super().__init__(name=name)
        if sign not in SIGNS:
            raise BuildError(f"{shown(sign)} is no operator. Operators: {', '.join(SIGNS)}.")
        self.sign = sign

    def call(self, left: Any, right: Any) -> Any:
        """Return `left <sign> right`."""
        name = f"{self.sign}_" if self.sign in ("and", "or") else self.sign
        return getattr(operator, name)(left, right)

    def get_config(self) -> dict[str, Any]:
        """Return the sign."""
        return {"sign": self.sign, "name": self.name}
