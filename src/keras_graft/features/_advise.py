"""Where to cut a model: the size of a store at each place, and the compute that it saves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Integral
from typing import Any, NamedTuple

import keras

from keras_graft import _keras
from keras_graft.errors import FeatureError, ReadError
from keras_graft.features.data import count
from keras_graft.features.sources.given import opened
from keras_graft.graph.node import Node
from keras_graft.graph.walk import needed
from keras_graft.layers.frozen import Frozen
from keras_graft.look.cuts import MOST, Cut, Cuts, cuts, in_order, printed, smallest
from keras_graft.look.sizes import sized
from keras_graft.model.read import read
from keras_graft.tables import Table, Tabular, counted

_AT_EACH_INPUT = (
    keras.layers.RNN, keras.layers.Bidirectional, keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose, keras.layers.Conv3DTranspose,
)  # fmt: skip
"""These multiply once for each place of their input; the rest, of their output."""


class Place(NamedTuple):
    """One place to cut.

    Attributes:
        cut: The cut, as in `kg.cuts`; itself a selector.
        bytes_per_sample: The size of one sample; None where a length is unknown.
        bytes_in_all: The size of a store of all samples; None where a length is unknown.
        compute_saved: The share of the multiplications that lies below. A store does it once.
    """

    cut: Cut
    bytes_per_sample: int | None
    bytes_in_all: int | None
    compute_saved: float


@dataclass(frozen=True, repr=False)
class Advice(Tabular):
    """What each cut of a model would cost and save; prints as a table of the smallest.

    Attributes:
        samples: For how many samples.
        rows: For each cut: the cut, bytes per sample, bytes in all, and the share of the
            multiplications that lies below it. A store does that share only once.
        dtype: What floating features are kept as; None: the dtype that they have.
        most: How many are printed; None: all.
    """

    samples: int
    rows: tuple[Place, ...]
    dtype: str | None = None
    most: int | None = MOST

    def tables(self) -> list[Table]:
        """Return the smallest cuts as a table, one per line."""
        head = ("cut", "output", "bytes/sample", "bytes in all", "compute saved")
        cuts, told = smallest([row.cut for row in self.rows], self.most)
        kept = "" if self.dtype is None else f", kept as {self.dtype}"
        title = tuple(filter(None, (counted(self.samples, "sample") + kept, told)))
        names = {cut.name for cut in cuts}
        return [(title, head, [
            (cut.name, cut.spec or "?", str(cut.size), cut.size.times(self.samples), f"{share:.1%}")
            for cut, _, _, share in self.rows if cut.name in names
        ])]  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        """Return all cuts as plain data, ready for JSON."""
        return {
            "samples": self.samples,
            "dtype": self.dtype,
            "cuts": [
                data | {"bytes_in_all": row.bytes_in_all, "compute_saved": row.compute_saved}
                for data, row in zip(
                    Cuts(row.cut for row in self.rows).to_dict(), self.rows, strict=True
                )
            ],
        }


def advise(
    model: Any,
    data: Any,
    *,
    sort: str = "graph",
    most: int | None = MOST,
    input_shape: Any = None,
    dtype: str | None = None,
) -> Advice:
    """Say for each cut of a model how large a store of its features is, and what it saves.

    The share of compute is an estimate. It counts multiplications with weights: of convolutions
    and dense layers at all places of their outputs, of recurrent layers at all steps. Embeddings
    are looked up and count nothing. A length that the model leaves open counts as one, unless
    `input_shape` says it.

    Args:
        model: A Keras model or a `Graph`.
        data: How many samples, or the data itself, as `kg.features.compute` takes it.
        sort: "graph": in the order of the graph. "bytes": the smallest store first.
        most: How many to print: those with the smallest tensor. None: all.
        input_shape: The shape of one sample, for a model that leaves lengths open, as for
            `kg.cuts`.
        dtype: What floating features are kept as, as for `kg.features.compute`; None: the dtype
            that they have.

    Raises:
        FeatureError: If the number of samples is not known, or not 1 or more.
        SelectionError: If another argument is none of these.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((8,), name="x")
    >>> h = keras.layers.Dense(4, name="h")(x)
    >>> print(kg.features.advise(keras.Model(x, keras.layers.Dense(8, name="out")(h)), 1000))
    1,000 samples
    cut  output          bytes/sample  bytes in all  compute saved
    h    (?, 4) float32          16 B         16 kB  50.0%
    """
    samples = int(data) if isinstance(data, Integral) else count(opened(data, model))
    if samples is not None and samples < 1:
        raise FeatureError(f"There are {samples} samples: give a number of 1 or more, or data.")
    if samples is None:
        raise FeatureError(
            "The data does not say how many samples it has: give their number, "
            "kg.features.advise(model, 50_000)."
        )
    most = printed(most, "advise")
    graph = sized(read(model), input_shape, "advise")
    work = {node.key: _work(node) for node in needed(graph, graph.outputs)}
    whole = sum(work.values()) or 1
    rows = []
    below, before = 0, graph.inputs
    for cut in cuts(graph, dtype=dtype):
        # Each cut separates the next one from the inputs.
        below += sum(work[n.key] for n in needed(graph, (cut.value,), before))
        before = (cut.value,)
        each = cut.bytes_per_sample
        rows.append(Place(cut, each, None if each is None else each * samples, below / whole))
    ordered = in_order(rows, sort, lambda row: row.cut.size, "advise")
    return Advice(samples, tuple(ordered), dtype, most)


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
