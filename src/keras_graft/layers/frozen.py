"""`Frozen`: a layer that always runs in inference mode, also during `fit`."""

from __future__ import annotations

from typing import Any

import keras

from keras_graft import _keras


@keras.saving.register_keras_serializable("keras_graft")
class Frozen(keras.Layer):
    """Calls a layer in inference mode, even if the model around it is training.

    Keras has no such mode: see `kg.freeze`. The layer inside is always called with
    `training=False`: dropout and noise do nothing, moving averages do not change, its own losses
    are not counted. The weights have the values of the layer inside, and are never trained here.
    That layer keeps its flags, and another model may train it.

    Run `import keras_graft` before you load a file that has one.

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
        # Keras must not track it: only the views below count as weights.
        self.__dict__["layer"] = layer
        self.supports_masking = _keras.reads_masks(layer)
        self._convert_input_args = False  # only the layer inside may cast its inputs
        self._allow_non_tensor_positional_args = True
        _keras.call_as(self, layer)
        self._frozen_weights: list[Any] = []
        if layer.built:
            self._take_weights()

    def _take_weights(self) -> None:
        self._frozen_weights = [_keras.view(weight) for weight in self.layer.weights]
        # Before its first batch, Keras runs a model with an unbuilt layer once outside of the
        # compiled function. On JAX that compiles each operation of the network alone.
        self.built = True

    @property
    def keras_graft_inside(self) -> Any:
        """The layer inside, for code that looks for ties."""
        return self.layer

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Call the layer inside with these arguments, except the training flag."""
        layer = self.layer
        kwargs.pop("training", None)
        if _keras.takes_training(layer):
            kwargs["training"] = False
        if not layer.built:
            return layer(*args, **kwargs)
        # Gradients pass through the layer, but do not reach its weights. These may be views
        # themselves: those of a layer that `kg.lora` has frozen.
        values = []
        for view in self._frozen_weights:
            value = keras.ops.stop_gradient(view.value)
            values += [(view.source, value), (view, value)]
        with keras.StatelessScope(values), _keras.own_call_context():
            return layer(*args, **kwargs)

    def compute_output_spec(self, *args: Any, **kwargs: Any) -> Any:
        """Return the spec that the layer inside computes; build that layer if it is not built."""
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
        """Return the configuration, with the layer inside serialized."""
        config = super().get_config()
        config.pop("trainable")
        config.pop("dtype", None)
        return {**config, "layer": keras.saving.serialize_keras_object(self.layer)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Frozen:
        """Make one around a new layer with the configuration of the layer inside."""
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
        if self.layer.built:
            self._take_weights()

    def save_own_variables(self, store: Any) -> None:
        """Save nothing here: the layer inside saves its weights."""

    def load_own_variables(self, store: Any) -> None:
        """Load nothing here: the layer inside loads its weights."""
