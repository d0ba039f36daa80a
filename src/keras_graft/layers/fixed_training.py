"""`FixedTraining`: a layer that is always called with the same training flag."""

from __future__ import annotations

from typing import Any

import keras

from keras_graft import _keras


@keras.saving.register_keras_serializable("keras_graft")
class FixedTraining(keras.Layer):
    """Calls a layer with a training flag of its own: `self.base(x, training=False)` in a `call`.

    A Functional model of Keras before 3.16 gives all its layers the flag that it is called with,
    whatever was recorded. Unlike `Frozen`, this leaves the weights as they are: they can be trained.

    Run `import keras_graft` before you load a file that has one.

    Args:
        layer: The layer. Its weights are shared.
        flag: The flag.

    >>> import keras, keras_graft as kg
    >>> fixed = kg.layers.FixedTraining(keras.layers.Dropout(0.5), flag=False)
    >>> bool(keras.ops.all(fixed(keras.ops.ones((2, 8)), training=True) == 1))
    True
    """

    def __init__(
        self, layer: keras.Layer, *, flag: bool, name: str | None = None, **kwargs: Any
    ) -> None:
        kwargs.pop("autocast", None)
        kwargs["dtype"] = layer.compute_dtype
        super().__init__(name=name or layer.name, autocast=False, **kwargs)
        self.layer = layer
        self.flag = bool(flag)
        self.supports_masking = _keras.reads_masks(layer)
        self.supports_jit = layer.supports_jit
        self._convert_input_args = False
        self._allow_non_tensor_positional_args = True
        _keras.call_as(self, layer)
        self.built = True

    @property
    def keras_graft_inside(self) -> Any:
        """The layer inside, for code that looks for ties."""
        return self.layer

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Call the layer inside with these arguments and the flag."""
        kwargs["training"] = self.flag
        return self.layer(*args, **kwargs)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        """Return the spec that the layer inside computes."""
        kwargs["training"] = self.flag
        return self.layer.compute_output_spec(*args, **kwargs)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        """Return the mask that the layer inside makes."""
        if not self.layer.supports_masking:
            return None
        return self.layer.compute_mask(inputs, previous_mask)

    def get_config(self) -> dict[str, Any]:
        """Return the configuration, with the layer inside serialized."""
        config = super().get_config()
        config.pop("dtype", None)
        layer = keras.saving.serialize_keras_object(self.layer)
        return {**config, "layer": layer, "flag": self.flag}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> FixedTraining:
        """Make one around a new layer with the configuration of the layer inside."""
        config = dict(config)
        layer = keras.saving.deserialize_keras_object(config.pop("layer"))
        return cls(layer, **config)

    def get_build_config(self) -> dict[str, Any] | None:
        """Return the build configuration of the layer inside."""
        return {"layer": self.layer.get_build_config()}

    def build_from_config(self, config: dict[str, Any]) -> None:
        """Build the layer inside, as Keras does when it loads a file."""
        if config.get("layer") and not self.layer.built:
            self.layer.build_from_config(config["layer"])
            self.layer.built = True
