"""GPTQ and AWQ: layers quantized with what they are called with, block by block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_graft import _keras, advice
from keras_graft.adapters.state import path_of
from keras_graft.errors import EditError, KerasVersionError, SelectionError
from keras_graft.graph.graph import Graph
from keras_graft.graph.select_nodes import select_nodes
from keras_graft.inside.inputs import as_tensors, checked
from keras_graft.inside.running import run_once
from keras_graft.look.blocks import blocks as named_blocks
from keras_graft.look.wiring import Wiring
from keras_graft.model.build import build
from keras_graft.printable import printable, shown
from keras_graft.quantizing.candidates import CALIBRATED, Candidate

tree = keras.tree

_CONFIGS = {
    "int8": "Int8QuantizationConfig",
    "int4": "Int4QuantizationConfig",
    "float8": "Float8QuantizationConfig",
    "gptq": "GPTQConfig",
    "awq": "AWQConfig",
}


def configured(mode: str, config: Any) -> Any:
    """Return the configuration to quantize with, without its data; refuse one of another mode."""
    cls: Any = getattr(keras.quantizers, _CONFIGS[mode], None)
    absent = cls is None
    if absent and (config is not None or mode in CALIBRATED):
        raise KerasVersionError(
            f"quantize: Keras {keras.__version__} has no keras.quantizers.{_CONFIGS[mode]}. Install a "
            "newer one"
            + (
                "."
                if mode in CALIBRATED
                else f", or leave out config= for the defaults of {mode!r}."
            )
        )
    if config is None:
        # Before 3.14, Keras can only divide matrices whose rows are a multiple of the group size.
        whole = {"group_size": -1} if _keras.VERSION < (3, 14) else {}
        return cls(dataset=None, tokenizer=None, **whole) if mode in CALIBRATED else None
    if not isinstance(config, cls):
        raise EditError(
            f"quantize: config must be a keras.quantizers.{_CONFIGS[mode]} for mode={mode!r}, got "
            f"{shown(config)}."
        )
    if mode not in CALIBRATED:
        return config
    plain = {**config.get_config(), "dataset": None, "tokenizer": None}
    plain.pop("quantization_layer_structure", None)  # it holds layers of the donor
    return cls(**plain)


def samples(graph: Graph, mode: str, config: Any, data: Any, batch_size: Any) -> Any:
    """Return the data to calibrate with, as the model takes it; None in modes that need none."""
    if mode not in CALIBRATED:
        if data is not None:
            compare = advice.call(
                "list_quantized", ("donor", advice.As("model")), data=advice.As("x"), model="result"
            )
            raise EditError(
                f'quantize: data= is for mode="gptq" and mode="awq"; {mode!r} looks at the weights '
                f"alone. For the errors on data: {compare}."
            )
        return None
    if (
        isinstance(batch_size, bool)
        or not isinstance(batch_size, int | np.integer)
        or batch_size < 1
    ):
        raise EditError(
            f"quantize: batch_size must be a positive integer, got {shown(batch_size)}."
        )
    if data is None:
        if getattr(config, "dataset", None) is None or config.tokenizer is None:
            raise EditError(
                f"quantize: {mode!r} needs data to calibrate with: {advice.option('data', advice.As('x'))}, "
                "as for model.predict."
            )
        if len(graph.inputs) != 1:
            raise EditError(
                f"quantize: {graph.name!r} has {len(graph.inputs)} inputs, and the dataset of config= "
                f"gives one. Give what model.predict takes: {advice.option('data', advice.As('x'))}."
            )
        data = _keras.tokens(config)
    return checked(build(graph), graph, data, "quantize")


def _batches(data: Any, size: int) -> Iterator[Any]:
    count = next(len(leaf) for leaf in tree.flatten(data) if leaf is not None)
    for start in range(0, count, size):
        yield as_tensors(
            tree.map_structure(
                lambda leaf, start=start: None if leaf is None else leaf[start : start + size], data
            )
        )


def groups(graph: Graph, found: Sequence[Candidate], blocks: Any) -> list[list[Candidate]]:
    """Return the layers that are calibrated together, in the order of their first calls.

    Args:
        graph: The graph.
        found: The layers.
        blocks: A selector of blocks; None: those that names with numbers show.
    """
    if blocks is None:
        wiring = Wiring(graph)
        paths = [{path_of(wiring.nodes[p]) for p in places} for places in named_blocks(wiring)]
    else:
        try:
            paths = [{path_of(node)} for node in select_nodes(graph, blocks)]
        except SelectionError as error:
            raise type(error)(f"quantize: blocks={shown(blocks)}: {printable(error)}") from None
    made: dict[Any, list[Candidate]] = {}
    for one in found:
        parts = one.address.split("/")
        above = {"/".join(parts[:count]) for count in range(1, len(parts) + 1)}
        number = next((n for n, block in enumerate(paths) if block & above), None)
        made.setdefault(one.address if number is None else number, []).append(one)
    return list(made.values())


def calibrate(
    model: Any, layers: Sequence[Any], names: Sequence[str], mode: str, config: Any, data: Any,
    batch_size: int,
) -> None:  # fmt: skip
    """Quantize some layers of a model with what they are called with.

    Args:
        model: The model, whose layers before these are quantized already.
        layers: Layers that no other model uses.
        names: Their addresses, for messages.
        mode: `"gptq"` or `"awq"`.
        config: The configuration.
        data: What the model takes.
        batch_size: How many samples run at once.
    """
    work = {id(layer): _keras.quantizer_class(mode)(layer, config) for layer in layers}

    def see(layer: Any, given: Any) -> None:
        one = work[id(layer)]
        rows = keras.ops.reshape(given, (-1, int(one.rows)))
        one.update_hessian_with_batch(rows) if mode == "gptq" else one.update_activation_magnitudes(
            rows
        )

    with _keras.inputs_seen(layers, see):
        for batch in _batches(data, batch_size):
            run_once(model, batch)
    for layer, name in zip(layers, names, strict=True):
        one = work[id(layer)]
        if not one.num_samples:
            raise EditError(
                f"quantize: {name!r} was not called when {model.name!r} ran on the data."
            )
        _keras.quantize_layer(layer, mode, config)
        one.quantize_and_correct_layer() if mode == "gptq" else one.quantize_layer()
        one.free()
        _keras.save_all_weights(layer)
