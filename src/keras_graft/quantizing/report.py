"""`list_quantized`: which layers are quantized, their bytes, and what it changed."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from keras_graft import _keras
from keras_graft.errors import EditError
from keras_graft.graph.graph import Graph
from keras_graft.inside.inputs import as_tensors, checked
from keras_graft.inside.running import run_once
from keras_graft.model.build import build
from keras_graft.model.read import read
from keras_graft.model.verb import question
from keras_graft.quantizing.candidates import Candidate, candidates
from keras_graft.quantizing.error import Difference, as_floats, difference, tree, weight_error
from keras_graft.tables import Table, Tabular, counted


@dataclass(frozen=True)
class QuantizedRow:
    """One layer with a matrix.

    Attributes:
        weight: The address of the matrix: `"block_0/up/kernel"`.
        kind: The class of the layer.
        mode: How it is quantized; None if it is not.
        bytes_before: The bytes of the layer's weights in the donor; None without a donor.
        bytes: The bytes of the layer's weights.
        error: How far the matrix that the layer applies is from that of the donor.
        why_not: Why Keras cannot quantize it (to int8); None if it can, or if it is quantized.
    """

    weight: str
    kind: str
    mode: str | None
    bytes_before: int | None
    bytes: int
    error: Difference | None
    why_not: str | None


@dataclass(frozen=True, repr=False)
class Quantized(Tabular):
    """Which layers of a model are quantized.

    Attributes:
        model: The name of the model.
        rows: One for each layer with a matrix.
        bytes_before: The bytes of all weights of the donor; None without a donor.
        bytes: The bytes of all weights.
        outputs: For each output, its name and how far it is from the donor's; with data only.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((64,), name="x")
    >>> model = keras.Model(x, keras.layers.Dense(32, name="d")(x), name="tiny")
    >>> report = kg.list_quantized(kg.quantize(model, "d"), model)
    >>> report.bytes_before, report.bytes, report.rows[0].mode
    (8320, 2304, 'int8')
    """

    model: str
    rows: tuple[QuantizedRow, ...]
    bytes_before: int | None
    bytes: int
    outputs: tuple[tuple[str, Difference], ...] = ()

    def tables(self) -> list[Table]:
        """Return the tables: the layers; with data, the outputs."""
        done = sum(row.mode is not None for row in self.rows)
        sizes = f"{self.bytes:,} bytes"
        if self.bytes_before:
            share = 100 * self.bytes / self.bytes_before
            sizes = f"{self.bytes_before:,} -> {self.bytes:,} bytes ({share:.0f}%)"
        title = f"{self.model}: {done} of {counted(len(self.rows), 'layer')} quantized, {sizes}"
        rows = [
            (
                row.weight, row.kind, row.mode or "-",
                "" if row.bytes_before is None else f"{row.bytes_before:,}", f"{row.bytes:,}",
                *_numbers(row.error), row.why_not or "",
            )
            for row in self.rows
        ]  # fmt: skip
        head = ("weight", "class", "mode", "before", "bytes", "largest", "mean", "of", "not")
        empty = [n for n in range(len(head)) if n > 2 and not any(row[n] for row in rows)]
        keep = [n for n in range(len(head)) if n not in empty]
        pick = lambda row: tuple(row[n] for n in keep)  # noqa: E731
        found: list[Table] = [(title, pick(head), [pick(row) for row in rows])]
        if self.outputs:
            found.append((
                "outputs, compared with the donor's", ("output", "largest", "mean", "of"),
                [(name, *_numbers(apart)) for name, apart in self.outputs],
            ))  # fmt: skip
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return the same as data."""
        rows = [
            {**vars(row), "error": None if row.error is None else vars(row.error)}
            for row in self.rows
        ]
        return {**vars(self), "rows": rows, "outputs": {n: vars(d) for n, d in self.outputs}}


def _numbers(apart: Difference | None) -> tuple[str, str, str]:
    if apart is None:
        return "", "", ""
    return f"{apart.largest:.2g}", f"{apart.mean:.2g}", f"{apart.scale:.3g}"


