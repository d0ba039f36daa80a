"""`TiedDense`: a dense layer that uses the matrix of another layer, such as an embedding."""

from __future__ import annotations

from typing import Any

import keras

from keras_graft import _keras
from keras_graft import ties as _ties
from keras_graft.errors import WeightsError
from keras_graft.graph.record import record_of, remember


def _may_be_meant(variable: Any) -> bool:
    return len(variable.shape) == 2 and not _keras.is_adapter(variable)


@keras.saving.register_keras_serializable("keras_graft")
class TiedDense(_ties.TiedLayer, keras.layers.Dense):
    """A `Dense` whose kernel is the matrix of another layer, transposed: one variable, two uses.

    For the output layer of a language model that uses the matrix of its embedding. This is the
    `EmbeddingDense` of "Keras: tricks for reusing layers and models" (2019); files, clones and
    edits keep the tie. LoRA adapters of the other layer apply here too. For a model that already
    exists, use `kg.tie`.

    Input shape `(..., n)`, output shape `(..., m)`, for a matrix of shape `(m, n)`.

    Args:
        source_layer: The layer with the matrix: an `Embedding`, a `Dense`, a `ReversibleEmbedding`.
            It must be built before this one is called.
        weight: The name of the matrix in that layer; None if it has only one.
        activation: As for `Dense`.
        use_bias: As for `Dense`. The bias is the layer's own.
        kwargs: As for `Dense`.

    Raises:
        WeightsError: When it is called, if the source is not built, is quantized, or has no such
            weight; if the matrix does not fit the input.

    >>> import keras, keras_graft as kg
    >>> embedding = keras.layers.Embedding(9, 4)
    >>> ids = keras.Input((5,), dtype="int32")
    >>> model = keras.Model(ids, kg.layers.TiedDense(embedding, use_bias=False)(embedding(ids)))
    >>> model.count_params(), model.output_shape
    (36, (None, 5, 9))
    """

    graft_base = keras.layers.Dense
    graft_own = ("source_layer", "weight")

    def __init__(
        self,
        source_layer: Any,
        weight: str | None = None,
        activation: Any = None,
        use_bias: bool = True,
        **kwargs: Any,
    ) -> None:
        if not isinstance(source_layer, keras.Layer):
            raise WeightsError(
                f"TiedDense: source_layer must be a layer, got {type(source_layer).__name__}. For "
                'a weight of an existing model: kg.tie(model, "head/kernel", ...).'
            )
        super().__init__(1, activation=activation, use_bias=use_bias, **kwargs)
        # Keras must not track it: only the matrix counts as this layer's, and only once.
        self.__dict__["source_layer"] = source_layer
        self.weight = weight

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the layer. If it was made from a configuration, first find its source upstream.

        Keras makes the layers of a model from their configurations one by one. In `clone_model`, or
        if the source is in a different nested model, this layer got a source of its own with it.
        """
        file = record_of(self).file
        if file is not None and not any(tie.get("apart") for tie in file):
            given = [
                x for x in keras.tree.flatten((args, kwargs)) if isinstance(x, keras.KerasTensor)
            ]
            self._look_behind(given)
        return super().__call__(*args, **kwargs)

    def _look_behind(self, tensors: list[Any]) -> None:
        old = self.source_layer
        for layer in _ties.layers_behind(tensors):
            if layer is old:
                return
            if layer.name == old.name and type(layer) is type(old) and layer.built:
                break
        else:
            return
        self.source_found(layer)
        for tie in _ties.ties_of(self) if self.built else []:
            weight = _ties.named_weights(layer).get(tie.source_weight)
            if weight is not None and tuple(weight.shape) == tuple(tie.source.shape):
                tie.tentative = False
                _ties.carry_out(self, tie, weight, _ties.owner_of(layer, weight))

    def build(self, input_shape: Any) -> None:
        """Tie the kernel to the matrix of the source, and create the bias."""
        file = record_of(self).file
        if file is not None and getattr(self.source_layer, "quantization_mode", None) is not None:
            # The source was quantized after the tie: the file holds the float matrix here.
            return super().build(input_shape)
        name, source = self._matrix()
        units, size = source.shape
        if input_shape[-1] != size:
            raise WeightsError(
                f"TiedDense {self.name!r}: {self.source_layer.name + '/' + name!r} has shape "
                f"{tuple(source.shape)}, so it takes inputs of {size} features, got "
                f"{input_shape[-1]}."
            )
        self.units = units
        own, self.kernel_initializer = self.kernel_initializer, keras.initializers.Zeros()
        super().build(input_shape)
        self.kernel_initializer = own
        tie = _ties.Tie("kernel", "transpose", self.name, self.source_layer.name, name)
        if file:
            tie = _ties.Tie(**file[0], tentative=True)
        _ties.carry_out(self, tie, source, _ties.owner_of(self.source_layer, source))

    def source_found(self, layer: Any) -> None:
        """Use the source layer of the model around this one, not the one loaded with this one."""
        self.__dict__["source_layer"] = layer

    def saved_elsewhere(self, store: Any) -> bool:
        """Whether the matrix is saved with the source layer, wherever Keras saves that first."""
        owned = {id(w) for w in self.source_layer.weights}
        return all(id(tie.source) in owned for tie in _ties.ties_of(self))

    def _matrix(self) -> tuple[str, Any]:
        layer = self.source_layer
        if not layer.built:
            raise WeightsError(
                f"TiedDense {self.name!r}: its source {layer.name!r} is not built, so it has no "
                "weights yet. Call it first, or build it."
            )
        if getattr(layer, "quantization_mode", None) is not None:
            raise WeightsError(
                f"TiedDense {self.name!r}: its source {layer.name!r} is quantized "
                f"({layer.quantization_mode}): its numbers mean nothing without its scales."
            )
        named = _ties.named_weights(layer)
        found = {
            name: variable
            for name, variable in named.items()
            if (_may_be_meant(variable) if self.weight is None else name == self.weight)
        }
        if len(found) != 1:
            shapes = ", ".join(f"{name} {tuple(v.shape)}" for name, v in named.items())
            raise WeightsError(
                f"TiedDense {self.name!r}: {layer.name!r} has {len(found)} "
                f"{'matrices' if self.weight is None else f'weights named {self.weight!r}'}, but "
                f"one is needed. It has: {shapes}. Name one with weight=."
            )
        return next(iter(found.items()))

    def get_config(self) -> dict[str, Any]:
        """Return the configuration, with the source layer serialized."""
        config = super(_ties.TiedLayer, self).get_config()
        for name in ("kernel_initializer", "kernel_regularizer", "kernel_constraint"):
            config.pop(name)
        source = keras.saving.serialize_keras_object(self.source_layer)
        ties = [tie.to_config() for tie in _ties.all_ties(self)]
        return {**config, "source_layer": source, "weight": self.weight, "ties": ties}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> TiedDense:
        """Make the layer; its source is the one object that the file has for that layer."""
        config = dict(config)
        ties = config.pop("ties", [])
        config.pop("quantization_config", None)
        units = config.pop("units", 1)
        source = keras.saving.deserialize_keras_object(config.pop("source_layer"))
        layer = cls(source, **config)
        layer.units = units
        remember(layer, file=ties)
        return layer
