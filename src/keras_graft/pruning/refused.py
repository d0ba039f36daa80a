"""What cannot be made smaller, and what to do first."""

from __future__ import annotations

import keras

from keras_graft import _keras, advice
from keras_graft.errors import EditError
from keras_graft.graph.record import record_of
from keras_graft.pruning.call import Call


def check_changeable(call: Call, verb: str) -> None:
    """Refuse a layer whose numbers are not its weights alone."""
    for layer in _keras.layers_inside(call.layer) if isinstance(call.layer, keras.Layer) else ():
        path = call.node.path
        if getattr(layer, "quantization_mode", None) is not None:
            raise EditError(
                f"{verb}: {path!r} is quantized ({layer.quantization_mode}). {verb.capitalize()} the model in "
                "floats, then quantize the result: "
                f"kg.quantize(kg.{verb}(model, ...), {path!r}, {layer.quantization_mode!r})."
            )
        state = record_of(layer).adapted
        if getattr(layer, "lora_enabled", False) or (state is not None and state.adapters):
            raise EditError(
                f"{verb}: {path!r} has LoRA adapters. Merge them first: "
                f"{advice.call('merge_adapters')}."
            )
