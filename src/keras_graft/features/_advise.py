"""Where to cut a model: the size of a store at each place, and the compute that it saves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import keras

from keras_graft import _keras
from keras_graft.errors import FeatureError, ReadError
from keras_graft.features.data import count
from keras_graft.features.sources.given import opened
from keras_graft.graph.node import Node
from keras_graft.graph.walk import needed
from keras_graft.layers.frozen import Frozen
from keras_graft.look.cuts import Cut, cuts
from keras_graft.model.read import read
from keras_graft.tables import Table, Tabular

_WIDER = {"float32": 2, "float64": 4}
"""How many times longer than float16."""
_AT_EACH_INPUT = (
    keras.layers.RNN, keras.layers.Bidirectional, keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose, keras.layers.Conv3DTranspose,
)  # fmt: skip
"""These multiply once for each place of their input; the rest, of their output."""


@dataclass(frozen=True)
class Advice(Tabular):
    """What each cut of a model would cost and save; prints as a table.

    Attributes:
        samples: For how many samples.
        rows: For each cut: the cut, bytes per sample in float16, bytes in all, and the share of
            the multiplications that lies below it. A store does that share only once.
    """

    samples: int
    rows: tuple[tuple[Cut, int | None, int | None, float], ...]

    def tables(self) -> list[Table]:
        """Return the cuts as a table, one per line."""
        head = ("cut", "output", "bytes/sample", "bytes in all", "compute saved")
        return [(f"{self.samples:,} samples, kept as float16", head, [
            (cut.name, cut.value.spec, each, total, f"{share:.1%}")
            for cut, each, total, share in self.rows
        ])]  # fmt: skip


def advise(model: Any, data: Any) -> Advice:
    """Say for each cut of a model how large a store of its features is, and what it saves.

    The share of compute is an estimate. It counts multiplications with weights: of convolutions
    and dense layers at all places of their outputs, of recurrent layers at all steps. Embeddings
    are looked up and count nothing. A size that the model leaves open counts as one.

    Args:
        model: A Keras model or a `Graph`.
        data: How many samples, or the data itself, as `kg.features.compute` takes it.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((8,), name="x")
    >>> h = keras.layers.Dense(4, name="h")(x)
    >>> print(kg.features.advise(keras.Model(x, keras.layers.Dense(8, name="out")(h)), 1000))
    1,000 samples, kept as float16
    cut  output          bytes/sample  bytes in all  compute saved
    h    (?, 4) float32             8         8,000  50.0%
    """
    samples = int(data) if isinstance(data, Integral) else count(opened(data, model))
    if samples is not None and samples < 1:
        raise FeatureError(f"There are {samples} samples: give a number of 1 or more, or data.")
    if samples is None:
        raise FeatureError(
            "The data does not say how many samples it has: give their number, "
            "kg.features.advise(model, 50_000)."
        )
    graph = read(model)
    work = {node.key: _work(node) for node in needed(graph, graph.outputs)}
    whole = sum(work.values()) or 1
    rows = []
    below, before = 0, graph.inputs
    for cut in cuts(graph):
        # Each cut separates the next one from the inputs.
        below += sum(work[n.key] for n in needed(graph, (cut.value,), before))
        before = (cut.value,)
        spec = cut.value.spec
        each = cut.bytes_per_sample
        if each is not None and spec is not None:
            each //= _WIDER.get(spec.dtype, 1)
        rows.append((cut, each, None if each is None else each * samples, below / whole))
    return Advice(samples, tuple(rows))


def _work(node: Node) -> int:
    """Estimate the multiplications with weights that one sample takes at this call."""
    if node.nested is not None:
        return sum(map(_work, node.nested.steps))
    layer: Any = node.operation
    if isinstance(layer, Frozen):
        layer = layer.layer
    if isinstance(layer, keras.layers.TimeDistributed) and isinstance(layer.layer, keras.Model):
        spec = node.inputs[0].spec
        return (spec.shape[1] or 1 if spec else 1) * _inside(layer.layer, 1, False)
    looks_up = not node.template.kwargs.get(
        "reverse", False
    )  # keras_hub's embeddings multiply then
    return _inside(layer, _places(layer, node), looks_up)


def _places(layer: Any, node: Node) -> int:
    """Return at how many places a call multiplies with each weight."""
    at_inputs = isinstance(layer, _AT_EACH_INPUT) and node.inputs
    spec = node.inputs[0].spec if at_inputs else node.outputs[0].spec
    if spec is None:
        return 1
    lengths = spec.shape[1:-1]
    if getattr(layer, "data_format", None) == "channels_first":
        lengths = spec.shape[2:]
    if isinstance(layer, keras.layers.EinsumDense):
        # Its output's axes are in its input or kernel, and the input knows their lengths.
        left, kernel = layer.equation.replace(" ", "").split("->")[0].split(",")
        spec = node.inputs[0].spec or spec
        letters = left.replace("...", "." * (len(spec.shape) - len(left.replace("...", ""))))
        pairs = [*zip(letters, spec.shape, strict=True)][1:]
        lengths = [length for letter, length in pairs if letter not in kernel]
    return math.prod(length for length in lengths if length)


def _inside(layer: Any, places: int, looks_up: bool) -> int:
    """Return the multiplications with the weights of a layer and of the layers in it.

    Args:
        layer: The layer.
        places: How many times each weight counts.
        looks_up: Whether embeddings are looked up, and so multiply nothing.
    """
    if isinstance(layer, keras.Model):
        try:
            return sum(map(_work, read(layer).steps))
        except ReadError:  # a model with its own `call`
            pass
    parts = _keras.sublayers(layer)
    inner = {id(weight) for part in parts for weight in part.weights}
    added = ("bias", "embeddings") if looks_up else ("bias",)
    own = [
        w for w in getattr(layer, "weights", ())
        if id(w) not in inner and len(w.shape) >= 2 and not w.path.endswith(added)
    ]  # fmt: skip
    total = sum(math.prod(w.shape) * places for w in own)
    return total + sum(_inside(part, places, looks_up) for part in parts)