@question
def list_quantized(graph: Graph, donor: Any = None, data: Any = None) -> Quantized:
    """Return which layers are quantized, their bytes, and how far they are from those of a donor.

    The error of a weight is that of the matrix that the layer applies: it is called with the rows
    of an identity matrix, without its bias and activation.

    Args:
        model: A Keras model or a `Graph`.
        donor: The model before `kg.quantize`: for sizes before, and for errors.
        data: Samples as `model.predict` takes them: for the errors of outputs.

    Raises:
        EditError: If data is given without a donor, or the donor gives other outputs.
        RunError: If the data is not what the model takes.

    >>> import keras, keras_graft as kg
    >>> x = keras.Input((4,), name="x")
    >>> y = keras.layers.Conv1D(2, 1, name="c")(keras.layers.Reshape((4, 1))(x))
    >>> print(kg.list_quantized(keras.Model(x, y, name="tiny")))
    tiny: 0 of 1 layer quantized, 16 bytes
    weight    class   mode  bytes  not
    c/kernel  Conv1D  -        16  Keras has no quantized Conv1D
    """
    before = None if donor is None else read(donor)
    if data is not None and before is None:
        raise EditError(
            "list_quantized: data= compares outputs with those of donor=: give the model before "
            "kg.quantize too."
        )
    old = {} if before is None else _by_address(before)
    found = candidates(graph, "int8")
    rows = tuple(_row(one, old.get(one.address)) for one in found)
    outputs = () if before is None or data is None else _outputs(graph, before, data)
    whole = None if before is None else _bytes_of(before)
    return Quantized(graph.name, rows, whole, _bytes_of(graph), outputs)


def _by_address(graph: Graph) -> dict[str, Candidate]:
    return {one.address: one for one in candidates(graph, "int8")}


def _row(one: Candidate, old: Candidate | None) -> QuantizedRow:
    layer, mode = one.layer, getattr(one.layer, "quantization_mode", None)
    before = None if old is None else old.layer
    error = None
    if mode is not None and before is not None and type(before) is type(layer):
        error = weight_error(before, layer)
    own = _keras.own_weights(layer)
    names = [v.name for v in own if len(v.shape) > 1] + [v.name for v in own]
    matrix = next((name for name in names if name in ("kernel", "embeddings")), names[0])
    return QuantizedRow(
        f"{one.address}/{matrix}", type(layer).__name__, mode,
        None if before is None else sum(map(_bytes, _keras.own_weights(before))),
        sum(map(_bytes, own)), error, None if mode else one.why_not,
    )  # fmt: skip


def _bytes(variable: Any) -> int:
    return math.prod(variable.shape) * int(_SIZES.get(variable.dtype, 4))


_SIZES = {
    "float64": 8, "int64": 8, "uint64": 8, "float16": 2, "bfloat16": 2, "int16": 2, "uint16": 2,
    "int8": 1, "uint8": 1, "bool": 1, "float8_e4m3fn": 1, "float8_e5m2": 1,
}  # fmt: skip


def _bytes_of(graph: Graph) -> int:
    return sum(_bytes(v) for v in build(graph).weights)


def _outputs(graph: Graph, before: Graph, data: Any) -> tuple[tuple[str, Difference], ...]:
    new, old = build(graph), build(before)
    x = as_tensors(checked(new, graph, data, "list_quantized"))
    after, first = (tree.flatten(run_once(model, x)) for model in (new, old))
    if [tuple(a.shape) for a in after] != [tuple(b.shape) for b in first]:
        raise EditError(
            f"list_quantized: {graph.name!r} and donor {before.name!r} give outputs of different shapes."
        )
    names = [name or f"output_{n}" for n, name in enumerate(v.name for v in graph.outputs)]
    return tuple(
        (name, difference(iter([(as_floats(b), as_floats(a))])))
        for name, a, b in zip(names, after, first, strict=True)
    )
