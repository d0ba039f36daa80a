"""`Renamed`: a layer under another name, for a model in which its own name is taken."""

from __future__ import annotations

from typing import Any

import keras

from keras_graft import _keras
from keras_graft.graph.record import remember


@keras.saving.register_keras_serializable("keras_graft")
class Renamed(keras.Layer):
    """Calls a layer with the arguments it is called with, under another name.

    Keras accepts no two layers of the same name in a model, and a donor's layer is not renamed. If
    all its calls are alike, a plain Keras model around the layer is used instead. This class takes
    calls of any kind: with different arguments, shapes, masks, or numbers of outputs.

    Run `import keras_graft` before you load a file that has one.

    Args:
        layer: The layer. Its weights are shared.

    >>> import keras, keras_graft as kg
    >>> renamed = kg.layers.Renamed(keras.layers.ReLU(name="act"), name="act_1")
    >>> bool(keras.ops.all(renamed(-keras.ops.ones((2, 8))) == 0))
    True
    """

    def __init__(self, layer: keras.Layer, *, name: str, **kwargs: Any) -> None:
        # The layer inside does its own casts. Keras records calls by these two settings.
        super().__init__(name=name, autocast=False, dtype=layer.compute_dtype, **kwargs)
        self.layer = layer
        self.supports_masking = _keras.reads_masks(layer)
        self.supports_jit = layer.supports_jit
        _keras.call_like(self, layer)
        remember(self, alias=layer)
        self.built = True  # it has no weights of its own, and the layer inside builds itself

    @property
    def keras_graft_inside(self) -> Any:
        """The layer inside, for code that looks for ties."""
        return self.layer

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Call the layer inside."""
        return self.layer(*args, **kwargs)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        """Return the spec that the layer inside computes; build that layer if it is not built."""
        if not self.layer.built:
            self.layer(*args, **kwargs)
        return self.layer.compute_output_spec(*args, **kwargs)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        """Return the mask that the layer inside makes."""
        if not self.layer.supports_masking:
            return None
        return self.layer.compute_mask(inputs, previous_mask)

    def get_config(self) -> dict[str, Any]:
        """Return the configuration, with the layer inside serialized."""
        config = super().get_config()
        config.pop("dtype")
        return {**config, "layer": keras.saving.serialize_keras_object(self.layer)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Renamed:
        """Make one around a new layer with the configuration of the layer inside."""
        config = dict(config)
        return cls(keras.saving.deserialize_keras_object(config.pop("layer")), **config)

    def get_build_config(self) -> dict[str, Any] | None:
        """Return the build configuration of the layer inside."""
        return {"layer": self.layer.get_build_config()}

    def build_from_config(self, config: dict[str, Any]) -> None:
        """Build the layer inside, as Keras does when it loads a file."""
        if config.get("layer") and not self.layer.built:
            self.layer.build_from_config(config["layer"])
            self.layer.built = True
