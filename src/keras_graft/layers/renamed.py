"""A layer under another name: for a model in which its own name is taken."""

from __future__ import annotations

from typing import Any

import keras

from keras_graft import _keras


@keras.saving.register_keras_serializable("keras_graft")
class Renamed(keras.Layer):
    """Calls a layer as it is called itself, under a name of its own.

    Keras takes no two layers of one name in a model, and a donor's layer is not renamed. Where
    its calls are all alike, a stock model of the layer stands for it. This one takes calls of any
    kind: with other arguments, shapes, masks, or numbers of outputs.

    A file that holds one loads once `import keras_graft` was run.

    Args:
        layer: The layer. Its weights are shared.

    >>> import keras, keras_graft as kg
    >>> renamed = kg.layers.Renamed(keras.layers.ReLU(name="act"), name="act_1")
    >>> bool(keras.ops.all(renamed(-keras.ops.ones((2, 8))) == 0))
    True
    """

    def __init__(self, layer: keras.Layer, *, name: str, **kwargs: Any) -> None:
        # What the layer inside casts, it casts itself. By these Keras decides what it records.
        super().__init__(name=name, autocast=False, dtype=layer.compute_dtype, **kwargs)
        self.layer = layer
        self.supports_masking = _keras.reads_masks(layer)
        self.supports_jit = layer.supports_jit
        _keras.call_like(self, layer)
        _keras.mark(self, "alias", layer)
        self.built = True  # it has no weights of its own, and the layer inside builds itself

    @property
    def keras_graft_inside(self) -> Any:
        """The layer that stands here, for whoever looks for ties."""
        return self.layer

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Call the layer inside."""
        return self.layer(*args, **kwargs)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the layer inside says; one that is not built is built."""
        if not self.layer.built:
            self.layer(*args, **kwargs)
        return self.layer.compute_output_spec(*args, **kwargs)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        """Return the mask that the layer inside makes."""
        if not self.layer.supports_masking:
            return None
        return self.layer.compute_mask(inputs, previous_mask)

    def get_config(self) -> dict[str, Any]:
        """Return the layer inside, serialized."""
        config = super().get_config()
        config.pop("dtype")
        return {**config, "layer": keras.saving.serialize_keras_object(self.layer)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Renamed:
        """Make it again around a new layer of the same configuration."""
        config = dict(config)
        return cls(keras.saving.deserialize_keras_object(config.pop("layer")), **config)

    def get_build_config(self) -> dict[str, Any] | None:
        """Return what builds the layer inside."""
        return {"layer": self.layer.get_build_config()}

    def build_from_config(self, config: dict[str, Any]) -> None:
        """Build the layer inside, as Keras does when it loads a file."""
        if config.get("layer") and not self.layer.built:
            self.layer.build_from_config(config["layer"])
            self.layer.built = True
