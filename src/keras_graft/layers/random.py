"""`Random`: a call of `keras.random` as a layer that holds the seed."""

from __future__ import annotations

from typing import Any

import keras

from keras_graft.layers.sized_call import SizedCall


@keras.saving.register_keras_serializable("keras_graft")
class Random(keras.Layer):
    """Draws random numbers with a function of `keras.random`, such as `normal`.

    `kg.read` makes one for each call of such a function in a layer that it opens. It uses the seed
    generator of that layer, so it draws the same numbers.

    Run `import keras_graft` before you load a file that has one.

    Args:
        sized: The call, as plain data or as a `SizedCall`.
        seed: The seed, or the seed generator.
        turn: Which of the layers that draw from one generator it is.
    """

    def __init__(self, sized: Any, *, seed: Any = None, turn: int = 0, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)
        self.turn = turn
        self.sized = sized if isinstance(sized, SizedCall) else SizedCall.from_config(sized)
        own = isinstance(seed, keras.random.SeedGenerator)
        self.seed_generator = seed if own else keras.random.SeedGenerator(seed)
        self._allow_non_tensor_positional_args = True
        self.built = True

    def call(self, *tensors: Any) -> Any:
        """Draw; the tensors are those that sizes or parameters are read from."""
        return self.sized.run(tensors[: len(self.sized.worlds)], seed=self.seed_generator)

    def compute_output_spec(self, *tensors: Any) -> Any:
        """Return the spec: inferred with two values for each size that is not known."""
        return self.sized.spec(tensors[: len(self.sized.worlds)])

    def get_config(self) -> dict[str, Any]:
        """Return the call as plain data, and the seed."""
        return {
            **super().get_config(),
            "sized": self.sized.get_config(),
            # A file holds no state of a generator. Two layers that draw from one must not draw the
            # same numbers when they are loaded with a generator each.
            "seed": self.seed_generator.get_config()["seed"] + self.turn,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Random:
        """Return the layer that a configuration describes."""
        return cls(**{k: v for k, v in config.items() if k != "autocast"})
