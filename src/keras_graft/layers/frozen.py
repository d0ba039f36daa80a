"""A layer in inference mode for good, under `fit` too."""

from __future__ import annotations

from typing import Any

import keras

from keras_graft import _keras


@keras.saving.register_keras_serializable("keras_graft")
class Frozen(keras.Layer):
    """Calls a layer in inference mode, whatever the model around it is doing.

    Keras has no such mode: see `keras_graft.edit.changes.freeze`. Here the layer inside is always called with `training=False`:
    dropout and noise do nothing, moving averages stay, losses of its own are not counted. Its
    weights are the very values of the layer inside, and are never trained here; the layer itself
    keeps its flags, and another model may train it.

    A file that holds one loads once `import keras_graft` was run.

    Args:
        layer: The layer. Its weights are shared.

    >>> import keras, keras_graft as kg
    >>> frozen = kg.layers.Frozen(keras.layers.Dropout(0.5))
    >>> bool(keras.ops.all(frozen(keras.ops.ones((2, 8)), training=True) == 1))
    True
    """

    def __init__(self, layer: keras.Layer, *, name: str | None = None, **kwargs: Any) -> None:
        kwargs.pop("trainable", None)
        super().__init__(name=name or layer.name, trainable=False, autocast=False, **kwargs)
        # Past Keras's tracking: the variables count as the views below, not as the layer's own.
        self.__dict__["layer"] = layer
        self.supports_masking = _keras.reads_masks(layer)
        self._convert_input_args = False  # the layer inside casts its inputs, or does not
        self._allow_non_tensor_positional_args = True
        _keras.call_as(self, layer)
        self._frozen_weights: list[Any] = []
        if layer.built:
            self._take_weights()

    def _take_weights(self) -> None:
        self._frozen_weights = [_keras.view(weight) for weight in self.layer.weights]

    @property
    def keras_graft_inside(self) -> Any:
        """The layer that stands here, for whoever looks for ties."""
        return self.layer

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Call the layer inside, with whatever it takes but the training flag."""
        layer = self.layer
        kwargs.pop("training", None)
        if _keras.takes_training(layer):
            kwargs["training"] = False
        if not layer.built:
            return layer(*args, **kwargs)
        # Gradients pass through the layer, none is kept for its weights.
        values = [(v.source, keras.ops.stop_gradient(v.value)) for v in self._frozen_weights]
        with keras.StatelessScope(values), _keras.own_call_context():
            return layer(*args, **kwargs)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        """Return what the layer inside says; one that is not built is built."""
        kwargs.pop("training", None)
        if not self.layer.built:
            self.layer(*args, **kwargs)
            self._take_weights()
        return self.layer.compute_output_spec(*args, **kwargs)

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        """Return the mask that the layer inside makes."""
        if not self.layer.supports_masking:
            return None
        return self.layer.compute_mask(inputs, previous_mask)

    def get_config(self) -> dict[str, Any]:
        """Return the layer inside, serialized."""
        config = super().get_config()
        config.pop("trainable")
        config.pop("dtype", None)
        return {**config, "layer": keras.saving.serialize_keras_object(self.layer)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Frozen:
        """Make it again around a new layer of the same configuration."""
        layer = keras.saving.deserialize_keras_object(config.pop("layer"))
        return cls(layer, **config)

    def get_build_config(self) -> dict[str, Any] | None:
        """Return what builds the layer inside."""
        return {"layer": self.layer.get_build_config()}

    def build_from_config(self, config: dict[str, Any]) -> None:
        """Build the layer inside, as Keras does when it loads a file."""
        if config.get("layer") and not self.layer.built:
            self.layer.build_from_config(config["layer"])
            self.layer.built = True
        if self.layer.built:
            self._take_weights()

    def save_own_variables(self, store: Any) -> None:
        """Save nothing here: the layer inside saves its weights."""

    def load_own_variables(self, store: Any) -> None:
        """Load nothing here: the layer inside loads its weights."""
