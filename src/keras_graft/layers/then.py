"""`Then`: a layer, and another layer on what it gives, as one layer."""

from __future__ import annotations

from typing import Any

import keras

from keras_graft import _keras


@keras.saving.register_keras_serializable("keras_graft")
class Then(keras.Layer):
    """Calls a layer as it is called itself, and a second layer on what the first one gives.

    It is for models whose methods call layers one by one, such as language models of keras_hub:
    `generate` runs the layers in a list, with a cache, and would skip a layer between them. In the
    place of a layer of the list, `Then` runs both. The second layer must treat each position
    separately, as `Dense`, a normalization and most adapters do: `generate` calls it for one token
    at a time.

    Run `import keras_graft` before you load a file that has one.

    Args:
        layer: The layer. It takes the arguments, also those of a cache. Its weights are shared.
        second: The layer that takes the tensor which the first one gives; of several, the first.

    >>> import keras, keras_graft as kg
    >>> both = kg.layers.Then(keras.layers.Dense(2), keras.layers.ReLU())
    >>> tuple(both(keras.ops.ones((3, 4))).shape)
    (3, 2)
    """

    def __init__(self, layer: keras.Layer, second: keras.Layer, **kwargs: Any) -> None:
        # The layers inside do their own casts. Keras records calls by these two settings.
        super().__init__(autocast=False, dtype=layer.compute_dtype, **kwargs)
        self.layer = layer
        self.second = second
        self.supports_masking = _keras.reads_masks(layer)
        self.supports_jit = layer.supports_jit and second.supports_jit
        _keras.call_like(self, layer)
        self.built = True  # it has no weights of its own, and the layers inside build themselves

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Call both layers."""
        return self._with_second(self.layer(*args, **kwargs), self.second)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        """Return the spec that the layers inside compute; build those that are not built."""
        if not self.layer.built:
            self.layer(*args, **kwargs)
        given = self.layer.compute_output_spec(*args, **kwargs)
        if not self.second.built:
            self._with_second(given, self.second)
        return self._with_second(given, self.second.compute_output_spec)

    @staticmethod
    def _with_second(given: Any, second: Any) -> Any:
        if isinstance(given, list | tuple):
            return type(given)([second(given[0]), *given[1:]])
        return second(given)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        """Return the mask that the first layer makes."""
        if not self.layer.supports_masking:
            return None
        return self.layer.compute_mask(inputs, previous_mask)

    def get_config(self) -> dict[str, Any]:
        """Return the configuration, with the layers inside serialized."""
        config = super().get_config()
        config.pop("dtype")
        inside = {"layer": self.layer, "second": self.second}
        return config | {k: keras.saving.serialize_keras_object(v) for k, v in inside.items()}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Then:
        """Make one around new layers with the configurations of the layers inside."""
        config = dict(config)
        inside = [keras.saving.deserialize_keras_object(config.pop(k)) for k in ("layer", "second")]
        return cls(*inside, **config)

    def get_build_config(self) -> dict[str, Any] | None:
        """Return the build configurations of the layers inside."""
        return {"layer": self.layer.get_build_config(), "second": self.second.get_build_config()}

    def build_from_config(self, config: dict[str, Any]) -> None:
        """Build the layers inside, as Keras does when it loads a file."""
        for name, layer in (("layer", self.layer), ("second", self.second)):
            if config.get(name) and not layer.built:
                layer.build_from_config(config[name])
                layer.built = True
