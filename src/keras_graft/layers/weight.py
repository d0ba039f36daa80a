"""`Weight`: a variable as a layer, and `KeepWeights`: variables that no output needs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from keras_graft import _keras


@keras.saving.register_keras_serializable("keras_graft")
class Weight(keras.Layer):
    """Gives the value of a variable: a class token, a table of positions, a scale.

    A weight that the code of a `call` uses itself, and not through a layer, is one of these after
    `kg.read`. It holds the donor's variable, so the weight is shared, tracked and trained.

    Run `import keras_graft` before you load a file that has one.

    Args:
        shape: The shape of the variable.
        variable_dtype: Its dtype.
        trains: Whether it is trained.
        variable: The variable; a new one of zeros if None.
        regularizer: The regularizer of a new variable.
        constraint: The constraint of a new variable.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> scale = kg.layers.Weight((4,), name="scale")(x)
    >>> keras.Model(x, x * scale).count_params()
    4
    """

    def __init__(
        self, shape: Sequence[int], *, variable_dtype: str = "float32", trains: bool = True,
        variable: Any = None, regularizer: Any = None, constraint: Any = None, **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(**kwargs)
        self.shape, self.trains = tuple(shape), bool(trains)
        self._convert_input_args = False  # the input only says when it is called
        if variable is None:
            variable = self.add_weight(
                shape=self.shape, dtype=variable_dtype, trainable=self.trains,
                initializer="zeros", name="value",
                regularizer=keras.regularizers.get(regularizer),
                constraint=keras.constraints.get(constraint),
            )  # fmt: skip
        self.value = variable
        self.built = True

    def take(self, variable: Any) -> None:
        """Hold another variable instead."""
        _keras.untrack(self, [self.value])
        _keras.track(self, variable)
        self.__dict__["value"] = variable

    def call(self, anchor: Any) -> Any:
        """Return the value; `anchor` is any tensor, and is not used."""
        return keras.ops.convert_to_tensor(self.value)

    def compute_output_spec(self, anchor: Any) -> Any:
        """Return the spec of the variable, in the compute dtype for floats."""
        dtype = keras.backend.standardize_dtype(_keras.dtype_of(self.value))
        if self.autocast and "float" in dtype:
            dtype = self.compute_dtype
        return keras.KerasTensor(self.shape, dtype)

    def get_config(self) -> dict[str, Any]:
        """Return shape, dtype and flag of the variable."""
        return {
            **super().get_config(),
            "shape": list(self.shape),
            "variable_dtype": _keras.dtype_of(self.value),
            "trains": self.trains,
            **_rules_of(self.value),
        }


@keras.saving.register_keras_serializable("keras_graft")
class KeepWeights(keras.Layer):
    """Returns its input, and keeps variables that nothing reads: they stay weights of the model.

    A layer may have weights that no output needs, such as a mask token that only pre-training uses.
    They stay in the model and in its files.

    Run `import keras_graft` before you load a file that has one.

    Args:
        specs: For each variable, its shape, dtype, whether it is trained, and its rules: a dict with
            `regularizer` and `constraint`.
        variables: The variables; new ones of zeros if None.
    """

    def __init__(
        self, specs: Sequence[Sequence[Any]], *, variables: Sequence[Any] | None = None,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        super().__init__(autocast=False, **kwargs)
        self.specs = [[list(s[0]), str(s[1]), bool(s[2]), dict(s[3])] for s in specs]
        self._convert_input_args = False
        self.supports_masking = True
        if variables is None:
            variables = [
                self.add_weight(
                    shape=shape,
                    dtype=dtype,
                    trainable=trains,
                    initializer="zeros",
                    name=f"w{i}",
                    regularizer=keras.regularizers.get(rules["regularizer"]),
                    constraint=keras.constraints.get(rules["constraint"]),
                )  # fmt: skip
                for i, (shape, dtype, trains, rules) in enumerate(self.specs)
            ]
        self.kept = list(variables)
        self.built = True

    def call(self, x: Any) -> Any:
        """Return the input."""
        return x

    def compute_output_spec(self, x: Any) -> Any:
        """Return the spec of the input."""
        return keras.tree.map_structure(lambda one: keras.KerasTensor(one.shape, one.dtype), x)

    def get_config(self) -> dict[str, Any]:
        """Return the specs of the variables."""
        config = super().get_config()
        config.pop("autocast", None)
        return {**config, "specs": self.specs}


def weight_of(variable: Any, name: str, policy: Any) -> Weight:
    """Return a `Weight` that gives a variable."""
    return Weight(
        variable.shape, variable_dtype=_keras.dtype_of(variable), trains=bool(variable.trainable),
        variable=variable, name=name, dtype=policy,
    )  # fmt: skip


def spec_of_weight(variable: Any) -> list[Any]:
    """Return the entry of `KeepWeights` for a variable."""
    shape, dtype = list(variable.shape), _keras.dtype_of(variable)
    return [shape, dtype, bool(variable.trainable), _rules_of(variable)]


def _rules_of(variable: Any) -> dict[str, Any]:
    return {
        "regularizer": keras.regularizers.serialize(variable.regularizer),
        "constraint": keras.constraints.serialize(variable.constraint),
    }
